"""Sampled tokens a second beside transformers' generate, on the same prompts of mixed lengths.

Prompts are real questions; each side draws at temperature 1 with its own random numbers, so that sameness is checked
where there are none: both, asked for the most probable tokens, must write the same text.
"""

import time

import torch
import transformers
from common import loaded
from shared_core.benchmark import Comparison, compare
from spin_llm.docstrings import docstring_examples
from spin_llm.rendering import Renderer
from spin_llm.sampling import Sampler, sample_responses

ROWS, NEW_TOKENS, REPEATS = 32, 64, 3


def run() -> list[Comparison]:
    """One row."""
    torch.set_num_threads(1)
    model, tokenizer = loaded()
    renderer = Renderer(tokenizer)
    examples = docstring_examples()[:: max(1, len(docstring_examples()) // ROWS)][:ROWS]
    # every third prompt is a longer one, as conversations are
    texts = [(*item.prompt[:-1], {"role": "user", "content": item.prompt[-1]["content"] * (1 + 2 * (i % 3 == 0))})
             for i, item in enumerate(examples)]  # fmt: skip
    prompts = [renderer.prompt(text) for text in texts]
    greedy = Sampler(temperature=0, max_new_tokens=16, batch_size=ROWS)
    ours = [item.ids for item in sample_responses(model, prompts, greedy, renderer.end_ids, [0] * ROWS)]
    theirs, _ = generate(model, tokenizer, prompts, 16, do_sample=False)
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
