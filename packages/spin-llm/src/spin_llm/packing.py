"""Prompts with their responses as rows of tokens: a prompt is computed once, however many responses follow it.

A shared row is [prompt | response 1 | response 2 | ... | padding]. Every response starts at position len(prompt) and
attends to the prompt and itself only, so each is scored as if it stood alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from shared_core.errors import InputError
from torch import Tensor

TokenIds = Sequence[int]


@dataclass(frozen=True)
class PackedBatch:
    """Rows for one forward pass, and where in them each response token is predicted.

    Args:
        input_ids: tokens, padded on the right.
        position_ids: positions within prompt and response.
        attention_mask: additive [row, 1, query, key] for shared rows, 0/1 [row, token] otherwise.
        predictors: index into the flattened rows of the position that predicts each response token.
        targets: that token.
        owners: which response it belongs to, counted prompt by prompt.
        offsets: which token of that response it is.
        responses: how many responses there are.
    """

    input_ids: Int[Tensor, "row token"]
    position_ids: Int[Tensor, "row token"]
    attention_mask: Tensor
    predictors: Int[Tensor, "target"]
    targets: Int[Tensor, "target"]
    owners: Int[Tensor, "target"]
    offsets: Int[Tensor, "target"]
    responses: int

    def to(self, device: torch.device | str) -> "PackedBatch":
        """The same batch on a device."""
        moved = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **moved)  # type: ignore[arg-type] # tensors only

    def sums(self, values: Float[Tensor, "target"]) -> Float[Tensor, "responses"]:
        """Sum of per-token values over each response, the same in every run on every device."""
        longest = int(self.offsets.max()) + 1 if len(self.offsets) else 0
        padded = values.new_zeros(self.responses, longest)
        return padded.index_put((self.owners, self.offsets), values).sum(1)


def pack(
    prompts: Sequence[TokenIds],
    responses: Sequence[Sequence[TokenIds]],
    pad_id: int = 0,
    share_prompt: bool = True,
    dtype: torch.dtype = torch.float32,
) -> PackedBatch:
    """Lay out prompts and their responses.

    Args:
        prompts: token ids of each prompt, at least one token each.
        responses: for each prompt, the token ids of one or more responses, the end token where one was written.
        pad_id: fills rows up; which id it is changes nothing.
        share_prompt: one row a prompt, or one row a response (for models that take no four-dimensional mask).
        dtype: of the additive mask, that of the model's activations.

    Raises:
        InputError: for an empty prompt or response (its log-probability would silently be 0).
    """
    for index, (prompt, group) in enumerate(zip(prompts, responses, strict=True)):
        if not len(prompt):
            raise InputError(f"prompt {index} is empty")
        if not group or any(not len(response) for response in group):
            raise InputError(f"prompt {index} has an empty response")
    rows = list(zip(prompts, responses, strict=True))
    if not share_prompt:
        rows = [(prompt, [response]) for prompt, group in rows for response in group]
    width = max(len(prompt) + sum(map(len, group)) for prompt, group in rows)
    ids = torch.full((len(rows), width), pad_id)
    positions = torch.zeros(len(rows), width, dtype=torch.long)
    branch = torch.full((len(rows), width), -1)  # 0 prompt, 1.. responses, -1 padding
    targets, predictors, owners, offsets = [], [], [], []
    owner = 0
    for row, (prompt, group) in enumerate(rows):
        end = len(prompt)
        ids[row, :end], positions[row, :end], branch[row, :end] = torch.tensor(prompt), torch.arange(end), 0
        for number, response in enumerate(group, start=1):
            start, end = end, end + len(response)
            ids[row, start:end] = torch.tensor(response)
            positions[row, start:end] = torch.arange(len(prompt), len(prompt) + len(response))
            branch[row, start:end] = number
            # the prompt's last token predicts the first of every response
            before = torch.arange(start - 1, end - 1)
            before[0] = len(prompt) - 1
            predictors.append(row * width + before)
            targets.append(ids[row, start:end])
            owners.append(torch.full((len(response),), owner))
            offsets.append(torch.arange(len(response)))
            owner += 1
    mask = _branch_mask(branch, dtype) if share_prompt else (branch >= 0).long()
    return PackedBatch(
        ids, positions, mask, torch.cat(predictors), torch.cat(targets), torch.cat(owners), torch.cat(offsets), owner
    )


def _branch_mask(branch: Int[Tensor, "row token"], dtype: torch.dtype) -> Float[Tensor, "row 1 query key"]:
    width = branch.shape[1]
    causal = torch.ones(width, width, dtype=torch.bool).tril()
    same = branch[:, :, None] == branch[:, None, :]
    to_prompt = branch[:, None, :] == 0
    # padding sees itself: a row of nothing but masked entries is NaN in some kernels
    seen = causal & (same | to_prompt) & (branch[:, None, :] >= 0) | torch.eye(width, dtype=torch.bool)
    return torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)[:, None]
