"""Drawing images as in use: diffusers' schedulers, classifier-free guidance, a seed for each image."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from jaxtyping import Float
from shared_core.errors import InputError
from torch import Tensor, nn

from spin_diffusion.config import Sampler, SchedulerName
from spin_diffusion.denoiser import Condition, Denoiser, placed, repeated, stacked
from spin_diffusion.noise import counter_seed

CLASSES = {
    "ddim": "DDIMScheduler",
    "ddpm": "DDPMScheduler",
    "dpm-solver++": "DPMSolverMultistepScheduler",
    "euler": "EulerDiscreteScheduler",
    "pndm": "PNDMScheduler",
    "unipc": "UniPCMultistepScheduler",
}


def make_scheduler(scheduler: Any, name: SchedulerName = "deployed") -> Any:
    """A fresh scheduler with the noise schedule of the given one.

    Raises:
        InputError: if the named one cannot follow that schedule.
    """
    if name == "deployed":
        return type(scheduler).from_config(scheduler.config)
    import diffusers

    if not hasattr(scheduler, "alphas_cumprod"):
        raise InputError(f"scheduler {name} cannot follow the schedule of {type(scheduler).__name__}; use deployed")
    return getattr(diffusers, CLASSES[name]).from_config(scheduler.config)


@torch.no_grad()
def sample(
    net: nn.Module,
    scheduler: Any,
    condition: Mapping[str, Tensor],
    null: Mapping[str, Tensor] | None,
    settings: Sampler,
    seeds: Sequence[int],
    shape: Sequence[int],
    *,
    autocast: Callable[[], Any] = nullcontext,
) -> Float[Tensor, "image *shape"]:
    """Sample x_0 for each row of a condition (paper: Algorithm 1, line 4), by a stock pipeline's computation.

    Both branches of guidance are one call of the network.

    Args:
        net: the player.
        scheduler: diffusers' scheduler; its schedule is used, its state is not.
        condition: one row an image, may be empty for an unconditional network.
        null: one row, the condition without a prompt; needed where guidance_scale is not 1.
        settings: the knobs.
        seeds: of each image's first noise and later noise.
        shape: of one sample.
        autocast: makes the context of mixed precision.

    Raises:
        InputError: if guidance is asked without a null condition.
    """
    device = next(net.parameters()).device
    guided = settings.guidance_scale != 1 and bool(condition)
    if guided and null is None:
        raise InputError("guidance needs the condition without a prompt: give null, or guidance_scale 1")
    given = placed(condition, device)
    if guided and null is not None:
        given = stacked([repeated(placed(null, device), len(seeds)), given])
    denoiser, stepper = Denoiser(net), make_scheduler(scheduler, settings.scheduler)
    stepper.set_timesteps(settings.num_inference_steps, device=device)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    x = torch.stack([torch.randn(tuple(shape), generator=generator) for generator in generators]).to(device)
    x = x * getattr(stepper, "init_noise_sigma", 1.0)
    extra = _extra(stepper, settings, generators)
    for time in stepper.timesteps:
        scaled = stepper.scale_model_input(x, time) if hasattr(stepper, "scale_model_input") else x
        both = torch.cat([scaled, scaled]) if guided else scaled
        with autocast():
            found = denoiser(both, time.expand(len(both)), given)
        found = found.to(x.dtype)
        x = stepper.step(_guided(found, settings) if guided else found, time, x, return_dict=False, **extra)[0]
    return x


def image_seed(seed: int, iteration: int, item: int, number: int = 0) -> int:
    """Random numbers of its own for every image of every iteration."""
    return counter_seed("opponent", seed, iteration, item, number)


def _extra(stepper: Any, settings: Sampler, generators: Sequence[torch.Generator]) -> Condition:
    """What this scheduler's step takes beside the usual: one generator an image, so that batches do not matter."""
    takes = inspect.signature(stepper.step).parameters
    offered: dict[str, Any] = {"generator": list(generators), "eta": settings.eta}
    return {name: value for name, value in offered.items() if name in takes}


def _guided(both: Tensor, settings: Sampler) -> Tensor:
    plain, prompted = both.chunk(2)
    mixed = plain + settings.guidance_scale * (prompted - plain)
    if settings.guidance_rescale == 0:
        return mixed
    axes = tuple(range(1, mixed.ndim))
    rescaled = mixed * prompted.std(axes, keepdim=True) / mixed.std(axes, keepdim=True)
    return settings.guidance_rescale * rescaled + (1 - settings.guidance_rescale) * mixed
