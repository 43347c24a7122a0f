"""The evaluation as files: `evaluation.json`, `report.html` (one self-contained page) and `figures/*.png`."""

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from shared_core.claims import format_value
from shared_core.files import atomic_path, write_json, write_text

from d3pm_ehr import figures
from d3pm_ehr.baselines import Bernoulli
from d3pm_ehr.cohort import Cohort
from d3pm_ehr.evaluation import HELD_OUT, INDEPENDENT

SHOWN = {
    "prevalence_spearman": "Spearman", "prevalence_spearman_floor": "Spearman, floor", "prevalence_r2": "R2",
    "cmd": "CMD", "cmd_floor": "CMD, floor", "bigram_r2": "bigram R2", "mmd2": "MMD2", "mcad": "MCAD",
    "codes_per_record": "codes/record", "codes_never_generated": "never generated", "dwp_auroc_error": "DWP error",
}  # fmt: skip


def draw(
    train: Cohort, held_out: Cohort, synthetic: Mapping[str, Cohort], result: dict[str, Any], seed: int
) -> dict[str, Any]:
    """The figures that fit the sections measured, by name."""
    order = np.random.default_rng(seed).permutation(len(held_out))
    half = len(order) // 2
    reference, other = held_out.take(np.sort(order[:half])), held_out.take(np.sort(order[half:]))
    count = max(len(cohort) for cohort in synthetic.values())
    generators = {HELD_OUT: other, **synthetic, INDEPENDENT: Bernoulli().fit(train).sample(count, seed)}
    first = next(iter(synthetic))
    drawn: dict[str, Any] = {}
    if "fidelity" in result:
        drawn["prevalence"] = figures.prevalence_figure(reference, generators)
        drawn["correlations"] = figures.correlation_figure(reference, synthetic[first], first)
        drawn["lengths"] = figures.length_figure(reference, generators)
    if result.get("utility") and next(iter(result["utility"].values())):
        drawn["utility"] = figures.utility_figure(result["utility"])
    if "privacy" in result:
        drawn["distances"] = figures.distance_figure(train, reference, synthetic[first], first)
    return drawn


def write_report(out: Path, result: dict[str, Any], drawn: Mapping[str, Any], title: str) -> None:
    """Write all files; each appears whole, the json last."""
    pictures = {}
    for name, figure in drawn.items():
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=130)
        with atomic_path(out / "figures" / f"{name}.png") as aside:
            aside.write_bytes(buffer.getvalue())
        pictures[name] = base64.b64encode(buffer.getvalue()).decode()
    write_text(out / "report.html", render(result, pictures, title))
    write_json(out / "evaluation.json", result)


def render(result: dict[str, Any], pictures: Mapping[str, str], title: str) -> str:
    """The page."""
    import jinja2

    environment = jinja2.Environment(loader=jinja2.PackageLoader("d3pm_ehr"), autoescape=True, trim_blocks=True)
    environment.filters["value"] = format_value
    environment.filters["score"] = _score
    return environment.get_template("report.html.jinja").render(
        result=result, pictures=pictures, captions=figures.CAPTIONS, title=title, shown=SHOWN
    )


def _score(row: Mapping[str, Any], name: str) -> str:
    """A score with its interval."""
    if row.get(name) is None:
        return "-"
    interval = row.get(f"{name}_interval")
    ends = f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else ""
    return f"{row[name]:.3f}{ends}"


def fidelity_table(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the fidelity, for the terminal."""
    rows = [[name, *(format_value(row[key]) for key in SHOWN)] for name, row in result.get("fidelity", {}).items()]
    return ["records", *SHOWN.values()], rows


def privacy_table(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the privacy, for the terminal."""
    keys = ["membership_auc", "membership_accuracy", "attribute_f1", "attribute_f1_entropy", "exact_copies",
            "nearest_mean", "nearest_p05"]  # fmt: skip
    rows = [[name, *(format_value(row[key]) for key in keys)] for name, row in result.get("privacy", {}).items()]
    return ["published", *(key.replace("_", " ") for key in keys)], rows


def utility_table(result: dict[str, Any], section: str = "utility") -> tuple[list[str], list[list[str]]]:
    """Header and rows of AUROC / AUPR by label, for the terminal."""
    table = result.get(section, {})
    if not table or not next(iter(table.values())):
        return [], []
    labels = list(next(iter(table.values())))
    rows = [[name, *(f"{_score(row[label], 'auroc')[:5]} / {_score(row[label], 'aupr')[:5]}" for label in labels)]
            for name, row in table.items()]  # fmt: skip
    return ["trained on", *labels], rows
