"""Records as real-valued rows for the baselines that need them, and back."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from d3pm_ehr.layout import TokenLayout


def one_hot(layout: TokenLayout, tokens: Tensor) -> Float[Tensor, "rows features"]:
    """Tokens as real rows: codes 0/1, columns of K > 2 levels one-hot."""
    parts = []
    for group in layout.groups:
        own = tokens[:, group.start : group.stop]
        parts.append(
            own.float() if group.levels == 2 else functional.one_hot(own.long(), group.levels).float().flatten(1)
        )
    return torch.cat(parts, 1)


def from_real(layout: TokenLayout, x: Float[Tensor, "rows features"]) -> Tensor:
    """Round codes at 1/2, take the largest level of the others."""
    parts = []
    for group, part in layout.parts(x):
        parts.append((part > 0.5).to(torch.uint8) if group.levels == 2 else part.argmax(-1).to(torch.uint8))
    return torch.cat(parts, 1)
