"""How fast is DNDM at the quality of other samplers for absorbing noise?

Every sampler works around the same exact denoiser of letter pairs (64 letters), whose expected NLL is known exactly.
On selection seeds each gets its cheapest setting whose mean NLL is within 0.03 nats of it; on other seeds the settings
are then timed in alternation. A sampler with no such setting is compared at the one that comes closest, which is said.
Writes `quality.csv` and `quality.png` beside this file.
"""

import csv
import io
import time
from importlib.metadata import version
from pathlib import Path

import peers
import torch
from common import LENGTH, MASK, chain, generator, true_nll
from dndm_sampler import DNDMSampler
from dndm_sampler.reproduce.registry import new_figure
from shared_core.benchmark import Comparison, compare
from shared_core.files import atomic_path, write_text

BATCH, TOLERANCE = 96, 0.03
STEPS = (16, 32, 64, 128, 256)
SELECTION, TIMING = (100, 101, 102), (0, 1, 2)


def dndm(denoiser: torch.nn.Module, **options: object) -> peers.Sample:
    """Ours; `steps` is the call budget, or T."""

    def sample(batch: int, steps: int, seed: int) -> tuple[torch.Tensor, int]:
        settings = options or {"num_calls": steps}
        sampler = DNDMSampler(denoiser, mask_token_id=MASK, **{"num_steps": steps, **settings})  # type: ignore[arg-type]
        out = sampler.sample(batch, LENGTH, generator=generator(seed))
        return out.sequences, out.nfe

    return sample


def run() -> list[Comparison]:
    denoiser, uniform = chain("absorbing"), chain("multinomial")
    samplers = {
        "DNDM": dndm(denoiser, method="dndm"),
        "DNDM, call budget": dndm(denoiser),
        "caching sampler of mdlm (re-implemented)": peers.caching(denoiser),
        f"flow_matching {version('flow_matching')} Euler solver": peers.euler(denoiser),
        f"diffusers {version('diffusers')} AmusedScheduler, random order": peers.amused(denoiser, (1e4, 1e4)),
        f"diffusers {version('diffusers')} DiscreteDDIMScheduler (uniform noise)": peers.discrete_ddim(uniform),
    }
    rows = [_quality(name, sample, steps, denoiser) for name, sample in samplers.items() for steps in STEPS]
    amused = peers.amused(denoiser, (2, 0))
    rows += [_quality("diffusers AmusedScheduler, as shipped", amused, steps, denoiser) for steps in STEPS[:3]]
    _write(rows, true_nll(denoiser))
    mine = min((_cheapest(rows, name) for name in list(samplers)[:2]), key=lambda row: row["seconds"])
    results = []
    for name in list(samplers)[2:]:
        theirs = _cheapest(rows, name)
        pair: list[list[float]] = [[], []]
        for seed in TIMING:
            for times, row in zip(pair, (mine, theirs), strict=True):
                start = time.perf_counter()
                samplers[row["sampler"]](BATCH, row["steps"], seed)
                times.append(time.perf_counter() - start)
        gaps = f"NLL gaps {mine['gap']:+.3f} and {theirs['gap']:+.3f}, "
        gaps += f"{mine['calls']:.0f} and {theirs['calls']:.0f} evaluations"
        question = f"time to samples within {TOLERANCE} nats a letter of the data law: {gaps}"
        results.append(compare("equal-quality", question, name, pair[0], pair[1],
                               same_result=max(abs(mine["gap"]), abs(theirs["gap"])) <= TOLERANCE))  # fmt: skip
    return results


def _quality(name: str, sample: peers.Sample, steps: int, denoiser: torch.nn.Module) -> dict[str, object]:
    truth = true_nll(denoiser)  # type: ignore[arg-type]
    nll, calls, seconds = [], [], []
    for seed in SELECTION:
        start = time.perf_counter()
        x, made = sample(BATCH, steps, seed)
        seconds.append(time.perf_counter() - start)
        nll.append(float(denoiser.nll(x).mean()))  # type: ignore[operator]
        calls.append(made)
    gap = sum(nll) / len(nll) - truth
    return {"sampler": name, "steps": steps, "calls": sum(calls) / len(calls), "gap": gap,
            "seconds": sum(seconds) / len(seconds)}  # fmt: skip


def _cheapest(rows: list[dict[str, object]], name: str) -> dict[str, object]:
    own = [row for row in rows if row["sampler"] == name]
    good = [row for row in own if abs(row["gap"]) <= TOLERANCE]  # type: ignore[arg-type]
    if good:
        return min(good, key=lambda row: row["seconds"])  # type: ignore[arg-type,return-value]
    return min(own, key=lambda row: abs(row["gap"]))  # type: ignore[arg-type]


def _write(rows: list[dict[str, object]], truth: float) -> None:
    here = Path(__file__).parent
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows([{k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()} for row in rows])
    write_text(here / "quality.csv", text.getvalue())
    figure, axes = new_figure(
        "Quality against time, exact denoiser, 64 letters", "seconds", "NLL minus truth, nats", "x"
    )
    for name in dict.fromkeys(row["sampler"] for row in rows):
        points = [row for row in rows if row["sampler"] == name]
        axes.plot([p["seconds"] for p in points], [p["gap"] for p in points], "o-", label=name, markersize=4)
    axes.axhspan(-TOLERANCE, TOLERANCE, color="k", alpha=0.1)
    axes.legend(fontsize=6)
    with atomic_path(here / "quality.png") as aside:
        figure.savefig(aside, format="png", dpi=110)
