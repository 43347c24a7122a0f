"""Figures of a run, and a page of text around them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from shared_core.files import atomic_path, write_text
from shared_core.logging import MetricsLog
from shared_core.run_folder import read_json

from spin_diffusion.config import SPINConfig
from spin_diffusion.losses import LINK_AT_ZERO, effective_beta
from spin_diffusion.metrics import win_rate
from spin_diffusion.opponents import read_opponents
from spin_diffusion.pipelines import Parts
from spin_diffusion.self_play import Iteration
from spin_diffusion.training_set import TrainingSet

GRID = 8  # held-out prompts that are shown


def write_report(
    folder: Path,
    parts: Parts,
    config: SPINConfig,
    iterations: Sequence[Iteration],
    shape: tuple[int, ...],
    held_out: TrainingSet | None,
) -> str:
    """`report.md` with `figures/`; returns the report's path. `shape` is that of a latent."""
    import matplotlib

    matplotlib.use("Agg", force=False)
    figures = [_training(folder, iterations)]
    lines = ["# Self-play", "", *_table(folder, iterations), "", _legend(config, held_out is not None), ""]
    if held_out is not None:
        figures.append(_players(folder, iterations))
        figures.append(_grid(folder, parts, iterations, held_out))
        rates = _win_rates(folder, iterations)
        if rates:
            figures.append(_bars(folder, rates))
    lines += [f"![{Path(figure).stem}]({figure})\n" for figure in figures]
    lines += [_about_beta(config, torch.Size(shape).numel()), ""]
    write_text(folder / "report.md", "\n".join(lines))
    return str(folder / "report.md")


def _legend(config: SPINConfig, judged: bool) -> str:
    text = (
        "theta_0 is the player that the run began with, theta_k the one after k iterations. `loss` is that of the last "
        f"update; it starts at {LINK_AT_ZERO[config.link]:.4g} in every iteration and says little of the images."
    )
    if judged:
        text += (
            " Lower is better for `frechet`, `kernel` and `held-out error`, all measured on the held-out images. "
            "`held-out accuracy` is how often these are told from the opponent's samples: near 0.5 there is nothing "
            "left to learn from this opponent, near 1 it is easily told."
        )
    return text


def _about_beta(config: SPINConfig, elements: int) -> str:
    """What the strength of the pull to the opponent was, in words."""
    betas = [f"{config.beta_at(number):g}" for number in range(config.iterations)]
    told = f"beta was {betas[0]}" if len(set(betas)) == 1 else f"beta was {', '.join(betas)} in turn"
    if config.objective == "trajectory":
        return f"{told}: the paper's lambda, which multiplies summed errors."
    halved = config.beta_convention == "salesforce"
    told += ", of which one half counts (`beta_convention: salesforce`)" if halved else ""
    if config.weighting != "constant":
        told += f", times a weight of each timestep (`{config.weighting}`, mean 1)"
    each = effective_beta(config.beta_at(0), config.beta_convention) / elements
    return (
        f"{told}. It multiplies an error averaged over the {elements} numbers of a latent, so that each of them counts "
        f"{each:.3g} (in the first iteration). A run on latents of another size has the same pull to the "
        "opponent if its beta is larger by as much as the latents are."
    )


def _table(folder: Path, iterations: Sequence[Iteration]) -> list[str]:
    start = {"held-out error": iterations[0].held_out.get("start_error")}
    rows: list[dict[str, Any]] = [{"player": "theta_0", "loss": None, **start, **_flat(_start(folder))}]
    for item in iterations:
        row = {"player": f"theta_{item.number + 1}", "loss": item.last.get("loss")}
        row |= {
            "held-out error": item.held_out.get("error"),
            "held-out accuracy": item.held_out.get("implicit_accuracy"),
        }
        rows.append(row | _flat(item.evaluation))
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[row.get(name) for name in names] for row in rows]
    text = [["" if v is None else v if isinstance(v, str) else f"{v:.4g}" for v in line] for line in cells]
    return ["| " + " | ".join(line) + " |" for line in [names, ["---"] * len(names), *text]]


def _flat(evaluation: dict[str, Any]) -> dict[str, Any]:
    means = {name: value["mean"] for name, value in evaluation.get("score_summary", {}).items()}
    return {**evaluation.get("distances", {}), **means}


def _start(folder: Path) -> dict[str, Any]:
    path = folder / "start" / "evaluation.json"
    return dict(read_json(path)) if path.exists() else {}


def _training(folder: Path, iterations: Sequence[Iteration]) -> str:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(12, 3.2))
    offset = 0
    for item in iterations:
        rows = MetricsLog(folder / f"iter_{item.number}" / "metrics.jsonl").read()
        steps = [offset + row["step"] for row in rows]
        axes[0].plot(steps, [row["loss"] for row in rows], color=f"C{item.number % 10}")
        for name, style in (("d_real", "-"), ("d_fake", "--")):
            label = name if item.number == 0 else None
            axes[1].plot(steps, [row[name] for row in rows], style, color=f"C{item.number % 10}", label=label)
        axes[2].plot(steps, [row["implicit_accuracy"] for row in rows], color=f"C{item.number % 10}")
        offset += len(rows)
    axes[1].axhline(0, color="0.6", lw=0.8)
    axes[1].legend()
    for axis, title in zip(axes, ("loss", "error minus the opponent's", "implicit accuracy"), strict=True):
        axis.set(xlabel="update", title=title)
    return _save(folder, "training", figure)


def _players(folder: Path, iterations: Sequence[Iteration]) -> str:
    import matplotlib.pyplot as plt

    found = [_flat(_start(folder)), *(_flat(item.evaluation) for item in iterations)]
    error = [iterations[0].held_out["start_error"], *(item.held_out["error"] for item in iterations)]
    names = [name for name in found[0] if all(name in row for row in found)]
    figure, axes = plt.subplots(1, 1 + len(names), figsize=(3 * (1 + len(names)), 3), squeeze=False)
    for axis, name, values in zip(
        axes[0], ["held-out error", *names], [error, *([row[name] for row in found] for name in names)], strict=True
    ):
        axis.plot(range(len(values)), values, "o-")
        axis.set(xlabel="player", title=name.replace("_", " "), xticks=range(len(values)))
    return _save(folder, "players", figure)


def _grid(folder: Path, parts: Parts, iterations: Sequence[Iteration], held_out: TrainingSet) -> str:
    """The same prompts and seeds for every player, real images in the first row."""
    import matplotlib.pyplot as plt

    shown = list(range(min(GRID, len(held_out))))
    players = [("theta_0", folder / "start")]
    players += [(f"theta_{item.number + 1}", folder / f"iter_{item.number}") for item in iterations]
    rows = [("real", held_out.latents.take(shown))]
    rows += [(name, read_opponents(place / "held_out").take(shown)) for name, place in players]
    figure, axes = plt.subplots(len(rows), len(shown), figsize=(1.3 * len(shown), 1.4 * len(rows)), squeeze=False)
    for number, (line, (name, latents)) in enumerate(zip(axes, rows, strict=True)):
        images = parts.decode(latents)
        for column, (axis, image) in enumerate(zip(line, images, strict=True)):
            axis.imshow(image.permute(1, 2, 0).squeeze(-1).numpy(), cmap="gray", vmin=0, vmax=1)
            axis.set(xticks=[], yticks=[])
            if column == 0:
                axis.set_ylabel(name)
            if number == 0 and held_out.prompts:
                axis.set_title(held_out.prompts[int(held_out.prompt_of[column])][:18], fontsize=6)
    return _save(folder, "samples", figure)


def _win_rates(folder: Path, iterations: Sequence[Iteration]) -> dict[str, list[Any]]:
    start = _start(folder).get("scores", {})
    return {
        name: [win_rate(item.evaluation["scores"][name], base) for item in iterations]
        for name, base in start.items()
        if all(name in item.evaluation.get("scores", {}) for item in iterations)
    }


def _bars(folder: Path, rates: dict[str, list[Any]]) -> str:
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(1.5 + 1.8 * len(rates), 3))
    count = max(map(len, rates.values()))
    for number in range(count):
        estimates = [values[number] for values in rates.values()]
        places = [index + 0.8 * (number - (count - 1) / 2) / count for index in range(len(rates))]
        spread = [[e.value - e.low for e in estimates], [e.high - e.value for e in estimates]]
        axis.bar(places, [e.value for e in estimates], 0.7 / count, yerr=spread, label=f"theta_{number + 1}")
    axis.axhline(0.5, color="0.4", lw=0.8)
    axis.set(xticks=range(len(rates)), xticklabels=list(rates), ylim=(0, 1), title="win rate over theta_0 (95 %)")
    axis.legend()
    return _save(folder, "win_rates", figure)


def _save(folder: Path, name: str, figure: Any) -> str:
    import matplotlib.pyplot as plt

    figure.tight_layout()
    with atomic_path(folder / "figures" / f"{name}.png") as aside:
        figure.savefig(aside, format="png", dpi=130, metadata={"Software": None})
    plt.close(figure)
    return f"figures/{name}.png"
