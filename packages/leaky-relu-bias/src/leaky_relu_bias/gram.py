"""A2: exact gradient descent that never touches the dimension.

Every update of W is a combination of the points, so W_t = W_0 + A_t X, and all that a step needs is G = X X^T and
Z_0 = W_0 X^T:  Z = Z_0 + A G,  A <- A + (eta/(n m)) s o sigma'(Z) o (y g).  4 m n^2 flops a step and run.
"""

import functools
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from leaky_relu_bias import kernels
from leaky_relu_bias.gradient_descent import State
from leaky_relu_bias.network import block_signs, network_output, slopes
from leaky_relu_bias.orthogonality import TrainingSet


class GramGD:
    """A2 for a batch of runs: compiled loops on a CPU, batched tensor operations elsewhere. Implements `Engine`.

    Args:
        data: the training set.
        W0: initial weights of each run.
        gamma: slope of each run.
        eta: step size of each run.
        compiled: use the compiled CPU loops; by default where the data are on a CPU.
    """

    name = "gram"
    kernel = staticmethod(kernels.gram_steps)

    def __init__(
        self,
        data: TrainingSet,
        W0: Float[Tensor, "runs two_m d"],
        gamma: Float[Tensor, " runs"],
        eta: Float[Tensor, " runs"],
        compiled: bool | None = None,
    ) -> None:
        self.data, self.m, self.t = data, W0.shape[1] // 2, 0
        self.gamma, self.eta = gamma[:, None, None], eta
        self.rate = (eta / (data.n * self.m))[:, None, None]
        self.signs = block_signs(self.m, data.X)[:, None]
        self.compiled = data.X.device.type == "cpu" if compiled is None else compiled
        self.W0, self.Z0 = W0, (W0 @ data.X.T).contiguous()
        self.A, self.Z = torch.zeros_like(self.Z0), self.Z0.clone()
        self.active: Bool[Tensor, "runs two_m n"] = self.Z > 0
        self.control = torch.from_numpy(np.tile(kernels.new_control(), (len(W0), 1))).to(data.X.device)
        self._core, self._Rt, self._outside = _coordinates(W0, data.X)

    def advance(self, steps: int) -> None:
        """Make `steps` updates of every run."""
        if self.compiled:
            self._run_kernels(steps)
        else:
            self._advance_tensors(steps)
        self.t += steps

    def _run_kernels(self, steps: int) -> None:
        calls = [self._arguments(run, steps) for run in range(len(self.A))]
        threads = min(len(calls), torch.get_num_threads())
        # a BLAS with threads of its own inside these would have them wait for one another at every step
        with _libraries().limit(limits=1 if threads > 1 else torch.get_num_threads(), user_api="blas"):
            if threads == 1:
                for call in calls:
                    self.kernel(*call)
                return
            with ThreadPoolExecutor(threads) as pool:  # the kernels release the interpreter's lock
                list(pool.map(lambda call: self.kernel(*call), calls))

    def _arguments(self, run: int, steps: int) -> tuple[Any, ...]:
        own = [part[run].numpy() for part in (self.A, self.Z, self.active, self.control, self.Z0)]
        shared = [self.data.gram.numpy(), self.data.y.numpy()]
        number = own[0].dtype.type
        return (*own, *shared, number(self.gamma[run].item()), number(self.rate[run].item()), steps)

    def _advance_tensors(self, steps: int) -> None:
        for _ in range(steps):
            self.tensor_step()
        self.control[:, kernels.GRAM_STEPS] += steps

    def output_weights(self) -> Float[Tensor, "runs n"]:
        """y_i g_i, the pull of each point on the network's output."""
        y = self.data.y
        return y * torch.sigmoid(-y * network_output(self.Z, self.gamma))

    def tensor_step(self) -> None:
        """One update of every run with batched tensor operations."""
        D = slopes(self.active, self.gamma, self.Z.dtype)
        self.A += self.rate * self.signs * D * self.output_weights()[:, None, :]
        self.Z = self.Z0 + self.A @ self.data.gram
        active = self.Z > 0
        self.control[:, kernels.FLIPS] += (active != self.active).sum((1, 2))
        self.active = active

    def preactivations(self) -> Float[Tensor, "runs two_m n"]:
        """Z = W X^T."""
        return self.Z

    def weights(self) -> Float[Tensor, "runs two_m d"]:
        """W = W_0 + A X."""
        return self.W0 + self.A @ self.data.X

    def isometric_weights(self, change: Tensor | None = None) -> Float[Tensor, "runs two_m k"]:
        """[W_0 Q + A R^T | what W_0 has outside the span of the points, rotated], where X^T = Q R."""
        A = self.A if change is None else self.A + change
        return torch.cat([self._core + A @ self._Rt, self._outside], dim=-1)

    def take_flips(self) -> Int[Tensor, " runs"]:
        """Sign changes since the last call."""
        flips = self.control[:, kernels.FLIPS].clone()
        self.control[:, kernels.FLIPS] = 0
        return flips

    def work(self) -> dict[str, int]:
        """Steps made by each kind of update."""
        gram, reduced = self.control[:, kernels.GRAM_STEPS], self.control[:, kernels.REDUCED_STEPS]
        return {"gram": int(gram.sum()), "reduced": int(reduced.sum())}

    def state(self) -> State:
        """A, Z, the counters and the time; W_0 is made again from its seed."""
        # Z could be had from A, but not to the last bit
        return {"A": self.A, "Z": self.Z, "control": self.control, "t": torch.tensor(self.t)}

    def restore(self, state: State) -> None:
        """Go on from a `state`."""
        self.A = state["A"].to(self.A).contiguous()
        self.control = state["control"].to(self.control).clone()
        self.t = int(state["t"])
        self.Z = state["Z"].to(self.Z).contiguous()
        self.active = self.Z > 0


@functools.cache
def _libraries() -> Any:
    # finding them takes milliseconds, once
    from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

    return ThreadpoolController()


def _coordinates(W0: Tensor, X: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """W_0 Q, R^T and the rotated rest of W_0, for X^T = Q R."""
    Q, R = torch.linalg.qr(X.T)
    core = W0 @ Q
    outside = W0 - core @ Q.T
    # ||outside|| is kept exactly by the triangular factor of its rows' span
    return core, R.T.contiguous(), torch.linalg.qr(outside.mT, mode="r").R.mT
