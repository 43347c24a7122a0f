"""From a preset and what a command overrides to the settings of a run."""

from dataclasses import fields, replace
from typing import Any

from shared_core.errors import InputError

from spin_llm.choices import Preset
from spin_llm.config import Optimization, SPINConfig, preset
from spin_llm.models import Lora
from spin_llm.rendering import TokenLimits
from spin_llm.sampling import Sampler

_GROUPS = {"optimization": Optimization, "sampler": Sampler, "limits": TokenLimits, "lora": Lora}
_SHORT = {"lora_rank": ("lora", "rank"), "lora_alpha": ("lora", "alpha"), "lora_targets": ("lora", "targets"),
          "generation_batch_size": ("sampler", "batch_size")}  # fmt: skip


def configure(name: Preset, **given: Any) -> SPINConfig:
    """A preset with some settings replaced; a value of None keeps the preset's.

    Raises:
        InputError: for a value out of its range, naming it.
    """
    config = preset(name)
    own: dict[str, Any] = {}
    groups: dict[str, dict[str, Any]] = {group: {} for group in _GROUPS}
    for option, value in given.items():
        if value is None:
            continue
        group, field = _home(option)
        (groups[group] if group else own)[field] = value
    if "iterations" in own:
        # a preset's list for more iterations than are wanted is cut, its last value goes on for more
        count = max(1, own["iterations"])
        own.setdefault("beta", config.beta[:count])
        groups["optimization"].setdefault("learning_rate", config.optimization.learning_rate[:count])
    changed = {group: replace(getattr(config, group), **values) for group, values in groups.items() if values}
    return replace(config, **own, **changed)


def _home(option: str) -> tuple[str, str]:
    if option in _SHORT:
        return _SHORT[option]
    if option in {item.name for item in fields(SPINConfig)}:
        return "", option
    for group, kind in _GROUPS.items():
        if option in {item.name for item in fields(kind)}:
            return group, option
    raise InputError(f"there is no setting {option}")
