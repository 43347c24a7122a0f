"""Models of many tensors, from small to large, and of few large tensors."""

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


def mlp(width, layers):
    return nn.Sequential(*(part for _ in range(layers) for part in (nn.Linear(width, width), nn.Tanh()))), torch.randn(
        16, width
    )


def transformer(width, layers):
    layer = nn.TransformerEncoderLayer(width, 4, 4 * width, dropout=0.0, batch_first=True)
    return nn.TransformerEncoder(layer, layers, enable_nested_tensor=False), torch.randn(2, 8, width)


def resnet(channels, blocks):
    return ResNet(channels, blocks), torch.randn(2, channels, 8, 8)


# more than a hundred tensors each
MODELS = {
    "MLP 16 x 100": lambda: mlp(16, 100),
    "ResNet 8 x 54": lambda: resnet(8, 54),
    "MLP 32 x 80": lambda: mlp(32, 80),
    "ResNet 16 x 54": lambda: resnet(16, 54),
    "transformer 32 x 12": lambda: transformer(32, 12),
    "MLP 64 x 100": lambda: mlp(64, 100),
}
# fewer or larger ones
OTHERS = {
    "MLP 16 x 24": lambda: mlp(16, 24),
    "transformer 64 x 6": lambda: transformer(64, 6),
    "transformer 128 x 8": lambda: transformer(128, 8),
    "MLP 1024 x 4": lambda: mlp(1024, 4),
    "MLP 2048 x 5": lambda: mlp(2048, 5),
}
