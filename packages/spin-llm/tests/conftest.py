"""Tiny models of the families the package is proven on."""

from collections.abc import Callable

import pytest
import torch
from torch import nn


def make_llama(dtype: torch.dtype = torch.float64, vocabulary: int = 13, seed: int = 0, **options: object) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        **{
            "vocab_size": vocabulary, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
            "tie_word_embeddings": True, "initializer_range": 0.4, "bos_token_id": None, "eos_token_id": 1,
        }
        | options
    )  # fmt: skip
    return LlamaForCausalLM(config).to(dtype).eval()


def make_gpt2(dtype: torch.dtype = torch.float64, vocabulary: int = 13, seed: int = 0) -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=vocabulary, n_positions=64, n_embd=16, n_layer=2, n_head=2, initializer_range=0.4,
        bos_token_id=None, eos_token_id=1,
    )  # fmt: skip
    return GPT2LMHeadModel(config).to(dtype).eval()


@pytest.fixture(params=["llama", "llama-untied", "gpt2"])
def make_model(request: pytest.FixtureRequest) -> Callable[..., nn.Module]:
    if request.param == "gpt2":
        return make_gpt2
    return lambda **given: make_llama(tie_word_embeddings=request.param == "llama", **given)


@pytest.fixture
def llama() -> Callable[..., nn.Module]:
    return make_llama
