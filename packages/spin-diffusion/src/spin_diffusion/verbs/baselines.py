"""What the paper compares with: sft, dpo."""

from typing import Literal

from spin_diffusion.verbs.choices import BetaConvention, OnError, Precision, Preset, RefMode, Weighting


def sft(
    model: str,
    data: str,
    out: str | None = None,
    preset: Preset = "small",
    player: str | None = None,
    weighting: Weighting | None = None,
    caption_dropout: float | None = None,
    learning_rate: float | None = None,
    max_train_steps: int | None = None,
    lr_schedule: Literal["linear", "cosine", "constant"] | None = None,
    warmup_steps: int | None = None,
    train_batch_size: int | None = None,
    per_device_train_batch_size: int | None = None,
    optim: Literal["adamw", "adamw8bit"] | None = None,
    weight_decay: float | None = None,
    max_grad_norm: float | None = None,
    ema_decay: float | None = None,
    precision: Precision | None = None,
    gradient_checkpointing: bool | None = None,
    channels_last: bool | None = None,
    save_steps: int | None = None,
    lora_rank: int | None = None,
    lora_alpha: float | None = None,
    lora_targets: list[str] | None = None,
    limit: int | None = None,
    held_out: int = 0,
    resolution: int | None = None,
    sample_latents: bool = False,
    dedup_prompts: bool = False,
    on_error: OnError = "stop",
    seed: int = 0,
    device: str = "auto",
) -> int:
    """Supervised fine-tuning: make theta_0, the player that self-play starts from.

    Args:
        model: a pipeline's folder or hub id.
        data: a folder of images, .parquet, .npz, or a cache that `prepare` made.
        out: run folder; runs/spin-diffusion-sft by default; the player goes to OUT/model.
        preset: where the settings below start from.
        player: folder of a UNet or LoRA, or hub id of a UNet to start from.
        weighting: of timesteps; elbo (the paper's beta_t) and snr (min-SNR-5) weigh eps errors, with mean 1.
        caption_dropout: share of visits without a prompt, for guidance.
        learning_rate: its peak.
        max_train_steps: updates.
        lr_schedule: after the warm-up.
        warmup_steps: of the learning rate.
        train_batch_size: images an update, over all processes and accumulated.
        per_device_train_batch_size: images a forward pass.
        optim: the optimiser.
        weight_decay: decoupled.
        max_grad_norm: gradients are scaled down to it; 0 leaves them.
        ema_decay: of the weights that become the player; 0 takes the last ones.
        precision: of the forward pass.
        gradient_checkpointing: recompute activations in the backward pass.
        channels_last: memory layout of convolutions.
        save_steps: updates between states that a killed run goes on from.
        lora_rank: 0 trains every weight of the UNet.
        lora_alpha: scales LoRA's update; by default the rank.
        lora_targets: layers that LoRA adapts.
        limit: so many items at most.
        held_out: items left out, the same that `run` keeps for evaluation.
        resolution: of images in pixels.
        sample_latents: a sample of the VAE's posterior for each image, in place of its mode.
        dedup_prompts: only the first image of each prompt.
        on_error: skip leaves unusable images out and counts them.
        seed: of every draw.
        device: auto, cpu, cuda, cuda:N or mps.
    """
    from spin_diffusion.commands import training as commands
    from spin_diffusion.commands.setting import Reading
    from spin_diffusion.options import configure

    config = configure(
        preset, iterations=1, weighting=weighting, caption_dropout=caption_dropout,
        learning_rate=None if learning_rate is None else [learning_rate],
        max_train_steps=None if max_train_steps is None else [max_train_steps], lr_schedule=lr_schedule,
        warmup_steps=warmup_steps, train_batch_size=train_batch_size,
        per_device_train_batch_size=per_device_train_batch_size, optim=optim, weight_decay=weight_decay,
        max_grad_norm=max_grad_norm, ema_decay=ema_decay, precision=precision,
        gradient_checkpointing=gradient_checkpointing, channels_last=channels_last, save_steps=save_steps,
        lora_rank=lora_rank, lora_alpha=lora_alpha, lora_targets=lora_targets, seed=seed,
    )  # fmt: skip
    reading = Reading(limit, held_out, resolution, sample_latents, dedup_prompts, on_error)
    return commands.sft(model, data, out, config, device, reading, player)


def dpo(
    model: str,
    data: str,
    out: str | None = None,
    preset: Preset = "small",
    player: str | None = None,
    beta: float | None = None,
    beta_convention: BetaConvention = "salesforce",
    weighting: Weighting | None = None,
    ref_mode: RefMode | None = None,
    learning_rate: float | None = None,
    max_train_steps: int | None = None,
    lr_schedule: Literal["linear", "cosine", "constant"] | None = None,
    warmup_steps: int | None = None,
    train_batch_size: int | None = None,
    per_device_train_batch_size: int | None = None,
    precision: Precision | None = None,
    gradient_checkpointing: bool | None = None,
    save_steps: int | None = None,
    lora_rank: int | None = None,
    lora_alpha: float | None = None,
    limit: int | None = None,
    resolution: int | None = None,
    on_error: OnError = "stop",
    seed: int = 0,
    device: str = "auto",
) -> int:
    """Diffusion-DPO on given pairs, the paper's baseline.

    Args:
        model: a pipeline's folder or hub id; its UNet is also the reference.
        data: parquet with jpg_0, jpg_1, label_0 and caption, or a cache of it.
        out: run folder; runs/spin-diffusion-dpo by default; the player goes to OUT/model.
        preset: where the settings below start from.
        player: folder of a UNet or LoRA, or hub id of a UNet to start from.
        beta: multiplies mean errors.
        beta_convention: salesforce halves beta, as the public code does.
        weighting: of timesteps; elbo (the paper's beta_t) and snr (min-SNR-5) weigh eps errors, with mean 1.
        ref_mode: the reference's errors: of a copy, of the network with LoRA off, or written before (table).
        learning_rate: its peak.
        max_train_steps: updates.
        lr_schedule: after the warm-up.
        warmup_steps: of the learning rate.
        train_batch_size: pairs an update, over all processes and accumulated.
        per_device_train_batch_size: pairs a forward pass.
        precision: of the forward pass.
        gradient_checkpointing: recompute activations in the backward pass.
        save_steps: updates between states that a killed run goes on from.
        lora_rank: 0 trains every weight of the UNet.
        lora_alpha: scales LoRA's update; by default the rank.
        limit: so many pairs at most.
        resolution: of images in pixels.
        on_error: skip leaves unusable pairs out and counts them.
        seed: of every draw.
        device: auto, cpu, cuda, cuda:N or mps.
    """
    from spin_diffusion.commands import training as commands
    from spin_diffusion.commands.setting import Reading
    from spin_diffusion.options import configure

    config = configure(
        preset, iterations=1, beta=None if beta is None else [beta], beta_convention=beta_convention,
        weighting=weighting, ref_mode=ref_mode, learning_rate=None if learning_rate is None else [learning_rate],
        max_train_steps=None if max_train_steps is None else [max_train_steps], lr_schedule=lr_schedule,
        warmup_steps=warmup_steps, train_batch_size=train_batch_size,
        per_device_train_batch_size=per_device_train_batch_size, precision=precision,
        gradient_checkpointing=gradient_checkpointing, save_steps=save_steps, lora_rank=lora_rank,
        lora_alpha=lora_alpha, seed=seed,
    )  # fmt: skip
    reading = Reading(limit=limit, resolution=resolution, on_error=on_error)
    return commands.dpo(model, data, out, config, device, reading, player)
