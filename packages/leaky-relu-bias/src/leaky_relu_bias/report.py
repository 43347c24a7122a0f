"""Results of the verbs as tables on stdout, or as JSON."""

import json
from collections.abc import Sequence
from typing import Any

from shared_core.claims import format_value
from shared_core.files import jsonable

from leaky_relu_bias.assumptions import Assumptions
from leaky_relu_bias.max_margin import Limits
from leaky_relu_bias.sweep import summarise
from leaky_relu_bias.verdicts import SHORT


def print_json(value: Any) -> None:
    """Print any result as JSON."""
    print(json.dumps(jsonable(value), indent=2, ensure_ascii=False, allow_nan=False))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table that is not cut where there is no terminal."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns)
    for row in rows:
        table.add_row(*map(format_value, row))
    console = Console(markup=False)
    # outside a terminal rich assumes 80 columns, and would cut
    (console if console.is_terminal else Console(markup=False, width=200)).print(table)


def print_mapping(values: dict[str, Any], as_json: bool) -> None:
    """Print names and values."""
    if as_json:
        print_json(values)
    else:
        print_table(("", "value"), list(values.items()))


def print_assumptions(found: Assumptions, as_json: bool) -> None:
    """Print each condition with PASS, FAIL or -, and whether the theorem covers the data."""
    if as_json:
        print_json({"covered": found.covered, "conditions": found.to_dict()})
        return
    words = {True: "PASS", False: "FAIL", None: "-"}
    print_table(
        ("condition", "value", "wanted", "", "whose", "meaning"),
        [(c.name, c.value, c.wanted, words[c.passed], c.source, c.meaning) for c in found.conditions],
    )
    print("covered by the theorem" if found.covered else f"NOT COVERED by the theorem: {found.uncovered_reason}")


def print_limits(predicted: Limits, as_json: bool) -> None:
    """Print the prediction and one line a point."""
    if as_json:
        print_json(predicted.to_dict())
        return
    values = predicted.to_dict()
    points = [values.pop(name) for name in ("alpha", "support", "margins")]
    print_table(("prediction", "value"), list(values.items()))
    if predicted.applicable:
        print_table(
            ("point", "alpha", "support vector", "limit of q / ||W||"),
            [(index, *row) for index, row in enumerate(zip(*points, strict=True))],
        )


def print_run(result: dict[str, Any], as_json: bool) -> None:
    """Print what ran, the end beside the prediction, and the verdicts of every seed."""
    if as_json:
        print_json(result)
        return
    work = ", ".join(f"{count} {kind}" for kind, count in result["work"].items() if count)
    print(f"engine {result['engine']}: {result['why']}; steps made: {work}; {result['seconds']:.2f} s")
    for one in result["runs"]:
        end, predicted = one["final"], one["limits"]
        print(f"seed {one['seed']}, log10 t = {end['log10_t']:.6g}, {predicted['kind']}")
        print_table(("quantity", "at the end", "limit"), _ends(end, predicted, result))
        if "claims" in one:
            print_table(
                ("claim", "statement", "decided by", "wanted", "measured", "verdict"),
                [[c[name] for name in ("id", "statement", "quantity", "expected", "measured")] + [SHORT[c["verdict"]]]
                 for c in one["claims"]],
            )  # fmt: skip
            for claim in one["claims"]:
                print(f"{claim['id']}: {claim['note']}")


def _ends(end: dict[str, Any], predicted: dict[str, Any], result: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    margins = [float(value) for value in predicted["margins"]]
    rows = [
        ("log10 loss", end["log10_loss"], "-"),
        ("t x loss", end["t_times_loss"], predicted["t_times_loss"]),
        ("smallest margin / ||W||", end["normalized_margin_min"], min(margins)),
        ("largest margin / ||W||", end["normalized_margin_max"], max(margins)),
        ("stable rank of W+", end["sr_pos"], predicted["sr_pos"]),
        ("stable rank of W-", end["sr_neg"], predicted["sr_neg"]),
        ("stable rank of W", end["sr_joint"], predicted["sr_joint"]),
        ("signs as in the ideal pattern", end["ideal_sign_fraction"], "-"),
    ]
    return [row for row in rows if not (row[0] == "t x loss" and result["engine"] == "normalized")]


def print_sweep(rows: list[dict[str, Any]], as_json: bool) -> None:
    """Print one line a cell, averaged over seeds."""
    if as_json:
        print_json(rows)
        return
    summary = summarise(rows)
    print_table(list(summary[0]), [list(line.values()) for line in summary])
