"""The command `leaky-relu-bias`: verbs to public functions."""

from typing import Literal

from shared_core.cli import Verb
from shared_core.cli import run as run_command

from leaky_relu_bias.options import DataOptions, Grid

SUMMARY = "Where gradient descent takes two-layer (leaky) ReLU networks."


def data_(source: str, out: str = "data.npz", data: DataOptions = DataOptions(), json: bool = False) -> None:
    """Make or prepare a training set and write it as .npz (X, y).

    Args:
        source: gaussian, orthogonal, near-orthogonal, mixture, mnist5k, digits, or a file (csv, npz, npy, IDX).
        out: the .npz file; an existing file is not overwritten.
        data: which points, and what is done to them.
        json: print the geometry as JSON instead of a table.
    """
    from leaky_relu_bias.datasets import load, save_npz
    from leaky_relu_bias.report import print_mapping

    points = load(source, data)
    save_npz(points, out)
    print_mapping({"out": out} | points.describe(), json)


def check(
    source: str,
    data: DataOptions = DataOptions(),
    m: int = 50,
    gamma: float = 0.5,
    sigma0: float = 1e-4,
    learning_rate: float | None = None,
    orthogonality: float = 1.0,
    relative_learning_rate: float = 1.0,
    init: float = 1.0,
    total_width: bool = False,
    seed: int = 0,
    json: bool = False,
) -> None:
    """Measure the theorem's assumptions and two certificates on the data alone.

    Args:
        source: a generator, image set or file, as in `data`.
        data: which points, and what is done to them.
        m: neurons of each sign.
        gamma: slope of the activation for negative input; 0 is ReLU.
        sigma0: standard deviation of the initial weights.
        learning_rate: eta in the paper; 0.2 n m / R_max^2 by default.
        orthogonality: the constant C wanted of R_min^2 / (n p).
        relative_learning_rate: the largest eta R_max^2 / (n m) wanted.
        init: the largest initial pre-activation wanted, in units of the first update.
        total_width: m counts the whole hidden layer (both signs).
        seed: of the initial weights.
        json: print JSON instead of a table.
    """
    from leaky_relu_bias.assumptions import check_assumptions
    from leaky_relu_bias.datasets import load
    from leaky_relu_bias.network import network_of
    from leaky_relu_bias.report import print_assumptions

    net = network_of(m, gamma, sigma0, seed, total_width)
    found = check_assumptions(
        load(source, data),
        None,
        net,
        eta=_eta(learning_rate),
        orthogonality=orthogonality,
        relative_learning_rate=relative_learning_rate,
        init=init,
    )
    print_assumptions(found, json)


def limits(
    source: str,
    data: DataOptions = DataOptions(),
    m: int = 50,
    gamma: float = 0.5,
    sigma0: float = 1e-4,
    learning_rate: float | None = None,
    total_width: bool = False,
    seed: int = 0,
    json: bool = False,
) -> None:
    """Predict before training: support vectors, margins, loss rate, stable ranks.

    Args:
        source: a generator, image set or file, as in `data`.
        data: which points, and what is done to them.
        m: neurons of each sign.
        gamma: slope of the activation for negative input; 0 is ReLU.
        sigma0: standard deviation of the initial weights (decides the pattern of ReLU nets).
        learning_rate: eta in the paper; 0.2 n m / R_max^2 by default.
        total_width: m counts the whole hidden layer (both signs).
        seed: of the initial weights.
        json: print JSON instead of a table.
    """
    from leaky_relu_bias.datasets import load
    from leaky_relu_bias.max_margin import limits as predict
    from leaky_relu_bias.network import network_of
    from leaky_relu_bias.report import print_limits

    points = load(source, data)
    print_limits(predict(points, None, network_of(m, gamma, sigma0, seed, total_width), eta=_eta(learning_rate)), json)


def run(
    source: str,
    data: DataOptions = DataOptions(),
    m: int = 50,
    gamma: float = 0.5,
    sigma0: float = 1e-4,
    learning_rate: float | None = None,
    steps: int = 100_000,
    engine: Literal["auto", "plain", "gram", "reduced"] = "auto",
    dtype: Literal["float64", "float32"] = "float64",
    total_width: bool = False,
    seed: int = 0,
    runs: int = 1,
    out: str | None = None,
    device: str = "auto",
    json: bool = False,
) -> None:
    """Train exactly, record at t = 0, 1, 2, 5, 10, ..., compare the end with the prediction.

    Args:
        source: a generator, image set or file, as in `data`.
        data: which points, and what is done to them.
        m: neurons of each sign.
        gamma: slope of the activation for negative input; 0 is ReLU.
        sigma0: standard deviation of the initial weights.
        learning_rate: eta in the paper; 0.2 n m / R_max^2 by default.
        steps: updates.
        engine: plain (weights), gram (Gram matrix), reduced (certified pattern); auto chooses and says why.
        dtype: float32 only to see it stall.
        total_width: m counts the whole hidden layer (both signs).
        seed: of the first initial weights.
        runs: how many, from initial weights of consecutive seeds, trained as a batch.
        out: run folder; runs/leaky-relu-bias-run by default.
        device: auto (a GPU where the batch is worth it), cpu, cuda or cuda:N; mps has no float64.
        json: print the result as JSON instead of a table.
    """
    from leaky_relu_bias.network import network_of
    from leaky_relu_bias.report import print_run
    from leaky_relu_bias.run import run_to_folder
    from leaky_relu_bias.run_files import RunSettings

    net = network_of(m, gamma, sigma0, seed, total_width)
    settings = RunSettings(source, data, net.m, gamma, sigma0, learning_rate, steps, engine, dtype, seed, runs)
    print_run(run_to_folder(settings, out, device), json)


def continue_(
    run: str,
    mode: Literal["log-time", "exact", "normalized"] = "log-time",
    log10_t: float = 100.0,
    steps: int = 1_000_000,
    out: str | None = None,
    device: str = "auto",
    json: bool = False,
) -> None:
    """Take a run to astronomical times, by more exact steps, or by loss-normalised descent.

    Args:
        run: folder of a run.
        mode: log-time (to 10^log10_t with error control), exact (to `steps` in all), normalized (`steps` more).
        log10_t: where log-time ends.
        steps: where exact steps end, or how many loss-normalised ones.
        out: run folder; RUN/continue-MODE by default.
        device: auto (a GPU where the batch is worth it), cpu, cuda or cuda:N; mps has no float64.
        json: print the result as JSON instead of a table.
    """
    from leaky_relu_bias.continue_run import continue_run
    from leaky_relu_bias.report import print_run

    print_run(continue_run(run, mode, log10_t, steps, out, device), json)


def sweep(
    source: str,
    data: DataOptions = DataOptions(),
    grid: Grid = Grid(),
    m: int = 50,
    steps: int = 10_000,
    seed: int = 0,
    out: str | None = None,
    device: str = "auto",
    json: bool = False,
) -> None:
    """Train a grid of slopes, initial scales, learning rates, ratios and seeds in batches.

    Args:
        source: a generator, image set or file, as in `data`.
        data: which points, and what is done to them.
        grid: what is varied.
        m: neurons of each sign.
        steps: updates of every run.
        seed: of the first initial weights.
        out: run folder; runs/leaky-relu-bias-sweep by default.
        device: auto (a GPU where the batch is worth it), cpu, cuda or cuda:N; mps has no float64.
        json: print every row as JSON instead of a table.
    """
    from leaky_relu_bias.report import print_sweep
    from leaky_relu_bias.sweep import sweep_to_folder

    print_sweep(sweep_to_folder(source, data, grid, m, steps, seed, out, device), json)


def reproduce(
    scale: Literal["smoke", "laptop", "paper"] = "laptop",
    claims: list[str] | None = None,
    out: str | None = None,
    seed: int = 0,
    device: str = "auto",
) -> int:
    """Measure the paper's claims and print them with their verdicts.

    Args:
        scale: smoke takes seconds, laptop minutes on two cores, paper more seeds and longer horizons.
        claims: ids of claims, comma separated; all by default.
        out: run folder; runs/leaky-relu-bias-reproduce-SCALE by default.
        seed: seed of every draw.
        device: auto (a GPU where the batch is worth it), cpu, cuda or cuda:N; mps has no float64.
    """
    from leaky_relu_bias.reproduce import reproduce as measure

    return measure(scale, claims, out, seed, device)


def _eta(learning_rate: float | None) -> float | Literal["auto"]:
    return "auto" if learning_rate is None else learning_rate


def main() -> int:
    """Entry point of the console script."""
    verbs: list[Verb] = [data_, check, limits, run, continue_, sweep, reproduce]
    return run_command(
        "leaky-relu-bias", verbs, summary="Where gradient descent takes two-layer (leaky) ReLU networks."
    )
