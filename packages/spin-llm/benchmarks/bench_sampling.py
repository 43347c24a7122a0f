"""Sampled tokens a second beside transformers' generate, on the same prompts of mixed lengths.

The model is what the loop samples from: a player after a little supervised fine-tuning, whose responses end by
themselves, early or late (where all responses are of one length, there is nothing to gain over `generate`). Prompts are
real questions; each side draws at temperature 1 with its own random numbers, so that sameness is checked where there
are none: both, asked for the most probable tokens, must write the same text.
"""

import tempfile
import time
from pathlib import Path

import torch
import transformers
from accelerate import Accelerator
from common import LORA
from shared_core.benchmark import Comparison, compare
from spin_llm.config import Optimization
from spin_llm.docstrings import docstring_examples
from spin_llm.loading import load_model
from spin_llm.models import add_lora
from spin_llm.rendering import Renderer, TokenLimits, tokenize
from spin_llm.sampling import Sampler, sample_responses
from spin_llm.supervised import fine_tune

ROWS, NEW_TOKENS, REPEATS = 32, 32, 4


def player():
    """SmolLM2 after one epoch on 64 docstrings, its adapter merged in: a plain model for both sides."""
    model, tokenizer = load_model("smollm2")
    tokens = tokenize(docstring_examples()[:64], Renderer(tokenizer), TokenLimits(128, 64))
    settings = Optimization(
        optim="adamw", learning_rate=[4e-4], num_train_epochs=1, train_batch_size=8, per_device_train_batch_size=8
    )
    adapted = add_lora(model, LORA)
    with tempfile.TemporaryDirectory() as folder:
        fine_tune(adapted, tokenizer, tokens, settings, Path(folder), Accelerator(cpu=True))
    return adapted.merge_and_unload(), tokenizer


def run() -> list[Comparison]:
    """One row."""
    torch.set_num_threads(1)
    model, tokenizer = player()
    renderer = Renderer(tokenizer)
    examples = docstring_examples()[:: max(1, len(docstring_examples()) // ROWS)][:ROWS]
    # every third prompt is a longer one, as conversations are
    texts = [(*item.prompt[:-1], {"role": "user", "content": item.prompt[-1]["content"] * (1 + 2 * (i % 3 == 0))})
             for i, item in enumerate(examples)]  # fmt: skip
    prompts = [renderer.prompt(text) for text in texts]
    greedy = Sampler(temperature=0, max_new_tokens=NEW_TOKENS, batch_size=ROWS)
    ours = [item.ids for item in sample_responses(model, prompts, greedy, renderer.end_ids, [0] * ROWS)]
    theirs, _ = generate(model, tokenizer, prompts, NEW_TOKENS, do_sample=False)
    same = ours == theirs
    rates = {"ours": [], "theirs": []}
    for repeat in range(REPEATS):
        sampler = Sampler(max_new_tokens=NEW_TOKENS, batch_size=ROWS)
        start = time.perf_counter()
        drawn = sample_responses(
            model, prompts, sampler, renderer.end_ids, [1000 * repeat + row for row in range(ROWS)]
        )
        rates["ours"].append(sum(len(item.ids) for item in drawn) / (time.perf_counter() - start))
        torch.manual_seed(repeat)
        found, elapsed = generate(
            model, tokenizer, prompts, NEW_TOKENS, do_sample=True, top_k=0, top_p=1.0, temperature=1.0
        )
        rates["theirs"].append(sum(map(len, found)) / elapsed)
    return [
        compare(
            "sampling", f"tokens a second, {ROWS} prompts of mixed length, at most {NEW_TOKENS} new tokens",
            f"transformers {transformers.__version__} generate", rates["ours"], rates["theirs"], same_result=same,
            unit="tokens/s", better="higher",
        )
    ]  # fmt: skip


def generate(model, tokenizer, prompts, new_tokens, **options):
    """Token ids up to the end token, and seconds."""
    width = max(map(len, prompts))
    pad = tokenizer.eos_token_id
    ids = torch.tensor([[pad] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    start = time.perf_counter()
    with torch.inference_mode():
        found = model.generate(ids, attention_mask=mask, max_new_tokens=new_tokens, pad_token_id=pad, **options)
    elapsed = time.perf_counter() - start
    rows = found[:, width:].tolist()
    return [row[: row.index(pad) + 1] if pad in row else row for row in rows], elapsed
