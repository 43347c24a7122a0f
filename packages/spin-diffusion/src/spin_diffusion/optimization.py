"""The training loop that SPIN, SFT and DPO share: one global batch an update, on one process or many, resumed exactly.

Data, noise and learning rate are functions of (seed, iteration, step): a state is weights, moments and a few numbers.
"""

import importlib.util
import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from shared_core.errors import InputError, RunError
from shared_core.logging import progress
from torch import Tensor, nn

from spin_diffusion.batches import Batch, Source
from spin_diffusion.config import Optimization
from spin_diffusion.denoiser import DenoisingErrors
from spin_diffusion.guard import DivergenceGuard
from spin_diffusion.objectives import Objective
from spin_diffusion.training_state import load_state, save_state


@dataclass
class Step:
    """What one update reports."""

    number: int
    total: int
    metrics: dict[str, float]


# adds the gradient of one update, given the wrapped `DenoisingErrors` and the update's number, and returns metrics
Accumulate = Callable[[nn.Module, int], dict[str, float]]


def train(
    net: nn.Module,
    accumulate: Accumulate,
    settings: Optimization,
    accelerator: Any,
    *,
    rate: float,
    total_steps: int,
    expected_first_loss: float | None = None,
    guard: DivergenceGuard | None = None,
    state: Path | None = None,
    report: Callable[[Step], None] | None = None,
    label: str = "training",
) -> None:
    """Minimise the mean of an objective over positions, in place.

    Args:
        net: with `requires_grad` on what is to be trained, dropout off.
        accumulate: `pairs_or_items` or `trajectories`.
        settings: optimiser and batch sizes.
        accelerator: accelerate's.
        rate: peak learning rate.
        total_steps: updates.
        expected_first_loss: what the first loss must be (log 2, when policy and reference are the same function).
        guard: watches d_real.
        state: file that a killed training goes on from; the caller removes it when its result is saved.
        report: called after every update, on the main process.
        label: for the progress line.

    Raises:
        RunError: if loss or gradient is not finite, the first loss is not as expected, or the guard stops.
    """
    trained = {name: weight for name, weight in net.named_parameters() if weight.requires_grad}
    if not trained:
        raise InputError("no weight of the network has requires_grad: there is nothing to train")
    optimizer = make_optimizer(list(trained.values()), settings, rate)
    scorer: nn.Module = DenoisingErrors(net)
    scorer, optimizer = accelerator.prepare(scorer, optimizer)
    stepper, weights = _bare(optimizer, accelerator), list(scorer.parameters())
    average = [weight.detach().clone() for weight in trained.values()] if settings.ema_decay else []
    done = 0
    if state is not None and state.exists():
        done, watched = load_state(state, trained, optimizer, average, accelerator)
        if guard is not None:
            guard.restore(watched)
    for number in progress(range(done, total_steps), label, total=total_steps - done):
        factor = rate_factor(number, total_steps, settings) * (guard.rate_factor if guard is not None else 1.0)
        for group in optimizer.param_groups:
            group["lr"] = rate * factor
        metrics = accumulate(scorer, number)
        _apply(weights, stepper, settings, accelerator, metrics, number)
        if number == 0 and expected_first_loss is not None:
            check_first_loss(metrics["loss"], expected_first_loss, settings)
        for kept, weight in zip(average, trained.values(), strict=False):
            kept.lerp_(weight.detach(), 1 - settings.ema_decay)
        if report is not None and accelerator.is_main_process:
            report(Step(number + 1, total_steps, metrics | {"learning_rate": rate * factor}))
        if guard is not None:
            guard(number + 1, metrics)
        if state is not None and ((number + 1) % settings.save_steps == 0 or number + 1 == total_steps):
            watched = guard.state() if guard is not None else {}
            save_state(state, trained, optimizer, average, number + 1, watched, accelerator)
    with torch.no_grad():
        for kept, weight in zip(average, trained.values(), strict=False):
            weight.copy_(kept)
    _release(accelerator)


def pairs_or_items(
    source: Source,
    objective: Objective,
    settings: Optimization,
    accelerator: Any,
    reference: Callable[[Batch], Tensor] | None = None,
) -> Accumulate:
    """Updates of an objective that needs each position once: eq. (4.9), DPO, SFT."""

    def accumulate(scorer: nn.Module, number: int) -> dict[str, float]:
        means = Means(accelerator, settings.train_batch_size)
        parts = list(micro_batches(number, settings, accelerator))
        for index, (positions, counted) in enumerate(parts):
            batch = source.batch(positions, accelerator.device)
            known = reference(batch) if reference is not None else None
            weights = torch.tensor(counted, device=accelerator.device)
            with nullcontext() if index + 1 == len(parts) else accelerator.no_sync(scorer):
                errors = scorer(batch.noised, batch.time, batch.condition, batch.target).view(-1, len(positions))
                losses, values = objective(errors, known, batch.weights)
                accelerator.backward((losses * weights).sum() * means.gradient_scale)
            means.add(values | {"loss": losses.detach()}, weights)
        return means.get()

    return accumulate


class Means:
    """Means of named values over an update's items, over all micro-batches and processes."""

    def __init__(self, accelerator: Any, items: int) -> None:
        self.accelerator, self.items = accelerator, items
        self._sums: dict[str, Tensor] = {}

    @property
    def gradient_scale(self) -> float:
        """Of a sum over this process's items: processes' gradients are averaged, so each one's counts n-fold."""
        return float(self.accelerator.num_processes / self.items)

    def add(self, values: dict[str, Tensor], weights: Tensor) -> None:
        """Take one value of each item."""
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, torch.zeros((), device=weights.device)) + (value * weights).sum()

    def get(self) -> dict[str, float]:
        """The means."""
        names = sorted(self._sums)
        totals = self.accelerator.reduce(torch.stack([self._sums[name].float() for name in names]), reduction="sum")
        return dict(zip(names, (totals / self.items).tolist(), strict=True))


def _bare(optimizer: Any, accelerator: Any) -> Any:
    """The optimiser itself where accelerate's wrapper does nothing but look for other packages, at every update."""
    plain = accelerator.distributed_type in ("NO", "MULTI_GPU", "MULTI_CPU") and accelerator.scaler is None
    return getattr(optimizer, "optimizer", optimizer) if plain else optimizer


def _release(accelerator: Any) -> None:
    """Let accelerate forget network and optimiser; its own way also collects garbage, a second where much is loaded."""
    if accelerator.device.type == "cpu" and accelerator.distributed_type in ("NO", "MULTI_CPU"):
        accelerator._models.clear()
        accelerator._optimizers.clear()
    else:
        accelerator.free_memory()


def _apply(
    weights: list[nn.Parameter],
    optimizer: Any,
    settings: Optimization,
    accelerator: Any,
    metrics: dict[str, float],
    number: int,
) -> None:
    norm = accelerator.clip_grad_norm_(weights, settings.max_grad_norm or math.inf)
    metrics["grad_norm"] = float(norm)
    half = accelerator.scaler is not None  # its scale falls where a gradient overflows, and that update is left out
    if not math.isfinite(metrics["loss"]) or not (half or math.isfinite(metrics["grad_norm"])):
        raise RunError(
            f"loss {metrics['loss']:g} and gradient norm {metrics['grad_norm']:g} at update {number + 1}: "
            "lower learning_rate or raise beta; the last saved state is kept"
        )
    optimizer.step()
    optimizer.zero_grad()


def micro_batches(step: int, settings: Optimization, accelerator: Any) -> Iterator[tuple[list[int], list[float]]]:
    """Positions of an update that this process computes together, and how much each counts.

    A process without work repeats a position with weight 0, as the others wait for it.
    """
    size, world = settings.train_batch_size, accelerator.num_processes
    mine = list(range(step * size, (step + 1) * size))[accelerator.process_index :: world]
    weights = [1.0] * len(mine)
    if len(mine) < math.ceil(size / world):
        mine, weights = [*mine, (step + 1) * size - 1], [*weights, 0.0]
    for start in range(0, len(mine), settings.per_device_train_batch_size):
        stop = start + settings.per_device_train_batch_size
        yield mine[start:stop], weights[start:stop]


def rate_factor(step: int, total: int, settings: Optimization) -> float:
    """Linear rise, then the schedule; no update is wasted on rate 0."""
    warmup = min(settings.warmup_steps, total - 1)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    share = (step - warmup) / (total - warmup)
    if settings.lr_schedule == "constant":
        return 1.0
    return 1 - share if settings.lr_schedule == "linear" else 0.5 * (1 + math.cos(math.pi * share))


def check_optimizer(settings: Optimization) -> None:
    """Refuse an optimiser that is not installed, before any work is done.

    Raises:
        InputError: naming its package.
    """
    if settings.optim == "adamw8bit" and importlib.util.find_spec("bitsandbytes") is None:
        raise InputError("optim adamw8bit needs the package bitsandbytes, which is not installed")


def make_optimizer(weights: list[nn.Parameter], settings: Optimization, rate: float) -> torch.optim.Optimizer:
    """AdamW, or its 8-bit form.

    Raises:
        InputError: if that is asked and bitsandbytes is not installed.
    """
    options: dict[str, Any] = {
        "lr": rate,
        "betas": (settings.adam_beta1, settings.adam_beta2),
        "eps": settings.adam_epsilon,
        "weight_decay": settings.weight_decay,
    }
    if settings.optim == "adamw8bit":
        check_optimizer(settings)
        from bitsandbytes.optim import AdamW8bit  # type: ignore[import-not-found] # optional

        return AdamW8bit(weights, **options)
    return torch.optim.AdamW(weights, fused=weights[0].device.type in ("cpu", "cuda"), **options)


def check_first_loss(loss: float, expected: float, settings: Optimization) -> None:
    """Before the first update policy and opponent are one function, so every margin is 0.

    Raises:
        RunError: if they are not, as with different precisions, dropout, or an adapter that is not merged.
    """
    tolerance = 0.01 if settings.precision == "float32" else 0.1
    if not abs(loss - expected) <= tolerance:
        raise RunError(
            f"the first loss is {loss:.4f}, and with policy = opponent it must be {expected:.4f}: they differ in "
            "weights, precision or mode; samples and reference must be of the very network that is trained"
        )
