"""The real model with LoRA, ours and peft's, and random tokens of wanted lengths."""

import copy
from functools import cache

import torch
from peft import LoraConfig, get_peft_model
from spin_llm.loading import load_model
from spin_llm.models import Lora, add_lora

LORA = Lora(rank=16, alpha=32.0)
PAIRS = 4


@cache
def loaded():
    return load_model("smollm2")


def adapted():
    """SmolLM2 with the package's LoRA."""
    return _moved(add_lora(copy.deepcopy(loaded()[0]), LORA))


def adapted_by_peft():
    """The same adapter as peft makes it, which is what TRL's users have."""
    config = LoraConfig(
        r=LORA.rank, lora_alpha=LORA.alpha, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    return _moved(get_peft_model(copy.deepcopy(loaded()[0]), config))


def _moved(model):
    """Both sides' adapters hold the same numbers, and an update that is not 0, so that rewards are not."""
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                scale = 0.003 if "lora_B" in name else weight.shape[1] ** -0.5
                weight.copy_(scale * torch.randn(weight.shape, generator=draw))
    return model


def token_pairs(prompt, response, count=PAIRS, vocabulary=49152, seed=0):
    """Rows of (prompt, real, generated) with exactly so many tokens."""
    draw = torch.Generator().manual_seed(seed)
    sizes = (prompt, response, response)
    return [[torch.randint(100, vocabulary, (size,), generator=draw).tolist() for size in sizes] for _ in range(count)]
