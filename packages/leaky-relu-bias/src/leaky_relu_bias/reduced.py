"""A3: exact gradient descent at the cost of an n-dimensional recursion, while the activation pattern holds still.

With the pattern D fixed the margins obey q <- q + (eta/(n m)) K g(q), K = (y y^T) o (D^T D / m) o G. A chunk of steps
of that recursion is accepted only where c = sum of g over the chunk proves that no pre-activation can have changed
its sign on the way; the accepted chunk is gradient descent itself. Where the proof fails the chunk is halved, and at
the shortest one A2 takes over for a burst of steps.
"""

import torch

from leaky_relu_bias import kernels
from leaky_relu_bias.gram import GramGD
from leaky_relu_bias.network import slopes
from leaky_relu_bias.pattern import margin_kernel, sign_is_kept


class ReducedGD(GramGD):
    """A3 for a batch of runs. On a CPU every run has its own chunks; in tensors the batch shares them."""

    name = "reduced"
    kernel = staticmethod(kernels.reduced_steps)

    def _advance_tensors(self, steps: int) -> None:
        chunk, burst = (int(self.control[:, index].min()) for index in (kernels.CHUNK, kernels.BURST))
        left = steps
        while left > 0:
            length = min(chunk, left)
            if self._certified_chunk(length):
                left -= length
                burst = kernels.MIN_BURST
                chunk = min(2 * chunk, kernels.MAX_CHUNK) if length == chunk else chunk
                self.control[:, kernels.REDUCED_STEPS] += length
            elif chunk > kernels.MIN_CHUNK:
                chunk //= 2
            else:
                length = min(burst, left)
                super()._advance_tensors(length)
                left -= length
                burst = min(2 * burst, kernels.MAX_BURST)
        self.control[:, kernels.CHUNK], self.control[:, kernels.BURST] = chunk, burst

    def _certified_chunk(self, steps: int) -> bool:
        y, G = self.data.y, self.data.gram
        D = slopes(self.active, self.gamma, self.Z.dtype)
        q = y * (self.signs * D * self.Z).sum(1) / self.m
        M = self.rate * margin_kernel(D, y, G)
        c = torch.zeros_like(q)
        for _ in range(steps):
            g = torch.sigmoid(-q)
            c += g
            q = q + (M @ g[..., None]).squeeze(-1)
        change = self.rate * self.signs * D * (y * c)[:, None, :]
        if not bool(sign_is_kept(self.Z, self.active, change, G).all()):
            return False
        self.A += change
        self.Z = self.Z0 + self.A @ G
        return True
