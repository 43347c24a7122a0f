"""The states on which a law lives: all of [S]^d, counts of an exchangeable law, or one token of a product law.

Every space has n states (for counts: classes of `exp(log_size)` equally likely states) and E moves out of each, in a
form that the laws and the bounds share: move e leads from state x to `dst[x, e]`, there are `multiplicity[x, e]` of its
kind (0: no move), and `reverse[x, e]` is the number of the move that leads back.
"""

import itertools
import math
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ctmc_bounds.checks import check_array, check_enumerable, check_space
from ctmc_bounds.forward import UniformCTMC
from ctmc_bounds.kronecker import KroneckerBlocks


class Space:
    """What all spaces share; see the module's head for the moves."""

    kind: str
    n: int
    copies: int = 1  # laws have shape (copies, n) where there are several independent tokens
    dst: Int[Tensor, "n E"]
    reverse: Int[Tensor, "n E"]
    multiplicity: Float[Tensor, "n E"]
    log_size: Float[Tensor, " n"]

    def __init__(self, S: int, d: int, device: torch.device | str = "cpu") -> None:
        check_space(S, d)
        self.S, self.d, self.device = S, d, torch.device(device)
        self.ctmc = UniformCTMC(S, d)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a law on this space."""
        return (self.n,) if self.copies == 1 else (self.copies, self.n)

    def uniform(self) -> Tensor:
        """The law of pure noise."""
        token = self.d if self.copies == 1 else 1
        return torch.exp(self.log_size - token * math.log(self.S)).expand(self.shape).clone()

    def representatives(self) -> Int[Tensor, "n d"]:
        """One token vector of each state."""
        raise NotImplementedError

    def pick(self, table: Float[Tensor, "n d S"]) -> Float[Tensor, "n E"]:
        """Scores s[x, i, c] at the representatives, by moves."""
        raise NotImplementedError

    def log_scores(self, log_q: Tensor) -> Tensor:
        """log q(y)/q(x) of every move, from log-probabilities of single states."""
        return log_q[..., self.dst] - log_q.unsqueeze(-1)

    def exit_rates(self, log_s: Tensor) -> Tensor:
        """R(x) = (1/S) sum over moves of the score."""
        return (torch.exp(log_s) * self.multiplicity).sum(-1) / self.S

    def largest_gap(self, R: Tensor) -> float:
        """Largest |R(y) - R(x)| over neighbours."""
        gap = (R[..., self.dst] - R.unsqueeze(-1)).abs()
        return float(torch.where(self.multiplicity > 0, gap, 0.0).max())

    def inflow(self, rates: Tensor) -> Tensor:
        """Rates into x along each move reversed, G[dst[x, e], x]: (v[dst] * inflow).sum(-1) is v G off the diagonal."""
        return (rates * self.multiplicity)[..., self.dst, self.reverse] * (self.multiplicity > 0)


class EnumeratedSpace(Space):
    """All S^d states; state number = tokens read as digits, token 0 first. Moves are e = i S + c.

    Raises:
        InputError: if there are more than `cap` states.
    """

    kind = "enumerated"

    def __init__(self, S: int, d: int, device: torch.device | str = "cpu") -> None:
        super().__init__(S, d, device)
        self.n = check_enumerable(S, d)
        self.log_size = torch.zeros(self.n, dtype=torch.float64, device=self.device)

    @cached_property
    def blocks(self) -> KroneckerBlocks:
        """The Kronecker structure of the generator."""
        return KroneckerBlocks(self.ctmc, self.device)

    @cached_property
    def strides(self) -> Int[Tensor, " d"]:
        """Value of each digit."""
        return torch.tensor([self.S ** (self.d - 1 - i) for i in range(self.d)], device=self.device)

    def tokens(self, states: Tensor) -> Tensor:
        """Token vectors of state numbers."""
        return states.unsqueeze(-1) // self.strides % self.S

    def number(self, x: Tensor) -> Tensor:
        """State numbers of token vectors (..., d)."""
        return (x * self.strides).sum(-1)

    def representatives(self) -> Tensor:
        """All token vectors in order."""
        return self.tokens(torch.arange(self.n, device=self.device))

    @cached_property
    def dst(self) -> Tensor:  # type: ignore[override]
        """Where each move leads."""
        x = self.representatives()
        change = torch.arange(self.S, device=self.device) - x.unsqueeze(-1)
        number = torch.arange(self.n, device=self.device).view(-1, 1, 1)
        return (number + change * self.strides.view(1, -1, 1)).reshape(self.n, -1)

    @cached_property
    def reverse(self) -> Tensor:  # type: ignore[override]
        """Back to the token that was left."""
        back = torch.arange(self.d, device=self.device) * self.S + self.representatives()
        return back.repeat_interleave(self.S, dim=1)

    @cached_property
    def multiplicity(self) -> Tensor:  # type: ignore[override]
        """1, and 0 where the token would stay."""
        other = torch.arange(self.S, device=self.device) != self.representatives().unsqueeze(-1)
        return other.reshape(self.n, -1).to(torch.float64)

    def pick(self, table: Tensor) -> Tensor:
        """Moves are laid out as scores are."""
        return table.reshape(self.n, -1)

    def largest_gap(self, R: Tensor) -> float:
        """Largest minus smallest exit rate along every axis; no table of neighbours is made."""
        gaps = []
        for axis in range(self.d):
            view = R.view(self.S**axis, self.S, -1)
            gaps.append(float((view.amax(1) - view.amin(1)).max()))
        return max(gaps)


class TokenSpace(Space):
    """One token at a time: d independent copies of S states, for product data."""

    kind = "product"

    def __init__(self, S: int, d: int, device: torch.device | str = "cpu") -> None:
        super().__init__(S, d, device)
        self.n, self.copies = S, d
        grid = torch.arange(S, device=self.device)
        self.dst = grid.expand(S, S)
        self.reverse = grid.view(-1, 1).expand(S, S)
        self.multiplicity = (self.dst != self.reverse).to(torch.float64)
        self.log_size = torch.zeros(S, dtype=torch.float64, device=self.device)

    @property
    def shape(self) -> tuple[int, ...]:
        """Laws are always (d, S)."""
        return (self.d, self.S)

    def uniform(self) -> Tensor:
        """1/S everywhere."""
        return torch.full(self.shape, 1 / self.S, dtype=torch.float64, device=self.device)


class CountSpace(Space):
    """Count vectors (n_0, ..., n_{S-1}) of exchangeable laws; the move e = a S + c turns one token a into c.

    Raises:
        InputError: if there are more than `cap` count vectors.
    """

    kind = "counts"

    def __init__(self, S: int, d: int, device: torch.device | str = "cpu") -> None:
        super().__init__(S, d, device)
        self.n = check_enumerable_counts(S, d)
        check_array(self.n * max(d, S * S), "a table of the counts")
        self.counts = _compositions(d, S).to(self.device)
        counts = self.counts.to(torch.float64)
        self.log_size = math.lgamma(d + 1) - torch.lgamma(counts + 1).sum(1)
        self.weights = torch.tensor([(d + 1) ** (S - 1 - a) for a in range(S)], device=self.device)
        self._keys, self._order = torch.sort((self.counts * self.weights).sum(1))
        a, c = (grid.reshape(-1) for grid in torch.meshgrid(*[torch.arange(S, device=self.device)] * 2, indexing="ij"))
        self.multiplicity = counts[:, a] * (a != c)
        moved = (self.counts * self.weights).sum(1, keepdim=True) + self.weights[c] - self.weights[a]
        here = torch.arange(self.n, device=self.device).view(-1, 1)
        self.dst = torch.where(self.multiplicity > 0, self._find(moved), here)
        self.reverse = (c * S + a).expand(self.n, -1)

    def number(self, x: Tensor) -> Tensor:
        """Class of each token vector (..., d)."""
        return self._find(self.weights[x].sum(-1))

    def _find(self, keys: Tensor) -> Tensor:
        return self._order[torch.searchsorted(self._keys, keys.contiguous()).clamp(max=self.n - 1)]

    def representatives(self) -> Tensor:
        """Sorted tokens: n_0 zeros, then n_1 ones, ..."""
        ends = self.counts.cumsum(1)
        return torch.searchsorted(ends, torch.arange(self.d, device=self.device).repeat(self.n, 1), right=True)

    def pick(self, table: Tensor) -> Tensor:
        """s[x, first token that is a, c] for the move a -> c; 1 where no token is a."""
        first = (self.counts.cumsum(1) - self.counts).clamp(max=self.d - 1)
        rows = table.gather(1, first.unsqueeze(-1).expand(-1, -1, self.S)).reshape(self.n, -1)
        return torch.where(self.multiplicity > 0, rows, 1.0)


def check_enumerable_counts(S: int, d: int) -> int:
    """C(d+S-1, S-1) count vectors.

    Raises:
        InputError: if that is more than 10^6.
    """
    from shared_core.errors import InputError

    count = math.comb(d + S - 1, S - 1)
    if count > 10**6:
        raise InputError(
            f"d = {d}, S = {S} has {count} count vectors, above the cap of 1000000; take a smaller d or S, or .sample"
        )
    return count


def _compositions(d: int, S: int) -> Tensor:
    if S == 2:
        ones = torch.arange(d + 1)
        return torch.stack([d - ones, ones], 1)
    bars = torch.tensor(list(itertools.combinations(range(d + S - 1), S - 1)))
    edges = torch.cat([torch.full((len(bars), 1), -1), bars, torch.full((len(bars), 1), d + S - 1)], 1)
    return edges.diff(dim=1) - 1
