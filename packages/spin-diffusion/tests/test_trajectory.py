"""T3 and the exact objective: Jensen, the two passes, and targets that make a transition an error of eps."""

from typing import Any

import pytest
import torch
from shared_core.errors import InputError
from spin_diffusion import NoiseSchedule, SPINConfig
from spin_diffusion.config import Optimization, Sampler
from spin_diffusion.losses import LINKS
from spin_diffusion.trajectory import (
    ReverseChain,
    backward_trajectory_loss,
    trajectory_spin_loss,
    trajectory_terms,
)
from torch import nn

STEPS = [999, 700, 400, 200, 50]


def chain(prediction: str = "epsilon", **options: Any) -> ReverseChain:
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    return ReverseChain(NoiseSchedule((1 - betas).cumprod(0), prediction), STEPS, **options)  # type: ignore[arg-type]


@pytest.fixture(params=["epsilon", "v_prediction", "sample"])
def game(request: pytest.FixtureRequest) -> Any:
    """A player, its opponent, the chain, real and synthetic trajectories."""
    torch.manual_seed(3)
    player, opponent = (nn.Linear(6, 6).double() for _ in range(2))
    for net in (player, opponent):
        nn.init.normal_(net.weight, std=0.05)
    made = chain(request.param)
    noises = torch.randn(2, 6, 7, 6, dtype=torch.float64)
    real = made.posterior(torch.randn(7, 6, dtype=torch.float64), noises[0])
    with torch.no_grad():
        synthetic = made.sample(lambda x, step: opponent(x), noises[1])
    return player, opponent, made, real, synthetic


def test_a_term_is_the_squared_distance_to_the_mean_over_two_sigma_squared(game: Any) -> None:
    player, _, made, real, _ = game
    terms = trajectory_terms(lambda x, step: player(x), made, real)
    for step in range(len(STEPS)):
        mean = made.mean(real[step], player(real[step]), step)
        direct = (real[step + 1] - mean).square().sum(1) / (2 * made.variance[step])
        torch.testing.assert_close(terms[step], direct)


@pytest.mark.parametrize("link", list(LINKS))
def test_two_passes_give_the_loss_and_gradient_of_one(game: Any, link: Any) -> None:
    player, opponent, *rest = game
    given = (lambda x, step: player(x), lambda x, step: opponent(x), *rest)
    loss = trajectory_spin_loss(*given, lam=1e-7, link=link)
    loss.backward()
    wanted = player.weight.grad.clone()
    player.zero_grad()
    found = backward_trajectory_loss(*given, lam=1e-7, link=link)
    assert float(found) == pytest.approx(float(loss.detach()), rel=1e-12)
    assert float(wanted.abs().max()) > 0
    torch.testing.assert_close(player.weight.grad, wanted)


@pytest.mark.parametrize("link", list(LINKS))
def test_the_exact_objective_is_below_the_mean_of_its_terms_objectives(game: Any, link: Any) -> None:
    """Jensen: l(sum of terms) <= mean over t of l(T term_t), pair by pair."""
    player, opponent, made, real, synthetic = game
    with torch.no_grad():
        terms = [
            trajectory_terms(lambda x, step, n=net: n(x), made, x)
            for net in (player, opponent)
            for x in (real, synthetic)
        ]
    z = -1e-4 * (terms[0] - terms[2] - terms[1] + terms[3])
    exact, bound = LINKS[link](z.sum(0)), LINKS[link](len(made) * z).mean(0)
    assert bool((exact <= bound + 1e-12).all())


def test_real_trajectories_have_the_marginals_of_the_forward_process() -> None:
    made = chain()
    noises = torch.randn(6, 40000, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    states = made.posterior(torch.full((40000, 1), 2.0, dtype=torch.float64), noises)
    for step in range(len(STEPS)):
        alpha = float(made.alpha[step])
        assert float(states[step].mean()) == pytest.approx(2 * alpha**0.5, abs=0.02)
        assert float(states[step].var()) == pytest.approx(1 - alpha, abs=0.03)


def test_the_last_step_without_variance_has_that_of_the_step_before() -> None:
    made = chain()
    assert float(made.variance[-1]) == float(made.variance[-2])
    assert float(chain(variance_floor=0.0025).variance[-1]) == 0.0025
    with pytest.raises(InputError, match="eta in"):
        chain(eta=0.0)


@pytest.mark.parametrize("mode", ["copy", "table"])
def test_the_trainer_plays_it(mlp: Any, vectors: Any, mode: Any) -> None:
    from diffusers import DDIMScheduler
    from spin_diffusion import SPINTrainer

    config = SPINConfig(
        iterations=2, beta=[1e-3], objective="trajectory", ref_mode=mode,
        optimization=Optimization([1e-3], [3], train_batch_size=4, per_device_train_batch_size=2),
        sampler=Sampler(num_inference_steps=4, guidance_scale=1.0, eta=1.0, batch_size=4),
    )  # fmt: skip
    first, last = SPINTrainer(mlp(), DDIMScheduler(), vectors, config).run()
    assert first.first["loss"] == pytest.approx(0.6931472, abs=1e-6)
    assert last.first["loss"] == pytest.approx(0.6931472, abs=1e-6)
    assert first.last["loss"] != first.first["loss"]
    if mode == "table":
        other = SPINTrainer(
            mlp(), DDIMScheduler(), vectors, config.__class__(**{**vars(config), "ref_mode": "copy"})
        ).run()
        assert other[-1].last == last.last
