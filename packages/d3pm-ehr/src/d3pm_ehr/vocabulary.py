"""What the tokens of a record are called, and how to find one by name."""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from shared_core.errors import InputError

from d3pm_ehr.layout import TokenLayout


@dataclass(frozen=True)
class Column:
    """A categorical column: its levels in order."""

    name: str
    levels: tuple[str, ...]


@dataclass(frozen=True)
class Vocabulary:
    """Codes (present or absent) and categorical columns, with how the codes were made.

    Args:
        codes: keys such as `ICD9CM:250`; a plain table's codes have no system before the colon.
        columns: categorical columns.
        truncation: how source codes were cut (`icd3`, `none`, or a number of characters).
        counts: records with each code in the source, where they were at least `min_records`.
        min_records: rarer codes were left out of the vocabulary.

    Raises:
        InputError: for a code that is there twice, or no code at all.
    """

    codes: tuple[str, ...]
    columns: tuple[Column, ...] = ()
    truncation: str = "none"
    counts: tuple[int, ...] = ()
    min_records: int = 0
    notes: dict[str, Any] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        names = [*self.codes, *(column.name for column in self.columns)]
        twice = {name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else set()
        if twice:
            raise InputError(f"code {sorted(twice)[0]!r} is in the vocabulary twice")
        if not names:
            raise InputError("the vocabulary is empty: no code is frequent enough (lower --min-records)")

    @cached_property
    def order(self) -> tuple[int, ...]:
        """Column (codes first, then categorical) of each token, sorted by the number of levels."""
        levels = [2] * len(self.codes) + [max(2, len(column.levels)) for column in self.columns]
        return tuple(sorted(range(len(levels)), key=levels.__getitem__))

    @cached_property
    def layout(self) -> TokenLayout:
        """Levels of the tokens."""
        levels = [2] * len(self.codes) + [max(2, len(column.levels)) for column in self.columns]
        return TokenLayout([levels[index] for index in self.order])

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Name of each token, in the layout's order."""
        names = [*self.codes, *(column.name for column in self.columns)]
        return tuple(names[index] for index in self.order)

    @cached_property
    def _index(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.names)}

    @cached_property
    def _short(self) -> dict[str, list[str]]:
        short: dict[str, list[str]] = {}
        for name in self.codes:
            short.setdefault(re.split(":|//", name)[-1], []).append(name)
        return short

    def levels_of(self, token: int) -> tuple[str, ...]:
        """Names of the levels of a token."""
        column = self.order[token] - len(self.codes)
        return ("absent", "present") if column < 0 else self.columns[column].levels

    def find(self, name: str) -> int:
        """The token called `name`; the part after the system suffices where it is unique.

        Raises:
            InputError: for an unknown or ambiguous name, with the nearest ones.
        """
        if name in self._index:
            return self._index[name]
        full = self._short.get(name, [])
        if len(full) == 1:
            return self._index[full[0]]
        if full:
            raise InputError(f"code {name!r} is in several systems: {', '.join(full)}; say which")
        near = difflib.get_close_matches(name, [*self._short, *self.names], n=3, cutoff=0.4)
        hint = f"; nearest: {', '.join(near)}" if near else ""
        raise InputError(f"code {name!r} is not in the vocabulary of {len(self.codes)} codes{hint}")

    def fixed(self, given: Mapping[str, int | str]) -> dict[int, int]:
        """Tokens and levels of `given` by name, e.g. {"250": 1, "585": 0, "sex": "female"}.

        Raises:
            InputError: for an unknown name or level, or two levels of one token.
        """
        fixed: dict[int, int] = {}
        for name, level in given.items():
            token = self.find(name)
            levels = self.levels_of(token)
            index = levels.index(level) if isinstance(level, str) and level in levels else level
            if not isinstance(index, int) or not 0 <= index < len(levels):
                known = f"0 or 1 ({', '.join(levels)})" if levels == ("absent", "present") else ", ".join(levels[:12])
                raise InputError(f"given {name!r} must be one of {known}, got {level!r}")
            if fixed.setdefault(token, index) != index:
                raise InputError(f"given contradicts itself about {self.names[token]}")
        return fixed

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "codes": list(self.codes),
            "columns": [{"name": column.name, "levels": list(column.levels)} for column in self.columns],
            "truncation": self.truncation,
            "counts": list(self.counts),
            "min_records": self.min_records,
            "notes": self.notes,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any], source: str = "vocabulary") -> "Vocabulary":
        """The inverse of `to_json`.

        Raises:
            InputError: if a field is missing or of the wrong kind (names `source`).
        """
        try:
            columns = tuple(Column(str(item["name"]), tuple(map(str, item["levels"]))) for item in value["columns"])
            return cls(
                tuple(map(str, value["codes"])), columns, str(value["truncation"]), tuple(map(int, value["counts"])),
                int(value["min_records"]), dict(value.get("notes", {})),
            )  # fmt: skip
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{source} is not a vocabulary: {error!r}") from error
