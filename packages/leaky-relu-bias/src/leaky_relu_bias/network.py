"""The two-layer (leaky) ReLU network of the paper and its exact gradient.

f(W, x) = F_{+1} - F_{-1},  F_j(x) = (1/m) sum_r sigma(<w_{j,r}, x>),  sigma(z) = max(z, gamma z);
W stacks the block W_{+1} (m rows) on W_{-1} (m rows), the second layer is fixed at +-1/m, there is no bias, and the
loss is the mean of log(1 + exp(-q_i)) over the margins q_i = y_i f(W, x_i).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from shared_core.errors import InputError
from torch import Tensor

from leaky_relu_bias.orthogonality import TrainingSet


@dataclass(frozen=True)
class TwoLayerNet:
    """Width, slope and initialisation of a network.

    Args:
        m: neurons of EACH sign (the hidden layer has 2m); see `of_total_width` for the other convention.
        gamma: slope of sigma for z < 0, in [0, 1); 0 is ReLU.
        sigma0: standard deviation of the Gaussian initial weights.
        seed: of the initial weights.

    Raises:
        InputError: for a value out of its range.
    """

    m: int = 50
    gamma: float = 0.5
    sigma0: float = 1e-4
    seed: int = 0

    def __post_init__(self) -> None:
        if self.m < 1:
            raise InputError(f"m must be at least 1 neuron of each sign, got {self.m}")
        if not 0 <= self.gamma < 1:
            raise InputError(f"gamma must be in [0, 1) (0 is ReLU), got {self.gamma}")
        if not (self.sigma0 >= 0 and math.isfinite(self.sigma0)):
            raise InputError(f"sigma0 must be a finite number >= 0, got {self.sigma0}")
        if not 0 <= self.seed < 2**63:
            raise InputError(f"seed must be in 0..2**63-1, got {self.seed}")

    @classmethod
    def of_total_width(cls, m_total: int, gamma: float = 0.5, sigma0: float = 1e-4, seed: int = 0) -> "TwoLayerNet":
        """A network given by its whole width 2m, as some papers count.

        Raises:
            InputError: if the width is not even.
        """
        if m_total < 2 or m_total % 2:
            raise InputError(f"the total width must be even and at least 2, got {m_total}")
        return cls(m_total // 2, gamma, sigma0, seed)

    def initial_weights(self, d: int, device: str | torch.device = "cpu") -> Float[Tensor, "two_m d"]:
        """W_0 with i.i.d. N(0, sigma0^2) entries; the same numbers on every device."""
        generator = torch.Generator().manual_seed(self.seed)
        W0 = torch.randn(2 * self.m, d, generator=generator, dtype=torch.float64)
        return (self.sigma0 * W0).to(device)


def network_of(m: int, gamma: float, sigma0: float, seed: int, total_width: bool = False) -> TwoLayerNet:
    """A network whose width is counted for each sign, or in all.

    Raises:
        InputError: for a value out of its range.
    """
    return (TwoLayerNet.of_total_width if total_width else TwoLayerNet)(m, gamma, sigma0, seed)


def block_signs(m: int, like: Tensor) -> Float[Tensor, " two_m"]:
    """s_r: +1 for the rows of W_{+1}, -1 for those of W_{-1}."""
    return torch.cat([like.new_ones(m), -like.new_ones(m)])


def slopes(
    active: Bool[Tensor, "*batch two_m n"],
    gamma: Float[Tensor, "*batch #one #one"] | float,
    dtype: torch.dtype = torch.float64,
) -> Float[Tensor, "*batch two_m n"]:
    """D_ri = sigma'(<w_r, x_i>): 1 where active, gamma elsewhere; sigma'(0) = gamma, torch's convention."""
    low = torch.as_tensor(gamma, dtype=dtype, device=active.device)
    return torch.where(active, torch.ones_like(low), low)


def network_output(
    Z: Float[Tensor, "*batch two_m n"], gamma: Float[Tensor, "*batch #one #one"] | float
) -> Float[Tensor, "*batch n"]:
    """f from the pre-activations Z = W X^T."""
    m = Z.shape[-2] // 2
    hidden = torch.maximum(Z, gamma * Z)
    return (hidden[..., :m, :].sum(-2) - hidden[..., m:, :].sum(-2)) / m


def margins(W: Float[Tensor, "*batch two_m d"], data: TrainingSet, gamma: float) -> Float[Tensor, "*batch n"]:
    """q_i = y_i f(W, x_i)."""
    return data.y * network_output(W @ data.X.T, gamma)


def log_loss(q: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
    """log L with L = mean_i log(1 + exp(-q_i)), exact to 1,000 decades and more: L itself is never formed."""
    # log log1p(e^-q) = -q - e^-q / 2 + O(e^-2q), and log1p(e^-q) underflows beyond q = 745
    large = -q - 0.5 * torch.exp(-q.clamp(min=30))
    # not softplus: torch's is linear beyond 20
    small = torch.log(torch.logaddexp(torch.zeros_like(q), -q.clamp(max=30)))
    return torch.logsumexp(torch.where(q > 30, large, small), dim=-1) - math.log(q.shape[-1])


def loss_gradient(
    W: Float[Tensor, "*batch two_m d"], data: TrainingSet, gamma: Float[Tensor, "*batch #one #one"] | float
) -> Float[Tensor, "*batch two_m d"]:
    """grad L(W) in closed form: -(1/(n m)) s_r sum_i g_i sigma'(<w_r, x_i>) y_i x_i, g_i = 1/(1 + exp(q_i))."""
    m = W.shape[-2] // 2
    Z = W @ data.X.T
    g = torch.sigmoid(-data.y * network_output(Z, gamma))
    pull = block_signs(m, W)[:, None] * slopes(Z > 0, gamma, W.dtype) * (data.y * g)[..., None, :]
    return -(pull @ data.X) / (data.n * m)


def same_shape(nets: Sequence[TwoLayerNet]) -> int:
    """The width m that all networks of a batch share.

    Raises:
        InputError: for no network, or networks of several widths.
    """
    if not nets:
        raise InputError("give at least one network")
    widths = sorted({net.m for net in nets})
    if len(widths) > 1:
        raise InputError(f"networks of one batch must share m, got {widths}")
    return widths[0]
