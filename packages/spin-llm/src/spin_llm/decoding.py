"""The key-value cache of responses that are being drawn: a common beginning is computed once, rows leave when done."""

import copy
from collections.abc import Sequence
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from spin_llm.packing import TokenIds
from spin_llm.sequence_logprobs import unwrap_peft

GROWTH = 64  # tokens that a cache makes room for at a time


class Decoding:
    """The cache of the rows that are not finished, and the logits of their next token.

    Prompts that begin alike (a template's system message) are computed once up to where they part, and the rest in
    groups of similar length, so that little is padded.
    """

    def __init__(self, model: nn.Module, prompts: Sequence[TokenIds]) -> None:
        self.model = unwrap_peft(model)
        self.device = next(model.parameters()).device
        # the argument's name since transformers 5.24, which warns of the old one
        self.keyword = "cache" if "cache" in signature(self.model.forward).parameters else "past_key_values"
        self.cache = growing_cache(self.model.config)
        # layers of other kinds (recurrent states) are neither repeated nor joined
        plain = all(type(layer) is _GrowingLayer for layer in self.cache.layers)
        common = common_beginning(prompts) if plain else 0
        beginning = self.cache
        if common:
            ids = torch.tensor(prompts[0][:common], device=self.device)[None]
            self._forward(ids, torch.ones_like(ids), torch.arange(common, device=self.device)[None])
        groups = similar_lengths(list(map(len, prompts))) if plain else [list(range(len(prompts)))]
        parts = []
        for rows in groups:
            self.cache = copy.deepcopy(beginning)
            parts.append((*self._begin([prompts[row] for row in rows], common), self.cache))
        self.mask, self.logits, self.cache = parts[0] if len(parts) == 1 else _joined(parts)
        order = torch.tensor([row for rows in groups for row in rows])
        if not torch.equal(order, torch.arange(len(prompts))):
            back = order.argsort().to(self.device)
            self.mask, self.logits = self.mask[back], self.logits[back]
            self.cache.batch_select_indices(back)

    def _begin(self, prompts: Sequence[TokenIds], common: int) -> tuple[Tensor, Tensor]:
        """Compute some prompts from where they part; mask, and logits of the first token."""
        width = max(map(len, prompts))
        ids = torch.zeros(len(prompts), width - common, dtype=torch.long)
        mask = torch.ones(len(prompts), width, dtype=torch.long)
        for row, prompt in enumerate(prompts):
            pad = width - len(prompt)
            ids[row, pad:] = torch.tensor(prompt[common:])
            mask[row, common : common + pad] = 0
        if common:
            self.cache.batch_repeat_interleave(len(prompts))
        mask = mask.to(self.device)
        positions = (mask.cumsum(1) - 1).clamp_(min=0)[:, common:]
        return mask, self._forward(ids.to(self.device), mask, positions)

    def advance(self, tokens: Tensor, keep: Tensor | None) -> None:
        """Append a token to every row, after dropping all rows but `keep`."""
        if keep is not None:
            keep = keep.to(tokens.device)
            tokens, self.mask = tokens[keep], self.mask[keep]
            self.cache.batch_select_indices(keep)
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(tokens), 1)], 1)
        self.logits = self._forward(tokens[:, None], self.mask, self.mask.sum(1, keepdim=True) - 1)

    def _forward(self, ids: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        found = self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            use_cache=True,
            logits_to_keep=1,
            **{self.keyword: self.cache},
        )
        return found.logits[:, -1]


def similar_lengths(lengths: Sequence[int], overhead: int = 64) -> list[list[int]]:
    """Rows in groups, shortest first, with the fewest tokens when each is padded to its group's longest.

    Args:
        lengths: of the rows.
        overhead: what one more forward pass costs, in tokens.
    """
    order = sorted(range(len(lengths)), key=lambda row: (lengths[row], row))
    best: list[tuple[float, int]] = [(0.0, 0)]
    for end in range(1, len(order) + 1):
        longest = lengths[order[end - 1]]
        best.append(min((best[start][0] + (end - start) * longest + overhead, start) for start in range(end)))
    groups, end = [], len(order)
    while end:
        start = best[end][1]
        groups.append(order[start:end])
        end = start
    return groups[::-1]


def _joined(parts: Sequence[tuple[Tensor, Tensor, DynamicCache]]) -> tuple[Tensor, Tensor, DynamicCache]:
    """Several batches as one, padded on the left where the mask is 0."""
    width = max(mask.shape[1] for mask, _, _ in parts)
    pads = [width - mask.shape[1] for mask, _, _ in parts]
    masks = [nn.functional.pad(mask, (pad, 0)) for (mask, _, _), pad in zip(parts, pads, strict=True)]
    caches = [cache for _, _, cache in parts]
    for number, layer in enumerate(caches[0].layers):
        for name in ("keys", "values"):
            states = [getattr(cache.layers[number], name) for cache in caches]
            padded = [nn.functional.pad(state, (0, 0, pad, 0)) for state, pad in zip(states, pads, strict=True)]
            setattr(layer, name, torch.cat(padded))
    return torch.cat(masks), torch.cat([logits for _, logits, _ in parts]), caches[0]


def common_beginning(prompts: Sequence[TokenIds]) -> int:
    """How many tokens all prompts begin with, leaving one of each; 0 for a single prompt, where nothing is gained."""
    if len(prompts) < 2:
        return 0
    first, last = min(map(tuple, prompts)), max(map(tuple, prompts))
    longest = min(map(len, prompts)) - 1
    return next((place for place in range(longest) if first[place] != last[place]), longest)


def growing_cache(config: Any) -> DynamicCache:
    """A cache that is not copied at every token, where its layers are of the plain kind."""
    cache = DynamicCache(config=config)
    cache.layers = [_GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


class _GrowingLayer(DynamicLayer):
    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append, in room made before."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        keys = self._append("key_room", self.keys, key_states)
        values = self._append("value_room", self.values, value_states)
        self.keys, self.values = keys, values
        return keys, values

    def _append(self, name: str, kept: Tensor | None, new: Tensor) -> Tensor:
        length = kept.shape[-2] if kept is not None and kept.numel() else 0
        end = length + new.shape[-2]
        room = getattr(self, name, None)
        # rows that left or were repeated are copies, no longer a part of the room
        if room is None or room.shape[-2] < end or (kept is not None and length and room.data_ptr() != kept.data_ptr()):
            room = new.new_empty(*new.shape[:-2], end + GROWTH, new.shape[-1])
            if kept is not None and length:
                room[..., :length, :] = kept
            setattr(self, name, room)
        room[..., length:end, :] = new
        return room[..., :end, :]
