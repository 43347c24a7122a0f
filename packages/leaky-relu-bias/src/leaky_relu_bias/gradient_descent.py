"""A1: plain full-batch gradient descent on the weights, the reference that the other engines must equal."""

from collections.abc import Sequence
from typing import Protocol

import torch
from jaxtyping import Float, Int
from shared_core.errors import InputError
from torch import Tensor

from leaky_relu_bias.network import TwoLayerNet, loss_gradient, same_shape
from leaky_relu_bias.orthogonality import TrainingSet

State = dict[str, Tensor]


class Engine(Protocol):
    """A batch of gradient-descent runs on one training set that can be advanced and looked at.

    Attributes:
        name: `plain`, `gram` or `reduced`.
        t: completed updates.
    """

    name: str
    t: int
    data: TrainingSet
    m: int
    gamma: Float[Tensor, "runs 1 1"]
    eta: Float[Tensor, " runs"]

    def advance(self, steps: int) -> None:
        """Make `steps` updates of every run."""

    def preactivations(self) -> Float[Tensor, "runs two_m n"]:
        """Z = W X^T."""

    def weights(self) -> Float[Tensor, "runs two_m d"]:
        """W itself."""

    def isometric_weights(self, change: Tensor | None = None) -> Float[Tensor, "runs two_m k"]:
        """W (+ change X) in rotated coordinates, without directions that no row uses: same norms and stable ranks."""

    def take_flips(self) -> Int[Tensor, " runs"]:
        """Changes of an activation's sign, summed over neurons, points and steps since the last call."""

    def work(self) -> dict[str, int]:
        """Steps made by each kind of update, summed over the runs."""

    def state(self) -> State:
        """Everything that a later `restore` needs to go on bit for bit."""

    def restore(self, state: State) -> None:
        """Go on from a `state`."""


class PlainGD:
    """A1: W <- W - eta grad L(W), 8 m n d flops a step and run. Implements `Engine`."""

    name = "plain"

    def __init__(
        self, data: TrainingSet, W0: Float[Tensor, "runs two_m d"], gamma: Float[Tensor, " runs"], eta: Tensor
    ) -> None:
        self.data, self.m, self.t = data, W0.shape[1] // 2, 0
        self.gamma, self.eta = gamma[:, None, None], eta
        self.W = W0.clone()
        self.active = self.preactivations() > 0
        self.flips = torch.zeros(len(W0), dtype=torch.int64, device=W0.device)

    def advance(self, steps: int) -> None:
        """Make `steps` updates of every run."""
        for _ in range(steps):
            self.W -= self.eta[:, None, None] * loss_gradient(self.W, self.data, self.gamma)
            active = self.preactivations() > 0
            self.flips += (active != self.active).sum((1, 2))
            self.active = active
        self.t += steps

    def preactivations(self) -> Float[Tensor, "runs two_m n"]:
        """Z = W X^T."""
        return self.W @ self.data.X.T

    def weights(self) -> Float[Tensor, "runs two_m d"]:
        """W itself."""
        return self.W.clone()

    def isometric_weights(self, change: Tensor | None = None) -> Float[Tensor, "runs two_m k"]:
        """W (+ change X), whose coordinates are not rotated here."""
        return self.W if change is None else self.W + change @ self.data.X

    def take_flips(self) -> Int[Tensor, " runs"]:
        """Sign changes since the last call."""
        flips, self.flips = self.flips, torch.zeros_like(self.flips)
        return flips

    def work(self) -> dict[str, int]:
        """Steps made."""
        return {"plain": self.t * len(self.W)}

    def state(self) -> State:
        """The weights and the time."""
        return {"W": self.W, "flips": self.flips, "t": torch.tensor(self.t)}

    def restore(self, state: State) -> None:
        """Go on from a `state`."""
        self.W = state["W"].to(self.W)
        self.flips = state["flips"].to(self.flips)
        self.t = int(state["t"])
        self.active = self.preactivations() > 0


def initial_weights(
    nets: Sequence[TwoLayerNet], data: TrainingSet, W0: Tensor | None = None
) -> Float[Tensor, "runs two_m d"]:
    """Stack the initial weights of the networks, or check those given.

    Raises:
        InputError: if `W0` does not have the shape (2m, d) or (runs, 2m, d), or is not finite.
    """
    m = same_shape(nets)
    if W0 is None:
        return torch.stack([net.initial_weights(data.d) for net in nets]).to(data.X)
    given = torch.as_tensor(W0).to(data.X)
    given = given.expand(len(nets), -1, -1) if given.ndim == 2 else given
    if given.shape != (len(nets), 2 * m, data.d):
        raise InputError(f"W0 must have shape ({2 * m}, {data.d}) or one such matrix a net, got {tuple(given.shape)}")
    if not given.isfinite().all():
        raise InputError("W0 must be finite")
    return given
