"""Supervised fine-tuning and Diffusion-DPO on given pairs: the baselines, on the same machinery."""

from pathlib import Path
from typing import Any

from shared_core.logging import MetricsLog
from torch import nn

from spin_diffusion.batches import Source
from spin_diffusion.config import SPINConfig
from spin_diffusion.denoiser import disable_dropout
from spin_diffusion.losses import LINK_AT_ZERO
from spin_diffusion.objectives import dpo_objective, sft_objective
from spin_diffusion.optimization import Step, pairs_or_items, train
from spin_diffusion.processes import make_accelerator
from spin_diffusion.references import make_reference
from spin_diffusion.schedules import schedule_of, step_weights
from spin_diffusion.training_set import Rows, TrainingSet
from spin_diffusion.training_state import saved_step


def fine_tune(
    net: nn.Module,
    scheduler: Any,
    data: TrainingSet,
    config: SPINConfig,
    *,
    stage: int = 0,
    out: Path | None = None,
    accelerator: Any = None,
) -> list[dict[str, float]]:
    """Denoising score matching on real samples (paper: L_DSM), in place.

    Args:
        net: with `requires_grad` on what is to be trained.
        scheduler: diffusers', for its noise schedule and prediction type.
        data: the samples.
        config: optimisation, caption dropout, weighting and seed are used.
        stage: which of the listed rates and steps; further stages meet other noise.
        out: folder for metrics and the state that a killed training goes on from.
        accelerator: accelerate's; made by default.

    Returns:
        Metrics of every update of this call.

    Raises:
        RunError: if the loss is not finite.
    """
    return _stage(net, scheduler, data, config, stage, out, accelerator, None)


def prefer(
    net: nn.Module,
    scheduler: Any,
    winners: TrainingSet,
    losers: Rows,
    config: SPINConfig,
    *,
    stage: int = 0,
    out: Path | None = None,
    accelerator: Any = None,
) -> list[dict[str, float]]:
    """Diffusion-DPO on given pairs, in place; the reference is the network as it comes.

    Args:
        net: with `requires_grad` on what is to be trained.
        scheduler: diffusers'.
        winners: the preferred samples.
        losers: the others, row for row.
        config: beta, optimisation, reference and seed are used.
        stage: which of the listed rates and steps.
        out: folder for metrics and state.
        accelerator: accelerate's; made by default.

    Returns:
        Metrics of every update of this call.

    Raises:
        InputError: if the numbers of winners and losers differ.
        RunError: if the loss is not finite.
    """
    return _stage(net, scheduler, winners, config, stage, out, accelerator, losers)


def _stage(
    net: nn.Module,
    scheduler: Any,
    data: TrainingSet,
    config: SPINConfig,
    stage: int,
    out: Path | None,
    accelerator: Any,
    losers: Rows | None,
) -> list[dict[str, float]]:
    accelerator = accelerator or make_accelerator(config.optimization.precision)
    net.to(accelerator.device).eval()
    disable_dropout(net)
    schedule = schedule_of(scheduler)
    weights = step_weights(schedule, config.weighting, config.error_space, config.weight_clip)
    source = Source(
        data, schedule, weights, config.seed, stage, opponents=losers, share_noise=config.share_noise,
        caption_dropout=config.caption_dropout, channels_last=config.optimization.channels_last,
    )  # fmt: skip
    settings, steps = config.optimization, config.steps_at(stage)
    state = out / "state.safetensors" if out is not None else None
    metrics = MetricsLog(out / "metrics.jsonl") if out is not None else None
    if metrics is not None and accelerator.is_main_process:
        metrics.path.parent.mkdir(parents=True, exist_ok=True)
        metrics.rewind(saved_step(state) if state is not None else 0)
    rows: list[dict[str, float]] = []

    def report(step: Step) -> None:
        rows.append(step.metrics)
        if metrics is not None:
            metrics.write(step.number, **step.metrics)

    reference = None
    if losers is not None:
        path = out / "reference.safetensors" if out is not None else None
        reference = make_reference(config.reference, net, source, settings, steps, accelerator, path)
    objective = sft_objective if losers is None else dpo_objective(config.beta_at(stage), config.beta_convention)
    train(
        net, pairs_or_items(source, objective, settings, accelerator, reference), settings, accelerator,
        rate=config.rate_at(stage), total_steps=steps,
        expected_first_loss=LINK_AT_ZERO["logistic"] if losers is not None else None,
        state=state, report=report, label="sft" if losers is None else "dpo",
    )  # fmt: skip
    return rows
