"""Claims about the number of network calls."""

import time
from typing import Any

import torch
from shared_core.claims import Context, Measurement

from dndm_sampler.nfe import BatchTimes, expected_nfe, nfe_bound, nfe_distribution
from dndm_sampler.reproduce.registry import claims, new_figure
from dndm_sampler.sampler import DNDMSampler
from dndm_sampler.schedule import TransitionSchedule
from dndm_sampler.transition_times import count_times, discrete_times

SCHEDULES = ("linear", "cosine", "cosine2", "beta:5,3", "beta:17,4", "beta:100,4")


def _uniform_logits(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    return torch.zeros(*x.shape, 4, device=x.device)


@claims.add(
    "expected-calls",
    statement="The number of calls is the number of distinct transition times, whose expectation is "
    "sum_t [1 - (1 - p_t)^N], at most T [1 - (1 - 1/T)^N].",
    where="theorem on the number of function evaluations",
    quantity="largest |simulated mean - formula| in standard errors, over schedules, T and N",
    expected="< 4.5, and no schedule above the bound",
)
def expected_calls(context: Context) -> Measurement:
    """Simulated means for six schedules; 4.5 standard errors leave one false alarm in some 10^4 runs."""
    rows = context.at(200, 4000, 20000)
    generator = torch.Generator().manual_seed(context.seed)
    deviations, above = [], 0
    for name in SCHEDULES:
        schedule = TransitionSchedule.parse(name)
        for T, N in ((25, 24), (50, 24), (1000, 24), (1000, 256)):
            tau = discrete_times(schedule.alphas(T), torch.rand(rows, N, generator=generator, dtype=torch.float64))
            counts = count_times(tau).double()
            mean = expected_nfe(schedule, T, N)
            deviations.append(abs(float(counts.mean()) - mean) / max(float(counts.std()) / rows**0.5, 1e-12))
            above += mean > nfe_bound(T, N) + 1e-9
    figure, axes = new_figure("Law of the transition time (T = 50)", "t", "P(tau = t)")
    for name in SCHEDULES[:-1]:
        axes.plot(range(1, 51), TransitionSchedule.parse(name).pmf(50), label=name)
    axes.legend(fontsize=8)
    return Measurement(
        max(deviations),
        holds=max(deviations) < 4.5 and above == 0,
        note=f"{len(deviations)} settings of {rows} rows each; none above the bound" if not above else f"{above} above",
        figures=(context.save_figure("transition-laws", figure),),
    )


@claims.add(
    "calls-of-a-batch",
    statement="Ours, not the paper's: rows that each stand at their own next time need about as many calls as one "
    "row, where rows that move in step need their times' union.",
    where="derived: exact law of the number of distinct times (see the README)",
    quantity="largest |simulated mean - exact law| in standard errors, over batch modes, B = 16, N = 64, T = 1000",
    expected="< 4.5",
)
def calls_of_a_batch(context: Context) -> Measurement:
    """Own times, one set of times, and own times in step, against the exact law of the number of calls."""
    batches, rows, N, T = context.at(40, 400, 4000), 16, 64, 1000
    linear = TransitionSchedule("linear")
    uniforms = torch.rand(batches * rows, N, generator=torch.Generator().manual_seed(context.seed), dtype=torch.float64)
    tau = discrete_times(linear.alphas(T), uniforms)
    counts: dict[BatchTimes, torch.Tensor] = {
        "per_row": count_times(tau).view(batches, rows).amax(1),
        "shared": count_times(tau).view(batches, rows)[:, 0],
        "lockstep": count_times(tau.view(batches, rows * N)),
    }
    laws = {mode: nfe_distribution(linear, T, N, rows, mode) for mode in counts}
    deviations = {
        mode: abs(float(found.double().mean()) - laws[mode].mean) / (laws[mode].std / batches**0.5)
        for mode, found in counts.items()
    }
    means = ", ".join(f"{mode} {law.mean:.2f}" for mode, law in laws.items())
    worst = max(deviations.values())
    return Measurement(worst, holds=worst < 4.5, note=f"{batches} batches; exact mean number of calls: {means}")


@claims.add(
    "calls-made",
    statement="The network is called exactly at the distinct transition times.",
    where="Algorithm 1",
    quantity="calls made / distinct transition times, over batch modes, noises and variants",
    expected="= 1",
)
def calls_made(context: Context) -> Measurement:
    """Counts the calls that reach the denoiser, not what the sampler reports."""
    ratios = []
    variants: list[dict[str, Any]] = [{}, {"version": 2}, {"top_k": True}, {"batch_times": "shared"}]
    variants.append({"num_steps": None})
    for seed in range(3):
        for options in variants:
            made: list[int] = []

            def counting(x: torch.Tensor, t: torch.Tensor, made: list[int] = made) -> torch.Tensor:
                made.append(len(x))
                return _uniform_logits(x, t)

            sampler = DNDMSampler(counting, mask_token_id=4, **{"num_steps": 1000, **options})
            out = sampler.sample(8, 32, generator=torch.Generator().manual_seed(seed), device=context.device)
            assert out.transition_times is not None
            distinct = count_times(out.transition_times)
            ratios += [len(made) / int(distinct.max()), sum(made) / int(distinct.sum())]
    worst = max(ratios, key=lambda ratio: abs(ratio - 1))
    return Measurement(worst, holds=worst == 1, note=f"{len(ratios) // 2} runs; calls and rows both counted")


@claims.add(
    "flat-in-steps",
    statement="Calls and time hardly grow with the number of steps T, where step-by-step sampling grows linearly.",
    where="abstract; figure of time against steps",
    quantity="calls at T = 1000 / calls at T = 50 (24 positions)",
    expected="< 1.5 for DNDM, where step-by-step sampling has 20",
)
def flat_in_steps(context: Context) -> Measurement:
    """The mean number of calls against T; wall time of both samplers around a denoiser of fixed cost."""
    steps = context.at((10, 50, 250), (10, 50, 250, 1000), (10, 50, 250, 1000))
    linear = TransitionSchedule("linear")

    def busy(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        time.sleep(context.at(0.0, 0.001, 0.005))
        return _uniform_logits(x, t)

    seconds: dict[str, list[float]] = {"dndm": [], "ancestral": []}
    for method, found in seconds.items():
        for T in steps:
            sampler = DNDMSampler(busy, mask_token_id=4, num_steps=T, method=method)  # type: ignore[arg-type]
            start = time.perf_counter()
            sampler.sample(1, 24, generator=torch.Generator().manual_seed(context.seed))
            found.append(time.perf_counter() - start)
    figure, axes = new_figure("One row of 24 positions, a denoiser of fixed cost", "steps T", "seconds", log="xy")
    for method, values in seconds.items():
        axes.plot(steps, values, "o-", label=method)
    axes.legend()
    growth = expected_nfe(linear, 1000, 24) / expected_nfe(linear, 50, 24)
    return Measurement(
        growth,
        holds=growth < 1.5,
        note=f"exact expectation; in the figure, from T = {steps[1]} to {steps[-1]}, wall time grew "
        f"{seconds['dndm'][-1] / seconds['dndm'][1]:.1f}x for DNDM and "
        f"{seconds['ancestral'][-1] / seconds['ancestral'][1]:.1f}x for step-by-step sampling (one run each)",
        figures=(context.save_figure("time-against-steps", figure),),
    )
