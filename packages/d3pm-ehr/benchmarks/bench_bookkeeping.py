"""Noising, both posteriors and their divergence, forward and backward: closed form beside one-hot log space."""

import torch
from d3pm_ehr import DiscreteDiffusion, TokenLayout, noise_schedule
from peers import LogOneHot
from shared_core.benchmark import Comparison, alternate, compare

ROWS, STEPS = 256, 50


def _case(codes: int) -> Comparison:
    abar = noise_schedule("cosine_squared", STEPS)
    ours = DiscreteDiffusion(TokenLayout([2] * codes), abar, "uniform")
    theirs = LogOneHot(abar, 2)
    g = torch.Generator().manual_seed(0)
    x0 = (torch.rand(ROWS, codes, generator=g) < 0.01).to(torch.uint8)
    t = torch.randint(2, STEPS, (ROWS,), generator=g)  # t = 1 and T are special cases of the peer's clamped tables
    logits = torch.randn(ROWS, codes, generator=g) - 3
    x_t = ours.corrupt(x0, t, g)

    def mine() -> torch.Tensor:
        noise = torch.Generator().manual_seed(1)
        noisy = ours.corrupt(x0, t, noise)
        return ours.divergence(x0, noisy, logits, t)

    def peer() -> torch.Tensor:
        noise = torch.Generator().manual_seed(1)
        log_x0 = theirs.index_to_log(x0)
        log_xt = theirs.sample(theirs.pred(log_x0, t - 1), torch.rand(log_x0.shape, generator=noise))
        return theirs.divergence(log_x0, log_xt, _log_pred(logits), t - 1)

    # the peer's form is `joint`: it is given the head that makes both the same map (mixture_to_joint)
    others = _log_pred(logits - ours.evidence(x_t, t))
    same_noise = theirs.divergence(theirs.index_to_log(x0), theirs.index_to_log(x_t), others, t - 1)
    same = torch.allclose(ours.divergence(x0, x_t, logits, t), same_noise, rtol=2e-3, atol=2e-3)
    question = f"bookkeeping of a training step, {ROWS} records of {codes} binary tokens: noise, both posteriors, KL"
    return compare(f"bookkeeping-{codes}", question, "one-hot log space (as multinomial diffusion)",
                   *alternate(mine, peer, repeats=9, warmup=2), same_result=same)  # fmt: skip


def _log_pred(logits: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.log_softmax(torch.stack([torch.zeros_like(logits), logits], 1), 1)


def run() -> list[Comparison]:
    torch.set_num_threads(1)
    return [_case(codes) for codes in (128, 512, 1116, 2000)]
