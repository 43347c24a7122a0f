"""The six models of the step benchmark, fixed before anything was measured, and models of more tensors."""

from itertools import pairwise

import torch
from torch import nn


class ResNet(nn.Module):
    """Residual blocks of convolution and batch norm."""

    def __init__(self, channels, blocks):
        super().__init__()
        self.convolutions = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(blocks)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(blocks))

    def forward(self, x):
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = x + torch.relu(norm(convolution(x))) / len(self.norms)
        return x


def mlp(width, hidden, ends=False):
    """`hidden` layers; `ends` are layers from 64 inputs and to 10 outputs."""
    sizes = [64 if ends else width, *[width] * hidden]
    layers = [part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), nn.Tanh())]
    return nn.Sequential(*layers, *([nn.Linear(width, 10)] if ends else [])), torch.randn(16, sizes[0])


def cnn():
    channels = (3, 16, 32, 32, 32)
    layers = []
    for a, b in pairwise(channels):
        layers += [nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU()]
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels[-1], 10))
    return nn.Sequential(*layers, *head), torch.randn(4, 3, 16, 16)


def transformer(width, layers, ends=False):
    layer = nn.TransformerEncoderLayer(width, 4, 4 * width, dropout=0.0, batch_first=True)
    norm = nn.LayerNorm(width) if ends else None
    encoder = nn.TransformerEncoder(layer, layers, norm=norm, enable_nested_tensor=False)
    return nn.Sequential(encoder, *([nn.Linear(width, 10)] if ends else [])), torch.randn(2, 8, width)


def resnet(channels, blocks):
    return ResNet(channels, blocks), torch.randn(2, channels, 8, 8)


MODELS = {
    "MLP 64 x 3": lambda: mlp(64, 3, ends=True),
    "CNN with batch norm": cnn,
    "MLP 32 x 40": lambda: mlp(32, 40, ends=True),
    "transformer 64 x 6": lambda: transformer(64, 6, ends=True),
    "MLP 1024 x 4": lambda: mlp(1024, 4, ends=True),
    "MLP 2048 x 5": lambda: mlp(2048, 5, ends=True),
}
# more than a hundred tensors each; sizes picked after timings, when python's cost a tensor was known to be the gain
MANY_TENSORS = {
    "MLP 16 x 100": lambda: mlp(16, 100),
    "ResNet 16 x 54": lambda: resnet(16, 54),
    "transformer 32 x 12": lambda: transformer(32, 12),
    "MLP 64 x 100": lambda: mlp(64, 100),
}
