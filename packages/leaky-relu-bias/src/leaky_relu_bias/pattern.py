"""What a fixed activation pattern D = sigma'(W X^T) implies: the margins' kernel, and a proof that it stays fixed."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def margin_kernel(
    D: Float[Tensor, "*batch two_m n"], y: Float[Tensor, " n"], G: Float[Tensor, "n n"]
) -> Float[Tensor, "*batch n n"]:
    """K = (y y^T) o (D^T D / m) o G, the kernel of the margins' recursion."""
    return torch.outer(y, y) * (D.mT @ D) / (D.shape[-2] // 2) * G


def sign_is_kept(
    Z: Float[Tensor, "*batch two_m n"],
    active: Bool[Tensor, "*batch two_m n"],
    change: Float[Tensor, "*batch two_m n"],
    G: Float[Tensor, "n n"],
) -> Bool[Tensor, "*batch two_m n"]:
    """Whether Z cannot leave its side of 0 while A grows monotonically, entry by entry, by `change`."""
    plus, minus = change.clamp(min=0), change.clamp(max=0)
    G_plus, G_minus = G.clamp(min=0), G.clamp(max=0)
    up = plus @ G_plus + minus @ G_minus
    down = plus @ G_minus + minus @ G_plus
    rounding = 64 * torch.finfo(Z.dtype).eps * (Z.abs() + up - down)
    return torch.where(active, Z + down > rounding, Z + up <= -rounding)
