"""Claims on real letter statistics with an exact denoiser: no training, so every difference is the sampler's."""

from typing import Any

import torch
from shared_core.claims import Context, Measurement

from dndm_sampler.corpus import MASK_ID, load_corpus
from dndm_sampler.markov_chain import MarkovChainDenoiser
from dndm_sampler.metrics import unigram_tv
from dndm_sampler.reproduce.registry import (
    SEEDS_NOTE,
    claims,
    new_figure,
    paired,
    spread,
    timed_samples,
    unwarned_sampler,
)

LENGTH = 64


def corpus_ids(context: Context) -> torch.Tensor:
    """Letters of the standard library's documentation."""
    return context.memo("corpus", lambda: load_corpus(None, LENGTH, context.at(100_000, 1_000_000, None)))


def _denoiser(context: Context, noise: Any) -> MarkovChainDenoiser:
    ids = corpus_ids(context)
    return context.memo(("chain", noise), lambda: MarkovChainDenoiser.fit(ids, 27, noise).to(context.device))


def _run(context: Context, noise: Any, **options: Any) -> dict[str, list[float]]:
    """NLL, calls, rows, seconds and letter distance for each seed; every setting once per run of the claims."""

    def make() -> dict[str, list[float]]:
        denoiser = _denoiser(context, noise)
        ids: dict[str, Any] = {"mask_token_id": MASK_ID} if noise == "absorbing" else {"vocab_size": 27}
        sampler = unwarned_sampler(denoiser, noise=noise, **ids, **options)
        batch = context.at(8, 128, 256)
        runs = timed_samples(context, sampler, batch, LENGTH)
        return {
            "nll": [float(denoiser.nll(out.sequences).mean()) for out, _ in runs],
            "tv": [unigram_tv(out.sequences, denoiser.initial) for out, _ in runs],
            "calls": [float(out.nfe) for out, _ in runs],
            "rows": [out.rows / batch for out, _ in runs],
            "seconds": [seconds for _, seconds in runs],
        }

    return context.memo((noise, tuple(sorted(options.items(), key=str))), make)


def _steps(context: Context) -> int:
    return context.at(20, 1000, 1000)


@claims.add(
    "fewer-calls",
    statement="At T = 1000 DNDM needs a fraction of the calls of step-by-step sampling at the same quality "
    "(absorbing noise, 64 letters).",
    where="tables of time and quality at 1000 steps",
    quantity="calls of D3PM / calls of DNDM",
    expected=">= 14, with NLL within 0.03 nats",
)
def fewer_calls(context: Context) -> Measurement:
    """Calls and NLL of both samplers around the same exact denoiser."""
    ours, theirs = (_run(context, "absorbing", method=m, num_steps=_steps(context)) for m in ("dndm", "ancestral"))
    ratio, interval = spread(paired(ours["calls"], theirs["calls"], lambda a, b: b / a))
    gap, _ = spread(paired(ours["nll"], theirs["nll"], lambda a, b: a - b))
    decided = context.scale != "smoke"
    return Measurement(
        ratio,
        holds=(ratio >= 14 and abs(gap) < 0.03) if decided else None,
        uncertainty=interval,
        note=f"{SEEDS_NOTE}; T = {_steps(context)}; NLL difference {gap:+.4f} nats"
        + ("" if decided else "; the claim is about T = 1000, smoke samples with T = 20"),
    )


@claims.add(
    "less-time",
    statement="The saved calls are saved time.",
    where="tables of time and quality at 1000 steps",
    quantity="wall seconds of D3PM / of DNDM at T = 1000 (absorbing noise, 64 letters)",
    expected=">= 12",
)
def less_time(context: Context) -> Measurement:
    """Wall time of the same runs."""
    ours, theirs = (_run(context, "absorbing", method=m, num_steps=_steps(context)) for m in ("dndm", "ancestral"))
    ratio, interval = spread(paired(ours["seconds"], theirs["seconds"], lambda a, b: b / a))
    decided = context.scale != "smoke"
    return Measurement(
        ratio,
        holds=ratio >= 12 if decided else None,
        uncertainty=interval,
        note=SEEDS_NOTE + ("" if decided else "; the claim is about T = 1000, smoke samples with T = 20"),
    )


@claims.add(
    "infinite-steps",
    statement="Infinitely many steps (DNDM-C) are as good as or better than 1000.",
    where="rows with infinitely many steps",
    quantity="NLL of DNDM-C minus NLL of DNDM at T = 1000, nats a letter",
    expected="< 0.03",
)
def infinite_steps(context: Context) -> Measurement:
    """NLL of continuous against discrete times, and the quality-calls figure of all samplers."""
    ours = _run(context, "absorbing", num_steps=None)
    finite = _run(context, "absorbing", num_steps=_steps(context))
    gap, interval = spread(paired(ours["nll"], finite["nll"], lambda a, b: a - b))
    truth = _denoiser(context, "absorbing")
    figure, axes = new_figure("Exact denoiser, 64 letters", "network calls", "NLL, nats a letter", log="x")
    steps = context.at((8,), (8, 16, 32, 64, 200), (8, 16, 32, 64, 200, 1000))
    all_curves: dict[str, tuple[str, dict[str, Any]]] = {
        "absorbing D3PM": ("absorbing", {"method": "ancestral"}),
        "absorbing DNDM": ("absorbing", {}),
        "absorbing DNDM-k": ("absorbing", {"top_k": True}),
        "uniform D3PM": ("multinomial", {"method": "ancestral"}),
        "uniform DNDM": ("multinomial", {}),
        "uniform DNDM + LOO": ("multinomial", {"token_correction": "loo"}),
        "uniform thinned D3PM": ("multinomial", {"method": "thinned_ancestral"}),
    }
    curves = dict(list(all_curves.items())[: context.at(2, None, None)])
    for label, (noise, options) in curves.items():
        points = [_run(context, noise, num_steps=T, **options) for T in steps]
        style = "--" if "D3PM" in label else "-"
        axes.plot([spread(p["calls"])[0] for p in points], [spread(p["nll"])[0] for p in points], "o" + style,
                  label=label, markersize=4)  # fmt: skip
    axes.axhline(truth.entropy_rate(), color="k", lw=1, label="entropy rate of the data")
    axes.legend(fontsize=7)
    return Measurement(
        gap,
        holds=gap < 0.03 if context.scale != "smoke" else None,
        uncertainty=interval,
        note=f"{SEEDS_NOTE}; entropy rate of the chain {truth.entropy_rate():.3f}, DNDM-C {spread(ours['nll'])[0]:.3f}"
        + ("; 8 rows are too few to see 0.03 nats" if context.scale == "smoke" else ""),
        figures=(context.save_figure("quality-calls", figure),),
    )


@claims.add(
    "thinned-exact",
    statement="Ours, not the paper's: with multinomial noise, thinned ancestral sampling keeps the quality of "
    "step-by-step sampling with fewer calls.",
    where="derived (see the README)",
    quantity="NLL of thinned minus NLL of D3PM at the same T, nats a letter",
    expected="|difference| < 0.03 with fewer calls",
)
def thinned_exact(context: Context) -> Measurement:
    """The exact alternative to biased multinomial DNDM."""
    T = context.at(8, 200, 1000)
    ours = _run(context, "multinomial", method="thinned_ancestral", num_steps=T)
    theirs = _run(context, "multinomial", method="ancestral", num_steps=T)
    biased = _run(context, "multinomial", num_steps=T)
    gap, interval = spread(paired(ours["nll"], theirs["nll"], lambda a, b: a - b))
    rows = spread(ours["rows"])[0]
    return Measurement(
        gap,
        holds=(abs(gap) < 0.03 and rows < T) if context.scale != "smoke" else None,
        uncertainty=interval,
        note=f"{SEEDS_NOTE}; {rows:.1f} calls a row of {T}; DNDM (Algorithm 1) {spread(biased['nll'])[0]:.3f} against "
        f"{spread(theirs['nll'])[0]:.3f}"
        + ("; 8 rows are too few to see 0.03 nats" if context.scale == "smoke" else ""),
    )
