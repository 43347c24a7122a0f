"""Text to train on: any file, or the English that every Python carries in its documentation."""

import ast
import logging
import sys
import sysconfig
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import torch
from jaxtyping import Int
from shared_core.errors import InputError
from torch import Tensor

log = logging.getLogger(__name__)
ALPHABET = "abcdefghijklmnopqrstuvwxyz "
MASK_ID = len(ALPHABET)


@lru_cache(maxsize=2)
def standard_library_text(max_characters: int | None = None) -> str:
    """The documentation of Python's standard library (docstrings and help topics), in a fixed order.

    Needs no download and no licence beyond Python's. About two million characters after `normalise`.

    Args:
        max_characters: stop once this many were collected.
    """
    pieces, size = [], 0
    for piece in _documentation():
        pieces.append(piece)
        size += len(piece) + 1
        if max_characters is not None and size >= max_characters:
            break
    return " ".join(pieces)[:max_characters]


def _documentation() -> Iterator[str]:
    from pydoc_data.topics import topics

    yield from (topics[name] for name in sorted(topics))
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py"), key=str):
        parts = path.relative_to(root).parts
        if parts[0] in ("site-packages", "test", "lib2to3", "idlelib", "turtledemo") or "tests" in parts:
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError, OSError):  # a few files of the library are not meant to parse
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                text = ast.get_docstring(node)
                if text:
                    yield text


def read_text(path: str | Path) -> str:
    """A UTF-8 text file.

    Raises:
        InputError: if it is not UTF-8 (names the byte).
        OSError: if it cannot be read.
    """
    try:
        return Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text: byte {error.start} cannot be decoded") from error


def normalise(text: str) -> str:
    """Lower-case letters a-z and single spaces; everything else becomes a space."""
    kept = "".join(letter if "a" <= letter <= "z" else " " for letter in text.lower())
    return " ".join(kept.split())


def encode(text: str) -> Int[Tensor, "characters"]:
    """Ids 0..26 of normalised text.

    Raises:
        InputError: if a character is not in a-z or space.
    """
    codes = torch.frombuffer(bytearray(text.encode("ascii", "replace")), dtype=torch.uint8).long()
    ids = torch.where(codes == ord(" "), 26, codes - ord("a"))
    if len(ids) and not bool(((ids >= 0) & (ids < 27)).all()):
        raise InputError("text must hold only a-z and spaces; normalise it first")
    return ids


def decode(ids: Int[Tensor, "*batch length"], mask: str = "_") -> list[str]:
    """Text of each row; the mask id becomes `mask`."""
    symbols = ALPHABET + mask
    return ["".join(symbols[token] for token in row) for row in ids.reshape(-1, ids.shape[-1]).tolist()]


def load_corpus(path: str | Path | None, length: int, max_characters: int | None = None) -> Int[Tensor, "characters"]:
    """Ids of a text file, or of the standard library's documentation where no path is given.

    Raises:
        InputError: if the text is shorter than ten rows of `length`.
    """
    text = normalise(standard_library_text(max_characters) if path is None else read_text(path)[:max_characters])
    if len(text) < 10 * length:
        name = path if path is not None else f"the documentation of Python {sys.version_info[0]}.{sys.version_info[1]}"
        raise InputError(
            f"{name} holds {len(text)} letters and spaces after normalising; at least {10 * length} "
            f"(ten rows of {length}) are needed"
        )
    return encode(text)


def split(ids: Int[Tensor, "characters"], held_out: float = 0.1) -> tuple[Tensor, Tensor]:
    """Training and held-out part, in blocks spread over the text, so that both hold all kinds of it."""
    blocks = ids[: len(ids) // 100 * 100].view(100, -1)
    chosen = torch.zeros(100, dtype=torch.bool)
    chosen[:: max(1, round(1 / held_out))] = True
    return blocks[~chosen].flatten(), blocks[chosen].flatten()
