"""Exchangeable data: the count vector is all there is to know."""

import math
from typing import Any

import torch
from jaxtyping import Float
from shared_core.errors import InputError
from torch import Tensor

from ctmc_bounds.arrays import like_input, real
from ctmc_bounds.checks import check_array, check_probabilities, check_space, check_tokens
from ctmc_bounds.data_laws import DataLaw, MixtureData
from ctmc_bounds.parametrisation import score_to_cavity, set_own
from ctmc_bounds.spaces import CountSpace

KEPT_TIMES = 512


def count_kernel(space: CountSpace, token: Float[Tensor, "C S S"] | Float[Tensor, "S S"]) -> Float[Tensor, "C C"]:
    """Transition matrix of the counts when every token moves independently: row `token[class, a]` for a token a.

    Tokens are added one after the other to a grid of counts; all arithmetic is non-negative, so that tiny
    probabilities keep their relative accuracy.
    """
    S, d, n = space.S, space.d, space.n
    kernel = token.expand(n, S, S)
    side = [d + 1] * (S - 1)
    check_array(n * math.prod(side), "a transition matrix of the counts")
    grid = torch.zeros(n, *side, dtype=torch.float64, device=space.device)
    grid.view(n, -1)[:, 0] = 1
    tokens = space.representatives()
    rows = torch.arange(n, device=space.device)
    for i in range(d):
        step = kernel[rows, tokens[:, i]]
        moved = grid * step[:, -1].view(-1, *[1] * (S - 1))
        for c in range(S - 1):
            target: list[slice] = [slice(None)] * S
            source: list[slice] = [slice(None)] * S
            target[c + 1], source[c + 1] = slice(1, None), slice(None, -1)
            moved[tuple(target)] += grid[tuple(source)] * step[:, c].view(-1, *[1] * (S - 1))
        grid = moved
    # counts of the first S - 1 values index the grid
    return grid[(slice(None), *space.counts[:, : S - 1].T)]


class ExchangeableData(DataLaw):
    """A law that depends on the counts only.

    Args:
        S: values of a token.
        d: tokens.
        probabilities: of each count vector, (C,), in the order of `CountSpace(S, d).counts`; for S = 2 that is the
            number of ones, 0..d.

    Raises:
        InputError: for a wrong length or what are no probabilities.
    """

    exchangeable = True

    def __init__(self, S: int, d: int, probabilities: Any) -> None:
        self._place(S, d)
        self.space = CountSpace(S, d)
        self.class_probabilities = real(probabilities).reshape(-1)
        if len(self.class_probabilities) != self.space.n:
            raise InputError(
                f"{len(self.class_probabilities)} count probabilities given; S = {S}, d = {d} has {self.space.n} counts"
            )
        check_probabilities(self.class_probabilities, "the law of the counts")
        self._kept: dict[float, Tensor] = {}

    def to(self, device: torch.device | str) -> "ExchangeableData":
        """Move the law and its count space to `device`."""
        super().to(device)
        self.space = CountSpace(self.S, self.d, device)
        self._kept = {}
        return self

    def class_law(self, t: float) -> Float[Tensor, " C"]:
        """Law of the counts at noise level t."""
        if t not in self._kept:
            if len(self._kept) >= KEPT_TIMES:
                self._kept.clear()
            token = self.ctmc.kernel(t).to(self.space.device)
            self._kept[t] = self.class_probabilities @ count_kernel(self.space, token)
        return self._kept[t]

    def log_state(self, t: float) -> Float[Tensor, " C"]:
        """log q_t of one state of each class."""
        return torch.log(self.class_law(t)) - self.space.log_size

    def _log_q(self, x: Tensor, t: Tensor) -> Tensor:
        number = self.space.number(x)
        if t.ndim == 0:
            return self.log_state(float(t))[number]
        result = torch.empty(len(x), dtype=torch.float64, device=x.device)
        for time in t.unique():  # a kernel of the counts for every time
            mine = t == time
            result[mine] = self.log_state(float(time))[number[mine]]
        return result

    @like_input
    def score(self, x: Any, t: Any) -> Any:
        """From the law of the counts; see `DataLaw.score`."""
        x, t = check_tokens(x, self.S, self.d), real(t).to(x.device)
        if t.ndim:
            result = torch.empty(*x.shape, self.S, dtype=torch.float64, device=x.device)
            for time in t.unique():
                result[t == time] = self.score(x[t == time], float(time))
            return result
        by_move = torch.exp(self.space.log_scores(self.log_state(float(t))))
        number = self.space.number(x).view(-1, 1, 1)
        moves = x.unsqueeze(-1) * self.S + torch.arange(self.S, device=x.device)
        return set_own(by_move[number, moves], x, 1.0)

    def _cavity(self, x: Tensor, t: Tensor) -> Tensor:
        return score_to_cavity(self.score(x, t), x, t)

    def full_support(self) -> bool:
        """Whether every count vector is possible."""
        return bool((self.class_probabilities > 0).all())

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw the counts, then their order."""
        device = self.space.device
        number = torch.multinomial(self.class_probabilities, n, replacement=True, generator=generator)
        order = torch.rand(n, self.d, dtype=torch.float64, generator=generator, device=device).argsort(1)
        return self.space.representatives()[number].gather(1, order)


def curie_weiss(d: int, J: float = 1.3, field: float = 0.0) -> ExchangeableData:
    """p(x) proportional to exp(J m^2 / (2 d) + field m), m = sum of spins 2 x_i - 1.

    Raises:
        InputError: for couplings that are not finite.
    """
    if not (math.isfinite(J) and math.isfinite(field)):
        raise InputError(f"J = {J}, field = {field}: the couplings of the Curie-Weiss law must be finite")
    check_space(2, d)
    ones = torch.arange(d + 1, dtype=torch.float64)
    m = 2 * ones - d
    log_size = math.lgamma(d + 1) - torch.lgamma(ones + 1) - torch.lgamma(d - ones + 1)
    return ExchangeableData(2, d, torch.softmax(J * m**2 / (2 * d) + field * m + log_size, 0))


def two_point(d: int) -> MixtureData:
    """Half all-0, half all-1: no full support, the data for which early stopping is needed."""
    return MixtureData.bernoulli(d, [0.5, 0.5], [0.0, 1.0])
