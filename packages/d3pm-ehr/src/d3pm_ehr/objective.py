"""The training loss: which t, which terms, which weights."""

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from d3pm_ehr.config import LossName
from d3pm_ehr.process import DiscreteDiffusion


class UniformTimes:
    """t uniform on 1..T, stratified over the batch (each record's t is uniform, together they cover the range)."""

    def __init__(self, num_steps: int) -> None:
        self.num_steps = num_steps

    def draw(self, rows: int, generator: torch.Generator) -> tuple[Int[Tensor, "rows"], Float[Tensor, "rows"]]:
        """Times, and 1 / p_t of each."""
        u = (torch.randperm(rows, generator=generator) + torch.rand(rows, generator=generator)) / rows
        t = (u * self.num_steps).long().clamp_max(self.num_steps - 1) + 1
        return t, torch.full((rows,), float(self.num_steps))

    def update(self, t: Int[Tensor, "rows"], losses: Float[Tensor, "rows"]) -> None:
        """Nothing to learn."""

    def state(self) -> dict[str, Tensor]:
        """Nothing to keep."""
        return {}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Nothing to restore."""


class ImportanceTimes(UniformTimes):
    """p_t proportional to the root of a running mean of L_t^2 (Hoogeboom et al.; rate 0.1).

    Uniform until every t has more than 10 counts; the decoder term t = 1 borrows the value of t = 2, as its own is of
    another kind.
    """

    def __init__(self, num_steps: int) -> None:
        super().__init__(num_steps)
        self.squares = torch.zeros(num_steps + 1)
        self.counts = torch.zeros(num_steps + 1)

    def draw(self, rows: int, generator: torch.Generator) -> tuple[Int[Tensor, "rows"], Float[Tensor, "rows"]]:
        """Times, and 1 / p_t of each."""
        if not bool((self.counts[1:] > 10).all()):
            return super().draw(rows, generator)
        weights = self.squares[1:].sqrt() + 1e-10
        if self.num_steps > 1:
            weights[0] = weights[1]
        p = weights / weights.sum()
        index = torch.multinomial(p, rows, replacement=True, generator=generator)
        return index + 1, 1 / p[index]

    def update(self, t: Int[Tensor, "rows"], losses: Float[Tensor, "rows"]) -> None:
        """Learn from one batch: mean L_t^2 of each t seen, averaged exponentially."""
        counts = torch.zeros_like(self.counts).index_add_(0, t, torch.ones_like(losses))
        sums = torch.zeros_like(self.squares).index_add_(0, t, losses.square())
        seen = counts > 0
        mean = sums[seen] / counts[seen]
        fresh = self.counts[seen] == 0
        self.squares[seen] = torch.where(fresh, mean, 0.9 * self.squares[seen] + 0.1 * mean)
        self.counts += counts

    def state(self) -> dict[str, Tensor]:
        """Running squares and counts."""
        return {"squares": self.squares, "counts": self.counts}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from `state`."""
        self.squares, self.counts = state["squares"].clone(), state["counts"].clone()


def training_loss(
    process: DiscreteDiffusion,
    x0: UInt8[Tensor, "rows columns"],
    x_t: UInt8[Tensor, "rows columns"],
    t: Int[Tensor, "rows"],
    weights: Float[Tensor, "rows"],
    logits: Float[Tensor, "rows logits"],
    loss: LossName,
    ce_weight: float,
) -> tuple[Float[Tensor, ""], Float[Tensor, "rows"]]:
    """Mean over records of a sum over tokens, and each record's L_{t-1} (or cross-entropy) for the time sampler.

    - `vlb`: L_{t-1} / p_t (+ L_T), the unbiased estimate of the bound;
    - `hybrid`: vlb + `ce_weight` times the cross-entropy;
    - `ce`: the cross-entropy, every t alike (1 / (T p_t) undoes an uneven p_t).

    Args:
        process: kernel, schedule and form of the posterior.
        x0: records.
        x_t: noisy records.
        t: their times.
        weights: 1 / p_t.
        logits: of the model at (x_t, t).
        loss: which of the three.
        ce_weight: lambda of `hybrid`.
    """
    if loss == "ce":
        each = process.cross_entropy(x0, x_t, logits)
        return (each * weights / process.num_steps).mean(), each.detach()
    each = process.divergence(x0, x_t, logits, t)
    value = (each * weights).mean() + process.prior_divergence(x0).mean()
    if loss == "hybrid":
        uneven = weights / process.num_steps
        clean = process.clean_logits(x_t, t, logits)
        value = value + ce_weight * (process.cross_entropy(x0, x_t, clean) * uneven).mean()
    return value, each.detach()


@torch.no_grad()
def bound(
    process: DiscreteDiffusion,
    model: nn.Module,
    x0: UInt8[Tensor, "rows columns"],
    generator: torch.Generator,
    *,
    draws: int = 1,
    batch_size: int = 1024,
) -> Float[Tensor, "rows"]:
    """An unbiased estimate of each record's negative ELBO in nats: L_T + mean over `draws` of T L_{t-1}.

    Args:
        process: the diffusion.
        model: `model(x_t, t) -> logits`.
        x0: records, on the device of the model.
        generator: on that device.
        draws: of (t, x_t) for each record.
        batch_size: records at once.
    """
    return torch.cat([part for part, _ in _terms(process, model, x0, generator, draws, batch_size)])


@torch.no_grad()
def held_out_losses(
    process: DiscreteDiffusion, model: nn.Module, x0: UInt8[Tensor, "rows columns"], generator: torch.Generator
) -> tuple[float, float]:
    """Mean bound and mean cross-entropy (every t alike) of records, nats, from the same times and noise."""
    parts = list(_terms(process, model, x0, generator, 1, 1024))
    return float(torch.cat([part for part, _ in parts]).mean()), float(torch.cat([part for _, part in parts]).mean())


def _terms(
    process: DiscreteDiffusion, model: nn.Module, x0: Tensor, generator: torch.Generator, draws: int, batch_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    times = UniformTimes(process.num_steps)
    host = torch.Generator().manual_seed(generator.initial_seed())
    for rows in x0.split(batch_size):
        total, entropy = process.prior_divergence(rows), torch.zeros(len(rows), device=rows.device)
        for _ in range(draws):
            t, weight = (item.to(rows.device) for item in times.draw(len(rows), host))
            x_t = process.corrupt(rows, t, generator)
            logits = model(x_t, t)
            total = total + weight * process.divergence(rows, x_t, logits, t) / draws
            clean = process.clean_logits(x_t, t, logits)
            entropy = entropy + process.cross_entropy(rows, x_t, clean) / draws
        yield total, entropy
