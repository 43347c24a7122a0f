"""Verbs that stand beside the loop: sft, dpo, eval."""

from spin_llm.choices import Optim, Precision, Preset, Turns


def sft(
    model: str,
    data: str,
    out: str | None = None,
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
        out: run folder; runs/spin-llm-sft by default; the model goes to OUT/model.
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
    from spin_llm.commands import baselines as commands
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
    out: str | None = None,
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
        out: run folder; runs/spin-llm-dpo by default; the model goes to OUT/model.
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
    from spin_llm.commands import baselines as commands
    from spin_llm.options import configure

    config = configure(
        preset, iterations=1, beta=[beta], learning_rate=None if learning_rate is None else [learning_rate],
        optim=optim, num_train_epochs=num_train_epochs, train_batch_size=train_batch_size,
        per_device_train_batch_size=per_device_train_batch_size, max_length=max_length,
        max_prompt_length=max_prompt_length, lora_rank=lora_rank, template=template, seed=seed,
    )  # fmt: skip
    return commands.dpo(model, data, out, config, device, limit=limit, turns=turns, skip_bad=skip_bad)


def eval_(
    model: str,
    data: str,
    out: str | None = None,
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
    json: bool = False,
) -> int:
    """Likelihood of real responses and quality of sampled ones, with standard errors.

    Args:
        model: a folder, a hub id, a .gguf file, or smollm2.
        data: .jsonl, .json, .parquet, a folder of datasets, or docstrings.
        out: run folder; runs/spin-llm-eval by default.
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
        json: print JSON instead of a table.
    """
    from spin_llm.commands import baselines as commands
    from spin_llm.options import configure

    config = configure(
        preset, max_new_tokens=max_new_tokens, temperature=temperature, max_length=max_length,
        max_prompt_length=max_prompt_length, template=template, seed=seed,
    )  # fmt: skip
    return commands.evaluate(
        model, data, out, config, device, samples, json, limit=limit, held_out=held_out, turns=turns, skip_bad=skip_bad
    )
