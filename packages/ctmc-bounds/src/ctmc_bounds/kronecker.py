"""Kronecker sums and powers of one-token matrices, applied as a few dense blocks (matrix products, no n x n matrix)."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ctmc_bounds.forward import UniformCTMC


def block_lengths(S: int, d: int, largest: int = 32) -> list[int]:
    """How many axes each block takes: as few blocks as keep S^axes <= largest, of nearly equal length."""
    most = 1
    while S ** (most + 1) <= largest:
        most += 1
    count = -(-d // most)
    return [d // count + (index < d % count) for index in range(count)]


def kronecker_sum(token: Float[Tensor, "S S"], axes: int) -> Float[Tensor, "B B"]:
    """token (+) ... (+) token, `axes` times."""
    result = token
    for _ in range(axes - 1):
        eye, old = torch.eye(len(token), dtype=token.dtype), torch.eye(len(result), dtype=token.dtype)
        result = torch.kron(result, eye) + torch.kron(old, token)
    return result


def kronecker_power(token: Float[Tensor, "S S"], axes: int) -> Float[Tensor, "B B"]:
    """token (x) ... (x) token, `axes` times."""
    result = token
    for _ in range(axes - 1):
        result = torch.kron(result, token)
    return result


class KroneckerBlocks:
    """The axes of (S,)*d in groups of up to `largest` states; symmetric matrices act along groups."""

    def __init__(self, ctmc: UniformCTMC, device: torch.device | str = "cpu", largest: int = 32) -> None:
        self.ctmc, self.device = ctmc, torch.device(device)
        self.lengths = block_lengths(ctmc.S, ctmc.d, largest)
        self.sizes = [ctmc.S**length for length in self.lengths]
        self.token = (1 - torch.eye(ctmc.S, dtype=torch.float64)) / ctmc.S
        #: (1/S) x (1 where one coordinate differs), by blocks; non-negative, so that its products cancel nothing
        self.adjacency = [kronecker_sum(self.token, length).to(self.device) for length in self.lengths]

    def kernel(self, t: float) -> list[Tensor]:
        """K_t^{(x)d} by blocks."""
        token = self.ctmc.kernel(t)
        made = {length: kronecker_power(token, length).to(self.device) for length in set(self.lengths)}
        return [made[length] for length in self.lengths]

    def product(self, matrices: Sequence[Tensor], v: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """(M_1 (x) M_2 (x) ...) v for symmetric M."""
        for index, matrix in enumerate(matrices):
            last = index == len(matrices) - 1
            v = (v.view(-1, len(matrix)) @ matrix if last else matrix @ self._view(v, index)).reshape(-1)
        return v

    def add_sum(self, out: Tensor, matrices: Sequence[Tensor], v: Tensor) -> Tensor:
        """out += (M_1 (+) M_2 (+) ...) v in place, for symmetric M."""
        last = len(matrices) - 1
        for index, matrix in enumerate(matrices):
            size = self.sizes[index]
            if index == 0:
                out.view(size, -1).addmm_(matrix, v.view(size, -1))
            elif index == last:
                out.view(-1, size).addmm_(v.view(-1, size), matrix)
            else:
                view = self._view(v, index)
                out.view(view.shape).baddbmm_(matrix.expand(len(view), size, size), view)
        return out

    def sum(self, matrices: Sequence[Tensor], v: Tensor) -> Tensor:
        """(M_1 (+) M_2 (+) ...) v for symmetric M."""
        return self.add_sum(torch.zeros_like(v), matrices, v)

    def _view(self, v: Tensor, index: int) -> Tensor:
        before = 1
        for size in self.sizes[:index]:
            before *= size
        return v.view(before, self.sizes[index], -1)
