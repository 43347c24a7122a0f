"""The denoiser, batch and length that every benchmark here shares."""

import torch
from dndm_sampler.corpus import load_corpus
from dndm_sampler.markov_chain import MarkovChainDenoiser

LENGTH, VOCAB, MASK = 64, 27, 27


def chain(noise: str) -> MarkovChainDenoiser:
    """The exact denoiser of the letter pairs of Python's documentation: quality is the sampler's alone."""
    return MarkovChainDenoiser.fit(load_corpus(None, LENGTH, 1_000_000), VOCAB, noise)  # type: ignore[arg-type]


def true_nll(denoiser: MarkovChainDenoiser) -> float:
    """Exact expected NLL of perfect samples, nats a letter."""
    first = float(-(denoiser.initial * denoiser.initial.log()).sum())
    return (first + (LENGTH - 1) * denoiser.entropy_rate()) / LENGTH


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
