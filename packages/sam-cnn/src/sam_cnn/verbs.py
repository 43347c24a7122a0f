"""The work of each verb: options to public functions, rows and figures back."""

import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from shared_core.device import check_seed, describe_device, resolve_device
from shared_core.errors import InputError
from shared_core.logging import progress
from shared_core.run_folder import RunFolder
from torch import Tensor

from sam_cnn import figures
from sam_cnn.classifier import (
    Fit,
    Progress,
    fit_classifier,
    load_checkpoint,
    make_classifier,
    make_optimizer,
    measure,
    save_checkpoint,
)
from sam_cnn.images import load_splits
from sam_cnn.mechanism import compare_mechanism
from sam_cnn.output import PACKAGE, show, write_result
from sam_cnn.patches import PatchData
from sam_cnn.phase import PhaseDiagram, boundary, boundary_constant, check_axis, phase_diagram, slope, slope_interval
from sam_cnn.simulation import Training, simulate

log = logging.getLogger(__name__)
CHECKPOINT = "checkpoint.safetensors"
COLUMNS = {"gamma": "signal_alignment", "rho": "noise_memorisation"}  # rho is the radius everywhere else


def run_seeds(seed: int, count: int) -> range:
    """The seeds of the runs of one command; those of different `--seed` never meet.

    Raises:
        InputError: for a count below 1 or a seed out of range.
    """
    check_seed(seed)
    if count < 1:
        raise InputError(f"runs must be >= 1, got {count}")
    return range(seed * 100_000, seed * 100_000 + count)


def _options(settings: PatchData | Training) -> dict[str, Any]:
    """As the options are called, not the paper's letters."""
    names = {"p": "label_noise", "eta": "learning_rate", "tau": "rho"}
    return {names.get(name, name): value for name, value in asdict(settings).items()}


def axis(text: str, name: str, whole: bool = False) -> list[Any]:
    """`lo:hi:count`, `lo:hi:count:log` or `a,b,c` to numbers.

    Raises:
        InputError: for anything else.
    """
    try:
        if ":" in text:
            low, high, count, *scale = text.split(":")
            if scale not in ([], ["log"]) or int(count) < 1:
                raise ValueError
            ends = float(low), float(high)
            if scale:
                values = torch.logspace(math.log10(ends[0]), math.log10(ends[1]), int(count), dtype=torch.float64)
            else:
                values = torch.linspace(*ends, int(count), dtype=torch.float64)
            numbers = values.tolist()
        else:
            numbers = [float(part) for part in text.split(",")]
        result = [round(number) for number in numbers] if whole else [round(number, 12) for number in numbers]
    except (ValueError, OverflowError):
        raise InputError(f"{name} must be lo:hi:count, lo:hi:count:log or numbers with commas, got {text!r}") from None
    return result


def simulate_cell(
    data: PatchData, trainings: dict[str, Training], seeds: range, out: str | None, device: str, as_json: bool
) -> None:
    """One cell, every algorithm."""
    place = resolve_device(device)
    rows = []
    for name, training in trainings.items():
        outcome = simulate(data, training, seeds, place)
        means = {COLUMNS.get(key, key): float(value.mean()) for key, value in vars(outcome).items()}
        rows.append({"algorithm": name, **means})
        rows[-1]["error_se"] = float(outcome.clean_error.std() / math.sqrt(len(seeds))) if len(seeds) > 1 else math.nan
    result: dict[str, Any] = {"snr": data.signal_noise_ratio(), "runs": len(seeds), "rows": rows}
    settings: dict[str, Any] = {"verb": "simulate", "data": _options(data), "seeds": [seeds.start, seeds.stop]}
    settings["trainings"] = {name: _options(training) for name, training in trainings.items()}
    _deliver(result, {}, settings, out, "simulate", as_json)


def _deliver(result: Any, pictures: Any, settings: Any, out: str | None, title: str, as_json: bool) -> None:
    if out is not None:
        with RunFolder(out, package=PACKAGE, settings=settings) as folder:
            write_result(folder, result, pictures)
    show(result, title, as_json)


def phase(
    base: PatchData,
    d: list[int],
    mu: list[float],
    trainings: dict[str, Training],
    seeds: range,
    level: float,
    out: str | None,
    device: str,
    as_json: bool,
) -> None:
    """Phase diagrams of every algorithm; finished rows of the map are kept when interrupted."""
    if not 0 < level < 0.5:
        raise InputError(f"level must be in (0, 0.5), got {level}")
    place = resolve_device(device)
    settings: dict[str, Any] = {
        "verb": "phase",
        "data": _options(base),
        "d": d,
        "mu": mu,
        "seeds": [seeds.start, seeds.stop],
    }
    settings |= {"level": level, "trainings": {name: _options(training) for name, training in trainings.items()}}
    for dimension in d:  # bad input shows before anything is written
        replace(base, d=dimension)
    for training in trainings.values():
        phase_diagram(base, [min(d)], mu[:1], replace(training, steps=1, sam_steps=None), seeds[:1])
    check_axis("d", d)
    check_axis("mu", mu)
    with RunFolder(out, package=PACKAGE, settings=settings) as folder:
        log.info("phase: %d cells, %d runs each, on %s", len(d) * len(mu), len(seeds), describe_device(place))
        diagrams = {
            name: _rows_of_map(folder, f"{index}", base, d, mu, training, seeds, place)
            for index, (name, training) in enumerate(trainings.items())
        }
        result, pictures = _phase_result(base, diagrams, level)
        write_result(folder, result, pictures)
    show(result if as_json else _by_dimension(result, d, level, folder.path), "|mu| at the boundary", as_json)


def _by_dimension(result: dict[str, Any], d: list[int], level: float, out: Path) -> dict[str, Any]:
    """The summary and the boundary's table, in place of hundreds of cells."""
    shown = {key: value for key, value in result.items() if key not in ("boundary", "rows")}
    curves = result["boundary"]
    rows = [{"d": dimension, **{name: curve[i] for name, curve in curves.items()}} for i, dimension in enumerate(d)]
    shown |= {"every_cell": f"{out}/rows.csv", "boundary": f"where the clean test error falls to {level}"}
    return shown | {"rows": rows}


def _rows_of_map(
    folder: RunFolder, key: str, base: PatchData, d: list[int], mu: list[float], training: Training, seeds: range,
    place: torch.device,
) -> PhaseDiagram:  # fmt: skip
    errors, train_errors = [], []
    for dimension in progress(d, f"phase {key}"):
        name = f"rows/{key}-{dimension}.json"
        stored = folder.read_json(name)
        if stored is None:
            one = phase_diagram(base, [dimension], mu, training, seeds, place)
            stored = {"errors": one.errors[0].tolist(), "train_error": one.train_error[0].tolist()}
            folder.write_json(name, stored)
        errors.append(_tensor(stored["errors"]))
        train_errors.append(_tensor(stored["train_error"]))
    return PhaseDiagram(tuple(d), tuple(mu), torch.stack(errors), torch.stack(train_errors))


def _tensor(rows: list[list[Any]]) -> Tensor:
    return torch.tensor(
        [[float(value) for value in row] for row in rows], dtype=torch.float64
    )  # "nan" is a string there


def _phase_result(base: PatchData, diagrams: dict[str, PhaseDiagram], level: float) -> tuple[dict[str, Any], Any]:
    first = next(iter(diagrams.values()))
    d = torch.tensor(first.d, dtype=torch.float64)
    curves = {name: boundary(one.mu, one.mean(), level) for name, one in diagrams.items()}
    slopes = {name: slope(d, curve) for name, curve in curves.items()}
    intervals = {name: slope_interval(one, level) for name, one in diagrams.items() if not math.isnan(slopes[name])}
    constants = {name: boundary_constant(d, curve, base) for name, curve in curves.items()}
    fractions = {name: float(one.benign_fraction(level).mean()) for name, one in diagrams.items()}
    rows = [
        {"algorithm": name, "d": one.d[i], "mu": one.mu[j], "error": float(one.mean()[i, j]),
         "error_noisy": float(base.noisy(one.mean()[i, j])), "train_error": float(one.train_error[i, j].mean()),
         "snr": replace(base, d=one.d[i], mu=one.mu[j]).signal_noise_ratio()}
        for name, one in diagrams.items() for i in range(len(one.d)) for j in range(len(one.mu))
    ]  # fmt: skip
    result = {"benign_fraction": fractions, "slope": slopes, "slope_interval": intervals, "constant": constants}
    result["boundary"] = {name: curve.tolist() for name, curve in curves.items()}
    constant = next((value for value in constants.values() if not math.isnan(value)), 0.1)
    pictures = {"phase": figures.heat_maps(diagrams, base, constant, level)}
    if len(first.d) > 1:
        pictures["boundary"] = figures.boundaries(first.d, curves, slopes)
    return {**result, "rows": rows}, pictures


def show_mechanism(
    data: PatchData,
    training: Training,
    seeds: range,
    at: Sequence[int],
    out: str | None,
    device: str,
    as_json: bool,
) -> None:
    """GD beside SAM-then-GD, step by step."""
    found = compare_mechanism(data, training, seeds, at, resolve_device(device))
    ends: dict[str, float] = {}
    for name, outcome in (("gd", found.gd), ("sam", found.sam)):
        ends |= {f"{name}_error": float(outcome.clean_error.mean()), f"{name}_loss": float(outcome.train_loss.mean())}
    result = {"rho": training.tau_for(data), "learning_rate": training.eta_for(data), **ends, "rows": found.rows()}
    settings = {"verb": "mechanism", "data": _options(data), "training": _options(training), "at": list(at)}
    settings["seeds"] = [seeds.start, seeds.stop]
    switch = training.steps if training.sam_steps is None else training.sam_steps
    _deliver(result, {"mechanism": figures.mechanism(found.rows(), switch)}, settings, out, "mechanism", as_json)


def train(
    data: str, label_noise: float, root: str | None, fit: Fit, out: str | None, device: str, as_json: bool
) -> None:
    """Train a classifier on real images; the same command goes on where it was interrupted, to the same bits."""
    check_seed(fit.seed)
    place = resolve_device(device)
    splits = load_splits(data, label_noise, fit.seed, root).to(place)
    if fit.optimizer == "sgd" and fit.rho is not None:
        log.warning("rho %g is of no use to sgd, which takes no perturbed step", fit.rho)
    settings = {"verb": "train", "data": data, "label_noise": label_noise, "fit": asdict(fit), "device": place.type}
    model = make_classifier(fit, splits)  # before the folder: what is missing shows before anything is written
    optimizer = make_optimizer(fit, model)
    with RunFolder(out, package=PACKAGE, settings=settings) as folder:
        path = Path(folder.path, CHECKPOINT)
        state = load_checkpoint(path, model, optimizer) if path.exists() else Progress(0, [])
        folder.metrics.rewind(state.epoch)
        log.info(
            "%s on %s: %s, from epoch %d of %d", data, describe_device(place), fit.optimizer, state.epoch, fit.epochs
        )

        def after(reached: Progress) -> None:
            row = dict(reached.history[-1])
            # before the checkpoint: a line that a kill left too far ahead is rewound, one that is missing is lost
            folder.metrics.write(int(row.pop("epoch")), **row)
            save_checkpoint(path, model, optimizer, reached)

        fit_classifier(fit, splits, model, optimizer, state, after)
        found = measure(model, splits, test=True)
        result: dict[str, Any] = {"optimizer": fit.optimizer, "rho": fit.radius, "skipped": optimizer.skipped, **found}
        result["rows"] = state.history
        write_result(folder, result, {"training": figures.training_curves({fit.optimizer: [state.history]})})
    show(result if as_json else {**result, "rows": state.history[-5:]}, "train, last epochs", as_json)
