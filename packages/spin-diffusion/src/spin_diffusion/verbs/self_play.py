"""The loop: run."""

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


def run(
    model: str,
    data: str,
    out: str | None = None,
    preset: Preset = "small",
    player: str | None = None,
    iterations: int | None = None,
    beta: list[float] | None = None,
    beta_convention: BetaConvention | None = None,
    objective: Literal["approximate", "trajectory"] | None = None,
    link: Link | None = None,
    weighting: Weighting | None = None,
    weight_clip: float | None = None,
    error_space: Literal["native", "eps"] | None = None,
    share_noise: bool | None = None,
    samples_per_prompt: int | None = None,
    caption_dropout: float | None = None,
    ref_mode: RefMode | None = None,
    guard: Guard | None = None,
    guard_limit: float | None = None,
    held_out_limit: float | None = None,
    learning_rate: list[float] | None = None,
    max_train_steps: list[int] | None = None,
    lr_schedule: Literal["linear", "cosine", "constant"] | None = None,
    warmup_steps: int | None = None,
    train_batch_size: int | None = None,
    per_device_train_batch_size: int | None = None,
    reference_batch_size: int | None = None,
    optim: Literal["adamw", "adamw8bit"] | None = None,
    weight_decay: float | None = None,
    max_grad_norm: float | None = None,
    ema_decay: float | None = None,
    precision: Precision | None = None,
    gradient_checkpointing: bool | None = None,
    channels_last: bool | None = None,
    save_steps: int | None = None,
    scheduler: Scheduler | None = None,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    guidance_rescale: float | None = None,
    eta: float | None = None,
    generation_batch_size: int | None = None,
    lora_rank: int | None = None,
    lora_alpha: float | None = None,
    lora_targets: list[str] | None = None,
    limit: int | None = None,
    held_out: int = 0,
    resolution: int | None = None,
    sample_latents: bool = False,
    dedup_prompts: bool = False,
    round_trip: bool = False,
    on_error: OnError = "stop",
    encode_batch_size: int = 8,
    scorers: list[str] = [],  # noqa: B006 - read only; the help shows it
    features: str = "pixels",
    seed: int = 0,
    device: str = "auto",
) -> int:
    """Improve a model by self-play on one image a prompt: every iteration, resumed after any kill.

    Args:
        model: a pipeline's folder or hub id: Stable Diffusion, SDXL, or a UNet alone (DDPMPipeline).
        data: a folder of images, .parquet, .npz, or a cache that `prepare` made.
        out: run folder; runs/spin-diffusion-run by default.
        preset: where the settings below start from.
        player: folder of a UNet or LoRA, or hub id of a UNet to start from, in place of the pipeline's own UNet.
        iterations: how many times the opponent is renewed.
        beta: multiplies mean errors, one for each iteration (the last one goes on).
        beta_convention: salesforce halves beta, as the public Diffusion-DPO code does.
        objective: approximate is eq. 4.9, trajectory eq. 4.8 (small models, eta > 0, beta is the paper's lambda).
        link: the paper's l.
        weighting: of timesteps; elbo (the paper's beta_t) and snr (min-SNR-5) weigh eps errors, with mean 1, so that
            beta is their mean weight.
        weight_clip: largest weight of elbo and snr, in medians.
        error_space: what constant counts: errors of the network's own target, or of eps.
        share_noise: the members of a pair meet the same timestep and noise.
        samples_per_prompt: opponents of each image, met in turn.
        caption_dropout: share of visits without a prompt.
        ref_mode: the opponent's errors: of a copy, of the network with LoRA off, or written before (table).
        guard: what to do when the run diverges.
        guard_limit: share of the opponent's error that d_real may reach.
        held_out_limit: share by which the held-out error may exceed theta_0's.
        learning_rate: its peak, one for each iteration; never scaled.
        max_train_steps: updates, one for each iteration.
        lr_schedule: after the warm-up.
        warmup_steps: of the learning rate.
        train_batch_size: pairs an update, over all processes and accumulated.
        per_device_train_batch_size: pairs a forward pass.
        reference_batch_size: pairs a pass of ref_mode table; 0 takes the batches of training.
        optim: the optimiser.
        weight_decay: decoupled.
        max_grad_norm: gradients are scaled down to it; 0 leaves them.
        ema_decay: of the weights that become the player; 0 takes the last ones.
        precision: of the forward pass.
        gradient_checkpointing: recompute activations in the backward pass.
        channels_last: memory layout of convolutions.
        save_steps: updates between states that a killed run goes on from.
        scheduler: of the sampler; deployed is the pipeline's own.
        num_inference_steps: of the sampler.
        guidance_scale: of classifier-free guidance.
        guidance_rescale: 0 is none.
        eta: noise of DDIM's steps.
        generation_batch_size: images sampled together.
        lora_rank: 0 trains every weight of the UNet.
        lora_alpha: scales LoRA's update; by default the rank.
        lora_targets: layers that LoRA adapts.
        limit: so many items at most.
        held_out: of these, so many are kept for evaluation.
        resolution: of images in pixels; by default what the model was made for.
        sample_latents: a sample of the VAE's posterior for each image, in place of its mode.
        dedup_prompts: only the first image of each prompt.
        round_trip: opponents go through the VAE and back, as real images did.
        on_error: skip leaves unusable images out and counts them.
        encode_batch_size: images encoded together.
        scorers: pickscore, hpsv2, imagereward, aesthetic, clip, each with =PATH_OR_HUB_ID.
        features: of the distances: pixels, or a CLIP model's folder or hub id.
        seed: of every draw.
        device: auto, cpu, cuda, cuda:N or mps.
    """
    from spin_diffusion.commands import training as commands
    from spin_diffusion.commands.setting import Reading
    from spin_diffusion.options import configure

    config = configure(
        preset, iterations=iterations, beta=beta, beta_convention=beta_convention, objective=objective, link=link,
        weighting=weighting, weight_clip=weight_clip, error_space=error_space, share_noise=share_noise,
        samples_per_prompt=samples_per_prompt, caption_dropout=caption_dropout, ref_mode=ref_mode, guard=guard,
        guard_limit=guard_limit, held_out_limit=held_out_limit, learning_rate=learning_rate,
        max_train_steps=max_train_steps, lr_schedule=lr_schedule, warmup_steps=warmup_steps,
        train_batch_size=train_batch_size, per_device_train_batch_size=per_device_train_batch_size,
        reference_batch_size=reference_batch_size, optim=optim,
        weight_decay=weight_decay, max_grad_norm=max_grad_norm, ema_decay=ema_decay, precision=precision,
        gradient_checkpointing=gradient_checkpointing, channels_last=channels_last,
        save_steps=save_steps, scheduler=scheduler, num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale, guidance_rescale=guidance_rescale, eta=eta,
        generation_batch_size=generation_batch_size, lora_rank=lora_rank, lora_alpha=lora_alpha,
        lora_targets=lora_targets, seed=seed,
    )  # fmt: skip
    reading = Reading(limit, held_out, resolution, sample_latents, dedup_prompts, on_error, encode_batch_size)
    return commands.run(
        model, data, out, config, device, reading,
        player=player, scorers=scorers, features=features, round_trip=round_trip,
    )  # fmt: skip
