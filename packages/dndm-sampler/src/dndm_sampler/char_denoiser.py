"""A small convolutional denoiser of letters: learns local spelling in a minute on a CPU."""

import math

import torch
from jaxtyping import Float, Int
from shared_core.errors import InputError
from torch import Tensor, nn


class CharDenoiser(nn.Module):
    """Embedding, a wide and a narrow convolution modulated by time, and a linear head on each position.

    Args:
        vocab_size: V clean tokens.
        extra_tokens: 1 where the input has a mask id V, else 0.
        width: channels.

    Called with (x [rows, length], t [rows] in [0, 1]) it returns logits [rows, length, V]; `hidden` and `head` let a
    sampler compute the head at chosen positions only.
    """

    def __init__(self, vocab_size: int = 27, extra_tokens: int = 1, width: int = 128) -> None:
        super().__init__()
        if width < 8 or width % 8:
            raise InputError(f"width must be a positive multiple of 8, got {width}")
        self.embedding = nn.Embedding(vocab_size + extra_tokens, 32)
        self.wide = nn.Conv1d(32, width, 9, padding=4)
        self.narrow = nn.Conv1d(width, width, 5, padding=2)
        self.norms = nn.ModuleList(nn.GroupNorm(8, width, affine=False) for _ in range(2))
        self.time = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 4 * width))
        self.output = nn.Linear(width, vocab_size)

    def hidden(self, x: Int[Tensor, "rows length"], t: Float[Tensor, "rows"]) -> Float[Tensor, "rows length width"]:
        """Features of every position."""
        first_scale, first_shift, scale, shift = self.time(fourier(t))[..., None].chunk(4, dim=1)
        h = self.wide(self.embedding(x).mT)
        h = nn.functional.gelu(self.norms[0](h) * (1 + first_scale) + first_shift)
        update = self.norms[1](self.narrow(h)) * (1 + scale) + shift
        return (h + nn.functional.gelu(update)).mT

    def head(self, hidden: Float[Tensor, "*positions width"]) -> Float[Tensor, "*positions vocab"]:
        """Logits of features."""
        return self.output(hidden)

    def forward(self, x: Int[Tensor, "rows length"], t: Float[Tensor, "rows"]) -> Float[Tensor, "rows length vocab"]:
        """Logits of every position."""
        return self.head(self.hidden(x, t))


def fourier(t: Float[Tensor, "rows"], size: int = 32) -> Float[Tensor, "rows size"]:
    """Sines and cosines of t at octave-like frequencies between 1 and 1000."""
    frequency = torch.exp(torch.linspace(0, math.log(1000), size // 2, device=t.device))
    angle = t[:, None].float() * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=1)
