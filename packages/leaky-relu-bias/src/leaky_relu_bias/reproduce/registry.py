"""The claims of this package, and helpers that several of them share."""

from collections.abc import Sequence

from shared_core.claims import ClaimSet, Context

from leaky_relu_bias.continuation import continue_to
from leaky_relu_bias.descent import fit
from leaky_relu_bias.max_margin import Limits, limits
from leaky_relu_bias.network import TwoLayerNet
from leaky_relu_bias.synthetic import gaussian
from leaky_relu_bias.trajectory import Trajectory

# on matrices of ten points more threads only wait for one another
claims = ClaimSet("leaky-relu-bias", one_thread=("smoke", "laptop", "paper"))
Runs = list[tuple[Trajectory, Limits]]


def seeds(context: Context, count: int) -> range:
    """`count` seeds that begin at the run's own."""
    return range(context.seed, context.seed + count)


def gaussian_runs(context: Context, gamma: float, d: int, steps: int, count: int) -> Runs:
    """Runs on Gaussian points (n = 10, m = 50), each with data and weights of its own, and their predicted limits."""

    def make() -> Runs:
        found = []
        for seed in seeds(context, count):
            X, y = gaussian(10, d, seed)
            net = TwoLayerNet(m=50, gamma=gamma, sigma0=1e-4, seed=seed)
            found.append((fit(X.to(context.device), y, net, steps=steps), limits(X, y, net)))
        return found

    return context.memo(("gaussian", gamma, d, steps, count), make)


def far(context: Context, runs: Runs, key: str, log10_t: float = 100.0) -> list[Trajectory]:
    """The runs continued in log time (remembered under `key`)."""
    return context.memo(("far", key, log10_t), lambda: [continue_to(run, log10_t) for run, _ in runs])


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Smallest and largest value over the seeds."""
    return min(values), max(values)
