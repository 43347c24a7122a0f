"""vLLM as the sampler: the current opponent's weights go to it as a merged folder, the trainer's model scores.

Optional, and imported where it is used. What vLLM draws follows its own kernels and precision; the log-probabilities
that self-play trains against are always those of the trainer's own model.
"""

import gc
import importlib.util
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from shared_core.errors import InputError

from spin_llm.models import save_model
from spin_llm.packing import TokenIds
from spin_llm.sampling import Response, Sampler


class VLLMEngine:
    """Draws responses with a `vllm.LLM`.

    Args:
        llm: it.
    """

    def __init__(self, llm: Any) -> None:
        self.llm = llm

    def __call__(
        self, prompts: Sequence[TokenIds], sampler: Sampler, end_ids: Sequence[int], seeds: Sequence[int]
    ) -> list[Response]:
        """One response to each prompt, as token ids; every knob is passed, so that no model's defaults count."""
        from vllm import SamplingParams  # type: ignore[import-not-found]

        asked = [
            SamplingParams(
                temperature=sampler.temperature, top_p=sampler.top_p, top_k=sampler.top_k or -1, min_p=0.0,
                max_tokens=sampler.max_new_tokens, stop_token_ids=list(end_ids), seed=seed % 2**31, logprobs=0,
                detokenize=False,
            )
            for seed in seeds
        ]  # fmt: skip
        rows = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        found = [item.outputs[0] for item in self.llm.generate(rows, asked, use_tqdm=False)]
        return [
            Response(
                list(item.token_ids),
                float(item.cumulative_logprob),
                bool(item.token_ids) and item.token_ids[-1] in end_ids,
            )
            for item in found
        ]


def require_vllm() -> None:
    """Say so before anything is begun.

    Raises:
        InputError: if vLLM is not installed.
    """
    if importlib.util.find_spec("vllm") is None:
        raise InputError("engine vllm: the package vllm is not installed (pip install vllm; it needs a GPU)")


@contextmanager
def vllm_engine(folder: Path, precision: str = "float32", memory: float = 0.4) -> Iterator[VLLMEngine]:
    """vLLM around the model in a folder, gone at the end.

    Args:
        folder: plain weights and tokenizer (`save_model` with `merge`).
        precision: float32 or bfloat16.
        memory: share of the GPU that it may take beside the trainer's model.

    Raises:
        InputError: if vLLM is not installed.
    """
    require_vllm()
    from vllm import LLM

    engine = VLLMEngine(
        LLM(model=str(folder), dtype=precision, gpu_memory_utilization=memory, generation_config="vllm")
    )
    try:
        yield engine
    finally:
        engine.llm = None
        gc.collect()
        torch.cuda.empty_cache()  # nothing where CUDA was never used


@contextmanager
def vllm_opponent(model: Any, tokenizer: Any, out: Path, precision: str) -> Iterator[VLLMEngine]:
    """vLLM around a live player, whose merged weights lie in a folder inside `out` for as long."""
    with tempfile.TemporaryDirectory(dir=out, prefix=".opponent") as place:
        save_model(model, tokenizer, Path(place) / "model", merge=True)
        with vllm_engine(Path(place) / "model", precision) as engine:
            yield engine
