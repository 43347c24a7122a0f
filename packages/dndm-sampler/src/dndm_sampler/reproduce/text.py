"""Claims with a trained letter denoiser: unconditional text."""

from collections.abc import Sequence
from typing import Any

import torch
from shared_core.claims import Context, Measurement
from torch import nn

from dndm_sampler.config import TrainConfig
from dndm_sampler.corpus import MASK_ID, decode, split
from dndm_sampler.metrics import TextQuality, TextScorer
from dndm_sampler.reproduce.letters import LENGTH, corpus_ids
from dndm_sampler.reproduce.registry import NUM_SEEDS, claims, paired, spread, unwarned_sampler
from dndm_sampler.sampler import DNDMSampler

NOTE = (
    f"{NUM_SEEDS} seeds, each with its own training and samples; interval: smallest and largest; at scale laptop "
    "width, learning rate and updates are the best of 15 combinations by held-out loss at another seed"
)
Setting = tuple[str, dict[str, Any]]
ANCESTRAL = {"method": "ancestral"}


def _model(context: Context, noise: Any, seed: int) -> nn.Module:
    def make() -> nn.Module:
        from dndm_sampler.training import train_text

        config = TrainConfig(
            noise=noise,
            steps=context.at(5, 800, 4000),
            width=context.at(32, 64, 256),
            learning_rate=context.at(3e-3, 1.2e-2, 3e-3),
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
            sampler = unwarned_sampler(_model(context, noise, seed), noise=noise, **ids, **options)
            generator = torch.Generator().manual_seed(1000 * context.seed + seed)
            out = sampler.sample(context.at(16, 256, 512), LENGTH, generator=generator, device=context.device)
            qualities.append(_scorer(context).score(out.sequences))
            calls.append(out.nfe)
        return qualities, calls

    return context.memo(("text", noise, tuple(sorted(options.items(), key=str))), make)


def _steps(context: Context) -> int:
    return context.at(8, 200, 1000)


def _compare(
    context: Context, noise: str, ours: Setting, theirs: Setting, more: Sequence[Setting] = ()
) -> tuple[list[float], str]:
    """NLL of ours minus that of theirs for each seed, and a line about every setting beside real text."""
    runs = {label: _qualities(context, noise, **{"num_steps": _steps(context), **options})
            for label, options in (theirs, ours, *more)}  # fmt: skip
    our_nll, their_nll = ([quality.nll for quality in runs[label][0]] for label, _ in (ours, theirs))
    gaps = paired(our_nll, their_nll, lambda a, b: a - b)
    real = context.memo("real text", lambda: _scorer(context).score(_real_rows(context)))
    lines = [_line("held-out text", [real])]
    lines += [_line(f"{label} {spread(calls)[0]:.0f} calls", quality) for label, (quality, calls) in runs.items()]
    return gaps, "; ".join([NOTE, *lines])


def _line(label: str, qualities: Sequence[TextQuality]) -> str:
    def mean(name: str) -> float:
        return spread([getattr(quality, name) for quality in qualities])[0]

    quality = f"4-gram NLL {mean('nll'):.3f}, words {mean('word_share'):.2f}, letter distance {mean('unigram_tv'):.3f}"
    return f"{label}: {quality}"


def _real_rows(context: Context) -> torch.Tensor:
    held_out = split(corpus_ids(context))[1]
    return held_out[: len(held_out) // LENGTH * LENGTH].view(-1, LENGTH)


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
    gaps, note = _compare(context, "absorbing", ("DNDM", {}), ("D3PM", ANCESTRAL))
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


@claims.add(
    "text-order",
    statement="Restoring letters from left to right is better than from right to left.",
    where="appendix ablation of the order of transition times (there on translation)",
    quantity="4-gram NLL left to right minus right to left, absorbing noise, T = 50, nats a letter",
    expected="< 0 for every seed",
)
def text_order(context: Context) -> Measurement:
    """The two directions with the same laws of the times, and random order."""
    T = {"num_steps": context.at(8, 50, 50)}
    left, right = (
        ("left to right", {"order": "left_to_right", **T}),
        ("right to left", {"order": "right_to_left", **T}),
    )
    gaps, note = _compare(context, "absorbing", left, right, [("random order", T)])
    gap, interval = spread(gaps)
    holds = interval[1] < 0 if context.scale != "smoke" else None
    return Measurement(gap, holds=holds, uncertainty=interval, note=note + _too_small(context))


def _perplexity_claim(context: Context, ours: Setting, theirs: Setting, more: Sequence[Setting] = ()) -> Measurement:
    gaps, note = _compare(context, "multinomial", ours, theirs, more)
    gap, interval = spread(gaps)
    holds = gap < 0 if context.scale != "smoke" else None
    return Measurement(gap, holds=holds, uncertainty=interval, note=note + _too_small(context))


PERPLEXITY = "Unconditional text of a multinomial model has lower perplexity with DNDM than with step-by-step sampling"


@claims.add(
    "perplexity-sampled",
    statement=f"{PERPLEXITY} (Algorithm 1; both sample their tokens).",
    where="table of unconditional generation",
    quantity="4-gram NLL of DNDM minus that of D3PM, tokens sampled, nats a letter",
    expected="< 0",
)
def perplexity_sampled(context: Context) -> Measurement:
    """Temperature 1 on both sides; in the note what the leave-one-out correction mends."""
    more = [("DNDM + LOO", {"token_correction": "loo"})]
    return _perplexity_claim(context, ("DNDM", {}), ("D3PM", ANCESTRAL), more)


@claims.add(
    "perplexity-argmax",
    statement=f"{PERPLEXITY} (Algorithm 1; both take the most likely tokens, as the released decoder does).",
    where="table of unconditional generation",
    quantity="4-gram NLL of DNDM minus that of D3PM, most likely tokens, nats a letter",
    expected="< 0",
)
def perplexity_argmax(context: Context) -> Measurement:
    """Temperature 0 on both sides: D3PM too predicts the most likely x0, and draws x_{t-1} given it."""
    argmax = {"temperature": 0.0}
    more = [("DNDM argmax + LOO", {"token_correction": "loo", **argmax})]
    return _perplexity_claim(context, ("DNDM argmax", argmax), ("D3PM argmax", {**ANCESTRAL, **argmax}), more)


@claims.add(
    "perplexity-version-2",
    statement=f"{PERPLEXITY} (version 2: everything from its transition time on is rewritten; both sample).",
    where="table of unconditional generation",
    quantity="4-gram NLL of DNDM version 2 minus that of D3PM, tokens sampled, nats a letter",
    expected="< 0",
)
def perplexity_version_2(context: Context) -> Measurement:
    """Temperature 1 on both sides; the letter distance in the note shows what the lower perplexity costs."""
    return _perplexity_claim(context, ("DNDM version 2", {"version": 2}), ("D3PM", ANCESTRAL))
