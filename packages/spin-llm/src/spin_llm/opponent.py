"""The frozen player: its responses and what it thinks of both, written down once an iteration.

With these numbers on disk no second model is in memory, and there is no adapter to be switched off to the wrong
reference: whatever was trained last is the opponent of the next iteration.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from spin_llm.packing import TokenIds, pack
from spin_llm.sequence_logprobs import Scoring, model_dtype, sequence_logprobs


@torch.no_grad()
def score_responses(
    model: nn.Module,
    prompts: Sequence[TokenIds],
    responses: Sequence[Sequence[TokenIds]],
    scoring: Scoring,
    *,
    pad_id: int = 0,
    rows: int = 16,
    device: torch.device | None = None,
    progress: Callable[[Sequence[list[int]]], Iterator[list[int]]] = iter,
    autocast: Callable[[], Any] | None = None,
) -> list[list[float]]:
    """log p(response | prompt) of every response to every prompt, by the very computation that training uses.

    Args:
        model: frozen for this.
        prompts: token ids.
        responses: for each prompt the same number of responses.
        scoring: what the model allows.
        pad_id: fills rows up.
        rows: prompts a forward pass.
        device: where the model is.
        progress: wraps the iteration over batches of indices, longest first.
        autocast: makes the context of mixed precision, the same as in training.

    Returns:
        One list of nats for each prompt.
    """
    order = sorted(range(len(prompts)), key=lambda row: -len(prompts[row]) - sum(map(len, responses[row])))
    batches = [order[start : start + rows] for start in range(0, len(order), rows)]
    device = device or next(model.parameters()).device
    found: dict[int, list[float]] = {}
    for batch in progress(batches):
        packed = pack(
            [prompts[row] for row in batch],
            [responses[row] for row in batch],
            pad_id,
            scoring.share_prompt,
            model_dtype(model),
        ).to(device)
        if autocast is None:
            scores = sequence_logprobs(model, packed, scoring)
        else:
            with autocast():
                scores = sequence_logprobs(model, packed, scoring)
        found |= zip(batch, scores.reshape(len(batch), -1).tolist(), strict=True)
    return [found[index] for index in range(len(prompts))]


def score_pairs(
    model: nn.Module, pairs: Sequence[Any], scoring: Scoring, accelerator: Any, pad_id: int, rows: int
) -> Float[Tensor, "pair 2"]:
    """log p(y|x) and log p(y'|x) of every pair in nats, float64: every process scores its share, and all get all.

    Args:
        model: the frozen player.
        pairs: with `prompt`, `real` and `generated`.
        scoring: what the model allows.
        accelerator: accelerate's.
        pad_id: fills rows up.
        rows: pairs a forward pass.
    """
    world, rank = accelerator.num_processes, accelerator.process_index
    mine = pairs[rank::world]
    found = torch.zeros(len(pairs), 2, dtype=torch.float64, device=accelerator.device)
    if mine:
        scores = score_responses(
            model,
            [pair.prompt for pair in mine],
            [[pair.real, pair.generated] for pair in mine],
            scoring,
            pad_id=pad_id,
            rows=rows,
            autocast=accelerator.autocast,
        )
        found[rank::world] = torch.tensor(scores, dtype=torch.float64, device=found.device)
    return accelerator.reduce(found, reduction="sum").cpu()
