"""Algorithm 1 of the paper: sample from the frozen opponent, train against it, let the result be the next opponent.

Each phase leaves its result as a file that appears whole; a phase whose file is there is done. A killed run therefore
goes on where it was, and on a CPU ends at the same weights to the bit.
"""

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from shared_core.errors import InputError
from shared_core.files import atomic_path, write_json
from shared_core.logging import MetricsLog
from shared_core.run_folder import read_json
from torch import Tensor, nn

from spin_diffusion.batches import Source
from spin_diffusion.checkpoints import restore_player, save_player
from spin_diffusion.config import SPINConfig
from spin_diffusion.denoiser import disable_dropout
from spin_diffusion.guard import DivergenceGuard
from spin_diffusion.judging import Evaluate, Judge, Judged
from spin_diffusion.lora import add_lora, load_lora_state, lora_state, merge_lora
from spin_diffusion.losses import LINK_AT_ZERO
from spin_diffusion.noise import counter_seed
from spin_diffusion.objectives import spin_objective
from spin_diffusion.opponents import generate_opponents
from spin_diffusion.optimization import Accumulate, Step, pairs_or_items, train
from spin_diffusion.processes import make_accelerator
from spin_diffusion.references import Reference, make_reference
from spin_diffusion.schedules import schedule_of, step_weights
from spin_diffusion.training_set import Rows, TrainingSet
from spin_diffusion.training_state import saved_step
from spin_diffusion.trajectory_training import TrajectorySource, chain_of, trajectories, trajectory_drawer

log = logging.getLogger(__name__)


@dataclass
class Iteration:
    """What one iteration came to.

    Args:
        number: the paper's k, from 0.
        updates: of the weights.
        first: metrics of the first update; its loss is l(0).
        last: metrics of the last update.
        held_out: `error` and `start_error`, the denoising error on held-out items now and of theta_0, and
            `implicit_accuracy` of telling held-out items from the opponent's samples for them.
        evaluation: what the caller's `evaluate` returned of the new player.
    """

    number: int
    updates: int
    first: dict[str, float]
    last: dict[str, float]
    held_out: dict[str, float] = field(default_factory=dict)
    evaluation: dict[str, Any] = field(default_factory=dict)


class SPINTrainer:
    """Self-play fine-tuning of a diffusion model on one sample per prompt.

    Example:
        >>> data = TrainingSet.of(images, {"class_labels": labels}, null={"class_labels": torch.tensor([10])})
        >>> trainer = SPINTrainer(unet, DDIMScheduler(), data, SPINConfig(iterations=3))
        >>> trainer.run()
        >>> trainer.save_pretrained("player")

    Args:
        net: the supervised player theta_0: a UNet or transformer of diffusers, or any module of that call.
        scheduler: diffusers' scheduler of its pipeline, which is also the deployed sampler.
        data: latents and conditions.
        config: the settings.
        out: folder of the run; without one nothing is written and nothing can be resumed.
        held_out: items that are not trained on.
        ref_net: a network to take as the frozen opponent in every iteration, in place of the current player; for
            comparisons, as self-play needs the current one.
        evaluate: called with the number of each player, theta_0 the first, and its samples for the held-out items,
            which have the same seeds for all players; what it returns is kept.
        after: called with each finished `Iteration`.
        transform: applied to the opponent's samples, as a round trip through the VAE is.
        accelerator: accelerate's; made by default.
    """

    def __init__(
        self,
        net: nn.Module,
        scheduler: Any,
        data: TrainingSet,
        config: SPINConfig,
        out: str | Path | None = None,
        *,
        held_out: TrainingSet | None = None,
        ref_net: nn.Module | None = None,
        evaluate: Evaluate | None = None,
        after: Callable[[Iteration], None] | None = None,
        transform: Callable[[Tensor], Tensor] | None = None,
        accelerator: Any = None,
    ) -> None:
        self.accelerator = accelerator or make_accelerator(config.optimization.precision)
        self.net = net.to(self.accelerator.device)
        disable_dropout(self.net)
        self.net.eval()
        if config.optimization.channels_last:
            self.net.to(memory_format=torch.channels_last)
        if config.optimization.gradient_checkpointing:
            enable_checkpointing(self.net)
        self.scheduler, self.data, self.config = scheduler, data, config
        self.schedule = schedule_of(scheduler)
        self.weights = step_weights(self.schedule, config.weighting, config.error_space, config.weight_clip)
        self.out = Path(out) if out is not None else None
        self.ref_net, self.after, self.transform = ref_net, after, transform
        self.adapters: list[dict[str, Tensor]] = []
        self._judged: Judged | None = None
        self._judge = Judge(self, held_out, evaluate) if held_out is not None else None

    def run(self) -> list[Iteration]:
        """Play all iterations, or those that are not done yet.

        Raises:
            RunError: if numbers are not finite or the guard stops; what was finished is kept.
        """
        done = []
        self._judged = self._judge(0) if self._judge is not None else None
        for number in range(self.config.iterations):
            result = self.read_iteration(number)
            if result is None:
                result = self.train_iteration(number, self.generate(number))
            done.append(result)
            if self.after is not None and self.accelerator.is_main_process:
                self.after(result)
        return done

    def generate(self, number: int = 0) -> Rows:
        """The current player's samples for all items: what iteration `number` trains against."""
        drawer = None
        if self.config.objective == "trajectory":
            chain = chain_of(self.schedule, self.scheduler, self.config.sampler)
            drawer = trajectory_drawer(self.net, chain, self.data, self.accelerator.autocast)
        return generate_opponents(
            self.net, self.scheduler, self.data, self.config.sampler, self.accelerator,
            seed=self.config.seed, iteration=number, samples_per_prompt=self.config.samples_per_prompt,
            folder=self._file(number, "opponents"), transform=self.transform, drawer=drawer,
        )  # fmt: skip

    def train_iteration(self, number: int, opponents: Rows) -> Iteration:
        """Train against the given samples of the current player, and let the result be the current player.

        Raises:
            RunError: if numbers are not finite or the guard stops.
        """
        config = self.config
        if self._judge is not None and self._judged is None:
            self._judged = self._judge(number)
        before = self._judged
        if config.lora.rank:
            add_lora(self.net, config.lora, counter_seed("adapter", config.seed, number))
        else:
            self.net.requires_grad_(True)
        first, last = self._train(number, opponents)
        self._finish_weights(number)
        result = Iteration(number, config.steps_at(number), first, last)
        if self._judge is not None and before is not None:
            result.held_out = self._judge.compare(number, before)
            self._judged = self._judge(number + 1)
            result.evaluation = self._judged.evaluation
        self._write(number, result)
        return result

    def read_iteration(self, number: int) -> Iteration | None:
        """A finished iteration of this run's folder; its player becomes the current one."""
        path = self._file(number, "iteration.json")
        if path is None or not path.exists():
            return None
        if self.accelerator.is_main_process:  # a kill may have come before it was removed
            (path.parent / "state.safetensors").unlink(missing_ok=True)
        if self.config.lora.rank:
            self._take_adapter(number, load_file(path.parent / "adapter.safetensors"))
        else:
            restore_player(self.net, path.parent / "model")
        self._judged = self._judge(number + 1) if self._judge is not None else None
        return Iteration(**read_json(path))

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the current player as stock diffusers loads it (see `save_player`)."""
        save_player(self.net, Path(folder), self.adapters)

    def _train(self, number: int, opponents: Rows) -> tuple[dict[str, float], dict[str, float]]:
        config, settings, steps = self.config, self.config.optimization, self.config.steps_at(number)
        state = self._file(number, "state.safetensors")
        source = self._source(number, opponents)
        metrics = self._metrics(number, state)
        ends: dict[str, dict[str, float]] = {}

        def report(step: Step) -> None:
            if metrics is not None:
                metrics.write(step.number, **step.metrics)
            ends.setdefault("first", step.metrics)
            ends["last"] = step.metrics

        reference = make_reference(
            config.reference, self.net, source, settings, steps, self.accelerator,
            self._file(number, "reference.safetensors"), self.ref_net,
        )  # fmt: skip
        train(
            self.net,
            self._updates(number, source, reference),
            settings,
            self.accelerator,
            rate=config.rate_at(number),
            total_steps=steps,
            expected_first_loss=LINK_AT_ZERO[config.link] if self.ref_net is None else None,
            guard=DivergenceGuard(config.guard, config.guard_limit),
            state=state,
            report=report,
            label=f"iteration {number}",
        )
        if metrics is not None:
            rows = metrics.read()
            return _without_step(rows[0]), _without_step(rows[-1])
        return ends.get("first", {}), ends.get("last", {})

    def _source(self, number: int, opponents: Rows) -> Source:
        config, many = self.config, self.config.samples_per_prompt
        if config.objective == "trajectory":
            chain = chain_of(self.schedule, self.scheduler, config.sampler)
            return TrajectorySource(self.data, chain, opponents, config.seed, number, samples_per_prompt=many)
        return Source(
            self.data, self.schedule, self.weights, config.seed, number,
            opponents=opponents, samples_per_prompt=many, share_noise=config.share_noise,
            caption_dropout=config.caption_dropout, channels_last=config.optimization.channels_last,
        )  # fmt: skip

    def _updates(self, number: int, source: Source, reference: Reference) -> Accumulate:
        config, settings, beta = self.config, self.config.optimization, self.config.beta_at(number)
        if isinstance(source, TrajectorySource):
            return trajectories(source, beta, config.link, settings, self.accelerator, reference)
        objective = spin_objective(beta, config.link, config.beta_convention)
        return pairs_or_items(source, objective, settings, self.accelerator, reference)

    def _metrics(self, number: int, state: Path | None) -> MetricsLog | None:
        if state is None:
            return None
        metrics = MetricsLog(state.with_name("metrics.jsonl"))
        if self.accelerator.is_main_process:
            state.parent.mkdir(parents=True, exist_ok=True)
            metrics.rewind(saved_step(state))
        self.accelerator.wait_for_everyone()
        return metrics

    def _finish_weights(self, number: int) -> None:
        """The trained weights become the player, and are saved."""
        if self.config.lora.rank:
            trained = lora_state(self.net)
            path = self._file(number, "adapter.safetensors")
            if path is not None and self.accelerator.is_main_process:
                with atomic_path(path) as aside:
                    save_file(trained, aside)
            load_lora_state(self.net, trained)  # rounded as in a run that is resumed from the file
            merge_lora(self.net)
            self.adapters.append(trained)
        self.net.requires_grad_(False)
        folder = self._file(number, "model")
        if folder is not None and self.accelerator.is_main_process:
            self.save_pretrained(folder)
        self.accelerator.wait_for_everyone()

    def _take_adapter(self, number: int, state: dict[str, Tensor]) -> None:
        add_lora(self.net, self.config.lora, counter_seed("adapter", self.config.seed, number))
        load_lora_state(self.net, state)
        merge_lora(self.net)
        self.adapters.append(state)

    def _write(self, number: int, result: Iteration) -> None:
        path = self._file(number, "iteration.json")
        if path is not None and self.accelerator.is_main_process:
            write_json(path, asdict(result))
            (path.parent / "state.safetensors").unlink(missing_ok=True)
        self.accelerator.wait_for_everyone()

    def _file(self, number: int, name: str) -> Path | None:
        return None if self.out is None else self.out / f"iter_{number}" / name


def enable_checkpointing(net: nn.Module) -> None:
    """Recompute activations in the backward pass.

    Raises:
        InputError: if the network cannot.
    """
    if not hasattr(net, "enable_gradient_checkpointing"):
        raise InputError(f"gradient_checkpointing: {type(net).__name__} has no enable_gradient_checkpointing")
    net.enable_gradient_checkpointing()  # type: ignore[operator] # diffusers' networks have it


def _without_step(row: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in row.items() if name != "step"}
