"""E7: exact steps, log-time continuation and loss-normalised descent meet the same limit."""

import math

from shared_core.claims import Context, Measurement

from leaky_relu_bias import figures
from leaky_relu_bias.continuation import continue_to
from leaky_relu_bias.descent import fit, normalized_gd
from leaky_relu_bias.network import TwoLayerNet
from leaky_relu_bias.reproduce.leaky import main_runs
from leaky_relu_bias.reproduce.registry import claims, far, interval, seeds
from leaky_relu_bias.synthetic import gaussian


@claims.add(
    "E7-continuation",
    statement="Log-time continuation from t = 1000 gives the margins that exact steps reach",
    where="ours: the instrument behind the horizons below",
    quantity="largest |q continued - q exact|",
    expected="< 1e-7",
)
def continuation_is_exact(context: Context) -> Measurement:
    """The end of the exact runs, reached from t = 1000."""
    gaps = []
    runs = main_runs(context)
    for seed, (exact, _) in zip(seeds(context, len(runs)), runs, strict=True):
        X, y = gaussian(10, 784, seed)
        short = fit(X.to(context.device), y, TwoLayerNet(50, 0.5, 1e-4, seed), steps=1000)
        reached = continue_to(short, math.log10(exact.engine.t))
        gaps.append(float((reached.margins[-1] - exact.margins[-1]).abs().max()))
    note = f"n = 10, d = 784, m = 50, gamma = 0.5, to t = {runs[0][0].engine.t}, {len(runs)} seeds"
    return Measurement(max(gaps), max(gaps) < 1e-7, interval(gaps), note)


@claims.add(
    "E7-limit",
    statement="At t = 10^100, and at losses below 10^-1000, the normalised margins are the predicted ones",
    where="abstract (asymptotic statement); the horizons are ours",
    quantity="largest |q_i / ||W|| / limit - 1|: {continued, normalised}",
    expected="< 2% at t = 10^100, < 0.1% at log10 loss < -1000",
)
def limit_is_met(context: Context) -> Measurement:
    """Two roads to the same limit."""
    runs = main_runs(context)
    continued, normalised, decades = [], [], []
    for seed, (_, predicted), end in zip(seeds(context, len(runs)), runs, far(context, runs, "main"), strict=True):
        continued.append(_gap(end.margins[-1, 0] / end.column("w_fro")[-1, 0], predicted.margin))
        X, y = gaussian(10, 784, seed)
        run = normalized_gd(X.to(context.device), y, TwoLayerNet(50, 0.5, 1e-4, seed), steps=15_000)
        normalised.append(_gap(run.margins[-1, 0] / run.column("w_fro")[-1, 0], predicted.margin))
        decades.append(float(run.column("log10_loss")[-1, 0]))
    whole = runs[0][0].then(far(context, runs, "main")[0])
    figure = figures.margins_figure(whole, runs[0][1])
    holds = max(continued) < 0.02 and max(normalised) < 1e-3 and max(decades) < -1000
    note = f"{len(runs)} seeds; log10 loss of the normalised runs {min(decades):.0f} .. {max(decades):.0f}"
    return Measurement(
        {"continued": max(continued), "normalised": max(normalised)}, holds, interval(continued), note,
        (context.save_figure("E7-horizon", figure),),
    )  # fmt: skip


def _gap(margins, limit: float) -> float:  # type: ignore[no-untyped-def]  # a row of a tensor
    return float((margins / limit - 1).abs().max())
