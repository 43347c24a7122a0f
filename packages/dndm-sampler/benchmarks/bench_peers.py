"""How fast is DNDM at the quality of other samplers for absorbing noise?

Every sampler works around the same exact denoiser of letter pairs (64 letters), whose expected NLL is known exactly.
On selection seeds each gets its cheapest setting whose mean NLL is within 0.015 nats of it. On other seeds these
settings are timed in alternation, and the samples so made must be within 0.03 nats to count as the same result.
Writes `quality.csv` and `quality.png` (selection seeds) beside this file.
"""

import csv
import io
import statistics
import time
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import peers
import torch
from common import LENGTH, MASK, Denoiser, chain, generator, mean_nll, plain, true_nll
from dndm_sampler import DNDMSampler
from dndm_sampler.reproduce.registry import log_scale
from matplotlib.figure import Figure
from shared_core.benchmark import Comparison, compare
from shared_core.files import atomic_path, write_text

BATCH, SELECT_WITHIN, EQUAL_WITHIN = 128, 0.015, 0.03
STEPS = (16, 32, 48, 64, 96, 128, 192)
SELECTION, TIMING = (100, 101, 102, 103, 104), (0, 1, 2, 3, 4)


class Point(NamedTuple):
    """A sampler at one setting: the averages over the selection seeds."""

    sampler: str
    steps: int
    calls: float
    rows: int
    gap: float
    seconds: float


def dndm(denoiser: Denoiser, budget: bool) -> peers.Sample:
    """Ours; `steps` is the call budget, or T."""

    def sample(batch: int, steps: int, seed: int) -> tuple[torch.Tensor, int]:
        amount = {"num_calls": steps} if budget else {"num_steps": steps}
        sampler = DNDMSampler(denoiser, mask_token_id=MASK, **amount)
        out = sampler.sample(batch, LENGTH, generator=generator(seed))
        return out.sequences, out.nfe

    return sample


def run() -> list[Comparison]:
    model = chain("absorbing")
    denoiser, truth = plain(model), true_nll(model)
    ours = {"DNDM": dndm(denoiser, budget=False), "DNDM, call budget": dndm(denoiser, budget=True)}
    diffusers = f"diffusers {version('diffusers')}"
    others = {
        "caching sampler of mdlm (re-implemented)": peers.caching(denoiser),
        f"flow_matching {version('flow_matching')} MixtureDiscreteEulerSolver": peers.euler(denoiser),
        f"{diffusers} AmusedScheduler, random order": peers.amused(denoiser, (1e4, 1e4)),
        f"{diffusers} DiscreteDDIMScheduler (uniform noise)": peers.discrete_ddim(plain(chain("multinomial"))),
    }
    shipped = {f"{diffusers} AmusedScheduler, as shipped": peers.amused(denoiser, (2, 0))}

    def point(name: str, sample: peers.Sample, steps: int) -> Point:
        sample(BATCH, 2, 0)  # warms up
        found = [_timed(sample, steps, seed) for seed in SELECTION]
        gap = statistics.mean(mean_nll(model, x) for x, _, _ in found) - truth
        calls = statistics.mean(calls for _, calls, _ in found)
        return Point(name, steps, calls, BATCH, gap, statistics.median(seconds for _, _, seconds in found))

    points = [point(name, sample, steps) for name, sample in (ours | others).items() for steps in STEPS]
    points += [point(name, sample, steps) for name, sample in shipped.items() for steps in STEPS[:4]]
    _write(points)
    mine = min((_cheapest(points, name) for name in ours), key=lambda point: point.seconds)
    results = []
    for name in others:
        settings = (mine, _cheapest(points, name))
        seconds: tuple[list[float], list[float]] = ([], [])
        nll: tuple[list[float], list[float]] = ([], [])
        for seed in TIMING:
            for side, setting in enumerate(settings):
                x, _, took = _timed((ours | others)[setting.sampler], setting.steps, seed)
                seconds[side].append(took)
                nll[side].append(mean_nll(model, x))
        gaps = [statistics.mean(values) - truth for values in nll]
        question = (
            f"time to samples of the data's likelihood, batch {BATCH}: NLL {gaps[0]:+.3f} (ours, {mine.calls:.0f} "
            f"evaluations) and {gaps[1]:+.3f} ({settings[1].calls:.0f} evaluations) beside the data's"
        )
        same = all(abs(gap) <= EQUAL_WITHIN for gap in gaps)
        results.append(compare("equal-quality", question, name, *seconds, same_result=same))
    return results


def _timed(sample: peers.Sample, steps: int, seed: int) -> tuple[torch.Tensor, int, float]:
    start = time.perf_counter()
    x, calls = sample(BATCH, steps, seed)
    return x, calls, time.perf_counter() - start


def _cheapest(points: list[Point], name: str) -> Point:
    """The quickest setting that is good enough, or the best one where none is."""
    own = [point for point in points if point.sampler == name]
    good = [point for point in own if abs(point.gap) <= SELECT_WITHIN]
    if good:
        return min(good, key=lambda point: point.seconds)
    return min(own, key=lambda point: abs(point.gap))


def _write(points: list[Point]) -> None:
    here = Path(__file__).parent
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(Point._fields)
    writer.writerows([round(value, 4) if isinstance(value, float) else value for value in point] for point in points)
    write_text(here / "quality.csv", text.getvalue())
    figure = Figure(figsize=(10, 4.8), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, key, label in zip(
        panels, ("calls", "seconds"), ("network evaluations", f"seconds a batch of {BATCH}"), strict=True
    ):
        for name in dict.fromkeys(point.sampler for point in points):
            own = [point for point in points if point.sampler == name]
            style = "o-" if name.startswith("DNDM") else "s--"
            axes.plot([getattr(p, key) for p in own], [p.gap for p in own], style, label=name, markersize=4)
        axes.axhspan(-SELECT_WITHIN, SELECT_WITHIN, color="k", alpha=0.1)
        log_scale(axes, "x")
        axes.set_xlabel(label)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("NLL minus the data's, nats a letter")
    figure.suptitle("Quality against cost, exact denoiser of 64 letters, absorbing noise (DiscreteDDIM: uniform)")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=7, ncols=3, loc="outside lower center")
    with atomic_path(here / "quality.png") as aside:
        figure.savefig(aside, format="png", dpi=110)
