"""What each ingredient is worth: dead zone, threshold, basis, sign, width, learning rate."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import factorial

import pandas as pd
import torch
from jaxtyping import Float
from shared_core.errors import InputError
from shared_core.logging import progress
from torch import Tensor

from parity_sgd.accuracy import exact_accuracy
from parity_sgd.baselines import sgd_same_network
from parity_sgd.network import integer_power, random_weights
from parity_sgd.optimizer import threshold_sign
from parity_sgd.parity import SparseParity
from parity_sgd.settings import SignSGD
from parity_sgd.streams import stream_generator
from parity_sgd.training import train

STUDIES = ("dead-zone", "threshold", "basis", "sign", "width", "learning-rate")


def check_studies(studies: Sequence[str]) -> None:
    """Refuse unknown studies.

    Raises:
        InputError: naming the unknown study and the known ones.
    """
    unknown = [name for name in studies if name not in STUDIES]
    if unknown:
        raise InputError(f"there is no study {unknown[0]!r}; studies: {', '.join(STUDIES)}")


def ablate(task: SparseParity, settings: SignSGD, studies: Sequence[str], seeds: Sequence[int]) -> pd.DataFrame:
    """Accuracy with one ingredient changed at a time: columns study, variant, seed, accuracy, note.

    Raises:
        InputError: for an unknown study.
    """
    check_studies(studies)
    rows: list[dict[str, object]] = []
    for study in progress(list(studies), "ablations"):
        for variant, measure in _variants(study, task, settings).items():
            for seed, (accuracy, note) in zip(seeds, measure(seeds), strict=True):
                rows.append({"study": study, "variant": variant, "seed": seed, "accuracy": accuracy, "note": note})
    return pd.DataFrame(rows)


Measure = Callable[[Sequence[int]], list[tuple[float, str]]]


def _variants(study: str, task: SparseParity, settings: SignSGD) -> dict[str, Measure]:
    signal = (1 - 2 * task.label_noise) * factorial(task.k)

    def trained(**changes: float) -> Measure:
        changed = replace(settings, **changes)  # type: ignore[arg-type]
        return lambda seeds: [
            (run.accuracy.value, f"predicted {run.predicted.accuracy:.3f}") for run in train(task, changed, seeds=seeds)
        ]

    if study == "dead-zone":
        return {"dead zone, rho = k!/2": trained(rho=signal / 2), "no dead zone, rho = 0": trained(rho=0.0)}
    if study == "threshold":
        return {f"rho = {c} k!": trained(rho=c * signal) for c in (0.1, 0.3, 0.5, 0.7, 0.9)}
    if study == "width":
        return {f"width {f} * 2^k": trained(width=f * 2**task.k) for f in (1, 2, 4, 8, 16)}
    if study == "learning-rate":
        horizon = settings.steps * settings.learning_rate
        return {
            f"eta = {eta}": trained(learning_rate=eta, steps=max(1, round(horizon / eta)))
            for eta in (0.05, 0.1, 0.2, 0.5)
        }
    if study == "basis":
        return {
            "standard basis": trained(),
            "rotated basis": lambda seeds: [(rotated_accuracy(task, settings, seed), "") for seed in seeds],
        }
    return {
        "sign SGD": trained(),
        **{
            f"SGD, learning rate {rate:g}": _sgd(task, settings, rate)
            for rate in (settings.learning_rate, 1e-2 / factorial(task.k), 1e-3 / factorial(task.k))
        },
    }


def _sgd(task: SparseParity, settings: SignSGD, rate: float) -> Measure:
    """Plain SGD with decay on the same network, with as many samples a step; a diverged run counts as a coin flip."""

    def measure(seeds: Sequence[int]) -> list[tuple[float, str]]:
        found = []
        for seed in seeds:
            batch_size = min(settings.batch_size, 8192)
            X, y = task.with_seed(seed).sample(batch_size * 4)
            W, a = sgd_same_network(
                X,
                y,
                task.k,
                width=settings.width,
                batch_size=batch_size,
                steps=settings.steps,
                learning_rate=rate,
                decay=settings.decay,
                seed=seed,
            )
            if bool(torch.isfinite(W).all()):
                found.append((exact_accuracy(W, a, task.support, seed=seed).value, ""))
            else:
                found.append((0.5, "diverged"))
        return found

    return measure


def rotated_accuracy(task: SparseParity, settings: SignSGD, seed: int, test: int = 8192) -> float:
    """Accuracy where the learner sees R x for a random rotation R, everything else the same.

    Sign descent is not rotation invariant: the parity is then no longer sparse in the learner's coordinates.
    """
    data = task.with_seed(seed)
    generator = stream_generator(seed, "weights", task.device)
    R = random_rotation(task.d, generator)
    W, a = random_weights(task.d, settings.width, generator)
    eta = settings.learning_rate
    for _ in range(settings.steps):
        G, left = torch.zeros_like(W), settings.batch_size
        while left:
            X, y = data.sample(min(left, 16384))
            X, left = X @ R.T, left - len(X)
            G += (integer_power(X @ W.T, task.k - 1) * y[:, None]).T @ X
        G *= (a * (task.k / settings.batch_size))[:, None]
        W = (1 - settings.decay * eta) * W + eta * threshold_sign(G, settings.rho)
    X, y = task.clean().with_seed((seed + 2**31) % 2**32).sample(test)
    return float((y * (integer_power(X @ R.T @ W.T, task.k) @ a) > 0).float().mean())


def random_rotation(d: int, generator: torch.Generator) -> Float[Tensor, "d d"]:
    """A Haar-distributed orthogonal matrix: QR of a Gaussian one with the signs of R's diagonal moved into Q."""
    gaussian = torch.randn(d, d, generator=generator, device=generator.device)
    Q, R = torch.linalg.qr(gaussian)
    return Q * torch.sign(torch.diagonal(R))
