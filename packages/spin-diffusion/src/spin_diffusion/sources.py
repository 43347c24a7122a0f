"""Images with prompts as people have them: a folder with metadata.jsonl or sidecar captions, parquet, .npz."""

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from shared_core.errors import InputError
from shared_core.files import read_numpy
from torch import Tensor

OnError = Literal["stop", "skip"]
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True)
class Record:
    """One image and its prompt.

    Args:
        id: names it in messages: file, or file and row.
        text: the prompt; empty where the data have classes instead.
        image: bytes of an image file, where it is, or the array itself.
        rejected: the same of the image that was not preferred, where data have pairs.
        label: class, where data have classes.
        problem: why it cannot be used; empty where it can.
    """

    id: str
    text: str
    image: Path | bytes | np.ndarray
    rejected: bytes | None = None
    label: int | None = None
    problem: str = ""


def read_records(source: str | Path, pairs: bool = False) -> Iterator[Record]:
    """Records of a data source, in a fixed order.

    Args:
        source: a folder of images, a .parquet file or a folder of them, or a .npz file.
        pairs: both images of preference data (then ties are left out); otherwise only the preferred one is read.

    A record that cannot be used says so in its `problem`.

    Raises:
        InputError: if it is none of these, or metadata cannot be read; the message names file and line.
    """
    path = Path(source)
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    if path.suffix == ".npz":
        return _arrays(path, pairs)
    if path.suffix == ".parquet":
        return _parquet([path], pairs)
    if path.is_dir():
        files = sorted(path.rglob("*.parquet"))
        if files:
            return _parquet(files, pairs)
        if pairs:
            raise InputError(f"{path} is a folder of images; pairs need parquet with jpg_0, jpg_1 and label_0")
        return _folder(path)
    raise InputError(f"{path}: expected a folder of images, .parquet or .npz")


def usable(
    records: Iterator[Record], on_error: OnError, check: Callable[[Record], Any]
) -> Iterator[tuple[Record, Any]]:
    """Records with `check(record)`; one that it refuses stops, or is left out.

    Raises:
        InputError: at the first unusable record, with on_error `stop`.
    """
    for record in records:
        try:
            if record.problem:
                raise InputError(record.problem)
            if not record.text and record.label is None:
                raise InputError(f"{record.id}: the caption is empty")
            found = check(record)
        except InputError:
            if on_error == "stop":
                raise
            yield record, None
            continue
        yield record, found


def open_image(image: Path | bytes | np.ndarray, name: str, resolution: int) -> Tensor:
    """An image in [-1, 1], [3, resolution, resolution]: the shorter side resized, the middle cut out.

    Raises:
        InputError: if it is missing or damaged.
    """
    from PIL import Image, UnidentifiedImageError

    if isinstance(image, np.ndarray):
        if image.shape[-2:] != (resolution, resolution):
            raise InputError(
                f"{name}: arrays must be of the model's size, {resolution} x {resolution}, got {image.shape}"
            )
        return torch.from_numpy(image).float()
    try:
        with Image.open(io.BytesIO(image) if isinstance(image, bytes) else image) as opened:
            picture = opened.convert("RGB")
    except FileNotFoundError:
        raise InputError(f"{name}: the image is missing") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{name}: the image is damaged ({str(error).splitlines()[0]})") from None
    scale = resolution / min(picture.size)
    size = tuple(max(resolution, round(side * scale)) for side in picture.size)
    picture = picture.resize(size, Image.Resampling.LANCZOS)  # type: ignore[arg-type] # two numbers
    left, top = ((side - resolution) // 2 for side in picture.size)
    picture = picture.crop((left, top, left + resolution, top + resolution))
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 127.5 - 1


def _folder(path: Path) -> Iterator[Record]:
    listed = path / "metadata.jsonl"
    if listed.is_file():
        yield from _metadata(path, listed)
        return
    images = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES)
    if not images:
        raise InputError(f"{path} holds no images (looked for {', '.join(SUFFIXES)})")
    for image in images:
        caption = image.with_suffix(".txt")
        if caption.is_file():
            yield Record(str(image), _text(caption), image)
        else:
            problem = f"{image} has no caption: expected {caption.name} beside it, or {path}/metadata.jsonl"
            yield Record(str(image), "", image, problem=problem)


def _text(caption: Path) -> str:
    try:
        return caption.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError as error:
        raise InputError(f"{caption} is not UTF-8 text ({error})") from None


def _metadata(path: Path, listed: Path) -> Iterator[Record]:
    found = False
    for number, line in enumerate(listed.read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            name = row["file_name"]
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise InputError(f"{listed}, line {number}: not JSON ({error})") from None
        except (KeyError, TypeError):
            raise InputError(f"{listed}, line {number}: no file_name") from None
        text = row.get("text", row.get("caption", ""))
        if not isinstance(text, str):
            raise InputError(f"{listed}, line {number}: text must be a string, got {type(text).__name__}")
        found = True
        yield Record(f"{listed}, line {number} ({name})", text.strip(), path / str(name))
    if not found:
        raise InputError(f"{listed} is empty")


def _parquet(files: list[Path], pairs: bool) -> Iterator[Record]:
    import pyarrow as pa  # type: ignore[import-untyped] # has no stubs
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    for file in files:
        try:
            table = pq.ParquetFile(file)
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{file} is not parquet: {str(error).splitlines()[0]}") from None
        names = set(table.schema_arrow.names)
        preference = {"jpg_0", "jpg_1", "label_0", "caption"} <= names
        image = next((name for name in ("image", "jpg") if name in names), None)
        text = next((name for name in ("text", "caption", "prompt") if name in names), None)
        if not preference and (image is None or text is None):
            wanted = "jpg_0, jpg_1, label_0 and caption (Pick-a-Pic), or image and text"
            raise InputError(f"{file}: expected the columns {wanted}, got {', '.join(sorted(names))}")
        if pairs and not preference:
            raise InputError(f"{file}: pairs need the columns jpg_0, jpg_1, label_0 and caption")
        columns = ["jpg_0", "jpg_1", "label_0", "caption"] if preference else [str(image), str(text)]
        number = 0
        for rows in _batches(file, table, columns):
            for row in rows:
                number += 1
                name = f"{file}, row {number}"
                try:
                    if preference:
                        record = _preferred(row, name, pairs)
                    else:
                        record = Record(name, str(row[str(text)] or "").strip(), _bytes(row[str(image)], name))
                except InputError as error:
                    record = Record(name, "", b"", problem=str(error))
                if record is not None:
                    yield record


def _batches(file: Path, table: Any, columns: list[str]) -> Iterator[list[dict[str, Any]]]:
    """Rows of a parquet file a batch at a time; damage inside it is found only while reading."""
    import pyarrow as pa

    try:
        for batch in table.iter_batches(batch_size=64, columns=columns):
            yield batch.to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} is damaged: {str(error).splitlines()[0]}") from None


def _preferred(row: dict[str, Any], name: str, pairs: bool) -> Record | None:
    """The winner of a Pick-a-Pic row (and the loser); None for a tie."""
    label = row["label_0"]
    if label not in (0, 1):
        if label is None or label == 0.5:
            return None
        raise InputError(f"{name}: label_0 must be 0, 0.5 or 1, got {label!r}")
    winner, loser = ("jpg_0", "jpg_1") if label == 1 else ("jpg_1", "jpg_0")
    rejected = _bytes(row[loser], name) if pairs else None
    return Record(name, str(row["caption"] or "").strip(), _bytes(row[winner], name), rejected)


def _bytes(value: Any, name: str) -> bytes:
    """Image bytes, bare or as `datasets` stores them."""
    if isinstance(value, dict):
        value = value.get("bytes")
    if not isinstance(value, bytes) or not value:
        raise InputError(f"{name}: the image is missing")
    return value


def _arrays(path: Path, pairs: bool) -> Iterator[Record]:
    """`images` [item, channel, h, w] in [-1, 1] with `labels` or `text`."""
    if pairs:
        raise InputError(f"{path}: pairs need parquet with jpg_0, jpg_1 and label_0")
    arrays = read_numpy(path)
    images = arrays.get("images") if isinstance(arrays, dict) else None
    if images is None or images.ndim != 4 or not np.issubdtype(images.dtype, np.floating):
        raise InputError(f"{path}: expected an array images [item, channel, height, width] of floats in [-1, 1]")
    if not np.isfinite(images).all() or np.abs(images).max() > 1.001:
        raise InputError(f"{path}: images must lie in [-1, 1]")
    for name in ("labels", "text"):
        if name in arrays and len(arrays[name]) != len(images):
            raise InputError(f"{path}: {len(images)} images and {len(arrays[name])} {name}")
    labels, texts = arrays.get("labels"), arrays.get("text")
    for index, image in enumerate(images):
        label = int(labels[index]) if labels is not None else (0 if texts is None else None)
        yield Record(f"{path}, item {index}", str(texts[index]) if texts is not None else "", image, label=label)
