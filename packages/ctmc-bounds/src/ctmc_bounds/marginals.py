"""q_t on the states of a space: what exact laws, scores and bounds are made of."""

import torch
from shared_core.errors import InputError
from torch import Tensor

from ctmc_bounds.checks import ENUMERATION_CAP
from ctmc_bounds.data_laws import DataLaw, ProductData
from ctmc_bounds.exchangeable import ExchangeableData
from ctmc_bounds.spaces import CountSpace, EnumeratedSpace, Space, TokenSpace

REPRESENTATIONS = ("auto", "enumerated", "product", "counts")


def choose_space(data: DataLaw, representation: str = "auto", symmetric: bool = True) -> Space:
    """The smallest space that the law of a sampler lives on.

    Args:
        data: the target.
        representation: `auto`, `enumerated`, `product` or `counts`.
        symmetric: whether the estimator keeps the structure of the data (an exact score does, noise on every state
            does not).

    Raises:
        InputError: if the representation does not fit the data, or there are too many states for any.
    """
    if representation not in REPRESENTATIONS:
        raise InputError(f"representation {representation!r} is none of {', '.join(REPRESENTATIONS)}")
    product, counts = isinstance(data, ProductData), data.exchangeable
    if representation == "auto" and symmetric:
        representation = "product" if product else "counts" if counts else "enumerated"
    if representation in ("product", "counts") and not symmetric:
        raise InputError(
            f"representation {representation} needs a score that keeps the symmetry of the data; this estimator is a"
            " function of the whole state: use enumerated"
        )
    if representation == "product" and not product:
        raise InputError("representation product needs product data; use counts or enumerated")
    if representation == "counts" and not counts:
        raise InputError("representation counts needs exchangeable data; use enumerated")
    if representation == "product":
        return TokenSpace(data.S, data.d, data.device)
    if representation == "counts":
        return data.space if isinstance(data, ExchangeableData) else CountSpace(data.S, data.d, data.device)
    return EnumeratedSpace(data.S, data.d, data.device)


class Marginals:
    """q_t of `data` on `space` for any t >= 0."""

    def __init__(self, data: DataLaw, space: Space | None = None) -> None:
        self.data = data
        self.space = choose_space(data) if space is None else space
        self._representatives: Tensor | None = None

    def probabilities(self, t: float) -> Tensor:
        """Probabilities of the space's states (of classes for counts), of shape `space.shape`."""
        if isinstance(self.space, EnumeratedSpace):
            blocks = self.space.blocks
            return blocks.product(blocks.kernel(t), self.data.table) if t > 0 else self.data.table.clone()
        if isinstance(self.space, TokenSpace):
            assert isinstance(self.data, ProductData)
            return self.data.token_marginals(t)
        if isinstance(self.data, ExchangeableData):
            return self.data.class_law(t)
        return torch.exp(self.log_q(t) + self.space.log_size)

    def log_q(self, t: float) -> Tensor:
        """log-probability of one state of each class."""
        if isinstance(self.space, CountSpace) and not isinstance(self.data, ExchangeableData):
            if self._representatives is None:
                self._representatives = self.space.representatives()
            return self.data.log_q(self._representatives, t)
        return torch.log(self.probabilities(t)) - self.space.log_size


def is_enumerable(S: int, d: int) -> bool:
    """Whether S^d states can be enumerated here."""
    return S**d <= ENUMERATION_CAP
