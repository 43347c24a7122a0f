"""Score estimators s_hat_t(x): any callable, a torch network, and models of the error of a score."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Literal

import torch
from shared_core.errors import InputError
from torch import Tensor, nn

from ctmc_bounds.arrays import real
from ctmc_bounds.checks import check_score
from ctmc_bounds.data_laws import DataLaw
from ctmc_bounds.forward import ScoreKind, move
from ctmc_bounds.marginals import Marginals
from ctmc_bounds.parametrisation import cavity_to_score, per_sample, posterior_to_score, set_own
from ctmc_bounds.spaces import EnumeratedSpace, TokenSpace

Parametrisation = Literal["score", "posterior", "cavity"]
BATCH = 2**15


class ScoreEstimator(ABC):
    """s_hat_t(x), shape (batch, d, S), 1 at c = x_i. A data law is one too (its exact score)."""

    S: int
    d: int
    kind: ScoreKind | None = None  # what bounds it by construction; None: nothing

    @abstractmethod
    def __call__(self, x: Tensor, t: Any) -> Tensor:
        """The estimate for tokens (batch, d) at a time, or one per sample."""


class CallableScore(ScoreEstimator):
    """A user's function (tokens, t) -> (batch, d, S), in one of the three parametrisations.

    It may take and give numpy arrays (`numpy=True`) or torch tensors.

    Raises:
        InputError: at a call, if the shape is wrong or a value is not finite or negative.
    """

    def __init__(
        self,
        S: int,
        d: int,
        function: Callable[..., Any],
        parametrisation: Parametrisation = "score",
        numpy: bool = False,
    ) -> None:
        self.S, self.d, self.function, self.parametrisation, self.numpy = S, d, function, parametrisation, numpy
        self.kind = None if parametrisation == "score" else "law"

    def __call__(self, x: Tensor, t: Any) -> Tensor:
        """The function's answer as a score."""
        given = self.function(x.numpy(), t) if self.numpy else self.function(x, t)
        values = check_score(given, (len(x), self.d, self.S), t)
        if self.parametrisation == "score":
            return set_own(values, x, 1.0)
        total = values.sum(-1)
        if values.numel() and float((total - 1).abs().max()) > 1e-4:
            raise InputError(
                f"the {self.parametrisation} estimate sums to {float(total.max()):.6g} over the clean tokens; expected"
                " 1 (apply softmax to logits)"
            )
        convert = cavity_to_score if self.parametrisation == "cavity" else posterior_to_score
        return set_own(convert(values, x, t), x, 1.0)


class NetworkScore(ScoreEstimator):
    """A torch network (tokens, t of shape (batch,)) -> logits (batch, d, S) of the cavity or posterior law.

    Logits are widened to float64 before the softmax. With `score` the network's output is the log-score.
    """

    def __init__(self, module: nn.Module, S: int, d: int, parametrisation: Parametrisation = "cavity") -> None:
        self.module, self.S, self.d, self.parametrisation = module, S, d, parametrisation
        self.kind = None if parametrisation == "score" else "law"

    @torch.no_grad()
    def __call__(self, x: Tensor, t: Any) -> Tensor:
        """The network's score."""
        times = real(t).to(x.device).expand(len(x))
        logits = self.module(x, times)
        if tuple(logits.shape) != (len(x), self.d, self.S):
            raise InputError(f"the network gave {tuple(logits.shape)}; expected (batch, d, S) = {(*x.shape, self.S)}")
        logits = logits.to(torch.float64)
        if self.parametrisation == "score":
            values = torch.exp(logits)
        else:
            convert = cavity_to_score if self.parametrisation == "cavity" else posterior_to_score
            values = convert(torch.softmax(logits, -1), x, times)
        return set_own(check_score(values, tuple(logits.shape), t), x, 1.0)


class DistortedScore(ScoreEstimator):
    """A base estimator (by default an exact score), made wrong in a known way.

    `elementwise` errors change each value by itself, so that product and exchangeable structure is kept.
    """

    elementwise = True

    def __init__(self, base: DataLaw | ScoreEstimator) -> None:
        self.base, self.S, self.d = base, base.S, base.d

    @abstractmethod
    def distort(self, log_s: Tensor, x: Tensor | None, t: Any) -> Tensor:
        """The log of the wrong score; `x` is None for an elementwise error on moves."""

    def __call__(self, x: Tensor, t: Any) -> Tensor:
        """The wrong score, 1 at c = x_i."""
        return set_own(torch.exp(self.distort(torch.log(self.base(x, t)), x, t)), x, 1.0)


class ConstantBias(DistortedScore):
    """s_hat = e^eta s: the score term of the bound is d (1-1/S) (T-delta) (e^eta - 1 - eta) exactly."""

    def __init__(self, base: DataLaw | ScoreEstimator, eta: float) -> None:
        super().__init__(base)
        self.eta = eta

    def distort(self, log_s: Tensor, x: Tensor | None, t: Any) -> Tensor:
        """log s + eta."""
        return log_s + self.eta


class Tempered(DistortedScore):
    """s_hat = s^power: too flat below 1, too sharp above."""

    def __init__(self, base: DataLaw | ScoreEstimator, power: float) -> None:
        super().__init__(base)
        self.power = power

    def distort(self, log_s: Tensor, x: Tensor | None, t: Any) -> Tensor:
        """power log s."""
        return self.power * log_s


class Clipped(DistortedScore):
    """s_hat clipped to [b_t/a_t, a_t/b_t]; never increases the Bregman loss at any state.

    A clipped token can leave at S-1 times the rate of `UniformCTMC.exit_rate_bound` for true scores (`kind`).
    """

    def __init__(self, base: DataLaw | ScoreEstimator) -> None:
        super().__init__(base)
        self.kind = "law" if base.kind == "law" else "clipped"  # ratios of a law are within the range already

    def distort(self, log_s: Tensor, x: Tensor | None, t: Any) -> Tensor:
        """log s within -+ log(a_t/b_t)."""
        time = per_sample(t, log_s.ndim).to(log_s.device)
        bound = torch.log1p(torch.exp(-time) / move(time, self.S))
        return torch.minimum(torch.maximum(log_s, -bound), bound)


class LogNormalNoise(DistortedScore):
    """s_hat = s exp(sigma z(x, i, c)), z standard normal, fixed per entry and seed at all times (hashed, any d)."""

    elementwise = False

    def __init__(self, base: DataLaw | ScoreEstimator, sigma: float, seed: int = 0) -> None:
        super().__init__(base)
        self.sigma, self.seed = sigma, seed

    def distort(self, log_s: Tensor, x: Tensor | None, t: Any) -> Tensor:
        """log s + sigma z."""
        assert x is not None
        key = torch.full((len(x),), self.seed, dtype=torch.int64, device=x.device)
        for i in range(self.d):
            key = _mix(key * 1000003 + x[:, i] + 1)
        entry = torch.arange(self.d * self.S, device=x.device).view(1, self.d, self.S)
        first = _mix(key.view(-1, 1, 1) * 31 + entry)
        radius = torch.sqrt(-2 * torch.log(_unit(first)))
        return log_s + self.sigma * radius * torch.cos(2 * math.pi * _unit(_mix(first + 1)))


def _mix(key: Tensor) -> Tensor:
    """A splitmix64 round; int64 arithmetic wraps around."""
    key = key * -7046029254386353131
    key = (key ^ ((key >> 30) & 0x3FFFFFFFF)) * -4658895280553007687
    key = (key ^ ((key >> 27) & 0x1FFFFFFFFF)) * -7723592293110705685
    return key ^ ((key >> 31) & 0x1FFFFFFFF)


def _unit(key: Tensor) -> Tensor:
    """Uniform in (0, 1)."""
    return (((key >> 11) & 0x1FFFFFFFFFFFFF).to(torch.float64) + 0.5) / 2**53


def is_exact(estimator: Any, data: DataLaw) -> bool:
    """Whether the estimator is the data law itself (None says so)."""
    return estimator is None or estimator is data


def keeps_symmetry(estimator: Any, data: DataLaw) -> bool:
    """Whether the estimate is a function of each exact score value alone."""
    if is_exact(estimator, data):
        return True
    return isinstance(estimator, DistortedScore) and estimator.elementwise and keeps_symmetry(estimator.base, data)


def log_scores(marginals: Marginals, t: float, estimator: Any = None) -> Tensor:
    """log s_hat_t of every move of the space, shape (..., n, E).

    Raises:
        InputError: if the estimate is not finite, negative, or of another shape.
    """
    space = marginals.space
    if is_exact(estimator, marginals.data):
        return space.log_scores(marginals.log_q(t))
    if keeps_symmetry(estimator, marginals.data):
        inner = log_scores(marginals, t, estimator.base)
        hat = torch.where(space.multiplicity > 0, estimator.distort(inner, None, t), 0.0)
        check_score(torch.exp(hat), tuple(hat.shape), t)
        return hat
    if estimator.S != space.S or estimator.d != space.d:
        raise InputError(
            f"the estimator is for S = {estimator.S}, d = {estimator.d}; the data have S = {space.S}, d = {space.d}"
        )
    assert not isinstance(space, TokenSpace)
    parts = space.representatives().split(BATCH)
    table = torch.cat([check_score(estimator(x, t), (len(x), space.d, space.S), t) for x in parts])
    if isinstance(space, EnumeratedSpace):
        table = set_own(table, space.representatives(), 1.0)
    return torch.log(space.pick(table))
