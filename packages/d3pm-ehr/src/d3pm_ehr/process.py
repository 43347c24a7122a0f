"""The discrete diffusion of a record: step back from its noise, and measure how well a model does it."""

from typing import get_args

import torch
from jaxtyping import Float, Int, UInt8
from shared_core.errors import InputError
from torch import Tensor
from torch.nn import functional

from d3pm_ehr.config import KernelName, PosteriorForm
from d3pm_ehr.forward import ForwardProcess, draw_levels
from d3pm_ehr.layout import Group, TokenLayout
from d3pm_ehr.posterior import Steps, binary_posterior, joint, mixture, posterior


class DiscreteDiffusion(ForwardProcess):
    """The forward process (see there for its arguments), its reverse and the terms of the bound.

    Args:
        form: `mixture` or `joint` parametrisation of p(x_s | x_t).

    Raises:
        InputError: as the forward process, or for a form that does not exist.
    """

    def __init__(
        self,
        layout: TokenLayout,
        abar: Float[Tensor, "steps_plus_1"],
        kernel: KernelName = "uniform",
        marginals: Float[Tensor, "laws"] | None = None,
        form: PosteriorForm = "mixture",
    ) -> None:
        if form not in get_args(PosteriorForm):
            raise InputError(f"posterior must be one of {', '.join(get_args(PosteriorForm))}, got {form!r}")
        super().__init__(layout, abar, kernel, marginals)
        self.form = form

    # -- reverse ---------------------------------------------------------------------------------------------------

    def clean_logits(
        self, x_t: UInt8[Tensor, "rows columns"], t: Int[Tensor, "rows"], logits: Float[Tensor, "rows logits"]
    ) -> Float[Tensor, "rows logits"]:
        """Logits of p(x_0 | x_t): the model's own, but for `joint`, whose head leaves the token's own evidence out."""
        return logits if self.form == "mixture" or self.absorbing else logits + self.evidence(x_t, t)

    def reverse(
        self, x_t: UInt8[Tensor, "rows columns"], logits: Float[Tensor, "rows logits"], s: Tensor, t: Tensor
    ) -> list[Tensor]:
        """p(x_s | x_t) of each group: [rows, n] of level 1 for K = 2, [rows, n, K] otherwise (K + 1 with MASK).

        Args:
            x_t: noisy records.
            logits: the model's, flat.
            s: earlier times, scalar or one a record.
            t: times of x_t, s < t.
        """
        steps = self.steps(s, t)
        probabilities = self.layout.probabilities(logits)
        return [
            self._reverse_group(group, pi, x_t[:, group.start : group.stop], p, steps)
            for group, pi, p in zip(self.layout.groups, self.pi, probabilities, strict=True)
        ]

    def _reverse_group(self, group: Group, pi: Tensor, a: Tensor, p: Tensor, steps: Steps) -> Tensor:
        if self.absorbing:
            return self._reverse_masked(group, a, p, steps)
        if group.levels == 2 and self.form == "mixture":
            coefficients = steps.extended(1)
            absent = binary_posterior(a, 0, pi[:, 1], coefficients)
            return torch.lerp(absent, binary_posterior(a, 1, pi[:, 1], coefficients), p)
        law = torch.stack([1 - p, p], -1) if group.levels == 2 else p
        r = (mixture if self.form == "mixture" else joint)(a, law, pi, steps.extended(2))
        return r[..., 1] if group.levels == 2 else r

    @staticmethod
    def _reverse_masked(group: Group, a: Tensor, p: Tensor, steps: Steps) -> Tensor:
        """A masked token is unmasked with probability (abar_s - abar_t) / (1 - abar_t); others stay."""
        law = torch.stack([1 - p, p], -1) if group.levels == 2 else p
        coefficients = steps.extended(2)
        stay = (coefficients.noise_s / coefficients.noise_t).expand(*law.shape[:-1], 1)
        unmasked = torch.cat([(1 - stay) * law, stay], -1)
        fixed = functional.one_hot(a.long(), group.levels + 1).to(law.dtype)
        return torch.where((a == group.levels)[..., None], unmasked, fixed)

    def step_back(
        self,
        x_t: UInt8[Tensor, "rows columns"],
        logits: Float[Tensor, "rows logits"],
        s: Tensor,
        t: Tensor,
        uniforms: Float[Tensor, "rows columns"],
    ) -> UInt8[Tensor, "rows columns"]:
        """Draw x_s ~ p(x_s | x_t), all tokens in parallel, from one uniform number a token."""
        if self.absorbing:
            return self._unmask(x_t, logits, self.steps(s, t), uniforms)
        parts = []
        for group, law in zip(self.layout.groups, self.reverse(x_t, logits, s, t), strict=True):
            u = uniforms[:, group.start : group.stop]
            parts.append((u < law).to(torch.uint8) if group.levels == 2 else draw_levels(law, u))
        return torch.cat(parts, 1)

    def _unmask(self, x_t: Tensor, logits: Tensor, steps: Steps, uniforms: Tensor) -> Tensor:
        """A masked token leaves MASK where u < 1 - noise_s / noise_t; given that, u rescaled draws its level.

        The rescaling loses digits: over many steps a rare level needs more of them than a float32 of `uniforms` has.
        """
        leave = (1 - steps.noise_s / steps.noise_t)[..., None]
        parts = []
        for group, p in zip(self.layout.groups, self.layout.probabilities(logits), strict=True):
            a, u = x_t[:, group.start : group.stop], uniforms[:, group.start : group.stop]
            fresh = (u / leave).clamp_max(1 - torch.finfo(u.dtype).eps)
            drawn = (fresh < p).to(torch.uint8) if group.levels == 2 else draw_levels(p, fresh)
            parts.append(torch.where((a == group.levels) & (u < leave), drawn, a))
        return torch.cat(parts, 1)

    # -- losses ----------------------------------------------------------------------------------------------------

    def cross_entropy(
        self,
        x0: UInt8[Tensor, "rows columns"],
        x_t: UInt8[Tensor, "rows columns"],
        logits: Float[Tensor, "rows logits"],
    ) -> Float[Tensor, "rows"]:
        """-sum_n log p_n(x_0^n) in nats a record; for the absorbing kernel over the masked tokens only."""
        total = logits.new_zeros(len(x0))
        for group, part in self.layout.parts(logits):
            target = x0[:, group.start : group.stop]
            nats = _token_nats(part, target)
            if self.absorbing:
                nats = nats * (x_t[:, group.start : group.stop] == group.levels)
            total = total + nats.sum(1)
        return total

    def divergence(
        self,
        x0: UInt8[Tensor, "rows columns"],
        x_t: UInt8[Tensor, "rows columns"],
        logits: Float[Tensor, "rows logits"],
        t: Int[Tensor, "rows"],
    ) -> Float[Tensor, "rows"]:
        """L_{t-1} in nats a record: KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)), and -log p(x_0 | x_1) at t = 1."""
        if self.absorbing:
            steps = self.steps(t - 1, t)
            return (steps.signal_s - steps.signal_t) / steps.noise_t * self.cross_entropy(x0, x_t, logits)
        total = logits
        first = t == 1  # few records: their decoder term is computed for them alone
        some = self.form == "mixture" and bool(first.any())
        for index, (group, part) in enumerate(self.layout.parts(logits)):
            a, b = x_t[:, group.start : group.stop], x0[:, group.start : group.stop]
            if group.levels == 2 and self.form == "mixture" and self.kernel == "uniform":
                nats = self._uniform_divergence(a, b, part, t)
            elif group.levels == 2 and self.form == "mixture":
                nats = self._binary_divergence(a, b, part, self.pi[index], self.steps(t - 1, t))
            else:  # the joint form's own s = 0 case is its decoder
                nats = self._group_divergence(group, a, b, part, self.pi[index], self.steps(t - 1, t))
            if some:
                nats = nats.masked_scatter(first, _token_nats(part[first], b[first]).sum(1))
            total = total + nats if index else nats
        return total

    def _uniform_divergence(self, a: Tensor, b: Tensor, logits: Tensor, t: Tensor) -> Tensor:
        """K = 2, uniform: q(1 | a, b) = low(a) + slope b, the model's r = low(a) + slope p, entropy by [a = b] only."""
        low0, rise, slope, equal, change, _ = self._uniform(logits.dtype)[t][..., None].unbind(1)
        low = torch.addcmul(low0, a.to(logits.dtype), rise)
        # at t = 1 low and slope are 0 and 1, and the KL is replaced by the decoder's term: keep it finite
        tiny = torch.finfo(logits.dtype).tiny
        r = torch.addcmul(low, torch.sigmoid(logits), slope).clamp(tiny, 1 - torch.finfo(logits.dtype).eps / 2)
        q = torch.addcmul(low, b.to(logits.dtype), slope)
        crossed = torch.lerp((1 - r).log(), r.log(), q).sum(1)  # log1p is twenty times slower on a CPU
        changed = (a ^ b).sum(1, dtype=logits.dtype)
        return -crossed - equal[:, 0] * a.shape[1] - change[:, 0] * changed

    def _binary_divergence(self, a: Tensor, b: Tensor, logits: Tensor, pi: Tensor, steps: Steps) -> Tensor:
        coefficients = steps.extended(1)
        absent = binary_posterior(a, 0, pi[:, 1], coefficients)
        present = binary_posterior(a, 1, pi[:, 1], coefficients)
        # at t = 1 these are 0 and 1, whose KL is the decoder's term, taken elsewhere: keep it finite
        tiny = torch.finfo(logits.dtype).tiny
        r = torch.lerp(absent, present, torch.sigmoid(logits)).clamp(tiny, 1 - torch.finfo(logits.dtype).eps / 2)
        q = torch.where(b.bool(), present, absent)
        # xlogy(q, q / r) has the gradient 0 / 0 at q = 0, which `where` does not hide: entropies apart from it
        entropy = torch.special.entr(q) + torch.special.entr(1 - q)
        return -(entropy + q * r.log() + (1 - q) * (1 - r).log()).sum(1)

    def _group_divergence(self, group: Group, a: Tensor, b: Tensor, logits: Tensor, pi: Tensor, steps: Steps) -> Tensor:
        p = (
            torch.stack([torch.sigmoid(-logits), torch.sigmoid(logits)], -1)
            if group.levels == 2
            else logits.softmax(-1)
        )
        coefficients = steps.extended(2)
        q = posterior(a, b, pi, coefficients)
        r = (mixture if self.form == "mixture" else joint)(a, p, pi, coefficients)
        return -(torch.special.entr(q) + q * r.clamp_min(torch.finfo(r.dtype).tiny).log()).sum((1, 2))

    def prior_divergence(self, x0: UInt8[Tensor, "rows columns"]) -> Float[Tensor, "rows"]:
        """L_T = sum_n KL(q(x_T | x_0) || pi) in nats a record: 0 where abar_T = 0.

        Raises:
            InputError: with the absorbing kernel where abar_T > 0: it is infinite.
        """
        signal = float(self.abar[-1])
        total = torch.zeros(len(x0), device=x0.device, dtype=self.pi[0].dtype)
        if signal == 0:
            return total
        if self.absorbing:
            raise InputError("the absorbing kernel needs abar_T = 0: its L_T is infinite otherwise")
        for group, pi in zip(self.layout.groups, self.pi, strict=True):
            hot = functional.one_hot(x0[:, group.start : group.stop].long(), group.levels)
            q = signal * hot + (1 - signal) * pi
            total = total + torch.xlogy(q, q / pi).sum((1, 2))
        return total


def _token_nats(logits: Tensor, target: Tensor) -> Tensor:
    """-log p(target) of every token, [rows, n]; binary tokens have log-odds [rows, n], others [rows, n, K]."""
    if logits.ndim == 2:
        wrong = logits * (1 - 2 * target.to(logits.dtype))
        # softplus(wrong); torch's own takes a slow log1p of every token on a CPU
        return torch.where(wrong > 20, wrong, -torch.sigmoid(-wrong.clamp_max(20)).log())
    return functional.cross_entropy(logits.movedim(-1, 1), target.long(), reduction="none")
