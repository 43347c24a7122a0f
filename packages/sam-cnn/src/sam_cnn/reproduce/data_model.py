"""Claims about the paper's data model and network."""

from collections.abc import Callable
from dataclasses import replace

import torch
from shared_core.claims import Context, Measurement

from sam_cnn import figures
from sam_cnn.dynamics import Schedule, sample_weights, train
from sam_cnn.mechanism import Mechanism, compare_mechanism
from sam_cnn.network import TwoLayerCNN
from sam_cnn.patches import PatchData, PatchSample, draw_patches
from sam_cnn.phase import PhaseDiagram, boundary, boundary_constant, phase_diagram, slope, slope_interval
from sam_cnn.reproduce.shared import MEMORY, claims, mean_interval, seeds
from sam_cnn.simulation import Training, simulate
from sam_cnn.span import exact_span, span_vectors

Batches = Callable[[int], torch.Tensor | None]
# SGD in the regime of its theorem: a start far below sqrt(n)/d and a rate that fits the noise in O(1) steps
SGD = Training(init="small", eta="auto", steps=200)
LENGTHS = tuple(round(2 * 1.14**i, 3) for i in range(24))  # 2 .. 40.7
# SAM for SAM_STEPS[d] steps, then as many plain ones as GD needs
SAM_STEPS = {1000: 400, 10_000: 500, 100_000: 2000}


@claims.add(
    "span-exact",
    statement="Every iterate of SGD and SAM lies in W(0) plus the span of the signal and the noise vectors.",
    where="Signal-noise decomposition",
    quantity="largest difference of the weights from autograd in R^d after 100 steps: GD, SAM, mini-batch SAM",
    expected="< 1e-10",
)
def span_exact(context: Context) -> Measurement:
    """The simulator beside autograd."""
    worst = 0.0
    for index, (tau, batch) in enumerate(((0.0, None), (0.1, None), (0.1, 5))):
        data = PatchData(d=context.at(100, 1000, 5000), mu=3.0, n=20, p=0.1)
        generator = torch.Generator().manual_seed(context.seed + index)
        sample = draw_patches(data, generator)
        weight = torch.randn(2, 10, data.d, generator=generator, dtype=torch.float64) * 0.01
        schedule = Schedule(100, None, batch)
        weights = sample_weights(schedule, data.n, [context.seed])
        end = train(exact_span(weight, sample, data.P), schedule, 0.1, tau, weights)
        found = weight + (end.coefficients[0] @ span_vectors(sample)).view_as(weight)
        worst = max(worst, float((found - _autograd(weight, sample, data.P, schedule, tau, weights)).abs().max()))
    return Measurement(worst, worst < 1e-10)


def _autograd(
    weight: torch.Tensor, sample: PatchSample, P: int, schedule: Schedule, tau: float, weights: Batches
) -> torch.Tensor:
    net = TwoLayerCNN(weight)
    x = sample.patches(P, torch.Generator().manual_seed(0))

    def gradient(step: int) -> torch.Tensor:
        share = weights(step)
        losses = torch.nn.functional.softplus(-sample.y * net(x))
        loss = losses.mean() if share is None else (share[0] * losses).sum()
        return torch.autograd.grad(loss, net.weight)[0]

    for step in range(schedule.steps):
        g = gradient(step)
        if tau:
            here = net.weight.detach().clone()
            net.weight.data += tau * g / g.norm()
            g = gradient(step)
            net.weight.data.copy_(here)
        net.weight.data -= 0.1 * g
    return net.weight.detach()


@claims.add(
    "sgd-slope",
    statement="SGD overfits benignly only where n |mu|^4 is at least of the order of P^4 sigma_p^4 d.",
    where="Theorem on SGD",
    quantity="exponent of d in the signal length at which the clean test error is 0.1",
    expected="0.25 +- 0.03",
)
def sgd_slope(context: Context) -> Measurement:
    """The boundary of GD over many decades of d."""
    d = context.at((1000, 100_000), tuple(10**k for k in range(3, 8)), tuple(10**k for k in range(3, 10)))
    lengths = LENGTHS[:: context.at(2, 1, 1)]
    count = context.at(4, 20, 100)
    diagram = phase_diagram(PatchData(), d, lengths, SGD, seeds(context, count), context.device)
    curve = boundary(diagram.mu, diagram.mean())
    measured = slope(torch.tensor(d, dtype=torch.float64), curve)
    figure = figures.boundaries(d, {"GD": curve}, {"GD": measured})
    note = f"{count} seeds a cell, d = {d[0]} .. {d[-1]}, n = 20, m = 10, P = 2; interval by resampling seeds. "
    return Measurement(
        measured, abs(measured - 0.25) <= 0.03, slope_interval(diagram), note + MEMORY,
        (context.save_figure("sgd-boundary", figure),),
    )  # fmt: skip


@claims.add(
    "sgd-one-parameter",
    statement="For SGD the number n |mu|^4 / (P^4 sigma_p^4 d) decides between benign and harmful overfitting.",
    where="Theorem on SGD",
    quantity="that number at the boundary, largest / smallest over n and d",
    expected="<= 2 (a constant, up to the theorem's open ones)",
)
def sgd_one_parameter(context: Context) -> Measurement:
    """The constant of the boundary for several n and d."""
    d = context.at((10_000,), (10_000, 1_000_000), (10_000, 1_000_000, 100_000_000))
    count = context.at(4, 20, 100)
    constants = {}
    for n in context.at((10, 20), (10, 20, 40), (10, 20, 40, 80)):
        diagram = phase_diagram(PatchData(n=n), d, LENGTHS, SGD, seeds(context, count), context.device)
        curve = boundary(diagram.mu, diagram.mean())
        for index, dimension in enumerate(d):
            one = slice(index, index + 1)
            axis = torch.tensor([float(dimension)], dtype=torch.float64)
            constants[f"n={n}, d={dimension}"] = boundary_constant(axis, curve[one], PatchData(n=n))
    ratio = max(constants.values()) / min(constants.values())
    shown = ", ".join(f"{key}: {value:.3f}" for key, value in constants.items())
    return Measurement(ratio, ratio <= 2, None, f"{shown}; {count} seeds a cell. {MEMORY}")


def _theorem_maps(context: Context) -> dict[str, list[PhaseDiagram]]:
    def make() -> dict[str, list[PhaseDiagram]]:
        lengths = context.at((1.0, 2.0, 4.0, 8.0), (0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0), LENGTHS)
        maps: dict[str, list[PhaseDiagram]] = {"GD": [], "SAM then GD": []}
        chosen = seeds(context, context.at(3, 10, 50))
        for d, first in list(SAM_STEPS.items())[: context.at(2, 3, 3)]:
            steps = first + 200
            sam = Training(init="theorem", eta="auto", tau="auto", steps=steps, sam_steps=first)
            plain = replace(sam, tau=0.0, sam_steps=None)
            for name, training in (("GD", plain), ("SAM then GD", sam)):
                maps[name].append(phase_diagram(PatchData(), [d], lengths, training, chosen, context.device))
        return maps

    return context.memo("theorem maps", make)


def _joined(parts: list[PhaseDiagram]) -> PhaseDiagram:
    return PhaseDiagram(
        tuple(part.d[0] for part in parts), parts[0].mu, torch.cat([part.errors for part in parts]),
        torch.cat([part.train_error for part in parts]),
    )  # fmt: skip


@claims.add(
    "sam-slope",
    statement="SAM for a first stage, then SGD, needs a signal of constant length, however large d is.",
    where="Theorem on SAM",
    quantity="exponent of d in the boundary (error 0.1) of SAM-then-GD; GD's with as many steps beside it",
    expected="SAM's within 0.05 of 0, GD's above 0.15",
)
def sam_slope(context: Context) -> Measurement:
    """Boundaries at the theorem's start, radius and schedule."""
    both = {name: _joined(parts) for name, parts in _theorem_maps(context).items()}
    d = torch.tensor(both["GD"].d, dtype=torch.float64)
    curves = {name: boundary(one.mu, one.mean()) for name, one in both.items()}
    slopes = {name: slope(d, curve) for name, curve in curves.items()}
    holds = abs(slopes["SAM then GD"]) <= 0.05 and slopes["GD"] > 0.15
    figure = figures.boundaries(both["GD"].d, curves, slopes)
    note = (
        "tau = 0.5 m sqrt(n)/(P sqrt d), sigma_0 = 0.3/(P sqrt d), eta = 0.5 n m/d, "
        f"{SAM_STEPS} SAM steps, 200 of GD; one setting, fixed beforehand; {both['GD'].errors.shape[-1]} seeds a cell. "
    )
    return Measurement(
        {"SAM": slopes["SAM then GD"], "GD": slopes["GD"]},
        holds if context.scale != "smoke" else None,
        slope_interval(both["SAM then GD"]),
        note + ("Two dimensions with three seeds cannot decide. " if context.scale == "smoke" else "") + MEMORY,
        (context.save_figure("sam-boundary", figure),),
    )


@claims.add(
    "benign-where-harmful",
    statement="With fitted training labels SAM's test error is near p where SGD's is p + 0.1 at least.",
    where="Theorems on SGD and SAM",
    quantity="test error against observed labels, minus p, at the largest d, |mu| = 4, p = 0.1; and training errors",
    expected="GD >= 0.1, SAM <= 0.05, training errors 0",
)
def benign_where_harmful(context: Context) -> Measurement:
    """Excess errors of both with label noise."""
    d, first = list(SAM_STEPS.items())[context.at(1, 2, 2)]
    data = PatchData(d=d, mu=4.0, p=0.1)
    sam = Training(init="theorem", eta="auto", tau="auto", steps=first + 200, sam_steps=first)
    chosen = seeds(context, context.at(5, 20, 100))
    gd, sharp = (
        simulate(data, training, chosen, context.device) for training in (replace(sam, tau=0.0, sam_steps=None), sam)
    )
    excess = {name: (one.noisy_error - data.p) for name, one in (("GD", gd), ("SAM", sharp))}
    measured = {name: float(value.mean()) for name, value in excess.items()}
    fitted = {name: float(one.train_error.mean()) for name, one in (("GD", gd), ("SAM", sharp))}
    holds = measured["GD"] >= 0.1 and measured["SAM"] <= 0.05 and max(fitted.values()) == 0
    note = f"d = {d}, {len(chosen)} seeds; training errors {fitted}; losses GD {float(gd.train_loss.mean()):.3g}, "
    note += f"SAM {float(sharp.train_loss.mean()):.3g}. The interval is SAM's. One setting, fixed beforehand. {MEMORY}"
    return Measurement({**measured, "train": max(fitted.values())}, holds, mean_interval(excess["SAM"]), note)


@claims.add(
    "heat-map",
    statement="Over signal length and dimension SAM's test error is low on a larger part of the map than SGD's.",
    where="Synthetic experiments",
    quantity="part of the map (d 1000..21000, |mu| 0.5..10) with clean test error < 0.1; SAM (tau 0.03) minus GD",
    expected="> 0, interval without 0, training error 0 in both",
)
def heat_map(context: Context) -> Measurement:
    """The paper's map, at the settings known of it."""
    d = torch.linspace(1000, 21_000, context.at(5, 21, 21)).round().int().tolist()
    lengths = torch.linspace(0.5, 10, context.at(10, 20, 40), dtype=torch.float64).tolist()
    chosen = seeds(context, context.at(5, 10, 30))
    maps = {
        name: phase_diagram(PatchData(), d, lengths, Training(tau=tau), chosen, context.device)
        for name, tau in (("GD", 0.0), ("SAM, tau 0.03", 0.03), ("SAM, tau 0.1", 0.1))
    }
    parts = {name: one.benign_fraction() for name, one in maps.items()}
    gain = parts["SAM, tau 0.03"] - parts["GD"]
    low, high = mean_interval(gain)
    fitted = max(float(one.train_error.mean()) for one in maps.values())
    base = PatchData()
    curve = boundary(maps["GD"].mu, maps["GD"].mean())
    constant = boundary_constant(torch.tensor(d, dtype=torch.float64), curve, base)
    figure = figures.heat_maps(maps, base, constant)
    note = "Parts: " + ", ".join(f"{name} {float(value.mean()):.3f}" for name, value in parts.items())
    note += f"; training error {fitted:g}; {len(chosen)} seeds. Start with torch's variance, eta 0.01, 100 full-batch "
    note += "steps: grid, seeds and batch size of the paper's figure are not known to us."
    measured = float(gain.mean())
    return Measurement(measured, low > 0 and fitted == 0, (low, high), note, (context.save_figure("heat-map", figure),))


def _mechanism(context: Context) -> Mechanism:
    training = Training(init="theorem", tau="auto", steps=700, sam_steps=500)
    at = sorted({0, 3, 10, 30, 100, 200, 300, 400, 499, 500, 510, 550, 600, 700})
    return context.memo(
        "mechanism",
        lambda: compare_mechanism(PatchData(d=10_000, mu=4.0), training, seeds(context, context.at(5, 20, 100)), at),
    )


@claims.add(
    "noise-prevented",
    statement="SAM prevents noise learning in the early stage, which leaves the feature to be learned.",
    where="Abstract; proof of the theorem on SAM",
    quantity="noise part / signal part of y f after 100 steps (d = 10^4, |mu| = 4)",
    expected="GD > 1, SAM < 1",
)
def noise_prevented(context: Context) -> Measurement:
    """Parts of the margin early in training."""
    found = _mechanism(context)
    index = next(i for i, row in enumerate(found.rows()) if row["step"] == 100)
    records = {"GD": found.gd_records[index], "SAM": found.sam_records[index]}
    ratios = {name: record.at_weights.noise / record.at_weights.signal for name, record in records.items()}
    measured = {
        name: float(one.at_weights.noise.mean() / one.at_weights.signal.mean()) for name, one in records.items()
    }
    note = (
        f"eta 0.01, tau 0.112, start 0.3/(P sqrt d), {len(ratios['SAM'])} seeds, one setting. Final test error GD "
        f"{float(found.gd.clean_error.mean()):.4f}, SAM then GD {float(found.sam.clean_error.mean()):.4f}. "
        "The interval is SAM's."
    )
    figure = context.save_figure("mechanism", figures.mechanism(found.rows(), 500))
    holds = measured["GD"] > 1 > measured["SAM"]
    return Measurement(measured, holds, mean_interval(ratios["SAM"]), note, (figure,))


@claims.add(
    "neurons-off",
    statement="The perturbation of SAM deactivates the neurons that would memorise noise, and not those of the signal.",
    where="Proof of the theorem on SAM",
    quantity="after 10 steps: own-label neurons active on the noise at W and at W + eps, on the signal at W + eps",
    expected="at W >= 0.4, at W + eps <= 0.05, signal >= 0.8",
)
def neurons_off(context: Context) -> Measurement:
    """Activation statistics at both points."""
    record = next(one for one in _mechanism(context).sam_records if one.step == 10)
    there = record.perturbed
    assert there is not None  # step 10 is one of SAM's
    measured = {
        "at W": float(record.at_weights.active_on_noise.mean()),
        "at W + eps": float(there.active_on_noise.mean()),
        "signal at W + eps": float(there.active_on_signal.mean()),
    }
    holds = measured["at W"] >= 0.4 and measured["at W + eps"] <= 0.05 and measured["signal at W + eps"] >= 0.8
    note = f"{len(there.signal)} seeds; the runs of noise-prevented. The interval is that at W + eps."
    return Measurement(measured, holds, mean_interval(there.active_on_noise), note)
