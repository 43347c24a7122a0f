"""Section 5 of the paper on tables of probabilities, where every sum is exact."""

import torch
from shared_core.claims import Context, Measurement

from spin_llm.losses import LINK_AT_ZERO, LINKS
from spin_llm.reproduce.registry import claims
from spin_llm.tabular import (
    Table,
    best_player,
    divergence,
    error_factor,
    gradient_identity,
    population_loss,
    predicted_player,
    random_table,
    slope_at_zero,
)

BETAS = (0.4, 0.5, 0.75, 1.0, 2.0, 5.0)


def _tables(context: Context) -> list[tuple[Table, Table]]:
    """(opponent, data) for each seed."""
    count = context.at(smoke=1, laptop=3, paper=10)
    draws = [torch.Generator().manual_seed(1000 * context.seed + index) for index in range(count)]
    return [(random_table(3, 12, draw), random_table(3, 12, draw)) for draw in draws]


@claims.add(
    "minimiser",
    statement="One exactly minimised iteration gives p_t (p_data / p_t)^(1/lambda), normalised.",
    where="Theorem 5.4",
    quantity="largest |log p minimised - log p of the theorem|, over lambda and seeds",
    expected="< 1e-5",
)
def minimiser(context: Context) -> Measurement:
    """L-BFGS on the population loss, against the closed form."""
    worst = [
        max(float((_minimised(context, index, beta) - predicted_player(*tables, beta)).abs().max()) for beta in BETAS)
        for index, tables in enumerate(_tables(context))
    ]
    note = f"exact sums, L-BFGS and Newton in float64; lambda in {BETAS}, {len(worst)} problems of 3 prompts x 12"
    return Measurement(max(worst), max(worst) < 1e-5, (min(worst), max(worst)), note)


@claims.add(
    "contraction",
    statement=(
        "Hence an iteration multiplies log p_t - log p_data by 1 - 1/lambda: one iteration suffices at lambda = 1, and "
        "lambda < 1/2 diverges when minimised exactly."
    ),
    where="consequence of Theorem 5.4 (ours)",
    quantity="largest |measured factor - (1 - 1/lambda)|, over lambda and seeds",
    expected="< 1e-5",
)
def contraction(context: Context) -> Measurement:
    """Factor of the centred error, and the course of KL over iterations."""
    tables = _tables(context)
    worst = [
        max(abs(error_factor(_minimised(context, index, beta), *pair) - (1 - 1 / beta)) for beta in BETAS)
        for index, pair in enumerate(tables)
    ]
    figure = context.save_figure("contraction", _course(*tables[0]))
    note = "the paper's lambda = 0.1 has the factor -9: it works because each iteration stops far from its minimiser"
    return Measurement(max(worst), max(worst) < 1e-5, (min(worst), max(worst)), note, (figure,))


@claims.add(
    "fixed-point",
    statement="If p_t = p_data, no player has a smaller loss than l(0), for every lambda and every link.",
    where="Theorem 5.2, sufficiency",
    quantity="smallest loss - l(0) over players, lambdas, links and seeds",
    expected=">= -1e-12",
)
def fixed_point(context: Context) -> Measurement:
    """Random players and minimised ones, against the data itself."""
    gaps = []
    for other, data in _tables(context):
        for link, level in LINK_AT_ZERO.items():
            for beta in (0.1, 1.0, 5.0):
                players = [other, data, 0.5 * (other + data)]
                players = [player.log_softmax(-1) for player in players]
                gaps += [float(population_loss(player, data, data, beta, link)) - level for player in players]  # type: ignore[arg-type] # a link
    return Measurement(min(gaps), min(gaps) >= -1e-12, None, f"{len(gaps)} losses; l among {', '.join(LINKS)}")


@claims.add(
    "necessity",
    statement="If p_t != p_data, p_data has a smaller loss than p_t for small lambda: the slope at 0 is negative.",
    where="Theorem 5.2, necessity",
    quantity="largest |dL/dlambda - l'(0) (KL(p_data||p_t) + KL(p_t||p_data))|, every slope negative",
    expected="< 1e-12",
)
def necessity(context: Context) -> Measurement:
    """Automatic differentiation against the sum of both divergences."""
    found = [slope_at_zero(*pair, link) for pair in _tables(context) for link in LINKS]  # type: ignore[arg-type] # a link
    worst = max(abs(slope.measured - slope.predicted) for slope in found)
    holds = worst < 1e-12 and all(slope.measured < 0 for slope in found)
    return Measurement(worst, holds, None, f"{len(found)} slopes, the steepest {min(s.measured for s in found):.3g}")


@claims.add(
    "gradient",
    statement="At theta = theta_t the SPIN gradient is lambda |l'(0)| times that of the real data's NLL.",
    where="identity (ours): E over y' ~ p_t of grad log p_t(y') is 0",
    quantity="largest difference of the two gradients, over links, lambdas and seeds",
    expected="< 1e-12",
)
def gradient(context: Context) -> Measurement:
    """SPIN begins as a step of SFT plus noise of mean zero."""
    worst = 0.0
    for pair in _tables(context):
        for link in LINKS:
            for beta in (0.1, 1.0, 5.0):
                left, right = gradient_identity(*pair, beta, link)  # type: ignore[arg-type] # a link
                worst = max(worst, float((left - right).abs().max()))
    return Measurement(worst, worst < 1e-12, None, "so that its fixed points are stationary points of the likelihood")


def _minimised(context: Context, index: int, beta: float) -> Table:
    return context.memo(("minimised", index, beta), lambda: best_player(*_tables(context)[index], beta))


def _course(start: Table, data: Table):  # type: ignore[no-untyped-def] # matplotlib is imported where it is used
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for beta in (0.4, 0.5, 0.75, 2.0, 5.0):
        player, values = start, [float(divergence(data, start))]
        for _ in range(6):
            player = predicted_player(player, data, beta)
            values.append(float(divergence(data, player)))
        axes.semilogy(range(7), values, marker="o", label=rf"$\lambda$ = {beta:g}")
    axes.set(xlabel="iterations", ylabel="KL(p_data || p_t), nats", title="Exact self-play from one start")
    axes.legend()
    axes.grid(alpha=0.3)
    return figure
