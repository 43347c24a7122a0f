"""A paper's claims as data: what is said, where, what would confirm it, what was measured, the verdict."""

import logging
import sys
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from shared_core.errors import InputError
from shared_core.files import jsonable
from shared_core.run_folder import RunFolder, installed_version, run_path

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)
Scale = Literal["smoke", "laptop", "paper"]
Verdict = Literal["reproduced", "not reproduced", "not at this scale"]
T = TypeVar("T")


@dataclass(frozen=True)
class Measurement:
    """What a claim's function found.

    Args:
        measured: the number (or a short mapping of numbers) that decides.
        holds: True, False, or None where this scale cannot decide (then `note` says why).
        uncertainty: low and high end, in the units of `measured`, or None where the value is exact.
        note: how many seeds and configurations, what else a reader must know.
        figures: paths returned by `Context.save_figure`.
    """

    measured: Any
    holds: bool | None
    uncertainty: tuple[float, float] | None = None
    note: str = ""
    figures: tuple[str, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """The verdict in the words of `result.json`."""
        if self.holds is None:
            return "not at this scale"
        return "reproduced" if self.holds else "not reproduced"


@dataclass
class Context:
    """What a claim's function is given: scale, seed, device, and a place for figures.

    `memo(key, make)` shares something costly (a trained model) between the claims of one run.
    """

    scale: Scale
    seed: int
    device: "torch.device"
    folder: RunFolder
    _memo: dict[Hashable, Any] = field(default_factory=dict)

    def at(self, smoke: T, laptop: T, paper: T) -> T:
        """The value that belongs to this run's scale."""
        return {"smoke": smoke, "laptop": laptop, "paper": paper}[self.scale]

    def memo(self, key: Hashable, make: Callable[[], T]) -> T:
        """`make()`, once per run and key."""
        if key not in self._memo:
            self._memo[key] = make()
        return self._memo[key]

    def save_figure(self, name: str, figure: Any) -> str:
        """Save a matplotlib figure in the run folder and return its relative path."""
        return self.folder.save_figure(name, figure)


@dataclass(frozen=True)
class Claim:
    """One claim: `expected` is fixed from the paper before anything is measured."""

    id: str
    statement: str
    where: str
    quantity: str
    expected: str
    measure: Callable[[Context], Measurement]


class ClaimSet:
    """The claims of one package, in the order in which they are registered.

    Args:
        package: distribution name.
        one_thread: scales at which torch gets one thread, because the work is too small for a pool of them.

    Example:
        >>> claims = ClaimSet("dndm-sampler")
        >>> @claims.add("calls", statement="...", where="Theorem 3.6", quantity="calls / distinct times", expected="1")
        ... def calls(context: Context) -> Measurement:
        ...     return Measurement(1.0, holds=True)
    """

    def __init__(self, package: str, one_thread: Sequence[Scale] = ()) -> None:
        self.package = package
        self.one_thread = one_thread
        self.claims: dict[str, Claim] = {}

    def add(
        self, id: str, *, statement: str, where: str, quantity: str, expected: str
    ) -> Callable[[Callable[[Context], Measurement]], Callable[[Context], Measurement]]:
        """Register a claim's function under `id`."""

        def register(measure: Callable[[Context], Measurement]) -> Callable[[Context], Measurement]:
            if id in self.claims:
                raise ValueError(f"claim {id} is registered twice")
            self.claims[id] = Claim(id, statement, where, quantity, expected, measure)
            return measure

        return register

    def reproduce(
        self,
        *,
        scale: Scale = "laptop",
        claims: Sequence[str] | None = None,
        out: str | Path | None = None,
        seed: int = 0,
        device: str = "auto",
    ) -> int:
        """Measure the claims, print the table, write `result.json` and figures; finished claims are not repeated.

        Args:
            scale: smoke (seconds), laptop (minutes on two cores) or paper (the paper's sizes).
            claims: ids, or None for all.
            out: run folder; by default `runs/PACKAGE-reproduce-SCALE`, with a number where that holds another run.
            seed: seed of every draw.
            device: `auto|cpu|cuda|cuda:N|mps`.

        Returns:
            0 if no claim failed, 1 if one is not reproduced.

        Raises:
            InputError: for an unknown id or device, a seed out of range, or a folder that holds another run.
        """
        from shared_core.device import check_seed, describe_device, one_thread, resolve_device

        chosen = self._choose(claims)
        check_seed(seed)
        resolved = resolve_device(device)
        ids = [claim.id for claim in chosen]
        settings = {"verb": "reproduce", "scale": scale, "seed": seed, "device": resolved.type, "claims": ids}
        base = f"runs/{self.package}-reproduce-{scale}"
        path = run_path(out, package=self.package, settings=settings, base=base)
        with (
            one_thread(scale in self.one_thread),
            RunFolder(path, package=self.package, settings=settings) as folder,
        ):
            log.info("%s reproduce, scale %s, on %s, into %s", self.package, scale, describe_device(resolved), path)
            context = Context(scale, seed, resolved, folder)
            rows = [self._measure(claim, context) for claim in chosen]
            result = {
                "package": self.package,
                "version": installed_version(self.package),
                "scale": scale,
                "seed": seed,
                "device": str(resolved),
                "seconds": round(sum(row["seconds"] for row in rows), 2),
                "claims": rows,
            }
            folder.write_json("result.json", result)
        print_claims(result)
        return int(any(row["verdict"] == "not reproduced" for row in rows))

    def _choose(self, ids: Sequence[str] | None) -> list[Claim]:
        unknown = [id for id in ids or () if id not in self.claims]
        if unknown:
            raise InputError(f"--claims: there is no claim {unknown[0]!r}; claims: {', '.join(self.claims)}")
        return [claim for claim in self.claims.values() if not ids or claim.id in ids]

    def _measure(self, claim: Claim, context: Context) -> dict[str, Any]:
        stored = context.folder.read_json(f"claims/{claim.id}.json")
        if stored is not None:
            log.info("%s: measured before, kept (remove %s to measure again)", claim.id, context.folder.path)
            return stored
        log.info("%s: measuring %s", claim.id, claim.quantity)
        start = time.perf_counter()
        found = claim.measure(context)
        if found.holds is None and not found.note:
            raise ValueError(f"claim {claim.id} is undecided without a reason in its note")
        row = {name: getattr(claim, name) for name in ("id", "statement", "where", "quantity", "expected")}
        row |= {"verdict": found.verdict, "seconds": round(time.perf_counter() - start, 2)}
        row |= {key: value for key, value in asdict(found).items() if key != "holds"}
        row = jsonable(row)
        context.folder.write_json(f"claims/{claim.id}.json", row)
        return row


def format_value(value: Any) -> str:
    """A measured value or an interval in four significant digits."""
    if isinstance(value, bool) or value is None:
        return "-" if value is None else str(value)
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {format_value(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(format_value(item) for item in value)
    return str(value)


def print_claims(result: dict[str, Any]) -> None:
    """Print the claims of a `result.json` as a table on stdout."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    colours = {"reproduced": "green", "not reproduced": "red", "not at this scale": "yellow"}
    table = Table(title=f"{result['package']} {result['version']}, scale {result['scale']}, seed {result['seed']}")
    for column in ("claim", "quantity", "expected", "measured", "interval", "verdict"):
        table.add_column(column, overflow="fold")
    for row in result["claims"]:
        interval = "exact" if row["uncertainty"] is None else "{} .. {}".format(*map(format_value, row["uncertainty"]))
        cells = [row["id"], row["quantity"], row["expected"], format_value(row["measured"]), interval]
        table.add_row(*map(Text, cells), Text(row["verdict"], style=colours[row["verdict"]]))
    # outside a terminal nothing says how wide a line may be, and people read it in logs and with grep
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(table)
    for row in result["claims"]:
        if row["verdict"] != "reproduced" and row["note"]:
            console.print(Text(f"{row['id']}: {row['note']}"))
