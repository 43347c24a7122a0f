"""The infinite-batch dynamics: each neuron's weights in closed form, no data."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from parity_sgd.gradient import population_gradient
from parity_sgd.optimizer import threshold_sign


class PopulationPath(NamedTuple):
    """Sizes of the weights of a +-1 start after 0..T steps with infinite data, in float64."""

    good_feature: Float[Tensor, "steps_plus_1"]
    bad_feature: Float[Tensor, "steps_plus_1"]
    noise: Float[Tensor, "steps_plus_1"]


def population_run(
    W0: Float[Tensor, "m d"],
    a: Float[Tensor, "m"],
    support: Sequence[int],
    *,
    steps: int,
    rho: float,
    learning_rate: float = 0.1,
    decay: float = 1.0,
    label_noise: float = 0.0,
) -> Float[Tensor, "steps_plus_1 m d"]:
    """Every weight after 0..steps steps of the algorithm on the exact expected gradient, in float64."""
    W = W0.double()
    path = [W]
    for _ in range(steps):
        G = population_gradient(W, a.double(), support, label_noise)
        W = (1 - decay * learning_rate) * W + learning_rate * threshold_sign(G, rho)
        path.append(W)
    return torch.stack(path)


def population_path(
    k: int, *, steps: int, rho: float, learning_rate: float = 0.1, decay: float = 1.0, label_noise: float = 0.0
) -> PopulationPath:
    """The three curves of a +-1 start: good features stay, bad ones step to 0 and die, noise decays.

    With lambda = 1 a good feature is an exact fixed point, noise is (1 - eta)^t, and a bad feature moves by
    w <- (1 - eta) w - eta while k! w^(k-1) >= rho, then decays too.
    """
    W0 = torch.ones(2, k + 1, dtype=torch.float64)
    a = torch.tensor([1.0, -1.0], dtype=torch.float64)  # the first neuron is good, the second bad
    path = population_run(
        W0, a, range(k), steps=steps, rho=rho, learning_rate=learning_rate, decay=decay, label_noise=label_noise
    )
    return PopulationPath(path[:, 0, 0], path[:, 1, 0], path[:, 0, k])


def good_and_bad(good: Bool[Tensor, "m"]) -> tuple[int, int]:
    """Index of the first good and of the first bad neuron; -1 where there is none."""
    first = [torch.nonzero(mask).flatten()[:1].tolist() for mask in (good, ~good)]
    return (first[0] or [-1])[0], (first[1] or [-1])[0]
