"""What verbs share: the device and its processes, the pipeline, the data, the run folder."""

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from shared_core.device import check_seed, describe_device, resolve_device
from shared_core.errors import InputError
from shared_core.run_folder import RunFolder

from spin_diffusion.config import Precision
from spin_diffusion.latent_cache import DONE, check_data, is_cache, prepare_cache, read_cache
from spin_diffusion.noise import counter_seed
from spin_diffusion.pipelines import Parts
from spin_diffusion.processes import make_accelerator
from spin_diffusion.sources import OnError
from spin_diffusion.training_set import ChosenRows, Rows, TrainingSet

PACKAGE = "spin-diffusion"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reading:
    """How data are read.

    Args:
        limit: so many items at most.
        held_out: of these, so many are kept for evaluation.
        resolution: of images, by default what the model was made for.
        sample_latents: a sample of the VAE's posterior, in place of its mode.
        dedup_prompts: only the first image of each prompt.
        on_error: whether unusable records stop or are skipped.
        batch_size: images encoded together.
    """

    limit: int | None = None
    held_out: int = 0
    resolution: int | None = None
    sample_latents: bool = False
    dedup_prompts: bool = False
    on_error: OnError = "stop"
    batch_size: int = 8

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise InputError(f"limit must be at least 1, got {self.limit}")
        if self.held_out < 0:
            raise InputError(f"held_out must be at least 0, got {self.held_out}")
        if self.resolution is not None and self.resolution < 1:
            raise InputError(f"resolution must be at least 1, got {self.resolution}")
        if self.batch_size < 1:
            raise InputError(f"encode_batch_size must be at least 1, got {self.batch_size}")

    def settings(self) -> dict[str, Any]:
        """What determines the data; a record may be skipped later on without another run."""
        names = ("limit", "held_out", "resolution", "sample_latents", "dedup_prompts")
        return {name: getattr(self, name) for name in names}


@dataclass
class Data:
    """Items to train on, those kept for evaluation, and the rejected images of pairs."""

    train: TrainingSet
    held_out: TrainingSet | None
    rejected: Rows | None = None


def open_device(device: str, precision: Precision, seed: int) -> Any:
    """accelerate's view of the processes, on the device that was named."""
    check_seed(seed)
    where = resolve_device(device)
    accelerator = make_accelerator(precision, cpu=where.type == "cpu")
    if accelerator.num_processes == 1 and where.type == "cuda":
        accelerator.state.device = where
    return accelerator


def log_start(accelerator: Any, data: Data | None = None) -> None:
    """What the work runs on; told when all input was read, so that a complaint about that stands alone."""
    log.info("on %s, %d process(es)", describe_device(accelerator.device), accelerator.num_processes)
    if data is not None:
        kept = len(data.held_out) if data.held_out is not None else 0
        log.info("%d items to train on, %d held out", len(data.train), kept)


def check_inputs(data: str, path: Path, reading: Reading, pairs: bool = False) -> None:
    """Refuse data before a model is loaded.

    Raises:
        InputError: for data that cannot be used, or where nothing is left to train on.
    """
    if not is_cache(data) and (path / "cache" / DONE).exists():
        return  # a run that goes on has its own copy
    count = check_data(
        data, pairs=pairs, dedup_prompts=reading.dedup_prompts, limit=reading.limit, on_error=reading.on_error
    )
    check_held_out(reading.held_out, count)


def check_held_out(held_out: int, items: int) -> None:
    """Refuse to hold out everything.

    Raises:
        InputError: with both numbers.
    """
    if held_out >= items:
        raise InputError(f"held_out {held_out} of {items} items leaves none to train on")


@contextmanager
def opened_run(path: Path, settings: dict[str, Any], accelerator: Any, result: str = "result.json") -> Iterator[Path]:
    """The run folder, held by the main process while all work in it; bad input leaves none that was not there.

    The model is loaded inside, after other settings in the folder are refused. `result` is what a finished run has.
    """
    if accelerator.is_main_process:
        made = [each for each in (path, *path.parents) if not each.exists()]
        fresh = not (path / "config.yaml").exists()
        with RunFolder(path, package=PACKAGE, settings=settings, result=result):
            accelerator.wait_for_everyone()
            try:
                yield path
            except InputError:
                if made and not _worth_keeping(path):
                    shutil.rmtree(path)
                    with suppress(OSError):  # others may have put something beside it
                        for parent in made[1:]:
                            parent.rmdir()
                elif fresh and not _worth_keeping(path):
                    (path / "config.yaml").unlink(missing_ok=True)
                    shutil.rmtree(path / "cache", ignore_errors=True)
                raise
    else:
        accelerator.wait_for_everyone()
        yield path


def load_data(
    parts: Parts, data: str, folder: Path, reading: Reading, accelerator: Any, seed: int, pairs: bool = False
) -> Data:
    """A cache, or a data source that is encoded into `folder/cache` first.

    Raises:
        InputError: for unusable data, or if nothing is left to train on.
    """
    cache = Path(data)
    if not is_cache(cache):
        cache = folder / "cache"
        if accelerator.is_main_process:
            prepare_cache(
                parts, data, cache, accelerator.device, resolution=reading.resolution, pairs=pairs, limit=reading.limit,
                sample_latents=reading.sample_latents, dedup_prompts=reading.dedup_prompts,
                on_error=reading.on_error, batch_size=reading.batch_size,
            )  # fmt: skip
        accelerator.wait_for_everyone()
    found, rejected = read_cache(cache, parts)
    if pairs and rejected is None:
        raise InputError(f"{data} was prepared without pairs: give `prepare --pairs`")
    items = list(range(min(len(found), reading.limit or len(found))))
    check_held_out(reading.held_out, len(items))
    generator = torch.Generator().manual_seed(counter_seed("order", seed, reading.held_out))
    kept = sorted(torch.randperm(len(items), generator=generator)[: reading.held_out].tolist())
    trained = sorted(set(items) - set(kept))
    return Data(
        found.subset(trained),
        found.subset(kept) if kept else None,
        ChosenRows(rejected, torch.tensor(trained)) if rejected is not None else None,
    )


def _worth_keeping(path: Path) -> bool:
    """Iterations, or a cache that goes on when the record that stopped it is mended or skipped."""
    cache = path / "cache"
    unfinished = any(cache.glob("latents.*")) and not (cache / "complete.json").exists()
    return unfinished or any(path.glob("iter_*"))
