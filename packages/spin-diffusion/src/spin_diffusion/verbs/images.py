"""Pipelines and their images: toy, sample, eval, merge, and what a machine can do with them: doctor."""

from typing import Literal

from spin_diffusion.verbs.choices import OnError, Precision, Preset, Scheduler


def toy(out: str = "toy", kind: Literal["sd", "sdxl"] = "sd", n: int = 24, seed: int = 0) -> int:
    """Make a tiny pipeline of all real classes, and images with prompts, to try the other verbs on.

    Args:
        out: folder; OUT/pipeline and OUT/images are made.
        kind: Stable Diffusion or SDXL.
        n: images.
        seed: of weights and pictures.
    """
    from spin_diffusion.commands import images as commands

    return commands.toy(out, kind, n, seed)


def sample(
    model: str,
    prompts: list[str] = [],  # noqa: B006 - read only; the help shows it
    out: str | None = None,
    player: str | None = None,
    n: int = 1,
    scheduler: Scheduler = "deployed",
    num_inference_steps: int = 50,
    guidance_scale: float = 7.5,
    guidance_rescale: float = 0.0,
    eta: float = 0.0,
    batch_size: int = 8,
    resolution: int | None = None,
    seed: int = 0,
    device: str = "auto",
) -> int:
    """Draw images of a player as PNG files.

    Args:
        model: a pipeline's folder or hub id.
        prompts: separated by commas, a JSON list, or one file with a prompt a line; classes of a UNet alone.
        out: run folder; runs/spin-diffusion-sample by default.
        player: folder of a UNet or LoRA, or hub id of a UNet (RUN/iter_2/model).
        n: images a prompt.
        scheduler: deployed is the pipeline's own.
        num_inference_steps: calls of the network.
        guidance_scale: of classifier-free guidance.
        guidance_rescale: 0 is none.
        eta: noise of DDIM's steps.
        batch_size: images sampled together.
        resolution: of images in pixels.
        seed: of the images; the same for every player that is compared.
        device: auto, cpu, cuda, cuda:N or mps.
    """
    from spin_diffusion.commands import images as commands
    from spin_diffusion.config import Sampler

    sampler = Sampler(scheduler, num_inference_steps, guidance_scale, guidance_rescale, eta, batch_size)
    return commands.sample(
        model, prompts, out, sampler, device, player=player, count=n, resolution=resolution, seed=seed
    )


def eval_(
    model: str,
    data: str,
    out: str | None = None,
    preset: Preset = "small",
    players: list[str] = [],  # noqa: B006 - read only; the help shows it
    n: int = 1,
    scorers: list[str] = [],  # noqa: B006 - read only; the help shows it
    features: str = "pixels",
    scheduler: Scheduler | None = None,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    eta: float | None = None,
    generation_batch_size: int | None = None,
    precision: Precision | None = None,
    limit: int | None = None,
    held_out: int = 0,
    resolution: int | None = None,
    on_error: OnError = "stop",
    seed: int = 0,
    device: str = "auto",
) -> int:
    """Players beside the model: distances to real images, scores, win rates with intervals.

    Args:
        model: a pipeline's folder or hub id: theta_0.
        data: a folder of images, .parquet, .npz, or a cache that `prepare` made.
        out: run folder; runs/spin-diffusion-eval by default.
        preset: where the settings below start from.
        players: folders of UNets or LoRAs, or hub ids of UNets.
        n: images a prompt.
        scorers: pickscore, hpsv2, imagereward, aesthetic, clip, each with =PATH_OR_HUB_ID.
        features: of the distances: pixels, or a CLIP model's folder or hub id.
        scheduler: of the sampler; deployed is the pipeline's own.
        num_inference_steps: of the sampler.
        guidance_scale: of classifier-free guidance.
        eta: noise of DDIM's steps.
        generation_batch_size: images sampled together.
        precision: of the forward pass.
        limit: so many items at most.
        held_out: the items that `run` keeps for evaluation, in place of all.
        resolution: of images in pixels.
        on_error: skip leaves unusable images out and counts them.
        seed: of the samples, the same for all players.
        device: auto, cpu, cuda, cuda:N or mps.
    """
    from spin_diffusion.commands import images as commands
    from spin_diffusion.commands.setting import Reading
    from spin_diffusion.options import configure

    config = configure(
        preset, scheduler=scheduler, num_inference_steps=num_inference_steps, guidance_scale=guidance_scale, eta=eta,
        generation_batch_size=generation_batch_size, precision=precision, seed=seed,
    )  # fmt: skip
    reading = Reading(limit=limit, held_out=held_out, resolution=resolution, on_error=on_error)
    return commands.evaluate(
        model, data, out, config, device, reading, players=players, samples=n, scorers=scorers, features=features
    )


def merge(model: str, player: str, out: str = "merged") -> int:
    """Write a whole pipeline with a player's UNet, or its LoRA merged in.

    Args:
        model: the pipeline's folder or hub id.
        player: folder of a UNet or LoRA, or hub id of a UNet (RUN/iter_2/model).
        out: the new pipeline's folder.
    """
    from spin_diffusion.commands import images as commands

    return commands.merge(model, player, out)


def doctor(model: str | None = None, /, lora_rank: int = 0, device: str = "auto", json: bool = False) -> int:
    """Say what this machine has, and what a model would need on it.

    Args:
        model: a pipeline's folder or hub id; none says what the machine has.
        lora_rank: of the memory estimate; 0 trains every weight.
        device: auto, cpu, cuda, cuda:N or mps.
        json: print JSON instead of lines.
    """
    from spin_diffusion.commands import doctor as commands

    return commands.doctor(model, device, lora_rank, json)
