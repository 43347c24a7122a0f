"""What does the sampler add to a denoiser of 5 ms? The goal is at most 5 %, 0.25 ms an evaluation.

The result counts as the same if every evaluation is one of the predetermined times and the tokens are those that the
same seed gives around a denoiser that costs nothing.
"""

import time

import torch
from common import LENGTH, generator
from dndm_sampler import DNDMSampler
from dndm_sampler.transition_times import count_times
from shared_core.benchmark import Comparison, compare

COST, VOCAB, BATCH, SEEDS = 0.005, 256, 8, 15


def run() -> list[Comparison]:
    logits = torch.randn(BATCH, LENGTH, VOCAB, generator=generator(0))
    inside = [0.0]

    def denoiser(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        start = time.perf_counter()
        while time.perf_counter() - start < COST:  # busy, as a network on this core would be
            pass
        inside[0] += time.perf_counter() - start
        return logits[: len(x)]

    sampler = DNDMSampler(denoiser, mask_token_id=VOCAB, num_steps=1000)
    free = DNDMSampler(lambda x, t: logits[: len(x)], mask_token_id=VOCAB, num_steps=1000)
    added, same, evaluations = [], True, 0
    for seed in range(SEEDS + 1):
        inside[0] = 0.0
        start = time.perf_counter()
        out = sampler.sample(BATCH, LENGTH, generator=generator(seed))
        total = time.perf_counter() - start
        again = free.sample(BATCH, LENGTH, generator=generator(seed))
        assert out.transition_times is not None
        same &= torch.equal(out.sequences, again.sequences)
        same &= out.nfe == int(count_times(out.transition_times).max())
        evaluations = out.nfe
        if seed:  # the first run warms up
            added.append((total - inside[0]) / inside[0])
    setting = f"batch {BATCH}, N = {LENGTH}, V = {VOCAB}, {evaluations} evaluations"
    question = f"sampler overhead as a share of a 5 ms denoiser, {setting}"
    return [compare("overhead", question, "the goal: 5 %", added, [0.05] * len(added), unit="share", same_result=same)]
