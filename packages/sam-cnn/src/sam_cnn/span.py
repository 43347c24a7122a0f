"""The span form: every iterate is W(0) + C V with V = [mu; xi_1; ...], so inner products are all that is needed.

With S = W V^T and G = V V^T, a gradient C' V moves S by C' G and has the squared Frobenius norm <C', C' G>. Nothing in
a step depends on d. What is d-dimensional can either be given (`exact_span`) or be drawn equal in law at a cost that
does not depend on d (`draw_spans`): the noise Gram matrix is a Bartlett triangle, W(0) is iid Gaussian in the basis of
the span, and its orthogonal complement, which never moves, meets test points only through another Bartlett triangle.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from shared_core.errors import InputError
from torch import Tensor

from sam_cnn.patches import PatchData, PatchSample


@dataclass(frozen=True)
class Span:
    """A batch of runs; k = 1 + n q rows of V, the signal first. The 2m rows are j = +1 (m of them), then j = -1.

    Attributes:
        gram: G = V V^T.
        products: S = W(0) V^T.
        clean: yhat.
        y: observed labels.
        copies: patches that hold each noise vector.
        basis: V in an orthonormal basis of the span (first vector mu/|mu|), where test points are drawn equal in law.
        coordinates: W(0) in that basis.
        complement: lower triangle R with R R^T the Gram matrix of what W(0) has outside the span.
        test_noise: standard normal draws for the test points.
        sigma_p: noise level of the test points.
        mu: |mu|.
    """

    gram: Float[Tensor, "run k k"]
    products: Float[Tensor, "run 2m k"]
    clean: Float[Tensor, "run n"]
    y: Float[Tensor, "run n"]
    copies: int
    basis: Float[Tensor, "run k k"] | None = None
    coordinates: Float[Tensor, "run 2m k"] | None = None
    complement: Float[Tensor, "run 2m 2m"] | None = None
    test_noise: Float[Tensor, "run points q 2m"] | None = None
    sigma_p: Float[Tensor, "run"] | None = None
    mu: Float[Tensor, "run"] | None = None

    @property
    def m(self) -> int:
        """Filters of each sign."""
        return self.products.shape[1] // 2

    @property
    def noises(self) -> int:
        """q, distinct noise vectors in a sample."""
        return (self.gram.shape[-1] - 1) // self.y.shape[-1]

    @property
    def signs(self) -> Float[Tensor, "2m"]:
        """j of each row of S."""
        ones = self.products.new_ones(self.m)
        return torch.cat([ones, -ones])

    def to(self, device: torch.device) -> "Span":
        """The same on a device."""
        moved: dict[str, Any] = {
            f.name: value.to(device) for f in fields(self) if isinstance(value := getattr(self, f.name), Tensor)
        }
        return replace(self, **moved)


def exact_span(weight: Float[Tensor, "2 m d"], sample: PatchSample, P: int) -> Span:
    """The span form of one run with given weights and samples; exact for any of them.

    Raises:
        InputError: if the shapes do not belong together.
    """
    _, q, d = sample.xi.shape
    if weight.dim() != 3 or weight.shape[0] != 2 or weight.shape[2] != d or sample.mu.shape != (d,):
        raise InputError(
            f"weight must be (2, m, {d}) and mu ({d},), got {tuple(weight.shape)} and {tuple(sample.mu.shape)}"
        )
    if q not in (1, P - 1):
        raise InputError(f"xi must hold 1 or P - 1 = {P - 1} noise vectors a sample, got {q}")
    V = span_vectors(sample)
    return Span(
        gram=(V @ V.T)[None],
        products=(weight.flatten(0, 1) @ V.T)[None],
        clean=sample.clean[None],
        y=sample.y[None],
        copies=P - 1 if q == 1 else 1,
    )


def span_vectors(sample: PatchSample) -> Float[Tensor, "k d"]:
    """V = [mu; xi_1; ...]."""
    return torch.cat([sample.mu[None], sample.xi.flatten(0, 1)])


def smallest_dimension(data: PatchData, m: int) -> int:
    """The smallest d for which `draw_spans` is exact in law: the span and 2m test directions must fit."""
    return data.n * data.noises + 2 * m + 2


def draw_spans(data: Sequence[PatchData], m: int, sigma_0: Sequence[float], seeds: Sequence[int], points: int) -> Span:
    """Draw one run for each (data, sigma_0, seed), equal in law to drawing in R^d with W(0) ~ N(0, sigma_0^2).

    A run's draws depend on its own data and seed only, not on the batch it is in, and not on the algorithm.

    Args:
        data: with the same n, P and kind of noise; d, |mu|, sigma_p and p may differ.
        m: filters of each sign.
        sigma_0: standard deviation of the initial weights.
        seeds: one for each run.
        points: test points.

    Raises:
        InputError: if d is too small (see `smallest_dimension`).
    """
    draws = [_draw(*run, m, points) for run in zip(data, sigma_0, seeds, strict=True)]
    names = ("basis", "coordinates", "complement", "test_noise", "clean", "y")
    stacked = {name: torch.from_numpy(np.stack([draw[i] for draw in draws])) for i, name in enumerate(names)}
    V, A = stacked["basis"], stacked["coordinates"]
    return Span(
        gram=V @ V.mT,
        products=A @ V.mT,
        copies=data[0].copies,
        sigma_p=torch.tensor([one.sigma_p for one in data], dtype=torch.float64),
        mu=torch.tensor([float(one.mu) for one in data], dtype=torch.float64),
        **stacked,
    )


def _draw(data: PatchData, sigma_0: float, seed: int, m: int, points: int) -> tuple[np.ndarray, ...]:
    if data.d < smallest_dimension(data, m):
        raise InputError(
            f"d must be at least {smallest_dimension(data, m)} for n = {data.n}, P = {data.P}, m = {m} "
            f"(the span and 2m test directions must fit), got {data.d}"
        )
    key = np.array([data.mu, data.sigma_p, data.p], dtype=np.float64).view(np.uint32)
    rng = np.random.default_rng([seed, data.d, data.n, data.P, data.noises, m, *map(int, key)])
    rows = data.n * data.noises
    clean = rng.choice([-1.0, 1.0], size=data.n)
    y = np.where(rng.random(data.n) < data.p, -clean, clean)
    V = np.zeros((rows + 1, rows + 1))
    V[0, 0] = data.mu
    V[1:, 0] = data.sigma_p * rng.standard_normal(rows)
    V[1:, 1:] = data.sigma_p * bartlett_triangle(rng, rows, data.d - 1)
    A = sigma_0 * rng.standard_normal((2 * m, rows + 1))
    R = sigma_0 * bartlett_triangle(rng, 2 * m, data.d - rows - 1)
    z = rng.standard_normal((points, data.noises, 2 * m), dtype=np.float32)
    return V, A, R, z, clean, y


def bartlett_triangle(rng: np.random.Generator, rows: int, degrees: int) -> np.ndarray:
    """L lower triangular with L L^T equal in law to the Gram matrix of `rows` vectors N(0, I_degrees)."""
    L = np.tril(rng.standard_normal((rows, rows)), -1)
    L[np.diag_indices(rows)] = np.sqrt(rng.chisquare(degrees - np.arange(rows)))
    return L


def initial_std(init: str | float, data: PatchData) -> float:
    """sigma_0: `small` = 0.01 sqrt(n)/d, `theorem` = 0.3/(P sigma_p sqrt d), `torch` = 1/sqrt(3 d), or a number.

    GD's boundary grows like d^(1/4) only where sigma_0 is far below sqrt(n)/d; with torch's default the initial weights
    alone put O(1) noise into test activations. `torch` has that default's variance with a Gaussian law.

    Raises:
        InputError: for another word, or a number that is not > 0.
    """
    named = {
        "small": 0.01 * math.sqrt(data.n) / data.d,
        "theorem": 0.3 / (data.P * data.sigma_p * math.sqrt(data.d)),
        "torch": 1 / math.sqrt(3 * data.d),
    }
    if isinstance(init, str) and init in named:
        return named[init]
    try:
        value = float(init)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise InputError(f"init must be small, theorem, torch or a standard deviation > 0, got {init!r}")
    return value
