"""Drawing records: ancestral, along a subsequence of the steps, or by transition times (absorbing).

Every block of 256 records has a generator of its own, seeded by (seed, block): how many records are drawn at once, and
how many in all, changes no record (up to the rounding of the network's matrix products).
"""

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

import torch
from jaxtyping import Float, Int, UInt8
from shared_core.errors import InputError
from torch import Tensor

from d3pm_ehr.denoiser import Denoiser
from d3pm_ehr.training import mix

BLOCK = 256


class Draws:
    """Random numbers of some records, a generator for each block of them."""

    def __init__(self, seed: int, blocks: range, device: torch.device) -> None:
        self.generators = [torch.Generator(device).manual_seed(mix(seed, block)) for block in blocks]
        self.device = device

    def uniform(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """[records, *shape] numbers in [0, 1)."""
        return torch.cat(
            [torch.rand(BLOCK, *shape, generator=g, device=self.device, dtype=dtype) for g in self.generators]
        )

    def normal(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """[records, *shape] standard normal numbers."""
        return torch.cat(
            [torch.randn(BLOCK, *shape, generator=g, device=self.device, dtype=dtype) for g in self.generators]
        )


class Guide(Protocol):
    """Changes hidden states towards a condition (see `guidance`)."""

    def __call__(self, x_t: Tensor, t: Tensor, z: Tensor, draws: Draws) -> Tensor:
        """Guided hidden states for the head."""
        ...


@torch.no_grad()
def sample_tokens(
    model: Denoiser,
    rows: int,
    times: list[int],
    seed: int,
    *,
    batch_size: int = 1024,
    guide: Guide | None = None,
    given: Mapping[int, int] | None = None,
    tick: Callable[[], None] | None = None,
) -> Iterator[UInt8[Tensor, "rows columns"]]:
    """Draw records x_0 in batches: x_T ~ pi, then x_s ~ p(x_s | x_t) along `times`.

    Args:
        model: denoiser, in eval mode.
        rows: records in all.
        times: T = t_0 > t_1 > ... > 0, see `subsequence`.
        seed: of every draw.
        batch_size: records at once (rounded up to whole blocks of 256).
        guide: changes the hidden states at each step.
        given: level of tokens that are fixed. Exact for the absorbing kernel with an exact head; for the others the
            token is replaced at each step by a draw of q(x_t | x_0), which is approximate.
        tick: called after each call of the network.

    Raises:
        InputError: if rows < 1.
    """
    for count, draws in _batches(model, rows, batch_size, seed):
        x = _start(model, draws)
        for t, s in itertools.pairwise(times):
            at = torch.tensor([t], device=x.device)
            x = _fix(model, x, given, at, draws)
            logits = _logits(model, x, at, guide, draws)
            uniforms = draws.uniform(x.shape[1], dtype=_precision(model, logits))
            x = model.process.step_back(x, logits, at - (t - s), at, uniforms)
            if tick is not None:
                tick()
        x = _finish(x, given)
        yield x[:count].cpu()


@torch.no_grad()
def sample_by_transition_times(
    model: Denoiser,
    rows: int,
    seed: int,
    *,
    batch_size: int = 1024,
    given: Mapping[int, int] | None = None,
    tick: Callable[[], None] | None = None,
) -> Iterator[UInt8[Tensor, "rows columns"]]:
    """Draw records with the absorbing kernel, calling the network only where a record changes; the ancestral law.

    Every token's time of unmasking is drawn first, P(tau = t) = abar_{t-1} - abar_t. Each record then visits its own
    distinct times from the last to the first, so the calls are at most min(T, tokens), whatever T.

    Raises:
        InputError: for another kernel, or rows < 1.
    """
    if not model.process.absorbing:
        raise InputError(f"transition times need kernel absorbing, this model has {model.process.kernel}")
    for count, draws in _batches(model, rows, batch_size, seed):
        x = _start(model, draws)
        x = _fix(model, x, given, torch.tensor([model.process.num_steps], device=x.device), draws)
        masked = x == _mask_levels(model, x)
        tau = _unmasking_times(model, draws, x.shape[1]) * masked
        while bool((tau > 0).any()):
            at = tau.amax(1)
            live = at > 0
            here = tau == at[:, None]
            logits = model(x[live], at[live])
            uniforms = draws.uniform(x.shape[1], dtype=_precision(model, logits))[live]
            zero = torch.zeros((), dtype=torch.long, device=x.device)
            drawn = model.process.step_back(x[live], logits, zero, at[live], uniforms)
            x[live] = torch.where(here[live], drawn, x[live])
            tau = tau.masked_fill(here, 0)
            if tick is not None:
                tick()
        yield _finish(x, given)[:count].cpu()


def _unmasking_times(model: Denoiser, draws: Draws, columns: int) -> Int[Tensor, "rows columns"]:
    u = draws.uniform(columns, dtype=torch.float64)
    # abar falls from 1 to 0: tau is the first t with abar_t <= u
    rising = -model.process.abar
    return torch.searchsorted(rising, -u).clamp(1, model.process.num_steps)


def _batches(model: Denoiser, rows: int, batch_size: int, seed: int) -> Iterator[tuple[int, Draws]]:
    if rows < 1:
        raise InputError(f"n must be at least 1, got {rows}")
    if batch_size < 1:
        raise InputError(f"batch_size must be at least 1, got {batch_size}")
    blocks, at_once = -(-rows // BLOCK), max(1, -(-batch_size // BLOCK))
    for first in range(0, blocks, at_once):
        last = min(first + at_once, blocks)
        yield min(rows, last * BLOCK) - first * BLOCK, Draws(seed, range(first, last), model.process.abar.device)


def _start(model: Denoiser, draws: Draws) -> UInt8[Tensor, "rows columns"]:
    return model.process.prior_from(draws.uniform(model.layout.columns))


def _precision(model: Denoiser, logits: Tensor) -> torch.dtype:
    """Of the uniforms of a step: the absorbing kernel uses one number twice (`DiscreteDiffusion.step_back`)."""
    return torch.float64 if model.process.absorbing and logits.device.type != "mps" else logits.dtype


def _mask_levels(model: Denoiser, x: Tensor) -> Tensor:
    return torch.tensor(model.layout.levels, device=x.device, dtype=torch.uint8)


def _fix(model: Denoiser, x: Tensor, given: Mapping[int, int] | None, at: Tensor, draws: Draws) -> Tensor:
    if not given:
        return x
    tokens = torch.tensor(list(given), device=x.device)
    levels = torch.tensor(list(given.values()), device=x.device, dtype=torch.uint8).expand(len(x), -1)
    if not model.process.absorbing:
        signal = model.process.abar[at].to(torch.float32)
        keep = draws.uniform(len(given)) < signal
        fresh = model.process.prior_from(draws.uniform(x.shape[1]))[:, tokens]
        levels = torch.where(keep, levels, fresh)
    x = x.clone()
    x[:, tokens] = levels
    return x


def _finish(x: Tensor, given: Mapping[int, int] | None) -> Tensor:
    for token, level in (given or {}).items():
        x[:, token] = level
    return x


def _logits(model: Denoiser, x: Tensor, at: Tensor, guide: Guide | None, draws: Draws) -> Float[Tensor, "rows logits"]:
    z = model.hidden(x, at)
    if guide is not None:
        z = guide(x, at, z, draws)
    return model.head(z) + model.offset(x, at)
