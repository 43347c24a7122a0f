"""Error on fresh points, drawn equal in law from the span form, and on the training set."""

import torch
from jaxtyping import Float
from torch import Tensor

from sam_cnn.dynamics import Trajectory, outputs
from sam_cnn.span import Span


def clean_test_error(span: Span, end: Trajectory) -> Float[Tensor, "run"]:
    """P(sign f(x) != yhat) over `test_noise`, each draw used with both labels; NaN where training diverged.

    Raises:
        ValueError: for a span without test draws (`exact_span`).
    """
    if span.test_noise is None or span.basis is None or span.coordinates is None or span.complement is None:
        raise ValueError("this span has no test draws: it was made by exact_span")
    A = span.coordinates + end.coefficients @ span.basis
    finite = A.isfinite().all(-1).all(-1)
    weights = torch.cat([torch.where(finite[:, None, None], A, 0.0), span.complement], -1)
    # M z with z standard normal is R^T z' where M^T = Q R: 2m draws serve for k + 2m
    triangle = torch.linalg.qr(weights.mT, mode="r").R * span.sigma_p[:, None, None]  # type: ignore[index] # drawn with it
    z = span.test_noise
    products = (z.flatten(1, 2) @ triangle.to(z)).clamp_min_(0).unflatten(1, z.shape[1:3])
    j, m = span.signs, span.m
    noise = (products @ j.to(z)).sum(-1).double() * (span.copies / m)
    plus, minus = (torch.relu(side * end.products[..., 0]) @ j / m for side in (1, -1))
    wrong = 0.5 * (_wrong(plus[:, None] + noise) + _wrong(-minus[:, None] - noise))
    return torch.where(finite & end.products.isfinite().all(-1).all(-1), wrong, torch.nan)


def _wrong(margin: Float[Tensor, "run points"]) -> Float[Tensor, "run"]:
    return ((margin < 0).double() + 0.5 * (margin == 0).double()).mean(-1)


def training_error(span: Span, end: Trajectory) -> tuple[Float[Tensor, "run"], Float[Tensor, "run"]]:
    """Loss and error on the training set, against the observed labels; NaN where training diverged."""
    signal, noise = outputs(span, end.products)
    margin = signal + noise
    loss = torch.nn.functional.softplus(-margin).mean(-1)
    return loss, torch.where(margin.isfinite().all(-1), (margin <= 0).double().mean(-1), torch.nan)
