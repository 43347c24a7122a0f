"""Its stages alone: prepare, generate, train."""

from typing import Literal

from spin_diffusion.verbs.choices import (
    BetaConvention,
    Guard,
    Link,
    OnError,
    Precision,
    Preset,
    RefMode,
    Scheduler,
    Weighting,
)


def prepare(
    model: str,
    data: str,
    out: str = "cache",
    pairs: bool = False,
    limit: int | None = None,
    resolution: int | None = None,
    sample_latents: bool = False,
    dedup_prompts: bool = False,
    on_error: OnError = "stop",
    encode_batch_size: int = 8,
    seed: int = 0,
    device: str = "auto",
) -> int:
    """Encode images and prompts once: latents, text embeddings, SDXL's pooled embeddings and time ids.

    Args:
        model: a pipeline's folder or hub id.
        data: a folder of images (metadata.jsonl or sidecar .txt captions), .parquet, or .npz.
        out: folder of the cache, which the other verbs take as DATA.
        pairs: keep the rejected images of preference data too, for `dpo`.
        limit: so many items at most.
        resolution: of images in pixels; by default what the model was made for.
        sample_latents: a sample of the VAE's posterior for each image, in place of its mode.
        dedup_prompts: only the first image of each prompt.
        on_error: skip leaves unusable images out and counts them.
        encode_batch_size: images encoded together.
        seed: of posterior samples.
        device: auto, cpu, cuda, cuda:N or mps.
    """
    from spin_diffusion.commands import training as commands
    from spin_diffusion.commands.setting import Reading

    reading = Reading(limit, 0, resolution, sample_latents, dedup_prompts, on_error, encode_batch_size)
    return commands.prepare(model, data, out, reading, pairs, device, seed)


def generate(
    model: str,
    data: str,
    out: str | None = None,
    preset: Preset = "small",
    player: str | None = None,
    iteration: int = 0,
    samples_per_prompt: int | None = None,
    scheduler: Scheduler | None = None,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    guidance_rescale: float | None = None,
    eta: float | None = None,
    generation_batch_size: int | None = None,
    precision: Precision | None = None,
    round_trip: bool = False,
    limit: int | None = None,
    held_out: int = 0,
    resolution: int | None = None,
    on_error: OnError = "stop",
    seed: int = 0,
    device: str = "auto",
) -> int:
    """Sample the opponent alone; a killed run goes on at the same batch.

    Args:
        model: a pipeline's folder or hub id.
        data: a folder of images, .parquet, .npz, or a cache that `prepare` made.
        out: run folder; runs/spin-diffusion-generate by default; `spin-diffusion train` takes it.
        preset: where the settings below start from.
        player: folder of a UNet or LoRA, or hub id of a UNet: the opponent.
        iteration: which iteration the samples are for; other iterations have other seeds.
        samples_per_prompt: opponents of each image.
        scheduler: of the sampler; deployed is the pipeline's own.
        num_inference_steps: of the sampler.
        guidance_scale: of classifier-free guidance.
        guidance_rescale: 0 is none.
        eta: noise of DDIM's steps.
        generation_batch_size: images sampled together.
        precision: of the forward pass.
        round_trip: samples go through the VAE and back, as real images did.
        limit: for so many items at most.
        held_out: items left out, the same that `run` keeps for evaluation.
        resolution: of images in pixels.
        on_error: skip leaves unusable images out and counts them.
        seed: of the samples.
        device: auto, cpu, cuda, cuda:N or mps.
    """
    from spin_diffusion.commands import training as commands
    from spin_diffusion.commands.setting import Reading
    from spin_diffusion.options import configure

    config = configure(
        preset, samples_per_prompt=samples_per_prompt, scheduler=scheduler, num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale, guidance_rescale=guidance_rescale, eta=eta,
        generation_batch_size=generation_batch_size, precision=precision, seed=seed,
    )  # fmt: skip
    reading = Reading(limit=limit, held_out=held_out, resolution=resolution, on_error=on_error)
    return commands.generate(
        model, data, out, config, device, reading, player=player, iteration=iteration, round_trip=round_trip
    )


def train(
    model: str,
    data: str,
    opponents: str,
    out: str | None = None,
    preset: Preset = "small",
    player: str | None = None,
    iteration: int = 0,
    beta: float | None = None,
    beta_convention: BetaConvention | None = None,
    link: Link | None = None,
    weighting: Weighting | None = None,
    error_space: Literal["native", "eps"] | None = None,
    share_noise: bool | None = None,
    samples_per_prompt: int | None = None,
    ref_mode: RefMode | None = None,
    guard: Guard | None = None,
    learning_rate: float | None = None,
    max_train_steps: int | None = None,
    lr_schedule: Literal["linear", "cosine", "constant"] | None = None,
    warmup_steps: int | None = None,
    train_batch_size: int | None = None,
    per_device_train_batch_size: int | None = None,
    ema_decay: float | None = None,
    precision: Precision | None = None,
    gradient_checkpointing: bool | None = None,
    save_steps: int | None = None,
    scheduler: Scheduler | None = None,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    eta: float | None = None,
    generation_batch_size: int | None = None,
    lora_rank: int | None = None,
    lora_alpha: float | None = None,
    limit: int | None = None,
    held_out: int = 0,
    resolution: int | None = None,
    on_error: OnError = "stop",
    seed: int = 0,
    device: str = "auto",
) -> int:
    """One iteration on samples that `generate` drew from this very player with this sampler.

    Args:
        model: a pipeline's folder or hub id.
        data: the data that `generate` was given.
        opponents: the folder that `generate` wrote.
        out: run folder; runs/spin-diffusion-train by default.
        preset: where the settings below start from.
        player: folder of a UNet or LoRA, or hub id of a UNet: the player, which is also the opponent.
        iteration: number of the iteration: it fixes data order and noise.
        beta: multiplies mean errors.
        beta_convention: salesforce halves beta.
        link: the paper's l.
        weighting: of timesteps; elbo (the paper's beta_t) and snr (min-SNR-5) weigh eps errors, with mean 1, so that
            beta is their mean weight.
        error_space: what constant counts: errors of the network's own target, or of eps.
        share_noise: the members of a pair meet the same timestep and noise.
        samples_per_prompt: opponents of each image, as generated.
        ref_mode: the opponent's errors: of a copy, of the network with LoRA off, or written before (table).
        guard: what to do when the run diverges.
        learning_rate: its peak.
        max_train_steps: updates.
        lr_schedule: after the warm-up.
        warmup_steps: of the learning rate.
        train_batch_size: pairs an update, over all processes and accumulated.
        per_device_train_batch_size: pairs a forward pass.
        ema_decay: of the weights that become the player; 0 takes the last ones.
        precision: of the forward pass.
        gradient_checkpointing: recompute activations in the backward pass.
        save_steps: updates between states that a killed run goes on from.
        scheduler: of the sampler the opponents must be from.
        num_inference_steps: of that sampler.
        guidance_scale: of that sampler.
        eta: of that sampler.
        generation_batch_size: of that sampler.
        lora_rank: 0 trains every weight of the UNet.
        lora_alpha: scales LoRA's update; by default the rank.
        limit: so many items at most, as generated.
        held_out: items left out, as generated.
        resolution: of images in pixels.
        on_error: skip leaves unusable images out and counts them.
        seed: of every draw.
        device: auto, cpu, cuda, cuda:N or mps.
    """
    from spin_diffusion.commands import training as commands
    from spin_diffusion.commands.setting import Reading
    from spin_diffusion.options import configure

    config = configure(
        preset, iterations=1, beta=None if beta is None else [beta], beta_convention=beta_convention, link=link,
        weighting=weighting, error_space=error_space, share_noise=share_noise, samples_per_prompt=samples_per_prompt,
        ref_mode=ref_mode, guard=guard, learning_rate=None if learning_rate is None else [learning_rate],
        max_train_steps=None if max_train_steps is None else [max_train_steps], lr_schedule=lr_schedule,
        warmup_steps=warmup_steps, train_batch_size=train_batch_size,
        per_device_train_batch_size=per_device_train_batch_size, ema_decay=ema_decay, precision=precision,
        gradient_checkpointing=gradient_checkpointing, save_steps=save_steps, scheduler=scheduler,
        num_inference_steps=num_inference_steps, guidance_scale=guidance_scale, eta=eta,
        generation_batch_size=generation_batch_size, lora_rank=lora_rank, lora_alpha=lora_alpha, seed=seed,
    )  # fmt: skip
    reading = Reading(limit=limit, held_out=held_out, resolution=resolution, on_error=on_error)
    return commands.train(model, data, opponents, out, config, device, reading, player=player, iteration=iteration)
