"""Arguments that cannot work are refused in one line; settings that theory says cannot succeed are warned about."""

import logging
from collections.abc import Sequence
from math import factorial, inf, log10

from shared_core.errors import InputError

log = logging.getLogger(__name__)
MAX_NUMBERS = 2**31
"""Weights of a network, or entries of a table: 8 GB of float32."""
MAX_FLOAT32 = 3.4e38
MAX_BATCH = 10**12
"""At a billion samples a second a step of this batch takes a quarter of an hour."""


def check_support(d: int, support: Sequence[int] | None, k: int | None) -> tuple[int, ...]:
    """The support as a sorted tuple; the first k coordinates where only k is given.

    Raises:
        InputError: if there is neither, they disagree, k is outside 1..d, or an index repeats or is outside 0..d-1.
    """
    if d < 1:
        raise InputError(f"d must be at least 1, got {d}")
    if support is None:
        if k is None:
            raise InputError("give k, or the support itself")
        if not 1 <= k <= d:
            raise InputError(f"k must be in 1..d = 1..{d}, got {k}")
        return tuple(range(k))
    chosen = tuple(sorted(int(j) for j in support))
    if not chosen:
        raise InputError("support is empty; a parity needs at least one coordinate")
    if len(set(chosen)) < len(chosen):
        raise InputError(f"support names a coordinate twice: {list(support)}")
    if chosen[0] < 0 or chosen[-1] >= d:
        raise InputError(f"support must lie in 0..d-1 = 0..{d - 1}, got {list(support)}")
    if k is not None and k != len(chosen):
        raise InputError(f"k = {k} disagrees with the support {list(support)} of size {len(chosen)}")
    return chosen


def check_label_noise(label_noise: float) -> float:
    """A label noise rate.

    Raises:
        InputError: unless 0 <= label_noise < 1/2; at 1/2 labels carry nothing.
    """
    if not 0 <= label_noise < 0.5:
        raise InputError(f"label-noise must be in [0, 0.5), got {label_noise}")
    return label_noise


def check_seed(seed: int) -> int:
    """A seed.

    Raises:
        InputError: unless 0 <= seed < 2**32.
    """
    if not 0 <= seed < 2**32:
        raise InputError(f"seed must be in 0..2**32-1, got {seed}")
    return seed


def check_size(what: str, rows: int, columns: int) -> None:
    """Refuse arrays that fit no memory.

    Raises:
        InputError: beyond 2^31 numbers.
    """
    if rows * columns > MAX_NUMBERS:
        raise InputError(f"{what} = {rows} * {columns} numbers are beyond 2^31 (8 GB)")


def check_degree(d: int, k: int) -> None:
    """Refuse powers that float32 cannot hold.

    Raises:
        InputError: where d^k, the largest value of a neuron at the start, is beyond the range of float32.
    """
    if k * log10(d) > log10(MAX_FLOAT32):
        raise InputError(f"d^k is beyond the range of a float32 for d = {d}, k = {k}; no batch is large enough")


def check_hyperparameters(*, width: int, batch_size: int, steps: int, learning_rate: float, decay: float) -> None:
    """Ranges that do not depend on the task.

    Raises:
        InputError: naming the argument, what was given and what is expected.
    """
    for name, value in (("width", width), ("batch-size", batch_size), ("steps", steps)):
        if value < 1:
            raise InputError(f"{name} must be at least 1, got {value}")
    if batch_size > MAX_BATCH:
        raise InputError(f"batch-size must be at most {MAX_BATCH:.0e}, got {batch_size:.3g}")
    check_rates(learning_rate, decay)


def check_rates(learning_rate: float, decay: float) -> None:
    """eta and lambda.

    Raises:
        InputError: unless eta > 0, lambda >= 0, both are finite, and lambda eta <= 1.
    """
    if not 0 < learning_rate < inf:
        raise InputError(f"learning-rate must be positive, got {learning_rate}")
    if not 0 <= decay < inf:
        raise InputError(f"decay must not be negative, got {decay}")
    if decay * learning_rate > 1:
        raise InputError(
            f"decay * learning-rate must be at most 1, got {decay * learning_rate:g}: weights would change sign"
        )


def check_threshold(rho: float, k: int, label_noise: float = 0.0) -> float:
    """The absolute threshold rho of the mean gradient.

    Raises:
        InputError: if it is negative, or at least the signal (1 - 2 label_noise) k!, where no weight can ever move.
    """
    signal = (1 - 2 * label_noise) * factorial(k)
    if not rho >= 0:
        raise InputError(f"rho must not be negative, got {rho}")
    if rho >= signal:
        raise InputError(
            f"rho = {rho:g} is not below the signal (1 - 2 label_noise) k! = {signal:g}: no gradient would ever pass it"
        )
    return rho


def warn_where_theory_says_no(
    *,
    d: int,
    k: int,
    width: int,
    batch_size: int,
    steps: int,
    rho: float,
    learning_rate: float,
    decay: float,
    label_noise: float,
) -> list[str]:
    """Warnings with the number that says why a run is unlikely to succeed; empty where nothing speaks against it."""
    from parity_sgd.gradient import critical_batch
    from parity_sgd.neurons import success_probability

    found = []
    enough = max(8 * 2**k, 4**k // 2)
    if width < enough and k <= 10:
        chance = success_probability(k, width, draws=2000)
        found.append(
            f"width {width} is below max(8 * 2^k, 4^k / 2) = {enough}: even with infinite data a random start of this "
            f"width ends in a perfect classifier with probability {chance:.2f}"
        )
    signal = (1 - 2 * label_noise) * factorial(k)
    if 0 < rho < signal:
        needed = critical_batch(d, k, width, rho / signal, label_noise)
        # Decay averages about 1 / (decay * learning_rate) batches (measured: README, end-to-end batch).
        averaged = batch_size / (decay * learning_rate) if decay else float("inf")
        if averaged < 0.1 * needed:
            found.append(
                f"batch-size {batch_size} is far below what one step needs to get its signs right ({needed:.0f}), also "
                f"with the averaging of 1/(decay * learning-rate) = {1 / (decay * learning_rate):.0f} steps"
            )
    if rho == 0:
        found.append("rho = 0 is plain sign SGD: without a dead zone noise coordinates never die")
    left = (1 - decay * learning_rate) ** steps * d**0.5
    if left > 0.5:
        found.append(
            f"after {steps} steps the noise of {d} coordinates has decayed to {left:.2f} of a feature's size only; "
            "raise steps"
        )
    for message in found:
        log.warning("%s", message)
    return found
