"""A chain whose kernels differ by a constant shift only: the exact objective (4.8) is solved in closed form (S4).

With p_theta(x_{t-1} | x_t) = N(mu(x_t) + shift_t, sigma_t^2) and data of the same form at shift_t = target_t, the
optimum of one iteration with the logistic link is theta_k + (target - theta_k) / lambda: p_{theta_{k+1}} is
proportional to p_{theta_k} (p_data / p_{theta_k})^(1/lambda). After k iterations the error is (1 - 1/lambda)^k of
the first.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def log_ratio_law(
    shift: Float[Tensor, " steps"],
    opponent: Float[Tensor, " steps"],
    target: Float[Tensor, " steps"],
    sigma: Float[Tensor, " steps"],
    lam: float,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Mean and standard deviation of u = lambda (log p_theta/p_k (real) - log p_theta/p_k (synthetic)): Gaussian.

    Residuals x_{t-1} - mu(x_t) of real trajectories are N(target_t, sigma_t^2), of synthetic ones
    N(opponent_t, sigma_t^2), independent over t; u is linear in their difference.
    """
    slope = lam * (shift - opponent) / sigma**2
    # the norm, not a root of a sum: at the opponent itself its gradient is 0 and not undefined
    return (slope * (target - opponent)).sum(), 2**0.5 * torch.linalg.vector_norm(slope * sigma)


def exact_loss(
    shift: Float[Tensor, " steps"],
    opponent: Float[Tensor, " steps"],
    target: Float[Tensor, " steps"],
    sigma: Float[Tensor, " steps"],
    lam: float,
    points: int = 2001,
) -> Float[Tensor, ""]:
    """(4.8) with the logistic link, E log(1 + exp(-u)), by the trapezium rule over +-12 deviations (float64).

    Raises:
        ValueError: if lambda is not positive.
    """
    if lam <= 0:
        raise ValueError(f"lambda must be positive, got {lam}")
    mean, deviation = log_ratio_law(shift, opponent, target, sigma, lam)
    z = torch.linspace(-12, 12, points, dtype=torch.float64)
    weight = torch.exp(-0.5 * z**2)
    return (weight * torch.nn.functional.softplus(-(mean + deviation * z))).sum() / weight.sum()


def solve_iteration(
    opponent: Float[Tensor, " steps"], target: Float[Tensor, " steps"], sigma: Float[Tensor, " steps"], lam: float
) -> Float[Tensor, " steps"]:
    """The minimiser of `exact_loss`, found by L-BFGS without use of the closed form."""
    shift = (opponent + 0.3 * sigma).detach().requires_grad_()
    optimiser = torch.optim.LBFGS(
        [shift], max_iter=500, tolerance_grad=1e-13, tolerance_change=1e-16, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = exact_loss(shift, opponent, target, sigma, lam)
        loss.backward()
        return loss

    optimiser.step(closure)
    return shift.detach()
