"""Where the discretisation error comes from, and the schedule that spends steps accordingly. Ours."""

import torch

from ctmc_bounds.certified import space_exit_rates
from ctmc_bounds.data_laws import DataLaw
from ctmc_bounds.marginals import Marginals
from ctmc_bounds.samplers.base import check_support
from ctmc_bounds.schedules import Schedule, by_density
from ctmc_bounds.spaces import EnumeratedSpace


def error_density(marginals: Marginals, t: float) -> float:
    """c(t) = (1/2) E_{q_t} (1/S) sum s_t(x)[i,c] (R_t(x^{i->c}) - R_t(x))^2.

    An interval of length h at t adds c(t) h^3 / 3 + O(h^4) to the path KL of the paper's scheme.
    """
    space, R = marginals.space, space_exit_rates(marginals, t)
    if isinstance(space, EnumeratedSpace):
        # sum over neighbours of (R(y) - R(x))^2 q(y): three products with the adjacency, no table of moves
        q, blocks = marginals.probabilities(t), space.blocks
        inner = [blocks.sum(blocks.adjacency, v) for v in (q, q * R, q * R * R)]
        return max(0.0, float((R * R * inner[0] - 2 * R * inner[1] + inner[2]).sum()) / 2)
    log_q = marginals.log_q(t)
    jump = R[..., space.dst] - R.unsqueeze(-1)
    flow = torch.exp(space.log_scores(log_q)) * jump**2 * space.multiplicity
    return float((torch.exp(log_q + space.log_size) * flow.sum(-1)).sum()) / space.S / 2


def optimal_schedule(data: DataLaw | Marginals, T: float, delta: float, N: int, points: int = 400) -> Schedule:
    """N intervals with h proportional to c(t)^{-1/3}: they add equally to the path KL, whose leading term is smallest.

    Raises:
        InputError: for a wrong T, delta or N, or delta = 0 without full support.
    """
    marginals = data if isinstance(data, Marginals) else Marginals(data)
    check_support(marginals.data, delta)
    return by_density(T, delta, N, lambda t: max(error_density(marginals, t), 1e-300) ** (1 / 3), points)
