"""T2: the weights of the paper's objective on diffusers' own schedulers, and every prediction target."""

from typing import Any, get_args

import pytest
import torch
from shared_core.errors import InputError
from spin_diffusion import FlowSchedule, NoiseSchedule, schedule_of
from spin_diffusion.schedules import Prediction, Schedule, elbo_weights, step_weights, weight_scale


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


def schedules() -> dict[str, Schedule]:
    """One noise schedule under every target, flow matching, and schedules that end in pure noise."""
    from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

    named = {
        name: schedule_of(stable_diffusion(prediction_type=name)) for name in get_args(Prediction) if name != "flow"
    }
    zero = stable_diffusion(prediction_type="v_prediction", rescale_betas_zero_snr=True)
    return named | {
        "cosine": schedule_of(DDIMScheduler(beta_schedule="squaredcos_cap_v2")),
        "zero terminal SNR": schedule_of(zero),
        "flow": schedule_of(FlowMatchEulerDiscreteScheduler(shift=3.0)),
    }


@pytest.mark.parametrize("weighting", ["elbo", "snr"])
def test_weights_of_eps_errors_have_mean_one_and_are_clipped(weighting: Any) -> None:
    for name, schedule in schedules().items():
        weights = step_weights(schedule, weighting)
        assert bool(weights.isfinite().all()), name
        assert torch.equal(weights, step_weights(schedule, weighting, "eps")), name
        some = schedule.eps_factor > 0  # of pure noise no error of the target is an error of eps
        of_eps = weights[some] / schedule.eps_factor[some]
        assert float(of_eps.max()) <= 10.001 * float(of_eps.median()), name
        if bool(some.all()):
            assert float(of_eps.mean()) == pytest.approx(1), name


TARGETS = [(name, clip) for name in ("epsilon", "v_prediction", "sample") for clip in (10.0, 1e9)]


@pytest.mark.parametrize(("name", "clip"), [*TARGETS, ("zero terminal SNR", 10.0), ("flow", 10.0)])
def test_the_weighted_error_of_every_target_is_the_weighted_error_of_eps(name: str, clip: float) -> None:
    """beta times it is the paper's lambda T h^2 / (2 sigma^2) ||eps_theta - eps||^2, with lambda = beta / m."""
    schedule, generator = schedules()[name], torch.Generator().manual_seed(0)
    known = int((schedule.snr > 0).sum())
    steps = torch.tensor([0, 1, 10, 400, known - 2])
    x0, noise, off = torch.randn(3, len(steps), 4, dtype=torch.float64, generator=generator)
    target = schedule.target(x0, noise, steps)
    noised, predicted = schedule.add_noise(x0, noise, steps), target + 0.1 * off
    if isinstance(schedule, FlowSchedule):
        eps = noised + (1 - schedule.sigmas[steps, None]) * predicted
    else:
        assert isinstance(schedule, NoiseSchedule)
        alpha = schedule.alphas_cumprod[steps, None]
        eps = {
            "epsilon": predicted,
            "v_prediction": alpha.sqrt() * predicted + (1 - alpha).sqrt() * noised,
            "sample": (noised - alpha.sqrt() * predicted) / (1 - alpha).sqrt(),
        }[schedule.prediction]
    snr = schedule.snr
    paper = schedule.num_steps * (snr[:-1] / snr[1:] - 1) / 2
    paper = torch.cat([paper[:1], paper])  # the first step has sigma = 0
    paper = paper.clamp(max=clip * float(paper.median()))
    weighted = step_weights(schedule, "elbo", clip=clip)[steps] * (predicted - target).square().mean(1)
    expected = paper[steps] * (eps - noise).square().mean(1)
    torch.testing.assert_close(weighted * weight_scale(schedule, "elbo", clip), expected, rtol=1e-6, atol=0)
    assert weight_scale(schedule, "elbo", clip) == pytest.approx(float(paper.mean()), rel=1e-9)


def test_min_snr_is_its_authors_weight_of_every_target() -> None:
    """min(SNR, 5) of x_0 errors, the same / SNR of eps and / (SNR + 1) of v (Hang et al. 2023, section 3.4)."""
    found = schedules()
    snr = found["epsilon"].snr
    least = snr.clamp(max=5)
    scale = weight_scale(found["epsilon"], "snr")
    for name, expected in {"epsilon": least / snr, "v_prediction": least / (snr + 1), "sample": least}.items():
        torch.testing.assert_close(step_weights(found[name], "snr") * scale, expected, rtol=1e-9, atol=0)


def test_constant_weights_are_ones_or_the_factor_to_the_bit() -> None:
    for schedule in schedules().values():
        assert torch.equal(step_weights(schedule), torch.ones(schedule.num_steps, dtype=torch.float64))
        assert torch.equal(step_weights(schedule, error_space="eps"), schedule.eps_factor)


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
