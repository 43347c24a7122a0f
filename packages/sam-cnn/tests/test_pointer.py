"""restore="pointer": the same bits as restore="copy", and refused where somebody would notice the exchange."""

import copy
import math
import pickle
import weakref

import pytest
import torch
from sam_cnn import SAM, SAMTrainerMixin, restoring, sam_step
from torch import nn


def _loss(model, data):
    return nn.functional.cross_entropy(model(data[0]), data[1])


def _two_calls(optimizer, closure, zero_grad):
    optimizer.zero_grad()
    optimizer.record_rng()
    loss = closure()
    optimizer.first_step(zero_grad=zero_grad)
    again = closure()
    assert again.requires_grad
    optimizer.second_step(zero_grad=True)
    return loss


@pytest.mark.parametrize("form", ["closure", "two calls", "gradients kept"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"adaptive": True},
        {"adaptive": True, "eta": 0.01},
        {"variant": "gsam"},
        {"variant": "looksam", "interval": 3},
        {"interval": 2},
        {"same_rng": True, "dropout": 0.5},
        {"base": torch.optim.AdamW},
        {"wrapped": True},
    ],
)
def test_every_variant_takes_the_same_steps_as_with_copies(data, make, same, options, form):
    model, optimizer, closure = make(data, rho=0.5, **options)
    twin, pointer, twin_closure = make(data, rho=0.5, restore="pointer", **options)
    for _ in range(5):
        losses = []
        for sam, run in ((optimizer, closure), (pointer, twin_closure)):
            torch.manual_seed(3)
            losses.append(sam.step(run) if form == "closure" else _two_calls(sam, run, form == "two calls"))
        assert torch.equal(*losses)
    assert same(model, twin)
    assert pointer.steps == 5


@pytest.mark.parametrize("ascent", ["full", "micro"])
def test_accumulation_m_sam_scaler_and_clipping_are_the_same_too(data, make, same, ascent):
    nets = []
    for restore in ("copy", "pointer"):
        model, optimizer, _ = make(data, rho=0.5, restore=restore)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
        batches = list(zip(data[0].split(4), data[1].split(4), strict=True))
        for _ in range(3):
            sam_step(
                optimizer, lambda batch, net=model: _loss(net, batch), batches, ascent=ascent, scaler=scaler,
                clip_norm=0.1,
            )  # fmt: skip
            scaler.update()
        nets.append(model)
    assert same(*nets)


def test_a_trainers_accumulated_gradients_are_the_same(data, make, same):
    class Base:
        def training_step(self, model, inputs):
            loss = _loss(model, inputs["batch"])
            loss.backward()
            return loss.detach()

    class Trainer(SAMTrainerMixin, Base):
        pass

    nets = []
    for restore in ("copy", "pointer"):
        model, plain, _ = make(data, plain=True)
        trainer = Trainer()
        trainer.sam_options = {"rho": 0.5, "restore": restore}
        trainer.optimizer, trainer.state = plain, type("State", (), {"global_step": 0})()
        for _ in range(2):
            for batch in zip(data[0].split(4), data[1].split(4), strict=True):
                trainer.training_step(model, {"batch": batch})
            plain.step()
            plain.zero_grad()
        nets.append(model)
    assert same(*nets)


def test_groups_of_their_own_radius_and_steps_left_out_are_the_same(data, make, same):
    nets = []
    for restore in ("copy", "pointer"):
        model, _, closure = make(data)
        groups = [
            {"params": list(model.conv.parameters()), "rho": 0.0},
            {"params": list(model.norm.parameters()), "adaptive": True, "rho": 1.0},
            {"params": list(model.head.parameters())},
        ]
        sgd = torch.optim.SGD
        optimizer = SAM(groups, sgd, lr=0.05, rho=0.3, norm_over="all", model=model, restore=restore)
        for bad in (0, 1, 2, 0):
            calls = []

            def run(bad=bad, calls=calls, model=model, closure=closure):
                calls.append(1)
                loss = closure()
                if len(calls) == bad:
                    model.head.weight.grad[0, 0] = math.nan
                return loss

            optimizer.step(run)
        assert (optimizer.steps, optimizer.skipped) == (2, 2)
        nets.append(model)
    assert same(*nets)


def test_weights_come_back_bit_for_bit_to_their_own_memory(data, make):
    model, optimizer, closure = make(data, rho=5.0, restore="pointer")
    params = list(model.parameters())
    before, own = [p.detach().clone() for p in params], [p.data_ptr() for p in params]
    for _ in range(2):
        closure()
        optimizer.first_step(zero_grad=True)
        assert not any(torch.equal(p, b) for p, b in zip(params, before, strict=True))
        assert model.head.weight.data_ptr() not in own
        closure()
        optimizer.restore()
        assert all(torch.equal(p, b) for p, b in zip(params, before, strict=True))
        assert [p.data_ptr() for p in params] == own
        optimizer.second_step(zero_grad=True)
        assert [p.data_ptr() for p in params] == own
        before = [p.detach().clone() for p in params]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_weights_are_restored_when_the_second_pass_or_the_ascent_fails(data, make, monkeypatch, error):
    model, optimizer, closure = make(data, rho=1.0, restore="pointer")
    before, own = copy.deepcopy(model.state_dict()), model.head.weight.data_ptr()
    calls = []

    def fails():
        calls.append(1)
        if len(calls) == 2:
            raise error
        return closure()

    with pytest.raises(error):
        optimizer.step(fails)
    closure()
    with pytest.raises(error), optimizer.ascend():
        raise error
    increment, raised = restoring.increment_version, []

    def fails_once(params):
        increment(params)
        if not raised:
            raised.append(1)
            raise error

    monkeypatch.setattr(restoring, "increment_version", fails_once)
    with pytest.raises(error):
        optimizer.step(closure)
    assert raised
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert model.head.weight.data_ptr() == own
    optimizer.step(closure)


def test_a_parameter_used_twice_is_fine_and_a_view_sees_the_step():
    nets = []
    for restore in ("copy", "pointer"):
        torch.manual_seed(0)
        shared = nn.Linear(16, 16, bias=False)
        model = nn.Sequential(shared, shared)
        optimizer = SAM(model.parameters(), torch.optim.SGD, lr=0.1, rho=0.5, restore=restore)
        view = shared.weight.detach().view(-1)
        for _ in range(3):
            optimizer.step(lambda net=model: net(torch.ones(1, 16)).square().sum().backward())
        assert torch.equal(view, shared.weight.detach().flatten())
        nets.append(shared.weight)
    assert torch.equal(*nets)


def test_a_view_sees_the_weights_of_before_the_ascent_in_the_second_pass():
    w = nn.Parameter(torch.ones(128))
    view = w.detach()[:]
    optimizer = SAM([w], torch.optim.SGD, lr=0.1, rho=0.5, restore="pointer")
    w.grad = torch.ones(128)
    optimizer.first_step(zero_grad=True)
    assert torch.equal(view, torch.ones(128))
    assert w.min() > 1


def test_memory_that_is_shared_is_refused():
    a = nn.Parameter(torch.ones(8, 8))
    b = nn.Parameter(a.data[2:4])
    with pytest.raises(ValueError, match="two tensors in one memory"):
        SAM([a, b], torch.optim.SGD, lr=0.1, restore="pointer")
    model = nn.Linear(8, 8)
    model.register_buffer("view", model.weight.detach()[0])
    with pytest.raises(ValueError, match="two tensors in one memory"):
        SAM(model.parameters(), torch.optim.SGD, lr=0.1, model=model, restore="pointer")
    optimizer = SAM([a], torch.optim.SGD, lr=0.1, restore="pointer")
    with pytest.raises(ValueError, match="two tensors in one memory"):
        optimizer.add_param_group({"params": [b]})
    assert len(optimizer.param_groups) == 1
    halves = torch.ones(2, 8)  # beside each other, as flattened recurrent layers have their weights
    with pytest.raises(ValueError, match="flattened recurrent layers"):
        SAM([nn.Parameter(halves[0]), nn.Parameter(halves[1])], torch.optim.SGD, lr=0.1, restore="pointer")


def test_recurrent_layers_and_tensors_without_elements_take_the_same_steps():
    nets = []
    for restore in ("copy", "pointer"):
        torch.manual_seed(0)
        layer = nn.LSTM(3, 5, num_layers=2, batch_first=True)
        params = [*layer.parameters(), nn.Parameter(torch.empty(0, 3))]
        optimizer = SAM(params, torch.optim.Adam, lr=0.01, rho=0.5, restore=restore)
        for _ in range(3):
            optimizer.step(lambda net=layer: net(torch.ones(2, 4, 3))[0].square().mean().backward())
        nets.append(torch.cat([p.detach().flatten() for p in params]))
    assert torch.equal(*nets)


def test_state_stays_keyed_by_the_parameters_and_hooks_see_both_passes(data, make):
    model, optimizer, closure = make(data, rho=0.5, restore="pointer")
    weight, seen = model.head.weight, []
    weight.register_hook(lambda grad: seen.append("gradient"))
    weight.register_post_accumulate_grad_hook(lambda p: seen.append(p is weight))
    optimizer.step(closure)
    momentum = optimizer.state[weight]["momentum_buffer"]
    optimizer.step(closure)
    assert seen == ["gradient", True] * 4
    assert optimizer.state[weight]["momentum_buffer"] is momentum
    assert set(optimizer.state) == set(model.parameters())


def test_process_groups_and_other_kinds_of_tensors_are_refused(data, make, monkeypatch):
    class Special(torch.Tensor):
        pass

    special = nn.Parameter(torch.ones(3).as_subclass(Special))
    with pytest.raises(ValueError, match="needs plain tensors, got a Special"):
        SAM([special], torch.optim.SGD, lr=0.1, restore="pointer")
    with pytest.raises(ValueError, match="restore must be copy or pointer, got 'move'"):
        make(data, restore="move")
    model, built_before, closure = make(data, restore="pointer")
    before = copy.deepcopy(dict(model.named_parameters()))
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    with pytest.raises(ValueError, match="restore='pointer' is for one process"):
        make(data, restore="pointer")
    with pytest.raises(ValueError, match="restore='pointer' is for one process"):
        built_before.step(closure)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_gradients_of_any_layout_are_left_alone():
    flat = torch.arange(256.0)
    for gradient in (torch.ones(1).expand(16, 16), flat.view(16, 16), flat.view(16, 16).t()):
        ends = []
        for restore in ("copy", "pointer"):
            w = nn.Parameter(torch.linspace(-1, 1, 256).view(16, 16))
            before = gradient.clone()
            optimizer = SAM([w], torch.optim.SGD, lr=0.1, rho=0.7, restore=restore)
            w.grad = gradient
            optimizer.first_step(zero_grad=True)
            assert torch.equal(gradient, before)
            ends.append(w.detach().clone())
            optimizer.second_step()
            assert w.stride() == (16, 1)
        assert torch.equal(*ends)


def test_complex_and_channels_last_parameters_are_the_same():
    for weights in (
        torch.randn(12, 12, dtype=torch.complex64),
        torch.randn(4, 3, 5, 5).contiguous(memory_format=torch.channels_last),
        torch.randn(16, 20)[:, :15],
    ):
        ends = []
        for restore in ("copy", "pointer"):
            w = nn.Parameter(weights.clone(memory_format=torch.preserve_format))
            optimizer = SAM([w], torch.optim.SGD, lr=0.1, rho=0.5, restore=restore)
            for _ in range(3):
                optimizer.step(lambda w=w: ((w - 1).abs() ** 2 * torch.arange(w.shape[-1])).sum().backward())
            ends.append(w.detach())
        assert torch.equal(*ends)


def test_checkpoints_pass_between_both_settings_in_the_middle_of_training(data, make, same, tmp_path):
    model, optimizer, closure = make(data, rho=0.5, variant="looksam", interval=2)
    twin, pointer, twin_closure = make(data, rho=0.5, variant="looksam", interval=2, restore="pointer")
    for _ in range(3):
        optimizer.step(closure)
        pointer.step(twin_closure)
    torch.save((twin.state_dict(), pointer.state_dict()), tmp_path / "state.pt")
    weights, state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert state.keys() == optimizer.state_dict().keys()
    third, resumed, third_closure = make(data, rho=0.5, variant="looksam", interval=2, restore="pointer", seed=1)
    third.load_state_dict(weights)
    resumed.load_state_dict(state)
    pointer.load_state_dict(copy.deepcopy(optimizer.state_dict()))  # torch would share the momentum
    for _ in range(3):
        optimizer.step(closure)
        pointer.step(twin_closure)
        resumed.step(third_closure)
    assert same(model, twin)
    assert same(model, third)
    twin_closure()
    while not pointer.first_step():  # looksam's steps with one pass
        pointer.second_step()
    with pytest.raises(RuntimeError, match="save after second_step"):
        pointer.state_dict()


def test_copies_of_model_and_optimiser_go_their_own_way(data, make, same):
    model, optimizer, closure = make(data, rho=0.5, restore="pointer")
    optimizer.step(closure)
    twin, copied = copy.deepcopy((model, optimizer))

    def twin_closure():
        loss = _loss(twin, data)
        loss.backward()
        return loss

    for _ in range(2):
        optimizer.step(closure)
        copied.step(twin_closure)
    assert same(model, twin)
    assert pickle.loads(pickle.dumps(optimizer)).steps == 3


@pytest.mark.parametrize("when", ["between steps", "between passes"])
def test_a_model_converted_meanwhile_keeps_its_weights(data, make, when):
    model, optimizer, _ = make(data, rho=1.0, restore="pointer")
    before = [p.detach().clone() for p in model.parameters()]
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.first_step(zero_grad=True)
    if when == "between passes":
        model.float()
    optimizer.restore()
    optimizer.second_step()
    if when == "between steps":
        model.float()
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        optimizer.first_step(zero_grad=True)
        optimizer.second_step()
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert all(torch.equal(p, b.float()) for p, b in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize("moment", ["after the ascent", "after the way back"])
def test_a_backward_pass_through_other_weights_fails_as_with_changes_in_place(moment):
    w = nn.Parameter(torch.ones(128))
    optimizer = SAM([w], torch.optim.SGD, lr=0.1, rho=0.5, restore="pointer")
    w.grad = torch.ones(128)
    stale = w.square().sum()
    optimizer.first_step(zero_grad=True)
    if moment == "after the way back":
        stale = w.square().sum()
        optimizer.restore()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        stale.backward()


def test_it_holds_one_extra_copy_of_the_weights():
    params = [nn.Parameter(torch.randn(50, 50)) for _ in range(20)]
    optimizer = SAM(params, torch.optim.SGD, lr=0.1, restore="pointer")
    earlier = []
    for _ in range(3):
        for p in params:
            p.grad = torch.randn(50, 50)
        optimizer.first_step(zero_grad=True)
        assert not any(there() is not None for there in earlier)
        (_, _, moved) = optimizer._weights._moved[0]
        assert len(moved) == len(params)
        earlier = [weakref.ref(tensor) for tensor in moved]
        del moved
        optimizer.second_step(zero_grad=True)


@pytest.mark.parametrize("what", ["model", "whole step"])
def test_torch_compile_is_safe_and_does_not_compile_again(data, make, what):
    import torch._dynamo

    torch._dynamo.reset()
    model, optimizer, closure = make(data, rho=0.5)
    twin, pointer, _ = make(data, rho=0.5, restore="pointer")
    net = torch.compile(twin, backend="aot_eager") if what == "model" else twin

    def run():
        loss = _loss(net, data)
        loss.backward()
        return loss

    step = pointer.step if what == "model" else torch.compile(pointer.step, backend="aot_eager")
    for index in range(4):
        optimizer.step(closure)
        torch._dynamo.config.error_on_recompile = index >= 2 and what == "model"
        try:
            step(run)
        finally:
            torch._dynamo.config.error_on_recompile = False
    torch._dynamo.reset()
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(model.parameters(), twin.parameters(), strict=True))
