"""ThresholdSignSGD as an ordinary torch optimiser."""

import pytest
import torch
from parity_sgd.codes import unpack
from parity_sgd.network import PolyParityNet, correlation_loss
from parity_sgd.optimizer import ThresholdSignSGD, threshold_sign
from parity_sgd.parity import SparseParity
from parity_sgd.training import SignSGD, Trainer
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


def test_it_works_under_accelerate() -> None:
    accelerate = pytest.importorskip("accelerate", reason="accelerate is not a dependency of this package")
    model, x = _models()
    optimizer = ThresholdSignSGD(model.parameters(), lr=0.01, rho=1e-3)
    accelerator = accelerate.Accelerator(cpu=True)
    model, optimizer = accelerator.prepare(model, optimizer)
    before = model(x).square().mean().item()
    for _ in range(20):
        optimizer.zero_grad()
        loss = model(x).square().mean()
        accelerator.backward(loss)
        optimizer.step()
    assert loss.item() < before


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
