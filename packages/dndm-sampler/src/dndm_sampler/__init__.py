"""Fast sampling for discrete diffusion by predetermined transition times (DNDM).

Names are loaded on first use, so that importing the package (as the command line does) does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dndm_sampler.adapters import from_diffusion_gemma, from_hf_masked_lm, from_mdlm
    from dndm_sampler.algorithms import dndm, dndm_refresh, dndm_topk, dndm_topk_remask
    from dndm_sampler.baselines import ancestral_absorbing, ancestral_multinomial, rdm, thinned_ancestral
    from dndm_sampler.denoising import SplitDenoiser, leave_one_out
    from dndm_sampler.enumeration import exact_problem, markov_chain_law, total_variation
    from dndm_sampler.markov_chain import MarkovChainDenoiser
    from dndm_sampler.nfe import expected_nfe, nfe_bound, nfe_distribution
    from dndm_sampler.noise import AbsorbingNoise, MultinomialNoise
    from dndm_sampler.sampler import BiasWarning, DNDMSampler, SamplerOutput
    from dndm_sampler.schedule import TransitionSchedule
    from dndm_sampler.scheduler import DNDMScheduler, DNDMSchedulerOutput
    from dndm_sampler.time_adapters import scalar_time, timestep_index
    from dndm_sampler.training import load_model, train_text, train_translation
    from dndm_sampler.transition_times import transition_times

_HOME = {
    "adapters": ("from_diffusion_gemma", "from_hf_masked_lm", "from_mdlm"),
    "algorithms": ("dndm", "dndm_refresh", "dndm_topk", "dndm_topk_remask"),
    "baselines": ("ancestral_absorbing", "ancestral_multinomial", "rdm", "thinned_ancestral"),
    "denoising": ("SplitDenoiser", "leave_one_out"),
    "enumeration": ("exact_problem", "markov_chain_law", "total_variation"),
    "markov_chain": ("MarkovChainDenoiser",),
    "nfe": ("expected_nfe", "nfe_bound", "nfe_distribution"),
    "noise": ("AbsorbingNoise", "MultinomialNoise"),
    "sampler": ("BiasWarning", "DNDMSampler", "SamplerOutput"),
    "schedule": ("TransitionSchedule",),
    "scheduler": ("DNDMScheduler", "DNDMSchedulerOutput"),
    "time_adapters": ("scalar_time", "timestep_index"),
    "training": ("load_model", "train_text", "train_translation"),
    "transition_times": ("transition_times",),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "AbsorbingNoise",
    "BiasWarning",
    "DNDMSampler",
    "DNDMScheduler",
    "DNDMSchedulerOutput",
    "MarkovChainDenoiser",
    "MultinomialNoise",
    "SamplerOutput",
    "SplitDenoiser",
    "TransitionSchedule",
    "ancestral_absorbing",
    "ancestral_multinomial",
    "dndm",
    "dndm_refresh",
    "dndm_topk",
    "dndm_topk_remask",
    "exact_problem",
    "expected_nfe",
    "from_diffusion_gemma",
    "from_hf_masked_lm",
    "from_mdlm",
    "leave_one_out",
    "load_model",
    "markov_chain_law",
    "nfe_bound",
    "nfe_distribution",
    "rdm",
    "scalar_time",
    "thinned_ancestral",
    "timestep_index",
    "total_variation",
    "train_text",
    "train_translation",
    "transition_times",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
