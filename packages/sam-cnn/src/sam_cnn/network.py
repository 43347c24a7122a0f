"""The paper's two-layer convolutional ReLU network as a module."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class TwoLayerCNN(nn.Module):
    """f(x) = F_{+1}(x) - F_{-1}(x),  F_j(x) = (1/m) sum_r sum_patches relu(<w_{j,r}, patch>); only w is trained.

    Args:
        weight: (2, m, d), index 0 is j = +1.
    """

    def __init__(self, weight: Float[Tensor, "2 m d"]) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.clone())

    def forward(self, x: Float[Tensor, "n P d"]) -> Float[Tensor, "n"]:
        """f(x), whose sign is the prediction."""
        activations = torch.relu(torch.einsum("npd,jrd->npjr", x, self.weight)).sum(1).mean(-1)
        return activations[:, 0] - activations[:, 1]


def logistic_loss(output: Float[Tensor, "n"], y: Float[Tensor, "n"]) -> Float[Tensor, ""]:
    """Mean of log(1 + exp(-y f))."""
    return nn.functional.softplus(-y * output).mean()
