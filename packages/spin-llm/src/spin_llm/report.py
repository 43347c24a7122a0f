"""The report of a run: `report.md` and its figures."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shared_core.files import atomic_path, write_text
from shared_core.logging import MetricsLog
from shared_core.run_folder import read_json

from spin_llm.config import SPINConfig
from spin_llm.evaluation import METRICS, Evaluation, compare_paired
from spin_llm.iteration import Iteration
from spin_llm.losses import LINK_AT_ZERO

LOSS = (
    "`loss` is that of the iteration's first step and of its last. `identical` counts the pairs whose generated "
    "response is the real one; they teach nothing."
)
ACCURACY = (
    "`accuracy` is the share of held-out prompts on which the player of this iteration tells the real response from "
    "its opponent's. Near 0.5 it cannot, and nothing is left to learn from this opponent."
)
LABELS = {
    "nll_per_token": "NLL per token of the real response (nats)",
    "rouge_l": "ROUGE-L F1 of samples",
    "finished": "share of samples that end by themselves",
    "tokens": "tokens a sample",
}


def write_report(folder: Path, config: SPINConfig, iterations: Sequence[Iteration]) -> Path:
    """Write `report.md`, `figures/training.png` and, where there is held-out data, `figures/evaluation.png`."""
    judged = (folder / "start.json").exists()
    lines = [f"# Self-play: {len(iterations)} iteration{'s' if len(iterations) != 1 else ''}", ""]
    _save(folder / "figures" / "training.png", _training(folder, config, iterations))
    if judged:
        players = _players(folder, iterations)
        _save(folder / "figures" / "evaluation.png", _evaluation(players))
        lines += [_verdict(players, iterations), "", "## Held-out prompts", "", *_table(players)]
        lines += ["", "![evaluation](figures/evaluation.png)", ""]
    else:
        lines += ["Nothing was held out, so that no player was judged: see `--held-out`.", ""]
    lines += ["## Training", "", *_iterations(config, iterations), "", LOSS]
    lines += ["", ACCURACY] if any(item.accuracy for item in iterations) else []
    lines += ["", "![training](figures/training.png)"]
    write_text(folder / "report.md", "\n".join(lines) + "\n")
    return folder / "report.md"


def _verdict(players: dict[str, Evaluation], iterations: Sequence[Iteration]) -> str:
    best, last = _likeliest(players), f"iteration {iterations[-1].number}"
    value = f"{players[best].means['nll_per_token']['mean']:.3f} nats a token"
    told = "The real responses to held-out prompts are likeliest under the"
    if best == "start":
        return f"{told} model that the run started from ({value}): no iteration made them likelier."
    gap = compare_paired(players[best], players["start"], "nll_per_token")
    return (
        f"{told} player after {best} (`{best.replace('iteration ', 'iter_')}/model`): {value}, {-gap['mean']:.3f} +- "
        f"{gap['error']:.3f} less than under the model that the run started from."
        + ("" if best == last else " The iterations after it made them less likely again.")
    )


def _iterations(config: SPINConfig, iterations: Sequence[Iteration]) -> list[str]:
    lines = ["| iteration | beta | pairs | identical | loss | accuracy |", "|---|---|---|---|---|---|"]
    for item in iterations:
        loss = f"{item.first['loss']:.4f} -> {item.last['loss']:.4f}" if item.last else "-"
        accuracy = f"{item.accuracy['mean']:.2f} +- {item.accuracy['error']:.2f}" if item.accuracy else "-"
        beta = f"{config.beta_at(item.number):g}"
        lines.append(f"| {item.number} | {beta} | {item.pairs} | {item.identical} | {loss} | {accuracy} |")
    return lines


def best_player(folder: Path, iterations: Sequence[Iteration]) -> str | None:
    """`start` or `iteration K`: under whom held-out responses are most likely; None where nothing was held out."""
    if not (folder / "start.json").exists():
        return None
    return _likeliest(_players(folder, iterations))


def _likeliest(players: dict[str, Evaluation]) -> str:
    return min(players, key=lambda name: players[name].means["nll_per_token"]["mean"])


def _players(folder: Path, iterations: Sequence[Iteration]) -> dict[str, Evaluation]:
    paths = {"start": folder / "start.json"}
    paths |= {f"iteration {item.number}": folder / f"iter_{item.number}" / "evaluation.json" for item in iterations}
    return {name: Evaluation.from_json(read_json(path)) for name, path in paths.items()}


def _table(players: dict[str, Evaluation]) -> list[str]:
    lines = ["Mean +- standard error over prompts; in brackets the difference from the start, prompt by prompt.", ""]
    lines += ["| player | " + " | ".join(LABELS[name] for name in METRICS) + " |", "|---" * (len(METRICS) + 1) + "|"]
    for name, found in players.items():
        cells = []
        for metric in METRICS:
            mean = found.means[metric]
            cell = f"{mean['mean']:.4f} +- {mean['error']:.4f}"
            if name != "start":
                gap = compare_paired(found, players["start"], metric)
                cell += f" ({gap['mean']:+.4f} +- {gap['error']:.4f})"
            cells.append(cell)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def _training(folder: Path, config: SPINConfig, iterations: Sequence[Iteration]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 6.4), layout="constrained")
    panels = figure.subplots(2, 2, sharex=True).flat
    contents = {
        "loss": ["loss"],
        "rewards (nats x beta)": ["rewards/real", "rewards/generated", "rewards/margins"],
        "where the margin comes from (nats)": ["nll_gain", "kl/opponent"],
        "accuracy": ["rewards/accuracies"],
    }
    rows, borders = [], [0]
    for item in iterations:
        rows += MetricsLog(folder / f"iter_{item.number}" / "metrics.jsonl").read()
        borders.append(len(rows))
    for axes, (title, names) in zip(panels, contents.items(), strict=True):
        for name in names:
            axes.plot(range(1, len(rows) + 1), [row.get(name) for row in rows], lw=1, label=name)
        for border in borders[1:-1]:
            axes.axvline(border + 0.5, color="0.7", lw=1, ls=":")
        axes.set_title(title)
        axes.grid(alpha=0.3)
        if len(names) > 1:
            axes.legend(fontsize=8, loc="upper left", framealpha=0.6)
    level = LINK_AT_ZERO.get(config.loss_type)
    axes = figure.axes[0]
    if level is not None:
        axes.axhline(level, color="k", lw=0.8, ls="--")
        axes.annotate("l(0)", (1, level), fontsize=8, va="bottom")
    for axes in figure.axes[2:]:
        axes.set_xlabel("step (dotted: a new opponent)")
    return figure


def _evaluation(players: dict[str, Evaluation]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3), layout="constrained")
    for axes, metric in zip(figure.subplots(1, len(METRICS)), METRICS, strict=True):
        means = [found.means[metric] for found in players.values()]
        axes.errorbar(range(len(means)), [m["mean"] for m in means], [m["error"] for m in means], marker="o", capsize=3)
        axes.set_xticks(range(len(means)), ["start", *map(str, range(len(means) - 1))])
        axes.set_title(textwrap.fill(LABELS[metric], 28), fontsize=10)
        axes.set_xlabel("iteration (bars: standard error)", fontsize=9)
        axes.grid(alpha=0.3)
    return figure


def _save(path: Path, figure: Any) -> None:
    with atomic_path(path) as aside:
        figure.savefig(aside, format="png", dpi=150)
