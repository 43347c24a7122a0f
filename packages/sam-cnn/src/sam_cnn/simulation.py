"""Many runs at once: any cells, any seeds, one algorithm a call, in chunks that fit the processor's cache."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from shared_core.device import one_thread
from shared_core.errors import InputError
from torch import Tensor

from sam_cnn.alignment import Activity, activity, decompose
from sam_cnn.dynamics import Schedule, Trajectory, sample_weights, train
from sam_cnn.patches import PatchData
from sam_cnn.span import Span, draw_spans, initial_std
from sam_cnn.test_error import clean_test_error, training_error

CACHE_BYTES = 1 << 19


@dataclass(frozen=True)
class Training:
    """Network and algorithm.

    Args:
        m: filters of each sign.
        init: small, theorem, torch or a standard deviation (see `initial_std`).
        eta: learning rate, or `auto` = 0.5 n m / ((P-1)^2 sigma_p^2 d): noise is then fitted in O(1) steps.
        tau: radius of SAM, or `auto` = 0.5 m sqrt(B) / (P sigma_p sqrt d), the theorem's scale; 0 is GD or SGD.
        steps: in all.
        sam_steps: the first so many are SAM's, then plain steps; None for all.
        batch_size: B; None for the full batch.
        points: test points a run.

    Raises:
        InputError: for values out of range.
    """

    m: int = 10
    init: str | float = "torch"
    eta: str | float = 0.01
    tau: str | float = 0.0
    steps: int = 100
    sam_steps: int | None = None
    batch_size: int | None = None
    points: int = 1000

    def __post_init__(self) -> None:
        for name in ("m", "points"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be >= 1, got {getattr(self, name)}")
        for name, zero in (("eta", False), ("tau", True)):
            value = getattr(self, name)
            if value == "auto":
                continue
            try:
                number = float(value)
            except ValueError:
                number = math.nan
            if not (math.isfinite(number) and (number > 0 or (zero and number == 0))):
                option, least = ("rho", ">= 0") if zero else ("learning_rate", "> 0")
                raise InputError(f"{option} ({name} in the paper) must be auto or a number {least}, got {value!r}")
        self.schedule()

    def schedule(self) -> Schedule:
        """Steps and batches."""
        return Schedule(self.steps, self.sam_steps, self.batch_size)

    def eta_for(self, data: PatchData) -> float:
        """Learning rate as a number."""
        scale = (data.P - 1) ** 2 * data.sigma_p**2 * data.d
        return 0.5 * data.n * self.m / scale if self.eta == "auto" else float(self.eta)

    def tau_for(self, data: PatchData) -> float:
        """Radius as a number."""
        if self.tau == "auto":
            return tau_theory(self.m, self.batch_size or data.n, data.P, data.sigma_p, data.d)
        return float(self.tau)


def tau_theory(m: int, B: int, P: int, sigma_p: float, d: int, constant: float = 0.5) -> float:
    """The theorem's scale of the radius, tau = constant m sqrt(B) / (P sigma_p sqrt d)."""
    return constant * m * math.sqrt(B) / (P * sigma_p * math.sqrt(d))


@dataclass(frozen=True)
class Outcome:
    """What every run ended with; NaN where it diverged.

    Attributes:
        clean_error: on fresh points against clean labels.
        noisy_error: against observed labels, p + (1 - 2p) clean_error.
        train_loss: logistic, on observed labels.
        train_error: against observed labels.
        gamma: largest alignment with the signal.
        rho: largest noise memorisation.
        signal: mean signal part of y f on the training set.
        noise: mean noise part.
        active_on_noise: fraction of own-label neurons active on the noise of their sample.
    """

    clean_error: Float[Tensor, "run"]
    noisy_error: Float[Tensor, "run"]
    train_loss: Float[Tensor, "run"]
    train_error: Float[Tensor, "run"]
    gamma: Float[Tensor, "run"]
    rho: Float[Tensor, "run"]
    signal: Float[Tensor, "run"]
    noise: Float[Tensor, "run"]
    active_on_noise: Float[Tensor, "run"]


@dataclass(frozen=True)
class Record:
    """The state at one step.

    Attributes:
        step: number of steps taken.
        at_weights: activity at W.
        perturbed: activity at W + eps of the coming step, None in a plain step.
        gamma: largest alignment with the signal.
        rho: largest noise memorisation.
    """

    step: int
    at_weights: Activity
    perturbed: Activity | None
    gamma: Float[Tensor, "run"]
    rho: Float[Tensor, "run"]


def simulate(
    data: PatchData | Sequence[PatchData],
    training: Training,
    seeds: Sequence[int],
    device: torch.device | str = "cpu",
) -> Outcome:
    """Train every (cell, seed) with one algorithm; runs are ordered cell by cell.

    A run's result depends on its cell, its seed and the algorithm only, not on the other runs of the call, and two
    algorithms meet the same data, start and test points.

    Raises:
        InputError: for no cell or seed, cells that differ in n, P or the kind of noise, a batch larger than n, or d too
            small.
    """
    cells = [data] if isinstance(data, PatchData) else list(data)
    if not cells or not seeds:
        raise InputError("a simulation needs at least one cell and one seed")
    _check_alike(cells)
    runs = [(cell, seed) for cell in cells for seed in seeds]
    place = torch.device(device)
    with one_thread():
        parts = [_run(runs[first : first + size], training, place) for first, size in _chunks(runs, training)]
    return Outcome(*(torch.cat(columns) for columns in zip(*(vars(part).values() for part in parts), strict=True)))


def _check_alike(cells: list[PatchData]) -> None:
    if not cells:
        raise InputError("no cell given")
    for name in ("n", "P", "noise_patches"):
        if len({getattr(cell, name) for cell in cells}) > 1:
            raise InputError(f"cells of one call must share {name}, got {sorted({getattr(c, name) for c in cells})}")


def _chunks(runs: list[tuple[PatchData, int]], training: Training) -> list[tuple[int, int]]:
    cell = runs[0][0]
    one = 2 * training.m * (1 + cell.n * cell.noises) * 8
    size = max(1, CACHE_BYTES // one)
    return [(first, size) for first in range(0, len(runs), size)]


def _run(runs: list[tuple[PatchData, int]], training: Training, device: torch.device) -> Outcome:
    cells, seeds = [cell for cell, _ in runs], [seed for _, seed in runs]
    sigma_0 = [initial_std(training.init, cell) for cell in cells]
    span = draw_spans(cells, training.m, sigma_0, seeds, training.points).to(device)
    eta = torch.tensor([training.eta_for(cell) for cell in cells], dtype=torch.float64)
    tau = torch.tensor([training.tau_for(cell) for cell in cells], dtype=torch.float64)
    schedule = training.schedule()
    end = train(span, schedule, eta, tau, sample_weights(schedule, cells[0].n, seeds))
    p = torch.tensor([cell.p for cell in cells], dtype=torch.float64)
    return _measure(span, end, p)


def _measure(span: Span, end: Trajectory, p: Tensor) -> Outcome:
    clean = clean_test_error(span, end).cpu()
    loss, error = training_error(span, end)
    parts, found = decompose(span, end.coefficients), activity(span, end.products)
    columns = (loss, error, parts.gamma.amax(-1), parts.rho.amax((-2, -1)), found.signal, found.noise)
    return Outcome(clean, p + (1 - 2 * p) * clean, *(c.cpu() for c in (*columns, found.active_on_noise)))


def trace(
    data: PatchData,
    training: Training,
    seeds: Sequence[int],
    at: Sequence[int],
    device: torch.device | str = "cpu",
) -> tuple[Outcome, list[Record]]:
    """One cell, with the state recorded after the given numbers of steps.

    Raises:
        InputError: if a step is not in 0..steps.
    """
    outside = [step for step in at if not 0 <= step <= training.steps]
    if outside:
        raise InputError(f"recorded steps must be in 0..steps = {training.steps}, got {outside[0]}")
    wanted, records = set(at), []
    sigma_0 = initial_std(training.init, data)
    span = draw_spans([data] * len(seeds), training.m, [sigma_0] * len(seeds), seeds, training.points).to(
        torch.device(device)
    )

    def observe(step: int, S: Tensor, perturbed: Tensor | None, C: Tensor) -> None:
        if step in wanted:
            parts = decompose(span, C)
            there = None if perturbed is None else activity(span, perturbed)
            largest = parts.gamma.amax(-1), parts.rho.amax((-2, -1))
            records.append(Record(step, activity(span, S), there, *largest))

    schedule = training.schedule()
    batches = sample_weights(schedule, data.n, list(seeds))
    with one_thread():
        end = train(span, schedule, training.eta_for(data), training.tau_for(data), batches, observe)
    return _measure(span, end, torch.full((len(seeds),), data.p, dtype=torch.float64)), records


def grid(base: PatchData, d: Sequence[int], mu: Sequence[float]) -> list[PatchData]:
    """Cells with every d and |mu|, mu varying fastest."""
    return [replace(base, d=dimension, mu=length) for dimension in d for length in mu]


def trainings_by_tau(taus: Sequence[str], **options: Any) -> dict[str, Training]:
    """One training for each radius, named as in figures and tables.

    Raises:
        InputError: for a radius that is neither auto nor a number >= 0, none at all, or one given twice.
    """
    result = {}
    for tau in taus:
        training = Training(tau=tau, **options)
        name = "SAM rho auto" if tau == "auto" else "GD" if float(tau) == 0 else f"SAM rho {float(tau):g}"
        name = name.replace("GD", "SGD") if training.batch_size is not None else name
        if name in result:
            raise InputError(f"rho {tau} is given twice")
        result[name] = training
    if not result:
        raise InputError("rho: no radius given")
    return result
