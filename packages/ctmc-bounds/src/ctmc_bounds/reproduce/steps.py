"""How the error falls with the step size, and with the schedule."""

from shared_core.claims import Context, Measurement

from ctmc_bounds import figures
from ctmc_bounds.certified import certified_bound
from ctmc_bounds.girsanov import girsanov_terms
from ctmc_bounds.local_error import optimal_schedule
from ctmc_bounds.marginals import Marginals
from ctmc_bounds.reproduce.registry import DELTA, EXACT, T, base_laws, claims, grid, kl_of, slopes
from ctmc_bounds.samplers import TimeFrozen
from ctmc_bounds.schedules import constant


def _steps(context: Context) -> list[int]:
    return context.at([32, 64], [16, 32, 64, 128], [16, 32, 64, 128, 256, 512, 1024])


def _orders(context: Context, sampler: str) -> dict[str, list[float]]:
    laws = {name: law for name, law in base_laws(context).items() if name != "two-point6"}
    return context.memo(
        ("orders", sampler),
        lambda: {name: [kl_of(sampler, law, grid(N)) for N in _steps(context)] for name, law in laws.items()},
    )


@claims.add(
    "step-size",
    statement="The discretisation error of the discrete-time scheme is of order h^2 in KL.",
    where="Abstract (claim 2); the power h^2 from secondary sources",
    quantity="log2 of KL(N) / KL(2N) at the last doubling, by data law",
    expected="between 1.9 and 2.1 for every law",
)
def step_size(context: Context) -> Measurement:
    """Exact KL of the paper's sampler on exp_const grids, from q_T."""
    steps = _steps(context)
    found = _orders(context, "paper")
    mid = _orders(context, "midpoint")
    last = {name: -slopes(steps, values)[-1] for name, values in found.items()}
    laws = base_laws(context)
    panels = {}
    for name, values in found.items():
        bound = [girsanov_terms(laws[name], TimeFrozen(grid(N)), init="exact").total for N in steps]
        closed = [certified_bound(grid(N), Marginals(laws[name]), "exact").total for N in steps]
        panels[name] = {
            "paper": (steps, values), "midpoint (ours)": (steps, mid[name]), "(G) Girsanov": (steps, bound),
            "(C) certified": (steps, closed),
        }  # fmt: skip
    picture = figures.panels_figure(
        panels, "intervals N", "KL(q_delta || generated)", dashed=["(G) Girsanov", "(C) certified"]
    )
    note = f"{EXACT} T = {T:g}, delta = {DELTA:g}, N = {steps}, start q_T. KL at the first N: " + ", ".join(
        f"{name} {values[0]:.5g}" for name, values in found.items()
    )
    holds = all(1.9 <= order <= 2.1 for order in last.values())
    return Measurement(last, holds, note=note, figures=(context.save_figure("step-size", picture),))


@claims.add(
    "midpoint-order",
    statement="Taking the score in the middle of each interval costs the same calls and gives order h^4 in KL.",
    where="Ours, not in the paper",
    quantity="log2 of KL(N) / KL(2N) at the last doubling, by data law",
    expected="between 3.8 and 4.2 for every law",
)
def midpoint_order(context: Context) -> Measurement:
    """Exact KL of the midpoint sampler."""
    last = {name: -slopes(_steps(context), values)[-1] for name, values in _orders(context, "midpoint").items()}
    holds = all(3.8 <= order <= 4.2 for order in last.values())
    return Measurement(last, holds, note=f"{EXACT} Same grids as step-size.")


@claims.add(
    "schedules",
    statement="Steps that shrink with the noise level serve better than equal ones (reviewers: adaptive step sizes);"
    " steps proportional to c(t)^(-1/3) serve best.",
    where="Reviews of pq1WUegkza; the optimal grid is ours",
    quantity="KL at N = 64: constant / exp_const, and exp_const / optimal, smallest over laws",
    expected="both > 1",
)
def schedules(context: Context) -> Measurement:
    """Three grids with the same N."""
    N = context.at(32, 64, 64)
    rows = {}
    for name, law in base_laws(context).items():
        grids = {"constant": constant(T, DELTA, N), "exp_const": grid(N), "optimal": optimal_schedule(law, T, DELTA, N)}
        rows[name] = {kind: kl_of("paper", law, schedule) for kind, schedule in grids.items()}
    gain = {
        "constant / exp_const": min(row["constant"] / row["exp_const"] for row in rows.values()),
        "exp_const / optimal": min(row["exp_const"] / row["optimal"] for row in rows.values()),
    }
    picture = figures.bars_figure(rows, f"KL of the paper's sampler, N = {N}")
    text = "; ".join(f"{name}: " + ", ".join(f"{k} {v:.4g}" for k, v in row.items()) for name, row in rows.items())
    return Measurement(
        gain,
        min(gain.values()) > 1,
        note=f"{EXACT} {text}.",
        figures=(context.save_figure("schedules", picture),),
    )
