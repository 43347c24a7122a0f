"""The forward process: the stationary laws, x_t ~ q(x_t | x_0), and what a noisy token says of its own x_0."""

from typing import Self, get_args

import torch
from jaxtyping import Float, Int, UInt8
from shared_core.errors import InputError
from torch import Tensor
from torch.nn import functional

from d3pm_ehr.config import KernelName
from d3pm_ehr.layout import TokenLayout
from d3pm_ehr.posterior import Steps, binary_posterior, qbar_to, steps_between
from d3pm_ehr.schedule import check_schedule

CERTAIN = 40.0  # log-odds of a token that is known: e^-40 is below half a float64 unit of 1


class ForwardProcess:
    """Q_t = alpha_t I + (1 - alpha_t) 1 pi^T on every token of a record, independently.

    Args:
        layout: the columns.
        abar: abar_0..abar_T, float64 (see `noise_schedule`).
        kernel: `uniform` (pi = 1 / K), `marginal` (pi = the column's own law) or `absorbing` (all mass on MASK, which
            is the extra state K of a column with K levels).
        marginals: for `marginal`, the flat laws of `TokenLayout.empirical`.

    Raises:
        InputError: for a name that does not exist, a bad schedule, or marginals that are missing or not positive.
    """

    def __init__(
        self,
        layout: TokenLayout,
        abar: Float[Tensor, "steps_plus_1"],
        kernel: KernelName = "uniform",
        marginals: Float[Tensor, "laws"] | None = None,
    ) -> None:
        if kernel not in get_args(KernelName):
            raise InputError(f"kernel must be one of {', '.join(get_args(KernelName))}, got {kernel!r}")
        check_schedule(abar)
        self.layout, self.kernel = layout, kernel
        self.abar = abar.double()
        self._exact = self._stationary(marginals)
        self.pi = [law.float() for law in self._exact]
        self._tables: dict[torch.dtype, Tensor] = {}  # of `uniform_table`

    def _stationary(self, marginals: Tensor | None) -> list[Tensor]:
        """The law pi of each group: [n or 1, K]."""
        if self.kernel != "marginal":
            return [
                torch.full((1, group.levels), 1 / group.levels, dtype=torch.float64) for group in self.layout.groups
            ]
        if marginals is None:
            raise InputError("kernel marginal needs the marginals of the training records")
        laws = []
        for group, part in self.layout.parts(marginals):
            own = part.double()
            law = torch.stack([1 - own, own], -1) if group.levels == 2 else own
            if bool((law <= 0).any()):
                raise InputError("kernel marginal: every level needs a positive share; smooth the marginals")
            laws.append(law)
        return laws

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Self:
        """Move the tables (in place) and return self; `dtype` of the stationary laws sets the precision of all."""
        self.abar = self.abar.to(device)
        self._tables = {}
        dtype = dtype or self.pi[0].dtype
        self.pi = [law.to(dtype).to(device) for law in self._exact]
        return self

    @property
    def num_steps(self) -> int:
        """T."""
        return len(self.abar) - 1

    @property
    def absorbing(self) -> bool:
        """Whether there is a MASK state."""
        return self.kernel == "absorbing"

    def steps(self, s: Tensor, t: Tensor) -> Steps:
        """Coefficients of s < t, in the precision of the stationary laws."""
        return steps_between(self.abar, s, t, self.pi[0].dtype)

    def prior_from(self, uniforms: Float[Tensor, "rows columns"]) -> UInt8[Tensor, "rows columns"]:
        """x_T from one uniform number a token."""
        return torch.cat([self._stationary_draw(index, uniforms) for index in range(len(self.pi))], 1)

    def _stationary_draw(self, index: int, uniforms: Tensor) -> Tensor:
        group = self.layout.groups[index]
        u = uniforms[:, group.start : group.stop]
        if self.absorbing:
            return torch.full(u.shape, group.levels, dtype=torch.uint8, device=u.device)
        return draw_levels(self.pi[index].expand(group.columns, -1), u)

    def corrupt(
        self, x0: UInt8[Tensor, "rows columns"], t: Int[Tensor, "rows"], generator: torch.Generator
    ) -> UInt8[Tensor, "rows columns"]:
        """x_t ~ q(x_t | x_0) = abar_t [x_t = x_0] + (1 - abar_t) pi, independently for every token."""
        u = torch.rand(x0.shape, generator=generator, device=x0.device)
        if self.layout.binary and self.kernel == "uniform":
            return x0 ^ (u < self._uniform(u.dtype)[t, 5:])  # a token flips with probability (1 - abar_t) / 2
        noise = (1 - self.abar[t]).to(u.dtype)[:, None]
        resampled = u < noise
        # given u < noise, u / noise is uniform again: one random number serves both
        fresh = self.prior_from((u / noise.clamp_min(1e-30)).clamp(0, 1 - 1e-7))
        return torch.where(resampled, fresh, x0)

    def evidence(self, x_t: UInt8[Tensor, "rows columns"], t: Int[Tensor, "rows"]) -> Float[Tensor, "rows logits"]:
        """log Qbar_t[b, x_t] of every level b (their difference for K = 2), flat like the logits.

        Added to the logits of the token given the OTHER tokens it gives those of p(x_0 | x_t): the denoiser need not
        learn to copy its own input. For the absorbing kernel a masked token tells nothing of itself (0), and an
        unmasked one all (`CERTAIN`).
        """
        if self.absorbing:
            return self._absorbing_evidence(x_t)
        steps = self.steps(t - 1, t)
        parts = []
        for group, pi in zip(self.layout.groups, self.pi, strict=True):
            a = x_t[:, group.start : group.stop]
            if group.levels == 2:
                parts.append(_binary_evidence(a, pi[:, 1], steps.extended(1)))
            else:
                parts.append(qbar_to(a, pi, steps.extended(2)).log().flatten(1))
        return torch.cat(parts, 1)

    def _absorbing_evidence(self, x_t: Tensor) -> Tensor:
        parts = []
        for group in self.layout.groups:
            a, dtype = x_t[:, group.start : group.stop], self.pi[0].dtype
            if group.levels == 2:
                parts.append((2 * a.to(dtype) - 1) * (CERTAIN * (a < 2)))
            else:
                parts.append(CERTAIN * functional.one_hot(a.long(), group.levels + 1)[..., :-1].to(dtype).flatten(1))
        return torch.cat(parts, 1)

    def _uniform(self, dtype: torch.dtype) -> Tensor:
        if dtype not in self._tables:
            self._tables[dtype] = uniform_table(self.abar).to(dtype)
        return self._tables[dtype]


def uniform_table(abar: Float[Tensor, "steps_plus_1"]) -> Float[Tensor, "steps_plus_1 6"]:
    """For K = 2, uniform, s = t - 1, in float64: q(1 | a, b) = low(a) + slope b and its entropy.

    Columns: low(0), low(1) - low(0), slope, entropy where a = b, what a != b adds to it, and the probability
    (1 - abar_t) / 2 of a flip; row 0 is not used.
    """
    t = torch.arange(1, len(abar), device=abar.device)
    steps = steps_between(abar, t - 1, t, torch.float64)
    half = torch.full((1,), 0.5, dtype=torch.float64, device=abar.device)
    zero, one = torch.zeros_like(t), torch.ones_like(t)
    q = {(a, b): binary_posterior(one * a, zero + b, half, steps) for a in (0, 1) for b in (0, 1)}

    def entropy(p: Tensor) -> Tensor:
        return torch.special.entr(p) + torch.special.entr(1 - p)

    equal, other = entropy(q[0, 0]), entropy(q[0, 1])
    rows = torch.stack([q[0, 0], q[1, 0] - q[0, 0], q[0, 1] - q[0, 0], equal, other - equal, (1 - abar[1:]) / 2], 1)
    return torch.cat([rows.new_zeros(1, 6), rows])


def _binary_evidence(a: Tensor, pi: Tensor, steps: Steps) -> Tensor:
    up = a.to(pi.dtype)
    pi_a = up * (2 * pi - 1) + (1 - pi)
    odds = torch.log1p(steps.signal_t / (steps.noise_t * pi_a))  # log of Qbar[a, a] / Qbar[not a, a]
    return (2 * up - 1) * odds


def draw_levels(law: Tensor, u: Tensor) -> Tensor:
    """Inverse transform: the number of levels whose cumulative share is at most u."""
    if law.shape[-1] == 2:
        return (u >= law[..., 0]).to(torch.uint8)
    cumulative = law.cumsum(-1)[..., :-1]
    return (u[..., None] >= cumulative).sum(-1).to(torch.uint8)
