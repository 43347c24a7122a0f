"""Linear attention as a module, from the paper's merged Gamma to full weights, at O(n d) a prompt.

On Z = [[X^T, x], [y^T, 0]] of shape (d + 1) x (n + 1) the layer is Z + (1 / n) (V Z)(K Z)^T (Q Z); the prediction is
its last entry. The scores are never formed: with w the last row of V, the answer is s^T (K^T Q z_query),
s = (1 / n) sum_i (w . z_i) z_i.
"""

from typing import Literal

import torch
from jaxtyping import Float
from shared_core.errors import InputError
from torch import Tensor, nn

from icl_linear.checks import check_count

Weights = Literal["merged", "factored", "full"]


class LinearAttention(nn.Module):
    """One layer of linear attention for in-context regression.

    Args:
        d: dimension of the inputs.
        weights: `merged` has the one matrix Gamma; `factored` has Gamma = v W_Q^T W_K; `full` has W_Q, W_K and W_V
            of (d + 1) x (d + 1).
        scale: standard deviation of the random start of `factored` and `full` (times 1 / sqrt(d)); Gamma starts at 0.

    Raises:
        InputError: for other weights, or d below 1.

    Example:
        >>> model = LinearAttention(5)
        >>> model(torch.randn(8, 20, 5), torch.randn(8, 20), torch.randn(8, 5)).shape
        torch.Size([8])
    """

    def __init__(self, d: int, weights: Weights = "merged", scale: float = 0.5) -> None:
        super().__init__()
        self.d, self.weights = check_count("d", d), weights
        if weights == "merged":
            self.gamma = nn.Parameter(torch.zeros(d, d))
        elif weights in ("factored", "full"):
            size = d if weights == "factored" else d + 1
            self.query = nn.Parameter(scale / d**0.5 * torch.randn(size, size))
            self.key = nn.Parameter(scale / d**0.5 * torch.randn(size, size))
            start = torch.tensor(1.0) if weights == "factored" else torch.eye(size)
            self.value = nn.Parameter(start)
        else:
            raise InputError(f"weights must be merged, factored or full, got {weights!r}")

    def forward(
        self, X: Float[Tensor, "batch n d"], y: Float[Tensor, "batch n"], x_query: Float[Tensor, "batch d"]
    ) -> Float[Tensor, "batch"]:
        """Prediction for the query from all n examples."""
        n = X.shape[1]
        if self.weights != "full":
            v = torch.einsum("bnd,bn->bd", X, y) / n
            return ((x_query @ self.to_gamma()) * v).sum(-1)
        Z, z_query = torch.cat([X, y[..., None]], -1), _with_zero(x_query)
        w = self.value[-1]
        s = (Z * (Z @ w)[..., None]).sum(1) + z_query * (z_query @ w)[:, None]
        return (s / n * (z_query @ (self.key.T @ self.query).T)).sum(-1)

    def prefix_predictions(
        self, X: Float[Tensor, "batch n d"], y: Float[Tensor, "batch n"]
    ) -> Float[Tensor, "batch n"]:
        """Prediction of every label from the examples before it (the first is 0), with running sums."""
        before = torch.arange(X.shape[1], device=X.device).clamp(min=1).to(X)[:, None]
        if self.weights != "full":
            terms = X * y[..., None]
            return ((X @ self.to_gamma()) * (terms.cumsum(1) - terms) / before).sum(-1)
        Z, z_query, w = torch.cat([X, y[..., None]], -1), _with_zero(X), self.value[-1]
        terms = Z * (Z @ w)[..., None]
        s = terms.cumsum(1) - terms + z_query * (z_query @ w)[..., None]
        predictions = (s / before * (z_query @ (self.key.T @ self.query).T)).sum(-1)
        return torch.cat([torch.zeros_like(predictions[:, :1]), predictions[:, 1:]], 1)

    def to_gamma(self) -> Float[Tensor, "d d"]:
        """Gamma of x^T Gamma X^T y / n; for `full`, of its part that the paper's parameterisation keeps."""
        if self.weights == "merged":
            return self.gamma
        gamma = self.query.T @ self.key
        return self.value * gamma if self.weights == "factored" else self.value[-1, -1] * gamma[: self.d, : self.d]

    def outside_gamma(self) -> float:
        """Relative size of the weights that `to_gamma` leaves out: 0 means that Gamma is the whole model."""
        if self.weights != "full":
            return 0.0
        product, last = (self.key.T @ self.query).detach(), self.value[-1].detach()
        rest = product[-1, :-1].norm() * last[-1].abs() + last[:-1].norm() * product[:, :-1].norm()
        return float(rest / (last[-1].abs() * product[:-1, :-1].norm()))


class ICLTransformer(nn.Module):
    """A GPT-2 style transformer on the interleaved sequence x_1, y_1, x_2, ...; the answer is read at each x.

    Args:
        d: dimension of the inputs.
        max_context: largest number of examples before a query.
        layers: transformer blocks.
        width: embedding size, a multiple of `heads`.
        heads: attention heads.

    Raises:
        InputError: for a size below 1, or a width that `heads` does not divide.
    """

    def __init__(self, d: int, max_context: int, layers: int = 3, width: int = 64, heads: int = 4) -> None:
        super().__init__()
        from transformers import GPT2Config, GPT2Model

        if width % heads:
            raise InputError(f"width {width} must be a multiple of heads {heads}")
        self.d, self.max_context = check_count("d", d), check_count("max_context", max_context)
        config = GPT2Config(
            vocab_size=1,
            n_positions=2 * max_context + 2,
            n_embd=width,
            n_layer=check_count("layers", layers),
            n_head=check_count("heads", heads),
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            use_cache=False,
            bos_token_id=None,
            eos_token_id=None,
        )
        self.read_in, self.backbone, self.read_out = nn.Linear(d, width), GPT2Model(config), nn.Linear(width, 1)
        self.backbone.wte.weight.requires_grad_(False)  # the embeddings are given; a frozen table needs no gradient

    def forward(
        self, X: Float[Tensor, "batch n d"], y: Float[Tensor, "batch n"], x_query: Float[Tensor, "batch d"]
    ) -> Float[Tensor, "batch"]:
        """Prediction for the query from all n examples."""
        y = torch.cat([y, torch.zeros_like(y[:, :1])], 1)
        return self.prefix_predictions(torch.cat([X, x_query[:, None]], 1), y)[:, -1]

    def prefix_predictions(
        self, X: Float[Tensor, "batch n d"], y: Float[Tensor, "batch n"]
    ) -> Float[Tensor, "batch n"]:
        """Prediction of every label from the examples before it.

        Raises:
            InputError: for more examples than the model has positions for.
        """
        if X.shape[1] > self.max_context + 1:
            raise InputError(f"this transformer holds {self.max_context} examples and a query, got {X.shape[1]}")
        hidden = self.backbone(inputs_embeds=self.read_in(interleave(X, y))).last_hidden_state
        return self.read_out(hidden[:, ::2])[..., 0]


def interleave(X: Float[Tensor, "batch n d"], y: Float[Tensor, "batch n"]) -> Float[Tensor, "batch 2n d"]:
    """The sequence x_1, y_1, x_2, y_2, ... with y in the first coordinate, zeros behind it."""
    labels = torch.zeros_like(X)
    labels[..., 0] = y
    return torch.stack([X, labels], 2).flatten(1, 2)


def deinterleave(sequence: Float[Tensor, "batch 2n d"]) -> tuple[Float[Tensor, "batch n d"], Float[Tensor, "batch n"]]:
    """The inverse of `interleave`.

    Raises:
        InputError: for an odd number of entries.
    """
    if sequence.shape[1] % 2:
        raise InputError(f"a sequence x_1, y_1, ... has an even length, got {sequence.shape[1]}")
    return sequence[:, ::2], sequence[:, 1::2, 0]


def _with_zero(x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d1"]:
    return torch.cat([x, torch.zeros_like(x[..., :1])], -1)
