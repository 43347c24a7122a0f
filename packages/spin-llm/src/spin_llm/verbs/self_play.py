"""Verbs of the loop and its steps: run, generate, train."""

from spin_llm.choices import LossType, Optim, Precision, Preset, Sampling, Turns


def run(
    model: str,
    data: str,
    out: str | None = None,
    preset: Preset = "small",
    iterations: int | None = None,
    beta: list[float] | None = None,
    learning_rate: list[float] | None = None,
    loss_type: LossType | None = None,
    mix_previous: bool | None = None,
    base_weight: float | None = None,
    length_normalize: bool | None = None,
    optim: Optim | None = None,
    num_train_epochs: int | None = None,
    schedule_epochs: int | None = None,
    train_batch_size: int | None = None,
    per_device_train_batch_size: int | None = None,
    generation_batch_size: int | None = None,
    max_length: int | None = None,
    max_prompt_length: int | None = None,
    max_new_tokens: int | None = None,
    engine: Sampling | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    lora_rank: int | None = None,
    lora_alpha: float | None = None,
    lora_targets: list[str] | None = None,
    precision: Precision | None = None,
    gradient_checkpointing: bool | None = None,
    save_steps: int | None = None,
    template: str | None = None,
    generation_template: str | None = None,
    kl_limit: float | None = None,
    stop_when_indistinguishable: bool | None = None,
    stop_when_worse: bool | None = None,
    limit: int | None = None,
    held_out: int = 0,
    turns: Turns = "first",
    skip_bad: bool = False,
    dry_run: bool = False,
    seed: int = 0,
    device: str = "auto",
) -> int:
    """Improve a model by self-play on supervised data: every iteration, resumed after any kill.

    Args:
        model: a folder, a hub id, a .gguf file, or smollm2.
        data: .jsonl, .json, .parquet, a folder of datasets, or docstrings.
        out: run folder; runs/spin-llm-run by default.
        preset: where the settings below start from.
        iterations: how many times the opponent is renewed.
        beta: the paper's lambda, one for each iteration (the last one goes on).
        learning_rate: its peak, one for each iteration.
        loss_type: the link of the objective; nce is a bounded variant that is not the paper's.
        mix_previous: train also on the previous iteration's pairs.
        base_weight: share of the model before self-play in the opponent.
        length_normalize: mean instead of sum of token log-probabilities.
        optim: the optimiser.
        num_train_epochs: passes over the data in each iteration.
        schedule_epochs: passes the learning-rate schedule is made for.
        train_batch_size: pairs a step, over all processes.
        per_device_train_batch_size: pairs a forward pass.
        generation_batch_size: responses sampled together.
        max_length: tokens of prompt and response.
        max_prompt_length: tokens of a prompt.
        max_new_tokens: of a sampled response.
        engine: what draws responses: the model itself, or vllm.
        temperature: of the sampler; the theory asks for 1.
        top_p: of the sampler; the theory asks for 1.
        top_k: of the sampler; the theory asks for 0 (all).
        lora_rank: 0 trains every weight.
        lora_alpha: scales LoRA's update.
        lora_targets: layers that LoRA adapts.
        precision: of the forward pass.
        gradient_checkpointing: recompute activations in the backward pass.
        save_steps: steps between states that a killed run goes on from.
        template: format string with {prompt}, in place of the chat template.
        generation_template: another one for sampling, to repeat the official runs.
        kl_limit: nats a response before a warning.
        stop_when_indistinguishable: end early where held-out accuracy is near one half.
        stop_when_worse: end early where held-out responses became less likely, by two standard errors.
        limit: train on so many examples.
        held_out: examples kept for evaluation.
        turns: which assistant turn of a conversation is the response.
        skip_bad: leave unusable records out and count them.
        dry_run: print what it would cost, and stop.
        seed: of the data's order, the samples and LoRA's start.
        device: auto, cpu, cuda, cuda:N or mps.
    """
    from spin_llm.commands import self_play as commands
    from spin_llm.options import configure

    config = configure(
        preset, iterations=iterations, beta=beta, learning_rate=learning_rate, loss_type=loss_type,
        mix_previous=mix_previous, base_weight=base_weight, length_normalize=length_normalize, optim=optim,
        num_train_epochs=num_train_epochs, schedule_epochs=schedule_epochs, train_batch_size=train_batch_size,
        per_device_train_batch_size=per_device_train_batch_size, generation_batch_size=generation_batch_size,
        max_length=max_length, max_prompt_length=max_prompt_length, max_new_tokens=max_new_tokens,
        engine=engine, temperature=temperature, top_p=top_p, top_k=top_k, lora_rank=lora_rank, lora_alpha=lora_alpha,
        lora_targets=lora_targets, precision=precision, gradient_checkpointing=gradient_checkpointing,
        save_steps=save_steps, template=template, generation_template=generation_template, kl_limit=kl_limit,
        stop_when_indistinguishable=stop_when_indistinguishable, stop_when_worse=stop_when_worse, seed=seed,
    )  # fmt: skip
    reading = {"limit": limit, "held_out": held_out, "turns": turns, "skip_bad": skip_bad}
    return commands.run(model, data, out, config, device, dry_run, **reading)


def generate(
    model: str,
    data: str,
    out: str | None = None,
    preset: Preset = "small",
    max_new_tokens: int | None = None,
    generation_batch_size: int | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    max_length: int | None = None,
    max_prompt_length: int | None = None,
    template: str | None = None,
    generation_template: str | None = None,
    limit: int | None = None,
    held_out: int = 0,
    turns: Turns = "first",
    skip_bad: bool = False,
    seed: int = 0,
    device: str = "auto",
) -> int:
    """Sample the opponent's responses alone; a killed run goes on at the same batch.

    Args:
        model: the opponent: a folder, a hub id, a .gguf file, or smollm2.
        data: .jsonl, .json, .parquet, a folder of datasets, or docstrings.
        out: run folder; runs/spin-llm-generate by default; `spin-llm train` takes it.
        preset: where the settings below start from.
        max_new_tokens: of a response.
        generation_batch_size: responses sampled together.
        temperature: the theory asks for 1.
        top_p: the theory asks for 1.
        top_k: the theory asks for 0 (all).
        max_length: tokens of prompt and response.
        max_prompt_length: tokens of a prompt.
        template: format string with {prompt}, in place of the chat template.
        generation_template: another one for sampling, to repeat the official runs.
        limit: of so many examples.
        held_out: examples left out, the same that `run` keeps for evaluation.
        turns: which assistant turn of a conversation is the response.
        skip_bad: leave unusable records out and count them.
        seed: of the samples.
        device: auto, cpu, cuda, cuda:N or mps.
    """
    from spin_llm.commands import self_play as commands
    from spin_llm.options import configure

    config = configure(
        preset, max_new_tokens=max_new_tokens, generation_batch_size=generation_batch_size, temperature=temperature,
        top_p=top_p, top_k=top_k, max_length=max_length, max_prompt_length=max_prompt_length,
        template=template, generation_template=generation_template, seed=seed,
    )  # fmt: skip
    return commands.generate(
        model, data, out, config, device, limit=limit, held_out=held_out, turns=turns, skip_bad=skip_bad
    )


def train(
    model: str,
    generated: str,
    out: str | None = None,
    preset: Preset = "small",
    iteration: int = 0,
    beta: float | None = None,
    learning_rate: float | None = None,
    loss_type: LossType | None = None,
    optim: Optim | None = None,
    num_train_epochs: int | None = None,
    train_batch_size: int | None = None,
    per_device_train_batch_size: int | None = None,
    lora_rank: int | None = None,
    precision: Precision | None = None,
    gradient_checkpointing: bool | None = None,
    save_steps: int | None = None,
    seed: int = 0,
    device: str = "auto",
) -> int:
    """One iteration on responses that `generate` sampled from this very model.

    Args:
        model: the player and opponent: a folder, a hub id, a .gguf file, or smollm2.
        generated: the folder that `generate` wrote.
        out: run folder; runs/spin-llm-train by default.
        preset: where the settings below start from.
        iteration: which of the preset's iterations.
        beta: the paper's lambda.
        learning_rate: its peak.
        loss_type: the link of the objective.
        optim: the optimiser.
        num_train_epochs: passes over the data.
        train_batch_size: pairs a step, over all processes.
        per_device_train_batch_size: pairs a forward pass.
        lora_rank: 0 trains every weight.
        precision: of the forward pass.
        gradient_checkpointing: recompute activations in the backward pass.
        save_steps: steps between states that a killed run goes on from.
        seed: of the data's order.
        device: auto, cpu, cuda, cuda:N or mps.
    """
    from spin_llm.commands import self_play as commands
    from spin_llm.options import configure

    config = configure(
        preset, beta=None if beta is None else [beta],
        learning_rate=None if learning_rate is None else [learning_rate], loss_type=loss_type, optim=optim,
        num_train_epochs=num_train_epochs, train_batch_size=train_batch_size,
        per_device_train_batch_size=per_device_train_batch_size, lora_rank=lora_rank, precision=precision,
        gradient_checkpointing=gradient_checkpointing, save_steps=save_steps, seed=seed,
    )  # fmt: skip
    return commands.train(model, generated, out, config, device, iteration)
