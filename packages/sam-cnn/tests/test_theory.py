"""The span form against autograd in R^d, against the brief's reference values, and in law against drawing in R^d."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from sam_cnn import (
    PatchData,
    PatchSample,
    Schedule,
    Training,
    TwoLayerCNN,
    boundary,
    boundary_constant,
    decompose,
    draw_patches,
    exact_span,
    logistic_loss,
    outputs,
    phase_diagram,
    sample_weights,
    simulate,
    slope,
    span_vectors,
    tau_theory,
    theoretical_boundary,
    trace,
    train_span,
    training_error,
)
from shared_core.errors import InputError


def autograd_run(weight, sample, P, schedule, eta, tau, batches):
    """SAM in R^d by autograd, written as in the paper."""
    net = TwoLayerCNN(weight)
    x = sample.patches(P, torch.Generator().manual_seed(0))
    for step in range(schedule.steps):
        weights = batches(step)
        weights = torch.full_like(sample.y, 1 / len(sample.y)) if weights is None else weights[0]

        def gradient(net=net, weights=weights):
            loss = (weights * torch.nn.functional.softplus(-sample.y * net(x))).sum()
            return torch.autograd.grad(loss, net.weight)[0]

        g = gradient()
        with torch.no_grad():
            here = net.weight.clone()
            if step < schedule.climbs and tau > 0 and g.norm() > 0:
                net.weight.add_(tau * g / g.norm())
                g = gradient_at(gradient)
                net.weight.copy_(here)
            net.weight.sub_(eta * g)
    return net.weight.detach()


def gradient_at(gradient):
    with torch.enable_grad():
        return gradient()


@pytest.mark.parametrize("P", [2, 4])
@pytest.mark.parametrize("noise", ["shared", "independent"])
@pytest.mark.parametrize(
    ("schedule", "tau"),
    [
        (Schedule(60), 0.0), (Schedule(60), 0.2), (Schedule(60, 25), 0.2), (Schedule(60, None, 3), 0.1),
        (Schedule(60, 9, 4), 0.3),
    ],
)  # fmt: skip
def test_span_form_is_autograd_in_full_space(P, noise, schedule, tau):
    data = PatchData(d=60, mu=2.0, n=8, P=P, p=0.2, noise_patches=noise)
    generator = torch.Generator().manual_seed(1)
    sample = draw_patches(data, generator)
    weight = torch.randn(2, 5, 60, generator=generator, dtype=torch.float64) * 0.05
    batches = sample_weights(schedule, 8, [3])
    expected = autograd_run(weight, sample, P, schedule, 0.3, tau, batches)
    span = exact_span(weight, sample, P)
    end = train_span(span, schedule, 0.3, tau, batches)
    found = weight + (end.coefficients[0] @ span_vectors(sample)).view_as(weight)
    assert (found - expected).abs().max() < 1e-12
    net, x = TwoLayerCNN(found), sample.patches(P, generator)
    signal, noise_part = outputs(span, end.products)
    assert torch.allclose(sample.y * net(x), (signal + noise_part)[0], atol=1e-12)
    loss, _ = training_error(span, end)
    assert torch.allclose(logistic_loss(net(x), sample.y), loss[0], atol=1e-12)


def reference():
    """The instance of the brief's section 8."""
    rng = np.random.default_rng(0)
    clean = rng.choice([-1.0, 1.0], size=20)
    flip = rng.random(20) < 0.1
    xi = rng.standard_normal((20, 200))
    weight = rng.standard_normal((2, 10, 200)) * 0.01
    mu = np.zeros(200)
    mu[0] = 3.0
    y = np.where(flip, -clean, clean)
    tensors = (torch.from_numpy(part) for part in (mu, xi[:, None], clean, y))
    return torch.from_numpy(weight), PatchSample(*tensors)


def test_reference_loss_and_gradient_norm():
    weight, sample = reference()
    net = TwoLayerCNN(weight)
    loss = logistic_loss(net(sample.patches(2, torch.Generator())), sample.y)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0.691339843201, abs=1e-12)
    assert float(net.weight.grad.norm()) == pytest.approx(0.571149609975, abs=1e-12)


@pytest.mark.parametrize(
    ("tau", "loss", "error"), [(0.0, 0.0662141986, 0), (0.05, 0.0700043384, 0), (0.2, 0.1450030998, 0.05)]
)
def test_reference_losses_after_a_hundred_steps(tau, loss, error):
    weight, sample = reference()
    span = exact_span(weight, sample, 2)
    end = train_span(span, Schedule(100), 0.2, tau)
    found = training_error(span, end)
    assert float(found[0]) == pytest.approx(loss, abs=1e-10)
    assert float(found[1]) == error


def test_gradient_is_that_of_finite_differences():
    data = PatchData(d=12, mu=1.0, n=4, P=3)
    generator = torch.Generator().manual_seed(2)
    sample = draw_patches(data, generator)
    weight = torch.randn(2, 3, 12, generator=generator, dtype=torch.float64)
    span = exact_span(weight, sample, 3)
    end = train_span(span, Schedule(1), 1.0, 0.0)
    gradient = -(end.coefficients[0] @ span_vectors(sample)).view_as(weight)
    x = sample.patches(3, generator)
    for index in ((0, 0, 0), (1, 2, 5), (0, 1, 11)):
        moved = [weight.clone(), weight.clone()]
        moved[0][index] += 1e-6
        moved[1][index] -= 1e-6
        up, down = (logistic_loss(TwoLayerCNN(w)(x), sample.y) for w in moved)
        assert float((up - down) / 2e-6) == pytest.approx(float(gradient[index]), abs=1e-7)


def test_decomposition_rebuilds_the_weights_and_signs_are_those_of_the_paper():
    data = PatchData(d=80, mu=2.0, n=6, P=3, p=0.2)
    generator = torch.Generator().manual_seed(4)
    sample = draw_patches(data, generator)
    weight = torch.randn(2, 4, 80, generator=generator, dtype=torch.float64) * 0.01
    span = exact_span(weight, sample, 3)
    end = train_span(span, Schedule(50), 0.3, 0.1)
    parts = decompose(span, end.coefficients)
    moved = span.signs[:, None] * parts.gamma[0][:, None] * sample.mu / sample.mu.square().sum()
    moved = moved + 0.5 * parts.rho[0] @ (sample.xi[:, 0] / sample.xi[:, 0].square().sum(-1, keepdim=True))
    expected = (end.coefficients[0] @ span_vectors(sample)).view(8, 80)
    assert torch.allclose(moved, expected, atol=1e-14)
    own = span.signs[:, None] == sample.y
    assert (parts.rho[0][own] >= 0).all()
    assert (parts.rho[0][~own] <= 0).all()


@pytest.mark.parametrize(("tau", "P", "noise"), [(0.0, 3, "shared"), (0.05, 3, "shared"), (0.05, 3, "independent")])
def test_drawn_spans_have_the_law_of_full_space(tau, P, noise):
    data = PatchData(d=300, mu=4.0, n=10, P=P, p=0.1, noise_patches=noise)
    training = Training(m=5, tau=tau, eta=0.02, steps=60, points=400)
    found = simulate(data, training, range(300))
    direct = []
    for seed in range(100):
        generator = torch.Generator().manual_seed(seed)
        sample, test = draw_patches(data, generator), draw_patches(data, generator, 400)
        weight = torch.randn(2, 5, 300, generator=generator, dtype=torch.float64) / math.sqrt(900)
        span = exact_span(weight, sample, P)
        end = train_span(span, Schedule(60), 0.02, tau)
        net = TwoLayerCNN(weight + (end.coefficients[0] @ span_vectors(sample)).view_as(weight))
        with torch.no_grad():
            wrong = (net(test.patches(P, generator)).sign() != test.clean).double().mean()
        direct.append((wrong, decompose(span, end.coefficients).rho.max(), training_error(span, end)[0][0]))
    for ours, theirs in zip(
        (found.clean_error, found.rho, found.train_loss), map(torch.stack, zip(*direct, strict=True)), strict=True
    ):
        error = math.sqrt(float(ours.var()) / len(ours) + float(theirs.var()) / len(theirs))
        assert abs(float(ours.mean() - theirs.mean())) < 3.5 * error


def test_a_run_does_not_depend_on_its_batch_and_algorithms_meet_the_same_data():
    cells = [PatchData(d=200, mu=mu, n=6) for mu in (1.0, 2.0)]
    training = Training(m=3, steps=20, points=50)
    together = simulate(cells, training, range(40))
    alone = simulate(cells[1], training, [7])
    assert float(alone.clean_error) == float(together.clean_error[47])
    assert float(alone.train_loss) == float(together.train_loss[47])
    start = [trace(cells[0], dataclasses.replace(training, tau=tau), [1], [0])[1][0] for tau in (0.0, 0.1)]
    assert torch.equal(start[0].at_weights.signal, start[1].at_weights.signal)


def test_sam_with_radius_zero_is_gd_and_a_switch_at_zero_too():
    data = PatchData(d=500, n=6)
    plain = simulate(data, Training(m=4, steps=30), range(5))
    for other in (Training(m=4, steps=30, tau=0.3, sam_steps=0), Training(m=4, steps=30, batch_size=6)):
        assert torch.equal(simulate(data, other, range(5)).train_loss, plain.train_loss)


def test_a_diverged_run_is_nan_and_not_a_half():
    outcome = simulate(PatchData(d=200, n=6), Training(m=3, steps=50, eta=1e308, points=20), [0])
    assert outcome.clean_error.isnan().all()


def test_noisy_error_and_signal_noise_ratio():
    data = PatchData(d=1000, mu=4.0, n=20, P=2, p=0.1)
    assert float(data.noisy(torch.tensor(0.25))) == pytest.approx(0.1 + 0.8 * 0.25)
    assert data.signal_noise_ratio() == pytest.approx(20 * 256 / (16 * 1000))
    assert tau_theory(10, 20, 2, 1.0, 10_000) == pytest.approx(0.1118, abs=1e-4)


def test_boundary_slope_and_theoretical_curve():
    d = torch.tensor([1e2, 1e3, 1e4], dtype=torch.float64)
    base = PatchData()
    curve = theoretical_boundary(d, base, 0.1)
    assert slope(d, curve) == pytest.approx(0.25)
    assert boundary_constant(d, curve, base) == pytest.approx(0.1)
    errors = torch.tensor([[0.4, 0.2, 0.0], [0.05, 0.02, 0.0], [0.4, 0.3, 0.2], [0.4, math.nan, math.nan]])
    found = boundary([1.0, 2.0, 3.0], errors, 0.1)
    assert float(found[0]) == pytest.approx(2.5)
    assert found[1:].isnan().all()


def test_phase_diagram_is_ordered_and_sam_beats_gd_on_it():
    base = PatchData(n=20)
    axes = [1000, 8000], [2.0, 4.0, 8.0]
    gd, sam = (phase_diagram(base, *axes, Training(tau=tau), range(8)) for tau in (0.0, 0.1))
    assert gd.errors.shape == (2, 3, 8)
    assert (gd.mean()[:, 1:] < gd.mean()[:, :-1]).all()
    assert (sam.mean() < gd.mean() + 0.01).all()
    assert sam.benign_fraction().mean() > gd.benign_fraction().mean()
    # brief's table: .355 .089(4) .001 at d = 1000
    assert float(gd.mean()[0, 0]) == pytest.approx(0.355, abs=0.04)


def test_early_sam_switches_noise_neurons_off():
    data = PatchData(d=10_000, mu=4.0)
    sam = Training(init="theorem", tau="auto", steps=100)
    _, (record,) = trace(data, sam, range(10), [10])
    assert float(record.at_weights.active_on_noise.mean()) > 0.4
    assert float(record.perturbed.active_on_noise.mean()) < 0.05
    _, (plain,) = trace(data, dataclasses.replace(sam, tau=0.0), range(10), [10])
    assert plain.perturbed is None
    assert float(plain.at_weights.noise.mean()) > 10 * float(record.at_weights.noise.mean())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: PatchData(p=0.5), "label_noise .p, the probability of a flipped label. must be in"),
        (lambda: PatchData(d=10.5), "d must be an integer >= 1, got 10.5"),
        (lambda: simulate(PatchData(), Training(), []), "at least one cell and one seed"),
        (lambda: PatchData(P=1), "P must be an integer >= 2, got 1"),
        (lambda: PatchData(mu=-1.0), "mu must be a finite length >= 0"),
        (lambda: PatchData(sigma_p=0.0), "sigma_p must be finite and > 0"),
        (lambda: PatchData(noise_patches="x"), "shared or independent"),
        (lambda: Training(tau=-1.0), "rho .tau in the paper. must be auto or a number >= 0, got -1.0"),
        (lambda: Training(tau="x"), "rho .tau in the paper. must be auto or a number >= 0, got 'x'"),
        (lambda: Training(eta=0.0), "learning_rate .eta in the paper. must be auto or a number > 0"),
        (lambda: Training(steps=5, sam_steps=6), "sam_steps must be in 0..steps = 5, got 6"),
        (lambda: simulate(PatchData(), Training(batch_size=21), [0]), "batch_size must be in 1..n = 20, got 21"),
        (lambda: simulate(PatchData(d=41), Training(), [0]), "d must be at least 42"),
        (lambda: simulate(PatchData(), Training(init="x"), [0]), "init must be small, theorem, torch"),
        (lambda: simulate([PatchData(n=3), PatchData(n=4)], Training(), [0]), "share n"),
        (lambda: phase_diagram(PatchData(), [100], [2.0, 1.0], Training(), [0]), "mu must rise"),
        (lambda: trace(PatchData(), Training(steps=5), [0], [6]), "recorded steps must be in 0..steps = 5, got 6"),
        (
            lambda: exact_span(torch.zeros(2, 3, 9), draw_patches(PatchData(d=10), torch.Generator()), 2),
            "weight must be",
        ),
    ],
)
def test_bad_input_is_one_line_that_names_the_value(make, words):
    with pytest.raises(InputError, match=words):
        make()
