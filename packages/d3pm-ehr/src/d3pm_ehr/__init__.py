"""Guided discrete diffusion for electronic health record codes."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from d3pm_ehr.baselines import Bernoulli
    from d3pm_ehr.cohort import Cohort
    from d3pm_ehr.condition import Condition
    from d3pm_ehr.config import Diffusion, GeneratorConfig, Guidance, Network, Training
    from d3pm_ehr.embedded import embedded_cohort
    from d3pm_ehr.evaluation import evaluate
    from d3pm_ehr.gan import CTGAN, MedGAN
    from d3pm_ehr.gaussian import GaussianDiffusion
    from d3pm_ehr.generator import EHRD3PM
    from d3pm_ehr.guidance import LangevinGuide, train_classifier
    from d3pm_ehr.guidance_table import guidance_report
    from d3pm_ehr.layout import TokenLayout
    from d3pm_ehr.nearest_records import nearest
    from d3pm_ehr.posterior import joint_to_mixture, mixture_to_joint
    from d3pm_ehr.process import DiscreteDiffusion
    from d3pm_ehr.schedule import noise_schedule
    from d3pm_ehr.vocabulary import Column, Vocabulary

_HOMES = {
    "baselines": ["Bernoulli"],
    "cohort": ["Cohort"],
    "condition": ["Condition"],
    "config": ["Diffusion", "GeneratorConfig", "Guidance", "Network", "Training"],
    "embedded": ["embedded_cohort"],
    "evaluation": ["evaluate"],
    "gan": ["CTGAN", "MedGAN"],
    "gaussian": ["GaussianDiffusion"],
    "generator": ["EHRD3PM"],
    "guidance": ["LangevinGuide", "train_classifier"],
    "guidance_table": ["guidance_report"],
    "layout": ["TokenLayout"],
    "nearest_records": ["nearest"],
    "posterior": ["joint_to_mixture", "mixture_to_joint"],
    "process": ["DiscreteDiffusion"],
    "schedule": ["noise_schedule"],
    "vocabulary": ["Column", "Vocabulary"],
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "CTGAN", "Bernoulli", "Cohort", "Column", "Condition", "Diffusion", "DiscreteDiffusion", "EHRD3PM",
    "GaussianDiffusion", "GeneratorConfig", "Guidance", "LangevinGuide", "MedGAN", "Network", "TokenLayout", "Training",
    "Vocabulary", "embedded_cohort", "evaluate", "guidance_report", "joint_to_mixture", "mixture_to_joint", "nearest",
    "noise_schedule", "train_classifier",
]  # fmt: skip


def __getattr__(name: str) -> Any:  # torch is imported when something is first used
    if name not in _HOME:
        raise AttributeError(f"module 'd3pm_ehr' has no attribute {name!r}")
    return getattr(import_module(f"d3pm_ehr.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
