"""Attention under a dense causal mask by blocks of queries, each of which sees no key behind its last query.

torch's kernel for CPUs computes every masked entry; rows of many tokens spend half of their attention on them.
"""

from typing import Any

import torch
from torch import Tensor, nn

NAME, BLOCK = "spin_causal_blocks", 192


def causal_blocks(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """transformers' `sdpa` attention, with the same result for every mask that hides the future."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    length = query.shape[2]
    special = any(options.get(name) is not None for name in ("softcap", "position_bias", "cache"))
    if attention_mask is None or length == 1 or key.shape[2] != length or query.device.type != "cpu" or special:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **options)
    grouped = query.shape[1] != key.shape[1]  # heads that share keys are not copied out
    parts = []
    for start in range(0, length, BLOCK):
        end = min(start + BLOCK, length)
        parts.append(
            nn.functional.scaled_dot_product_attention(
                query[:, :, start:end], key[:, :, :end], value[:, :, :end], attention_mask[:, :, start:end, :end],
                dropout_p=dropout, scale=scaling, enable_gqa=grouped,
            )
        )  # fmt: skip
    return torch.cat(parts, 2).transpose(1, 2).contiguous(), None


def register() -> str:
    """Make it known to transformers, and return its name there."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, causal_blocks)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    return NAME
