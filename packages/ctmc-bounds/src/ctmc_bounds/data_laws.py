"""Data laws with exact marginals, scores, posteriors and cavity laws at every noise level."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from shared_core.errors import InputError
from torch import Tensor

from ctmc_bounds.arrays import like_input, real
from ctmc_bounds.checks import check_enumerable, check_probabilities, check_space, check_tokens
from ctmc_bounds.forward import ScoreKind, UniformCTMC, decay, move
from ctmc_bounds.parametrisation import cavity_to_posterior, cavity_to_score, per_sample
from ctmc_bounds.spaces import EnumeratedSpace

ROWS = 2**16  # states evaluated at once where all of them are


class DataLaw(ABC):
    """A law p_data on [S]^d. A subclass gives `_log_q` and `_cavity`; everything else follows.

    Methods take tokens (batch, d) as tensor or numpy array, and a time t >= 0 or one per sample.
    """

    exchangeable: bool = False
    kind: ScoreKind = "law"
    S: int
    d: int

    def _place(self, S: int, d: int) -> None:
        check_space(S, d)
        self.S, self.d = S, d
        self.ctmc = UniformCTMC(S, d)

    @abstractmethod
    def _log_q(self, x: Tensor, t: Tensor) -> Tensor: ...

    @abstractmethod
    def _cavity(self, x: Tensor, t: Tensor) -> Tensor: ...

    @abstractmethod
    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """n draws of p_data, int64 of shape (n, d)."""

    @like_input
    def log_q(self, x: Any, t: Any = 0.0) -> Any:
        """log q_t(x), shape (batch,); -inf where the probability is 0."""
        return self._log_q(check_tokens(x, self.S, self.d), real(t).to(x.device))

    @like_input
    def cavity(self, x: Any, t: Any) -> Any:
        """mu[i, a] = P(x0_i = a | x_t without coordinate i), shape (batch, d, S)."""
        return self._cavity(check_tokens(x, self.S, self.d), real(t).to(x.device))

    @like_input
    def posterior(self, x: Any, t: Any) -> Any:
        """P(x0_i = a | x_t = x), shape (batch, d, S)."""
        return cavity_to_posterior(self.cavity(x, t), x, t)

    @like_input
    def score(self, x: Any, t: Any) -> Any:
        """s_t(x)[i, c] = q_t(x^{i->c}) / q_t(x), shape (batch, d, S)."""
        return cavity_to_score(self.cavity(x, t), x, t)

    def __call__(self, x: Any, t: Any) -> Any:
        """The exact score: a data law is its own perfect estimator."""
        return self.score(x, t)

    @property
    def device(self) -> torch.device:
        """Where its tensors are."""
        return next((v.device for v in vars(self).values() if isinstance(v, Tensor)), torch.device("cpu"))

    def to(self, device: torch.device | str) -> "DataLaw":
        """Move every tensor to `device` (in place), and return the law."""
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(self, name, value.to(device))
        return self

    @cached_property
    def table(self) -> Float[Tensor, " n"]:
        """p_data of all S^d states.

        Raises:
            InputError: if there are too many states.
        """
        space = EnumeratedSpace(self.S, self.d, self.device)
        states = torch.arange(space.n, device=self.device).split(ROWS)
        return torch.cat([torch.exp(self.log_q(space.tokens(part), 0.0)) for part in states])

    def full_support(self) -> bool:
        """Whether every state has positive probability (needed for delta = 0)."""
        return bool((self.table > 0).all())


class TableData(DataLaw):
    """Any law, as a table of probabilities of shape (S,)*d, or flat with S and d given.

    Raises:
        InputError: if it is no probability table, or has too many states.
    """

    def __init__(self, probabilities: Any, S: int | None = None, d: int | None = None) -> None:
        p = real(probabilities)
        if S is None or d is None:
            if p.ndim == 0 or len(set(p.shape)) != 1:
                raise InputError(f"the table has shape {tuple(p.shape)}; expected (S,)*d, or a flat table with S and d")
            S, d = p.shape[0], p.ndim
        self._place(S, d)
        n = check_enumerable(S, d)
        if p.numel() != n:
            raise InputError(f"the table has {p.numel()} entries; S^d = {S}^{d} = {n} are expected")
        self.probabilities = check_probabilities(p.reshape(-1), "the table of probabilities")
        self._recent: tuple[float, Tensor] | None = None

    @property
    def table(self) -> Tensor:
        """As given."""
        return self.probabilities

    def marginal(self, t: float) -> Tensor:
        """q_t of all states; the last one is kept."""
        if self._recent is None or self._recent[0] != t or self._recent[1].device != self.probabilities.device:
            self._recent = (t, self.ctmc.marginal(self.probabilities, t))
        return self._recent[1]

    def _number(self, x: Tensor) -> Tensor:
        return EnumeratedSpace(self.S, self.d, x.device).number(x)

    def _log_q(self, x: Tensor, t: Tensor) -> Tensor:
        if t.ndim == 0:
            return torch.log(self.marginal(float(t))[self._number(x)])
        noisy = self._unnormalised(x, t)[:, 0]
        return torch.log((noisy * _kernel_column(x[:, 0], t, self.S)).sum(-1))

    def _cavity(self, x: Tensor, t: Tensor) -> Tensor:
        parts = x.split(max(1, 2**24 // len(self.probabilities)))
        times = t.expand(len(x)).split(len(parts[0])) if len(x) else [t]
        mu = torch.cat([self._unnormalised(part, time) for part, time in zip(parts, times, strict=True)])
        return mu / mu.sum(-1, keepdim=True)

    def _unnormalised(self, x: Tensor, t: Tensor) -> Tensor:
        """P(x0_i = a, x_t without i), (batch, d, S): one sweep of contractions from each end, O(n) a sample."""
        columns = [_kernel_column(x[:, i], t, self.S) for i in range(self.d)]
        left, found = self.probabilities.expand(len(x), -1), []
        for i in range(self.d):
            inner = left
            for j in range(self.d - 1, i, -1):
                inner = torch.matmul(inner.reshape(len(x), -1, self.S), columns[j].unsqueeze(-1)).squeeze(-1)
            found.append(inner.reshape(len(x), self.S))
            if i + 1 < self.d:
                left = torch.matmul(columns[i].unsqueeze(1), left.reshape(len(x), self.S, -1)).squeeze(1)
        return torch.stack(found, 1)

    def score(self, x: Any, t: Any) -> Any:
        """By looking up q_t where one time is asked for; see `DataLaw.score`."""
        if torch.as_tensor(t).ndim:
            return super().score(x, t)
        return self._table_score(x, float(t))

    @like_input
    def _table_score(self, x: Any, t: float) -> Any:
        x = check_tokens(x, self.S, self.d)
        space = EnumeratedSpace(self.S, self.d, x.device)
        q = self.marginal(t)
        change = (torch.arange(self.S, device=x.device) - x.unsqueeze(-1)) * space.strides.view(1, -1, 1)
        number = space.number(x)
        return q[number.view(-1, 1, 1) + change] / q[number].view(-1, 1, 1)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """n draws of the table."""
        ends = self.probabilities.cumsum(0)
        u = torch.rand(n, dtype=torch.float64, generator=generator, device=ends.device) * ends[-1]
        number = torch.searchsorted(ends, u, right=True).clamp(max=len(ends) - 1)
        return EnumeratedSpace(self.S, self.d, ends.device).tokens(number)


def _kernel_column(token: Tensor, t: Tensor, S: int) -> Tensor:
    """K_t(a, token) for every a, (batch, S)."""
    one_hot = torch.nn.functional.one_hot(token, S).to(torch.float64)
    time = t.reshape(-1, 1) if t.ndim else t
    return decay(time) * one_hot + move(time, S)


class MixtureData(DataLaw):
    """sum_m weights[m] prod_i probabilities[m, i, x_i]: M products.

    Args:
        weights: (M,).
        probabilities: (M, d, S).

    Raises:
        InputError: for a wrong shape or what are no probabilities.
    """

    def __init__(self, weights: Any, probabilities: Any) -> None:
        self.weights, self.probabilities = real(weights), real(probabilities)
        if self.probabilities.ndim != 3 or self.weights.shape != self.probabilities.shape[:1]:
            raise InputError(
                f"weights {tuple(self.weights.shape)} and probabilities {tuple(self.probabilities.shape)} do not fit;"
                " expected (M,) and (M, d, S)"
            )
        self._place(self.probabilities.shape[2], self.probabilities.shape[1])
        check_probabilities(self.weights, "the mixture's weights")
        check_probabilities(self.probabilities, "a component's token probabilities", dim=-1)
        self.exchangeable = bool((self.probabilities == self.probabilities[:, :1]).all())

    @classmethod
    def bernoulli(cls, d: int, weights: list[float], ones: list[float]) -> "MixtureData":
        """sum_m weights[m] Bernoulli(ones[m])^d."""
        check_space(2, d)
        rows = [[[1 - p, p]] * d for p in ones]
        return cls(torch.tensor(weights, dtype=torch.float64), torch.tensor(rows, dtype=torch.float64))

    def _terms(self, x: Tensor, t: Tensor) -> Tensor:
        """log of e^{-t} p_{m,i}(x_i) + b_t, (batch, M, d)."""
        sites = torch.arange(self.d, device=x.device)
        time = per_sample(t)
        chosen = self.probabilities[:, sites, x].permute(1, 0, 2)
        return torch.log(decay(time) * chosen + move(time, self.S))

    def _log_q(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.logsumexp(torch.log(self.weights) + self._terms(x, t).sum(-1), -1)

    def _cavity(self, x: Tensor, t: Tensor) -> Tensor:
        terms = self._terms(x, t)
        log_w = torch.log(self.weights).view(1, -1, 1)
        if bool(torch.isfinite(terms).all()):
            others = terms.sum(-1, keepdim=True) - terms
        else:  # at t = 0 a token may be impossible, and minus infinity cannot be taken away again
            zero = torch.zeros_like(terms[..., :1])
            before = torch.cat([zero, terms.cumsum(-1)[..., :-1]], -1)
            after = torch.cat([terms.flip(-1).cumsum(-1).flip(-1)[..., 1:], zero], -1)
            others = before + after
        share = torch.softmax(log_w + others, dim=1)
        return torch.einsum("bmi,mia->bia", share, self.probabilities)

    def full_support(self) -> bool:
        """Whether some component of positive weight allows every token everywhere, or else by the table."""
        if bool((self.probabilities[self.weights > 0] > 0).all(-1).all(-1).any()):
            return True
        allowed = (self.probabilities[self.weights > 0] > 0).any(0)
        return bool(allowed.all()) and super().full_support()

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw the component, then every token."""
        device = self.weights.device
        m = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        u = torch.rand(n, self.d, 1, dtype=torch.float64, generator=generator, device=device)
        return (u > self.probabilities.cumsum(-1)[m]).sum(-1).clamp(max=self.S - 1)


class ProductData(MixtureData):
    """prod_i probabilities[i, x_i]; every sampler's law factorises too.

    Args:
        probabilities: (d, S).

    Raises:
        InputError: for another shape, or rows that are no distributions.
    """

    def __init__(self, probabilities: Any) -> None:
        p = real(probabilities)
        if p.ndim != 2:
            raise InputError(f"probabilities have shape {tuple(p.shape)}; expected (d, S)")
        super().__init__(torch.ones(1, dtype=torch.float64), p.unsqueeze(0))

    def token_marginals(self, t: float) -> Float[Tensor, "d S"]:
        """Laws of the tokens at noise level t."""
        return decay(t) * self.probabilities[0] + move(t, self.S)


class CallableData(TableData):
    """A law given by a function: tokens (batch, d) -> log-probabilities (batch,), enumerated once.

    Raises:
        InputError: if the probabilities do not sum to 1 (set `normalise` to divide by their sum).
    """

    def __init__(self, S: int, d: int, log_prob: Callable[[Tensor], Any], normalise: bool = False) -> None:
        space = EnumeratedSpace(S, d)
        parts = [real(log_prob(space.tokens(part))) for part in torch.arange(space.n).split(ROWS)]
        values = torch.cat([part.reshape(-1) for part in parts])
        if values.numel() != space.n:
            raise InputError(f"log_prob gave {values.numel()} values for {space.n} states; expected one a state")
        if normalise:
            values = values - torch.logsumexp(values, 0)
        super().__init__(torch.exp(values), S, d)
