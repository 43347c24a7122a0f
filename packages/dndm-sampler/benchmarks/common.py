"""The denoiser, batch and length that every benchmark here shares."""

from collections.abc import Callable

import torch
from dndm_sampler.corpus import load_corpus
from dndm_sampler.markov_chain import MarkovChainDenoiser

LENGTH, VOCAB, MASK = 64, 27, 27
torch.set_num_threads(1)  # for ours and peers alike: on small tensors a second thread mostly waits
Denoiser = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def chain(noise: str) -> MarkovChainDenoiser:
    """The exact denoiser of the letter pairs of Python's documentation: quality is the sampler's alone."""
    return MarkovChainDenoiser.fit(load_corpus(None, LENGTH, 1_000_000), VOCAB, noise)  # type: ignore[arg-type]


def plain(model: MarkovChainDenoiser) -> Denoiser:
    """The denoiser as a mere function, for ours and peers alike: nobody gets to skip its output layer."""
    return lambda x, t: model(x, t)


def true_nll(model: MarkovChainDenoiser) -> float:
    """Exact expected NLL of perfect samples, nats a token."""
    first = float(-(model.initial * model.initial.log()).sum())
    return (first + (LENGTH - 1) * model.entropy_rate()) / LENGTH


def mean_nll(model: MarkovChainDenoiser, x: torch.Tensor) -> float:
    return float(model.nll(x).mean())


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
