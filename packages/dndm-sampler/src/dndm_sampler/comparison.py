"""`dndm-sampler compare`: quality, calls and time of several samplers around one denoiser."""

import csv
import io
import logging
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from shared_core.device import check_seed, resolve_device
from shared_core.errors import InputError
from shared_core.files import write_text
from shared_core.logging import progress
from shared_core.run_folder import RunFolder
from torch import Tensor

from dndm_sampler import corpus
from dndm_sampler.commands import load_text_model, print_rows
from dndm_sampler.markov_chain import MarkovChainDenoiser
from dndm_sampler.metrics import TextScorer
from dndm_sampler.reproduce.registry import new_figure, unwarned_sampler

log = logging.getLogger(__name__)

SAMPLERS: dict[str, dict[str, Any]] = {
    "dndm": {},
    "dndm_k": {"top_k": True},
    "dndm_v2": {"version": 2},
    "dndm_loo": {"token_correction": "loo"},
    "dndm_c": {"num_steps": None},
    "ancestral": {"method": "ancestral"},
    "thinned_ancestral": {"method": "thinned_ancestral"},
    "rdm": {"method": "rdm"},
}
MULTINOMIAL_ONLY = ("dndm_loo", "thinned_ancestral")


class Subject(NamedTuple):
    """The denoiser that is compared on, and how its samples are scored."""

    denoiser: Any
    noise: dict[str, Any]
    schedule: str
    score: Callable[[Tensor], dict[str, float]]


def compare_samplers(
    model: str | None,
    samplers: list[str] | None,
    num_steps: list[int],
    batch_size: int,
    length: int,
    out: str | None,
    seed: int,
    device: str,
) -> None:
    """Print the table; write `result.json`, `comparison.csv` and `figures/quality-calls.png`; resumable by setting.

    Raises:
        InputError: for an unknown sampler, one that does not fit the noise, or a model that cannot be read.
    """
    resolved = resolve_device(device)
    check_seed(seed)
    for option, value in (("--length", length), ("--batch-size", batch_size)):
        if value < 1:
            raise InputError(f"{option} must be at least 1, got {value}")
    unknown = [name for name in samplers or [] if name not in SAMPLERS]
    if unknown:
        raise InputError(f"--samplers: there is no {unknown[0]!r}; samplers: {', '.join(SAMPLERS)}")
    if any(T < 1 for T in num_steps):
        raise InputError(f"--num-steps must be at least 1, got {min(num_steps)}")
    subject = _subject(model, length, resolved)
    absorbing = subject.noise["noise"] == "absorbing"
    chosen = samplers or [name for name in SAMPLERS if not (absorbing and name in MULTINOMIAL_ONLY)]
    unfit = [name for name in chosen if absorbing and name in MULTINOMIAL_ONLY]
    if unfit:
        raise InputError(f"--samplers: {unfit[0]} is for multinomial noise, the model has absorbing noise")
    runs = [(name, T) for name in chosen for T in ([None] if name == "dndm_c" else num_steps)]
    settings = {"verb": "compare", "model": model, "samplers": chosen, "num_steps": num_steps, "seed": seed,
                "batch_size": batch_size, "length": length, "device": resolved.type}  # fmt: skip
    with RunFolder(out, package="dndm-sampler", settings=settings) as folder:
        rows: list[dict[str, Any]] = []
        for name, T in progress(runs, "sampling"):
            part = f"parts/{name}-{T}.json"
            row = folder.read_json(part)
            if row is None:
                row = _measure(subject, name, T, batch_size, length, seed, resolved)
                folder.write_json(part, row)
            rows.append(row)
        folder.write_json("result.json", {"rows": rows})
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
        write_text(folder.path / "comparison.csv", text.getvalue())
        folder.save_figure("quality-calls", _figure(rows))
    print_rows(rows, False)
    log.info("written to %s", folder.path)


def _subject(model: str | None, length: int, device: torch.device) -> Subject:
    ids = corpus.load_corpus(None, length, 500_000)
    if model is None:
        chain = MarkovChainDenoiser.fit(ids, 27, "absorbing").to(device)
        return Subject(chain, {"noise": "absorbing", "mask_token_id": corpus.MASK_ID}, "linear",
                       lambda x: {"nll": float(chain.nll(x).mean())})  # fmt: skip
    loaded = load_text_model(model, device)
    if not hasattr(loaded.denoiser, "embedding"):
        raise InputError(f"--model {model}: compare scores letters; give a model made by dndm-sampler train")
    scorer = TextScorer(corpus.split(ids)[0])

    def score(x: Tensor) -> dict[str, float]:
        quality = scorer.score(x)
        return {"nll": quality.nll, "words": quality.word_share, "unigram_tv": quality.unigram_tv,
                "distinct": quality.distinct}  # fmt: skip

    return Subject(loaded.denoiser, loaded.noise, loaded.train_schedule, score)


def _measure(
    subject: Subject, name: str, T: int | None, batch_size: int, length: int, seed: int, device: torch.device
) -> dict[str, Any]:
    options = {"num_steps": T, **SAMPLERS[name]}
    sampler = unwarned_sampler(subject.denoiser, **subject.noise, schedule=subject.schedule, **options)
    start = time.perf_counter()
    found = sampler.sample(batch_size, length, generator=torch.Generator().manual_seed(seed), device=device)
    seconds = time.perf_counter() - start
    row: dict[str, Any] = {"sampler": name, "T": T, "calls": found.nfe, "rows": found.rows / batch_size}
    return row | subject.score(found.sequences) | {"seconds": round(seconds, 3)}


def _figure(rows: list[dict[str, Any]]) -> Any:
    figure, axes = new_figure("Quality against calls", "network calls", "NLL, nats a letter", log="x")
    for name in dict.fromkeys(row["sampler"] for row in rows):
        points = [row for row in rows if row["sampler"] == name]
        axes.plot([row["calls"] for row in points], [row["nll"] for row in points], "o-", label=name, markersize=4)
    axes.legend(fontsize=8)
    return figure
