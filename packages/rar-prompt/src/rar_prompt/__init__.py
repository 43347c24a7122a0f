"""Rephrase and respond: the paper's exact prompts, two-stage cached runs, paired statistics."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rar_prompt.ask import ask_one, run_async
    from rar_prompt.auditing import audit
    from rar_prompt.backends.http import ChatServer
    from rar_prompt.backends.local import LocalModel, load_local
    from rar_prompt.backends.open import Endpoint, open_backend
    from rar_prompt.backends.replay import Replay
    from rar_prompt.backends.scripted import Scripted
    from rar_prompt.backends.smollm2 import load_smollm2
    from rar_prompt.caller import Caller
    from rar_prompt.chat import Backend, Message, ProviderError, Reply, Request, Sampling, Usage
    from rar_prompt.evaluation import Condition, evaluate
    from rar_prompt.frame_model import FrameModel
    from rar_prompt.generators import GenOptions, generate
    from rar_prompt.items import Item
    from rar_prompt.journal import Journal
    from rar_prompt.limits import Limits
    from rar_prompt.methods import FewShotRepaired, OneCall, Plan, TwoStep, plan
    from rar_prompt.prices import Budget, Price, Prices
    from rar_prompt.readers import read_items
    from rar_prompt.retry import Retry
    from rar_prompt.run import run_to_folder
    from rar_prompt.settings import RunSettings, Spending
    from rar_prompt.statistics import best_of, clustered_bootstrap, compare, holm, mcnemar, paired_bootstrap, wilson
    from rar_prompt.summary import summarise, transfer_matrix
    from rar_prompt.templates import TemplateSet, load_templates
    from rar_prompt.transcripts import replay

# imported with the first use of a name, so that the command answers --help at once
_HOMES = {
    "ask": ("ask_one", "run_async"), "auditing": ("audit",), "backends.http": ("ChatServer",),
    "backends.local": ("LocalModel", "load_local"), "backends.open": ("Endpoint", "open_backend"),
    "backends.replay": ("Replay",), "backends.scripted": ("Scripted",), "backends.smollm2": ("load_smollm2",),
    "caller": ("Caller",),
    "chat": ("Backend", "Message", "ProviderError", "Reply", "Request", "Sampling", "Usage"),
    "evaluation": ("Condition", "evaluate"), "frame_model": ("FrameModel",), "generators": ("GenOptions", "generate"),
    "items": ("Item",), "journal": ("Journal",), "limits": ("Limits",),
    "methods": ("FewShotRepaired", "OneCall", "Plan", "TwoStep", "plan"), "prices": ("Budget", "Price", "Prices"),
    "readers": ("read_items",), "retry": ("Retry",), "run": ("run_to_folder",), "settings": ("RunSettings", "Spending"),
    "statistics": ("best_of", "clustered_bootstrap", "compare", "holm", "mcnemar", "paired_bootstrap", "wilson"),
    "summary": ("summarise", "transfer_matrix"), "templates": ("TemplateSet", "load_templates"),
    "transcripts": ("replay",),
}  # fmt: skip
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Backend", "Budget", "Caller", "ChatServer", "Condition", "Endpoint", "FewShotRepaired", "FrameModel",
    "GenOptions", "Item", "Journal", "Limits", "LocalModel", "Message", "OneCall", "Plan", "Price", "Prices",
    "ProviderError", "Replay", "Reply", "Request", "Retry", "RunSettings", "Sampling", "Scripted", "Spending",
    "TemplateSet", "TwoStep", "Usage", "ask_one", "audit", "best_of", "clustered_bootstrap", "compare",
    "evaluate", "generate", "holm", "load_local", "load_smollm2", "load_templates", "mcnemar", "open_backend",
    "paired_bootstrap", "plan", "read_items", "replay", "run_async", "run_to_folder", "summarise", "transfer_matrix",
    "wilson",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value
