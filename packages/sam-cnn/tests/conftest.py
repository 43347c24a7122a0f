import pytest
import torch
from sam_cnn import SAM
from torch import nn


class Net(nn.Module):
    """A little of everything: convolution, batch norm, dropout, a linear head."""

    def __init__(self, dropout: float = 0.0, momentum: float | None = 0.1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4, momentum=momentum)
        self.drop = nn.Dropout(dropout)
        self.head = nn.Linear(4 * 16, 3)

    def forward(self, x):
        return self.head(self.drop(torch.relu(self.norm(self.conv(x)))).flatten(1))


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(5)
    return torch.randn(12, 1, 6, 6, generator=generator, dtype=torch.float64), torch.arange(12) % 3


@pytest.fixture
def make():
    """make(dropout=..., base=..., **options) -> model, optimizer, closure for the given data."""

    def build(data, *, dropout=0.0, momentum=0.1, base=torch.optim.SGD, seed=0, wrapped=False, **options):
        torch.manual_seed(seed)
        model = Net(dropout, momentum).double()
        settings = {"lr": 0.05} | ({"momentum": 0.9} if base is torch.optim.SGD else {})
        if wrapped:
            optimizer = SAM(base(model.parameters(), **settings), **options)
        elif options.pop("plain", False):
            optimizer = base(model.parameters(), **settings)
        else:
            optimizer = SAM(model.parameters(), base, **settings, **options)

        def closure():
            loss = nn.functional.cross_entropy(model(data[0]), data[1])
            loss.backward()
            return loss

        return model, optimizer, closure

    return build


@pytest.fixture
def same():
    def check(left: nn.Module, right: nn.Module) -> bool:
        return all(
            torch.equal(a, b) for a, b in zip(left.state_dict().values(), right.state_dict().values(), strict=True)
        )

    return check
