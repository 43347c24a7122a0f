"""T2: the weights of the paper's objective on diffusers' own schedulers, and every prediction target."""

from typing import Any

import pytest
import torch
from shared_core.errors import InputError
from spin_diffusion import FlowSchedule, NoiseSchedule, schedule_of
from spin_diffusion.schedules import elbo_weights, step_weights


def stable_diffusion(**options: Any) -> Any:
    from diffusers import DDIMScheduler

    return DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", **options)


def test_the_weights_of_stable_diffusion_are_the_briefs_table() -> None:
    """In float64: diffusers' own alphas are float32 products."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    weights = elbo_weights(NoiseSchedule((1 - betas).cumprod(0)))
    table = {1: 503.19, 10: 51.76, 100: 6.629, 500: 3.349, 900: 5.288, 999: 6.102}
    for step, value in table.items():
        assert float(weights[step]) == pytest.approx(value, rel=2e-4), step
    assert float(weights[1:].mean()) == pytest.approx(6.534, abs=1e-3)
    assert float(weights[1:].median()) == pytest.approx(4.070, abs=1e-3)
    torch.testing.assert_close(elbo_weights(schedule_of(stable_diffusion())), weights, rtol=1e-3, atol=0)


def test_h_and_sigma_of_the_definition_give_the_snr_formula() -> None:
    """h^2 / (2 sigma^2) = (SNR(t-1) / SNR(t) - 1) / 2 at eta = 1."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    schedule = NoiseSchedule((1 - betas).cumprod(0))
    alpha, before = schedule.alphas_cumprod[1:], schedule.alphas_cumprod[:-1]
    variance = (1 - before) / (1 - alpha) * (1 - alpha / before)
    h = (1 - before - variance).sqrt() - (before / alpha).sqrt() * (1 - alpha).sqrt()
    torch.testing.assert_close(1000 * h**2 / (2 * variance), elbo_weights(schedule)[1:], rtol=1e-9, atol=0)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_targets_are_diffusers_own_and_an_error_of_eps_is_the_native_one_times_the_factor(prediction: str) -> None:
    scheduler = stable_diffusion(prediction_type=prediction)
    schedule = schedule_of(scheduler)
    x0, noise = torch.randn(3, 4, 2, 2, dtype=torch.float64), torch.randn(3, 4, 2, 2, dtype=torch.float64)
    steps = torch.tensor([3, 400, 998])
    noised = schedule.add_noise(x0, noise, steps)
    torch.testing.assert_close(noised, scheduler.add_noise(x0, noise, steps), rtol=1e-5, atol=1e-6)
    target = schedule.target(x0, noise, steps)
    if prediction == "v_prediction":
        torch.testing.assert_close(target, scheduler.get_velocity(x0, noise, steps), rtol=1e-5, atol=1e-6)
    wrong = target + 0.1 * torch.randn_like(target)
    alpha = schedule.alphas_cumprod[steps].view(-1, 1, 1, 1)  # type: ignore[union-attr]
    implied = {
        "epsilon": wrong,
        "v_prediction": alpha.sqrt() * wrong + (1 - alpha).sqrt() * noised,
        "sample": (noised - alpha.sqrt() * wrong) / (1 - alpha).sqrt(),
    }[prediction]
    ratio = (implied - noise).square().sum((1, 2, 3)) / (wrong - target).square().sum((1, 2, 3))
    torch.testing.assert_close(ratio, schedule.eps_factor[steps], rtol=1e-6, atol=0)


def test_flow_matching_follows_diffusers_scheduler() -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    schedule = schedule_of(scheduler)
    assert isinstance(schedule, FlowSchedule)
    assert (schedule.num_steps, float(schedule.sigmas[-1])) == (1000, 1.0)
    x0, noise = torch.randn(2, 4, 2, 2), torch.randn(2, 4, 2, 2)
    steps = torch.tensor([10, 700])
    time = schedule.model_time(steps)
    torch.testing.assert_close(scheduler.scale_noise(x0, time, noise), schedule.add_noise(x0, noise, steps))
    torch.testing.assert_close(schedule.target(x0, noise, steps), noise - x0)
    share = schedule.sigmas[steps].float().view(-1, 1, 1, 1)
    velocity = noise - x0 + 0.1
    eps = schedule.add_noise(x0, noise, steps) + (1 - share) * velocity
    torch.testing.assert_close((eps - noise).square()[:, 0, 0, 0], 0.01 * schedule.eps_factor[steps].float())


@pytest.mark.parametrize("weighting", ["constant", "elbo", "snr"])
def test_weights_have_mean_one_and_are_clipped(weighting: Any) -> None:
    from diffusers import DDIMScheduler

    for scheduler in (
        stable_diffusion(),
        DDIMScheduler(beta_schedule="squaredcos_cap_v2"),
        stable_diffusion(prediction_type="v_prediction", rescale_betas_zero_snr=True),
    ):
        weights = step_weights(schedule_of(scheduler), weighting)
        assert float(weights.mean()) == pytest.approx(1)
        assert bool(weights.isfinite().all())
        assert float(weights.max()) <= 10.001 * float(weights.median())


def test_the_scheduler_is_read_as_it_was_made_not_as_it_was_used() -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler()
    before = schedule_of(scheduler).snr
    scheduler.set_timesteps(3)
    torch.testing.assert_close(schedule_of(scheduler).snr, before)


def test_what_is_no_schedule_is_refused() -> None:
    with pytest.raises(InputError, match="falling"):
        NoiseSchedule(torch.tensor([0.5, 0.6]))
    with pytest.raises(InputError, match="pure noise"):
        NoiseSchedule(torch.tensor([0.5, 0.0]), "epsilon")
    with pytest.raises(InputError, match="rising"):
        FlowSchedule(torch.tensor([0.5, 0.4]))
    with pytest.raises(InputError, match="weight_clip"):
        step_weights(NoiseSchedule(torch.tensor([0.5, 0.4])), "elbo", clip=0.5)
    with pytest.raises(InputError, match="weighting must be"):
        step_weights(NoiseSchedule(torch.tensor([0.5, 0.4])), "ebo")  # type: ignore[arg-type]
