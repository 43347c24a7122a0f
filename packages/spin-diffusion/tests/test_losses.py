"""T1: losses and gradients by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from shared_core.errors import InputError
from spin_diffusion import denoising_error, dpo_loss, sft_loss, spin_loss
from spin_diffusion.losses import LINK_AT_ZERO, LINK_SLOPE_AT_ZERO, LINKS, beta_for_means

REAL, SYNTH = torch.tensor([0.10, 0.20]), torch.tensor([0.30, 0.25])
REAL_REF, SYNTH_REF = torch.tensor([0.11, 0.18]), torch.tensor([0.29, 0.26])
Z = [-20 * (-0.01 - 0.01), -20 * (0.02 + 0.01)]  # beta 20
BY_HAND = {
    "logistic": [math.log(1 + math.exp(-z)) for z in Z],
    "hinge": [max(0.0, 1 - z) for z in Z],
    "exponential": [math.exp(-z) for z in Z],
    "correlation": [1 - z for z in Z],
}


@pytest.mark.parametrize("link", list(LINKS))
def test_each_link_is_as_by_hand_and_averaged_after_the_link(link: str) -> None:
    found = spin_loss(REAL, SYNTH, REAL_REF, SYNTH_REF, beta=20, link=link)  # type: ignore[arg-type]
    torch.testing.assert_close(found.losses, torch.tensor(BY_HAND[link]))
    torch.testing.assert_close(float(found.loss), sum(BY_HAND[link]) / 2, rtol=1e-6, atol=0)
    torch.testing.assert_close(found.z, torch.tensor(Z))
    assert float(found.implicit_accuracy) == 0.5


@pytest.mark.parametrize("link", list(LINKS))
def test_at_equality_the_loss_is_l_of_0_and_its_gradient_is_the_difference_of_errors(link: str) -> None:
    """S1: (beta / 2) grad [E_real - E_synth] for the logistic link."""
    real, synth = REAL.clone().requires_grad_(), SYNTH.clone().requires_grad_()
    found = spin_loss(real, synth, REAL, SYNTH, beta=7, link=link)  # type: ignore[arg-type]
    assert float(found.loss.detach()) == pytest.approx(LINK_AT_ZERO[link], abs=1e-7)
    found.loss.backward()
    slope = -7 * LINK_SLOPE_AT_ZERO[link] / 2  # two pairs
    torch.testing.assert_close(real.grad, torch.full((2,), slope))
    torch.testing.assert_close(synth.grad, torch.full((2,), -slope))


def test_the_logistic_loss_starts_at_log_2() -> None:
    assert float(spin_loss(REAL, SYNTH, REAL, SYNTH, beta=5000).loss) == pytest.approx(math.log(2), abs=1e-7)


def test_the_salesforce_convention_halves_beta() -> None:
    errors = (REAL, SYNTH, REAL_REF, SYNTH_REF)
    half = spin_loss(*errors, beta=40, convention="salesforce")
    torch.testing.assert_close(half.z, spin_loss(*errors, beta=20).z)


def test_weights_multiply_beta_pair_by_pair() -> None:
    found = spin_loss(REAL, SYNTH, REAL_REF, SYNTH_REF, beta=20, weights=torch.tensor([2.0, 0.5]))
    torch.testing.assert_close(found.z, torch.tensor([2 * Z[0], Z[1] / 2]))


def test_dpo_is_the_logistic_loss_on_given_pairs() -> None:
    errors = (REAL, SYNTH, REAL_REF, SYNTH_REF)
    assert float(dpo_loss(*errors, beta=3).loss) == float(spin_loss(*errors, beta=3).loss)


@given(st.permutations(range(4)), st.floats(0.1, 100))
def test_the_order_of_pairs_does_not_matter(order: list[int], beta: float) -> None:
    errors = torch.rand(4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    one, other = spin_loss(*errors, beta=beta), spin_loss(*errors[:, order], beta=beta)
    assert float(one.loss) == pytest.approx(float(other.loss), rel=1e-12)


@given(st.integers(1, 40), st.floats(1e-3, 10))
def test_a_beta_of_sums_is_that_of_means_times_the_elements(elements: int, beta: float) -> None:
    generator = torch.Generator().manual_seed(elements)
    predictions = torch.randn(4, 3, elements, generator=generator, dtype=torch.float64)
    target = torch.randn(3, elements, generator=generator, dtype=torch.float64)
    sums = [(prediction - target).square().sum(1) for prediction in predictions]
    means = [denoising_error(prediction, target) for prediction in predictions]
    torch.testing.assert_close(spin_loss(*sums, beta=beta).z, spin_loss(*means, beta=beta_for_means(beta, elements)).z)


def test_errors_of_half_precision_are_computed_in_float32() -> None:
    prediction, target = torch.randn(2, 3, 4, 4).bfloat16(), torch.randn(2, 3, 4, 4)
    found = denoising_error(prediction, target)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, (prediction.float() - target).square().mean((1, 2, 3)))


def test_sft_is_the_weighted_mean() -> None:
    assert float(sft_loss(REAL)) == pytest.approx(0.15)
    assert float(sft_loss(REAL, torch.tensor([1.0, 0.0]))) == pytest.approx(0.05)


def test_bad_values_name_what_was_expected() -> None:
    errors = (REAL, SYNTH, REAL_REF, SYNTH_REF)
    for beta in (0.0, -1.0, math.nan):
        with pytest.raises(InputError, match="beta must be positive"):
            spin_loss(*errors, beta=beta)
    with pytest.raises(InputError, match="link must be one of logistic"):
        spin_loss(*errors, beta=1, link="log")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="beta_convention must be plain or salesforce"):
        spin_loss(*errors, beta=1, convention="half")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="learned variance"):
        denoising_error(torch.zeros(1, 6, 2, 2), torch.zeros(1, 3, 2, 2))
