"""What the commands print: tables and fits for people, JSON for programs."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd
from shared_core.files import jsonable

from parity_sgd.fitting import SupportFit


def print_table(rows: Sequence[dict[str, Any]], as_json: bool) -> None:
    """Rows on stdout: aligned columns, or JSON."""
    if as_json:
        print(json.dumps(jsonable(rows), indent=2))
    elif rows:
        print(pd.DataFrame(rows).to_string(index=False, float_format=lambda value: f"{value:.4g}"))


def print_fits(fits: Sequence[SupportFit], as_json: bool) -> None:
    """Print what was recovered and how sure it is: a paragraph a method, or JSON."""
    if as_json:
        print(json.dumps(jsonable([{**asdict(fit), "recovered": fit.recovered} for fit in fits]), indent=2))
        return
    for fit in fits:
        took = f"({fit.seconds:.2f} s{'; ' + fit.note if fit.note else ''})"
        if not fit.support:
            print(f"{fit.method}: no support found {took}")
            continue
        relation = "XOR" if fit.sign > 0 else "NOT XOR"
        verdict = "confirmed" if fit.recovered else "NOT confirmed"
        print(f"{fit.method}: label = {relation}({', '.join(fit.columns)}), {verdict} {took}")
        noise = f"label noise about {1 - fit.agreement:.4f}, " if fit.recovered else ""
        print(
            f"  held-out rows {fit.held_out}: agreement {fit.agreement:.4f} [{fit.agreement_low:.4f}, "
            f"{fit.agreement_high:.4f}], {noise}p = {fit.p_value:.2g} if they were independent"
        )
