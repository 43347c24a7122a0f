"""What every verb begins with: the player, the folder, the settings."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shared_core.device import check_seed, describe_device, resolve_device
from shared_core.run_folder import RunFolder, run_path
from torch import nn

from spin_llm.config import SPINConfig
from spin_llm.loading import load_model
from spin_llm.rendering import Tokenizer
from spin_llm.self_play import make_accelerator

log = logging.getLogger(__name__)


@contextmanager
def opened_run(out: str | None, settings: dict[str, Any], accelerator: Any) -> Iterator[Path]:
    """The run folder, held by the main process while all work in it."""
    path = run_path(out, package="spin-llm", settings=settings)
    if accelerator.is_main_process:
        # what is there already is told stage by stage
        with RunFolder(path, package="spin-llm", settings=settings, result=None):
            accelerator.wait_for_everyone()
            yield path
    else:
        accelerator.wait_for_everyone()
        yield path


def processes(config: SPINConfig, device: str) -> Any:
    """accelerate's view of the processes, on a device that is there; what is checked here needs no model."""
    check_seed(config.seed)
    where = resolve_device(device)
    accelerator = make_accelerator(config, cpu=where.type == "cpu")
    if accelerator.num_processes == 1 and where.type == "cuda":
        accelerator.state.device = where
    return accelerator


def player(model: str, accelerator: Any) -> tuple[nn.Module, Tokenizer]:
    """Model and tokenizer."""
    loaded, tokenizer = load_model(model)
    log.info("%s on %s, %d process(es)", model, describe_device(accelerator.device), accelerator.num_processes)
    return loaded, tokenizer
