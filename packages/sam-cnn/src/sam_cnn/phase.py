"""Phase diagrams: test error over (d, |mu|), the boundary between benign and harmful, and its exponent in d."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float
from shared_core.errors import InputError
from torch import Tensor

from sam_cnn.patches import PatchData
from sam_cnn.simulation import Training, grid, simulate


@dataclass(frozen=True)
class PhaseDiagram:
    """Clean test error of one algorithm in every cell.

    Attributes:
        d: dimensions.
        mu: signal lengths, rising.
        errors: of every run.
        train_error: of every run.
    """

    d: tuple[int, ...]
    mu: tuple[float, ...]
    errors: Float[Tensor, "d mu seed"]
    train_error: Float[Tensor, "d mu seed"]

    def mean(self) -> Float[Tensor, "d mu"]:
        """Mean over seeds; NaN where a run diverged."""
        return self.errors.mean(-1)

    def benign_fraction(self, level: float = 0.1) -> Float[Tensor, "seed"]:
        """Part of the map with an error below `level`, for every seed."""
        return (self.errors < level).double().mean((0, 1))


def phase_diagram(
    base: PatchData,
    d: Sequence[int],
    mu: Sequence[float],
    training: Training,
    seeds: Sequence[int],
    device: torch.device | str = "cpu",
) -> PhaseDiagram:
    """Simulate every cell with every seed.

    Raises:
        InputError: for empty axes, or mu that does not rise.
    """
    if not d or not mu or not seeds:
        raise InputError("a phase diagram needs at least one d, one mu and one seed")
    if any(later <= earlier for earlier, later in pairwise(mu)):
        raise InputError(f"mu must rise, got {list(mu)}")
    outcome = simulate(grid(base, d, mu), training, seeds, device)
    shape = (len(d), len(mu), len(seeds))
    return PhaseDiagram(tuple(d), tuple(mu), outcome.clean_error.view(shape), outcome.train_error.view(shape))


def boundary(mu: Sequence[float], errors: Float[Tensor, "d mu"], level: float = 0.1) -> Float[Tensor, "d"]:
    """|mu| at which the error falls below `level` for good, by interpolation; NaN where it never does or always is."""
    result = []
    for row in errors.tolist():
        above = [index for index, error in enumerate(row) if not error < level]
        if not above or above[-1] == len(mu) - 1 or math.isnan(row[above[-1]]):
            result.append(math.nan)
            continue
        i = above[-1]
        share = (row[i] - level) / (row[i] - row[i + 1])
        result.append(mu[i] + share * (mu[i + 1] - mu[i]))
    return torch.tensor(result, dtype=torch.float64)


def theoretical_boundary(d: Float[Tensor, "d"], base: PatchData, constant: float) -> Float[Tensor, "d"]:
    """|mu| with n |mu|^4 = constant P^4 sigma_p^4 d, the theorem's curve for SGD (its constant is left open)."""
    return base.P * base.sigma_p * (constant * d / base.n) ** 0.25


def boundary_constant(d: Float[Tensor, "d"], mu: Float[Tensor, "d"], base: PatchData) -> float:
    """The constant of `theoretical_boundary` that fits a measured boundary best on a logarithmic scale."""
    there = ~mu.isnan()
    ratio = base.n * mu[there] ** 4 / (base.P**4 * base.sigma_p**4 * d[there])
    return float(ratio.log().mean().exp()) if there.any() else math.nan


def slope(d: Float[Tensor, "d"], mu: Float[Tensor, "d"]) -> float:
    """Exponent of the boundary in d, by least squares on logarithms; NaN with fewer than two points."""
    there = ~mu.isnan()
    if there.sum() < 2:
        return math.nan
    return float(np.polyfit(d[there].log().numpy(), mu[there].log().numpy(), 1)[0])


def slope_interval(diagram: PhaseDiagram, level: float = 0.1, draws: int = 200, seed: int = 0) -> tuple[float, float]:
    """95 % interval of `slope`, by drawing seeds with replacement in every cell."""
    rng = np.random.default_rng(seed)
    d = torch.tensor(diagram.d, dtype=torch.float64)
    seeds, shape = diagram.errors.shape[-1], diagram.errors.shape[:-1]
    slopes = []
    for _ in range(draws):
        chosen = torch.from_numpy(rng.integers(0, seeds, (*shape, seeds)))
        slopes.append(slope(d, boundary(diagram.mu, diagram.errors.gather(-1, chosen).mean(-1), level)))
    low, high = np.nanquantile(slopes, [0.025, 0.975])
    return float(low), float(high)
