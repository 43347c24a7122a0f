"""Training a denoiser: EMA, early stopping on held-out records, resumable to the bit, under accelerate.

The records, times and noise of step k come from generators seeded by (seed, k), so a resumed run needs no random
state, and several processes split the very same batch.
"""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import UInt8
from shared_core.device import autocast, default_precision
from shared_core.errors import InputError, RunError
from shared_core.logging import progress
from torch import Tensor

from d3pm_ehr.cohort import Cohort
from d3pm_ehr.config import Training
from d3pm_ehr.denoiser import Denoiser
from d3pm_ehr.objective import ImportanceTimes, UniformTimes, held_out_losses, training_loss

log = logging.getLogger(__name__)
DENSE_LIMIT = 2**28  # bytes of records that are kept as a dense table; larger cohorts stay sparse
VALIDATION_ROWS = 4096  # held-out records of an evaluation, at most
VALIDATION_DRAWS = 1024  # of (record, time, noise), at least: few records are taken several times


@dataclass
class TrainingState:
    """Where a training stands: all that is needed to go on to the same bits. It holds no record.

    Attributes:
        step: optimiser steps done.
        ema: averaged weights.
        best: averaged weights with the lowest held-out bound (or cross-entropy, as `Training.judge` says) so far.
        best_loss: that value, nats a record; infinite where nothing is held out.
        stale: evaluations since.
        optimizer: state of AdamW as `state_dict()["state"]`.
        times: state of the time sampler.
        stopped: early stopping has ended the training.
    """

    step: int = 0
    ema: dict[str, Tensor] = field(default_factory=dict)
    best: dict[str, Tensor] = field(default_factory=dict)
    best_loss: float = math.inf
    stale: int = 0
    optimizer: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    times: dict[str, Tensor] = field(default_factory=dict)
    stopped: bool = False


class _Records:
    """Batches of a cohort: from a dense table where that is small, from the sparse one otherwise."""

    def __init__(self, cohort: Cohort, device: torch.device) -> None:
        self.cohort, self.device = cohort, device
        small = len(cohort) * cohort.vocabulary.layout.columns <= DENSE_LIMIT
        self.dense = cohort.tokens() if small else None

    def batch(self, size: int, generator: torch.Generator) -> UInt8[Tensor, "rows columns"]:
        index = torch.randint(len(self.cohort), (size,), generator=generator)
        rows = self.dense.index_select(0, index) if self.dense is not None else self.cohort.tokens(index.numpy())
        return rows.to(self.device)


def train_denoiser(
    model: Denoiser,
    cohort: Cohort,
    training: Training,
    device: torch.device,
    *,
    seed: int = 0,
    validation: Cohort | None = None,
    state: TrainingState | None = None,
    after: Callable[[TrainingState, dict[str, Any]], None] | None = None,
) -> TrainingState:
    """Train in place to the end (or until early stopping) and leave the best averaged weights in `model`.

    Args:
        model: its own weights are those of `state.step`.
        cohort: training records.
        training: settings.
        device: where; under `accelerate launch` each process's own device is used instead.
        seed: of batches and noise.
        validation: held-out records; without them the last averaged weights are kept.
        state: of an interrupted training.
        after: called on the main process every `training.checkpoint_every` steps with the state and the metrics.

    Raises:
        InputError: if there are no records, or accelerate shards the weights (the denoiser fits on one device).
        RunError: if the loss is no longer a finite number.
    """
    from accelerate import Accelerator

    if not len(cohort):
        raise InputError("there are no training records")
    accelerator = Accelerator(cpu=device.type == "cpu")
    if accelerator.distributed_type.value in ("FSDP", "DEEPSPEED", "MEGATRON_LM", "TP"):
        raise InputError(f"accelerate's {accelerator.distributed_type.value} shards weights that fit on one device: "
                         "configure several processes instead")  # fmt: skip
    model.process.to(accelerator.device)
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=training.learning_rate,
        weight_decay=training.weight_decay,
        fused=accelerator.device.type in ("cpu", "cuda"),
    )
    state = state or TrainingState()
    if state.step:
        optimizer.load_state_dict({"state": state.optimizer, "param_groups": optimizer.state_dict()["param_groups"]})
    wrapped, prepared = accelerator.prepare(model, optimizer)
    run = _Run(wrapped, model, prepared, training, accelerator, seed)
    times = (ImportanceTimes if training.time_sampler == "importance" else UniformTimes)(model.process.num_steps)
    if state.times:
        times.restore(state.times)
    state.ema = state.ema or {name: value.clone() for name, value in model.state_dict().items()}
    state.ema = {name: value.to(accelerator.device) for name, value in state.ema.items()}
    records = _Records(cohort, accelerator.device)
    held = None if validation is None or not len(validation) else _validation(validation, accelerator.device)

    total, count = torch.zeros((), device=accelerator.device), 0
    for step in progress(range(state.step, training.steps if not state.stopped else state.step), "training"):
        total, count = total + run.step(step, records, times, state.ema), count + 1
        state.step = step + 1
        if state.step % training.checkpoint_every == 0 or state.step == training.steps:
            if not torch.isfinite(total):
                raise RunError(
                    f"the loss is {float(total)} at step {state.step}: lower learning_rate ({training.learning_rate:g})"
                )
            metrics = {"loss": float(total) / count}
            if held is not None:
                metrics["held_out_bound"], metrics["held_out_ce"] = _held_out(model, state.ema, held, seed)
                _note_best(state, metrics[f"held_out_{training.judge}"], training.patience)
            state.optimizer, state.times = optimizer.state_dict()["state"], times.state()
            if after is not None and accelerator.is_main_process:
                after(state, metrics)
            total, count = torch.zeros_like(total), 0
            if state.stopped:
                log.info("stopped after step %d: no better held-out %s for %d evaluations",
                         state.step, training.judge, state.stale)  # fmt: skip
                break
    model.load_state_dict(state.best or state.ema)
    model.eval()
    return state


class _Run:
    """One optimiser step."""

    def __init__(
        self, wrapped: Any, model: Denoiser, optimizer: Any, training: Training, accelerator: Any, seed: int
    ) -> None:
        self.wrapped, self.model, self.optimizer = wrapped, model, optimizer
        self.training, self.accelerator, self.seed = training, accelerator, seed
        self.share = slice(accelerator.process_index, None, accelerator.num_processes)
        precision = training.precision
        self.precision = default_precision(accelerator.device) if precision == "auto" else precision

    def step(self, step: int, records: _Records, times: UniformTimes, ema: dict[str, Tensor]) -> Tensor:
        """Train on batch `step` and return its loss; the averaged weights move in place."""
        training, process = self.training, self.model.process
        host = torch.Generator().manual_seed(mix(self.seed, 2 * step))
        noise = torch.Generator(records.device).manual_seed(mix(self.seed, 2 * step + 1))
        x0 = records.batch(training.batch_size, host)
        t, weights = (item.to(records.device) for item in times.draw(training.batch_size, host))
        x_t = process.corrupt(x0, t, noise)
        x0, x_t, t, weights = x0[self.share], x_t[self.share], t[self.share], weights[self.share]
        with autocast(records.device, self.precision):
            logits = self.wrapped(x_t, t)
        loss, each = training_loss(
            process, x0, x_t, t, weights, logits.to(process.pi[0].dtype), training.loss, training.ce_weight
        )
        for group in self.optimizer.param_groups:
            group["lr"] = training.learning_rate * 0.5 * (1 + math.cos(math.pi * step / training.steps))
        self.optimizer.zero_grad(set_to_none=True)
        self.accelerator.backward(loss)
        self.optimizer.step()
        if isinstance(times, ImportanceTimes):  # the only one that learns; every process must learn the same
            times.update(self.accelerator.gather(t).cpu(), self.accelerator.gather(each).cpu())
        decay = min(training.ema, (1 + step) / (10 + step))
        with torch.no_grad():
            own = self.model.state_dict()
            torch._foreach_lerp_([ema[name] for name in own], list(own.values()), 1 - decay)
        return loss.detach()


def mix(seed: int, index: int) -> int:
    """Distinct, well spread seeds for (seed, index)."""
    return (seed * 0x9E3779B97F4A7C15 + (index + 1) * 0xBF58476D1CE4E5B9) % 2**63


def _validation(cohort: Cohort, device: torch.device) -> UInt8[Tensor, "rows columns"]:
    rows = torch.randperm(len(cohort), generator=torch.Generator().manual_seed(0))[:VALIDATION_ROWS]
    return cohort.tokens(rows.numpy()).repeat(-(-VALIDATION_DRAWS // len(rows)), 1).to(device)


def _held_out(model: Denoiser, ema: dict[str, Tensor], rows: Tensor, seed: int) -> tuple[float, float]:
    """Bound and cross-entropy of the averaged weights on held-out records, always with the same times and noise."""
    own = {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(ema)
    model.eval()
    generator = torch.Generator(rows.device).manual_seed(mix(seed, -2))
    found = held_out_losses(model.process, model, rows, generator)
    model.load_state_dict(own)
    model.train()
    return found


def _note_best(state: TrainingState, loss: float, patience: int) -> None:
    if loss < state.best_loss:
        state.best_loss, state.stale = loss, 0
        state.best = {name: item.clone() for name, item in state.ema.items()}
    else:
        state.stale += 1
        state.stopped = patience > 0 and state.stale >= patience
