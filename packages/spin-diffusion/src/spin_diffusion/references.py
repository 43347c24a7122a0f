"""The frozen opponent's errors, three ways: a second network, the network with LoRA off, or numbers written before.

Only ||eps_k - eps||^2 of each sample is needed, never a tensor. As timestep and noise belong to the visit, these
numbers can be computed before training, by the network itself: no second model is in memory then.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from shared_core.errors import InputError
from shared_core.files import atomic_path
from shared_core.logging import progress
from torch import Tensor, nn

from spin_diffusion.batches import Batch, Source
from spin_diffusion.config import Optimization
from spin_diffusion.denoiser import DenoisingErrors
from spin_diffusion.lora import lora_layers
from spin_diffusion.optimization import micro_batches

Reference = Callable[[Batch], Float[Tensor, "member item"]]
PART_STEPS = 25  # updates whose reference errors are written together


class CopyReference:
    """A second, frozen network.

    Args:
        net: copied, unless `frozen` says that it is already another network.
        autocast: makes the context of mixed precision, the policy's own.
    """

    def __init__(self, net: nn.Module, autocast: Callable[[], Any] = nullcontext, *, frozen: bool = False) -> None:
        self.errors = DenoisingErrors(net if frozen else copy.deepcopy(net).requires_grad_(False).eval())
        self.autocast = autocast

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Float[Tensor, "member item"]:
        """Errors of each member of each item."""
        with self.autocast():
            found = self.errors(batch.noised, batch.time, batch.condition, batch.target)
        return found.view(-1, len(batch.positions))


class AdapterReference:
    """The network itself, its adapters switched off: what it was before this iteration.

    The adapter of an earlier iteration must have been merged into the weights; otherwise this would be theta_0.
    """

    def __init__(self, net: nn.Module, autocast: Callable[[], Any] = nullcontext) -> None:
        self.net, self.errors, self.autocast = net, DenoisingErrors(net), autocast

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Float[Tensor, "member item"]:
        """Errors of each member of each item."""
        with adapters_off(self.net), self.autocast():
            found = self.errors(batch.noised, batch.time, batch.condition, batch.target)
        return found.view(-1, len(batch.positions))


class TableReference:
    """Numbers that `reference_table` wrote, [position, part * member].

    Args:
        table: a column for each part and member.
        members: of an item: 2 for pairs.
    """

    def __init__(self, table: Float[Tensor, "position column"], members: int = 2) -> None:
        self.table, self.members = table, members

    def __call__(self, batch: Batch) -> Float[Tensor, "member item"]:
        """Errors of each member of each item."""
        first = batch.part * self.members
        rows = self.table[torch.as_tensor(batch.positions)]
        return rows[:, first : first + self.members].T.to(batch.noised.device)


@contextmanager
def adapters_off(net: nn.Module) -> Iterator[None]:
    """Switch LoRA off for a while, leaving `requires_grad` as it is."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [module for module in net.modules() if isinstance(module, BaseTunerLayer)]
    if not layers:
        raise InputError("ref_mode adapter needs a network with LoRA layers")
    if any(layer.merged for layer in layers):
        raise InputError("ref_mode adapter needs the adapter apart from the weights, and it is merged into them")
    # peft's own switch would also freeze the adapter, and with it what the backward pass is to reach
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False


def reference_table(
    net: nn.Module,
    source: Source,
    settings: Optimization,
    total_steps: int,
    accelerator: Any,
    path: Path | None = None,
) -> Float[Tensor, "position column"]:
    """Every reference error of an iteration, from the network as it is before training.

    The passes have the very batches that training will have, so that the numbers agree with a copy's to the last bit,
    or larger ones (`reference_batch_size`), and then to rounding.

    Args:
        net: the opponent.
        source: of the iteration.
        settings: batch sizes.
        total_steps: updates of the iteration.
        accelerator: accelerate's; its processes share the work.
        path: file of the table; parts beside it are what a killed pass goes on from.
    """
    if path is not None and path.exists():
        _remove_parts(path, accelerator)  # a kill may have come before they were removed
        return load_file(path)["errors"]
    scorer = CopyReference(net, accelerator.autocast, frozen=True)
    size = settings.train_batch_size
    parts = []
    for start in progress(range(0, total_steps, PART_STEPS), "errors of the opponent"):
        steps = range(start, min(start + PART_STEPS, total_steps))
        part = path.with_suffix(f".{start:06d}.part.safetensors") if path is not None else None
        if part is not None and part.exists():
            parts.append(load_file(part)["errors"])
            continue
        found = torch.zeros(len(steps) * size, source.num_parts * source.members, device=accelerator.device)
        for positions, weights in _passes(steps, settings, accelerator):
            with adapters_off(net) if lora_layers(net) else nullcontext():
                errors = torch.cat([scorer(part) for part in source.parts(positions, accelerator.device)]).T
            counted = torch.tensor(weights, device=found.device) > 0
            rows = torch.tensor(positions, device=found.device) - start * size
            found[rows[counted]] = errors[counted]
        parts.append(accelerator.reduce(found, reduction="sum").cpu())
        if part is not None:
            _save(part, parts[-1], accelerator)
    table = torch.cat(parts)
    if path is not None:
        _save(path, table, accelerator)
        _remove_parts(path, accelerator)
    return table


def _passes(steps: range, settings: Optimization, accelerator: Any) -> Iterator[tuple[list[int], list[float]]]:
    """Positions of some updates that one pass takes, and which of them count."""
    batches = [batch for step in steps for batch in micro_batches(step, settings, accelerator)]
    if not settings.reference_batch_size:
        yield from batches
        return
    positions, weights = (list(chain.from_iterable(each)) for each in zip(*batches, strict=True))
    for begin in range(0, len(positions), settings.reference_batch_size):
        end = begin + settings.reference_batch_size
        yield positions[begin:end], weights[begin:end]


def make_reference(
    mode: Literal["copy", "adapter", "table"],
    net: nn.Module,
    source: Source,
    settings: Optimization,
    total_steps: int,
    accelerator: Any,
    path: Path | None = None,
    ref_net: nn.Module | None = None,
) -> Reference:
    """The reference of an iteration, before its first update (or, of a resumed one, with its table written).

    Raises:
        InputError: if `ref_net` is of another architecture or precision than the policy.
    """
    if ref_net is not None:
        check_alike(net, ref_net)
        return CopyReference(ref_net.to(accelerator.device), accelerator.autocast, frozen=True)
    if mode == "copy":
        return CopyReference(net, accelerator.autocast)
    if mode == "adapter":
        return AdapterReference(net, accelerator.autocast)
    return TableReference(reference_table(net, source, settings, total_steps, accelerator, path), source.members)


def check_alike(net: nn.Module, other: nn.Module) -> None:
    """Refuse a reference whose errors would differ from the policy's for other reasons than its weights.

    Raises:
        InputError: naming the first difference.
    """
    ours, theirs = (dict(each.named_parameters()) for each in (net, other))
    for name in ours.keys() | theirs.keys():
        if name not in ours or name not in theirs or ours[name].shape != theirs[name].shape:
            raise InputError(f"reference and policy are different networks: {name} is not the same in both")
        if ours[name].dtype != theirs[name].dtype:
            raise InputError(f"{name} is {ours[name].dtype} in the policy and {theirs[name].dtype} in the reference")


def _remove_parts(path: Path, accelerator: Any) -> None:
    if accelerator.is_main_process:
        for part in path.parent.glob(f"{path.stem}.*.part.safetensors"):
            part.unlink()
    accelerator.wait_for_everyone()


def _save(path: Path, errors: Tensor, accelerator: Any) -> None:
    if accelerator.is_main_process:
        with atomic_path(path) as aside:
            save_file({"errors": errors}, aside)
    accelerator.wait_for_everyone()
