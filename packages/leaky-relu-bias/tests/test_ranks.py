"""Stable rank, and the loss in the log domain."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from leaky_relu_bias import log_loss, stable_rank, stable_rank_excess
from leaky_relu_bias.ranks import spectral_norm
from shared_core import InputError


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(1, 12), columns=st.integers(1, 12), seed=st.integers(0, 1000))
def test_power_iteration_equals_the_decomposition(rows, columns, seed):
    M = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    assert float(stable_rank(M, "power")) == pytest.approx(float(stable_rank(M, "svd")), rel=1e-8)
    assert float(spectral_norm(M)) == pytest.approx(float(torch.linalg.matrix_norm(M, 2)), rel=1e-9)
    assert 1 <= float(stable_rank(M)) <= min(rows, columns) + 1e-9


def test_excess_below_the_rounding_of_one_is_kept():
    Q = torch.linalg.qr(torch.randn(300, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(0))).Q
    values = torch.full((20,), 1e-9, dtype=torch.float64)
    values[0] = 1.0
    M = Q * values
    assert float(stable_rank_excess(M.T, "svd")) == pytest.approx(19e-18, rel=1e-3)
    assert float(stable_rank_excess(M.T, "power")) == pytest.approx(19e-18, rel=1e-3)
    assert float(stable_rank(torch.eye(200, dtype=torch.float64), "power")) == pytest.approx(200)


def test_what_is_no_matrix_is_refused():
    with pytest.raises(InputError, match="defined for a matrix"):
        stable_rank(torch.ones(3))
    with pytest.raises(InputError, match="method must be"):
        stable_rank(torch.ones(3, 3), "fast")  # type: ignore[arg-type]


@pytest.mark.parametrize("q", [-50.0, 0.0, 5.0, 29.9, 30.1, 300.0])
def test_log_loss_equals_the_loss_where_that_exists(q):
    margins = torch.tensor([q, q + 1], dtype=torch.float64)
    direct = math.log(sum(math.log1p(math.exp(-v)) for v in margins.tolist()) / 2)
    assert float(log_loss(margins)) == pytest.approx(direct, rel=1e-13, abs=1e-13)


def test_log_loss_is_finite_where_the_loss_underflows():
    margins = torch.tensor([4000.0, 4001.0], dtype=torch.float64)
    assert float(log_loss(margins)) == pytest.approx(-4000 + math.log((1 + math.exp(-1)) / 2), rel=1e-14)
