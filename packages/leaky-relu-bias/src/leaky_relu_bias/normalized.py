"""A5: loss-normalised gradient descent, eta_t = h / L(W_t): another algorithm with the same limit direction.

Constant-step descent reaches margin growth like log t; dividing the step by the loss makes it linear in t. All
happens in the log domain: the weights are g_i / L = exp(-log(1 + e^{q_i}) - log L), and the loss is never formed.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from leaky_relu_bias import kernels
from leaky_relu_bias.gram import GramGD
from leaky_relu_bias.network import log_loss, network_output


class NormalizedGD(GramGD):
    """A5 on the Gram matrix for a batch of runs; `eta` is the constant h. Implements `Engine`."""

    name = "normalized"
    kernel = staticmethod(kernels.normalized_steps)

    def output_weights(self) -> Float[Tensor, "runs n"]:
        """y_i g_i / L."""
        q = self.data.y * network_output(self.Z, self.gamma)
        return self.data.y * torch.exp(-torch.logaddexp(torch.zeros_like(q), q) - log_loss(q)[:, None])
