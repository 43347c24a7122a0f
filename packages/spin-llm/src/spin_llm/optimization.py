"""The training loop that SPIN, SFT and DPO share: one global batch a step, on one process or many, resumable exactly.

The order of the data and the learning rate are functions of (seed, step), so a state is weights, moments and a number.
"""

import logging
import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from jaxtyping import Float
from shared_core.errors import RunError
from shared_core.logging import progress
from torch import Tensor, nn

from spin_llm.config import Optimization
from spin_llm.packing import PackedBatch, TokenIds, pack
from spin_llm.sequence_logprobs import Scoring, model_dtype, sequence_logprobs
from spin_llm.training_state import configure_deepspeed, full_weights, load_state, save_state

log = logging.getLogger(__name__)


class Item(Protocol):
    """What is trained on: a prompt with one response (SFT) or two (SPIN, DPO)."""

    @property
    def prompt(self) -> TokenIds:
        """Token ids of the prompt."""
        ...

    @property
    def responses(self) -> Sequence[TokenIds]:
        """Token ids of each response."""
        ...


ItemT = TypeVar("ItemT", bound=Item)
# log-probabilities [item, response] -> loss of each item, and named values of each item to report
Objective = Callable[[Float[Tensor, "item response"], Sequence[ItemT]], tuple[Float[Tensor, "item"], dict[str, Tensor]]]


class ResponseScorer(nn.Module):
    """A language model as a map from packed rows to log-probabilities: the module that accelerate wraps.

    Everything differentiable happens inside its forward pass, so gradients are synchronised whichever way the model is
    spread over processes.
    """

    def __init__(self, model: nn.Module, scoring: Scoring) -> None:
        super().__init__()
        self.model = model
        self.scoring = scoring

    def forward(self, batch: PackedBatch) -> Float[Tensor, "responses"]:
        """Sum of log p over each response's tokens."""
        return sequence_logprobs(self.model, batch, self.scoring)


@dataclass
class Step:
    """What one step of training reports."""

    number: int
    total: int
    metrics: dict[str, float]


def train(
    model: nn.Module,
    items: Sequence[ItemT],
    objective: Objective[ItemT],
    settings: Optimization,
    scoring: Scoring,
    accelerator: Any,
    *,
    pad_id: int = 0,
    seed: int = 0,
    state: Path | None = None,
    report: Callable[[Step], None] | None = None,
    finish: Callable[[dict[str, Tensor] | None], None] | None = None,
    label: str = "training",
    settled: Callable[[ItemT], float | None] = lambda item: None,
) -> int:
    """Minimise the mean of an objective over items, in place, and return the number of steps.

    Args:
        model: with `requires_grad` on what is to be trained, dropout off.
        items: all of them, on every process.
        objective: loss and reported values of each item.
        settings: optimiser, rate, batch sizes; `learning_rate` holds one value.
        scoring: what the model allows.
        accelerator: accelerate's.
        pad_id: fills rows up.
        seed: of the order of the items.
        state: file that a killed training goes on from; removed by the caller when its result is saved.
        report: called after every step on the main process.
        finish: called at the end on the main process, with the gathered weights where they are sharded, else None.
        label: for the progress line.
        settled: loss of an item whose gradient is 0 whatever the weights, so that it counts without being computed.

    Raises:
        RunError: if loss or gradient is not finite; the weights are then those of the last good step.
    """
    total = steps_of(len(items), settings)
    optimizer = make_optimizer(model, settings)
    if settings.gradient_checkpointing:
        _recompute_activations(model)
        model.train()  # transformers checkpoints in training mode only; dropout is off all the same
    configure_deepspeed(accelerator, settings.per_device_train_batch_size, settings.max_grad_norm)
    scorer, optimizer = accelerator.prepare(ResponseScorer(model, scoring), optimizer)
    done = load_state(state, scorer, optimizer) if state is not None and state.exists() else 0
    planned = steps_of(len(items), settings, settings.schedule_epochs or settings.num_train_epochs)
    pack_dtype = model_dtype(model)
    for number in progress(range(done, total), label, total=total - done):
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate[0] * rate_factor(number, planned, settings.warmup_ratio)
        batch = [items[index] for index in batch_indices(number, len(items), settings.train_batch_size, seed)]
        metrics = _step(scorer, optimizer, batch, objective, settings, accelerator, pad_id, pack_dtype, number, settled)
        if report is not None and accelerator.is_main_process:
            report(Step(number + 1, total, metrics | {"learning_rate": optimizer.param_groups[0]["lr"]}))
        if state is not None and ((number + 1) % settings.save_steps == 0 or number + 1 == total):
            save_state(state, scorer, optimizer, number + 1, accelerator)
    model.eval()
    if finish is not None:
        weights = full_weights(scorer, accelerator)
        if accelerator.is_main_process:
            finish(weights)
        accelerator.wait_for_everyone()
    accelerator.free_memory()
    return total


def _step(
    scorer: nn.Module,
    optimizer: Any,
    batch: Sequence[ItemT],
    objective: Objective[ItemT],
    settings: Optimization,
    accelerator: Any,
    pad_id: int,
    dtype: torch.dtype,
    number: int,
    settled: Callable[[ItemT], float | None] = lambda item: None,
) -> dict[str, float]:
    """One update from a global batch; every process takes every n-th item of it, longest first."""
    known = [loss for item in batch if (loss := settled(item)) is not None]
    computed = [item for item in batch if settled(item) is None]
    mine = _share(computed, accelerator) or [(batch[0], 0.0)]
    micro = [
        mine[start : start + settings.per_device_train_batch_size]
        for start in range(0, len(mine), settings.per_device_train_batch_size)
    ]
    sums: dict[str, Tensor] = {}
    for index, part in enumerate(micro):
        items = [item for item, _ in part]
        weights = torch.tensor([weight for _, weight in part], device=accelerator.device)
        rows = pack(
            [item.prompt for item in items],
            [item.responses for item in items],
            pad_id,
            _scoring(scorer).share_prompt,
            dtype,
        ).to(accelerator.device)
        last = index + 1 == len(micro)
        accelerator.sync_gradients = last  # DeepSpeed's engine takes a step where this is true
        with nullcontext() if last else accelerator.no_sync(scorer):
            logprobs = scorer(rows).reshape(len(items), -1)
            losses, values = objective(logprobs, items)
            # processes' gradients are averaged, so each one's sum counts n-fold
            loss = (losses * weights).sum() * (accelerator.num_processes / len(batch))
            accelerator.backward(loss)
        for name, value in (values | {"loss": losses}).items():
            sums[name] = sums.get(name, torch.zeros((), device=value.device)) + (value.detach() * weights).sum()
    names = sorted(sums)
    totals = accelerator.reduce(torch.stack([sums[name].float() for name in names]), reduction="sum")
    metrics = dict(zip(names, (totals / max(1, len(computed))).tolist(), strict=True))
    metrics["loss"] = (metrics["loss"] * len(computed) + sum(known)) / len(batch)
    norm = accelerator.clip_grad_norm_(scorer.parameters(), settings.max_grad_norm or math.inf)
    norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm  # sharded weights have a sharded norm
    metrics["grad_norm"] = float(norm) if norm is not None else math.nan
    if not math.isfinite(metrics["loss"]) or (norm is not None and not math.isfinite(metrics["grad_norm"])):
        raise RunError(
            f"loss {metrics['loss']:g} and gradient norm {metrics['grad_norm']:g} at step {number + 1}: "
            "lower learning_rate or raise beta; the last saved state is kept"
        )
    optimizer.step()
    optimizer.zero_grad()
    return metrics


def _share(batch: Sequence[ItemT], accelerator: Any) -> list[tuple[ItemT, float]]:
    """This process's items and weights; one without work scores an item of weight 0, as the others wait for it."""
    order = sorted(batch, key=lambda item: -len(item.prompt) - sum(map(len, item.responses)))
    mine = [(item, 1.0) for item in order[accelerator.process_index :: accelerator.num_processes]]
    micro_everywhere = len(order[:: accelerator.num_processes])
    return mine if len(mine) == micro_everywhere else [*mine, (order[-1], 0.0)]


def _scoring(scorer: nn.Module) -> Scoring:
    return (scorer.module if hasattr(scorer, "module") else scorer).scoring  # type: ignore[union-attr,return-value] # DDP


def steps_of(items: int, settings: Optimization, epochs: int = 0) -> int:
    """Number of steps: the last batch of an epoch may be smaller."""
    return math.ceil(items / settings.train_batch_size) * (epochs or settings.num_train_epochs)


def batch_indices(step: int, items: int, size: int, seed: int) -> list[int]:
    """Which items a step takes: every epoch is a permutation of its own."""
    per_epoch = math.ceil(items / size)
    epoch, place = divmod(step, per_epoch)
    draw = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
    return torch.randperm(items, generator=draw)[place * size : (place + 1) * size].tolist()


def rate_factor(step: int, total: int, warmup_ratio: float) -> float:
    """Linear rise over the first steps and linear fall to 0 at `total`; no step is wasted on rate 0."""
    warmup = math.ceil(total * warmup_ratio)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return (total - step) / (total - warmup)


def _recompute_activations(model: Any) -> None:
    """By the name that newer versions of transformers have for it, where it is there: they warn of the old one."""
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})


def make_optimizer(model: nn.Module, settings: Optimization) -> torch.optim.Optimizer:
    """The optimiser over the weights that are trained; RMSProp has torch's defaults, as the official code."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    rate = settings.learning_rate[0]
    if settings.optim == "rmsprop":
        return torch.optim.RMSprop(weights, lr=rate, weight_decay=settings.weight_decay)
    if settings.optim == "adam":
        return torch.optim.Adam(weights, lr=rate, weight_decay=settings.weight_decay)
    return torch.optim.AdamW(weights, lr=rate, weight_decay=settings.weight_decay)
