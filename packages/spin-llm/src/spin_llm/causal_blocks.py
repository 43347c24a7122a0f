"""Attention under a dense mask by blocks: queries meet no block of keys that every row's mask hides from them.

torch's kernel for CPUs computes every masked entry. Of a row [prompt | real | generated] that is most of them: the
future, and the other response.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

NAME, BLOCK = "spin_causal_blocks", 64

Span = tuple[int, int]
_plans: Any = WeakTensorKeyDictionary()  # all layers get the same mask


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
    """transformers' `sdpa` attention, with the same result for every mask."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    length = query.shape[2]
    special = any(options.get(name) is not None for name in ("softcap", "position_bias", "cache"))
    if attention_mask is None or length == 1 or key.shape[2] != length or query.device.type != "cpu" or special:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **options)
    if attention_mask not in _plans:
        _plans[attention_mask] = [
            # copied, since a view would keep alive the very tensor that the plan is filed under
            (queries, spans, _take(attention_mask[:, :, slice(*queries)], spans, 3).clone())
            for queries, spans in visible_spans(attention_mask, BLOCK)
        ]
    grouped = query.shape[1] != key.shape[1]  # heads that share keys are not copied out
    parts: list[Tensor] = []
    longest: list[Span] = []
    keys, values = key, value
    # from the end: the last block of a response meets all the keys that its earlier ones do, so they are copied once
    for (start, end), spans, mask in reversed(_plans[attention_mask]):
        if not _begins(spans, longest):
            longest, keys, values = spans, _take(key, spans, 2), _take(value, spans, 2)
        count = sum(last - first for first, last in spans)
        parts.append(
            nn.functional.scaled_dot_product_attention(
                query[:, :, start:end], keys[:, :, :count], values[:, :, :count], mask, dropout_p=dropout,
                scale=scaling, enable_gqa=grouped,
            )
        )  # fmt: skip
    return torch.cat(parts[::-1], 2).transpose(1, 2).contiguous(), None


def _begins(spans: list[Span], longer: list[Span]) -> bool:
    """Whether the keys of some spans are the first of those of others."""
    if not longer or len(spans) > len(longer):
        return False
    *before, (first, last) = spans
    same, (start, end) = longer[: len(before)], longer[len(before)]
    return before == same and first == start and last <= end


def visible_spans(mask: Tensor, block: int) -> list[tuple[Span, list[Span]]]:
    """For each block of queries the spans of keys that some row lets some of them see.

    Args:
        mask: [row, head, query, key], additive, or true where a key is seen.
        block: tokens.
    """
    seen = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min
    seen = seen.flatten(0, 1).any(0)
    length, count = len(seen), -(-len(seen) // block)
    spare = count * block - length
    tiles = nn.functional.pad(seen, (0, spare, 0, spare)).view(count, block, count, block).any(3).any(1)
    borders = [(place * block, min((place + 1) * block, length)) for place in range(count)]
    plan = []
    for queries, needed in zip(borders, tiles.tolist(), strict=True):
        spans: list[Span] = []
        for keys, is_needed in zip(borders, needed, strict=True):
            if is_needed and spans and spans[-1][1] == keys[0]:
                spans[-1] = (spans[-1][0], keys[1])
            elif is_needed:
                spans.append(keys)
        plan.append((queries, spans or [queries]))  # padding that sees nothing still needs a key
    return plan


def _take(states: Tensor, spans: list[Span], axis: int) -> Tensor:
    parts = [states.narrow(axis, first, last - first) for first, last in spans]
    return parts[0] if len(parts) == 1 else torch.cat(parts, axis)


def register() -> str:
    """Make it known to transformers, and return its name there."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, causal_blocks)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    return NAME
