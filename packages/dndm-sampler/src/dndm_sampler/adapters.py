"""Denoisers from other people's models.

A denoiser is called as `denoiser(x [rows, length], t [rows] in (0, 1], **kwargs) -> logits [rows, length, vocab]`. The
adapters are modules around the model they are given: they follow its device, load nothing and run no remote code.
Sampling wants the model in evaluation mode (`model.eval()`); the adapters do not switch it behind your back, but warn
at the first call if it still is in training mode, where dropout disturbs every prediction.
"""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from shared_core.errors import InputError
from torch import Tensor, nn

from dndm_sampler.schedule import TransitionSchedule

Layer = Callable[..., Any]


class Adapter(nn.Module):
    """A model (a module or a plain function) as a denoiser; warns once if it is in training mode."""

    model: Any

    def __init__(self, model: Layer) -> None:
        super().__init__()
        self.model = model
        self._checked_mode = False

    def check_mode(self) -> None:
        """Warn at the first call if the model is in training mode."""
        if not self._checked_mode and isinstance(self.model, nn.Module) and self.model.training:
            warnings.warn(
                f"{type(self.model).__name__} is in training mode: dropout disturbs its predictions; "
                "call model.eval() before sampling",
                stacklevel=3,
            )
        self._checked_mode = True


class MaskedLM(Adapter):
    """A time-free model `model(input_ids=x, **kwargs)` that returns logits or an output with `.logits`.

    Args:
        model: the model.
        shift_logits: the model's output at position i - 1 predicts token i.
        max_length: longest sequence the model has positions for; None where there is no limit.
    """

    def __init__(self, model: Layer, shift_logits: bool = False, max_length: int | None = None) -> None:
        super().__init__(model)
        self.shift_logits, self.max_length = shift_logits, max_length

    def forward(self, x: Int[Tensor, "rows length"], t: Float[Tensor, "rows"], **kwargs: Any) -> Tensor:
        """Logits; the time is not used, masked models read it off the number of masks."""
        self.check_length(x)
        return self.shift(_logits(self.model(input_ids=x, **kwargs)))

    def check_length(self, x: Int[Tensor, "rows length"]) -> None:
        """Refuse a sequence that is longer than the model's positions.

        Raises:
            InputError: naming both lengths.
        """
        self.check_mode()
        if self.max_length is not None and x.shape[1] > self.max_length:
            raise InputError(f"the sequence has {x.shape[1]} tokens, but the model has {self.max_length} positions")

    def shift(self, features: Float[Tensor, "rows length width"]) -> Float[Tensor, "rows length width"]:
        """Move the outputs that predict the next token to that token; the first position keeps its own."""
        return torch.cat([features[:, :1], features[:, :-1]], dim=1) if self.shift_logits else features


class SplitMaskedLM(MaskedLM):
    """A `MaskedLM` whose output head runs only at the positions that are written.

    Args:
        model: the full model, which owns the parameters.
        backbone: `(input_ids=x, **kwargs)` -> features, or an output whose first entry they are.
        output_head: features -> logits, position by position.
        shift_logits: as in `MaskedLM`.
        max_length: as in `MaskedLM`.
    """

    def __init__(
        self,
        model: Layer,
        backbone: Layer,
        output_head: Layer,
        shift_logits: bool = False,
        max_length: int | None = None,
    ) -> None:
        super().__init__(model, shift_logits, max_length)
        # in a tuple, so that the module tree keeps a single copy of every parameter name
        self._parts = (backbone, output_head)

    def hidden(self, x: Int[Tensor, "rows length"], t: Float[Tensor, "rows"], **kwargs: Any) -> Tensor:
        """Features [rows, length, width], shifted where the logits would be."""
        self.check_length(x)
        output = self._parts[0](input_ids=x, **kwargs)
        return self.shift(output if isinstance(output, Tensor) else output[0])

    def head(self, hidden: Float[Tensor, "selected width"]) -> Float[Tensor, "selected vocab"]:
        """Logits of chosen positions."""
        return self._parts[1](hidden)


def from_hf_masked_lm(
    model: Layer,
    *,
    shift_logits: bool = False,
    split_head: bool = True,
    backbone: Layer | None = None,
    head: Layer | None = None,
) -> MaskedLM:
    """A denoiser from a masked language model in the interface of Hugging Face transformers.

    For BERT, RoBERTa (XLM-R, CamemBERT), DistilBERT and ModernBERT the output head runs only at the positions that are
    written; the logits there are those of the full model. Any other model that returns logits for every position
    works too (LLaDA, for example, and Dream with `shift_logits=True`) and computes all of them, unless `backbone` and
    `head` are given. Pass `attention_mask` and the like to `sample(..., model_kwargs=...)`. Masked models take no
    time, so the schedule decides only how many tokens are written together.

    Args:
        model: the loaded model.
        shift_logits: the output at position i - 1 predicts token i.
        split_head: run the head only where needed, for the families named.
        backbone: features of other families, for example `model.model`.
        head: output layer of other families, for example `model.lm_head`.

    Raises:
        InputError: if only one of `backbone` and `head` is given; at a call, if the sequence is too long.
    """
    if (backbone is None) != (head is None):
        given, missing = ("backbone", "head") if head is None else ("head", "backbone")
        raise InputError(f"{given} was given without {missing}: both are needed to split the model")
    max_length = _max_length(model)
    if backbone is not None and head is not None:
        return SplitMaskedLM(model, backbone, head, shift_logits, max_length)
    split = _HEADS.get(type(model).__name__)
    if split_head and split is not None:
        base, output_head = split(model)
        return SplitMaskedLM(model, base, output_head, shift_logits, max_length)
    return MaskedLM(model, shift_logits, max_length)


def _distilbert(model: Any) -> tuple[Layer, Layer]:
    def head(hidden: Tensor) -> Tensor:
        return model.vocab_projector(model.vocab_layer_norm(model.activation(model.vocab_transform(hidden))))

    return model.distilbert, head


def _modernbert(model: Any) -> tuple[Layer, Layer]:
    return model.model, lambda hidden: model.decoder(model.head(hidden))


# by exact class: a subclass or a wrapper may compute its logits in another way, and then gets the plain full forward
_HEADS: dict[str, Callable[[Any], tuple[Layer, Layer]]] = {
    "BertForMaskedLM": lambda model: (model.bert, model.cls),
    "RobertaForMaskedLM": lambda model: (model.roberta, model.lm_head),
    "XLMRobertaForMaskedLM": lambda model: (model.roberta, model.lm_head),
    "CamembertForMaskedLM": lambda model: (model.roberta, model.lm_head),
    "DistilBertForMaskedLM": _distilbert,
    "ModernBertForMaskedLM": _modernbert,
}


def _max_length(model: Layer) -> int | None:
    """Positions of a Hugging Face model; RoBERTa's table holds padding_idx + 1 entries that no token uses."""
    limit = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    if isinstance(model, nn.Module):
        for name, module in model.named_modules():
            if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
                limit = int(module.num_embeddings) - int(module.padding_idx) - 1
    return limit if isinstance(limit, int) and limit > 0 else None


class DiffusionGemma(Adapter):
    """`DiffusionGemmaForBlockDiffusion` as a denoiser of its canvas; see `from_diffusion_gemma`."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self._prompt: Tensor | None = None
        self._cache: Any = None

    def forward(self, x: Int[Tensor, "rows length"], t: Float[Tensor, "rows"], **kwargs: Any) -> Tensor:
        """Logits of the canvas."""
        return self.head(self.hidden(x, t, **kwargs))

    def hidden(
        self,
        x: Int[Tensor, "rows length"],
        t: Float[Tensor, "rows"],
        *,
        input_ids: Int[Tensor, "rows prompt"],
        attention_mask: Int[Tensor, "rows prompt"] | None = None,
    ) -> Tensor:
        """Features of the canvas after the prompt."""
        self.check_mode()
        seen = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        self._encode(input_ids, seen)
        return self.model.model.decoder(
            decoder_input_ids=x,
            past_key_values=self._cache,
            decoder_attention_mask=nn.functional.pad(seen.bool(), (0, x.shape[1]), value=True),
        ).last_hidden_state

    def head(self, hidden: Float[Tensor, "selected width"]) -> Float[Tensor, "selected vocab"]:
        """Soft-capped logits."""
        cap = self.model.final_logit_softcapping
        return cap * torch.tanh(self.model.lm_head(hidden).float() / cap)

    def _encode(self, input_ids: Int[Tensor, "rows prompt"], seen: Int[Tensor, "rows prompt"]) -> None:
        """Encode the prompt once; rows that have finished sampling drop off the end of the cache."""
        prompt = torch.stack([input_ids, seen.to(input_ids)])
        rows = len(input_ids)
        old = self._prompt
        if old is not None and old.shape[1] >= rows and torch.equal(old[:, :rows], prompt):
            if old.shape[1] > rows:
                self._cache.batch_select_indices(torch.arange(rows, device=input_ids.device))
        else:
            self._cache = self.model.model.encoder(input_ids=input_ids, attention_mask=seen).past_key_values
        self._prompt = prompt


def from_diffusion_gemma(model: Any) -> DiffusionGemma:
    """A denoiser of one canvas of DiffusionGemma, for multinomial noise over its whole vocabulary.

    Call `sample(..., length=model.config.canvas_length, model_kwargs={"input_ids": prompts})`, with `attention_mask`
    next to it where prompts are padded (on the left). The prompt is encoded once and the output head runs only at the
    positions that are written. Self-conditioning on the logits of the step before needs all of them, so it is left
    out, as at a first denoising step; `DiffusionGemmaPipeline` with `DNDMScheduler(noise="multinomial")` has it.

    Args:
        model: a `transformers.DiffusionGemmaForBlockDiffusion`.

    Raises:
        InputError: if the model has no block-diffusion decoder.
    """
    if not hasattr(getattr(model, "model", None), "decoder") or not hasattr(model, "final_logit_softcapping"):
        raise InputError(f"from_diffusion_gemma needs a DiffusionGemmaForBlockDiffusion, got {type(model).__name__}")
    return DiffusionGemma(model)


class MDLM(Adapter):
    """`model(x, sigma, **kwargs)` -> log-probabilities, as a denoiser; see `from_mdlm`."""

    def __init__(self, model: Layer, schedule: TransitionSchedule, eps: float, time_agnostic: bool) -> None:
        super().__init__(model)
        self.schedule, self.eps, self.time_agnostic = schedule, eps, time_agnostic

    def forward(self, x: Int[Tensor, "rows length"], t: Float[Tensor, "rows"], **kwargs: Any) -> Tensor:
        """Log-probabilities, which are logits."""
        self.check_mode()
        return _logits(self.model(x, self.sigma(t), **kwargs))

    def sigma(self, t: Float[Tensor, "rows"]) -> Float[Tensor, "rows"]:
        """Total noise -log(alpha): from 0 at time 0 to -log(eps) at time 1."""
        if self.time_agnostic:
            return torch.zeros_like(t)
        return -torch.log(self.eps + (1 - self.eps) * self.schedule.alpha(t)).to(t)


def from_mdlm(
    model: Layer, schedule: TransitionSchedule | str = "linear", *, eps: float = 1e-3, time_agnostic: bool = False
) -> MDLM:
    """A denoiser from a masked-diffusion model of the MDLM kind: `model(x, sigma)` -> log p(x_0) or logits.

    The model is told the total noise sigma = -log(alpha'), alpha' = eps + (1 - eps) alpha(t); with the linear schedule
    this is MDLM's log-linear noise. Log-probabilities serve as logits; those of the mask are never used.

    Args:
        model: takes the tokens and one sigma a row.
        schedule: the schedule the model was trained on.
        eps: share of clean tokens at time 1 in training, which keeps sigma finite.
        time_agnostic: trained without time conditioning: sigma is 0 always.

    Raises:
        InputError: if eps is not in (0, 1).
    """
    if not 0 < eps < 1:
        raise InputError(f"eps must be in (0, 1), got {eps}")
    return MDLM(
        model, TransitionSchedule.parse(schedule) if isinstance(schedule, str) else schedule, eps, time_agnostic
    )


def _logits(output: Any) -> Tensor:
    """The logits of a Hugging Face output, or the tensor itself."""
    logits = getattr(output, "logits", output)
    if not isinstance(logits, Tensor):
        raise InputError(f"the model must return a tensor or an output with .logits, got {type(output).__name__}")
    return logits
