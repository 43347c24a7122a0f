import pytest
import torch
from parity_sgd.parity import SparseParity
from parity_sgd.settings import SignSGD
from parity_sgd.training import TrainedRun, train


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def trained() -> list[TrainedRun]:
    """Three runs on a 3-parity with an arbitrary support."""
    return train(SparseParity(16, [2, 7, 11]), SignSGD(64, 6000, 60, 3.0), seeds=range(3), log_every=20)
