"""Tensors as picture files."""

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from shared_core.files import atomic_path
from torch import Tensor


def to_pil(image: Float[Tensor, "channel h w"]) -> Any:
    """An image in [0, 1] for Pillow."""
    from PIL import Image

    values = (image.clamp(0, 1) * 255).round().to(torch.uint8).cpu()
    if values.shape[0] == 1:
        return Image.fromarray(values[0].numpy())
    return Image.fromarray(values[:3].permute(1, 2, 0).contiguous().numpy())


def save_picture(image: Float[Tensor, "channel h w"], path: Path) -> None:
    """Write a PNG file."""
    with atomic_path(path) as aside:
        to_pil(image).save(aside, format="PNG")
