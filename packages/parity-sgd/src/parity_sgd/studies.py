"""Predictions, sweeps, ablations and neuron trajectories as the commands run them: into folders, with figures."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import pandas as pd
from shared_core.errors import InputError
from shared_core.files import atomic_path, jsonable
from shared_core.run_folder import RunFolder

from parity_sgd import figures
from parity_sgd.ablation import ablate, check_studies
from parity_sgd.accuracy import exact_accuracy
from parity_sgd.checks import MAX_BATCH, check_degree, check_hyperparameters, check_size
from parity_sgd.gradient import critical_batch
from parity_sgd.network import random_weights
from parity_sgd.neurons import MAX_K, default_width, is_good, predict_outcome, success_probability
from parity_sgd.parity import SparseParity
from parity_sgd.population import good_and_bad, population_path
from parity_sgd.runs import PACKAGE, check_runs, load_weights
from parity_sgd.scaling import (
    end_to_end_batch,
    fit_exponent,
    per_step_batch,
    smallest_batches,
    sufficient_batches,
)
from parity_sgd.settings import SignSGD
from parity_sgd.streams import stream_generator
from parity_sgd.training import Trainer, neuron_path

log = logging.getLogger(__name__)


def predict_rows(
    task: SparseParity, width: int | None, seeds: Sequence[int], checkpoint: str | None = None
) -> list[dict[str, Any]]:
    """Outcome of training read off initial weights: of random starts, or of a checkpoint's start beside its end."""
    if checkpoint is not None:
        W, a, W0, support = load_weights(checkpoint)
        outcome, end = predict_outcome(W0, a, support), exact_accuracy(W, a, support)
        return [{"start": checkpoint, **asdict(outcome), "trained_accuracy": end.value, "method": end.method}]
    width = default_width(task.k) if width is None else width
    if width < 1:
        raise InputError(f"width must be at least 1, got {width}")
    check_size("width * d", width, task.d)
    if task.k > MAX_K:
        raise InputError(f"k must be at most {MAX_K} here: outcomes are read off 2^k patterns; got {task.k}")
    rows: list[dict[str, Any]] = []
    for seed in seeds:
        W0, a = random_weights(task.d, width, stream_generator(seed, "weights"))
        rows.append({"start": f"seed {seed}", **asdict(predict_outcome(W0, a, task.support))})
    log.info("a random start of width %d ends perfect with probability %.3f", width, success_probability(task.k, width))
    return rows


def run_scaling(
    kind: str,
    k: int | None,
    ds: Sequence[int],
    *,
    runs: int,
    seed: int,
    width: int | None,
    learning_rate: float,
    out: str | None,
) -> list[dict[str, Any]]:
    """Per-step or end-to-end sample complexity with its exponent; a folder gets the table and the figure.

    Raises:
        InputError: for fewer than two sizes, a size below k, or fewer than two runs.
    """
    if k is None:
        raise InputError("give --k, the size of the parity")
    if len(set(ds)) < 2 or min(ds) < k or k < 1:
        raise InputError(f"ds must be at least two different dimensions, none below k = {k}; got {list(ds)}")
    check_runs(seed, runs)
    if runs < 2:
        raise InputError(f"runs must be at least 2 for an interval, got {runs}")
    check_hyperparameters(width=width or 1, batch_size=1, steps=1, learning_rate=learning_rate, decay=1.0)
    if width == 0:
        raise InputError("width must be at least 1, got 0")
    ds = sorted(set(ds))  # a size given twice is one measurement
    check_degree(ds[-1], k)
    neurons = width or (8 if kind == "per-step" else default_width(k))
    check_size("width * d", neurons, ds[-1])
    if (largest := critical_batch(ds[-1], k, neurons)) > MAX_BATCH:
        raise InputError(f"d = {ds[-1]} needs about {largest:.1e} samples a step, at most {MAX_BATCH:.0e} can be drawn")
    settings = {"verb": "scaling", "kind": kind, "k": k, "ds": ds, "runs": runs, "seed": seed}
    settings |= {"width": width, "learning_rate": learning_rate}
    with RunFolder(out, package=PACKAGE, settings=settings) as folder:
        if kind == "per-step":
            measure = partial(per_step_batch, k, runs=runs, seed=seed, neurons=neurons)
            table = _piece_by_piece(folder, "sizes", ds, measure)
            rows = table.groupby("d", as_index=False).agg(
                samples=("samples", "median"),
                low=("samples", "min"),
                high=("samples", "max"),
                formula=("formula", "first"),
            )
            rows["ratio"] = rows["samples"] / rows["formula"]
        else:
            needed = -(-3 * runs // 4)
            measure = partial(
                end_to_end_batch, k, width=neurons, runs=runs, needed=needed, seed=seed, learning_rate=learning_rate
            )
            cells = _piece_by_piece(folder, "sizes", ds, measure)
            table, rows = smallest_batches(cells), sufficient_batches(cells)
        exponent = fit_exponent(table, k, neurons)
        result = {"rows": _records(rows), "exponent": asdict(exponent)}
        label = "samples for one right step" if kind == "per-step" else "samples T B of a successful run"
        folder.save_figure(
            "scaling", figures.scaling_figure({k: (table, exponent, neurons)}, label, kind == "per-step")
        )
        with atomic_path(folder.path / "table.csv") as aside:
            table.to_csv(aside, index=False)
        folder.write_json("result.json", result)
        log.info(
            "exponent in d: %.2f [%.2f, %.2f]; divided by ln(m d): %.2f [%.2f, %.2f]; exact formula: %.2f; theory: %d "
            "up to logarithms; wrote %s", *list(asdict(exponent).values()), k - 1, folder.path,
        )  # fmt: skip
    return [{**row, "exponent": exponent.slope} for row in _records(rows)]


def run_ablation(
    task: SparseParity, settings: SignSGD, studies: Sequence[str], seeds: Sequence[int], out: str | None
) -> list[dict[str, Any]]:
    """Ablations into a folder: one row a variant with mean, lowest and highest accuracy over seeds."""
    check_studies(studies)
    record = {
        "verb": "ablate",
        "d": task.d,
        "support": task.support,
        "label_noise": task.label_noise,
        "device": task.device.type,
    }
    record |= {**asdict(settings), "studies": list(studies), "seeds": list(seeds)}
    with RunFolder(out, package=PACKAGE, settings=record) as folder:
        measure = partial(ablate, task, settings, seeds=seeds)
        table = _piece_by_piece(folder, "studies", list(dict.fromkeys(studies)), measure)
        folder.save_figure("ablations", figures.ablation_figure(table))
        rows = table.groupby(["study", "variant"], sort=False, as_index=False).agg(
            accuracy=("accuracy", "mean"),
            low=("accuracy", "min"),
            high=("accuracy", "max"),
            note=("note", _distinct),
        )
        folder.write_json("result.json", _records(rows))
        log.info("wrote %s", folder.path)
    return _records(rows)


def _piece_by_piece(
    folder: RunFolder, kind: str, pieces: Sequence[Any], measure: Callable[[list[Any]], pd.DataFrame]
) -> pd.DataFrame:
    """measure([piece]) of every piece, kept in the folder: after an interruption only the others are measured."""
    tables = []
    for number, piece in enumerate(pieces, start=1):
        rows = folder.read_json(f"{kind}/{piece}.json")
        state = "measured" if rows is None else "there already"
        if rows is None:
            rows = jsonable(_records(measure([piece])))
            folder.write_json(f"{kind}/{piece}.json", rows)
        tables.append(pd.DataFrame(rows))
        log.info("%s: %s %s, %d of %d", kind, piece, state, number, len(pieces))
    return pd.concat(tables, ignore_index=True)


def _distinct(notes: pd.Series) -> str:
    return ", ".join(dict.fromkeys(notes))


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def run_neurons(task: SparseParity, settings: SignSGD, seed: int, out: str | None) -> list[dict[str, Any]]:
    """One good and one bad neuron beside their closed-form path, step by step."""
    settings.warn(task)
    start = Trainer(task, settings, seed)
    good = is_good(start.W0, start.a, task.support).cpu()
    chosen, support = good_and_bad(good), list(task.support)
    if min(chosen) < 0:
        raise InputError(f"this start has no {'good' if chosen[0] < 0 else 'bad'} neuron; raise width or change seed")
    record = {
        "verb": "neurons",
        "d": task.d,
        "support": task.support,
        "label_noise": task.label_noise,
        "device": task.device.type,
    }
    record |= {**asdict(settings), "seed": seed}
    with RunFolder(out, package=PACKAGE, settings=record) as folder:
        path, _ = neuron_path(task, settings, seed)
        theory = population_path(
            task.k,
            steps=settings.steps,
            rho=settings.rho,
            learning_rate=settings.learning_rate,
            decay=settings.decay,
            label_noise=task.label_noise,
        )
        panels = [(f"k = {task.k}, d = {task.d}", path, chosen, support, theory)]
        folder.save_figure("neurons", figures.trajectory_figure(panels))
        folder.save_figure("weights", figures.weights_figure(path[-1], good.tolist(), support))
        sizes = path.abs()
        off = [j for j in range(task.d) if j not in task.support] or support
        rows = [
            {
                "step": t,
                "good_feature": sizes[t, chosen[0], support].mean().item(),
                "good_closed_form": theory.good_feature[t].item(),
                "bad_feature": sizes[t, chosen[1], support].mean().item(),
                "bad_closed_form": theory.bad_feature[t].item(),
                "noise_max": sizes[t][list(chosen)][:, off].max().item(),
                "noise_closed_form": theory.noise[t].item(),
            }
            for t in range(settings.steps + 1)
        ]
        folder.write_json("result.json", rows)
        log.info("wrote %s", folder.path)
    return rows
