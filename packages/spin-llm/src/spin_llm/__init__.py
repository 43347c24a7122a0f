"""Self-play fine-tuning of language models (SPIN): a model improves on supervised data alone, playing its last self."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spin_llm.config import Optimization, SPINConfig, preset
    from spin_llm.docstrings import docstring_examples
    from spin_llm.evaluation import Evaluation, compare_paired, evaluate_player
    from spin_llm.iteration import Iteration
    from spin_llm.loading import load_model
    from spin_llm.losses import contraction_factor, dpo_loss, geometric_mixture, spin_loss, spin_margins
    from spin_llm.models import Lora, add_lora, save_model
    from spin_llm.packing import PackedBatch, pack
    from spin_llm.records import Example, read_examples
    from spin_llm.rendering import Renderer, TokenLimits, Tokens, tokenize
    from spin_llm.sampling import Response, Sampler, sample_responses
    from spin_llm.self_play import SelfPlay
    from spin_llm.sequence_logprobs import Scoring, scoring_of, sequence_logprobs
    from spin_llm.supervised import fine_tune, prefer
    from spin_llm.trainer import SPINTrainer

_MODULES = {
    "config": ("Optimization", "SPINConfig", "preset"),
    "docstrings": ("docstring_examples",),
    "evaluation": ("Evaluation", "compare_paired", "evaluate_player"),
    "iteration": ("Iteration",),
    "loading": ("load_model",),
    "losses": ("contraction_factor", "dpo_loss", "geometric_mixture", "spin_loss", "spin_margins"),
    "models": ("Lora", "add_lora", "save_model"),
    "packing": ("PackedBatch", "pack"),
    "records": ("Example", "read_examples"),
    "rendering": ("Renderer", "TokenLimits", "Tokens", "tokenize"),
    "sampling": ("Response", "Sampler", "sample_responses"),
    "self_play": ("SelfPlay",),
    "sequence_logprobs": ("Scoring", "scoring_of", "sequence_logprobs"),
    "supervised": ("fine_tune", "prefer"),
    "trainer": ("SPINTrainer",),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}
__all__ = [
    "Evaluation", "Example", "Iteration", "Lora", "Optimization", "PackedBatch", "Renderer", "Response", "SPINConfig",
    "SPINTrainer", "Sampler", "Scoring", "SelfPlay", "TokenLimits", "Tokens", "add_lora", "compare_paired",
    "contraction_factor", "docstring_examples", "dpo_loss", "evaluate_player", "fine_tune", "geometric_mixture",
    "load_model", "pack", "prefer", "preset", "read_examples", "sample_responses", "save_model", "scoring_of",
    "sequence_logprobs", "spin_loss", "spin_margins", "tokenize",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
