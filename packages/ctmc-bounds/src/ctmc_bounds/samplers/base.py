"""What every sampler offers: `.sample`, `.law`, and how many network calls it takes."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from jaxtyping import Int
from shared_core.errors import InputError
from torch import Tensor

from ctmc_bounds.checks import ARRAY_CAP, check_enumerable, check_tokens
from ctmc_bounds.data_laws import DataLaw
from ctmc_bounds.estimators import ScoreEstimator, keeps_symmetry
from ctmc_bounds.forward import UniformCTMC, move
from ctmc_bounds.laws import Init, Law, initial_law
from ctmc_bounds.marginals import Marginals, choose_space
from ctmc_bounds.schedules import Schedule
from ctmc_bounds.spaces import EnumeratedSpace

Score = DataLaw | ScoreEstimator


@dataclass(frozen=True)
class Samples:
    """Draws of a sampler.

    Attributes:
        tokens: (n, d).
        calls: network calls that one sample takes on average (what a batch of one would ask for).
        jumps: changes of a token per sample; None where the sampler does not count them.
        evaluations: states at which the score was really evaluated; fewer where a table was used.
        notes: what was counted on the way.
    """

    tokens: Int[Tensor, "n d"]
    calls: float
    jumps: float | None
    evaluations: int
    notes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Sampler(ABC):
    """A way to run the reverse process on a schedule.

    Attributes:
        name: as on the command line.
        origin: whose method it is.
    """

    schedule: Schedule
    name: ClassVar[str]
    origin: ClassVar[str]

    @abstractmethod
    def sample(
        self, n: int, score: Score, generator: torch.Generator | None = None, init: Init | Tensor = "uniform"
    ) -> Samples:
        """n draws with the estimator `score`.

        Args:
            n: how many.
            score: a data law (its exact score) or an estimator.
            generator: of all draws, on the device of the samples.
            init: `uniform`, `exact` (only where `score` is a data law), or tokens (n, d) to start from.
        """

    @abstractmethod
    def law(
        self,
        data: DataLaw,
        estimator: Score | None = None,
        init: Init | Tensor = "uniform",
        representation: str = "auto",
    ) -> Law:
        """The law of one draw, exactly.

        Args:
            data: whose q_delta is the target.
            estimator: of the score; None is the exact one.
            init: `uniform`, `exact`, or a law on the representation's states.
            representation: `auto`, `enumerated`, `product` or `counts`.

        Raises:
            InputError: if there is no exact law for so many states.
        """

    @abstractmethod
    def expected_calls(self, ctmc: UniformCTMC) -> float:
        """Network calls per sample, in expectation with the exact score."""

    def _start(self, data: DataLaw, estimator: Score | None, init: Init | Tensor, representation: str) -> Any:
        check_support(data, self.schedule.delta)
        if estimator is not None:
            check_estimator(estimator)
        space = choose_space(data, representation, keeps_symmetry(estimator, data))
        marginals = Marginals(data, space)
        return marginals, initial_law(marginals, self.schedule.T, init)

    def _finish(self, marginals: Marginals, p: Tensor, products: int, notes: dict[str, Any] | None = None) -> Law:
        target = marginals.probabilities(self.schedule.delta)
        return Law(marginals.space, p, target, products, notes or {})


def check_support(data: DataLaw, delta: float) -> None:
    """Refuse delta = 0 where a state has probability 0.

    Raises:
        InputError: naming Assumption 2.
    """
    if delta == 0 and not data.full_support():
        raise InputError(
            "delta = 0, but some states have probability 0 under the data: the score at t = 0 is infinite (Assumption 2"
            " of the paper, full support, does not hold or underflows); stop early with delta > 0 or smooth the data"
        )


def check_estimator(score: Any) -> None:
    """Refuse a bare function, which says nothing of S and d and is not checked.

    Raises:
        InputError: saying how to wrap it.
    """
    if not isinstance(score, DataLaw | ScoreEstimator):
        raise InputError(
            f"the score is a {type(score).__name__}; wrap a function as CallableScore(S, d, function) and a network as"
            " NetworkScore(module, S, d)"
        )


def first_tokens(
    n: int, score: Score, T: float, generator: torch.Generator | None, init: Init | Tensor
) -> Int[Tensor, "n d"]:
    """Tokens at noise level T.

    Raises:
        InputError: if n < 1, or `init` is exact without a data law.
    """
    check_estimator(score)
    if n < 1:
        raise InputError(f"n = {n}: ask for at least one sample")
    if n * score.d > ARRAY_CAP:
        raise InputError(f"n = {n} samples of d = {score.d} tokens do not fit into memory; draw fewer at a time")
    device = score.device if isinstance(score, DataLaw) else generator.device if generator else torch.device("cpu")
    if isinstance(init, Tensor):
        if len(init) != n:
            raise InputError(f"init holds {len(init)} samples; n = {n} were asked for")
        return check_tokens(init, score.S, score.d).clone()
    if init == "uniform":
        return torch.randint(score.S, (n, score.d), generator=generator, device=device)
    if init == "exact" and isinstance(score, DataLaw):
        return noised(score.sample(n, generator), score.S, T, generator)
    raise InputError(f"init {init!r}: give uniform, tokens, or (with a data law as the score) exact")


def noised(x: Int[Tensor, "n d"], S: int, t: float | Tensor, generator: torch.Generator | None = None) -> Tensor:
    """x_t given x_0 = x: each token resampled with probability 1 - e^{-t} (t a number or one per sample)."""
    u = torch.rand(x.shape, dtype=torch.float64, generator=generator, device=x.device)
    time = torch.as_tensor(t, dtype=torch.float64, device=x.device).reshape(-1, 1)
    fresh = torch.randint(S, x.shape, generator=generator, device=x.device)
    return torch.where(u < S * move(time, S), fresh, x)


def table_is_worth_it(score: Score, n: int, limit: int = 10**5) -> bool:
    """Whether all states are fewer than the samples and their score table is small."""
    states = score.S**score.d
    return states <= n and states * score.d * score.S <= limit and bool(check_enumerable(score.S, score.d))


class Evaluated:
    """A score that counts the states it is asked for; from a table of all of them where that is worth it."""

    def __init__(self, score: Score, n: int) -> None:
        check_estimator(score)
        self.score, self.states = score, 0
        device = score.device if isinstance(score, DataLaw) else torch.device("cpu")
        self.space = EnumeratedSpace(score.S, score.d, device) if table_is_worth_it(score, n) else None

    def __call__(self, x: Tensor, t: float) -> Tensor:
        """The score of tokens at one time."""
        if self.space is None or self.space.device != x.device:
            self.states += len(x)
            return self.score(x, t)
        self.states += self.space.n
        return self.score(self.space.representatives(), t)[self.space.number(x)]
