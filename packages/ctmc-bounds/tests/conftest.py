"""Laws that many tests share, and matrices made the plain way."""

import pytest
import torch
from ctmc_bounds import IsingRing, Marginals, MixtureData, exp_const
from ctmc_bounds.spec import mix


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def mix6() -> MixtureData:
    return mix(6)


@pytest.fixture(scope="session")
def ising6() -> IsingRing:
    return IsingRing(6)


@pytest.fixture(scope="session")
def grid():
    """exp_const from T = 6 to delta = 0.01, the schedule of most reference values."""
    return lambda N, delta=0.01: exp_const(6, delta, N)


@pytest.fixture(scope="session")
def dense_generator():
    """The n x n generator of a score frozen at t, from `DataLaw.score` alone, entry by entry."""

    def make(data, t, estimator=None):
        from ctmc_bounds import EnumeratedSpace

        space = Marginals(data, EnumeratedSpace(data.S, data.d)).space
        x = space.representatives()
        score = (estimator or data)(x, t)
        G = torch.zeros(space.n, space.n, dtype=torch.float64)
        for i in range(data.d):
            for c in range(data.S):
                y = x.clone()
                y[:, i] = c
                G[torch.arange(space.n), space.number(y)] += torch.where(x[:, i] != c, score[:, i, c] / data.S, 0.0)
        return G - torch.diag(G.sum(1))

    return make
