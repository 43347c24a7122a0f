"""A1, A2, A3 are the same gradient descent."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from leaky_relu_bias import TwoLayerNet, fit, gaussian, loss_gradient, orthogonal, training_set
from leaky_relu_bias.descent import choose_engine, make_engine
from leaky_relu_bias.gram import GramGD
from leaky_relu_bias.network import margins
from leaky_relu_bias.normalized import NormalizedGD
from leaky_relu_bias.reduced import ReducedGD
from shared_core import InputError


def relative_error(a, b):
    return float((a - b).abs().max() / b.abs().max())


def autograd_gradient(W, data, gamma):
    W = W.clone().requires_grad_()
    m = len(W) // 2
    hidden = torch.nn.functional.leaky_relu(data.X @ W.T, gamma)
    f = (hidden[:, :m].sum(1) - hidden[:, m:].sum(1)) / m
    torch.nn.functional.softplus(-data.y * f).mean().backward()
    return W.grad


@pytest.mark.parametrize("gamma", [0.0, 0.1, 0.5])
def test_closed_form_gradient_is_autograds(gamma):
    data = training_set(*gaussian(7, 20, seed=3))
    W = TwoLayerNet(6, gamma, 0.3, seed=1).initial_weights(20)
    torch.testing.assert_close(loss_gradient(W, data, gamma), autograd_gradient(W, data, gamma), rtol=1e-13, atol=1e-16)


@pytest.mark.parametrize("gamma", [0.0, 0.1, 0.5])
def test_three_engines_agree_to_rounding_after_2000_steps(gamma):
    X, y = gaussian(8, 100, seed=1)
    nets = [TwoLayerNet(10, gamma, 1e-3, seed) for seed in range(3)]
    W = {name: fit(X, y, nets, steps=2000, engine=name).engine.weights() for name in ("plain", "gram", "reduced")}
    assert relative_error(W["gram"], W["plain"]) < 1e-12
    assert relative_error(W["reduced"], W["plain"]) < 1e-12


def test_reduced_engine_makes_almost_no_full_steps_once_the_pattern_is_fixed(long_run):
    work = long_run.engine.work()
    assert work["reduced"] > 0.99 * 100_000
    assert work["reduced"] + work["gram"] == 100_000


def test_sign_changes_are_counted_alike_by_all_engines():
    X, y = gaussian(8, 60, seed=2)
    net = TwoLayerNet(10, 0.0, 1e-2, 0)
    flips = [fit(X, y, net, steps=500, engine=name).column("flips_since_last") for name in ("plain", "gram", "reduced")]
    assert flips[0].sum() > 0
    assert torch.equal(flips[0], flips[1])
    assert torch.equal(flips[0], flips[2])


@pytest.mark.parametrize("engine", [GramGD, ReducedGD, NormalizedGD])
@pytest.mark.parametrize("gamma", [0.0, 0.5])
def test_tensor_operations_for_accelerators_equal_the_compiled_loops(engine, gamma):
    data = training_set(*gaussian(6, 40, seed=4))
    nets = [TwoLayerNet(5, gamma, 1e-3, seed) for seed in range(2)]
    W0 = torch.stack([net.initial_weights(40) for net in nets])
    gammas, eta = torch.full((2,), gamma, dtype=torch.float64), torch.tensor([3.0, 9.0], dtype=torch.float64)
    ours, theirs = (engine(data, W0, gammas, eta, compiled=compiled) for compiled in (True, False))
    ours.advance(300)
    theirs.advance(300)
    assert relative_error(theirs.weights(), ours.weights()) < 1e-12
    assert sum(theirs.work().values()) == sum(ours.work().values()) == 600
    if engine is ReducedGD and gamma:
        assert theirs.work()["reduced"] > 300


def test_a_batch_of_settings_equals_single_runs():
    X, y = gaussian(6, 50, seed=5)
    nets = [TwoLayerNet(8, 0.5, 1e-4, 0), TwoLayerNet(8, 0.0, 1e-2, 1)]
    batch = fit(X, y, nets, eta=[5.0, 20.0], steps=300)
    for run, (net, eta) in enumerate(zip(nets, (5.0, 20.0), strict=True)):
        single = fit(X, y, net, eta=eta, steps=300)
        assert torch.equal(batch.engine.weights()[run], single.engine.weights()[0])
        torch.testing.assert_close(batch.margins[:, run], single.margins[:, 0], rtol=1e-12, atol=1e-14)


def test_one_point_follows_the_scalar_recursion():
    X, y = orthogonal(1, 5, seed=0)
    m, gamma, eta = 4, 0.5, 3.0
    run = fit(X, y, TwoLayerNet(m, gamma, 1e-6, 0), eta=eta, steps=100)
    q = float(run.margins[1, 0, 0])
    by_time = {1: q}
    for t in range(2, 101):
        q += (eta / m) * (1 + gamma**2) / (1 + torch.tensor(q, dtype=torch.float64).exp().item())
        by_time[t] = q
    for log_t, margin in zip(run.t[1:].tolist(), run.margins[1:, 0, 0].tolist(), strict=True):
        assert margin == pytest.approx(by_time[round(log_t)], rel=1e-12)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), scale=st.floats(0.1, 10), gamma=st.sampled_from([0.0, 0.3]))
def test_scaling_points_rotating_and_permuting_leave_the_margins_alone(seed, scale, gamma):
    X, y = gaussian(5, 12, seed)
    net = TwoLayerNet(4, gamma, 0.01, seed)
    W0 = net.initial_weights(12)
    plain = fit(X, y, net, eta=2.0, steps=50).margins[-1, 0]
    scaled = fit(X * scale, y, net, eta=2.0 / scale**2, steps=50, W0=W0 / scale).margins[-1, 0]
    torch.testing.assert_close(scaled, plain, rtol=1e-9, atol=1e-11)
    Q = torch.linalg.qr(torch.randn(12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))).Q
    rotated = fit(X @ Q, y, net, eta=2.0, steps=50, W0=W0 @ Q).margins[-1, 0]
    torch.testing.assert_close(rotated, plain, rtol=1e-9, atol=1e-11)
    order = torch.randperm(5, generator=torch.Generator().manual_seed(seed))
    permuted = fit(X[order], y[order], net, eta=2.0, steps=50).margins[-1, 0]
    torch.testing.assert_close(permuted, plain[order], rtol=1e-9, atol=1e-11)


def test_flipping_labels_swaps_the_blocks():
    X, y = gaussian(6, 30, seed=8)
    net = TwoLayerNet(5, 0.2, 0.01, 0)
    W0 = net.initial_weights(30)
    W = fit(X, y, net, eta=2.0, steps=100).engine.weights()[0]
    swapped = fit(X, -y, net, eta=2.0, steps=100, W0=torch.cat([W0[5:], W0[:5]])).engine.weights()[0]
    torch.testing.assert_close(torch.cat([swapped[5:], swapped[:5]]), W, rtol=1e-12, atol=1e-15)


def test_isometric_weights_have_the_norms_of_the_weights():
    X, y = gaussian(6, 50, seed=0)
    run = fit(X, y, TwoLayerNet(7, 0.5, 0.1, 0), steps=20)
    W, small = run.engine.weights()[0], run.engine.isometric_weights()[0]
    assert small.shape[1] < 50
    for rows in (slice(0, 7), slice(7, 14), slice(0, 14)):
        ours, dense = torch.linalg.svdvals(small[rows]), torch.linalg.svdvals(W[rows])
        torch.testing.assert_close(ours, dense, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(margins(W, run.data, 0.5), run.margins[-1, 0])


def test_more_points_than_dimensions_falls_back_to_plain_descent():
    data = training_set(*gaussian(20, 4, seed=0))
    assert choose_engine(data, "auto")[0] == "plain"
    X, y = gaussian(20, 4, seed=0)
    net = TwoLayerNet(3, 0.5, 0.1, 0)
    gram, plain = (fit(X, y, net, steps=200, engine=name).engine.weights() for name in ("gram", "auto"))
    assert relative_error(gram, plain) < 1e-11


def test_restored_engine_goes_on_to_the_last_bit():
    X, y = gaussian(8, 60, seed=2)
    data, nets = training_set(X, y), [TwoLayerNet(10, 0.1, 1e-2, 0), TwoLayerNet(10, 0.0, 1e-2, 1)]
    for name in ("plain", "gram", "reduced"):
        whole, _ = make_engine(data, nets, engine=name)
        whole.advance(150)
        state = {key: value.clone() for key, value in whole.state().items()}
        whole.advance(150)
        resumed, _ = make_engine(data, nets, engine=name)
        resumed.restore(state)
        resumed.advance(150)
        assert resumed.t == 300
        assert torch.equal(resumed.weights(), whole.weights())


def test_checkpoints_are_1_2_5_and_the_last(points):
    run = fit(*points, TwoLayerNet(m=3), steps=30)
    assert run.t.round().tolist() == [0, 1, 2, 5, 10, 20, 30]


def test_predictions_have_the_labels_signs(points, long_run):
    assert torch.equal(long_run.predict(points[0])[0].sign(), points[1])


def test_float32_is_warned_about(points, caplog):
    fit(points[0], points[1], TwoLayerNet(m=2), steps=100_001, dtype="float32")
    assert "float32 stalls" in caplog.text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"eta": 0.0}, "eta must be a finite number > 0, got 0"),
        ({"eta": float("inf")}, "eta must be a finite number > 0"),
        ({"eta": [1.0, 2.0]}, "one for each of the 1 networks"),
        ({"eta": "big"}, 'or "auto"'),
        ({"steps": -1}, "steps must be at least 0"),
        ({"engine": "fast"}, "engine must be auto, plain, gram or reduced"),
        ({"net": []}, "at least one network"),
        ({"net": [TwoLayerNet(m=2), TwoLayerNet(m=3)]}, "must share m"),
        ({"W0": torch.zeros(3, 3)}, "W0 must have shape"),
    ],
)
def test_bad_settings_name_the_argument(points, change, words):
    with pytest.raises(InputError, match=words.replace("(", r"\(")):
        fit(*points, **({"net": TwoLayerNet(m=2), "steps": 1} | change))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [({"m": 0}, "m must be"), ({"gamma": 1.0}, "gamma must be in"), ({"gamma": -0.1}, "gamma must be in"),
     ({"sigma0": -1.0}, "sigma0 must be"), ({"seed": -1}, "seed must be")],
)  # fmt: skip
def test_bad_networks_name_the_argument(arguments, words):
    with pytest.raises(InputError, match=words):
        TwoLayerNet(**arguments)


def test_total_width_counts_both_signs():
    assert TwoLayerNet.of_total_width(100) == TwoLayerNet(50)
    with pytest.raises(InputError, match="even"):
        TwoLayerNet.of_total_width(7)
