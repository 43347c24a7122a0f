import os
from collections.abc import Callable

import pytest
import torch
from leaky_relu_bias import TwoLayerNet, fit, gaussian
from leaky_relu_bias.trajectory import Trajectory

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


@pytest.fixture(scope="session")
def points():
    """Ten Gaussian points in 784 dimensions."""
    return gaussian(10, 784, seed=0)


@pytest.fixture(scope="session")
def long_run(points) -> Trajectory:
    """Leaky ReLU, 10^5 exact steps."""
    return fit(*points, TwoLayerNet(m=50, gamma=0.5), steps=100_000)


@pytest.fixture
def run_cli(capsys) -> Callable[..., tuple[int, str, str]]:
    """Run the command in this process: exit code, stdout, stderr."""
    import sys

    from leaky_relu_bias import cli

    def call(*arguments: object) -> tuple[int, str, str]:
        before, sys.argv = sys.argv, ["leaky-relu-bias", *map(str, arguments)]
        try:
            code = cli.main()
        finally:
            sys.argv = before
        out, err = capsys.readouterr()
        return code, out, err

    return call
