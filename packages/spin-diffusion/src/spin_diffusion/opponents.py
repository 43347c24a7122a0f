"""The opponent's samples for all prompts, written batch by batch: a killed run goes on at the same batch."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from shared_core.errors import InputError, RunError
from shared_core.files import atomic_path, jsonable, write_json
from shared_core.logging import progress
from shared_core.run_folder import read_json
from torch import Tensor, nn

from spin_diffusion.config import Sampler
from spin_diffusion.sampling import image_seed, sample
from spin_diffusion.training_set import Rows, TensorRows, TrainingSet

HEADER, DONE = "opponents.json", "complete.json"


def generate_opponents(
    net: nn.Module,
    scheduler: Any,
    data: TrainingSet,
    settings: Sampler,
    accelerator: Any,
    *,
    seed: int,
    iteration: int = 0,
    samples_per_prompt: int = 1,
    folder: Path | None = None,
    transform: Callable[[Tensor], Tensor] | None = None,
    drawer: Callable[[Sequence[int], Sequence[int]], Tensor] | None = None,
    label: str = "sampling the opponent",
) -> Rows:
    """Samples of the player for every item (paper: Algorithm 1, line 4), row `item * samples_per_prompt + number`.

    Args:
        net: the player, in evaluation mode.
        scheduler: of its pipeline.
        data: whose conditions are sampled.
        settings: the deployed sampler.
        accelerator: accelerate's; its processes take every n-th batch.
        seed: of the run.
        iteration: k.
        samples_per_prompt: of each item.
        folder: where the samples are kept; in memory without one.
        transform: applied to each batch of samples.
        drawer: draws what is kept of given items and seeds, in place of `sample` (whole trajectories).
        label: for the progress line.

    Raises:
        InputError: if the folder holds samples of another player or sampler.
        RunError: if a sample is not finite.
    """
    rows = [(item, number) for item in range(len(data)) for number in range(samples_per_prompt)]
    batches = [
        range(start, min(start + settings.batch_size, len(rows))) for start in range(0, len(rows), settings.batch_size)
    ]
    if folder is not None:
        header = {
            "player": fingerprint(net),
            "sampler": asdict(settings),
            "scheduler": _scheduler_settings(scheduler),
            "data": data_fingerprint(data),
            "samples": len(rows),
            "seed": seed,
            "iteration": iteration,
            "transform": getattr(transform, "__name__", None),
            "trajectories": drawer is not None,
        }
        if accelerator.is_main_process:
            begin(folder, header)
        accelerator.wait_for_everyone()
        if (folder / DONE).exists():
            return read_opponents(folder)
    if drawer is None:
        drawer = _sampler(net, scheduler, data, settings, accelerator)
    was_training = net.training
    net.eval()
    rank, world = accelerator.process_index, accelerator.num_processes
    found: dict[int, Tensor] = {}
    todo = [index for index in range(rank, len(batches), world) if folder is None or not _part(folder, index).exists()]
    for index in progress(todo, label):
        items = [rows[row][0] for row in batches[index]]
        seeds = [image_seed(seed, iteration, *rows[row]) for row in batches[index]]
        drawn = drawer(items, seeds)
        drawn = (transform(drawn) if transform is not None else drawn).cpu()
        if not bool(drawn.isfinite().all()):
            bad = items[int((~drawn.isfinite().flatten(1).all(1)).nonzero()[0])]
            raise RunError(f"the sample for {data.name(bad)} is not finite: the player has diverged or overflows")
        if folder is None:
            found[index] = drawn
        else:
            with atomic_path(_part(folder, index)) as aside:
                save_file({"latents": drawn.contiguous()}, aside)
    net.train(was_training)
    if folder is None:
        if world > 1:
            found = _gathered(found, accelerator)
        return TensorRows(torch.cat([found[index] for index in range(len(batches))]))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        write_json(folder / DONE, {"samples": len(rows), "parts": len(batches)})
    accelerator.wait_for_everyone()
    return read_opponents(folder)


def _scheduler_settings(scheduler: Any) -> dict[str, Any]:
    # without diffusers' notes of its own (_use_default_values is in the order of a set: another in every process)
    own = {name: value for name, value in scheduler.config.items() if not name.startswith("_")}
    return {"class": type(scheduler).__name__, **own}


def _sampler(
    net: nn.Module, scheduler: Any, data: TrainingSet, settings: Sampler, accelerator: Any
) -> Callable[[Sequence[int], Sequence[int]], Tensor]:
    def drawer(items: Sequence[int], seeds: Sequence[int]) -> Tensor:
        return sample(
            net, scheduler, data.condition(items), data.null, settings, seeds, data.shape, autocast=accelerator.autocast
        )

    return drawer


def read_opponents(folder: Path) -> TensorRows:
    """What `generate_opponents` wrote, mapped from its files.

    Raises:
        InputError: if samples are missing.
    """
    if not (folder / DONE).exists():
        raise InputError(f"{folder} holds no finished samples of an opponent (no {DONE}): run generate on it again")
    done = read_json(folder / DONE)
    missing = [index for index in range(done["parts"]) if not _part(folder, index).exists()]
    if missing:
        raise InputError(f"{_part(folder, missing[0])} is missing: {folder} has fewer samples than prompts")
    found = TensorRows(*[load_file(_part(folder, index))["latents"] for index in range(done["parts"])])
    if len(found) != done["samples"]:
        raise InputError(f"{folder} holds {len(found)} samples of an opponent, expected {done['samples']}")
    return found


def check_opponents(folder: Path, net: nn.Module, data: TrainingSet, settings: Sampler | None = None) -> None:
    """Refuse samples that are not this player's on this data: its errors would be compared with a stranger's samples.

    Raises:
        InputError: naming what differs.
    """
    header = check_sampler(folder, settings)
    if header.get("player") != fingerprint(net):
        raise InputError(
            f"{folder} holds samples of the player {header.get('player')}, and this one is {fingerprint(net)}"
        )
    if header.get("data") != data_fingerprint(data):
        raise InputError(f"{folder} holds samples for other prompts than this data set has")


def check_sampler(folder: Path, settings: Sampler | None = None) -> dict[str, Any]:
    """The header of finished samples, after what can be refused without player and data.

    Raises:
        InputError: if they are not there or not finished, or another sampler drew them.
    """
    if not (folder / HEADER).exists():
        raise InputError(f"{folder} holds no {HEADER}: give the folder that `spin-diffusion generate` wrote")
    header = dict(read_json(folder / HEADER))
    if settings is not None and header.get("sampler") != asdict(settings):
        raise InputError(f"{folder} holds samples of another sampler: {header.get('sampler')}")
    if not (folder / DONE).exists():
        raise InputError(f"{folder} holds no finished samples of an opponent (no {DONE}): run generate on it again")
    return header


def begin(folder: Path, header: dict[str, Any]) -> None:
    """Write the header, or compare with the one that is there."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / HEADER
    if not path.exists():
        write_json(path, header)
        return
    earlier = read_json(path)
    now = json.loads(json.dumps(jsonable(header)))
    for name in now:
        if earlier.get(name) != now[name]:
            raise InputError(f"{path}: {name} was {earlier.get(name)}, is {now[name]}; remove {folder} or use another")


def fingerprint(net: nn.Module) -> str:
    """Names a player by all its weights."""
    digest = hashlib.sha256()
    for name, weight in sorted(net.state_dict().items()):
        digest.update(name.encode())
        digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def data_fingerprint(data: TrainingSet) -> str:
    """Names a data set by its items, its prompts and a few of its numbers."""
    digest = hashlib.sha256(repr((len(data), data.shape, list(data.ids), list(data.prompts))).encode())
    digest.update(data.prompt_of.numpy().data)
    some: Sequence[int] = sorted({0, len(data) // 2, len(data) - 1})
    for value in [data.latents.take(some), *data.condition(some).values()]:
        digest.update(value.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def _gathered(found: dict[int, Tensor], accelerator: Any) -> dict[int, Tensor]:
    from accelerate.utils import gather_object

    return dict(item for part in gather_object([list(found.items())]) for item in part)


def _part(folder: Path, index: int) -> Path:
    return folder / f"{index:06d}.safetensors"
