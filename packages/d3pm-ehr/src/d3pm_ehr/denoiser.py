"""Denoisers: (x_t, t) to the logits of p(x_0 | x_t), with the last hidden layer and the head apart for guidance."""

import math

import torch
from jaxtyping import Float, Int, UInt8
from shared_core.errors import InputError
from torch import Tensor, nn
from torch.nn import functional

from d3pm_ehr.config import Network
from d3pm_ehr.layout import TokenLayout
from d3pm_ehr.process import DiscreteDiffusion

TIME_FEATURES = 64


def time_features(t: Int[Tensor, "rows"], num_steps: int) -> Float[Tensor, "rows features"]:
    """Sines and cosines of 4000 t / T at geometric frequencies."""
    half = TIME_FEATURES // 2
    frequencies = torch.exp(-math.log(10_000) * torch.arange(half, device=t.device) / half)
    angles = t[:, None] * (4000 / num_steps) * frequencies
    return torch.cat([angles.sin(), angles.cos()], -1)


class Denoiser(nn.Module):
    """`forward(x_t, t) = head(hidden(x_t, t)) + offset(x_t, t)`.

    The head starts at weight 0 and the column's own law as bias. With `evidence` the offset is the token's own
    (`DiscreteDiffusion.evidence`), and an untrained denoiser is exact for independent columns. `t` has one entry a
    record, or a single one for all.

    Args:
        process: gives the layout, T and the evidence (held by reference, not a submodule).
        network: sizes.
        marginals: flat laws of the columns, as `TokenLayout.empirical` has them.
        evidence: whether to add it; without it the network learns to copy its input. The absorbing kernel always has
            it: an unmasked token is known.
    """

    def __init__(
        self, process: DiscreteDiffusion, network: Network, marginals: Float[Tensor, "laws"], evidence: bool = True
    ) -> None:
        super().__init__()
        self.process, self.network, self.evidence = process, network, evidence
        self.layout: TokenLayout = process.layout
        parts = [
            law.logit() if group.levels == 2 else law.log().flatten() for group, law in self.layout.parts(marginals)
        ]
        self.base_logits = torch.cat(parts).float()

    def hidden(self, x_t: UInt8[Tensor, "rows columns"], t: Int[Tensor, "rows"]) -> Tensor:
        """The input of the output head: [rows, width], or [rows, columns, width] of a sequence backbone."""
        raise NotImplementedError

    def head(self, z: Tensor) -> Float[Tensor, "rows logits"]:
        """Flat logits of hidden states."""
        raise NotImplementedError

    def offset(
        self, x_t: UInt8[Tensor, "rows columns"], t: Int[Tensor, "rows"]
    ) -> Float[Tensor, "rows logits"] | float:
        """What is added to the head's logits."""
        return self.process.evidence(x_t, t) if self.evidence or self.process.absorbing else 0.0

    def forward(self, x_t: UInt8[Tensor, "rows columns"], t: Int[Tensor, "rows"]) -> Float[Tensor, "rows logits"]:
        """Logits of p(x_0 | x_t)."""
        return self.head(self.hidden(x_t, t)) + self.offset(x_t, t)

    def pooled(self, z: Tensor) -> Float[Tensor, "rows width"]:
        """One vector a record, for classifiers."""
        return z if z.ndim == 2 else z.mean(1)


class MLPDenoiser(Denoiser):
    """Multi-hot vector, residual blocks with FiLM of the time, logits."""

    def __init__(self, process: DiscreteDiffusion, network: Network, marginals: Tensor, evidence: bool = True) -> None:
        super().__init__(process, network, marginals, evidence)
        width = network.width
        extra = int(process.absorbing)
        features = sum(g.columns * (1 + extra if g.levels == 2 else g.levels + extra) for g in self.layout.groups)
        self.inward = nn.Linear(features, width)
        self.time = nn.Sequential(
            nn.Linear(TIME_FEATURES, width), nn.SiLU(), nn.Linear(width, 2 * width * (network.depth + 1))
        )
        self.blocks = nn.ModuleList(_Block(width) for _ in range(network.depth))
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, self.layout.logits)
        with torch.no_grad():
            self.output.weight.zero_()
            self.output.bias.copy_(self.base_logits)

    def _features(self, x_t: Tensor) -> Tensor:
        parts = []
        dtype = self.inward.weight.dtype
        for group in self.layout.groups:
            a = x_t[:, group.start : group.stop]
            if group.levels == 2:
                parts.append((a == 1).to(dtype) if self.process.absorbing else a.to(dtype))
                if self.process.absorbing:
                    parts.append((a == 2).to(dtype))
            else:
                hot = functional.one_hot(a.long(), group.levels + int(self.process.absorbing))
                parts.append(hot.to(dtype).flatten(1))
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)

    def hidden(self, x_t: UInt8[Tensor, "rows columns"], t: Int[Tensor, "rows"]) -> Float[Tensor, "rows width"]:
        """LayerNorm of the last block."""
        film = self._film(t).chunk(self.network.depth + 1, -1)
        scale, shift = film[0].chunk(2, -1)
        h = self.inward(self._features(x_t)) * (1 + scale) + shift
        for block, own in zip(self.blocks, film[1:], strict=True):
            h = block(h, own)
        return self.norm(h)

    def _film(self, t: Tensor) -> Tensor:
        """Scales and shifts of every block: computed once for each distinct time, not for each record."""
        distinct, place = torch.unique(t, return_inverse=True)
        features = time_features(distinct, self.process.num_steps).to(self.inward.weight.dtype)
        return self.time(features).index_select(0, place)  # its gradient is cheaper than that of [place]

    def head(self, z: Float[Tensor, "rows width"]) -> Float[Tensor, "rows logits"]:
        """One linear map."""
        return self.output(z)


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, h: Tensor, film: Tensor) -> Tensor:
        scale, shift = film.chunk(2, -1)
        inner = functional.silu(self.norm(h) * (1 + scale) + shift)
        return h + self.down(functional.silu(self.up(inner)))


class TokenDenoiser(Denoiser):
    """A transformer over the tokens; `linear` projects keys and values along the token axis to `rank` (Linformer)."""

    def __init__(self, process: DiscreteDiffusion, network: Network, marginals: Tensor, evidence: bool = True) -> None:
        super().__init__(process, network, marginals, evidence)
        width, columns = network.width, self.layout.columns
        extra = int(process.absorbing)
        self.levels = nn.ModuleList(nn.Embedding(group.levels + extra, width) for group in self.layout.groups)
        self.position = nn.Parameter(torch.randn(columns, width) * 0.02)
        self.time = nn.Sequential(nn.Linear(TIME_FEATURES, width), nn.SiLU(), nn.Linear(width, width * network.depth))
        rank = min(network.rank, columns) if network.backbone == "linear" else None
        self.layers = nn.ModuleList(_Layer(width, network.heads, columns, rank) for _ in range(network.depth))
        self.norm = nn.LayerNorm(width)
        self.outputs = nn.ModuleList(nn.Linear(width, group.width, bias=False) for group in self.layout.groups)
        self.bias = nn.Parameter(self.base_logits.clone())
        for output in self.outputs:
            nn.init.zeros_(output.weight)  # type: ignore[arg-type] # a Linear's weight

    def hidden(self, x_t: UInt8[Tensor, "rows columns"], t: Int[Tensor, "rows"]) -> Float[Tensor, "rows columns width"]:
        """LayerNorm of the last layer, one vector a token."""
        tokens = [
            embed(x_t[:, group.start : group.stop].long())
            for group, embed in zip(self.layout.groups, self.levels, strict=True)
        ]
        h = torch.cat(tokens, 1) + self.position
        times = self.time(time_features(t, self.process.num_steps).to(h.dtype)).chunk(self.network.depth, -1)
        for layer, time in zip(self.layers, times, strict=True):
            h = layer(h + time[:, None])
        return self.norm(h)

    def head(self, z: Float[Tensor, "rows columns width"]) -> Float[Tensor, "rows logits"]:
        """One linear map for each number of levels, and a bias for each column."""
        parts = [
            output(z[:, group.start : group.stop]).flatten(1)
            for group, output in zip(self.layout.groups, self.outputs, strict=True)
        ]
        return torch.cat(parts, 1) + self.bias


class _Layer(nn.Module):
    def __init__(self, width: int, heads: int, columns: int, rank: int | None) -> None:
        super().__init__()
        self.heads = heads
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.project = None if rank is None else nn.Parameter(torch.randn(2, rank, columns) / math.sqrt(columns))
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, h: Tensor) -> Tensor:
        q, k, v = self.qkv(self.first(h)).chunk(3, -1)
        if self.project is not None:
            k, v = self.project[0] @ k, self.project[1] @ v
        q, k, v = (item.unflatten(-1, (self.heads, -1)).transpose(1, 2) for item in (q, k, v))
        mixed = functional.scaled_dot_product_attention(q, k, v)
        h = h + self.out(mixed.transpose(1, 2).flatten(2))
        return h + self.feed(self.second(h))


def make_denoiser(
    process: DiscreteDiffusion, network: Network, marginals: Float[Tensor, "laws"], evidence: bool = True
) -> Denoiser:
    """The denoiser of a `Network`.

    Raises:
        InputError: for a backbone that does not exist.
    """
    kinds = {"mlp": MLPDenoiser, "transformer": TokenDenoiser, "linear": TokenDenoiser}
    if network.backbone not in kinds:
        raise InputError(f"backbone must be one of {', '.join(kinds)}, got {network.backbone!r}")
    return kinds[network.backbone](process, network, marginals, evidence)
