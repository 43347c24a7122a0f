"""What a run would cost, before it is begun: tokens, floating-point operations, hours, memory."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from spin_llm.config import SPINConfig
from spin_llm.rendering import Tokens


@dataclass(frozen=True)
class Cost:
    """Of a whole run on one device.

    Args:
        sampled_tokens: at most, that is if no response ends by itself.
        trained_tokens: computed forward and backward, prompts shared by a pair once.
        scored_tokens: computed forward only.
        flops: of all of it.
        hours: at the rate of a matrix product measured here; a lower bound.
        gigabytes: weights, gradients, moments and the logits held at a time; activations come on top.
    """

    sampled_tokens: int
    trained_tokens: int
    scored_tokens: int
    flops: float
    hours: float
    gigabytes: float


def estimate_cost(model: nn.Module, examples: Sequence[Tokens], config: SPINConfig, device: torch.device) -> Cost:
    """Count what `SelfPlay` would compute (2 flops a weight and token forward, 4 back, 2 where frozen)."""
    weights = sum(weight.numel() for weight in model.parameters())
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    sampled = len(examples) * config.sampler.max_new_tokens
    row = sum(len(example.prompt) + len(example.real) for example in examples) + sampled
    pairs = [2 if config.mix_previous and number else 1 for number in range(config.iterations)]
    trained_tokens = row * sum(pairs) * config.optimization.num_train_epochs
    scored_tokens = row * sum(pairs)
    backward = 4 if trained == weights else 2
    read = sampled + sum(len(example.prompt) for example in examples)
    flops = 2.0 * weights * (config.iterations * read + scored_tokens) + (2.0 + backward) * weights * trained_tokens
    moments = {"adamw": 2, "adam": 2, "rmsprop": 1}[config.optimization.optim]
    memory = 4 * weights + 4 * trained * (1 + moments) + 4 * 2**24
    hours = flops / _flops_a_second(device) / 3600
    return Cost(config.iterations * sampled, trained_tokens, scored_tokens, flops, hours, memory / 2**30)


def _flops_a_second(device: torch.device, size: int = 1024) -> float:
    matrix = torch.randn(size, size, device=device)
    (matrix @ matrix).sum().item()
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < 0.3:
        (matrix @ matrix).sum().item()
        count += 1
    return float(2 * size**3 * count / (time.perf_counter() - start))
