"""Small networks for the 8x8 digits: a class-conditional denoiser, and the classifier whose features are compared."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from sklearn.datasets import load_digits
from torch import Tensor, nn

CLASSES, NO_CLASS = 10, 10


class MLPDenoiser(nn.Module):
    """Residual blocks on flat images; time and class are added before each of them.

    Args:
        dim: pixels.
        width: of the residual stream.
        blocks: number of them.
    """

    def __init__(self, dim: int = 64, width: int = 128, blocks: int = 2) -> None:
        super().__init__()
        self.frequencies = 16
        self.classes = nn.Embedding(CLASSES + 1, width)
        self.time = nn.Sequential(nn.Linear(2 * self.frequencies, width), nn.SiLU(), nn.Linear(width, width))
        self.first, self.last = nn.Linear(dim, width), nn.Linear(width, dim)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))
            for _ in range(blocks)
        )

    def forward(
        self, sample: Float[Tensor, "batch dim"], timestep: Int[Tensor, " batch"], class_labels: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch dim"]:
        """The predicted noise."""
        angles = timestep[:, None] * torch.logspace(0, -3, self.frequencies, device=sample.device)
        given = self.time(torch.cat([angles.sin(), angles.cos()], 1)) + self.classes(class_labels)
        hidden = self.first(sample)
        for block in self.blocks:
            hidden = hidden + block(hidden + given)
        return self.last(F.silu(hidden + given))


class Classifier(nn.Module):
    """Two hidden layers; the second one's 32 activations are the features of distances."""

    def __init__(self, dim: int = 64) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(dim, 128), nn.SiLU(), nn.Linear(128, 32), nn.SiLU())
        self.head = nn.Linear(32, CLASSES)

    def forward(self, images: Float[Tensor, "image dim"]) -> Float[Tensor, "image classes"]:
        """Logits."""
        return self.head(self.body(images))

    @torch.no_grad()
    def features(self, images: Float[Tensor, "image dim"]) -> Float[Tensor, "image features"]:
        """What is compared."""
        return self.body(images)


class Digits(NamedTuple):
    """Images in [-1, 1] and their classes, split at random."""

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor


def digits(seed: int, held_out: int = 597) -> Digits:
    """scikit-learn's 1797 real 8x8 digits, 1200 to train on."""
    images, labels = load_digits(return_X_y=True)
    return split_digits(torch.tensor(images, dtype=torch.float32) / 8 - 1, torch.tensor(labels), held_out, seed)


def split_digits(images: Tensor, labels: Tensor, held_out: int, seed: int) -> Digits:
    """A random split that depends on the seed only."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    train, test = order[:-held_out], order[-held_out:]
    return Digits(images[train], labels[train].long(), images[test], labels[test].long())


def train_classifier(data: Digits, seed: int, updates: int = 1500) -> Classifier:
    """Cross-entropy with noise on the pixels, AdamW with a linearly falling rate."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = Classifier(data.train.flatten(1).shape[1])
        optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=0.05, fused=True)
        decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, updates)
        images = data.train.flatten(1)
        for _ in range(updates):
            rows = torch.randint(len(images), (128,))
            noised = images[rows] + 0.1 * torch.randn(128, images.shape[1])
            optimizer.zero_grad()
            F.cross_entropy(net(noised), data.train_labels[rows]).backward()
            optimizer.step()
            decay.step()
    return net.eval().requires_grad_(False)


def log_probability(classifier: Classifier, images: Tensor, labels: Tensor) -> Tensor:
    """Of the asked class: the stand-in for a preference score."""
    with torch.no_grad():
        return -F.cross_entropy(classifier(images.flatten(1)), labels, reduction="none")
