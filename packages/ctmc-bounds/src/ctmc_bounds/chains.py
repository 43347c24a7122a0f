"""Data with a chain structure: hidden Markov models by forward-backward, the Ising ring by transfer matrices."""

import math
from typing import Any

import torch
from shared_core.errors import InputError
from torch import Tensor

from ctmc_bounds.arrays import real
from ctmc_bounds.checks import LATEST, check_probabilities
from ctmc_bounds.data_laws import DataLaw, _kernel_column


class HMMData(DataLaw):
    """Hidden chain z_0 ~ initial, z_{i+1} ~ transition[z_i], tokens x_i ~ emission[z_i]; O(d H^2) a score.

    Args:
        d: tokens.
        initial: (H,).
        transition: (H, H), rows sum to 1.
        emission: (H, S), rows sum to 1.

    Raises:
        InputError: for a wrong shape or what are no probabilities.
    """

    def __init__(self, d: int, initial: Any, transition: Any, emission: Any) -> None:
        self.initial, self.transition, self.emission = real(initial), real(transition), real(emission)
        H = self.initial.numel()
        if (
            self.initial.ndim != 1
            or self.transition.shape != (H, H)
            or self.emission.ndim != 2
            or len(self.emission) != H
        ):
            raise InputError(
                f"initial {tuple(self.initial.shape)}, transition {tuple(self.transition.shape)} and emission"
                f" {tuple(self.emission.shape)} do not fit; expected (H,), (H, H), (H, S)"
            )
        self._place(self.emission.shape[1], d)
        check_probabilities(self.initial, "the initial law of the chain")
        check_probabilities(self.transition, "a row of the transition matrix", dim=-1)
        check_probabilities(self.emission, "a row of the emission matrix", dim=-1)

    def _noisy(self, x: Tensor, t: Tensor) -> list[Tensor]:
        """P(x_t,i | z_i) for every site, each (batch, H)."""
        return [_kernel_column(x[:, i], t, self.S) @ self.emission.T for i in range(self.d)]

    def _forward(self, noisy: list[Tensor]) -> tuple[list[Tensor], Tensor]:
        """P(z_i | x before i) of every site (0 after what is impossible), and log P(x)."""
        predicted, log_p = [self.initial.expand(len(noisy[0]), -1)], torch.zeros(len(noisy[0]), dtype=torch.float64)
        log_p = log_p.to(self.initial.device)
        for i, emitted in enumerate(noisy):
            joint = predicted[-1] * emitted
            total = joint.sum(-1, keepdim=True)
            log_p = log_p + torch.log(total.squeeze(-1))
            if i + 1 < self.d:
                predicted.append(joint / torch.where(total > 0, total, 1.0) @ self.transition)
        return predicted, log_p

    def _log_q(self, x: Tensor, t: Tensor) -> Tensor:
        return self._forward(self._noisy(x, t))[1]

    def _cavity(self, x: Tensor, t: Tensor) -> Tensor:
        noisy = self._noisy(x, t)
        predicted, _ = self._forward(noisy)
        after = torch.ones_like(predicted[0])
        found: list[Tensor] = []
        for i in range(self.d - 1, -1, -1):
            found.append((predicted[i] * after) @ self.emission)
            after = (noisy[i] * after) @ self.transition.T
            after = after / after.sum(-1, keepdim=True)
        mu = torch.stack(found[::-1], 1)
        return mu / mu.sum(-1, keepdim=True)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Ancestral sampling."""
        z = torch.multinomial(self.initial, n, replacement=True, generator=generator)
        tokens = []
        for _ in range(self.d):
            tokens.append(_draw(self.emission[z], generator))
            z = _draw(self.transition[z], generator)
        return torch.stack(tokens, 1)

    def full_support(self) -> bool:
        """Enough: every transition possible, every token from some state, the first from some first state."""
        first = (self.emission[self.initial > 0] > 0).any(0).all()
        positive = first and (self.transition > 0).all() and (self.emission > 0).any(0).all()
        return bool(positive) or super().full_support()


class MarkovChainData(HMMData):
    """x_0 ~ initial, x_{i+1} ~ transition[x_i].

    Args:
        d: tokens.
        initial: (S,).
        transition: (S, S), rows sum to 1.
    """

    def __init__(self, d: int, initial: Any, transition: Any) -> None:
        super().__init__(d, initial, transition, torch.eye(real(initial).numel(), dtype=torch.float64))

    def full_support(self) -> bool:
        """Every first token and every transition possible, or d = 1."""
        return bool((self.initial > 0).all() and ((self.transition > 0).all() or self.d == 1))


class IsingRing(DataLaw):
    """p(x) proportional to exp(J sum_i s_i s_{i+1} + field sum_i s_i), s = 2x - 1, site d is site 0.

    Raises:
        InputError: for couplings that are not finite, or so strong that every probability underflows.
    """

    def __init__(self, d: int, J: float = 0.5, field: float = 0.1) -> None:
        if not (math.isfinite(J) and math.isfinite(field)):
            raise InputError(f"J = {J}, field = {field}: the couplings of the Ising ring must be finite")
        self._place(2, d)
        self.J, self.field = J, field
        spin = torch.tensor([-1.0, 1.0], dtype=torch.float64)
        # divided by their largest entry: the law does not change, and strong couplings do not overflow
        self.bond = torch.exp(J * torch.outer(spin, spin) - abs(J))
        self.site = torch.exp(field * spin - abs(field))
        root = torch.sqrt(self.site)
        self.largest = torch.linalg.eigvalsh(root.unsqueeze(-1) * self.bond * root)[1]
        self.log_Z = _log_trace_of_power(self.site.unsqueeze(-1) * self.bond, d)
        if not bool(torch.isfinite(self.log_Z)):
            raise InputError(f"J = {J}, field = {field}, d = {d}: all probabilities underflow; give weaker couplings")

    def _matrices(self, x: Tensor, t: Tensor) -> Tensor:
        """diag(site K_t(., x_i)) bond, (batch, d, 2, 2)."""
        columns = torch.stack([_kernel_column(x[:, i], t, 2) for i in range(self.d)], 1)
        return (self.site * columns).unsqueeze(-1) * self.bond

    def _log_q(self, x: Tensor, t: Tensor) -> Tensor:
        matrices = self._matrices(x, t)
        product, log_scale = matrices[:, 0], torch.zeros(len(x), dtype=torch.float64, device=x.device)
        for i in range(1, self.d):
            product, log_scale = _normalise(product @ matrices[:, i], log_scale)
        return torch.log(product.diagonal(dim1=-2, dim2=-1).sum(-1)) + log_scale - self.log_Z

    def _cavity(self, x: Tensor, t: Tensor) -> Tensor:
        matrices = self._matrices(x, t)
        eye = torch.eye(2, dtype=torch.float64, device=x.device).expand(len(x), 2, 2)
        zero = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        after = [eye]
        for i in range(self.d - 1, 0, -1):
            after.append(_normalise(matrices[:, i] @ after[-1], zero)[0])
        before, found = eye, []
        for i in range(self.d):
            ring = self.bond @ after[self.d - 1 - i] @ before
            found.append(self.site * ring.diagonal(dim1=-2, dim2=-1))
            before = _normalise(before @ matrices[:, i], zero)[0]
        mu = torch.stack(found, 1)
        return mu / mu.sum(-1, keepdim=True)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """x_0 from its marginal, then round the ring, each step conditioned on closing it."""
        plain = self.site.unsqueeze(-1) * self.bond
        plain = plain / self.largest
        powers = [torch.linalg.matrix_power(plain, k) for k in range(self.d + 1)]
        first = torch.multinomial(powers[self.d].diagonal(), n, replacement=True, generator=generator)
        tokens = [first]
        for i in range(1, self.d):
            tokens.append(_draw(plain[tokens[-1]] * powers[self.d - i][:, first].T, generator))
        return torch.stack(tokens, 1)

    def full_support(self) -> bool:
        """Whether no ratio of probabilities underflows: with weaker couplings all states have one."""
        return 2 * self.d * (abs(self.J) + abs(self.field)) < LATEST


def _normalise(matrix: Tensor, log_scale: Tensor) -> tuple[Tensor, Tensor]:
    largest = matrix.amax((-2, -1), keepdim=True)
    scale = torch.where(largest > 0, largest, 1.0)  # all 0: an impossible state
    return matrix / scale, log_scale + torch.log(scale).reshape(log_scale.shape)


def _log_trace_of_power(matrix: Tensor, power: int) -> Tensor:
    """log tr M^power by squaring, for M >= 0: without the cancellation of eigenvalues of opposite sign."""
    result, log_scale = torch.eye(len(matrix), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    square, square_scale = _normalise(matrix, log_scale)
    while power:
        if power & 1:
            result, log_scale = _normalise(result @ square, log_scale + square_scale)
        square, square_scale = _normalise(square @ square, 2 * square_scale)
        power >>= 1
    return torch.log(result.trace()) + log_scale


def _draw(weights: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.multinomial(weights, 1, generator=generator).squeeze(-1)
