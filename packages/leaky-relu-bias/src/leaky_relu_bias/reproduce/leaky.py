"""E1, E3, E4: leaky ReLU on nearly orthogonal Gaussian data, exact to t = 10^6."""

import math

import torch
from shared_core.claims import Context, Measurement

from leaky_relu_bias import figures
from leaky_relu_bias.reproduce.registry import Runs, claims, gaussian_runs, interval
from leaky_relu_bias.trajectory import Trajectory
from leaky_relu_bias.verdicts import FLAT, RATE, SHRINK, flatness, last_decade, rank_products

SETTING = "n = 10, d = 784, m = 50, gamma = 0.5, eta = 0.2 n m / R_max^2, sigma0 = 1e-4"
ONE = "one configuration, fixed before the measurement"


def main_runs(context: Context) -> Runs:
    """The runs that most claims look at."""
    steps, count = context.at(100_000, 1_000_000, 10_000_000), context.at(3, 5, 20)
    return gaussian_runs(context, 0.5, 784, steps, count)


def rank_flatness(runs: Runs) -> tuple[list[float], float]:
    """Change of (SR_j - 1) ||W_j||_F^2 over the last decade of each run, and the largest SR - 1 at the end."""
    changes, largest = [], 0.0
    for run, _ in runs:
        products = rank_products(run)[last_decade(run)]
        changes.append(max(flatness(products[:, block]) for block in range(2)))
        ends = [float(run.column(f"sr_{block}_excess")[-1, 0]) for block in ("pos", "neg")]
        largest = max(largest, *ends)
    return changes, largest


@claims.add(
    "E1-stable-rank",
    statement="Leaky ReLU: gradient descent reaches a fixed activation pattern and the stable rank of each weight "
    "block tends to 1",
    where="abstract; law (SR_j - 1) ||W_j||^2 -> constant is ours",
    quantity="change of (SR_j - 1) ||W_j||_F^2 over the last decade of t",
    expected=f"< {FLAT:.0%}, no sign change",
)
def stable_rank_tends_to_one(context: Context) -> Measurement:
    """SR - 1 falls like 1 / ||W||^2 ~ 1 / log^2 t."""
    runs = main_runs(context)
    changes, largest = rank_flatness(runs)
    flips = sum(float(run.column("flips_since_last")[last_decade(run)].sum()) for run, _ in runs)
    figure = figures.stable_rank_figure(runs[0][0], runs[0][1])
    note = f"{SETTING}; {len(runs)} seeds of data and weights; {ONE}; largest block SR at the end 1 + {largest:.2g}"
    return Measurement(
        max(changes), max(changes) < FLAT and flips == 0, interval(changes), note,
        (context.save_figure("E1-stable-rank", figure),),
    )  # fmt: skip


@claims.add(
    "E1-small-slope",
    statement="The same for a small slope, where near-orthogonality must be stronger",
    where="abstract; Gaussian d = 5000, gamma = 0.1",
    quantity="change of (SR_j - 1) ||W_j||_F^2 over the last decade of t",
    expected=f"< {FLAT:.0%}",
)
def small_slope(context: Context) -> Measurement:
    """gamma = 0.1 at d = 5000."""
    steps, count = context.at(20_000, 300_000, 3_000_000), context.at(1, 5, 20)
    runs = gaussian_runs(context, 0.1, 5000, steps, count)
    changes, largest = rank_flatness(runs)
    note = f"n = 10, d = 5000, m = 50, gamma = 0.1, t = {steps}; {len(runs)} seeds; {ONE}; "
    note += f"largest block SR at the end 1 + {largest:.2g}; "
    note += ", ".join(f"|{what} / limit - 1| up to {gap:.2g}" for what, gap in _limit_gaps(runs).items())
    if context.scale == "smoke":
        return Measurement(max(changes), None, interval(changes), f"one seed and t = {steps} decide nothing; {note}")
    return Measurement(max(changes), max(changes) < FLAT, interval(changes), note)


def _limit_gaps(runs: Runs) -> dict[str, float]:
    """Largest relative distance from the limits at the end of the runs."""
    names = {
        "SR(W)": ("sr_joint", "sr_joint"),
        "t L": ("t_times_loss", "t_times_loss"),
        "min q / ||W||": ("normalized_margin_min", "margin"),
    }
    return {
        what: max(abs(float(run.column(column)[-1, 0]) / getattr(found, limit) - 1) for run, found in runs)
        for what, (column, limit) in names.items()
    }


@claims.add(
    "E1-joint-rank",
    statement="The whole weight matrix keeps two directions: its stable rank tends to a limit above 1",
    where="law L5, ours",
    quantity="|SR(W) / limit - 1|",
    expected="< 1%",
)
def joint_rank(context: Context) -> Measurement:
    """The joint stable rank against the prediction made before training."""
    runs = main_runs(context)
    gaps = [abs(float(run.column("sr_joint")[-1, 0]) / predicted.sr_joint - 1) for run, predicted in runs]
    note = f"{SETTING}; {len(runs)} seeds; {ONE}; limits " + ", ".join(f"{p.sr_joint:.4f}" for _, p in runs)
    return Measurement(max(gaps), max(gaps) < 0.01, interval(gaps), note)


@claims.add(
    "E3-margins",
    statement="All training points have the same normalised margin in the limit",
    where="abstract",
    quantity="growth of |q_i / ||W|| - limit| ||W|| over the last decade of t (bounded: the gap falls like 1 / ||W||)",
    expected=f"< {SHRINK:g}, and one limit for all points",
)
def equal_margins(context: Context) -> Measurement:
    """Distances to the common limit, times ||W||."""
    runs = main_runs(context)
    growth = []
    for run, predicted in runs:
        norm = run.column("w_fro")[:, 0]
        gap = (run.margins[:, 0] / norm[:, None] - predicted.margins).abs().amax(1) * norm
        recent = gap[last_decade(run)]
        growth.append(float(recent[-1] / recent[0] - 1))
    one_limit = all(predicted.equal_margins for _, predicted in runs)
    figure = figures.margins_figure(runs[0][0], runs[0][1])
    return Measurement(
        max(growth), max(growth) < SHRINK and one_limit, interval(growth), f"{SETTING}; {len(runs)} seeds; {ONE}",
        (context.save_figure("E3-margins", figure),),
    )  # fmt: skip


@claims.add(
    "E3-gaps",
    statement="The margins themselves keep constant differences, log(alpha_k / alpha_i)",
    where="law L3, ours",
    quantity="|range of q / range of log alpha - 1|",
    expected="< 1%",
)
def constant_gaps(context: Context) -> Measurement:
    """Range of the margins at the end against the dual variables."""
    gaps = []
    for run, predicted in main_runs(context):
        measured = float(run.margins[-1, 0].max() - run.margins[-1, 0].min())
        gaps.append(abs(measured / float(predicted.log_gaps().max()) - 1))
    return Measurement(max(gaps), max(gaps) < 0.01, interval(gaps), f"{SETTING}; {len(gaps)} seeds; {ONE}")


@claims.add(
    "E4-loss-rate",
    statement="The training loss decays like 1/t",
    where="introduction (the exact form is recalled, not quoted); limit of t L is law L1, ours",
    quantity="|t L / limit - 1|",
    expected=f"< {RATE:.0%}",
)
def loss_rate(context: Context) -> Measurement:
    """t L against (m / eta) 1' alpha."""
    runs = main_runs(context)
    gaps = [abs(float(run.column("t_times_loss")[-1, 0]) / predicted.t_times_loss - 1) for run, predicted in runs]
    figure = figures.loss_figure(runs[0][0], runs[0][1])
    return Measurement(
        max(gaps), max(gaps) < RATE, interval(gaps), f"{SETTING}; {len(runs)} seeds; {ONE}",
        (context.save_figure("E4-loss-rate", figure),),
    )  # fmt: skip


@claims.add(
    "E4-norm",
    statement="The weight norm grows like log t",
    where="introduction (the exact form is recalled, not quoted); slope is law L8, ours",
    quantity="|d||W||_F / d log t / limit - 1|, last decade",
    expected="< 1%",
)
def norm_rate(context: Context) -> Measurement:
    """Slope of ||W||_F in log t against (m 1' alpha)^(1/2)."""
    gaps = []
    for run, predicted in main_runs(context):
        recent = last_decade(run)
        gaps.append(abs(_slope(run, recent) / predicted.norm_rate - 1))
    return Measurement(max(gaps), max(gaps) < 0.01, interval(gaps), f"{SETTING}; {len(gaps)} seeds; {ONE}")


def _slope(run: Trajectory, where: torch.Tensor) -> float:
    norm, log_t = run.column("w_fro")[where, 0], run.log_t[where]
    if len(norm) < 2:
        return math.nan
    return float((norm[-1] - norm[0]) / (log_t[-1] - log_t[0]))
