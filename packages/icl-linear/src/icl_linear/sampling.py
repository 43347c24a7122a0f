"""Drawing tasks: whole prompts, or only what SGD needs, (v, x, y), at O(d) a task with the same law."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from shared_core.errors import InputError
from torch import Tensor

from icl_linear.checks import check_count, check_length, check_positive
from icl_linear.problem import Problem

Design = Literal["gaussian", "sphere", "gamma"]


@dataclass(frozen=True, eq=False)
class Tasks:
    """Prompts in the coordinates of the data.

    Attributes:
        X: context inputs.
        y: context labels.
        x_query: query inputs.
        y_query: query labels.
        beta: coefficients.
    """

    X: Float[Tensor, "tasks n d"]
    y: Float[Tensor, "tasks n"]
    x_query: Float[Tensor, "tasks d"]
    y_query: Float[Tensor, "tasks"]
    beta: Float[Tensor, "tasks d"]

    def statistics(self, problem: Problem | None = None) -> "Statistics":
        """(v, x, y) of each prompt, v = X^T y / n; in the eigenbasis of H where `problem` is given."""
        v = torch.einsum("tnd,tn->td", self.X, self.y) / self.X.shape[1]
        if problem is None or problem.basis is None:
            return Statistics(v, self.x_query, self.y_query)
        basis = problem.basis.to(v)
        return Statistics(v @ basis, self.x_query @ basis, self.y_query)


@dataclass(frozen=True, eq=False)
class Statistics:
    """All that a step of SGD reads of a prompt.

    Attributes:
        v: X^T y / n.
        x: query input.
        y: query label.
    """

    v: Float[Tensor, "*tasks d"]
    x: Float[Tensor, "*tasks d"]
    y: Float[Tensor, "*tasks"]


def sample_tasks(
    problem: Problem,
    context: int,
    count: int,
    generator: torch.Generator,
    *,
    design: Design = "gaussian",
    nonzero: int | None = None,
    dtype: torch.dtype = torch.float64,
    betas: Float[Tensor, "pool d"] | None = None,
) -> Tasks:
    """Draw whole prompts.

    Args:
        problem: the tasks.
        context: examples in each prompt.
        count: prompts.
        generator: source of randomness; its device is the result's.
        design: gaussian; `sphere` (sqrt(d) times a uniform direction) or `gamma` (a direction with heavy-tailed length,
            E length^2 = d), each times H^(1/2): the closed forms hold for gaussian only.
        nonzero: coefficients of a task that are not zero (scaled to the same E |beta|^2); all by default.
        dtype: of the tensors.
        betas: a finite pool of tasks to draw from with replacement; fresh tasks by default.

    Raises:
        InputError: for a context or count below 1, an unknown design, or more nonzero coefficients than d.
    """
    context, count = int(check_length("context", context)), check_count("count", count)
    d, device = problem.d, generator.device
    options: dict[str, Any] = {"dtype": dtype, "device": device, "generator": generator}
    directions = torch.randn(count, context + 1, d, **options)
    if design in ("sphere", "gamma"):
        directions *= d**0.5 / directions.norm(dim=-1, keepdim=True)
        if design == "gamma":
            shape = torch.full((count, context + 1, 1), 0.5, dtype=dtype, device=device)
            directions *= (2 * torch._standard_gamma(shape, generator=generator)).sqrt()
    elif design != "gaussian":
        raise InputError(f"design must be gaussian, sphere or gamma, got {design!r}")
    inputs = directions * problem.eigenvalues.sqrt().to(directions)
    if problem.basis is not None:
        inputs = inputs @ problem.basis.T.to(inputs)
    if betas is None:
        beta = problem.psi * torch.randn(count, d, **options)
        if nonzero is not None:
            if not 1 <= nonzero <= d:
                raise InputError(f"nonzero must be in 1..{d}, got {nonzero}")
            order = torch.rand(count, d, **options).argsort(1).argsort(1)
            beta = beta * (order < nonzero) * (d / nonzero) ** 0.5
    else:
        beta = betas.to(directions)[torch.randint(len(betas), (count,), device=device, generator=generator)]
    labels = torch.einsum("tnd,td->tn", inputs, beta)
    labels += problem.sigma * torch.randn(count, context + 1, **options)
    return Tasks(inputs[:, :-1], labels[:, :-1], inputs[:, -1], labels[:, -1], beta)


def sample_statistics(
    problem: Problem,
    context: int,
    shape: tuple[int, ...],
    generator: torch.Generator,
    dtype: torch.dtype = torch.float32,
) -> Statistics:
    """Draw (v, x, y) of Gaussian prompts, in the eigenbasis of H, without drawing the context.

    Given beta, with h ~ N(0, H), e ~ N(0, sigma^2), u ~ chi^2_N and tau^2 = beta^T H beta + sigma^2,
    z = h - H beta (beta^T h + e) / tau^2 has covariance H - H beta beta^T H / tau^2 and
    v = (u H beta + tau sqrt(u) z) / N has the law of X^T y / N.

    Args:
        problem: the tasks.
        context: N.
        shape: of the result's leading axes.
        generator: source of randomness; its device is the result's.
        dtype: of the tensors.
    """
    context = int(check_length("context", context))
    device, d = generator.device, problem.d
    eigenvalues = problem.eigenvalues.to(device=device, dtype=dtype)
    root = eigenvalues.sqrt()
    beta, h, x = torch.randn(3, *shape, d, dtype=dtype, device=device, generator=generator).unbind(0)
    noise, noise_query = torch.randn(2, *shape, dtype=dtype, device=device, generator=generator) * problem.sigma
    half = torch.full(shape, context / 2, dtype=dtype, device=device)
    u = 2 * torch._standard_gamma(half, generator=generator)
    x *= root
    h *= root
    beta *= check_positive("psi", problem.psi)
    y = (x * beta).sum(-1) + noise_query
    projection = (beta * h).sum(-1) + noise
    beta_h = beta * eigenvalues
    tau2 = (beta * beta_h).sum(-1) + problem.sigma**2
    spread = tau2.sqrt() * u.sqrt() / context
    along = u / context - spread * projection / tau2
    v = h.mul_(spread[..., None]).addcmul_(along[..., None], beta_h)
    return Statistics(v, x, y)
