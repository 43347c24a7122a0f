"""How many calls, and how much time, does DNDM save over step-by-step sampling at T = 1000 and equal NLL?

The peer is this package's own T-step ancestral sampler: it draws tokens only where they are kept, so it is a lean one.
The result counts as the same if the mean NLL differs by less than 0.03 nats and the calls that reached the denoiser are
exactly the distinct transition times (DNDM) and T (ancestral).
"""

import time
from typing import Any

import torch
from common import LENGTH, MASK, chain, generator, mean_nll, plain
from dndm_sampler import DNDMSampler
from dndm_sampler.transition_times import count_times
from shared_core.benchmark import Comparison, compare

BATCH, STEPS, SEEDS = 192, 1000, 3


def run() -> list[Comparison]:
    model = chain("absorbing")
    runs = [(_sample(model, "dndm", seed), _sample(model, "ancestral", seed)) for seed in range(SEEDS)]
    gap = sum(ours["nll"] - theirs["nll"] for ours, theirs in runs) / SEEDS
    same = abs(gap) < 0.03 and all(run["exact"] for pair in runs for run in pair)
    setting = f"T = {STEPS}, N = {LENGTH}, batch {BATCH}, absorbing; NLL difference {gap:+.4f} nats"
    results = []
    for id, question, key, unit in (
        ("calls", f"network calls at {setting}", "calls", "calls"),
        ("wall", f"wall time at {setting}", "seconds", "s"),
    ):
        ours, theirs = ([run[key] for run in side] for side in zip(*runs, strict=True))
        results.append(compare(id, question, "T-step ancestral (D3PM)", ours, theirs, unit=unit, same_result=same))
    return results


def _sample(model: Any, method: Any, seed: int) -> dict[str, Any]:
    made = [0]

    def denoiser(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        made[0] += 1
        return model(x, t)

    DNDMSampler(plain(model), mask_token_id=MASK, num_steps=2, method=method).sample(BATCH, LENGTH)  # warms up
    sampler = DNDMSampler(denoiser, mask_token_id=MASK, num_steps=STEPS, method=method)
    start = time.perf_counter()
    out = sampler.sample(BATCH, LENGTH, generator=generator(seed))
    seconds = time.perf_counter() - start
    planned = STEPS if out.transition_times is None else int(count_times(out.transition_times).max())
    return {"seconds": seconds, "calls": float(made[0]), "nll": mean_nll(model, out.sequences),
            "exact": made[0] == planned == out.nfe}  # fmt: skip
