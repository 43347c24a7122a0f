"""log p(response | prompt), summed over response tokens, for any causal language model."""

import logging
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from spin_llm.causal_blocks import register
from spin_llm.packing import PackedBatch, TokenIds, pack
from spin_llm.token_logprobs import logits_logprobs, token_logprobs

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scoring:
    """Which of the exact short cuts a model allows; found by `scoring_of`, which checks them on the model itself.

    Args:
        share_prompt: rows hold a prompt and all its responses, under a mask (else one row a response).
        split_head: the output head is applied at response positions only, in chunks (else the model's own logits).
    """

    share_prompt: bool = True
    split_head: bool = True


NAIVE = Scoring(share_prompt=False, split_head=False)


def sequence_logprobs(model: nn.Module, batch: PackedBatch, scoring: Scoring = NAIVE) -> Float[Tensor, "responses"]:
    """Sum of log p(y_j | x, y_<j) over the tokens of each response, in nats and float32 (float64 for such a model).

    The end-of-turn token counts where the response holds it; prompt tokens never do. Gradients flow to the model.

    Args:
        model: a causal language model of transformers, or a peft wrapper of one; dropout should be off.
        batch: made by `pack` with the same `share_prompt`.
        scoring: what the model allows; the default takes nothing for granted.
    """
    return batch.sums(response_token_logprobs(model, batch, scoring))


def response_token_logprobs(model: nn.Module, batch: PackedBatch, scoring: Scoring = NAIVE) -> Float[Tensor, "target"]:
    """log p of every response token, in the order of `batch.targets`."""
    inputs = {
        "input_ids": batch.input_ids,
        "attention_mask": batch.attention_mask,
        "position_ids": batch.position_ids,
        "use_cache": False,
    }
    language_model = unwrap_peft(model)
    if not scoring.split_head:
        logits = language_model(**inputs).logits
        return logits_logprobs(logits.flatten(0, 1)[batch.predictors], batch.targets)
    hidden = getattr(language_model, language_model.base_model_prefix)(**inputs)[0]
    return token_logprobs(hidden.flatten(0, 1)[batch.predictors], language_model.get_output_embeddings(), batch.targets)


def unwrap_peft(model: Any) -> Any:
    """The transformers model inside a peft wrapper: LoRA layers are in its own modules, so nothing is lost."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def model_dtype(model: nn.Module) -> torch.dtype:
    """The dtype of the activations."""
    return next(weight.dtype for weight in model.parameters() if weight.is_floating_point())


@torch.no_grad()
def scoring_of(model: nn.Module, pad_id: int = 0) -> Scoring:
    """Find by trial which short cuts give the same log-probabilities as one plain row a response.

    Models with sliding windows, recurrent state, ALiBi or a kernel that takes no mask fall back to separate rows;
    models that do something to their logits (scaling, soft caps) to their own head. What was found is logged.
    """
    device = next(model.parameters()).device
    vocabulary = unwrap_peft(model).config.get_text_config().vocab_size
    draw = torch.Generator().manual_seed(0)

    def tokens(count: int) -> TokenIds:
        return torch.randint(vocabulary, (count,), generator=draw).tolist()

    prompts, responses = [tokens(7), tokens(4)], [[tokens(5), tokens(3)], [tokens(2), tokens(6)]]

    def scores(scoring: Scoring) -> Tensor:
        batch = pack(prompts, responses, pad_id, scoring.share_prompt, model_dtype(model)).to(device)
        return sequence_logprobs(model, batch, scoring)

    was_training = model.training
    model.eval()
    try:
        plain = scores(NAIVE)
        split = _same(lambda: scores(Scoring(share_prompt=False)), plain, model, "the head apart")
        share = not _has_windows(model) and _same(
            lambda: scores(Scoring(share_prompt=True, split_head=split)), plain, model, "one row a prompt"
        )
        if share:
            _attend_by_blocks(model)
    finally:
        model.train(was_training)
    found = Scoring(share_prompt=share, split_head=split)
    log.info("scoring: %s, %s", "prompts shared" if share else "one row a response", "head apart" if split else "whole")
    return found


def _attend_by_blocks(model: nn.Module) -> None:
    """On a CPU, spare the masked half of the attention where the model takes transformers' common kernel."""
    config = unwrap_peft(model).config.get_text_config()
    if next(model.parameters()).device.type == "cpu" and getattr(config, "_attn_implementation", None) == "sdpa":
        config._attn_implementation = register()


def _same(score: Any, plain: Tensor, model: nn.Module, what: str) -> bool:
    tolerance = {torch.float64: 1e-9, torch.float32: 1e-3}.get(model_dtype(model), 0.3)
    try:
        distance = float((score() - plain).abs().max())
    except Exception as error:  # whatever a model does not support shows as its own kind of error
        log.warning("%s is not possible for %s: %s", what, type(unwrap_peft(model)).__name__, error)
        return False
    if not distance <= tolerance:
        log.warning("%s changes log-probabilities of %s by %.2g", what, type(unwrap_peft(model)).__name__, distance)
        return False
    return True


def _has_windows(model: nn.Module) -> bool:
    """A window longer than the probe would not show in it."""
    config = unwrap_peft(model).config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    return kinds != {"full_attention"} or window is not None
