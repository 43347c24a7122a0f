"""The matrix of what a wrapper around an optimiser must get right, each item named."""

import copy
import math
import pickle
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sam_cnn import SAM, freeze_norm_stats, rho_from_lr
from sam_cnn.base import MIGRATION
from torch import nn


def quadratic(steps, **options):
    """Brief's reference: L = (w1^2 + 10 w2^2) / 2 from (1, -2)."""
    w = nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    optimizer = SAM([w], torch.optim.SGD, lr=0.01, **options)

    def closure():
        loss = 0.5 * (w[0] ** 2 + 10 * w[1] ** 2)
        loss.backward()
        return loss

    for _ in range(steps):
        optimizer.step(closure)
    return w.detach()


@pytest.mark.parametrize(
    ("steps", "options", "expected"),
    [
        (1, {"rho": 0.1}, (0.9899500624, -1.7900124766)),
        (1, {"rho": 0.1, "adaptive": True}, (0.9899750078, -1.7800062471)),
        (10, {"rho": 0.1, "momentum": 0.9}, (0.6159394432, 1.1333049237)),
        (10, {"rho": 0.1, "adaptive": True, "momentum": 0.9}, (0.6139637840, 1.1443586166)),
        (10, {"rho": 0.0, "momentum": 0.9}, (0.6210791125, 1.1775787776)),
    ],
)
def test_sam_and_asam_give_the_reference_values(steps, options, expected):
    assert quadratic(steps, **options).tolist() == pytest.approx(expected, abs=1e-10)


def _formula(model, loss_fn, rho, adaptive=False, eta=0.0):
    """The gradient at w + e, written out."""
    params = list(model.parameters())
    grads = torch.autograd.grad(loss_fn(model), params)
    factors = [p.detach().abs() + eta if adaptive else torch.ones_like(p) for p in params]
    norm = torch.sqrt(sum((t * g).square().sum() for t, g in zip(factors, grads, strict=True)))
    moved = copy.deepcopy(model)
    with torch.no_grad():
        for p, t, g in zip(moved.parameters(), factors, grads, strict=True):
            p.add_(rho * t**2 * g / norm)
    return grads, torch.autograd.grad(loss_fn(moved), list(moved.parameters()))


def _loss(data):
    return lambda model: nn.functional.cross_entropy(model(data[0]), data[1])


@pytest.mark.parametrize("options", [{}, {"adaptive": True}, {"adaptive": True, "eta": 0.01}])
def test_second_gradient_is_that_of_the_formula(data, make, options):
    model, optimizer, closure = make(data, rho=0.3, **options)
    _, expected = _formula(model, _loss(data), 0.3, options.get("adaptive", False), options.get("eta", 0.0))
    optimizer.step(closure)
    for param, gradient in zip(model.parameters(), expected, strict=True):
        assert torch.allclose(param.grad, gradient, rtol=1e-9, atol=1e-12)


def test_gsam_descends_along_its_decomposition(data, make):
    model, optimizer, closure = make(data, rho=0.2, variant="gsam", alpha=0.4)
    first, second = _formula(model, _loss(data), 0.2)
    a, b = (torch.cat([g.flatten() for g in grads]) for grads in (first, second))
    expected = b - 0.4 * (a - (a @ b) / (b @ b) * b)
    optimizer.step(closure)
    assert torch.allclose(torch.cat([p.grad.flatten() for p in model.parameters()]), expected, atol=1e-12)


def test_looksam_reuses_its_direction_between_ascents(data, make):
    model, optimizer, closure = make(data, rho=0.2, variant="looksam", interval=3, alpha=0.7)
    first, second = (torch.cat([g.flatten() for g in grads]) for grads in _formula(model, _loss(data), 0.2))
    direction = second - (second @ first) / (first @ first) * first
    calls = []

    def counted():
        calls.append(optimizer.steps)
        return closure()

    optimizer.step(counted)
    plain = torch.cat([g.flatten() for g in torch.autograd.grad(_loss(data)(model), list(model.parameters()))])
    optimizer.step(counted)
    found = torch.cat([p.grad.flatten() for p in model.parameters()])
    assert torch.allclose(found, plain + 0.7 * plain.norm() / direction.norm() * direction, atol=1e-12)
    optimizer.step(counted)
    optimizer.step(counted)
    assert calls == [0, 0, 1, 2, 3, 3]


def test_periodic_sam_takes_one_pass_between_ascents(data, make, same):
    model, optimizer, closure = make(data, rho=0.1, interval=2)
    twin, every, twin_closure = make(data, rho=0.1)
    optimizer.step(closure)
    every.step(twin_closure)
    assert same(model, twin)
    before = copy.deepcopy(model)
    optimizer.step(closure)
    reference = torch.autograd.grad(_loss(data)(before), list(before.parameters()))
    assert all(torch.allclose(p.grad, g) for p, g in zip(model.parameters(), reference, strict=True))


def test_looksam_with_a_zero_direction_does_not_divide_by_it():
    w = nn.Parameter(torch.tensor([1.0, 2.0]))
    optimizer = SAM([w], torch.optim.SGD, lr=0.1, variant="looksam", interval=2, rho=0.1)

    def closure():  # linear: both gradients are equal, g_v = 0
        (3 * w[0] + w[1]).backward()

    for _ in range(4):
        optimizer.step(closure)
    assert torch.allclose(w.detach(), torch.tensor([1.0 - 1.2, 2.0 - 0.4]))


@pytest.mark.parametrize("base", [torch.optim.SGD, torch.optim.AdamW])
def test_closure_and_two_call_forms_are_the_same_bits(data, make, same, base):
    model, optimizer, closure = make(data, base=base, rho=0.1)
    twin, two, twin_closure = make(data, base=base, rho=0.1)
    third, given, third_closure = make(data, base=base, rho=0.1, wrapped=True)
    for _ in range(4):
        loss = optimizer.step(closure)
        first = twin_closure()
        assert two.first_step(zero_grad=True)
        twin_closure()
        assert two.second_step(zero_grad=True)
        given.zero_grad()
        third_closure()
        given.step(third_closure, reuse_gradients=True)
        assert loss == first
    assert same(model, twin)
    assert same(model, third)


def test_rho_zero_is_the_base_optimiser_bit_for_bit_with_one_pass(data, make, same):
    for base in (torch.optim.SGD, torch.optim.Adam):
        model, optimizer, closure = make(data, base=base, rho=0.0, dropout=0.5)
        twin, plain, twin_closure = make(data, base=base, plain=True, dropout=0.5)
        for opt, run in ((optimizer, closure), (plain, twin_closure)):
            torch.manual_seed(1)
            for _ in range(3):
                opt.zero_grad()
                opt.step(run)
        assert same(model, twin)


def test_the_base_optimiser_is_built_with_the_same_bits_as_torchs_default(data, make, same):
    model, optimizer, closure = make(data, rho=0.1)
    twin, other, twin_closure = make(data, rho=0.1, foreach=False)
    assert optimizer.param_groups[0]["foreach"] is True
    assert other.param_groups[0]["foreach"] is False
    large = SAM([nn.Parameter(torch.empty(1 << 12, 1 << 11))], torch.optim.SGD, lr=0.1)
    assert large.param_groups[0]["foreach"] is None
    few = SAM([nn.Parameter(torch.empty(256, 256)) for _ in range(4)], torch.optim.SGD, lr=0.1)
    assert few.param_groups[0]["foreach"] is None  # python's loop is the faster
    assert SAM([nn.Parameter(torch.ones(1))], torch.optim.SGD, lr=0.1, fused=True).param_groups[0]["foreach"] is None
    for _ in range(3):
        optimizer.step(closure)
        other.step(twin_closure)
    assert same(model, twin)


def test_weights_are_restored_bit_exactly_and_keep_their_storage(data, make):
    model, optimizer, closure = make(data, rho=5.0)
    params = list(model.parameters())
    before, pointers = [p.detach().clone() for p in params], [p.data_ptr() for p in params]
    closure()
    optimizer.first_step(zero_grad=True)
    assert not any(torch.equal(p, b) for p, b in zip(params, before, strict=True))
    closure()
    optimizer.restore()
    assert all(torch.equal(p, b) for p, b in zip(params, before, strict=True))
    assert [p.data_ptr() for p in params] == pointers


def test_weights_are_restored_when_a_parameter_has_no_gradient_in_the_second_pass():
    a, b = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    optimizer = SAM([a, b], torch.optim.SGD, lr=0.0, rho=0.5)
    (a.sum() + b.sum()).backward()
    optimizer.first_step(zero_grad=True)
    a.sum().backward()
    optimizer.second_step()
    assert torch.equal(a, torch.ones(3))
    assert torch.equal(b, torch.ones(3))


def test_a_parameter_with_a_gradient_in_the_second_pass_only_is_stepped():
    a, b = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    optimizer = SAM([a, b], torch.optim.SGD, lr=0.1, rho=0.5)
    a.sum().backward()
    optimizer.first_step(zero_grad=True)
    (a.sum() + b.sum()).backward()
    optimizer.second_step()
    assert torch.allclose(b, torch.full((3,), 0.9))


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_weights_are_restored_when_the_second_pass_fails(data, make, error):
    model, optimizer, closure = make(data, rho=1.0)
    before = copy.deepcopy(model.state_dict())
    calls = []

    def fails():
        calls.append(1)
        if len(calls) == 2:
            raise error
        return closure()

    with pytest.raises(error):
        optimizer.step(fails)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    closure()
    with pytest.raises(error), optimizer.ascend():
        raise error
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    optimizer.step(closure)


@given(scale=st.floats(1e-30, 1e20), rho=st.floats(1e-6, 1e6), seed=st.integers(0, 99))
def test_restoring_is_exact_at_any_scale(scale, rho, seed):
    generator = torch.Generator().manual_seed(seed)
    w = nn.Parameter(torch.randn(17, generator=generator) * scale)
    before = w.detach().clone()
    optimizer = SAM([w], torch.optim.SGD, lr=0.1, rho=rho)
    w.grad = torch.randn(17, generator=generator)
    optimizer.first_step(zero_grad=True)
    optimizer.restore()
    assert torch.equal(w, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("norm", [1e-12, 1e-20, 1e-22, 1e-29])
def test_the_ascent_of_a_tiny_gradient_has_length_rho_too(norm, dtype):
    w = nn.Parameter(torch.zeros(1000, dtype=dtype))
    optimizer = SAM([w], torch.optim.SGD, lr=0.1, rho=0.05)
    direction = torch.randn(1000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    w.grad = (direction * (norm / direction.norm())).to(dtype)
    optimizer.first_step()
    assert torch.allclose(w.detach().double(), 0.05 * direction / direction.norm(), rtol=1e-5, atol=0)
    optimizer.second_step()


@pytest.mark.parametrize("power", [-90, -60, -40])
def test_the_ascent_has_the_same_bits_at_every_scale_of_the_loss(power):
    grad, ends = torch.randn(1000, generator=torch.Generator().manual_seed(0)), []
    for scale in (1.0, 2.0**power):
        w = nn.Parameter(torch.zeros(1000))
        optimizer = SAM([w], torch.optim.SGD, lr=0.1, rho=0.05)
        w.grad = grad * scale
        optimizer.first_step()
        ends.append(w.detach())
    assert torch.equal(*ends)


@pytest.mark.parametrize(("variant", "interval"), [("gsam", 1), ("looksam", 2)])
def test_variants_turn_tiny_gradients_as_large_ones(variant, interval):
    generator, turned = torch.Generator().manual_seed(0), []
    first, second = torch.randn(2, 1000, generator=generator)
    for scale in (1.0, 2.0**-80):
        w = nn.Parameter(torch.zeros(1000))
        optimizer = SAM([w], torch.optim.SGD, lr=0.0, rho=0.05, variant=variant, interval=interval)
        for grad in (first, second):
            w.grad = grad * scale
            optimizer.first_step()
            if optimizer.climbs:
                w.grad = second * scale
            optimizer.second_step()
        turned.append(w.grad / scale)
    assert torch.allclose(*turned, rtol=1e-5, atol=1e-6)


def test_parameter_groups_have_their_own_radius():
    a, b, c = (nn.Parameter(torch.zeros(2)) for _ in range(3))
    groups = [{"params": [a]}, {"params": [b], "rho": 0.5}, {"params": [c], "rho": 0.0}]
    for norm_over, norm in (("perturbed", math.sqrt(4.0)), ("all", math.sqrt(6.0))):
        optimizer = SAM(groups, torch.optim.SGD, rho=0.1, lr=0.1, norm_over=norm_over)
        for p in (a, b, c):
            p.grad = torch.ones(2)
        optimizer.first_step()
        for p, rho in ((a, 0.1), (b, 0.5), (c, 0.0)):
            assert torch.allclose(p, torch.full((2,), rho / norm))
        optimizer.second_step(zero_grad=True)
        with torch.no_grad():
            for p in (a, b, c):
                p.zero_()


def test_a_group_added_later_is_perturbed_and_seen_by_the_base():
    a, b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = SAM([a], torch.optim.SGD, lr=0.1, rho=0.1)
    optimizer.add_param_group({"params": [b], "rho": 0.7, "lr": 0.5})
    assert optimizer.base_optimizer.param_groups is optimizer.param_groups
    assert [group["rho"] for group in optimizer.param_groups] == [0.1, 0.7]
    with pytest.raises(ValueError, match="more than one parameter group"):
        optimizer.add_param_group({"params": [a]})


def test_tied_weights_and_views_work():
    shared = nn.Linear(4, 4, bias=False)
    model = nn.Sequential(shared, shared)
    optimizer = SAM(model.parameters(), torch.optim.SGD, lr=0.1)
    before = shared.weight.detach().clone()
    view = shared.weight.detach().view(-1)

    def closure():
        loss = model(torch.ones(1, 4)).square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert not torch.equal(shared.weight, before)
    assert view.data_ptr() == shared.weight.data_ptr()


@pytest.mark.parametrize("layout", ["channels_last", "gaps"])
def test_any_memory_layout_is_perturbed_and_restored(layout):
    torch.manual_seed(0)
    data = torch.randn(4, 3, 5, 5).contiguous(memory_format=torch.channels_last) if layout == "channels_last" else None
    w = nn.Parameter(data if data is not None else torch.randn(6, 8)[:, :5])
    optimizer = SAM([w], torch.optim.SGD, lr=0.0, rho=0.3)
    before = w.detach().clone()
    gradient = torch.arange(float(w.numel())).view(w.shape)
    w.grad = gradient.clone()
    optimizer.first_step()
    assert torch.allclose(w, before + 0.3 * gradient / gradient.norm())
    optimizer.second_step()
    assert torch.equal(w, before)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_batch_norm_running_statistics_see_the_first_pass_only(data, make, momentum):
    model, optimizer, closure = make(data, rho=2.0, momentum=momentum)
    optimizer.model = model
    optimizer._reset_transients()
    twin, _, twin_closure = make(data, plain=True, momentum=momentum)
    optimizer.step(closure)
    twin_closure()
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        assert torch.equal(getattr(model.norm, name), getattr(twin.norm, name)), name
    closure()
    optimizer.first_step(zero_grad=True)
    twin.load_state_dict(model.state_dict())
    model.zero_grad()
    optimizer.restore()
    before = copy.deepcopy(model.norm.state_dict())
    with freeze_norm_stats(model), freeze_norm_stats(model):  # twice does no harm
        closure()
    assert all(torch.equal(value, before[name]) for name, value in model.norm.state_dict().items())


@pytest.mark.parametrize("layer", [nn.InstanceNorm2d(3, track_running_stats=True), nn.SyncBatchNorm(3)])
def test_instance_and_sync_batch_norm_are_covered(layer):
    before = {name: value.clone() for name, value in layer.named_buffers()}
    with freeze_norm_stats(layer):
        if isinstance(layer, nn.InstanceNorm2d):
            layer(torch.randn(2, 3, 4, 4))
            assert not torch.equal(layer.running_mean, before["running_mean"])
        else:
            layer.running_mean.add_(1)
    assert all(torch.equal(value, before[name]) for name, value in layer.named_buffers())


def test_the_model_option_keeps_statistics_in_both_forms(data, make):
    model, _, closure = make(data)
    optimizer = SAM(model.parameters(), torch.optim.SGD, lr=0.05, rho=2.0, model=model)
    optimizer.step(closure)
    assert model.norm.num_batches_tracked == 1
    closure()
    optimizer.first_step(zero_grad=True)
    closure()
    optimizer.second_step()
    assert model.norm.num_batches_tracked == 2


def test_dropout_masks_are_replayed_and_the_stream_goes_on(data, make):
    for form in ("closure", "two calls"):
        model, optimizer, closure = make(data, dropout=0.5, rho=1e-12, same_rng=True)
        seen = []
        model.drop.register_forward_hook(lambda _, i, o, seen=seen: seen.append(o == 0))
        torch.manual_seed(3)
        if form == "closure":
            optimizer.step(closure)
        else:
            optimizer.record_rng()
            closure()
            optimizer.first_step(zero_grad=True)
            closure()
            optimizer.second_step()
        after = torch.rand(1)
        assert torch.equal(seen[0], seen[1])
        torch.manual_seed(3)
        model(data[0])
        assert torch.equal(torch.rand(1), after)
    other, optimizer, closure = make(data, dropout=0.5, rho=1e-12)
    fresh = []
    other.drop.register_forward_hook(lambda _, i, o: fresh.append(o == 0))
    optimizer.step(closure)
    assert not torch.equal(fresh[0], fresh[1])


def test_replay_without_a_recorded_state_is_an_error(data, make):
    _, optimizer, closure = make(data, same_rng=True)
    closure()
    with pytest.raises(RuntimeError, match="record_rng"):
        optimizer.first_step()


def test_clipping_applies_to_the_second_gradient_only(data, make):
    model, optimizer, closure = make(data, rho=0.3)
    _, expected = _formula(model, _loss(data), 0.3)
    norm = torch.sqrt(sum(g.square().sum() for g in expected))
    optimizer.step(closure, clip_norm=0.01)
    for param, gradient in zip(model.parameters(), expected, strict=True):
        assert torch.allclose(param.grad, gradient * 0.01 / norm, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("base", [torch.optim.SGD, torch.optim.AdamW])
@pytest.mark.parametrize("variant", ["sam", "looksam"])
def test_state_dict_round_trips_everything_and_resuming_is_bit_exact(data, make, same, base, variant):
    options = {"rho": 0.1, "variant": variant} | ({"interval": 3} if variant == "looksam" else {})
    model, optimizer, closure = make(data, base=base, **options)
    for _ in range(5):
        optimizer.step(closure)
    weights = copy.deepcopy(model.state_dict())
    saved = pickle.loads(pickle.dumps(optimizer.state_dict()))
    twin, resumed, twin_closure = make(data, base=base, seed=7, **(options | {"rho": 0.9}))
    twin.load_state_dict(weights)
    resumed.load_state_dict(saved)
    assert resumed.param_groups is resumed.base_optimizer.param_groups
    assert resumed.state is resumed.base_optimizer.state
    assert (resumed.steps, resumed.param_groups[0]["rho"]) == (5, 0.1)
    for _ in range(4):
        optimizer.step(closure)
        resumed.step(twin_closure)
    assert same(model, twin)


def test_state_dict_holds_no_copy_of_the_weights(data, make):
    _, optimizer, closure = make(data, rho=0.1)
    optimizer.step(closure)
    state = optimizer.state_dict()
    assert {name for entry in state["state"].values() for name in entry} == {"momentum_buffer"}
    assert state["sam"]["directions"] == {}


def test_states_of_a_plain_optimiser_and_of_the_popular_package_load(data, make):
    model, plain, closure = make(data, plain=True)
    closure()
    plain.step()
    _, optimizer, _ = make(data, rho=0.3)
    optimizer.load_state_dict(plain.state_dict())
    assert optimizer.param_groups[0]["rho"] == 0.3
    assert len(optimizer.state) == len(list(model.parameters()))
    foreign = plain.state_dict()
    foreign["state"] = {index: {"old_p": torch.zeros(1)} for index in foreign["state"]}
    optimizer.load_state_dict(foreign)
    assert not optimizer.state


def test_saving_or_loading_between_the_passes_is_refused(data, make):
    _, optimizer, closure = make(data)
    state = optimizer.state_dict()
    closure()
    optimizer.first_step()
    with pytest.raises(RuntimeError, match="save after second_step"):
        optimizer.state_dict()
    with pytest.raises(RuntimeError, match="perturbed"):
        optimizer.load_state_dict(state)


def test_a_state_of_other_groups_or_another_variant_is_refused(data, make):
    _, optimizer, _ = make(data)
    other = SAM([nn.Parameter(torch.ones(1))], torch.optim.SGD, lr=0.1).state_dict()
    with pytest.raises(ValueError, match="doesn't match"):
        optimizer.load_state_dict(other)
    _, looksam, _ = make(data, variant="looksam")
    with pytest.raises(ValueError, match="variant 'looksam'"):
        optimizer.load_state_dict(looksam.state_dict())


def test_copies_and_pickles_go_on_by_themselves(data, make, same):
    model, optimizer, closure = make(data, rho=0.1)
    optimizer.step(closure)
    twin, copied = copy.deepcopy((model, optimizer))
    assert copied.base_optimizer.param_groups[0]["params"][0] is next(twin.parameters())

    def twin_closure():
        loss = _loss(data)(twin)
        loss.backward()
        return loss

    optimizer.step(closure)
    copied.step(twin_closure)
    assert same(model, twin)
    assert pickle.loads(pickle.dumps(optimizer)).steps == 2


@pytest.mark.parametrize("on", ["wrapper", "base"])
@pytest.mark.parametrize("form", ["closure", "two calls"])
def test_learning_rate_schedulers_work_on_either_and_do_not_warn(data, make, on, form):
    _, optimizer, closure = make(data, rho=0.1)
    target = optimizer if on == "wrapper" else optimizer.base_optimizer
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scheduler = torch.optim.lr_scheduler.StepLR(target, 1, 0.5)
        for _ in range(2):
            if form == "closure":
                optimizer.step(closure)
            else:
                closure()
                optimizer.first_step(zero_grad=True)
                closure()
                optimizer.second_step(zero_grad=True)
            scheduler.step()
    assert optimizer.base_optimizer.param_groups[0]["lr"] == 0.0125


def test_gsams_radius_follows_the_learning_rate(data, make):
    _, optimizer, _ = make(data, variant="gsam")
    rho_from_lr(optimizer, (0.01, 0.05), (0.0, 0.1))
    assert optimizer.param_groups[0]["rho"] == pytest.approx(0.03)
    with pytest.raises(ValueError, match="lr_max > lr_min"):
        rho_from_lr(optimizer, (0.01, 0.05), (0.1, 0.1))


@pytest.mark.parametrize("where", [1, 2])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_non_finite_gradients_are_skipped_and_reported(data, make, caplog, where, value):
    model, optimizer, closure = make(data, rho=0.1)
    optimizer.step(closure)
    before = copy.deepcopy(dict(model.named_parameters()))
    calls = []

    def bad():
        calls.append(1)
        loss = closure()
        if len(calls) == where:
            model.head.weight.grad[0, 0] = value
        return loss

    optimizer.step(bad)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert (optimizer.steps, optimizer.skipped) == (1, 1)
    assert ("first" if where == 1 else "second") in optimizer.last_skip
    assert "step 2 skipped" in caplog.text
    assert len(calls) == where
    optimizer.step(closure)
    assert optimizer.last_skip is None
    assert optimizer.steps == 2


def test_a_non_finite_loss_is_a_non_finite_gradient(data, make):
    model, optimizer, _ = make(data)

    def closure():
        loss = _loss(data)(model) * math.nan
        loss.backward()
        return loss

    assert math.isnan(optimizer.step(closure))
    assert optimizer.skipped == 1


def test_zero_gradients_move_nothing_and_make_no_nan():
    w = nn.Parameter(torch.ones(3))
    optimizer = SAM([w], torch.optim.SGD, lr=0.1)
    optimizer.step(lambda: (w * 0).sum().backward())
    assert torch.equal(w, torch.ones(3))


def test_no_gradient_at_all_warns_once_and_does_nothing():
    w = nn.Parameter(torch.ones(3))
    optimizer = SAM([w], torch.optim.SGD, lr=0.1)
    with pytest.warns(UserWarning, match="no gradient at all"):
        optimizer.step(lambda: None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step(lambda: None)
    assert torch.equal(w, torch.ones(3))


def test_half_precision_norms_do_not_overflow():
    w = nn.Parameter(torch.ones(64, dtype=torch.float16))
    optimizer = SAM([w], torch.optim.SGD, lr=0.0, rho=1.0)
    w.grad = torch.full((64,), 6e4, dtype=torch.float16)  # norm 4.8e5
    assert optimizer.first_step()
    assert torch.allclose(w, torch.full((64,), 1.125, dtype=torch.float16))
    optimizer.second_step()
    b = nn.Parameter(torch.ones(8, dtype=torch.bfloat16))
    c = nn.Parameter(torch.ones(8))
    mixed = SAM([b, c], torch.optim.SGD, lr=0.0, rho=0.1)
    b.grad, c.grad = torch.ones_like(b), torch.ones_like(c)
    mixed.first_step()
    assert torch.allclose(c, torch.full((8,), 1.025))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_default_dtype_and_device_do_not_matter(data, make, same, dtype):
    model, optimizer, closure = make(data, rho=0.1)
    twin, other, twin_closure = make(data, rho=0.1)
    optimizer.step(closure)
    torch.set_default_dtype(dtype)
    try:
        with torch.device("meta"):
            other.step(twin_closure)
    finally:
        torch.set_default_dtype(torch.float32)
    assert same(model, twin)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_inner_products_of_half_precision_gradients_do_not_overflow(dtype):
    first, second = torch.full((1000,), 20.0), torch.cat([torch.full((500,), 30.0), torch.full((500,), 10.0)])
    for variant in ("gsam", "looksam"):
        found = []
        for kind in (dtype, torch.float32):
            w = nn.Parameter(torch.zeros(1000, dtype=kind))
            optimizer = SAM([w], torch.optim.SGD, lr=1.0, rho=0.1, variant=variant, interval=2)
            for gradient in (first, second, first):  # the third is looksam's step with one pass
                w.grad = gradient.to(kind)
                optimizer.first_step() if gradient is first else optimizer.second_step()
            optimizer.second_step()
            assert optimizer.skipped == 0
            found.append(w.detach().float())
        assert torch.allclose(*found, rtol=0.02)


def test_a_model_converted_between_steps_gets_new_buffers(data, make):
    model, optimizer, _ = make(data, rho=1.0)
    optimizer.step(lambda: model(data[0]).square().mean().backward())
    model.half().float()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.rand_like(p))
    before = [p.detach().clone() for p in model.parameters()]
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.first_step(zero_grad=True)
    optimizer.restore()
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))


def test_foreach_makes_no_flattening_copies_and_one_extra_copy_of_the_weights():
    from torch.utils._python_dispatch import TorchDispatchMode

    class Allocations(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.largest, self.total, self.names = 0, 0, set()

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            known = {t.untyped_storage().data_ptr() for t in torch.utils._pytree.tree_leaves((args, kwargs))
                     if isinstance(t, torch.Tensor)}  # fmt: skip
            for tensor in torch.utils._pytree.tree_leaves(out):
                if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() not in known:
                    self.largest = max(self.largest, tensor.numel())
                    self.total += tensor.numel()
            self.names.add(function.overloadpacket.__name__)
            return out

    params = [nn.Parameter(torch.randn(50, 50)) for _ in range(20)]
    for adaptive in (False, True):
        optimizer = SAM(params, torch.optim.SGD, lr=0.1, adaptive=adaptive)
        for extra in (20 * 2500, 0):  # the backup once, then nothing
            for p in params:
                p.grad = torch.randn(50, 50)
            with Allocations() as seen:
                optimizer.first_step(zero_grad=True)
                optimizer.restore()
            assert seen.total - extra < 200  # norms
            assert seen.largest <= 2500
            assert not seen.names & {"cat", "clone", "_flatten"}


def test_complex_parameters_work_and_adaptive_ones_are_refused():
    w = nn.Parameter(torch.tensor([1 + 1j, 2 - 1j]))
    optimizer = SAM([w], torch.optim.SGD, lr=0.1, rho=0.1)
    w.grad = torch.tensor([3 + 0j, 0 + 4j])
    optimizer.first_step()
    assert torch.allclose(w.detach(), torch.tensor([1.06 + 1j, 2 - 0.92j]))
    optimizer.second_step()
    adaptive = SAM([w], torch.optim.SGD, lr=0.1, rho=0.1, adaptive=True)
    w.grad = torch.ones_like(w)
    with pytest.raises(ValueError, match="complex"):
        adaptive.first_step()


def test_sparse_gradients_are_refused_with_a_way_out():
    table = nn.Embedding(5, 2, sparse=True)
    optimizer = SAM(table.parameters(), torch.optim.SGD, lr=0.1)
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(ValueError, match="sparse=False"):
        optimizer.first_step()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda w: SAM([w], torch.optim.SGD, -0.1, lr=0.1), "rho must be a finite number >= 0, got -0.1"),
        (lambda w: SAM([w], torch.optim.SGD, math.nan, lr=0.1), "got nan"),
        (lambda w: SAM([{"params": [w], "rho": -1.0}], torch.optim.SGD, lr=0.1), "got -1.0"),
        (lambda w: SAM([], torch.optim.SGD, lr=0.1), "empty parameter list"),
        (lambda w: SAM([w], torch.optim.SGD, "0.1", lr=0.1), "rho must be a finite number >= 0, got '0.1'"),
        (lambda w: SAM([w], torch.optim.SGD, True, lr=0.1), "got True"),
        (lambda w: SAM([w], "sgd", lr=0.1), "base_optimizer must be an optimiser's class"),
        (lambda w: SAM(nn.Linear(2, 2), torch.optim.SGD, lr=0.1), "params is a module"),
        (lambda w: SAM([w], torch.optim.SGD, lr=0.1, model="x"), "model must be a torch.nn.Module, got 'x'"),
        (lambda w: SAM([w], lr=0.1), "needs a base optimiser"),
        (lambda w: SAM([w], torch.optim.LBFGS, lr=0.1), "LBFGS runs closures of its own"),
        (lambda w: SAM([w], torch.optim.SGD([w], lr=0.1)), "is an instance"),
        (lambda w: SAM(torch.optim.SGD([w], lr=0.1), lr=0.1), "takes no base optimiser"),
        (lambda w: SAM(SAM([w], torch.optim.SGD, lr=0.1)), "around SAM"),
        (lambda w: SAM([w], torch.optim.SGD, lr=0.1, variant="x"), "sam, gsam, looksam"),
        (lambda w: SAM([w], torch.optim.SGD, lr=0.1, interval=0), "interval"),
        (lambda w: SAM([w], torch.optim.SGD, lr=0.1, alpha=0.1), "alpha belongs"),
        (lambda w: SAM([w], torch.optim.SGD, lr=0.1, eta=-1.0), "eta"),
        (lambda w: SAM([w], torch.optim.SGD, lr=0.1, norm_over="x"), "norm_over"),
        (lambda w: SAM([{"params": [w]}, {"params": [w]}], torch.optim.SGD, lr=0.1), "more than one parameter group"),
        (lambda w: SAM([w], torch.optim.SGD, lr=0.1).step(), "needs a closure"),
    ],
)
def test_bad_input_is_a_value_error_that_names_it(call, words):
    with pytest.raises(ValueError, match=words):
        call(nn.Parameter(torch.ones(2)))


@pytest.mark.parametrize("name", ["perturb_eps", "use_gc"])
def test_an_option_of_another_sam_points_to_the_readme(name):
    with pytest.raises(TypeError, match=f"SGD.*{name}.*{MIGRATION}"):
        SAM([nn.Parameter(torch.ones(2))], torch.optim.SGD, lr=0.1, **{name: 1e-12})
    readme = Path(__file__).parents[1] / "README.md"
    assert f"### {MIGRATION}\n" in readme.read_text(encoding="utf-8")


def test_the_order_of_calls_is_checked(data, make):
    _, optimizer, closure = make(data)
    with pytest.raises(RuntimeError, match="without first_step"):
        optimizer.second_step()
    closure()
    optimizer.first_step()
    with pytest.raises(RuntimeError, match="called twice"):
        optimizer.first_step()
    with pytest.raises(RuntimeError, match="inside another step"):
        optimizer.step(closure)
    optimizer.second_step()


def test_a_loss_without_gradient_leaves_the_weights(data, make):
    model, optimizer, _ = make(data)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(RuntimeError, match="does not require grad"):
        optimizer.step(lambda: torch.ones(()).backward())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_second_pass_that_was_not_needed_does_no_harm(data, make, same):
    """The popular loop ignores what first_step returns."""
    nets = []
    for loop in (False, True):
        model, _, closure = make(data, dropout=0.5)
        optimizer = SAM(model.parameters(), torch.optim.SGD, lr=0.05, rho=0.1, interval=2, model=model, same_rng=True)
        torch.manual_seed(4)
        for step in range(4):
            if step == 2:  # a first pass that is not finite
                optimizer.record_rng()
                closure()
                model.head.bias.grad[0] = math.nan
                optimizer.first_step(zero_grad=True)
                if loop:
                    closure()
                optimizer.second_step(zero_grad=True)
            if not loop:
                optimizer.step(closure)
                continue
            optimizer.record_rng()
            closure()
            optimizer.first_step(zero_grad=True)
            closure()
            optimizer.second_step(zero_grad=True)
        assert optimizer.skipped == 1
        nets.append(model)
    assert same(*nets)


def test_torch_hooks_of_the_optimiser_run(data, make):
    _, optimizer, closure = make(data)
    seen = []
    optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
    optimizer.register_step_post_hook(lambda *_: seen.append("after"))
    optimizer.base_optimizer.register_step_post_hook(lambda *_: seen.append("base"))
    optimizer.step(closure)
    assert seen == ["before", "base", "after"]
    assert "rho: 0.05" in repr(optimizer)
