"""What a token becomes once it has moved to noise: the mask (absorbing) or a random token (multinomial)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from shared_core.errors import InputError
from torch import Tensor


@dataclass(frozen=True)
class AbsorbingNoise:
    """Every noise token is the mask.

    Args:
        mask_token_id: id of the mask; it is never drawn as data.

    Raises:
        InputError: if the id is negative.
    """

    mask_token_id: int

    def __post_init__(self) -> None:
        if self.mask_token_id < 0:
            raise InputError(f"mask_token_id must be a token id, got {self.mask_token_id}")

    def sample(self, uniforms: Float[Tensor, "batch length"]) -> Int[Tensor, "batch length"]:
        """The mask everywhere."""
        return torch.full(uniforms.shape, self.mask_token_id, device=uniforms.device)


class MultinomialNoise:
    """Noise tokens are independent draws from a law on the vocabulary.

    Args:
        vocab_size: V, the width of the logits.
        law: probability of each token as noise; uniform by default.
        excluded: special ids that are never noise (PAD, BOS, EOS, ...), with a uniform law on the others.

    Raises:
        InputError: if the law is not a probability vector of V entries, or leaves no token.
    """

    def __init__(self, vocab_size: int, law: Sequence[float] | None = None, excluded: Sequence[int] = ()) -> None:
        if vocab_size < 2:
            raise InputError(f"vocab_size must be at least 2 for multinomial noise, got {vocab_size}")
        q = torch.ones(vocab_size, dtype=torch.float64) if law is None else torch.as_tensor(law, dtype=torch.float64)
        if q.shape != (vocab_size,) or not bool(torch.isfinite(q).all()) or float(q.min()) < 0:
            raise InputError(f"noise law must hold {vocab_size} non-negative numbers, got shape {tuple(q.shape)}")
        outside = [token for token in excluded if not 0 <= token < vocab_size]
        if outside:
            raise InputError(f"excluded token {outside[0]} is not in 0..{vocab_size - 1}")
        q[list(excluded)] = 0
        if float(q.sum()) <= 0:
            raise InputError("noise law leaves no token: all are excluded or have probability 0")
        self.vocab_size = vocab_size
        self.probabilities: Float[Tensor, vocab] = q / q.sum()

    @property
    def is_uniform(self) -> bool:
        """Whether all V tokens are equally likely."""
        return bool((self.probabilities == self.probabilities[0]).all())

    def sample(self, uniforms: Float[Tensor, "batch length"]) -> Int[Tensor, "batch length"]:
        """One token a uniform, by the inverse distribution function."""
        return inverse_cdf(self.probabilities.to(uniforms), uniforms)


Noise = AbsorbingNoise | MultinomialNoise


def inverse_cdf(
    probabilities: Float[Tensor, "*batch vocab"], uniforms: Float[Tensor, "*shape"]
) -> Int[Tensor, "*shape"]:
    """The token whose interval of the distribution function holds the uniform.

    `probabilities`, which need not sum to 1, is one law [vocab] for all uniforms, or one for each: [*shape, vocab].
    """
    cdf = probabilities.cumsum(-1)
    if cdf.ndim == 1:
        return torch.searchsorted(cdf, (uniforms * cdf[-1]).contiguous(), right=True).clamp(max=len(cdf) - 1)
    return find_token(cdf, uniforms)


def find_token(cdf: Float[Tensor, "*shape vocab"], uniforms: Float[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """The first token whose cumulative sum exceeds uniform times total; never one of probability 0.

    Keep the sums in float64: float32 sums and Gumbel noise cut the tail of a large vocabulary off and so lower the
    temperature (arXiv 2409.02908).
    """
    target = uniforms[..., None] * cdf[..., -1:]
    return torch.searchsorted(cdf, target, right=True).squeeze(-1).clamp_(max=cdf.shape[-1] - 1)
