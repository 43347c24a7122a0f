"""Tiny networks and pipelines of the real classes."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch
from spin_diffusion import TrainingSet
from torch import nn


def make_unet(seed: int = 0, **options: Any) -> nn.Module:
    """A class-conditional UNet2DModel on 1 x 8 x 8."""
    from diffusers import UNet2DModel

    torch.manual_seed(seed)
    given: dict[str, Any] = {
        "sample_size": 8, "in_channels": 1, "out_channels": 1, "block_out_channels": (8, 16), "norm_num_groups": 4,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        "layers_per_block": 1, "num_class_embeds": 11, "attention_head_dim": 8,
    }  # fmt: skip
    return UNet2DModel(**(given | options))


class Mlp(nn.Module):
    """A denoiser of vectors that fits nowhere but the call `net(sample, timestep, class_labels=...)`."""

    def __init__(self, width: int = 6, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.labels = nn.Embedding(4, 8)
        self.first = nn.Linear(width + 8 + 1, 24)
        self.last = nn.Linear(24, width)

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor, class_labels: torch.Tensor) -> torch.Tensor:
        time = timestep.to(sample.dtype).view(-1, 1) / 1000
        hidden = torch.cat([sample, self.labels(class_labels), time.expand(len(sample), 1)], 1)
        return self.last(torch.tanh(self.first(hidden)))


@pytest.fixture(scope="session")
def unet() -> Callable[..., nn.Module]:
    return make_unet


@pytest.fixture(scope="session")
def mlp() -> Callable[..., nn.Module]:
    return Mlp


@pytest.fixture(scope="session")
def images() -> TrainingSet:
    """Twelve items with classes, for the UNet."""
    generator = torch.Generator().manual_seed(1)
    labels = {"class_labels": torch.arange(12) % 10}
    return TrainingSet.of(torch.randn(12, 1, 8, 8, generator=generator), labels, {"class_labels": torch.tensor([10])})


@pytest.fixture(scope="session")
def vectors() -> TrainingSet:
    """Items for the MLP."""
    generator = torch.Generator().manual_seed(1)
    labels = {"class_labels": torch.arange(10) % 3}
    return TrainingSet.of(torch.randn(10, 6, generator=generator), labels, {"class_labels": torch.tensor([3])})


@pytest.fixture(scope="session")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`sd/` and `sdxl/`, each with pipeline/ and images/."""
    from spin_diffusion.toy import write_toy

    folder = tmp_path_factory.mktemp("toys")
    write_toy(folder / "sd", "sd", n=8)
    write_toy(folder / "sdxl", "sdxl", n=6)
    return folder


@pytest.fixture
def spin(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Any:
    """Call the command in an empty folder: exit code, stdout, stderr."""
    from spin_diffusion.cli import main

    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["spin-diffusion", *map(str, arguments)])
        code = main()
        out, err = capsys.readouterr()
        return code, out, err

    return call
