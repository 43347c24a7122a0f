"""Gaussian, mixture and shift-chain families: closed forms against simulation and autograd (T4, T5, S1, S2, S4, S7)."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from spin_diffusion.gaussian import (
    GaussianDenoiser,
    Moments,
    expected_error,
    fixed_point,
    generated_moments,
    linear_alphas,
    spaced_timesteps,
    wasserstein2,
)
from spin_diffusion.mixture import MixtureDenoiser, total_variation
from spin_diffusion.shift_chain import exact_loss, solve_iteration

ALPHAS = linear_alphas()
DATA = Moments(1.5, 0.25)


def _vector(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(("steps", "distance"), [(3, 0.3446), (5, 0.2383), (10, 0.1309), (20, 0.0693)])
def test_a_coarse_sampler_leaves_the_sft_optimum_away_from_the_data(steps: int, distance: float) -> None:
    generated = generated_moments(DATA, ALPHAS, spaced_timesteps(steps))
    assert wasserstein2(generated, DATA) == pytest.approx(distance, abs=5e-5)
    if steps == 5:
        assert generated.variance == pytest.approx(0.0685, abs=5e-5)


def test_the_fixed_point_of_five_steps() -> None:
    found = fixed_point(DATA, ALPHAS, spaced_timesteps(5))
    assert found == pytest.approx((1.50478, 0.61594), abs=5e-6)


@given(st.integers(1, 60), st.floats(-3, 3), st.floats(0.05, 4), st.sampled_from([0.0, 0.5]))
def test_at_the_fixed_point_generated_moments_are_the_datas(n: int, mean: float, variance: float, eta: float) -> None:
    data, steps = Moments(mean, variance), spaced_timesteps(n)
    theta = fixed_point(data, ALPHAS, steps, eta)
    assert generated_moments(theta, ALPHAS, steps, eta) == pytest.approx(data, abs=1e-9)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_generated_moments_are_those_of_simulated_ddim(eta: float) -> None:
    theta, steps, rows = Moments(1.2, 0.4), spaced_timesteps(10), 200_000
    net = GaussianDenoiser(theta, ALPHAS)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, dtype=torch.float64, generator=generator)
    for t, after in zip(steps, [*steps[1:], -1], strict=True):
        eps = net(x, torch.full((rows,), t))
        a, b = ALPHAS[t], ALPHAS[after] if after >= 0 else torch.tensor(1.0, dtype=torch.float64)
        sigma2 = eta**2 * (1 - b) / (1 - a) * (1 - a / b)
        x0 = (x - (1 - a).sqrt() * eps) / a.sqrt()
        x = b.sqrt() * x0 + (1 - b - sigma2).sqrt() * eps
        x = (x + sigma2.sqrt() * torch.randn(rows, dtype=torch.float64, generator=generator)).detach()
    expected = generated_moments(theta, ALPHAS, steps, eta)
    assert x.mean().item() == pytest.approx(expected.mean, abs=5 * math.sqrt(expected.variance / rows))
    assert x.var().item() == pytest.approx(expected.variance, rel=5 * math.sqrt(2 / rows))


def test_expected_error_is_that_of_simulated_noising_and_is_least_at_the_data() -> None:
    net = GaussianDenoiser(Moments(1.0, 0.5), ALPHAS)
    generator, rows = torch.Generator().manual_seed(0), 400_000
    x0 = DATA.mean + math.sqrt(DATA.variance) * torch.randn(rows, dtype=torch.float64, generator=generator)
    noise = torch.randn(rows, dtype=torch.float64, generator=generator)
    t = torch.randint(1000, (rows,), generator=generator)
    errors = (net(ALPHAS[t].sqrt() * x0 + (1 - ALPHAS[t]).sqrt() * noise, t) - noise) ** 2
    expected = expected_error(net, DATA)
    assert errors.mean().item() == pytest.approx(expected.item(), abs=5 * errors.std().item() / math.sqrt(rows))
    optimum = GaussianDenoiser(DATA, ALPHAS)
    expected_error(optimum, DATA).backward()
    assert optimum.mean.grad.item() == pytest.approx(0, abs=1e-12)
    assert optimum.log_variance.grad.item() == pytest.approx(0, abs=1e-12)


@given(st.floats(0.5, 2.5), st.floats(0.1, 1.5))
def test_the_gradient_at_the_opponent_vanishes_only_where_moments_match(mean: float, variance: float) -> None:
    """S7: the gradient of (4.9) at theta_k is zero exactly where generated moments are the data's."""
    steps = spaced_timesteps(5)

    def gradient(theta: Moments) -> float:
        net = GaussianDenoiser(theta, ALPHAS)
        (expected_error(net, DATA) - expected_error(net, generated_moments(theta, ALPHAS, steps))).backward()
        return math.hypot(net.mean.grad.item(), net.log_variance.grad.item())

    there = fixed_point(DATA, ALPHAS, steps)
    assert gradient(there) < 1e-12
    theta = Moments(mean, variance)
    gap = wasserstein2(generated_moments(theta, ALPHAS, steps), DATA)
    assert gradient(theta) > 0.005 * gap


def _mixture(weight: float, means: tuple[float, float], deviations: tuple[float, float]) -> MixtureDenoiser:
    return MixtureDenoiser(_vector(weight, 1 - weight), _vector(*means), _vector(*deviations), ALPHAS)


def test_a_mixture_of_one_is_the_gaussian() -> None:
    mixture = MixtureDenoiser(_vector(1.0), _vector(1.5), _vector(0.5), ALPHAS)
    gaussian = GaussianDenoiser(DATA, ALPHAS)
    x, t = torch.linspace(-3, 3, 50, dtype=torch.float64), torch.arange(0, 1000, 20)
    torch.testing.assert_close(mixture(x, t), gaussian(x, t), rtol=1e-12, atol=1e-12)


def test_the_mixture_denoiser_is_the_posterior_mean_of_the_noise() -> None:
    mixture = _mixture(0.3, (-1.0, 2.0), (0.4, 0.7))
    t, x = 300, 0.8
    alpha = ALPHAS[t].item()
    x0 = torch.linspace(-8, 8, 40001, dtype=torch.float64)
    posterior = mixture.density(x0) * torch.exp(-((x - math.sqrt(alpha) * x0) ** 2) / (2 * (1 - alpha)))
    noise = (x - math.sqrt(alpha) * x0) / math.sqrt(1 - alpha)
    expected = torch.trapezoid(posterior * noise, x0) / torch.trapezoid(posterior, x0)
    found = mixture(_vector(x), torch.tensor([t]))
    assert found.item() == pytest.approx(expected.item(), abs=1e-9)


def test_total_variation_of_mixtures() -> None:
    a, b = _mixture(0.3, (-1.0, 2.0), (0.4, 0.7)), _mixture(0.3, (-50.0, 60.0), (0.4, 0.7))
    assert total_variation(a, a) == 0
    assert total_variation(a, b) == pytest.approx(1, abs=1e-3)
    shifted = _mixture(0.5, (1.0, 1.0), (1.0, 1.0)), _mixture(0.5, (0.0, 0.0), (1.0, 1.0))
    assert total_variation(*shifted) == pytest.approx(math.erf(0.5 / math.sqrt(2)), abs=1e-6)


def test_draws_of_a_mixture_have_its_moments() -> None:
    draws = _mixture(0.3, (-1.0, 2.0), (0.4, 0.7)).draw(200_000, torch.Generator().manual_seed(0))
    assert draws.mean().item() == pytest.approx(0.3 * -1 + 0.7 * 2, abs=0.02)
    assert (draws < 0.2).double().mean().item() == pytest.approx(0.3, abs=0.01)


@pytest.mark.parametrize("lam", [1.0, 2.0, 5.0])
def test_one_shift_is_won_by_the_targets_share(lam: float) -> None:
    """T4: the least exact loss is at Delta / lambda."""
    found = solve_iteration(_vector(0.0), _vector(1.0), _vector(0.7), lam)
    assert found.item() == pytest.approx(1 / lam, abs=1e-7)


def test_errors_of_a_chain_of_three_steps_halve_at_lambda_two() -> None:
    target, sigma, theta = _vector(1.0, -0.5, 0.3), _vector(0.5, 1.0, 0.8), _vector(0.0, 0.0, 0.0)
    for k in range(1, 6):
        theta = solve_iteration(theta, target, sigma, 2.0)
        torch.testing.assert_close((target - theta) / target, torch.full((3,), 0.5**k).double(), rtol=0, atol=2e-7)


def test_at_the_opponent_the_exact_loss_is_log_two() -> None:
    opponent = _vector(0.2, 0.1)
    assert exact_loss(opponent, opponent, _vector(1.0, 1.0), _vector(1.0, 1.0), 2.0).item() == pytest.approx(
        math.log(2)
    )


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: GaussianDenoiser(Moments(0.0, 0.0), ALPHAS), "variance must be positive"),
        (lambda: fixed_point(Moments(0.0, 1e9), ALPHAS, [999]), "no denoiser generates"),
        (lambda: _mixture(0.5, (0.0, 1.0), (0.0, 1.0)), "must be positive"),
        (lambda: exact_loss(_vector(0.0), _vector(0.0), _vector(1.0), _vector(1.0), 0.0), "lambda must be positive"),
    ],
)
def test_impossible_families_are_refused(call: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()  # type: ignore[operator]
