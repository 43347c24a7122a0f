"""Objectives against their closed forms."""

import math

import pytest
import torch
from shared_core.errors import InputError
from spin_llm.losses import LINK_AT_ZERO, LINK_SLOPE_AT_ZERO, LINKS, contraction_factor, geometric_mixture, spin_loss
from spin_llm.tabular import (
    best_player,
    divergence,
    error_factor,
    gradient_identity,
    population_loss,
    predicted_player,
    random_table,
    slope_at_zero,
)

ZERO = torch.zeros(1, dtype=torch.float64)


@pytest.mark.parametrize("beta", [0.0, -1.0, math.nan])
def test_no_contraction_without_a_positive_beta(beta: float) -> None:
    with pytest.raises(InputError, match="beta must be above 0"):
        contraction_factor(beta)


@pytest.mark.parametrize("link", LINKS)
def test_links_at_zero(link: str) -> None:
    u = torch.zeros((), dtype=torch.float64, requires_grad=True)
    value = LINKS[link](u)
    (slope,) = torch.autograd.grad(value, u)
    assert value.item() == pytest.approx(LINK_AT_ZERO[link], abs=1e-15)
    assert float(slope) == pytest.approx(LINK_SLOPE_AT_ZERO[link], abs=1e-15)


@pytest.mark.parametrize("margin", [-5e4, -30.0, 0.0, 2.0, 5e4])
def test_the_logistic_loss_and_its_slope_are_exact_and_finite_for_any_margin(margin: float) -> None:
    beta = 0.25
    real = torch.tensor([margin / beta], dtype=torch.float64, requires_grad=True)
    loss = spin_loss(real, ZERO, ZERO, ZERO, beta)
    (slope,) = torch.autograd.grad(loss, real)
    exact = max(-margin, 0.0) + math.log1p(math.exp(-abs(margin)))
    sigma = 1 / (1 + math.exp(margin)) if margin < 700 else 0.0
    assert loss.item() == pytest.approx(exact, rel=1e-14)
    assert float(slope) == pytest.approx(-beta * sigma, rel=1e-12, abs=1e-300)


def test_each_loss_is_its_formula() -> None:
    torch.manual_seed(0)
    real, generated, before_real, before_generated = torch.randn(4, 20, dtype=torch.float64)
    u = 0.7 * ((real - before_real) - (generated - before_generated))
    formulas = {
        "logistic": torch.log(1 + torch.exp(-u)),
        "hinge": torch.clamp(1 - u, min=0),
        "exponential": torch.exp(-u),
        "correlation": 1 - u,
        "nce": -torch.log(torch.sigmoid(0.7 * (real - before_real)))
        - torch.log(1 - torch.sigmoid(0.7 * (generated - before_generated))),
    }
    for name, expected in formulas.items():
        found = spin_loss(real, generated, before_real, before_generated, 0.7, name)  # type: ignore[arg-type]
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(InputError, match="lambda"):
        spin_loss(ZERO, ZERO, ZERO, ZERO, 0)
    with pytest.raises(InputError, match="loss_type must be one of"):
        spin_loss(ZERO, ZERO, ZERO, ZERO, 1, "square")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="base_weight"):
        geometric_mixture(ZERO, ZERO, 1)


@pytest.fixture(scope="module")
def tables() -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return random_table(3, 12, draw), random_table(3, 12, draw)


@pytest.mark.parametrize("beta", [0.4, 0.5, 0.75, 1.0, 2.0, 5.0])
def test_the_minimiser_is_that_of_theorem_5_4_and_the_error_shrinks_by_1_minus_1_over_beta(
    tables: tuple[torch.Tensor, torch.Tensor], beta: float
) -> None:
    start, data = tables
    found = best_player(start, data, beta)
    torch.testing.assert_close(found, predicted_player(start, data, beta), rtol=0, atol=1e-12)
    assert error_factor(found, start, data) == pytest.approx(1 - 1 / beta, abs=1e-12)
    assert abs(error_factor(found, start, data)) == pytest.approx(contraction_factor(beta), abs=1e-12)


def test_the_bounded_variant_reaches_the_data_in_one_iteration(tables: tuple[torch.Tensor, torch.Tensor]) -> None:
    start, data = tables
    assert float(divergence(data, best_player(start, data, 1.0, "nce"))) < 1e-9


@pytest.mark.parametrize("link", LINKS)
def test_at_the_data_no_player_is_better_than_l_of_0(tables: tuple[torch.Tensor, torch.Tensor], link: str) -> None:
    other, data = tables
    for beta in (0.1, 1.0, 5.0):
        at_data = population_loss(data, data, data, beta, link)  # type: ignore[arg-type]
        assert float(at_data) == pytest.approx(LINK_AT_ZERO[link], abs=1e-12)
        assert float(population_loss(other, data, data, beta, link)) >= LINK_AT_ZERO[link] - 1e-12  # type: ignore[arg-type]


@pytest.mark.parametrize("link", LINKS)
def test_identities_of_slope_and_gradient(tables: tuple[torch.Tensor, torch.Tensor], link: str) -> None:
    start, data = tables
    slope = slope_at_zero(start, data, link)  # type: ignore[arg-type]
    assert slope.measured == pytest.approx(slope.predicted, abs=1e-13)
    left, right = gradient_identity(start, data, 0.3, link)  # type: ignore[arg-type]
    torch.testing.assert_close(left, right, rtol=0, atol=1e-14)
