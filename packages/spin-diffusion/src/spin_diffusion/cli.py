"""The command `spin-diffusion`: verbs to public functions."""

from typing import Literal

from shared_core.cli import run as run_command

SUMMARY = "Self-play fine-tuning of text-to-image diffusion models (SPIN-Diffusion)."

Preset = Literal["paper", "small"]
Link = Literal["logistic", "hinge", "exponential", "correlation"]
Convention = Literal["plain", "salesforce"]
Weighting = Literal["constant", "elbo", "snr"]
RefMode = Literal["auto", "copy", "adapter", "table"]
Guard = Literal["off", "warn", "stop", "shrink"]
Precision = Literal["float32", "bfloat16", "float16"]
Scheduler = Literal["deployed", "ddim", "ddpm", "dpm-solver++", "euler", "pndm", "unipc"]
OnError = Literal["stop", "skip"]


def run(
    model: str,
    data: str,
    out: str = "runs/spin",
    preset: Preset = "small",
    player: str | None = None,
    iterations: int | None = None,
    beta: list[float] | None = None,
    beta_convention: Convention | None = None,
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
        out: folder of the run.
        preset: where the settings below start from.
        player: folder or hub id of a UNet or LoRA to start from, in place of the pipeline's own UNet.
        iterations: how many times the opponent is renewed.
        beta: multiplies mean errors, one for each iteration (the last one goes on).
        beta_convention: salesforce halves beta, as the public Diffusion-DPO code does.
        objective: approximate is eq. 4.9, trajectory eq. 4.8 (small models, eta > 0, beta is the paper's lambda).
        link: the paper's l.
        weighting: of timesteps.
        weight_clip: largest weight, in medians.
        error_space: errors of the network's own target, or of eps.
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
    from spin_diffusion.options import configure
    from spin_diffusion.verbs import training
    from spin_diffusion.verbs.setting import Reading

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
    return training.run(
        model, data, out, config, device, reading,
        player=player, scorers=scorers, features=features, round_trip=round_trip,
    )  # fmt: skip


def sft(
    model: str,
    data: str,
    out: str = "runs/sft",
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
        out: folder of the run; the player goes to OUT/model.
        preset: where the settings below start from.
        player: folder or hub id of a UNet or LoRA to start from.
        weighting: of timesteps.
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
    from spin_diffusion.options import configure
    from spin_diffusion.verbs import training
    from spin_diffusion.verbs.setting import Reading

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
    return training.sft(model, data, out, config, device, reading, player)


def dpo(
    model: str,
    data: str,
    out: str = "runs/dpo",
    preset: Preset = "small",
    player: str | None = None,
    beta: float | None = None,
    beta_convention: Convention = "salesforce",
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
        out: folder of the run; the player goes to OUT/model.
        preset: where the settings below start from.
        player: folder or hub id of a UNet or LoRA to start from.
        beta: multiplies mean errors.
        beta_convention: salesforce halves beta, as the public code does.
        weighting: of timesteps.
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
    from spin_diffusion.options import configure
    from spin_diffusion.verbs import training
    from spin_diffusion.verbs.setting import Reading

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
    return training.dpo(model, data, out, config, device, reading, player)


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
    from spin_diffusion.verbs import training
    from spin_diffusion.verbs.setting import Reading

    reading = Reading(limit, 0, resolution, sample_latents, dedup_prompts, on_error, encode_batch_size)
    return training.prepare(model, data, out, reading, pairs, device, seed)


def generate(
    model: str,
    data: str,
    out: str = "runs/generated",
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
        out: folder of the run, which `spin-diffusion train` takes.
        preset: where the settings below start from.
        player: folder or hub id of a UNet or LoRA: the opponent.
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
    from spin_diffusion.options import configure
    from spin_diffusion.verbs import training
    from spin_diffusion.verbs.setting import Reading

    config = configure(
        preset, samples_per_prompt=samples_per_prompt, scheduler=scheduler, num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale, guidance_rescale=guidance_rescale, eta=eta,
        generation_batch_size=generation_batch_size, precision=precision, seed=seed,
    )  # fmt: skip
    reading = Reading(limit=limit, held_out=held_out, resolution=resolution, on_error=on_error)
    return training.generate(
        model, data, out, config, device, reading, player=player, iteration=iteration, round_trip=round_trip
    )


def train(
    model: str,
    data: str,
    opponents: str,
    out: str = "runs/train",
    preset: Preset = "small",
    player: str | None = None,
    iteration: int = 0,
    beta: float | None = None,
    beta_convention: Convention | None = None,
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
        out: folder of the run.
        preset: where the settings below start from.
        player: folder or hub id of a UNet or LoRA: the player, which is also the opponent.
        iteration: number of the iteration: it fixes data order and noise.
        beta: multiplies mean errors.
        beta_convention: salesforce halves beta.
        link: the paper's l.
        weighting: of timesteps.
        error_space: errors of the network's own target, or of eps.
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
    from spin_diffusion.options import configure
    from spin_diffusion.verbs import training
    from spin_diffusion.verbs.setting import Reading

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
    return training.train(model, data, opponents, out, config, device, reading, player=player, iteration=iteration)


def sample(
    model: str,
    prompts: list[str] = [],  # noqa: B006 - read only; the help shows it
    out: str = "runs/samples",
    player: str | None = None,
    count: int = 1,
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
        out: folder of the run.
        player: folder or hub id of a UNet or LoRA (RUN/iter_2/model).
        count: images a prompt.
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
    from spin_diffusion.config import Sampler
    from spin_diffusion.verbs import images

    sampler = Sampler(scheduler, num_inference_steps, guidance_scale, guidance_rescale, eta, batch_size)
    return images.sample(
        model, prompts, out, sampler, device, player=player, count=count, resolution=resolution, seed=seed
    )


def eval_(
    model: str,
    data: str,
    out: str = "runs/eval",
    preset: Preset = "small",
    players: list[str] = [],  # noqa: B006 - read only; the help shows it
    samples: int = 1,
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
        out: folder of the run.
        preset: where the settings below start from.
        players: folders or hub ids of UNets or LoRAs.
        samples: images a prompt.
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
    from spin_diffusion.options import configure
    from spin_diffusion.verbs import images
    from spin_diffusion.verbs.setting import Reading

    config = configure(
        preset, scheduler=scheduler, num_inference_steps=num_inference_steps, guidance_scale=guidance_scale, eta=eta,
        generation_batch_size=generation_batch_size, precision=precision, seed=seed,
    )  # fmt: skip
    reading = Reading(limit=limit, held_out=held_out, resolution=resolution, on_error=on_error)
    return images.evaluate(
        model, data, out, config, device, reading, players=players, samples=samples, scorers=scorers, features=features
    )


def merge(model: str, player: str, out: str = "merged") -> int:
    """Write a whole pipeline with a player's UNet, or its LoRA merged in.

    Args:
        model: the pipeline's folder or hub id.
        player: folder or hub id of a UNet or LoRA (RUN/iter_2/model).
        out: the new pipeline's folder.
    """
    from spin_diffusion.verbs import images

    return images.merge(model, player, out)


def toy(out: str = "toy", kind: Literal["sd", "sdxl"] = "sd", images: int = 24, seed: int = 0) -> int:
    """Make a tiny pipeline of all real classes, and images with prompts, to try the other verbs on.

    Args:
        out: folder; OUT/pipeline and OUT/images are made.
        kind: Stable Diffusion or SDXL.
        images: how many.
        seed: of weights and pictures.
    """
    from spin_diffusion.verbs import images as verbs

    return verbs.toy(out, kind, images, seed)


def doctor(model: str | None = None, lora_rank: int = 0, device: str = "auto") -> int:
    """Say what this machine has, and what a model would need on it.

    Args:
        model: a pipeline's folder or hub id.
        lora_rank: of the memory estimate; 0 trains every weight.
        device: auto, cpu, cuda, cuda:N or mps.
    """
    from spin_diffusion.verbs import doctor as verbs

    return verbs.doctor(model, device, lora_rank)


def reproduce(
    scale: Literal["smoke", "laptop", "paper"] = "laptop",
    claims: list[str] | None = None,
    out: str | None = None,
    seed: int = 0,
    device: str = "auto",
) -> int:
    """Measure the paper's claims and print the table.

    Args:
        scale: smoke (seconds), laptop (minutes) or paper.
        claims: ids; all by default.
        out: run folder.
        seed: of every draw.
        device: auto, cpu, cuda, cuda:N or mps.
    """
    from spin_diffusion.reproduce import claims as registered

    return registered.reproduce(scale=scale, claims=claims, out=out, seed=seed, device=device)


VERBS = (toy, prepare, sft, generate, train, run, sample, eval_, dpo, merge, doctor, reproduce)


def main() -> int:
    """The entry point."""
    return run_command("spin-diffusion", VERBS, summary=SUMMARY)
