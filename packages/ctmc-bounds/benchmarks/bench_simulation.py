"""200,000 samples with 16 intervals around the same exact posterior, and KL at equal network calls.

The peer is flow_matching's MixtureDiscreteEulerSolver. With scheduler kappa_s = s and uniform source its marginals at
s = e^{-t} are those of uniform noise at level t, so both sides get the same noise levels: ours end at t = 0 (the data
have full support), and so does its last step, a draw from the posterior. Both sides look the posterior up in a table of
the 64 states (ours does by itself where states are fewer than samples), which makes the peer several times faster than
evaluating the formula for every sample would. Laws of both are exact; draws of both are tested against them.
"""

import math

import torch
from ctmc_bounds import EnumeratedSpace, Marginals, Midpoint, Schedule, TimeFrozen, exp_const, kl
from ctmc_bounds.identities import chi_square_per_cell
from ctmc_bounds.samplers.state_frozen import scatter_products, set_own_to
from ctmc_bounds.spec import mix
from flow_matching.path import MixtureDiscreteProbPath
from flow_matching.path.scheduler import PolynomialConvexScheduler
from flow_matching.solver import MixtureDiscreteEulerSolver
from flow_matching.utils import ModelWrapper
from shared_core.benchmark import Comparison, compare, seconds

SAMPLES, STEPS, REPEATS = 200_000, 16, 5
PEER = "flow_matching 1.0 MixtureDiscreteEulerSolver"


def schedule(N):
    """exp_const down to 0.01, then to 0 in the last step."""
    return Schedule((*exp_const(6, 0.01, N).times[:-1], 0.0))


def run() -> list[Comparison]:
    torch.set_num_threads(1)
    data, space = mix(6), EnumeratedSpace(2, 6)
    ours, peer = TimeFrozen(schedule(STEPS)), Peer(data, schedule(STEPS))
    mine = ours.law(data, representation="enumerated")
    theirs = peer.law()
    same = follows(ours.sample(SAMPLES, data, torch.Generator().manual_seed(0)).tokens, mine.probabilities, space)
    same &= follows(peer.sample(SAMPLES), theirs, space)
    print(f"KL(p_data || law), {STEPS} intervals: ours {mine.kl:.4g}, flow_matching {kl(data.table, theirs):.4g}")
    a, b = [], []
    for repeat in range(REPEATS + 1):
        pair = (
            seconds(lambda: ours.sample(SAMPLES, data, torch.Generator().manual_seed(repeat))),  # noqa: B023
            seconds(lambda: peer.sample(SAMPLES)),
        )
        if repeat:
            a.append(pair[0])
            b.append(pair[1])
    rows = [
        compare("simulation-200k", f"seconds of {SAMPLES} samples, {STEPS} intervals, same exact posterior", PEER, a, b,
                same_result=same and mine.kl < kl(data.table, theirs)),
    ]  # fmt: skip
    return [*rows, kl_at_equal_calls(data)]


def kl_at_equal_calls(data) -> Comparison:
    """Exact KL of both at the calls that ours (midpoint) takes with 16, 32 and 64 intervals."""
    mine, theirs = [], []
    for N in (16, 32, 64):
        sampler = Midpoint(schedule(N))
        calls = math.ceil(sampler.expected_calls(data.ctmc))
        mine.append(sampler.law(data).kl)
        theirs.append(kl(data.table, Peer(data, schedule(calls)).law()))
        print(f"{calls} calls: KL ours (midpoint) {mine[-1]:.4g}, flow_matching {theirs[-1]:.4g}")
    return compare("kl-per-call", "exact KL to the data at equal network calls (34, 50, 82)", PEER, mine, theirs,
                   same_result=True, unit="nats")  # fmt: skip


def follows(tokens, law, space) -> bool:
    seen = torch.bincount(space.number(tokens), minlength=space.n).double()
    return abs(chi_square_per_cell(seen, law * len(tokens))) < 5


class Peer:
    def __init__(self, data, grid):
        self.space, self.marginals, self.grid = EnumeratedSpace(2, 6), Marginals(data), grid
        x = self.space.representatives()
        self.posteriors = [data.posterior(x, t) for t, _ in grid.intervals]
        # float32, as the solver's default for its categorical draws
        times = torch.exp(-torch.tensor(grid.times, dtype=torch.float64))
        self.kappa, self.tables = times.float(), [table.float() for table in self.posteriors]
        space, tables, kappa = self.space, self.tables, self.kappa

        class Table(ModelWrapper):
            def __init__(self):
                super().__init__(torch.nn.Identity())

            def forward(self, x, t, **extras):
                return tables[int((kappa - t[0]).abs().argmin())][space.number(x)]

        path = MixtureDiscreteProbPath(PolynomialConvexScheduler(n=1.0))
        self.solver = MixtureDiscreteEulerSolver(Table(), path, vocabulary_size=2)

    def sample(self, n):
        return self.solver.sample(torch.randint(2, (n, 6)), step_size=None, time_grid=self.kappa)

    def law(self):
        """Exact: each token moves to c with probability w(c) (1 - e^{-h kappa'/(1-kappa)}), at last to a draw of w."""
        x, p = self.space.representatives(), self.space.uniform()
        kappa = torch.exp(-torch.tensor(self.grid.times, dtype=torch.float64))
        for k, w in enumerate(self.posteriors):
            if k < len(self.posteriors) - 1:
                moved = w * -torch.expm1(-(kappa[k + 1] - kappa[k]) / (1 - kappa[k]))
                moved = set_own_to(moved, x, torch.zeros(*x.shape, 1, dtype=torch.float64))
                w = set_own_to(moved, x, 1 - moved.sum(-1, keepdim=True))
            p = scatter_products(w, p)
        return p
