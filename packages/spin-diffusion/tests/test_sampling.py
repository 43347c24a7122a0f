"""T9: the sampler is the stock pipeline's computation, and noise belongs to what it is drawn for."""

from pathlib import Path
from typing import Any

import pytest
import torch
from shared_core.errors import InputError
from spin_diffusion import Sampler, generate_opponents, sample
from spin_diffusion.noise import draw
from spin_diffusion.opponents import check_opponents, read_opponents
from spin_diffusion.pipelines import load_parts
from spin_diffusion.processes import make_accelerator

PROMPTS = ["a red circle", "a blue square", "a green triangle"]


@pytest.mark.parametrize("kind", ["sd", "sdxl"])
@pytest.mark.parametrize(
    ("scheduler", "eta"), [("ddim", 0.0), ("ddim", 0.7), ("dpm-solver++", 0.0), ("euler", 0.0), ("ddpm", 0.0)]
)
def test_latents_are_those_of_the_stock_pipeline(toys: Path, kind: str, scheduler: Any, eta: float) -> None:
    from spin_diffusion.sampling import make_scheduler

    parts = load_parts(str(toys / kind / "pipeline"))
    condition, null = parts.encode_prompts(PROMPTS, 32)
    settings = Sampler(scheduler, num_inference_steps=4, guidance_scale=3.0, eta=eta)
    ours = sample(parts.net, parts.scheduler, condition, null, settings, [3, 4, 5], (4, 16, 16))
    parts.pipe.scheduler = make_scheduler(parts.scheduler, scheduler)
    parts.pipe.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(seed) for seed in (3, 4, 5)]
    theirs = parts.pipe(
        PROMPTS, height=32, width=32, num_inference_steps=4, guidance_scale=3.0, eta=eta, generator=generators,
        output_type="latent",
    ).images  # fmt: skip
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_decoded_images_are_those_of_the_stock_pipeline(toys: Path) -> None:
    parts = load_parts(str(toys / "sd" / "pipeline"))
    latents = torch.randn(2, 4, 16, 16)
    image = parts.pipe.vae.decode(latents / parts.pipe.vae.config.scaling_factor).sample
    theirs = parts.pipe.image_processor.postprocess(image.detach(), output_type="pt", do_denormalize=[True] * 2)
    torch.testing.assert_close(parts.decode(latents), theirs, rtol=0, atol=1e-6)


def test_guidance_rescale_is_the_pipelines(toys: Path) -> None:
    parts = load_parts(str(toys / "sd" / "pipeline"))
    condition, null = parts.encode_prompts(PROMPTS[:1], 32)
    settings = Sampler("ddim", 3, 3.0, guidance_rescale=0.5)
    ours = sample(parts.net, parts.scheduler, condition, null, settings, [3], (4, 16, 16))
    parts.pipe.set_progress_bar_config(disable=True)
    theirs = parts.pipe(
        PROMPTS[0], height=32, width=32, num_inference_steps=3, guidance_scale=3.0, guidance_rescale=0.5,
        generator=[torch.Generator().manual_seed(3)], output_type="latent",
    ).images  # fmt: skip
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_a_flow_matching_scheduler_samples_too(mlp: Any, vectors: Any) -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    condition = vectors.condition([0, 1])
    settings = Sampler(num_inference_steps=4, guidance_scale=2.0)
    net, scheduler = mlp(), FlowMatchEulerDiscreteScheduler(shift=2.0)
    found = sample(net, scheduler, condition, vectors.null, settings, [1, 2], (6,))
    scheduler.set_timesteps(4)
    x = torch.stack([torch.randn(6, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2)])
    null = {"class_labels": torch.tensor([3, 3])}
    for index, time in enumerate(scheduler.timesteps):
        with torch.no_grad():
            plain, prompted = (net(x, time.expand(2), **given) for given in (null, condition))
        change = scheduler.sigmas[index + 1] - scheduler.sigmas[index]
        x = x + change * (plain + 2.0 * (prompted - plain))
    torch.testing.assert_close(found, x, rtol=1e-5, atol=1e-5)


def test_an_image_does_not_depend_on_its_batch(mlp: Any, vectors: Any) -> None:
    from diffusers import DDPMScheduler

    accelerator = make_accelerator()
    found = [
        generate_opponents(
            mlp(), DDPMScheduler(), vectors, Sampler("deployed", 4, 2.0, batch_size=size), accelerator, seed=1
        )
        for size in (3, 10)
    ]
    torch.testing.assert_close(found[0].take(range(10)), found[1].take(range(10)))


def test_every_item_visit_and_stream_has_noise_of_its_own() -> None:
    counters = [(0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1)]
    draws = [draw(seed, iteration, [item], [visit], 1000, (50,)) for seed, iteration, item, visit in counters]
    draws.append(draw(0, 0, [0], [0], 1000, (50,), stream="unshared"))
    for index, one in enumerate(draws):
        assert all(not torch.equal(one.noise, other.noise) for other in draws[index + 1 :])
    again = draw(0, 0, [5, 0, 7], [2, 0, 1], 1000, (50,))
    assert torch.equal(again.noise[1], draws[0].noise[0])
    assert again.steps[1] == draws[0].steps[0]


def test_timesteps_are_uniform_and_noise_is_normal() -> None:
    drawn = draw(0, 0, list(range(4000)), [0] * 4000, 10, (20,))
    counts = torch.bincount(drawn.steps, minlength=10)
    assert float((counts - 400).abs().max()) < 80
    assert float(drawn.noise.mean()) == pytest.approx(0, abs=0.02)
    assert float(drawn.noise.var()) == pytest.approx(1, abs=0.03)


def test_opponents_are_kept_and_those_of_another_player_or_sampler_refused(
    mlp: Any, vectors: Any, tmp_path: Path
) -> None:
    from diffusers import DDIMScheduler

    accelerator, settings = make_accelerator(), Sampler(num_inference_steps=3, guidance_scale=2.0, batch_size=4)
    given = {"accelerator": accelerator, "seed": 0, "folder": tmp_path / "opponents"}
    found = generate_opponents(mlp(), DDIMScheduler(), vectors, settings, **given)
    assert torch.equal(found.take(range(10)), read_opponents(tmp_path / "opponents").take(range(10)))
    check_opponents(tmp_path / "opponents", mlp(), vectors, settings)
    scheduler = DDIMScheduler()  # what diffusers notes for itself is in another order in every process
    scheduler.register_to_config(_use_default_values=["x"])
    again = generate_opponents(mlp(), scheduler, vectors, settings, **given)
    assert torch.equal(found.take(range(10)), again.take(range(10)))
    with pytest.raises(InputError, match="scheduler was"):
        generate_opponents(mlp(), DDIMScheduler(beta_end=0.01), vectors, settings, **given)
    with pytest.raises(InputError, match="samples of the player"):
        check_opponents(tmp_path / "opponents", mlp(seed=1), vectors)
    with pytest.raises(InputError, match="player was"):
        generate_opponents(mlp(seed=1), DDIMScheduler(), vectors, settings, **given)
    with pytest.raises(InputError, match="sampler was"):
        generate_opponents(mlp(), DDIMScheduler(), vectors, Sampler(num_inference_steps=4, batch_size=4), **given)
    with pytest.raises(InputError, match="other prompts"):
        check_opponents(tmp_path / "opponents", mlp(), vectors.subset(range(9)))
    (tmp_path / "opponents" / "000001.safetensors").unlink()
    with pytest.raises(InputError, match=r"000001.safetensors is missing.*fewer samples than prompts"):
        read_opponents(tmp_path / "opponents")


def test_guidance_without_a_null_condition_is_refused(mlp: Any, vectors: Any) -> None:
    from diffusers import DDIMScheduler

    with pytest.raises(InputError, match="guidance needs the condition without a prompt"):
        sample(mlp(), DDIMScheduler(), vectors.condition([0]), None, Sampler(guidance_scale=2.0), [0], (6,))
