"""Latents and text embeddings, computed once and mapped from files while training."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from shared_core.errors import InputError
from shared_core.files import atomic_path, write_json, write_text
from shared_core.logging import progress
from shared_core.run_folder import read_json
from torch import Tensor

from spin_diffusion.denoiser import Condition
from spin_diffusion.noise import counter_seed
from spin_diffusion.opponents import fingerprint
from spin_diffusion.pipelines import Parts
from spin_diffusion.sources import OnError, Record, open_image, read_records, usable
from spin_diffusion.training_set import TensorRows, TrainingSet

log = logging.getLogger(__name__)
HEADER, DONE, ITEMS = "cache.json", "complete.json", "items.jsonl"
PART = 256  # items or prompts a file


def prepare_cache(
    parts: Parts,
    data: str,
    folder: str | Path,
    device: torch.device | str = "cpu",
    *,
    resolution: int | None = None,
    pairs: bool = False,
    sample_latents: bool = False,
    dedup_prompts: bool = False,
    limit: int | None = None,
    on_error: OnError = "stop",
    batch_size: int = 8,
    seed: int = 0,
) -> Path:
    """Encode every image and prompt of a data source into `folder`; a killed call goes on where it was.

    Args:
        parts: the pipeline.
        data: what `read_records` reads.
        folder: of the cache.
        device: where the encoders run.
        resolution: side of the images, by default what the UNet was made for.
        pairs: keep the rejected images of preference data too.
        sample_latents: a sample of the VAE's posterior for each image, in place of its mode.
        dedup_prompts: only the first image of each prompt.
        limit: so many items at most.
        on_error: `skip` leaves unusable records out and counts them.
        batch_size: images encoded together.
        seed: of posterior samples.

    Raises:
        InputError: for an unusable record, latents that are not finite, or a folder with another cache.
    """
    side = resolution or parts.resolution
    factor = parts.vae_factor
    folder = Path(folder)
    if side % factor or side < factor:
        raise InputError(f"resolution must be a multiple of {factor}, got {side}")
    parts.encoders_to(torch.device(device))
    header = {
        "model": encoders_fingerprint(parts), "kind": parts.kind, "data": data, "resolution": side, "pairs": pairs,
        "sample_latents": sample_latents, "dedup_prompts": dedup_prompts, "limit": limit, "on_error": on_error,
        "batch_size": batch_size, "seed": seed,
    }  # fmt: skip
    _begin(folder, header)
    if (folder / DONE).exists():
        _remove_lists(folder)  # a kill may have come before they were removed
        return folder
    records = _chosen(read_records(data, pairs), dedup_prompts, limit)
    skipped = _encode_images(parts, records, folder, header, on_error)
    rows = [row for file in sorted(folder.glob("items.*.json")) for row in read_json(file)]
    if not rows:
        raise InputError(f"{data}: no usable record is left ({skipped} skipped)")
    prompts = list(dict.fromkeys(row["text"] for row in rows))
    if parts.kind != "pixels":
        _encode_prompts(parts, prompts, folder, side, batch_size)
    number = {text: index for index, text in enumerate(prompts)}
    lines = [json.dumps(row | {"prompt": number[row["text"]]}, ensure_ascii=False) for row in rows]
    write_text(folder / ITEMS, "".join(line + "\n" for line in lines))
    write_json(folder / DONE, {"items": len(rows), "prompts": len(prompts), "skipped": skipped})
    _remove_lists(folder)
    if skipped:
        log.warning("%s: %d unusable records skipped, %d kept", data, skipped, len(rows))
    return folder


def check_data(
    data: str, *, pairs: bool = False, dedup_prompts: bool = False, limit: int | None = None, on_error: OnError = "stop"
) -> int:
    """Refuse a cache or data source by what can be seen without a model, opening no image of a folder.

    Returns:
        How many items there are at most; at least 1.

    Raises:
        InputError: as `read_records` and `read_cache` raise it, and for a listed image that is missing.
    """
    if is_cache(data):
        if pairs and not read_header(Path(data))["pairs"]:
            raise InputError(f"{data} was prepared without pairs: give `prepare --pairs`")
        items = int(_done(Path(data))["items"])
        return items if limit is None else min(items, limit)
    listed = usable(_chosen(read_records(data, pairs), dedup_prompts, limit), on_error, _image_is_there)
    count = sum(there is not None for _, there in listed)
    if not count:
        raise InputError(f"{data}: no usable record is left")
    return count


def _image_is_there(record: Record) -> bool:
    if isinstance(record.image, Path) and not record.image.is_file():
        raise InputError(f"{record.id}: the image is missing")
    return True


def _done(folder: Path) -> dict[str, Any]:
    if not (folder / DONE).exists():
        raise InputError(f"{folder} is not finished: run `spin-diffusion prepare` on it again")
    return dict(read_json(folder / DONE))


def read_cache(folder: str | Path, parts: Parts | None = None) -> tuple[TrainingSet, TensorRows | None]:
    """The items of a cache, and the rejected latents of pairs.

    Raises:
        InputError: if the cache is not finished or was made by other encoders.
    """
    folder = Path(folder)
    header = read_header(folder)
    _done(folder)
    if parts is not None and header["kind"] != parts.kind:
        raise InputError(
            f"{folder} was made for a pipeline of kind {header['kind']}, and {parts.source} is {parts.kind}"
        )
    if parts is not None and header["model"] != encoders_fingerprint(parts):
        raise InputError(f"{folder} was made by other encoders than those of {parts.source}: prepare it anew")
    rows = [json.loads(line) for line in (folder / ITEMS).read_text(encoding="utf-8").split("\n") if line]
    loaded = [load_file(file) for file in sorted(folder.glob("latents.*.safetensors"))]
    latents = TensorRows(*[part["latents"] for part in loaded])
    rejected = TensorRows(*[part["rejected"] for part in loaded]) if header["pairs"] else None
    embedded = [load_file(file) for file in sorted(folder.glob("prompts.*.safetensors"))]
    conditions: dict[str, TensorRows] = {}
    null: Condition | None = None
    prompt_of = torch.tensor([row["prompt"] for row in rows])
    if embedded:
        conditions = {name: TensorRows(*[part[name] for part in embedded]) for name in embedded[0]}
        null = load_file(folder / "null.safetensors")
    elif (
        rows[0].get("label") is not None
        and parts is not None
        and getattr(parts.net, "class_embedding", None) is not None
    ):
        labels = torch.tensor([row["label"] for row in rows])
        known = int(parts.net.config.num_class_embeds)  # type: ignore[union-attr,arg-type] # diffusers' configuration
        conditions, prompt_of = {"class_labels": TensorRows(labels)}, torch.arange(len(rows))
        null = {"class_labels": torch.tensor([known - 1])} if int(labels.max()) < known - 1 else None
    if len(latents) != len(rows):
        raise InputError(f"{folder} holds {len(latents)} latents for {len(rows)} items: prepare it anew")
    texts = {row["prompt"]: row["text"] for row in rows} if embedded else {}
    prompts = [texts[index] for index in sorted(texts)]
    data = TrainingSet(latents, conditions, prompt_of, null, [row["id"] for row in rows], prompts)
    return data, rejected


def is_cache(path: str | Path) -> bool:
    """Whether a folder is one that `prepare_cache` wrote."""
    return (Path(path) / HEADER).is_file()


def read_header(folder: Path) -> dict[str, Any]:
    """How a cache was made."""
    if not is_cache(folder):
        raise InputError(f"{folder} is no cache (no {HEADER}): `spin-diffusion prepare` makes one")
    return dict(read_json(folder / HEADER))


def encoders_fingerprint(parts: Parts) -> str:
    """Names VAE and text encoders by their weights; the header keeps it, so that they need not be loaded twice."""
    import hashlib

    names = ("vae", "text_encoder", "text_encoder_2")
    found = [getattr(parts.pipe, name, None) for name in names]
    return hashlib.sha256("".join(fingerprint(part) for part in found if part is not None).encode()).hexdigest()[:16]


def _remove_lists(folder: Path) -> None:
    for file in folder.glob("items.*.json"):
        file.unlink()


def _begin(folder: Path, header: dict[str, Any]) -> None:
    if folder.exists() and not is_cache(folder) and any(not item.name.startswith(".") for item in folder.iterdir()):
        raise InputError(f"--out {folder} is not empty and holds no cache")
    folder.mkdir(parents=True, exist_ok=True)
    if not is_cache(folder):
        write_json(folder / HEADER, header)
        return
    earlier = read_header(folder)
    for name, value in header.items():
        if earlier.get(name) != value:
            raise InputError(f"{folder} holds another cache: {name} was {earlier.get(name)}, is {value}")


def _chosen(records: Iterator[Record], dedup_prompts: bool, limit: int | None) -> Iterator[Record]:
    seen: set[str] = set()
    for count, record in enumerate(_unseen(records, seen) if dedup_prompts else records):
        if limit is not None and count >= limit:
            return
        yield record


def _unseen(records: Iterator[Record], seen: set[str]) -> Iterator[Record]:
    for record in records:
        if record.text not in seen:
            seen.add(record.text)
            yield record


def _encode_images(
    parts: Parts, records: Iterator[Record], folder: Path, header: dict[str, Any], on_error: OnError
) -> int:
    """Latents part by part; returns how many records were skipped."""
    side = header["resolution"]

    def images(record: Record) -> list[Tensor]:
        found = [open_image(record.image, record.id, side)]
        if header["pairs"]:
            assert record.rejected is not None
            found.append(open_image(record.rejected, record.id, side))
        return found

    skipped, waiting, number = 0, [], 0
    for record, found in progress(usable(records, on_error, images), "encoding images"):
        if found is None:
            skipped += 1
            continue
        waiting.append((record, found))
        if len(waiting) == PART:
            _write_part(parts, waiting, folder, header, number)
            waiting, number = [], number + 1
    if waiting:
        _write_part(parts, waiting, folder, header, number)
    return skipped


def _write_part(
    parts: Parts, waiting: list[tuple[Record, list[Tensor]]], folder: Path, header: dict[str, Any], number: int
) -> None:
    items = folder / f"items.{number:06d}.json"
    if items.exists():
        return
    size, names = header["batch_size"], ("latents", "rejected") if header["pairs"] else ("latents",)
    tensors: dict[str, Tensor] = {}
    for which, name in enumerate(names):
        made = []
        for start in range(0, len(waiting), size):
            chunk = waiting[start : start + size]
            seeds = [
                counter_seed("evaluation", header["seed"], number * PART + start + row, which)
                for row in range(len(chunk))
            ]
            latents = parts.encode_images(
                torch.stack([found[which] for _, found in chunk]), seeds if header["sample_latents"] else None
            ).cpu()
            finite = latents.isfinite().flatten(1).all(1)
            if not bool(finite.all()):
                bad = chunk[int((~finite).nonzero()[0])][0]
                raise InputError(
                    f"{bad.id}: the VAE's latents are not finite; the SDXL VAE overflows in float16, "
                    "use float32 or its fp16-fix"
                )
            made.append(latents)
        tensors[name] = torch.cat(made).contiguous()
    with atomic_path(folder / f"latents.{number:06d}.safetensors") as aside:
        save_file(tensors, aside)
    rows = [{"id": record.id, "text": record.text, "label": record.label} for record, _ in waiting]
    write_json(items, rows)


def _encode_prompts(parts: Parts, prompts: list[str], folder: Path, side: int, batch_size: int) -> None:
    long = parts.too_long(prompts)
    if long:
        log.warning(
            "%d of %d prompts are longer than the text encoder reads and are cut, the first one: %.60s...",
            len(long), len(prompts), prompts[long[0]],
        )  # fmt: skip
    for number, start in enumerate(progress(range(0, len(prompts), PART), "encoding prompts")):
        path = folder / f"prompts.{number:06d}.safetensors"
        if path.exists() and (folder / "null.safetensors").exists():
            continue
        chunk = prompts[start : start + PART]
        made = [parts.encode_prompts(chunk[i : i + batch_size], side) for i in range(0, len(chunk), batch_size)]
        tensors = {name: torch.cat([some[name] for some, _ in made]).contiguous() for name in made[0][0]}
        with atomic_path(folder / "null.safetensors") as aside:
            save_file({name: value.contiguous() for name, value in made[0][1].items()}, aside)
        with atomic_path(path) as aside:
            save_file(tensors, aside)
