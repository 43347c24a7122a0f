"""Claims about whole laws, by listing every sequence of a three-letter Markov chain of length 4."""

from collections.abc import Callable
from functools import partial

import numpy as np
from shared_core.claims import Context, Measurement
from torch import Tensor

from dndm_sampler.enumeration import ExactProblem, NoiseName, exact_problem, markov_chain_law, total_variation
from dndm_sampler.reproduce.registry import claims, new_figure
from dndm_sampler.schedule import TransitionSchedule

LINEAR = TransitionSchedule("linear")
SCHEDULES = ("linear", "cosine", "cosine2", "beta:5,3")


def reference_problem(noise: NoiseName) -> ExactProblem:
    """A chain with strong dependence: the product of its marginals is 0.697 away from it in total variation."""
    rng = np.random.default_rng(1)
    transition = rng.dirichlet([0.3] * 3, size=3)
    initial = rng.dirichlet([1.0] * 3)
    return exact_problem(markov_chain_law(initial.tolist(), transition.tolist(), 4), noise)


def _steps(context: Context) -> tuple[int, ...]:
    return context.at((1, 4), (1, 2, 4, 8, 16, 64), (1, 2, 4, 8, 16, 64, 256))


def _laws(context: Context) -> dict[str, dict[int, float]]:
    """TV to the data for every sampler and T, shared by the claims below."""

    def make() -> dict[str, dict[int, float]]:
        absorbing, uniform = reference_problem("absorbing"), reference_problem("multinomial")
        laws: dict[str, Callable[[TransitionSchedule, int], Tensor]] = {
            "absorbing DNDM": absorbing.dndm,
            "absorbing D3PM": absorbing.ancestral,
            "uniform D3PM": uniform.ancestral,
            "uniform DNDM": uniform.dndm,
            "uniform DNDM + LOO": partial(uniform.dndm, loo=True),
            "uniform DNDM version 2": partial(uniform.dndm, refresh=True),
        }
        return {
            name: {T: total_variation(absorbing.data, law(LINEAR, T)) for T in _steps(context)}
            for name, law in laws.items()
        }

    return context.memo("exact laws", make)


@claims.add(
    "absorbing-law",
    statement="Skipping the calls between transition times does not change what is generated: with absorbing noise "
    "DNDM has the law of step-by-step sampling.",
    where="abstract (same quality); Algorithm 1",
    quantity="largest total variation between the laws of DNDM and D3PM, over schedules and T",
    expected="< 1e-12",
)
def absorbing_law(context: Context) -> Measurement:
    """DNDM with all T^N time vectors listed (T <= 4) and by recursion (beyond), against D3PM's transition matrices."""
    problem = reference_problem("absorbing")
    distances = []
    for name in SCHEDULES:
        schedule = TransitionSchedule.parse(name)
        distances.append(total_variation(problem.dndm_by_times(schedule, 3), problem.ancestral(schedule, 3)))
        distances += [
            total_variation(problem.dndm(schedule, T), problem.ancestral(schedule, T)) for T in _steps(context)[:5]
        ]
    laws = _laws(context)
    figure, axes = new_figure("Distance to the data law (exact)", "steps T", "total variation", log="x")
    styles = {"absorbing D3PM": "k--", "uniform D3PM": "C3--"}
    for label, values in laws.items():
        axes.plot(list(values), list(values.values()), styles.get(label, "o-"), label=label, markersize=4)
    axes.legend(fontsize=8)
    return Measurement(
        max(distances),
        holds=max(distances) < 1e-12,
        note=f"exact; schedules {', '.join(SCHEDULES)}; T up to {max(_steps(context)[:5])}; our proof, not the paper's",
        figures=(context.save_figure("exact-laws", figure),),
    )


@claims.add(
    "continuous-law",
    statement="With infinitely many steps (DNDM-C) nothing is lost: N calls reproduce the data law of an exact "
    "denoiser with absorbing noise.",
    where="infinite-step results (Tables: rows with infinitely many steps)",
    quantity="total variation to the data law with 4 calls for 4 positions",
    expected="< 1e-12",
)
def continuous_law(context: Context) -> Measurement:
    """DNDM-C against the data; the finite-T distance beside it."""
    problem = reference_problem("absorbing")
    distance = total_variation(problem.data, problem.continuous())
    finite = _laws(context)["absorbing DNDM"]
    last = max(finite)
    return Measurement(
        distance, holds=distance < 1e-12, note=f"exact; at T = {last} the distance is still {finite[last]:.3f}"
    )


@claims.add(
    "multinomial-law",
    statement="With multinomial noise, too, DNDM is as good as step-by-step sampling.",
    where="tables of multinomial diffusion (quality equal or better)",
    quantity="total variation to the data law: DNDM minus D3PM, same T, exact denoiser, sampled tokens",
    expected="< 0.01",
)
def multinomial_law(context: Context) -> Measurement:
    """The bias of Algorithm 1 with sampled tokens: the network cannot tell a leftover noise token from a clean one."""
    laws, last = _laws(context), max(_steps(context))
    values = {name.removeprefix("uniform "): laws[name][last] for name in laws if name.startswith("uniform")}
    gap = values["DNDM"] - values["D3PM"]
    return Measurement(
        gap,
        holds=gap < 0.01,
        note=f"exact, T = {last}: D3PM {values['D3PM']:.3f}, DNDM {values['DNDM']:.3f}, with leave-one-out correction "
        f"{values['DNDM + LOO']:.3f}, version 2 {values['DNDM version 2']:.3f}. The bias does not vanish as T grows: "
        "the denoiser takes noise left at small t for data. thinned_ancestral is the exact alternative.",
    )
