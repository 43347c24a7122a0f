"""log softmax(W h)[target] for many positions, without ever holding positions x vocabulary."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

CHUNK_ELEMENTS = 2**24  # logits held at a time: 64 MB in float32


def token_logprobs(
    hidden: Float[Tensor, "target width"], head: nn.Module, targets: Int[Tensor, "target"]
) -> Float[Tensor, "target"]:
    """log softmax(head(h))[target] of each position, in float32, computed in chunks of rows.

    A plain linear head goes through a gradient of our own, which keeps one vector a position; a head that is anything
    else (with LoRA on it, quantised, sharded by ZeRO-3) is called as it is and recomputed in the backward pass.
    """
    weight = getattr(head, "weight", None)
    if type(head) is nn.Linear and isinstance(weight, Tensor) and not hasattr(weight, "ds_id"):
        return _LinearLogProbs.apply(hidden, weight, head.bias, targets)
    rows = max(1, CHUNK_ELEMENTS // _vocabulary(head))
    parts = [
        checkpoint(_logprobs_of, head, part, goal, use_reentrant=False)
        for part, goal in zip(hidden.split(rows), targets.split(rows), strict=True)
    ]
    return torch.cat(parts)


def logits_logprobs(logits: Float[Tensor, "target vocab"], targets: Int[Tensor, "target"]) -> Float[Tensor, "target"]:
    """log softmax(logits)[target] in float32."""
    logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    return logits.gather(-1, targets[:, None])[:, 0] - logits.logsumexp(-1)


def _logprobs_of(head: nn.Module, hidden: Tensor, targets: Tensor) -> Tensor:
    return logits_logprobs(head(hidden), targets)


def _vocabulary(head: nn.Module) -> int:
    return int(getattr(head, "out_features", 0)) or 2**16


class _LinearLogProbs(torch.autograd.Function):
    """The loss enters through one number a position, g, so that dh = g (W[target] - p W), p = softmax(W h).

    With the head frozen (LoRA) the bracket is computed in the forward pass, while the logits are there, and the
    backward pass is one multiplication. Where W is trained the logits are computed once more, and
    dW = sum g (onehot - p) h^T is accumulated chunk by chunk.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor
    ) -> Float[Tensor, "target"]:
        trained = weight.requires_grad or (bias is not None and bias.requires_grad)
        frozen_head = hidden.requires_grad and not trained
        rows = max(1, CHUNK_ELEMENTS // weight.shape[0])
        kept = torch.empty_like(hidden) if frozen_head else None
        result = hidden.new_empty(len(targets), dtype=_wide(hidden.dtype))
        # autocast would cast the weight once a chunk
        with torch.autocast(hidden.device.type, enabled=False):
            weight_, bias_ = weight.to(hidden.dtype), None if bias is None else bias.to(hidden.dtype)
            for start in range(0, len(targets), rows):
                part = slice(start, start + rows)
                logits = nn.functional.linear(hidden[part], weight_, bias_).to(result.dtype)
                top = logits.amax(-1, keepdim=True)
                wanted = logits.gather(-1, targets[part, None])
                # in place: a pass over rows x vocabulary costs as much as a tenth of the product that made it
                total = logits.sub_(top).exp_().sum(-1, keepdim=True)
                result[part] = (wanted - top - total.log())[:, 0]
                if kept is not None:
                    mean = (logits.to(hidden.dtype) @ weight_).div_(total)
                    torch.sub(weight_[targets[part]], mean, out=kept[part])
        ctx.save_for_backward(hidden if trained else kept, weight, bias, targets)
        ctx.trained, ctx.rows = trained, rows
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        (gradient,) = gradients
        kept, weight, bias, targets = ctx.saved_tensors
        if not ctx.trained:
            return gradient[:, None].to(kept.dtype) * kept, None, None, None
        hidden, wide = kept, gradient.dtype
        with torch.autocast(hidden.device.type, enabled=False):
            weight_, bias_ = weight.to(hidden.dtype), None if bias is None else bias.to(hidden.dtype)
            grad_hidden = torch.empty_like(hidden)
            grad_weight = torch.zeros_like(weight, dtype=wide)
            grad_bias = None if bias is None else torch.zeros_like(bias, dtype=wide)
            for start in range(0, len(targets), ctx.rows):
                part = slice(start, start + ctx.rows)
                pull = nn.functional.linear(hidden[part], weight_, bias_).to(wide).softmax(-1)
                pull.mul_(-gradient[part, None])
                pull.scatter_add_(1, targets[part, None], gradient[part, None])
                grad_hidden[part] = pull.to(hidden.dtype) @ weight_
                grad_weight.addmm_(pull.T, hidden[part].to(wide))
                if grad_bias is not None:
                    grad_bias += pull.sum(0)
        grad_bias = None if grad_bias is None or bias is None else grad_bias.to(bias.dtype)
        return grad_hidden, grad_weight.to(weight.dtype), grad_bias, None


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32
