"""ThresholdSignSGD as an ordinary torch optimiser."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch
from parity_sgd.codes import unpack
from parity_sgd.network import PolyParityNet, correlation_loss
from parity_sgd.optimizer import ThresholdSignSGD, threshold_sign
from parity_sgd.parity import SparseParity
from parity_sgd.settings import SignSGD
from parity_sgd.training import Trainer
from shared_core.errors import InputError


def test_threshold_sign_by_hand() -> None:
    v = torch.tensor([-2.0, -0.5, -0.49, 0.0, 0.49, 0.5, float("inf")])
    assert threshold_sign(v, 0.5).tolist() == [-1, -1, 0, 0, 0, 1, 1]
    assert threshold_sign(torch.tensor([float("nan")]), 0.5).isnan().all()


def test_autograd_with_the_optimiser_is_the_trainer() -> None:
    task, settings = SparseParity(12, k=3), SignSGD(20, 500, 15, 3.0, prune=False)
    trainer = Trainer(task, settings, 1)
    network = PolyParityNet(trainer.W0.clone(), trainer.a, 3)
    optimizer = ThresholdSignSGD(network.parameters(), lr=0.1, rho=3.0, weight_decay=1.0)
    stream = task.with_seed(1)
    for _ in range(15):
        codes, y, _ = stream.rows(500)
        optimizer.zero_grad()
        correlation_loss(y, network(unpack(codes, 12))).backward()
        optimizer.step()
    trainer.advance(15)
    torch.testing.assert_close(network.W.detach(), trainer.W, atol=1e-5, rtol=0)


def _models() -> tuple[torch.nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.ReLU(), torch.nn.Linear(7, 2))
    return model, torch.randn(16, 5)


@pytest.mark.parametrize("maximize", [False, True])
def test_foreach_and_one_by_one_agree(maximize: bool) -> None:
    results = []
    for foreach in (False, True):
        model, x = _models()
        optimizer = ThresholdSignSGD(
            model.parameters(), lr=0.05, rho=0.01, weight_decay=0.1, foreach=foreach, maximize=maximize
        )
        for _ in range(3):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
        results.append([p.detach().clone() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_closure_returns_the_loss_and_training_goes_down() -> None:
    model, x = _models()
    optimizer = ThresholdSignSGD(model.parameters(), lr=0.005, rho=1e-4)

    def closure() -> float:
        optimizer.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        return loss.item()

    losses = [optimizer.step(closure) for _ in range(30)]
    assert losses[-1] < losses[0] / 2


def test_state_dict_round_trip_keeps_the_settings_of_each_group() -> None:
    model, _ = _models()
    groups = [{"params": model[0].parameters(), "rho": 0.5}, {"params": model[2].parameters(), "lr": 0.2}]
    saved = ThresholdSignSGD(groups, lr=0.1).state_dict()
    other = ThresholdSignSGD(_fresh_groups(), lr=1.0)
    other.load_state_dict(saved)
    assert [(g["lr"], g["rho"]) for g in other.param_groups] == [(0.1, 0.5), (0.2, 0.0)]


def _fresh_groups() -> list[dict]:
    model, _ = _models()
    return [{"params": model[0].parameters()}, {"params": model[2].parameters()}]


def test_a_scheduler_can_drive_it() -> None:
    model, x = _models()
    optimizer = ThresholdSignSGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    model(x).sum().backward()
    optimizer.step()
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] < 0.1


def _losses_under_accelerate(
    accelerator: Any, steps: int, folder: Path | None = None, save_at: int = -1
) -> list[float]:
    model, x = _models()
    optimizer = ThresholdSignSGD(model.parameters(), lr=0.01, rho=1e-3, weight_decay=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 4, gamma=0.5)
    model, optimizer, scheduler = accelerator.prepare(model, optimizer, scheduler)
    losses = []
    for step in range(steps):
        if step == save_at:
            accelerator.save_state(str(folder))
        for part in x.chunk(2):
            with accelerator.accumulate(model):
                loss = model(part).square().mean()
                accelerator.backward(loss)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
        losses.append(loss.item())
    if save_at < 0:  # go back to what another call saved, and do one step more
        accelerator.load_state(str(folder))
        losses = [model(x.chunk(2)[1]).square().mean().item(), optimizer.param_groups[0]["lr"]]
    return losses


def test_it_works_under_accelerate_with_accumulation_and_checkpoints(tmp_path: Path) -> None:
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    losses = _losses_under_accelerate(accelerator, 8, tmp_path, save_at=5)
    assert losses[-1] < losses[0]

    model, x = _models()  # the same without accelerate: gradients of both halves averaged, one step
    optimizer = ThresholdSignSGD(model.parameters(), lr=0.01, rho=1e-3, weight_decay=0.1)
    plain = []
    for step in range(8):
        optimizer.param_groups[0]["lr"] = 0.01 * 0.5 ** (step // 4)
        optimizer.zero_grad()
        parts = [model(part).square().mean() for part in x.chunk(2)]
        (sum(parts) / 2).backward()
        optimizer.step()
        plain.append(parts[1].item())
    torch.testing.assert_close(losses, plain, atol=1e-6, rtol=1e-5)

    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    again = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    loss, lr = _losses_under_accelerate(again, 1, tmp_path)
    assert loss == pytest.approx(losses[5], rel=1e-6)
    assert lr == pytest.approx(0.005)


JOB = """
from accelerate import Accelerator
from parity_sgd import PolyParityNet, SparseParity, ThresholdSignSGD
from parity_sgd.network import correlation_loss

accelerator = Accelerator(cpu=True)
network = PolyParityNet.random(10, 2, 8, seed=0)
optimizer = ThresholdSignSGD(network.parameters(), lr=0.1, rho=1.0, weight_decay=1.0)
model, optimizer = accelerator.prepare(network, optimizer)
task = SparseParity(10, [2, 5], seed=1)
for _ in range(20):
    X, y = (part.chunk(accelerator.num_processes)[accelerator.process_index] for part in task.sample(2000))
    optimizer.zero_grad()
    accelerator.backward(correlation_loss(y, model(X)))
    optimizer.step()
print(accelerator.num_processes, accelerator.unwrap_model(model).W.flatten().tolist())
"""


def test_two_processes_under_accelerate_are_one_with_both_batches() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    world = os.environ | {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    jobs = [
        subprocess.Popen(
            [sys.executable, "-c", JOB],
            env=world | {"RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    network = PolyParityNet.random(10, 2, 8, seed=0)
    optimizer = ThresholdSignSGD(network.parameters(), lr=0.1, rho=1.0, weight_decay=1.0)
    task = SparseParity(10, [2, 5], seed=1)
    for _ in range(20):
        X, y = task.sample(2000)
        optimizer.zero_grad()
        correlation_loss(y, network(X)).backward()
        optimizer.step()
    for job in jobs:
        out, err = job.communicate(timeout=300)
        assert job.returncode == 0, err[-2000:]
        count, weights = out.strip().splitlines()[-1].split(" ", 1)
        assert count == "2"
        torch.testing.assert_close(torch.tensor(json.loads(weights)).view(8, 10), network.W.detach(), atol=1e-5, rtol=0)


def test_broken_gradients_are_not_hidden() -> None:
    for foreach in (False, True):
        p = torch.nn.Parameter(torch.ones(2))
        p.grad = torch.tensor([float("nan"), 1.0])
        ThresholdSignSGD([p], lr=0.1, rho=0.5, foreach=foreach).step()
        assert p.isnan().tolist() == [True, False]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"lr": -1.0}, "lr"), ({"rho": -1.0}, "rho"), ({"lr": 0.5, "weight_decay": 3.0}, "weight_decay")],
)
def test_bad_settings(arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ThresholdSignSGD([torch.nn.Parameter(torch.ones(1))], **arguments)


def test_sparse_gradients_are_refused() -> None:
    embedding = torch.nn.Embedding(4, 2, sparse=True)
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(InputError, match="sparse"):
        ThresholdSignSGD(embedding.parameters()).step()
