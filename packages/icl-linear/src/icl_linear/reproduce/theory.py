"""Claims that closed forms decide: no training, no Monte Carlo but for the inputs of ridge."""

from itertools import product

import torch
from shared_core.claims import Context, Measurement

from icl_linear import figures
from icl_linear.attention_risk import excess_risk, infinite_context_floor, minimal_risk, risk
from icl_linear.bound import (
    attention_rate,
    bayes_factor,
    bayes_factor_limit,
    ridge_rate,
    task_bound,
    theorem_step,
)
from icl_linear.expected_run import expected_sgd
from icl_linear.plan import tasks_needed
from icl_linear.problem import Problem
from icl_linear.reproduce.shared import CONTEXT, UNSPECIFIED, bayes, claims, length_problems
from icl_linear.ridge import bayes_risk, ridge_coefficients
from icl_linear.sampling import sample_tasks
from icl_linear.schedule import geometric
from icl_linear.spectra import make_problem


def _excess(problem: Problem, tasks: int, c: float = 10) -> float:
    schedule = geometric(theorem_step(problem, CONTEXT, c), tasks)
    return float(expected_sgd(problem, CONTEXT, schedule).excess[-1])


@claims.add(
    "few-tasks",
    statement="SGD pretraining needs few tasks, possibly far fewer than the d^2 parameters, where the effective"
    " dimension is small; with an isotropic covariance it needs more than d^2.",
    where="Abstract; task-complexity theorem",
    quantity="tasks to halve the untrained excess risk, over d^2",
    expected="decaying spectra <= 0.1, isotropic > 1",
)
def few_tasks(context: Context) -> Measurement:
    """Exact learning curves at one d for three spectra."""
    d = context.at(64, 64, 256)
    shares = {}
    for kind in ("power:2", "exp", "iso"):
        problem = make_problem(kind, d)
        start = float(excess_risk(problem, 0 * problem.eigenvalues, CONTEXT))
        step = theorem_step(problem, CONTEXT)
        found = tasks_needed(problem, CONTEXT, start / 2, learning_rate=step, most=10**8)
        shares[kind] = found.tasks / d**2
    holds = max(shares["power:2"], shares["exp"]) <= 0.1 and shares["iso"] > 1
    note = f"d = {d}, N = {CONTEXT}, gamma_0 = 0.1 / (tr H tr Htil), exact expectation, one configuration."
    return Measurement(shares, holds, note=note)


@claims.add(
    "dimension-free",
    statement="Where the spectrum decays the number of pretraining tasks does not depend on the dimension.",
    where="Corollary of the task-complexity theorem (power law and exponential spectra)",
    quantity="largest relative change of the excess risk between dimensions, over all T",
    expected="<= 0.05 for 1/i^2 and 2^-i (isotropic shown for contrast)",
)
def dimension_free(context: Context) -> Measurement:
    """Curves over T for several d."""
    dimensions = context.at([32, 64], [32, 64, 128], [32, 128, 512])
    tasks = context.at([100, 300, 1000], [100, 300, 1000, 3000, 10_000], [100, 1000, 10_000, 100_000])
    panels: dict[str, dict[str, tuple[list[float], list[float]]]] = {}
    change = {}
    for kind, title in (("power:2", "1/i^2"), ("exp", "2^-i"), ("iso", "isotropic")):
        curves = {d: [_excess(make_problem(kind, d), count) for count in tasks] for d in dimensions}
        panels[title] = {f"d = {d}": (list(tasks), curve) for d, curve in curves.items()}
        bounds = [_bound(make_problem(kind, dimensions[-1]), count) for count in tasks]
        panels[title]["bound, largest d"] = (list(tasks), bounds)
        table = torch.tensor([curves[d] for d in dimensions])
        change[title] = float(((table.amax(0) - table.amin(0)) / table.amin(0)).max())
    figure = figures.panels_figure(
        panels, x="pretraining tasks T", y="excess risk over min R_N", dashed=["bound, largest d"]
    )
    note = f"d = {dimensions}, T = {tasks}, tr H = 1; exact expectation, one configuration."
    holds = max(change["1/i^2"], change["2^-i"]) <= 0.05
    return Measurement(change, holds, note=note, figures=(context.save_figure("task-complexity", figure),))


def _bound(problem: Problem, tasks: int, c: float = 10) -> float:
    return task_bound(problem, CONTEXT, geometric(theorem_step(problem, CONTEXT, c), tasks)).total


@claims.add(
    "under-the-bound",
    statement="The expected excess risk is at most a constant times the bias term plus (psi^2 tr H + sigma^2) D_eff"
    " / T_eff.",
    where="Task-complexity theorem",
    quantity="exact excess risk / bound with constant 1, largest over all cells",
    expected="<= 2",
)
def under_the_bound(context: Context) -> Measurement:
    """Spectra, dimensions, T and two step sizes."""
    sizes = context.at([8, 16], [8, 16, 32, 64], [8, 32, 128])
    tasks = context.at([100, 1000], [100, 1000, 10_000], [100, 1000, 10_000, 100_000])
    ratios = {
        (kind, d, count, c): _excess(problem, count, c) / _bound(problem, count, c)
        for kind, d in product(("iso", "power:1.5", "power:2", "exp"), sizes)
        for problem in [make_problem(kind, d)]
        for count, c in product(tasks, (5, 10))
    }
    worst = max(ratios, key=ratios.__getitem__)
    note = f"{len(ratios)} cells, {min(ratios.values()):.3g} .. {ratios[worst]:.3g}, largest at {worst}. {UNSPECIFIED}"
    return Measurement(ratios[worst], ratios[worst] <= 2, note=note)


@claims.add(
    "near-bayes",
    statement="At the context length of pretraining the optimal attention model is nearly as good as Bayes-optimal"
    " ridge.",
    where="Abstract; comparison with ridge at a fixed context length",
    quantity="risk over the noise, attention / ridge at N = M, largest over spectra: on a grid of N, and as N grows",
    expected="<= 2 at every N",
)
def near_bayes(context: Context) -> Measurement:
    """N = M from 4 to 4096 for three spectra, and the limit in closed form; risks above sigma^2."""
    lengths = context.at([4, 16, 64], [4, 16, 64, 256, 1024, 4096], [2**k for k in range(15)])
    panels: dict[str, dict[str, tuple[list[float], list[float]]]] = {}
    found, limits = [], []
    for name, problem in length_problems().items():
        attention = [float(minimal_risk(problem, m)) - problem.sigma**2 for m in lengths]
        ridge = [bayes(context, name, m) for m in lengths]
        over = [item.mean - problem.sigma**2 for item in ridge]
        panels[name] = {"attention, N = M": (lengths, attention), "ridge (Bayes)": (lengths, over)}
        found += [(a / b, a / b * item.standard_error / b) for a, b, item in zip(attention, over, ridge, strict=True)]
        limits.append(bayes_factor_limit(problem))
    ratio, error = max(found)
    figure = figures.panels_figure(
        panels, x="context examples, N = M", y="risk over the noise", dashed=["ridge (Bayes)"]
    )
    name = context.save_figure("matched-length", figure)
    note = (
        "The abstract names no constant; 2 was fixed before measuring. It is a hair too small: the ratio tends to"
        " 1 + (psi^2 tr H / sigma^2)(1 + 1 / d), here 2.01 .. 2.03, and passes 2 near N = 4200 (isotropic). On the"
        " grid alone the verdict hung on the draws of ridge's inputs (200 draws: 1.998 .. 2.001; with 2000 it fell just"
        " below 2), so the closed form of the limit decides. A constant factor at every N does hold: near-bayes-factor."
    )
    measured = {f"N <= {lengths[-1]}": ratio, "N to infinity": max(limits)}
    holds = max(ratio + 2 * error, *limits) <= 2
    return Measurement(measured, holds, (ratio - 2 * error, ratio + 2 * error), note, (name,))


@claims.add(
    "near-bayes-factor",
    statement="Up to a constant factor, which neither the context length nor the dimension changes, attention at its"
    " own context length is Bayes optimal where psi^2 tr H is of the order of sigma^2.",
    where="Abstract; comparison with ridge at a fixed context length",
    quantity="(risk over the noise, attention / ridge at N = M) / (1 + psi^2 (tr H + lambda_1) / sigma^2), largest",
    expected="<= 1",
)
def near_bayes_factor(context: Context) -> Measurement:
    """Spectra, dimensions, lengths and signal-to-noise ratios."""
    sizes, lengths = (
        context.at([8], [8, 32, 128], [8, 64, 512]),
        context.at([4, 64], [1, 4, 16, 64, 256, 1024], [1, 32, 1024]),
    )
    found = {}
    for kind, d, signal in product(("iso", "power:2", "exp"), sizes, (0.1, 1.0, 10.0)):
        problem = make_problem(kind, d, psi=signal**0.5)
        for n in lengths:
            ridge = bayes_risk(problem, n, draws=100, seed=context.seed)
            over, error = ridge.mean - problem.sigma**2, ridge.standard_error
            ratio = (float(minimal_risk(problem, n)) - problem.sigma**2) / over
            found[kind, d, signal, n] = (ratio / bayes_factor(problem), ratio / bayes_factor(problem) * error / over)
    worst = max(found, key=lambda cell: found[cell][0])
    share, error = found[worst]
    note = (
        f"{len(found)} cells, largest at {worst} (spectrum, d, psi^2 tr H / sigma^2, N). The paper's constant is not"
        " known to us; this factor is derived here (Jensen's inequality), so the claim checks a proof. It grows with"
        " psi^2 tr H / sigma^2, which is why the statement needs that to be bounded."
    )
    return Measurement(share, share + 2 * error <= 1, (share - 2 * error, share + 2 * error), note)


@claims.add(
    "length-gap",
    statement="At another context length than in pretraining the attention model is not nearly Bayes optimal.",
    where="Comparison with ridge at another context length",
    quantity="largest ratio of risk over the noise to ridge's at M != N: the smallest over spectra",
    expected="> 2, and a floor above 0 as M grows",
)
def length_gap(context: Context) -> Measurement:
    """Ratios over a grid of N and M."""
    trained = context.at([16, 256], [4, 16, 64, 256, 1024], [2**k for k in range(0, 13, 2)])
    names: list[str] = []
    worst: dict[str, float] = {}
    floors: list[float] = []
    for name, problem in length_problems().items():
        ridge = {m: bayes(context, name, m).mean - problem.sigma**2 for m in trained}
        over = {
            (n, m): (float(risk(problem, problem.gamma_star(n), m)) - problem.sigma**2) / ridge[m]
            for n, m in product(trained, trained)
        }
        worst[name] = max(value for (n, m), value in over.items() if n != m)
        floors.append(min(float(infinite_context_floor(problem, n)) for n in trained))
        table = [[over[n, m] for m in trained] for n in trained]
        title = f"{name}: risk over the noise, attention / ridge"
        figure = figures.heat_map_figure(trained, trained, table, title=title)
        names.append(context.save_figure(f"length-{len(names) + 1}", figure))
    smallest = min(worst.values())
    note = f"N, M = {trained}; smallest floor {min(floors):.3g}; worst by spectrum: "
    note += ", ".join(f"{name} {value:.3g}" for name, value in worst.items())
    return Measurement(smallest, smallest > 2 and min(floors) > 0, note=note, figures=tuple(names))


@claims.add(
    "length-regimes",
    statement="The risk of the pretrained model is limited by tasks where T is small and by the context mismatch where"
    " T is large.",
    where="Task-complexity theorem and the comparison at another length, together",
    quantity="risk over the noise at T = largest over the floor of N, at M = 4096; and at T = 100",
    expected="within 1.5 of the floor at the largest T, above 1.5 at T = 100",
)
def length_regimes(context: Context) -> Measurement:
    """Exact risk against M for several T, one figure."""
    trained = 16
    problem = make_problem("iso", context.at(4, 4, 8))
    tasks = [100, 1000, 10_000, context.at(100_000, 100_000, 1_000_000)]
    lengths = [1, 4, 16, 64, 256, 1024, 4096]
    step = theorem_step(problem, trained)
    curves = {}
    for count in tasks:
        run = expected_sgd(problem, trained, geometric(step, count))
        curves[f"T = {count}"] = [float(run.excess_at(m)[-1]) for m in lengths]
    floor = float(infinite_context_floor(problem, trained))
    curves["optimum of N"] = [float(risk(problem, problem.gamma_star(trained), m)) - problem.sigma**2 for m in lengths]
    curves["ridge (Bayes)"] = [bayes_risk(problem, m).mean - problem.sigma**2 for m in lengths]
    figure = figures.curves_figure(
        lengths, curves, dashed=["optimum of N", "ridge (Bayes)"], x="examples at test, M", y="risk over the noise",
        title=f"isotropic, d = {problem.d}, N = {trained}",
    )  # fmt: skip
    ratios = {f"T={count}": curves[f"T = {count}"][-1] / floor for count in (tasks[-1], tasks[0])}
    last, first = ratios.values()
    name = context.save_figure("length-and-tasks", figure)
    return Measurement(ratios, last <= 1.5 < first, note="Exact; one configuration.", figures=(name,))


@claims.add(
    "rates",
    statement="Ridge's risk over the noise is of the order psi^2 sum min(mu_M, lambda_i), attention's at another length"
    " of the order of that plus the price of the mismatch.",
    where="Propositions on ridge and on attention at another length",
    quantity="exact / rate with constant 1, smallest and largest over M, N and spectra",
    expected="ridge in 0.5 .. 2, attention in 0.25 .. 4",
)
def rates(context: Context) -> Measurement:
    """psi^2 tr H = sigma^2, as the propositions ask."""
    lengths = context.at([4, 64], [4, 16, 64, 256, 1024, 4096], [2**k for k in range(15)])
    ridge, attention = [], []
    for name, problem in length_problems().items():
        for m in lengths:
            ridge.append((bayes(context, name, m).mean - problem.sigma**2) / ridge_rate(problem, m))
            for n in (16, 256, 4096):
                exact = float(risk(problem, problem.gamma_star(n), m)) - problem.sigma**2
                attention.append(exact / attention_rate(problem, n, m))
    measured = {"ridge": [min(ridge), max(ridge)], "attention": [min(attention), max(attention)]}
    holds = min(ridge) >= 0.5 and max(ridge) <= 2 and min(attention) >= 0.25 and max(attention) <= 4
    return Measurement(measured, holds, note=UNSPECIFIED)


@claims.add(
    "ridge-is-bayes",
    statement="Ridge with penalty sigma^2 / psi^2 is Bayes optimal with risk sigma^2 + sigma^2 E tr(H (X^T X +"
    " sigma^2 / psi^2 I)^-1).",
    where="Section on the Bayes-optimal estimator",
    quantity="closed form - simulated squared error, in standard errors, largest; and the best other penalty",
    expected="|z| <= 3.5, and no other penalty is better by more than 3.5 standard errors",
)
def ridge_is_bayes(context: Context) -> Measurement:
    """Simulated tasks, both sides of M = d, penalties a quarter to four times the optimal one."""
    prompts = context.at(2000, 20_000, 100_000)
    problem = make_problem("power:1", 12, psi=0.8, sigma=0.6)
    penalty = (problem.sigma / problem.psi) ** 2
    scores, rivals = [], []
    for m in (3, 12, 40):
        generator = torch.Generator().manual_seed(context.seed * 1000 + m)
        tasks = sample_tasks(problem, m, prompts, generator)
        errors = {
            factor: (tasks.x_query * (ridge_coefficients(tasks.X, tasks.y, factor * penalty) - tasks.beta)).sum(-1) ** 2
            for factor in (0.25, 0.5, 1, 2, 4)
        }
        exact = bayes_risk(problem, m, draws=2000, seed=context.seed)
        spread = (float(errors[1].var()) / prompts + exact.standard_error**2) ** 0.5
        scores.append(abs(float(errors[1].mean()) + problem.sigma**2 - exact.mean) / spread)
        for factor in (0.25, 0.5, 2, 4):
            gain = errors[1] - errors[factor]
            rivals.append(float(gain.mean() / (gain.std() / prompts**0.5)))
    measured = {"closed form": max(scores), "best rival": max(rivals)}
    note = f"{prompts} simulated prompts at each of M = 3, 12, 40; d = 12, spectrum 1/i."
    return Measurement(measured, max(scores) <= 3.5 and max(rivals) <= 3.5, note=note)
