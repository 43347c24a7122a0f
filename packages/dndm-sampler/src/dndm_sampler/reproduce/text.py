"""Claims with a trained letter denoiser: unconditional text."""

from typing import Any

import torch
from shared_core.claims import Context, Measurement
from torch import nn

from dndm_sampler.config import TrainConfig
from dndm_sampler.corpus import MASK_ID, decode, split
from dndm_sampler.metrics import TextQuality, TextScorer
from dndm_sampler.reproduce.letters import LENGTH, corpus_ids
from dndm_sampler.reproduce.registry import NUM_SEEDS, claims, paired, spread
from dndm_sampler.sampler import DNDMSampler

NOTE = f"{NUM_SEEDS} seeds, each with its own training and samples; interval: smallest and largest"


def _model(context: Context, noise: Any, seed: int) -> nn.Module:
    def make() -> nn.Module:
        from dndm_sampler.training import train_text

        config = TrainConfig(
            noise=noise,
            num_steps=context.at(5, 250, 4000),
            width=context.at(32, 96, 256),
            max_characters=context.at(100_000, 1_000_000, None),
        )
        out = context.folder.path / "training" / f"{noise}-{seed}"
        return train_text(out, None, config, 10 * context.seed + seed, context.device)

    return context.memo(("text model", noise, seed), make)


def _scorer(context: Context) -> TextScorer:
    return context.memo("scorer", lambda: TextScorer(split(corpus_ids(context))[0]))


def _qualities(context: Context, noise: Any, **options: Any) -> tuple[list[TextQuality], list[int]]:
    """Quality and calls for each seed."""

    def make() -> tuple[list[TextQuality], list[int]]:
        qualities, calls = [], []
        for seed in range(NUM_SEEDS):
            ids: dict[str, Any] = {"mask_token_id": MASK_ID} if noise == "absorbing" else {"vocab_size": 27}
            sampler = DNDMSampler(_model(context, noise, seed), noise=noise, **ids, **options)
            out = sampler.sample(
                context.at(16, 192, 512), LENGTH, generator=torch.Generator().manual_seed(seed), device=context.device
            )
            qualities.append(_scorer(context).score(out.sequences))
            calls.append(out.nfe)
        return qualities, calls

    return context.memo(("text", noise, tuple(sorted(options.items(), key=str))), make)


def _steps(context: Context) -> int:
    return context.at(8, 200, 1000)


def _compare(context: Context, noise: str, reason: str, **options: Any) -> tuple[list[float], str]:
    """NLL of DNDM minus that of D3PM for each seed, and a line about both."""
    ours, calls = _qualities(context, noise, num_steps=_steps(context), **options)
    theirs, steps = _qualities(context, noise, num_steps=_steps(context), method="ancestral")
    gaps = paired([q.nll for q in ours], [q.nll for q in theirs], lambda a, b: a - b)

    def mean(name: str, qualities: list[TextQuality]) -> float:
        return spread([getattr(quality, name) for quality in qualities])[0]

    lines = [
        f"{label} {count:.0f} calls, 4-gram NLL {mean('nll', q):.3f}, words {mean('word_share', q):.2f}, "
        f"letter distance {mean('unigram_tv', q):.3f}"
        for label, q, count in (("D3PM", theirs, spread(steps)[0]), (reason, ours, spread(calls)[0]))
    ]
    return gaps, "; ".join([NOTE, *lines])


def _too_small(context: Context) -> str:
    return "; the smoke model is trained for seconds and its samples are few" if context.scale == "smoke" else ""


@claims.add(
    "text-absorbing",
    statement="A trained denoiser, used as it is, writes text of the same quality with a fraction of the calls "
    "(absorbing noise, no retraining).",
    where="abstract (faster without loss of quality, any trained model)",
    quantity="4-gram NLL of DNDM minus that of D3PM at the same T, nats a letter",
    expected="< 0.03, with fewer calls",
)
def text_absorbing(context: Context) -> Measurement:
    """DNDM against D3PM around the same trained models."""
    gaps, note = _compare(context, "absorbing", "DNDM")
    gap, interval = spread(gaps)
    sampler = DNDMSampler(_model(context, "absorbing", 0), mask_token_id=MASK_ID, num_steps=_steps(context))
    rows = decode(
        sampler.sample(2, LENGTH, generator=torch.Generator().manual_seed(7), device=context.device).sequences
    )
    return Measurement(
        gap,
        holds=gap < 0.03 if context.scale != "smoke" else None,
        uncertainty=interval,
        note=f"{note}; it writes: {rows[0]!r}{_too_small(context)}",
    )


def _perplexity_claim(context: Context, name: str, **options: Any) -> Measurement:
    gaps, note = _compare(context, "multinomial", name, **options)
    gap, interval = spread(gaps)
    holds = gap < 0 if context.scale != "smoke" else None
    return Measurement(gap, holds=holds, uncertainty=interval, note=note + _too_small(context))


PERPLEXITY = "Unconditional text of a multinomial model has lower perplexity with DNDM than with step-by-step sampling"


@claims.add(
    "perplexity-sampled",
    statement=f"{PERPLEXITY} (Algorithm 1, tokens sampled).",
    where="table of unconditional generation",
    quantity="4-gram NLL of DNDM minus that of D3PM, nats a letter",
    expected="< 0",
)
def perplexity_sampled(context: Context) -> Measurement:
    """Algorithm 1 with temperature 1."""
    return _perplexity_claim(context, "DNDM")


@claims.add(
    "perplexity-argmax",
    statement=f"{PERPLEXITY} (Algorithm 1, most likely tokens, as in the released code).",
    where="table of unconditional generation",
    quantity="4-gram NLL of DNDM minus that of D3PM, nats a letter",
    expected="< 0",
)
def perplexity_argmax(context: Context) -> Measurement:
    """Algorithm 1 with temperature 0; D3PM samples."""
    return _perplexity_claim(context, "DNDM argmax", temperature=0.0)


@claims.add(
    "perplexity-version-2",
    statement=f"{PERPLEXITY} (version 2: everything from its transition time on is rewritten).",
    where="table of unconditional generation",
    quantity="4-gram NLL of DNDM version 2 minus that of D3PM, nats a letter",
    expected="< 0",
)
def perplexity_version_2(context: Context) -> Measurement:
    """Version 2 with temperature 1; the letter distance in the note shows what it costs."""
    return _perplexity_claim(context, "DNDM version 2", version=2)
