"""How many calls, and how much time, does DNDM save over step-by-step sampling at T = 1000 and equal NLL?

The peer is this package's own T-step ancestral sampler: it draws tokens only where they are kept, so it is a lean one.
"""

import time

from common import LENGTH, MASK, chain, generator
from dndm_sampler import DNDMSampler
from shared_core.benchmark import Comparison, compare

BATCH, STEPS, SEEDS = 192, 1000, 3


def run() -> list[Comparison]:
    denoiser = chain("absorbing")
    calls: dict[str, list[float]] = {"dndm": [], "ancestral": []}
    seconds: dict[str, list[float]] = {"dndm": [], "ancestral": []}
    nll: dict[str, list[float]] = {"dndm": [], "ancestral": []}
    for seed in range(SEEDS):
        for method in ("dndm", "ancestral"):
            sampler = DNDMSampler(denoiser, mask_token_id=MASK, num_steps=STEPS, method=method)  # type: ignore[arg-type]
            start = time.perf_counter()
            out = sampler.sample(BATCH, LENGTH, generator=generator(seed))
            seconds[method].append(time.perf_counter() - start)
            calls[method].append(float(out.nfe))
            nll[method].append(float(denoiser.nll(out.sequences).mean()))
    gap = abs(sum(nll["dndm"]) - sum(nll["ancestral"])) / SEEDS
    peer = "T-step ancestral (D3PM)"
    question = f"network {{}} at T = {STEPS}, N = {LENGTH}, batch {BATCH}, absorbing; NLL difference {gap:.4f} nats"
    return [
        compare("calls", question.format("calls"), peer, calls["dndm"], calls["ancestral"], unit="calls",
                same_result=gap < 0.03),
        compare("wall", question.format("time"), peer, seconds["dndm"], seconds["ancestral"], same_result=gap < 0.03),
    ]  # fmt: skip
