"""The exact law that a sampler generates, beside its target."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch
from jaxtyping import Float
from shared_core.errors import InputError
from torch import Tensor

from ctmc_bounds.checks import ENUMERATION_CAP, check_probabilities
from ctmc_bounds.divergences import chi2, kl, tv
from ctmc_bounds.marginals import Marginals
from ctmc_bounds.spaces import Space, TokenSpace

Init = Literal["uniform", "exact"]


@dataclass(frozen=True)
class Law:
    """What a sampler generates, exactly.

    Attributes:
        space: where the law lives.
        probabilities: of its states (classes for counts, (d, S) for product laws), never renormalised.
        target: q_delta in the same form.
        products: generator products, kernel applications or derivative evaluations that it took.
        notes: what was counted on the way, e.g. clipped Euler steps.
    """

    space: Space
    probabilities: Tensor
    target: Tensor
    products: int = 0
    notes: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def kl(self) -> float:
        """KL(q_delta || generated law)."""
        return kl(self.target, self.probabilities)

    @cached_property
    def tv(self) -> float | None:
        """Total variation; None for a product law with too many states to enumerate (then sqrt(KL/2) bounds it)."""
        if isinstance(self.space, TokenSpace):
            if self.space.S**self.space.d > ENUMERATION_CAP:
                return None
            return tv(joint(self.target), joint(self.probabilities))
        return tv(self.target, self.probabilities)

    @cached_property
    def chi2(self) -> float:
        """chi^2(q_delta || generated law)."""
        if isinstance(self.space, TokenSpace):
            parts = [chi2(a, b) for a, b in zip(self.target, self.probabilities, strict=True)]
            return float(torch.expm1(torch.log1p(torch.tensor(parts, dtype=torch.float64)).sum()))
        return chi2(self.target, self.probabilities)

    @cached_property
    def mass_defect(self) -> float:
        """How far the total probability is from 1: the rounding of the whole propagation."""
        return float((self.probabilities.sum(-1) - 1).abs().max())

    def states(self) -> Float[Tensor, " S_to_the_d"]:
        """Probabilities of all S^d states in order.

        Raises:
            InputError: if there are too many.
        """
        if isinstance(self.space, TokenSpace):
            return joint(self.probabilities)
        if self.space.kind == "counts":
            from ctmc_bounds.spaces import CountSpace, EnumeratedSpace

            assert isinstance(self.space, CountSpace)
            number = self.space.number(EnumeratedSpace(self.space.S, self.space.d, self.space.device).representatives())
            return (self.probabilities * torch.exp(-self.space.log_size))[number]
        return self.probabilities


def joint(tokens: Float[Tensor, "d S"]) -> Float[Tensor, " S_to_the_d"]:
    """The product law of independent tokens."""
    result = tokens[0]
    for row in tokens[1:]:
        result = torch.kron(result, row)
    return result


def initial_law(marginals: Marginals, T: float, init: Init | Tensor) -> Tensor:
    """Where sampling starts: `uniform` noise, `exact` q_T, or a law given on the space's states.

    Raises:
        InputError: for another word, or a tensor that is no law of that shape.
    """
    if isinstance(init, Tensor):
        if tuple(init.shape) != marginals.space.shape:
            raise InputError(f"init has shape {tuple(init.shape)}; expected {marginals.space.shape}")
        return check_probabilities(init.to(torch.float64), "init", dim=-1).clone()
    if init == "uniform":
        return marginals.space.uniform()
    if init == "exact":
        return marginals.probabilities(T).clone()
    raise InputError(f"init {init!r} must be uniform (practice) or exact (q_T, to see the discretisation alone)")
