"""The key-value cache of responses that are being drawn: a common beginning is computed once, rows leave when done."""

from collections.abc import Sequence
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

    Prompts that begin alike (a template's system message) are computed once up to where they part.
    """

    def __init__(self, model: nn.Module, prompts: Sequence[TokenIds]) -> None:
        self.model = unwrap_peft(model)
        self.cache = growing_cache(self.model.config)
        device = next(model.parameters()).device
        plain = all(isinstance(layer, DynamicLayer) for layer in self.cache.layers)
        common = common_beginning(prompts) if plain else 0
        rows = [prompt[common:] for prompt in prompts]
        width = max(map(len, rows))
        ids = torch.zeros(len(rows), width, dtype=torch.long)
        mask = torch.ones(len(rows), common + width, dtype=torch.long)
        for row, prompt in enumerate(rows):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, common : common + width - len(prompt)] = 0
        self.mask = mask.to(device)
        if common:
            beginning = torch.tensor(prompts[0][:common], device=device)[None]
            self._forward(beginning, self.mask[:1, :common], torch.arange(common, device=device)[None])
            self.cache.batch_repeat_interleave(len(rows))
        positions = (self.mask.cumsum(1) - 1).clamp_(min=0)[:, common:]
        self.logits = self._forward(ids.to(device), self.mask, positions)

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
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return found.logits[:, -1]  # type: ignore[no-any-return] # a tensor


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
        self.keys = self._append("key_room", self.keys, key_states)
        self.values = self._append("value_room", self.values, value_states)
        return self.keys, self.values

    def _append(self, name: str, kept: Tensor, new: Tensor) -> Tensor:
        length = kept.shape[-2] if kept.numel() else 0
        end = length + new.shape[-2]
        room = getattr(self, name, None)
        # rows that left or were repeated are copies, no longer a part of the room
        if room is None or room.shape[-2] < end or (length and room.data_ptr() != kept.data_ptr()):
            room = new.new_empty(*new.shape[:-2], end + GROWTH, new.shape[-1])
            if length:
                room[..., :length, :] = kept
            setattr(self, name, room)
        room[..., length:end, :] = new
        return room[..., :end, :]
