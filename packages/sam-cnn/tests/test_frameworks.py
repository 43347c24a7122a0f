"""GradScaler, accumulation, m-SAM, several processes, accelerate, torch.compile, Hugging Face Trainer, Lightning."""

import copy
import json
import math
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from sam_cnn import SAM, SAMTrainerMixin, sam_step
from torch import nn


def loss_on(model):
    return lambda batch: nn.functional.cross_entropy(model(batch[0]), batch[1])


def split(data, sizes):
    return list(zip(data[0].split(sizes), data[1].split(sizes), strict=True))


# -- GradScaler


@pytest.mark.parametrize("variant", ["sam", "gsam"])
def test_a_grad_scaler_changes_no_bit_of_the_step(data, make, same, variant):
    model, optimizer, closure = make(data, rho=0.1, variant=variant)
    twin, scaled, _ = make(data, rho=0.1, variant=variant)
    third, two, _ = make(data, rho=0.1, variant=variant)
    scalers = [torch.amp.GradScaler("cpu", init_scale=2.0**12) for _ in range(2)]

    def backward(net, scaler):
        loss = loss_on(net)(data)
        scaler.scale(loss).backward()
        return loss

    for _ in range(4):
        loss = optimizer.step(closure)
        assert scaled.step(lambda: backward(twin, scalers[0]), scaler=scalers[0]) == loss
        scalers[0].update()
        backward(third, scalers[1])
        two.first_step(zero_grad=True)
        backward(third, scalers[1])
        two.restore()
        scalers[1].step(two)  # as accelerate does
        scalers[1].update()
        two.zero_grad()
    if variant == "sam":
        assert same(model, twin)
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(model.parameters(), twin.parameters(), strict=True))
    assert same(twin, third)


@pytest.mark.parametrize("where", [1, 2])
@pytest.mark.parametrize("form", ["closure", "two calls"])
def test_an_overflow_in_either_pass_skips_the_step_and_lowers_the_scale(data, make, where, form):
    model, optimizer, _ = make(data, rho=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    before = copy.deepcopy(dict(model.named_parameters()))
    calls = []

    def backward():
        calls.append(1)
        scaler.scale(loss_on(model)(data)).backward()
        if len(calls) == where:
            model.head.bias.grad[0] = math.inf

    if form == "closure":
        optimizer.step(backward, scaler=scaler)
    else:
        backward()
        optimizer.first_step(zero_grad=True)
        backward()
        assert not optimizer.second_step(zero_grad=True, scaler=scaler)
    scaler.update()
    assert scaler.get_scale() == 512.0
    assert optimizer.skipped == 1
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    calls.append(0)
    optimizer.step(backward, scaler=scaler)
    scaler.update()
    assert (optimizer.steps, optimizer.last_skip) == (1, None)


def test_clipping_with_a_grad_scaler_sees_unscaled_gradients(data, make, same):
    model, optimizer, closure = make(data, rho=0.1)
    twin, scaled, _ = make(data, rho=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    optimizer.step(closure, clip_norm=0.05)
    scaled.step(lambda: scaler.scale(loss_on(twin)(data)).backward(), scaler=scaler, clip_norm=0.05)
    scaler.update()
    assert same(model, twin)


def test_a_disabled_scaler_and_autocast_are_fine(data, make):
    model, optimizer, _ = make(data, rho=0.1)
    model.float()
    scaler = torch.amp.GradScaler("cpu", enabled=False)

    def closure():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = loss_on(model)((data[0].float(), data[1]))
        scaler.scale(loss).backward()
        return loss

    optimizer.step(closure, scaler=scaler)
    assert optimizer.steps == 1


@pytest.mark.parametrize("restore", ["copy", "pointer"])
def test_a_whole_step_under_autocast_meets_the_perturbed_weights(data, make, restore):
    """Autocast keeps its casts of the weights until its end."""
    gradients = []
    for whole in (False, True):
        model, optimizer, _ = make(data, rho=5.0, restore=restore)
        model.float()
        outputs = []

        def closure(model=model, outputs=outputs):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = loss_on(model)((data[0].float(), data[1]))
            outputs.append(loss.item())
            loss.backward()

        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=whole):
            optimizer.step(closure)
            closure()
        assert len(set(outputs)) == 3
        gradients.append([p.grad for p in model.parameters()])
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))


# -- accumulation


def without_norm(model):
    model.norm = nn.Identity()
    return model


@pytest.mark.parametrize("sizes", [[12], [4, 4, 4], [2, 7, 3]])
def test_accumulation_is_the_step_of_the_whole_batch(data, make, sizes):
    model, optimizer, closure = make(data, rho=0.1)
    twin, other, _ = make(data, rho=0.1)
    without_norm(model), without_norm(twin)
    for _ in range(3):
        loss = optimizer.step(closure)
        found = sam_step(other, loss_on(twin), split(data, sizes))
        assert found == pytest.approx(float(loss.detach()), rel=1e-12)
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


def test_m_sam_averages_gradients_each_at_its_own_perturbation(data, make):
    model, optimizer, _ = make(data, rho=0.1)
    without_norm(model)
    batches = split(data, [2, 7, 3])
    expected = [torch.zeros_like(p) for p in model.parameters()]
    for batch in batches:
        twin = copy.deepcopy(model)
        params = list(twin.parameters())
        grads = torch.autograd.grad(loss_on(twin)(batch), params)
        norm = torch.sqrt(sum(g.square().sum() for g in grads))
        with torch.no_grad():
            for p, g in zip(params, grads, strict=True):
                p.add_(0.1 * g / norm)
        for total, g in zip(expected, torch.autograd.grad(loss_on(twin)(batch), params), strict=True):
            total.add_(g * len(batch[1]) / 12)
    sam_step(optimizer, loss_on(model), batches, ascent="micro")
    for p, g in zip(model.parameters(), expected, strict=True):
        assert torch.allclose(p.grad, g, atol=1e-12)
    assert optimizer.steps == 1


@pytest.mark.parametrize("ascent", ["full", "micro"])
def test_accumulation_with_scaler_clipping_and_dropout_replay(data, make, same, ascent):
    nets = []
    for scale in (1.0, 2.0**12):
        model, optimizer, _ = make(data, rho=0.1, dropout=0.5, same_rng=True)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        torch.manual_seed(2)
        for _ in range(2):
            sam_step(optimizer, loss_on(model), split(data, 4), ascent=ascent, scaler=scaler, clip_norm=0.1)
            scaler.update()
        assert optimizer.steps == 2
        nets.append(model)
    assert same(*nets)


def test_a_bad_micro_batch_skips_the_whole_step(data, make):
    model, optimizer, _ = make(data, rho=0.1)
    before = copy.deepcopy(dict(model.named_parameters()))
    x = data[0].clone()
    x[5] = math.nan
    for ascent in ("full", "micro"):
        sam_step(optimizer, loss_on(model), split((x, data[1]), 4), ascent=ascent)
    assert optimizer.skipped == 2
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_bad_input_of_sam_step_is_named(data, make):
    model, optimizer, _ = make(data)
    with pytest.raises(ValueError, match="micro_batches is empty"):
        sam_step(optimizer, loss_on(model), [])
    with pytest.raises(ValueError, match="weights must be 1 numbers"):
        sam_step(optimizer, loss_on(model), [data], weights=[1.0, 2.0])
    with pytest.raises(ValueError, match="loss without a gradient"):
        sam_step(optimizer, lambda batch: torch.ones(()), [data])
    with pytest.raises(ValueError, match="full or micro"):
        sam_step(optimizer, loss_on(model), [data], ascent="x")
    _, gsam, _ = make(data, variant="gsam")
    with pytest.raises(ValueError, match="goes with variant 'sam'"):
        sam_step(gsam, loss_on(model), [data], ascent="micro")


# -- several processes


SHARDED = ("sharded sam", "sharded gsam", "sharded looksam")


def _toy():
    generator = torch.Generator().manual_seed(9)
    x = torch.randn(8, 5, generator=generator, dtype=torch.float64)
    return x, x.sum(1, keepdim=True).sin()


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """What two gloo processes found in each mode: {mode: [rank 0, rank 1]} of {"weights", "steps", "skipped"}."""
    out = tmp_path_factory.mktemp("ddp")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    x, y = _toy()
    save_file({"x": x, "y": y}, out / "toy.safetensors")
    command = [sys.executable, str(Path(__file__).with_name("ddp_worker.py")), port, str(out)]
    workers = [subprocess.Popen([*command, str(rank)]) for rank in range(2)]
    assert [worker.wait(timeout=200) for worker in workers] == [0, 0]
    ranks = [json.loads((out / f"{rank}.json").read_text()) for rank in range(2)]
    return {mode: [rank[mode] for rank in ranks] for mode in ranks[0]}


def _alone(groups, ascent, **options):
    """One process; each group's ascent is its own, weights of the mean are equal."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    optimizer = SAM(net.parameters(), torch.optim.SGD, rho=0.5, lr=0.1, momentum=0.9, **options)
    x, y = _toy()
    batches = [(x[rows], y[rows]) for rows in groups]
    for _ in range(3):
        sam_step(optimizer, lambda b: (net(b[0]) - b[1]).square().mean(), batches, ascent=ascent)
    return [p.detach() for p in net.parameters()]


@pytest.mark.parametrize("mode", ["global", "local", "accumulate full", "accumulate micro", *SHARDED])
def test_processes_agree_and_global_ascent_is_the_single_process_step(two_processes, mode):
    left, right = two_processes[mode]
    assert left == right
    if mode == "local":
        assert (left["steps"], left["skipped"]) == (2, 1)  # both skip where one gradient is not finite
        return
    if mode == "accumulate micro":  # the first pass is exchanged too: each pair of micro-batches climbs together
        expected = _alone([[0, 2, 1, 3], [4, 6, 5, 7]], "micro")
    else:
        options = {"variant": mode.split()[1], "interval": 2} if mode in SHARDED else {}
        expected = _alone([list(range(8))], "full", **options)
    for found, reference in zip(left["weights"], expected, strict=True):
        assert torch.allclose(torch.tensor(found, dtype=torch.float64), reference.flatten(), atol=1e-12)


def test_exchanging_pointers_is_refused_in_several_processes(two_processes):
    for said in two_processes["pointers"]:
        assert said.startswith("restore='pointer' is for one process")


def test_a_local_ascent_without_the_model_that_exchanges_gradients_warns(data, make, monkeypatch):
    _, optimizer, closure = make(data, sync_ascent=False)
    optimizer.step(closure)  # a single process: nothing to say
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: None)
    with pytest.warns(UserWarning, match="without model=ddp"):
        optimizer.step(closure)


# -- accelerate, torch.compile, transformers


def test_accelerate_prepares_it_steps_it_and_resumes(data, make, same, tmp_path):
    accelerate = pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator(cpu=True)
    model, optimizer, closure = make(data, rho=0.1)
    twin, other, _ = make(data, rho=0.1)
    twin, prepared = accelerator.prepare(twin, other)

    def accelerated():
        loss = loss_on(twin)(data)
        accelerator.backward(loss)
        return loss

    for _ in range(2):
        optimizer.step(closure)
        prepared.step(accelerated)
    assert same(model, accelerator.unwrap_model(twin))
    accelerator.save_state(str(tmp_path / "state"))
    prepared.step(accelerated)
    after = copy.deepcopy(accelerator.unwrap_model(twin).state_dict())
    accelerator.load_state(str(tmp_path / "state"))
    assert prepared.optimizer.steps == 2
    prepared.step(accelerated)
    assert all(torch.equal(a, b) for a, b in zip(after.values(), twin.state_dict().values(), strict=True))
    batches = split(data, 4)
    optimizer.step(closure)
    sam_step(prepared.optimizer, loss_on(twin), batches, backward=accelerator.backward)
    assert prepared.optimizer.steps == 4


@pytest.mark.parametrize("what", ["model", "whole step"])
def test_torch_compile_is_safe_and_does_not_compile_again(data, make, what):
    import torch._dynamo

    torch._dynamo.reset()
    model, optimizer, closure = make(data, rho=0.1)
    twin, other, _ = make(data, rho=0.1)
    other.model = twin
    optimizer.model = model
    optimizer._reset_transients()
    other._reset_transients()
    compiled = torch.compile(twin, backend="aot_eager")
    net = compiled if what == "model" else twin

    def run():
        loss = loss_on(net)(data)
        loss.backward()
        return loss

    step = (lambda: other.step(run)) if what == "model" else torch.compile(lambda: other.step(run), backend="aot_eager")
    for index in range(4):
        optimizer.step(closure)
        if index == 2 and what == "model":
            torch._dynamo.config.error_on_recompile = True
        try:
            step()
        finally:
            torch._dynamo.config.error_on_recompile = False
    torch._dynamo.reset()
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(model.parameters(), twin.parameters(), strict=True))
    assert torch.equal(model.norm.num_batches_tracked, twin.norm.num_batches_tracked)


class Regression(nn.Module):
    def __init__(self):
        super().__init__()
        self.line = nn.Linear(3, 1)

    def forward(self, x, labels):
        out = self.line(x).squeeze(-1)
        return {"loss": (out - labels).square().mean(), "logits": out}


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_hugging_face_trainer_takes_sam_steps_and_resumes(tmp_path, accumulate):
    transformers = pytest.importorskip("transformers")

    class SAMTrainer(SAMTrainerMixin, transformers.Trainer):
        sam_options = {"rho": 0.5}  # noqa: RUF012

    generator = torch.Generator().manual_seed(0)
    rows = [
        {"x": torch.randn(3, generator=generator), "labels": torch.randn((), generator=generator)} for _ in range(8)
    ]

    def train(name, steps, resume=None, trainer=SAMTrainer):
        torch.manual_seed(0)
        model = Regression()
        arguments = transformers.TrainingArguments(
            output_dir=str(tmp_path / name), max_steps=steps, per_device_train_batch_size=4 // accumulate,
            gradient_accumulation_steps=accumulate, learning_rate=0.05, lr_scheduler_type="constant",
            optim="adamw_torch", save_steps=2, report_to=[], use_cpu=True, max_grad_norm=0.0, disable_tqdm=True,
        )  # fmt: skip
        run = trainer(model=model, args=arguments, train_dataset=rows)
        run.get_train_dataloader = lambda: torch.utils.data.DataLoader(
            rows, batch_size=4 // accumulate, collate_fn=lambda b: {k: torch.stack([r[k] for r in b]) for k in b[0]}
        )
        run.train(resume_from_checkpoint=resume)
        return model, run

    model, run = train("a", 4)
    assert run.sam.base_optimizer.param_groups[0]["lr"] == 0.05
    torch.manual_seed(0)
    twin = Regression()
    reference = SAM(
        [{"params": [twin.line.weight]}, {"params": [twin.line.bias]}], torch.optim.AdamW, lr=0.05, weight_decay=0.0,
        rho=0.5,
    )  # fmt: skip
    for step in range(4):
        batch = rows[4 * (step % 2) :][:4]
        parts = [batch[i : i + 4 // accumulate] for i in range(0, 4, 4 // accumulate)]
        stacked = [(torch.stack([r["x"] for r in p]), torch.stack([r["labels"] for r in p])) for p in parts]
        sam_step(reference, lambda b: twin(*b)["loss"], stacked, ascent="micro")
    assert torch.allclose(model.line.weight, twin.line.weight, atol=1e-6)
    plain, _ = train("b", 4, trainer=transformers.Trainer)
    assert not torch.allclose(model.line.weight, plain.line.weight, atol=1e-4)
    resumed, _ = train("a", 4, resume=str(tmp_path / "a" / "checkpoint-2"))
    assert torch.equal(resumed.line.weight, model.line.weight)


def test_the_trainer_mixin_drops_a_non_finite_micro_batch(make, data):
    class Base:
        def training_step(self, model, inputs):
            loss = loss_on(model)(inputs["batch"])
            loss.backward()
            return loss.detach()

    class Trainer(SAMTrainerMixin, Base):
        sam_options = {"rho": 0.1, "same_rng": True}  # noqa: RUF012

    model, plain, _ = make(data, plain=True)
    trainer = Trainer()
    trainer.optimizer, trainer.state = plain, type("State", (), {"global_step": 0})()
    bad = (data[0] * math.nan, data[1])
    trainer.training_step(model, {"batch": data})
    good = [p.grad.clone() for p in model.parameters()]
    model.norm.reset_running_stats()
    trainer.training_step(model, {"batch": bad})
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), good, strict=True))
    assert trainer.sam.skipped == 1


def test_steps_with_one_pass_are_exchanged_between_processes_too(data, make):
    """Under sync_ascent=False only a pass that is followed by another may stay local."""

    class Wrapped(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner, self.local = inner, 0

        def forward(self, x):
            return self.inner(x)

        def no_sync(self):
            self.local += 1
            return torch.enable_grad()

    model, _, _ = make(data)
    wrapped = Wrapped(model)
    optimizer = SAM(wrapped.parameters(), torch.optim.SGD, lr=0.1, model=wrapped, sync_ascent=False, interval=2)
    for expected in (1, 1, 2, 2):
        sam_step(optimizer, loss_on(wrapped), [data])
        assert wrapped.local == expected


def _lightning_module(lightning, data, build, manual=False):
    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net, self.sam, _ = build(data, rho=0.1)
            self.automatic_optimization = not manual

        def training_step(self, batch):
            if not manual:
                return loss_on(self.net)(batch)
            optimizer = self.optimizers()

            def closure():  # two micro-batches
                for part in split(batch, 2):
                    self.manual_backward(loss_on(self.net)(part) / 2)

            return optimizer.step(closure)

        def configure_optimizers(self):
            return self.sam

    return Module()


@pytest.mark.parametrize("form", ["automatic", "clipped", "manual"])
def test_lightning_takes_sam_steps_and_resumes(data, make, same, tmp_path, form):
    lightning = pytest.importorskip("lightning", reason="lightning is not installed")
    batches = split(data, 4)

    def fit(epochs, resume=None):
        trainer = lightning.Trainer(
            max_epochs=epochs, accelerator="cpu", devices=1, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, precision="64-true",
            gradient_clip_val=0.05 if form == "clipped" else None,
        )  # fmt: skip
        module = _lightning_module(lightning, data, make, form == "manual")
        trainer.fit(module, torch.utils.data.DataLoader(batches, batch_size=None), ckpt_path=resume, weights_only=False)
        return module, trainer

    module, trainer = fit(3)
    assert (module.sam.steps, trainer.global_step) == (9, 9)
    twin, optimizer, _ = make(data, rho=0.1)
    for _ in range(3):
        for batch in batches:
            parts = split(batch, 2) if form == "manual" else [batch]
            sam_step(optimizer, loss_on(twin), parts, clip_norm=0.05 if form == "clipped" else None)
    assert all(
        torch.allclose(a, b, atol=1e-12) for a, b in zip(module.net.parameters(), twin.parameters(), strict=True)
    )
    _, half = fit(1)
    half.save_checkpoint(tmp_path / "half.ckpt")
    resumed, _ = fit(3, tmp_path / "half.ckpt")
    assert same(resumed.net, module.net)
