"""A trained network on real data, its generated law split exactly."""

from shared_core.claims import Context, Measurement

from ctmc_bounds import figures
from ctmc_bounds.cavity_network import NetworkShape, Training, train_cavity_network
from ctmc_bounds.error_split import continuous_laws, split_error
from ctmc_bounds.estimators import NetworkScore
from ctmc_bounds.girsanov import girsanov_terms
from ctmc_bounds.reproduce.registry import claims, grid
from ctmc_bounds.samplers import Euler, TimeFrozen, make_sampler
from ctmc_bounds.spec import digits

SPLIT_SAMPLERS = ("paper", "midpoint", "euler", "first_jump", "tweedie")


@claims.add(
    "trained-network",
    statement="For a learned score the error is initialisation + score + discretisation, each below its term of the"
    " bound; with a cavity network every envelope holds.",
    where="Abstract (claim 1, claim 2): score estimates at predefined time points; demonstration is ours",
    quantity="largest KL / (G) over seeds; largest deviation of the split's sum from the KL; share of the score error",
    expected="KL / (G) <= 1; < 1e-9; reported",
)
def trained_network(context: Context) -> Measurement:
    """3 x 3 patches of scikit-learn's digits, binarised: 512 states, an MLP per seed."""
    rows, cols = context.at((2, 2), (3, 3), (3, 4))
    data = digits(rows, cols).to(context.device)
    seeds, steps = context.at(1, 3, 5), context.at(150, 1500, 10_000)
    schedule = grid(context.at(16, 32, 64))
    groups: dict[str, dict[str, float]] = {}
    ratios, sums, shares, text = [], [], [], []
    for seed in range(seeds):
        network = _network(context, rows, cols, seed, steps)
        laws = continuous_laws(data, TimeFrozen(schedule), network)
        for name in SPLIT_SAMPLERS:
            sampler = Euler(schedule, strict=False) if name == "euler" else make_sampler(name, schedule)
            split = split_error(data, sampler, network, laws)
            sums.append(abs(split.initialisation + split.score + split.discretisation - split.total))
            if seed == 0:
                groups[name] = {"initialisation": split.initialisation, "score": split.score,
                                "discretisation": abs(split.discretisation)}  # fmt: skip
            if name == "paper":
                terms = girsanov_terms(data, TimeFrozen(schedule), network)
                ratios.append(split.total / terms.total)
                shares.append(split.score / split.total)
                parts = f"{split.initialisation:.2g} + {split.score:.4g} + {split.discretisation:.3g}"
                text.append(f"{split.total:.4g} = {parts} (sum h L_SE {terms.score:.4g}, G {terms.total:.4g})")
    picture = figures.bars_figure(groups, "KL", f"digits {rows} x {cols}, N = {schedule.N}, seed 0")
    note = f"{seeds} seeds, {steps} steps each, one configuration. KL = initialisation + score + discretisation of the"
    note += f" paper's sampler, N = {schedule.N}: " + "; ".join(text)
    measured = {"KL / G": max(ratios), "sum off by": max(sums), "score share": sum(shares) / len(shares)}
    return Measurement(measured, max(ratios) <= 1 and max(sums) < 1e-9, (min(ratios), max(ratios)), note,
                       (context.save_figure("trained-split", picture),))  # fmt: skip


def _network(context: Context, rows: int, cols: int, seed: int, steps: int) -> NetworkScore:
    data = digits(rows, cols).to(context.device)
    shape = NetworkShape(2, rows * cols)
    return context.memo(
        ("network", seed, steps),
        lambda: train_cavity_network(data, shape, Training(steps=steps, seed=context.seed + seed)),
    )
