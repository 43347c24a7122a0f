"""What does the sampler add to a denoiser of 5 ms? The goal is at most 5 %, 0.25 ms."""

import time

import torch
from common import LENGTH, generator
from dndm_sampler import DNDMSampler
from shared_core.benchmark import Comparison, compare

COST, VOCAB, BATCH = 0.005, 256, 8


def run() -> list[Comparison]:
    torch.set_num_threads(1)
    logits = torch.randn(BATCH, LENGTH, VOCAB, generator=generator(0))
    inside = [0.0]

    def denoiser(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        start = time.perf_counter()
        while time.perf_counter() - start < COST:  # busy, as a network on this core would be
            pass
        inside[0] += time.perf_counter() - start
        return logits[: len(x)]

    sampler = DNDMSampler(denoiser, mask_token_id=VOCAB, num_steps=1000)
    added, calls = [], 0
    for seed in range(8):
        inside[0] = 0.0
        start = time.perf_counter()
        out = sampler.sample(BATCH, LENGTH, generator=generator(seed))
        total = time.perf_counter() - start
        calls = out.nfe
        if seed:  # the first run warms up
            added.append((total - inside[0]) / inside[0])
    question = f"sampler overhead beside a 5 ms denoiser, batch {BATCH}, N = {LENGTH}, V = {VOCAB}, {calls} evaluations"
    return [compare("overhead", question, "the goal: 5 %", added, [0.05] * len(added), unit="share", same_result=True)]
