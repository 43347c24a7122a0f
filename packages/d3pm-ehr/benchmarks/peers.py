"""The peers' loops as their public code has them, in plain torch: one-hot log-space diffusion, and set loops."""

import torch
from torch import Tensor, nn
from torch.nn import functional


def log_add_exp(a: Tensor, b: Tensor) -> Tensor:
    m = torch.max(a, b)
    return m + torch.log((a - m).exp() + (b - m).exp())


class LogOneHot:
    """Multinomial diffusion on log one-hot tables [B, K, N], as multinomial diffusion's and TabDDPM's code has it."""

    def __init__(self, abar: Tensor, levels: int) -> None:
        abar = abar.clamp(1e-12, 1 - 1e-7)
        alpha = (abar[1:] / abar[:-1]).clamp(1e-6, 1 - 1e-7)
        self.log_alpha, self.log_1_alpha = alpha.log().float(), (1 - alpha).log().float()
        self.log_abar, self.log_1_abar = abar[1:].log().float(), (1 - abar[1:]).log().float()
        self.levels = levels

    def _at(self, table: Tensor, t: Tensor) -> Tensor:
        return table[t].view(-1, 1, 1)

    def index_to_log(self, x: Tensor) -> Tensor:
        return functional.one_hot(x.long(), self.levels).movedim(-1, 1).float().clamp_min(1e-30).log()

    def pred(self, log_x0: Tensor, t: Tensor) -> Tensor:
        return log_add_exp(
            log_x0 + self._at(self.log_abar, t),
            self._at(self.log_1_abar, t) - torch.log(torch.tensor(float(self.levels))),
        )

    def one_step(self, log_x: Tensor, t: Tensor) -> Tensor:
        return log_add_exp(
            log_x + self._at(self.log_alpha, t),
            self._at(self.log_1_alpha, t) - torch.log(torch.tensor(float(self.levels))),
        )

    def posterior(self, log_x0: Tensor, log_xt: Tensor, t: Tensor) -> Tensor:
        before = self.pred(log_x0, (t - 1).clamp_min(0))
        before = torch.where((t == 0).view(-1, 1, 1), log_x0, before)
        joint = before + self.one_step(log_xt, t)
        return joint - torch.logsumexp(joint, 1, keepdim=True)

    def sample(self, log_p: Tensor, uniforms: Tensor) -> Tensor:
        gumbel = -torch.log(-torch.log(uniforms + 1e-30) + 1e-30)
        return self.index_to_log((gumbel + log_p).argmax(1))

    def divergence(self, log_x0: Tensor, log_xt: Tensor, log_pred: Tensor, t: Tensor) -> Tensor:
        truth, model = self.posterior(log_x0, log_xt, t), self.posterior(log_pred, log_xt, t)
        return (truth.exp() * (truth - model)).sum((1, 2))


class Trunk(nn.Module):
    """The mlp denoiser's trunk with the peers' inputs and outputs (`features` of both)."""

    def __init__(self, features: int, width: int, depth: int) -> None:
        super().__init__()
        self.inward, self.output = nn.Linear(features, width), nn.Linear(width, features)
        self.time = nn.Sequential(nn.Linear(64, width), nn.SiLU(), nn.Linear(width, 2 * width * depth))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth + 1))
        self.layers = nn.ModuleList(
            nn.Sequential(nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width)) for _ in range(depth)
        )

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        angles = level[:, None] * torch.exp(torch.linspace(0, 6, 32))
        film = self.time(torch.cat([angles.sin(), angles.cos()], -1)).chunk(len(self.layers), -1)
        h = self.inward(x)
        for norm, layer, own in zip(self.norms, self.layers, film, strict=False):
            scale, shift = own.chunk(2, -1)
            h = h + layer(norm(h) * (1 + scale) + shift)
        return self.output(self.norms[-1](h))


def set_loop(queries: list[set[int]], reference: list[set[int]]) -> list[int]:
    """Hamming distance to the nearest record, as scripts of the field compute it."""
    return [min(len(query ^ other) for other in reference) for query in queries]
