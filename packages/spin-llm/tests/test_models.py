"""What is loaded never runs code, what is saved loads again, and the optional sampler gets the opponent's weights."""

import importlib.machinery
import json
import shutil
import sys
import time
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from shared_core.errors import InputError
from spin_llm.config import Optimization, SPINConfig
from spin_llm.generation import read_pairs
from spin_llm.loading import load_model, load_tokenizer
from spin_llm.models import Lora, add_lora, save_model
from spin_llm.records import Example
from spin_llm.rendering import Renderer, TokenLimits, tokenize
from spin_llm.sampling import Sampler, sample_responses
from spin_llm.self_play import SelfPlay
from torch import nn


def test_pickled_weights_are_refused(model_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pickled"
    shutil.copytree(model_folder, folder)
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="cannot be loaded"):
        load_model(folder)


def test_a_checkpoint_with_code_of_its_own_is_refused_and_the_code_not_run(model_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "coded"
    shutil.copytree(model_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(InputError, match="cannot be loaded"):
        load_model(folder)
    assert not (tmp_path / "ran").exists()


def test_a_pickled_adapter_is_refused(model_folder: Path, tmp_path: Path) -> None:
    model, tokenizer = load_model(model_folder)
    save_model(add_lora(model, Lora(rank=2), str(model_folder)), tokenizer, tmp_path / "adapter")
    assert load_model(tmp_path / "adapter")[0].peft_config  # type: ignore[union-attr]
    (tmp_path / "adapter/adapter_model.safetensors").rename(tmp_path / "adapter/adapter_model.bin")
    with pytest.raises(InputError, match=r"no adapter_model\.safetensors"):
        load_model(tmp_path / "adapter")


def test_rank_0_merges_an_adapter_and_trains_all(llama: Callable[..., nn.Module]) -> None:
    adapted = add_lora(llama(), Lora(rank=2))
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_()
    ids = torch.arange(5)[None]
    whole = add_lora(adapted, Lora(rank=0))
    assert all(weight.requires_grad for weight in whole.parameters())
    assert not any("lora" in name for name, _ in whole.named_parameters())
    torch.testing.assert_close(whole(ids).logits, adapted(ids).logits, rtol=0, atol=1e-5)


@pytest.fixture
def fake_vllm(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """A module `vllm` that draws with our sampler from whatever folder it is given; the models that it loaded."""
    loaded: list[nn.Module] = []

    class LLM:
        def __init__(self, model: str, **options: Any) -> None:
            assert not (Path(model) / "adapter_config.json").exists()
            loaded.append(load_model(model)[0])

        def generate(self, prompts: list[Any], params: list[Any], use_tqdm: bool) -> list[Any]:
            found = []
            for prompt, given in zip(prompts, params, strict=True):
                assert (given.temperature, given.top_p, given.top_k) == (1.0, 1.0, -1)
                sampler = Sampler(max_new_tokens=given.max_tokens)
                (drawn,) = sample_responses(
                    loaded[-1], [prompt["prompt_token_ids"]], sampler, given.stop_token_ids, [given.seed]
                )
                output = types.SimpleNamespace(token_ids=tuple(drawn.ids), cumulative_logprob=drawn.logprob)
                found.append(types.SimpleNamespace(outputs=[output]))
            return found

    module = types.ModuleType("vllm")
    module.__spec__ = importlib.machinery.ModuleSpec("vllm", None)
    module.LLM, module.SamplingParams = LLM, types.SimpleNamespace  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", module)
    return loaded


def test_vllm_draws_from_the_current_opponent_and_the_trainers_model_scores(
    llama: Callable[..., nn.Module], tokenizer: Any, examples: list[Example], tmp_path: Path, fake_vllm: list[nn.Module]
) -> None:
    config = SPINConfig(
        iterations=2, beta=[1.0], engine="vllm", sampler=Sampler(max_new_tokens=6), limits=TokenLimits(24, 12),
        lora=Lora(rank=4),
        optimization=Optimization(optim="adamw", learning_rate=[0.01], train_batch_size=8, num_train_epochs=1),
    )  # fmt: skip
    tokens = tokenize(examples[:16], Renderer(tokenizer), config.limits)
    model = add_lora(llama(torch.float32, vocabulary=len(tokenizer)), config.lora)
    results = SelfPlay(model, tokenizer, tokens, config, tmp_path, accelerator=Accelerator(cpu=True)).run()
    assert [result.first["loss"] for result in results] == pytest.approx([0.6931472] * 2, abs=1e-5)
    assert len(fake_vllm) == 2  # one an iteration, each with other weights
    ids = torch.arange(5)[None]
    assert (fake_vllm[0](ids).logits - fake_vllm[1](ids).logits).abs().max() > 1e-3
    for pair in read_pairs(tmp_path / "iter_1/generated.jsonl"):
        assert pair.finished == (pair.generated[-1] == 1)
    assert not list(tmp_path.glob(".opponent*"))


def test_an_unknown_engine_is_refused() -> None:
    with pytest.raises(InputError, match="engine must be model or vllm"):
        replace(SPINConfig(), engine="other")  # type: ignore[arg-type]


def test_an_adapter_of_another_base_is_one_line(
    llama: Callable[..., nn.Module], tokenizer: Any, tmp_path: Path
) -> None:
    for name, width in (("base", 16), ("other", 24)):
        save_model(llama(torch.float32, hidden_size=width, vocabulary=len(tokenizer)), tokenizer, tmp_path / name)
    model = add_lora(load_model(tmp_path / "base")[0], Lora(rank=2), str(tmp_path / "base"))
    save_model(model, tokenizer, tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    (tmp_path / "adapter/adapter_config.json").write_text(
        json.dumps(config | {"base_model_name_or_path": str(tmp_path / "other")})
    )
    with pytest.raises(InputError, match="cannot be loaded") as caught:
        load_model(tmp_path / "adapter")
    assert "\n" not in str(caught.value)


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A hub that nobody answers for, and an empty cache."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.mark.parametrize("load", [load_model, load_tokenizer])
def test_a_hub_out_of_reach_is_said_at_once_and_in_one_line(
    no_hub: Path, load: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("waits to ask again"))
    with pytest.raises(InputError, match=r"some/model: no such folder, and the model hub .* is out of reach") as caught:
        load("some/model")
    assert "\n" not in str(caught.value)


def test_offline_a_model_in_the_cache_is_loaded_without_asking(
    no_hub: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = no_hub / "models--some--model"
    shutil.copytree(model_folder, home / "snapshots" / ("a" * 40))
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("a" * 40)
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("waits to ask again"))
    model, _ = load_model("some/model")
    here = load_model(model_folder)[0]
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), here.parameters(), strict=True))
