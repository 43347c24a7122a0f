"""Tables read in pieces, every value as text, with the row of what is wrong."""

import bz2
import gzip
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]
import pyarrow.csv  # type: ignore[import-untyped, unused-ignore]
import pyarrow.parquet  # type: ignore[import-untyped, unused-ignore]
from numpy.typing import NDArray
from shared_core.errors import InputError

log = logging.getLogger(__name__)
BLOCK_BYTES = 16 * 2**20


@dataclass(frozen=True)
class Piece:
    """Some consecutive rows.

    Attributes:
        first: number of the first row as an editor shows it (the header is row 1).
        columns: the values of each asked column, as text.
    """

    first: int
    columns: dict[str, list[str]]


def read_table(path: Path, wanted: Sequence[str], text: Sequence[str] = ()) -> Iterator[Piece]:
    """The wanted columns of a .csv(.gz, .bz2), .tsv or .parquet file, whatever the case of their names.

    Args:
        path: the file.
        wanted: names of columns.
        text: those of them that must not be numbers in a parquet file (codes, whose leading zeros would be lost).

    Raises:
        InputError: if the file is missing, empty, cut, or lacks a column (names the file, and the row where known).
    """
    if not path.exists():
        raise InputError(f"{path}: no such file")
    names = header(path)
    found = {name: _match(path, names, name) for name in wanted}
    parquet = path.suffix == ".parquet"
    try:
        yield from _parquet_pieces(path, found, text) if parquet else _csv_pieces(path, found, names)
    except (pa.ArrowInvalid, OSError, EOFError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: {_plain(error, path)}") from error


def header(path: Path) -> list[str]:
    """Names of all columns.

    Raises:
        InputError: if the file is empty, cut, or names a column twice.
    """
    try:
        if path.suffix == ".parquet":
            names = pa.parquet.read_schema(path).names
        else:
            with _open_csv(path, None) as reader:
                names = reader.schema.names
    except (pa.ArrowInvalid, OSError, EOFError, StopIteration, UnicodeDecodeError) as error:
        if not path.exists():
            raise InputError(f"{path}: no such file") from error
        raise InputError(f"{path}: {_plain(error, path)}") from error
    twice = [name for name in names if names.count(name) > 1] if len(set(names)) < len(names) else []
    if twice:
        raise InputError(f"{path}, row 1: column {twice[0]!r} is there twice")
    return list(names)


def _open_csv(path: Path, names: Sequence[str] | None) -> pa.csv.CSVStreamingReader:
    convert = pa.csv.ConvertOptions(strings_can_be_null=False, quoted_strings_can_be_null=False)
    if names is not None:
        convert.column_types = {name: pa.string() for name in names}
    suffixes = path.suffixes
    delimiter = "\t" if ".tsv" in suffixes else ","
    return pa.csv.open_csv(
        path,
        read_options=pa.csv.ReadOptions(block_size=BLOCK_BYTES, use_threads=False),
        parse_options=pa.csv.ParseOptions(delimiter=delimiter),
        convert_options=convert,
    )


def _csv_pieces(path: Path, found: dict[str, str], names: Sequence[str]) -> Iterator[Piece]:
    first = 2
    with _open_csv(path, names) as reader:
        for batch in reader:
            columns = {name: batch.column(source).to_pylist() for name, source in found.items()}
            yield Piece(first, columns)
            first += batch.num_rows
    if first == 2:
        raise InputError(f"{path} has a header and no rows")
    if path.suffix in (".csv", ".tsv"):
        with path.open("rb") as file:
            file.seek(-1, 2)
            if file.read(1) not in b"\r\n":
                log.warning("%s does not end with a line break: row %d may be cut", path, first - 1)


def _parquet_pieces(path: Path, found: dict[str, str], text: Sequence[str]) -> Iterator[Piece]:
    file, first = pa.parquet.ParquetFile(path), 1
    for name in text:
        kind = file.schema_arrow.field(found[name]).type
        if pa.types.is_integer(kind) or pa.types.is_floating(kind):
            raise InputError(
                f"{path}, row 1, column {found[name]}: codes stored as {kind} have lost their leading zeros; store text"
            )
    for batch in file.iter_batches(columns=list(found.values()), batch_size=2**18):
        columns = {}
        for name, source in found.items():
            column = batch.column(source)
            if pa.types.is_dictionary(column.type):
                column = column.dictionary_decode()
            columns[name] = [value or "" for value in column.cast(pa.string()).to_pylist()]
        yield Piece(first, columns)
        first += batch.num_rows
    if first == 1:
        raise InputError(f"{path} has no rows")


def _match(path: Path, names: Sequence[str], wanted: str) -> str:
    if wanted in names:
        return wanted
    same = [name for name in names if name.lower() == wanted.lower()]
    if len(same) != 1:
        raise InputError(f"{path}, row 1: there is no column {wanted!r}; columns: {', '.join(names[:12])}")
    return same[0]


def _plain(error: BaseException, path: Path) -> str:
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    if "Empty CSV" in text:
        return "the file is empty"
    if "Parquet magic bytes" in text or "Parquet file size" in text:
        return "not a whole parquet file: it is cut or of another kind"
    if "Truncated compressed" in text or "end-of-stream" in text:
        return f"the compressed file is cut in row {_whole_rows(path) + 1}"
    text = re.sub(r"(columns, got \d+):.*", r"\1", text)  # what follows is the row itself
    return text.replace("CSV parse error: Row #", "row ")


def _whole_rows(path: Path) -> int:
    """Line breaks that a cut compressed file still gives."""
    opened: Callable[[Path], IO[bytes]] = {".gz": gzip.open, ".bz2": bz2.open}.get(path.suffix, open)  # type: ignore[assignment]
    rows = 0
    try:
        with opened(path) as file:
            while block := file.read1(2**20):  # type: ignore[attr-defined] # what there is, before the cut is an error
                rows += block.count(b"\n")
    except (EOFError, OSError):
        pass
    return rows


class Numbering:
    """Distinct texts to 0, 1, 2, ... in order of appearance, over all pieces."""

    def __init__(self) -> None:
        self.index: dict[str, int] = {}

    def __call__(self, values: Sequence[str]) -> NDArray[np.int64]:
        """Numbers of the values."""
        index = self.index
        return np.fromiter((index.setdefault(value, len(index)) for value in values), np.int64, len(values))

    @property
    def names(self) -> list[str]:
        """The texts in order."""
        return list(self.index)
