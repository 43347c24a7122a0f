"""Adapting, saving and naming models; what is written is safetensors and json only."""

import hashlib
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from shared_core.errors import InputError
from shared_core.files import atomic_folder
from torch import nn

from spin_llm.rendering import Tokenizer


@dataclass(frozen=True)
class Lora:
    """Low-rank adaptation; rank 0 trains every weight.

    Args:
        rank: of the update of each adapted layer.
        alpha: the update is scaled by alpha / rank.
        targets: names of the adapted layers; all linear ones by default.

    Raises:
        InputError: for a negative rank, or an alpha that leaves no update.
    """

    rank: int = 16
    alpha: float = 32.0
    targets: list[str] | None = None

    def __post_init__(self) -> None:
        if self.rank < 0:
            raise InputError(f"lora.rank must be 0 (train every weight) or more, got {self.rank}")
        if not 0 < self.alpha < math.inf:
            raise InputError(f"lora.alpha must be positive, got {self.alpha:g}")


def add_lora(model: nn.Module, lora: Lora, base: str = "", seed: int = 0) -> nn.Module:
    """Wrap a model in a LoRA adapter that is trained while the weights stay; rank 0 returns it with all trained.

    A model that comes with an adapter goes on training that one; with rank 0 it is merged in.

    Raises:
        InputError: for targets that the model does not have.
    """
    if lora.rank == 0:
        return (_merged(model) if hasattr(model, "peft_config") else model).requires_grad_(True)
    if hasattr(model, "peft_config"):
        return model
    from peft import LoraConfig, get_peft_model

    from spin_llm.fused_lora import fuse_lora
    from spin_llm.gated_mlp import fuse_mlps

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,  # type: ignore[arg-type] # peft scales by any number
            lora_dropout=0.0,
            target_modules=lora.targets or "all-linear",
            task_type="CAUSAL_LM",
            base_model_name_or_path=base or None,
        )
        try:
            with quiet_peft():
                adapted = get_peft_model(model, config)
        except ValueError as error:
            raise InputError(f"lora.targets {lora.targets}: {' '.join(str(error).split())[:200]}") from error
    if base:
        adapted.peft_config["default"].base_model_name_or_path = base
    return fuse_mlps(fuse_lora(adapted)).eval()


@contextmanager
def quiet_peft() -> Iterator[None]:
    """Without peft's warnings: of an attribute that it still reads, and of a base that we name as the user did."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
        warnings.filterwarnings("ignore", ".*base_model_name_or_path. was renamed", UserWarning)
        yield


def disable_dropout(model: nn.Module) -> None:
    """Set every dropout to 0: with it, the same model would score differently as player and as opponent."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in list(vars(module).items()):
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, 0.0)


def save_model(
    model: nn.Module,
    tokenizer: Tokenizer,
    folder: Path,
    merge: bool = False,
    weights: dict[str, torch.Tensor] | None = None,
) -> None:
    """Write a model (or only its adapter) and its tokenizer to `folder`, which appears whole.

    Args:
        model: of transformers or peft.
        tokenizer: goes beside it.
        folder: replaced where it exists.
        merge: write plain weights with the adapter added to them.
        weights: gathered ones, where the model itself holds a part of them only.
    """
    if merge and hasattr(model, "merge_adapter"):
        model = _merged(model)
    # peft would look the base model up on the hub, to see whether its vocabulary has grown
    options = {"save_embedding_layers": False} if hasattr(model, "peft_config") else {}
    with atomic_folder(folder) as aside:
        model.save_pretrained(aside, state_dict=weights, **options)  # type: ignore[operator] # both libraries have it
        tokenizer.save_pretrained(aside)


def restore_player(model: nn.Module, folder: Path) -> None:
    """Load what `save_model` wrote into a model of the same making, in place.

    Raises:
        InputError: if the folder is another model's.
    """
    from safetensors.torch import load_file

    try:
        if hasattr(model, "peft_config"):
            from peft import set_peft_model_state_dict

            found = set_peft_model_state_dict(model, load_file(folder / "adapter_model.safetensors"))
            unexpected = list(getattr(found, "unexpected_keys", ()))
        else:
            weights = {
                name: value for file in sorted(folder.glob("*.safetensors")) for name, value in load_file(file).items()
            }
            missing, unexpected = model.load_state_dict(weights, strict=False)
            tied = {name for name in missing if name == "lm_head.weight"}
            unexpected = [*unexpected, *(set(missing) - tied)]
    except (OSError, RuntimeError) as error:
        raise InputError(f"{folder} cannot be loaded: {' '.join(str(error).split())[:300]}") from error
    if unexpected:
        raise InputError(f"{folder} is another model's: {unexpected[0]}")


def fingerprint(model: nn.Module, source: str = "") -> str:
    """Names a model by its trained weights (all of them, or its adapter's) and where the others came from."""
    digest = hashlib.sha256(source.encode())
    for name, weight in sorted(trainable(model).items()) or sorted(model.named_parameters()):
        digest.update(name.encode())
        digest.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def _merged(model: Any) -> nn.Module:
    """The base model with the adapter added, leaving the given one as it was."""
    import copy

    return copy.deepcopy(model).merge_and_unload()


def trainable(model: nn.Module) -> dict[str, torch.Tensor]:
    """Names and values of the weights that training changes."""
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def pad_id(tokenizer: Tokenizer) -> int:
    """A token to fill rows with; masks come from lengths, so that it may well be the end token."""
    return int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id)


def check_vocabulary(model: nn.Module, rows: Sequence[Sequence[int]], what: str) -> None:
    """Refuse token ids that a model does not have.

    Raises:
        InputError: naming the first and the size of the vocabulary.
    """
    size = model.get_input_embeddings().num_embeddings  # type: ignore[operator] # transformers' models have it
    for row in rows:
        wrong = next((token for token in row if not 0 <= token < size), None)
        if wrong is not None:
            raise InputError(f"{what} has the token id {wrong}, and the model's are 0 .. {size - 1}")


def check_context(model: nn.Module, lengths: Sequence[int], what: str) -> None:
    """Refuse rows that are longer than a model's positions.

    Raises:
        InputError: naming the longest and the limit.
    """
    from spin_llm.sequence_logprobs import unwrap_peft

    limit = getattr(unwrap_peft(model).config.get_text_config(), "max_position_embeddings", None)
    if limit is not None and lengths and max(lengths) > limit:
        raise InputError(
            f"{what} has {max(lengths)} tokens, and the model takes {limit}: lower max_length or max_new_tokens"
        )
