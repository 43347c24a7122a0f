"""Groups of options that several verbs share; light, so that the command can show its help at once."""

from dataclasses import dataclass, field
from typing import Literal

from shared_core.errors import InputError


@dataclass(frozen=True)
class DataOptions:
    """Which points of a source, and what is done to them.

    Args:
        n: points in all, evenly from both classes of files and images; by default 10 of a generator or image set and
            every row of a file.
        d: dimension of the generators.
        ratio: R_min^2 / (n p) of `near-orthogonal`.
        signal: length of the class mean of `mixture`.
        pair: two classes, such as 0,1 (the first becomes -1).
        label: column of the labels in a csv file; by default `label`, `y`, `target` or `class`, else the last one.
        center: subtract the mean of all points of the chosen source (before the pair is chosen).
        normalize: `mean` scales the mean norm to 1, `unit` every norm.
        features: random Fourier features in place of the points; 0 for none.
        bandwidth: of the features' kernel, in units of the scaled points.
        seed: of generators, of the choice of points and of the features.
    """

    n: int | None = None
    d: int = 784
    ratio: float = 2.0
    signal: float = 1.0
    pair: list[int] | None = None
    label: str | None = None
    center: bool = False
    normalize: Literal["none", "mean", "unit"] = "none"
    features: int = 0
    bandwidth: float = 0.15
    seed: int = 0


@dataclass(frozen=True)
class Grid:
    """What is varied.

    Args:
        gammas: slopes.
        sigma0s: initial scales.
        relative_learning_rates: step sizes eta in units of n m / R_max^2.
        ratios: R_min^2 / (n p); only with the source near-orthogonal.
        runs: of each setting, from initial weights of consecutive seeds.
    """

    gammas: list[float] = field(default_factory=lambda: [0.0, 0.1, 0.5])
    sigma0s: list[float] = field(default_factory=lambda: [1e-4, 1e-2, 1e-1])
    relative_learning_rates: list[float] = field(default_factory=lambda: [0.2])
    ratios: list[float] | None = None
    runs: int = 3

    def check(self, source: str) -> None:
        """Refuse empty axes and ratios of a source that has none.

        Raises:
            InputError: with the axis.
        """
        for name in ("gammas", "sigma0s", "relative_learning_rates"):
            if not getattr(self, name):
                raise InputError(f"grid.{name} must hold at least one value")
        if self.runs < 1:
            raise InputError(f"grid.runs must be at least 1, got {self.runs}")
        if any(not step > 0 for step in self.relative_learning_rates):
            raise InputError(f"grid.relative_learning_rates must be > 0, got {self.relative_learning_rates}")
        if self.ratios is not None and source != "near-orthogonal":
            raise InputError(f"grid.ratios belong to the source near-orthogonal, not to {source}")
