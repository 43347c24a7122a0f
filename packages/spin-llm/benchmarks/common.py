"""The real model and random tokens of wanted lengths."""

import copy
from functools import cache

import torch
from spin_llm.models import Lora, add_lora, load_model

LORA = Lora(rank=16, alpha=32.0)
PAIRS = 4


@cache
def loaded():
    return load_model("smollm2")


def adapted():
    """SmolLM2 with LoRA on every linear layer; the update is not 0, so that rewards are not."""
    model = add_lora(copy.deepcopy(loaded()[0]), LORA)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.copy_(0.003 * torch.randn(weight.shape, generator=draw))
    return model


def token_pairs(prompt, response, count=PAIRS, vocabulary=49152, seed=0):
    """Rows of (prompt, real, generated) with exactly so many tokens."""
    draw = torch.Generator().manual_seed(seed)
    sizes = (prompt, response, response)
    return [[torch.randint(100, vocabulary, (size,), generator=draw).tolist() for size in sizes] for _ in range(count)]
