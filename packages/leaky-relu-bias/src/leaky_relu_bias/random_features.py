"""The random Fourier lift: real images made nearly orthogonal (Rahimi and Recht's features of a Gaussian kernel)."""

import math

import torch
from jaxtyping import Float
from shared_core.errors import InputError
from torch import Tensor


def random_fourier_features(
    X: Float[Tensor, "n d"], features: int = 4096, bandwidth: float = 0.15, seed: int = 0
) -> Float[Tensor, "n features"]:
    """sqrt(2 / D) cos(x w / bandwidth + b): inner products near exp(-||x - x'||^2 / (2 bandwidth^2)).

    Raises:
        InputError: unless features >= 1 and the bandwidth is finite and positive.
    """
    if features < 1:
        raise InputError(f"features must be at least 1, got {features}")
    if not (math.isfinite(bandwidth) and bandwidth > 0):
        raise InputError(f"bandwidth must be a finite number > 0, got {bandwidth}")
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(X.shape[1], features, generator=generator, dtype=torch.float64).to(X)
    phases = (2 * math.pi * torch.rand(features, generator=generator, dtype=torch.float64)).to(X)
    return math.sqrt(2 / features) * torch.cos(X @ directions / bandwidth + phases)
