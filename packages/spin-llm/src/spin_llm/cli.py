"""The command `spin-llm`: verbs to public functions."""

from typing import Literal

from shared_core.cli import run as run_command

SUMMARY = "Self-play fine-tuning of language models (SPIN)."

Turns = Literal["first", "last"]
Preset = Literal["paper", "official", "small"]
LossType = Literal["logistic", "hinge", "exponential", "correlation", "nce"]
Optim = Literal["adamw", "adam", "rmsprop"]
Precision = Literal["float32", "bfloat16"]


def run(
    model: str,
    data: str,
    out: str = "runs/spin",
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
    engine: Literal["model", "vllm"] | None = None,
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
        out: folder of the run.
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
        limit: train on so many examples.
        held_out: examples kept for evaluation.
        turns: which assistant turn of a conversation is the response.
        skip_bad: leave unusable records out and count them.
        dry_run: print what it would cost, and stop.
        seed: of the data's order, the samples and LoRA's start.
        device: auto, cpu, cuda, cuda:N or mps.
    """
    from spin_llm import commands
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
        stop_when_indistinguishable=stop_when_indistinguishable, seed=seed,
    )  # fmt: skip
    reading = {"limit": limit, "held_out": held_out, "turns": turns, "skip_bad": skip_bad}
    return commands.run(model, data, out, config, device, dry_run, **reading)


def sft(
    model: str,
    data: str,
    out: str = "runs/sft",
    preset: Preset = "small",
    learning_rate: float | None = None,
    optim: Optim | None = None,
    num_train_epochs: int | None = None,
    train_batch_size: int | None = None,
    per_device_train_batch_size: int | None = None,
    max_length: int | None = None,
    max_prompt_length: int | None = None,
    lora_rank: int | None = None,
    lora_alpha: float | None = None,
    lora_targets: list[str] | None = None,
    precision: Precision | None = None,
    gradient_checkpointing: bool | None = None,
    save_steps: int | None = None,
    template: str | None = None,
    limit: int | None = None,
    held_out: int = 0,
    turns: Turns = "first",
    skip_bad: bool = False,
    seed: int = 0,
    device: str = "auto",
) -> int:
    """Supervised fine-tuning: make theta_0, the player that self-play starts from.

    Args:
        model: a folder, a hub id, a .gguf file, or smollm2.
        data: .jsonl, .json, .parquet, a folder of datasets, or docstrings.
        out: folder of the run; the model goes to OUT/model.
        preset: where the settings below start from.
        learning_rate: its peak.
        optim: the optimiser.
        num_train_epochs: passes over the data.
        train_batch_size: examples a step, over all processes.
        per_device_train_batch_size: examples a forward pass.
        max_length: tokens of prompt and response.
        max_prompt_length: tokens of a prompt.
        lora_rank: 0 trains every weight.
        lora_alpha: scales LoRA's update.
        lora_targets: layers that LoRA adapts.
        precision: of the forward pass.
        gradient_checkpointing: recompute activations in the backward pass.
        save_steps: steps between states that a killed run goes on from.
        template: format string with {prompt}, in place of the chat template.
        limit: train on so many examples.
        held_out: examples left out, the same that `run` keeps for evaluation.
        turns: which assistant turn of a conversation is the response.
        skip_bad: leave unusable records out and count them.
        seed: of the data's order and LoRA's start.
        device: auto, cpu, cuda, cuda:N or mps.
    """
    from spin_llm import commands
    from spin_llm.options import configure

    config = configure(
        preset, iterations=1, learning_rate=None if learning_rate is None else [learning_rate], optim=optim,
        num_train_epochs=num_train_epochs, train_batch_size=train_batch_size,
        per_device_train_batch_size=per_device_train_batch_size, max_length=max_length,
        max_prompt_length=max_prompt_length, lora_rank=lora_rank, lora_alpha=lora_alpha, lora_targets=lora_targets,
        precision=precision, gradient_checkpointing=gradient_checkpointing, save_steps=save_steps, template=template,
        seed=seed,
    )  # fmt: skip
    return commands.sft(
        model, data, out, config, device, limit=limit, held_out=held_out, turns=turns, skip_bad=skip_bad
    )


def dpo(
    model: str,
    data: str,
    out: str = "runs/dpo",
    preset: Preset = "small",
    beta: float = 0.1,
    learning_rate: float | None = None,
    optim: Optim | None = None,
    num_train_epochs: int | None = None,
    train_batch_size: int | None = None,
    per_device_train_batch_size: int | None = None,
    max_length: int | None = None,
    max_prompt_length: int | None = None,
    lora_rank: int | None = None,
    template: str | None = None,
    limit: int | None = None,
    turns: Turns = "first",
    skip_bad: bool = False,
    seed: int = 0,
    device: str = "auto",
) -> int:
    """Direct preference optimisation on given pairs, the paper's baseline.

    Args:
        model: a folder, a hub id, a .gguf file, or smollm2; it is also the reference.
        data: records with real (chosen) and generated (rejected).
        out: folder of the run; the model goes to OUT/model.
        preset: where the settings below start from.
        beta: strength of the pull to the reference.
        learning_rate: its peak.
        optim: the optimiser.
        num_train_epochs: passes over the data.
        train_batch_size: pairs a step, over all processes.
        per_device_train_batch_size: pairs a forward pass.
        max_length: tokens of prompt and response.
        max_prompt_length: tokens of a prompt.
        lora_rank: 0 trains every weight.
        template: format string with {prompt}, in place of the chat template.
        limit: train on so many pairs.
        turns: which assistant turn of a conversation is the response.
        skip_bad: leave unusable records out and count them.
        seed: of the data's order and LoRA's start.
        device: auto, cpu, cuda, cuda:N or mps.
    """
    from spin_llm import commands
    from spin_llm.options import configure

    config = configure(
        preset, iterations=1, beta=[beta], learning_rate=None if learning_rate is None else [learning_rate],
        optim=optim, num_train_epochs=num_train_epochs, train_batch_size=train_batch_size,
        per_device_train_batch_size=per_device_train_batch_size, max_length=max_length,
        max_prompt_length=max_prompt_length, lora_rank=lora_rank, template=template, seed=seed,
    )  # fmt: skip
    return commands.dpo(model, data, out, config, device, limit=limit, turns=turns, skip_bad=skip_bad)


def generate(
    model: str,
    data: str,
    out: str = "runs/generated",
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
        out: folder of the run, which `spin-llm train` takes.
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
    from spin_llm import commands
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
    out: str = "runs/train",
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
        out: folder of the run.
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
    from spin_llm import commands
    from spin_llm.options import configure

    config = configure(
        preset, beta=None if beta is None else [beta],
        learning_rate=None if learning_rate is None else [learning_rate], loss_type=loss_type, optim=optim,
        num_train_epochs=num_train_epochs, train_batch_size=train_batch_size,
        per_device_train_batch_size=per_device_train_batch_size, lora_rank=lora_rank, precision=precision,
        gradient_checkpointing=gradient_checkpointing, save_steps=save_steps, seed=seed,
    )  # fmt: skip
    return commands.train(model, generated, out, config, device, iteration)


def eval_(
    model: str,
    data: str,
    out: str = "runs/eval",
    preset: Preset = "small",
    samples: int = 2,
    max_new_tokens: int | None = None,
    temperature: float | None = None,
    max_length: int | None = None,
    max_prompt_length: int | None = None,
    template: str | None = None,
    limit: int | None = None,
    held_out: int = 0,
    turns: Turns = "first",
    skip_bad: bool = False,
    seed: int = 0,
    device: str = "auto",
) -> int:
    """Likelihood of real responses and quality of sampled ones, with standard errors.

    Args:
        model: a folder, a hub id, a .gguf file, or smollm2.
        data: .jsonl, .json, .parquet, a folder of datasets, or docstrings.
        out: folder of the run.
        preset: where the settings below start from.
        samples: responses a prompt.
        max_new_tokens: of a response.
        temperature: of the sampler.
        max_length: tokens of prompt and response.
        max_prompt_length: tokens of a prompt.
        template: format string with {prompt}, in place of the chat template.
        limit: so many examples.
        held_out: the examples that `run` keeps for evaluation, in place of the first.
        turns: which assistant turn of a conversation is the response.
        skip_bad: leave unusable records out and count them.
        seed: of the samples; equal seeds make two models comparable in pairs.
        device: auto, cpu, cuda, cuda:N or mps.
    """
    from spin_llm import commands
    from spin_llm.options import configure

    config = configure(
        preset, max_new_tokens=max_new_tokens, temperature=temperature, max_length=max_length,
        max_prompt_length=max_prompt_length, template=template, seed=seed,
    )  # fmt: skip
    return commands.evaluate(
        model, data, out, config, device, samples, limit=limit, held_out=held_out, turns=turns, skip_bad=skip_bad
    )


def prepare(
    data: str, out: str = "prepared.jsonl", turns: Turns = "first", skip_bad: bool = False, seed: int = 0
) -> int:
    """Turn any known layout into one record a line: id and messages.

    Args:
        data: .jsonl, .json, .parquet, a folder of datasets, or docstrings.
        out: the .jsonl file; an existing one is not overwritten.
        turns: which assistant turn of a conversation is the response.
        skip_bad: leave unusable records out and count them.
        seed: of the order of docstrings.
    """
    from spin_llm import commands

    return commands.prepare(data, out, turns, skip_bad, seed)


def inspect(
    model: str,
    data: str,
    template: str | None = None,
    count: int = 3,
    turns: Turns = "first",
    skip_bad: bool = False,
    seed: int = 0,
) -> int:
    """Show what the model will see: tokens, the response marked, lengths, whether the template can be used.

    Args:
        model: whose tokenizer.
        data: .jsonl, .json, .parquet, a folder of datasets, or docstrings.
        template: format string with {prompt}, in place of the chat template.
        count: examples shown.
        turns: which assistant turn of a conversation is the response.
        skip_bad: leave unusable records out and count them.
        seed: of the order of docstrings.
    """
    from spin_llm import commands

    return commands.inspect(model, data, template, count, turns, skip_bad, seed)


def export(model: str, out: str = "exported", generated: str | None = None) -> int:
    """Write plain weights with the adapter merged in, or pairs as DPO data for TRL.

    Args:
        model: a player's folder (RUN/iter_2/model), a hub id, a .gguf file, or smollm2.
        out: a folder for the weights, or a .jsonl file for the pairs.
        generated: write the pairs of this folder (RUN/iter_2) instead.
    """
    from spin_llm import commands

    return commands.export_model(model, out) if generated is None else commands.export_pairs(model, generated, out)


def doctor(model: str = "smollm2", device: str = "auto") -> int:
    """Say what this machine has, and which exact short cuts a model allows.

    Args:
        model: a folder, a hub id, a .gguf file, or smollm2.
        device: auto, cpu, cuda, cuda:N or mps.
    """
    from spin_llm import commands

    return commands.doctor(model, device)


def reproduce(
    scale: Literal["smoke", "laptop", "paper"] = "laptop",
    claims: list[str] | None = None,
    out: str | None = None,
    seed: int = 0,
    device: str = "auto",
) -> int:
    """Measure the paper's claims and print the table.

    Args:
        scale: smoke (seconds), laptop (minutes) or paper (hours: a real model).
        claims: ids; all by default.
        out: run folder.
        seed: of every draw.
        device: auto, cpu, cuda, cuda:N or mps.
    """
    from spin_llm.reproduce import claims as registered

    return registered.reproduce(scale=scale, claims=claims, out=out, seed=seed, device=device)


VERBS = (prepare, inspect, sft, generate, train, run, eval_, dpo, export, doctor, reproduce)


def main() -> int:
    """The entry point."""
    return run_command("spin-llm", VERBS, summary=SUMMARY)
