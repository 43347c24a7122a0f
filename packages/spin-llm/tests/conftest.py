"""Tiny models of the families the package is proven on."""

import gc
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from spin_llm.config import Optimization
from spin_llm.objectives import ScoredPair
from spin_llm.records import Example
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


SETTINGS = Optimization(
    optim="adamw", learning_rate=[0.01], num_train_epochs=2, train_batch_size=4, per_device_train_batch_size=2,
    save_steps=1,
)  # fmt: skip


def scored_pairs(model: nn.Module, count: int = 10) -> list[ScoredPair]:
    """Random pairs with their log-probabilities under the model."""
    from spin_llm.opponent import score_responses
    from spin_llm.sequence_logprobs import Scoring

    draw = torch.Generator().manual_seed(1)

    def tokens(low: int, high: int) -> list[int]:
        length = int(torch.randint(low, high, (1,), generator=draw))
        return torch.randint(2, 13, (length,), generator=draw).tolist()

    rows = [(tokens(1, 6), [tokens(1, 5), tokens(1, 5)]) for _ in range(count)]
    scores = score_responses(model, [row[0] for row in rows], [row[1] for row in rows], Scoring(), rows=3)
    return [
        ScoredPair(str(index), prompt, *responses, *score)
        for index, ((prompt, responses), score) in enumerate(zip(rows, scores, strict=True))
    ]


@pytest.fixture(params=["llama", "llama-untied", "gpt2"])
def make_model(request: pytest.FixtureRequest) -> Callable[..., nn.Module]:
    if request.param == "gpt2":
        return make_gpt2
    return lambda **given: make_llama(tie_word_embeddings=request.param == "llama", **given)


@pytest.fixture(scope="session", autouse=True)
def nothing_to_collect_in_libraries() -> Iterator[None]:
    """accelerate collects garbage after every training, a third of a second each time for what transformers imports."""
    import peft  # noqa: F401
    from transformers import GPT2LMHeadModel, LlamaForCausalLM  # noqa: F401

    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()  # or extensions complain at exit of what they leak


@pytest.fixture
def fork() -> Callable[[Callable[[], int | None]], int]:
    """Begins some work in a process of its own, all that is imported being there, and gives the process's id."""
    if not hasattr(os, "fork") or torch.accelerator.is_available():
        pytest.skip("needs a fork, which autograd's threads for a GPU do not survive")

    def begin(work: Callable[[], int | None]) -> int:
        sys.stdout.flush()
        if pid := os.fork():
            return pid
        code = 1
        try:
            torch.set_num_threads(1)  # the parent's threads are not there
            code = work() or 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    return begin


TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }} <end> {% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)
WORDS = [*"abcdefghij", "one", "two", "three", "four"]


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """A tokenizer of whole words with a chat template; its end token fills rows up too, as is common."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<unk>", "<end>", "<system>", "<user>", "<assistant>"]
    vocabulary = {word: index for index, word in enumerate([*special, *WORDS])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="<unk>", eos_token="<end>", pad_token="<end>",
        additional_special_tokens=["<system>", "<user>", "<assistant>"],
    )  # fmt: skip
    made.chat_template = TEMPLATE
    return made


@pytest.fixture(scope="session")
def examples() -> list[Example]:
    """Repeat a word so many times."""
    rows = []
    for word in "abcdefghij":
        for count, name in enumerate(["one", "two", "three", "four"], start=1):
            asked = ({"role": "user", "content": f"{name} {word}"},)
            rows.append(Example(f"{word}{count}", asked, " ".join([word] * count)))
    return rows


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    """A model on disk, with its tokenizer, as users have one."""
    folder = tmp_path_factory.mktemp("model")
    make_llama(torch.float32, vocabulary=len(tokenizer)).save_pretrained(folder)  # type: ignore[operator]
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def data_file(tmp_path_factory: pytest.TempPathFactory, examples: list[Example]) -> Path:
    """Records as users have them."""
    path = tmp_path_factory.mktemp("data") / "records.jsonl"
    rows = [{"id": item.id, "prompt": item.prompt[0]["content"], "response": item.response} for item in examples]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="session")
def llama() -> Callable[..., nn.Module]:
    return make_llama


@pytest.fixture
def optimization() -> Optimization:
    return SETTINGS


@pytest.fixture
def pairs_of() -> Callable[..., list[ScoredPair]]:
    return scored_pairs
