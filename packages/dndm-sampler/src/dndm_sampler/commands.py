"""What the verbs do: files and tables around the public functions."""

import csv
import io
import json
import logging
import sys
import warnings
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from shared_core.device import check_seed, resolve_device
from shared_core.errors import InputError
from shared_core.files import atomic_path, write_text
from torch import Tensor

from dndm_sampler import corpus
from dndm_sampler.config import SampleConfig, TrainConfig
from dndm_sampler.nfe import BatchTimes, nfe_bound, nfe_distribution
from dndm_sampler.reproduce.registry import new_figure
from dndm_sampler.sampler import BiasWarning, DNDMSampler
from dndm_sampler.schedule import TransitionSchedule
from dndm_sampler.training import load_model, train_to_folder
from dndm_sampler.transition_times import Order

log = logging.getLogger(__name__)


def show_nfe(
    schedule: str, num_steps: int | None, length: int, batch_size: int, batch_times: BatchTimes, as_json: bool
) -> None:
    """Print mean, spread and quantiles of the number of calls, with the speed-up over T steps."""
    law = nfe_distribution(TransitionSchedule.parse(schedule), num_steps, length, batch_size, batch_times)
    row: dict[str, Any] = {"schedule": schedule, "num_steps": num_steps, "length": length, "batch_size": batch_size}
    row |= {"batch_times": batch_times, "mean": round(law.mean, 4), "sd": round(law.std, 4)}
    row |= {f"q{int(100 * level)}": law.quantile(level) for level in (0.05, 0.5, 0.95)}
    if num_steps is not None:
        positions = length * batch_size if batch_times == "lockstep" else length
        row["bound" if batch_size == 1 or batch_times != "per_row" else "bound_per_row"] = round(
            nfe_bound(num_steps, positions), 4
        )
        row["fewer_calls"] = round(num_steps / law.mean, 3)
    print_rows([row], as_json)


def print_rows(rows: list[dict[str, Any]], as_json: bool) -> None:
    """Rows as a table, or as JSON."""
    if as_json:
        print(json.dumps(rows if len(rows) != 1 else rows[0]))
        return
    table = Table()
    for name in rows[0]:
        table.add_column(name)
    for row in rows:
        table.add_row(*("-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
                        for value in row.values()))  # fmt: skip
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def make_plan(
    schedule: str,
    num_steps: int | None,
    num_calls: int | None,
    length: int,
    batch_size: int,
    order: Order,
    batch_times: Any,
    out: str | None,
    seed: int,
) -> None:
    """Print the transition times of a batch as JSON, or write them to a .json or .csv file."""
    check_seed(seed)
    if out is not None and Path(out).suffix not in (".json", ".csv"):
        raise InputError(f"--out must end in .json or .csv, got {out}")
    sampler = DNDMSampler(lambda x, t: x, mask_token_id=0, schedule=schedule, num_steps=num_steps,
                          num_calls=num_calls, order=order, batch_times=batch_times)  # fmt: skip
    tau, calls = sampler.plan(batch_size, length, torch.Generator().manual_seed(seed))
    if out is not None and out.endswith(".csv"):
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(["row", "position", "time"])
        writer.writerows((b, n, t) for b, times in enumerate(tau.tolist()) for n, t in enumerate(times))
        write_text(out, text.getvalue())
    else:
        value = {"schedule": schedule, "num_steps": num_steps, "num_calls": num_calls, "seed": seed,
                 "calls_per_row": calls.tolist(), "transition_times": tau.tolist()}  # fmt: skip
        if out is None:
            print(json.dumps(value))
        else:
            write_text(out, json.dumps(value) + "\n")


def draw_schedules(schedules: list[str], num_steps: int, out: str) -> None:
    """P(tau = t) of several schedules in one figure."""
    suffix = Path(out).suffix[1:]
    if suffix not in ("png", "svg", "pdf"):
        raise InputError(f"--out must end in .png, .svg or .pdf, got {out}")
    figure, axes = new_figure(f"Law of the transition time (T = {num_steps})", "t", "P(tau = t)")
    for name in _rejoin_beta(schedules):
        axes.plot(range(1, num_steps + 1), TransitionSchedule.parse(name).pmf(num_steps), label=name)
    axes.legend()
    with atomic_path(out) as aside:
        figure.savefig(aside, format=suffix, dpi=150)
    print(out)


def _rejoin_beta(names: list[str]) -> list[str]:
    """`linear,beta:5,3` is split at every comma; put the Beta laws together again."""
    joined: list[str] = []
    for name in names:
        if joined and joined[-1].startswith("beta:") and "," not in joined[-1]:
            joined[-1] += f",{name}"
        else:
            joined.append(name)
    return joined


def train_denoiser(text: str | None, task: str, training: TrainConfig, out: str | None, seed: int, device: str) -> None:
    """Train and print where the model is."""
    resolved = resolve_device(device)
    if task == "translation" and text is not None:
        raise InputError("--text belongs to --task text; the translation task makes its own data")
    _, folder = train_to_folder(out, task, training, seed, resolved, text)
    print(folder / "model.safetensors")


class TextModel(NamedTuple):
    """A denoiser with the way from text to ids and back."""

    denoiser: Any
    noise: dict[str, Any]
    train_schedule: str
    encode: Any
    decode: Any


def load_text_model(model: str, device: torch.device) -> TextModel:
    """A folder written by `train`, or a masked language model's.

    Raises:
        InputError: if it is neither.
    """
    folder = Path(model)
    if not folder.is_dir():
        raise InputError(
            f"model {model} is not a folder: give a run of train, or the folder of a masked language model"
        )
    if (folder / "config.json").exists() and not (folder / "model.json").exists():
        return _masked_language_model(folder, device)
    denoiser, task, config = load_model(folder, device)
    if task != "text":
        raise InputError(f"model {model} was trained on the {task} task; this verb needs a text model")
    noise: dict[str, Any] = {"noise": config.noise}
    noise |= {"mask_token_id": corpus.MASK_ID} if config.noise == "absorbing" else {"vocab_size": 27}
    return TextModel(denoiser, noise, config.schedule, _encode_letters, lambda ids: corpus.decode(ids))


def _encode_letters(text: str) -> Tensor:
    parts = text.lower().replace("_", chr(1))
    known = set(corpus.ALPHABET + chr(1))
    foreign = next((letter for letter in parts if letter not in known), None)
    if foreign is not None:
        raise InputError(f"text may hold a-z, spaces and the marker _ only, got {foreign!r}")
    return torch.tensor([corpus.MASK_ID if c == chr(1) else corpus.ALPHABET.index(c) for c in parts])


def _masked_language_model(folder: Path, device: torch.device) -> TextModel:
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    from dndm_sampler.adapters import from_hf_masked_lm

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        network = AutoModelForMaskedLM.from_pretrained(folder, local_files_only=True, use_safetensors=True)
    except (OSError, ValueError) as error:
        raise InputError(f"model {folder} holds no masked language model: {str(error).splitlines()[0]}") from error
    if tokenizer.mask_token_id is None:
        raise InputError(f"model {folder}: its tokenizer has no mask token")
    special = [token for token in tokenizer.all_special_ids if token != tokenizer.mask_token_id]
    noise = {"noise": "absorbing", "mask_token_id": tokenizer.mask_token_id, "forbidden_token_ids": special}
    return TextModel(
        from_hf_masked_lm(network.to(device).eval()),
        noise,
        "linear",
        lambda text: torch.tensor(tokenizer(text)["input_ids"]),
        lambda ids: tokenizer.batch_decode(ids, skip_special_tokens=True),
    )


def sample_text(
    model: str,
    settings: SampleConfig,
    n: int,
    length: int,
    infill: str | None,
    prompt: str | None,
    out: str | None,
    seed: int,
    device: str,
    as_json: bool,
) -> None:
    """Sample and print, or write a .txt or .jsonl file."""
    if out is not None and Path(out).suffix not in (".txt", ".jsonl"):
        raise InputError(f"--out must end in .txt or .jsonl, got {out}")
    check_seed(seed)
    for name, text in (("infill", infill), ("prompt", prompt)):
        if text == "":
            raise InputError(f"--{name} is empty: give at least one character")
    if infill is not None and prompt is not None:
        raise InputError("give --infill or --prompt, not both: a prompt is an infill whose rest is open")
    if n < 1:
        raise InputError(f"--n must be at least 1, got {n}")
    resolved = resolve_device(device)
    loaded = load_text_model(model, resolved)
    options = asdict(replace(settings, schedule=settings.schedule or loaded.train_schedule))
    with warnings.catch_warnings(record=True, action="always", category=BiasWarning) as bias:
        sampler = DNDMSampler(loaded.denoiser, **loaded.noise, **options, train_schedule=loaded.train_schedule)
    for warning in bias:
        log.warning("%s", warning.message)
    generator = torch.Generator().manual_seed(seed)
    given = _given(loaded, infill, prompt, length)
    if given is None:
        found = sampler.sample(n, length, generator=generator, device=resolved)
    else:
        ids, fixed = (part.expand(n, -1).contiguous() for part in given)
        found = sampler.sample(input_ids=ids, fixed_mask=fixed, generator=generator, device=resolved)
    log.info("%d calls, %d rows evaluated", found.nfe, found.rows)
    calls, scores = found.nfe_per_row.tolist(), found.scores.sum(1).tolist()
    rows = [{"text": text, "calls": c, "log_p": s}
            for text, c, s in zip(loaded.decode(found.sequences.cpu()), calls, scores, strict=True)]  # fmt: skip
    if out is not None:
        jsonl = out.endswith(".jsonl")
        write_text(out, "".join((json.dumps(row, ensure_ascii=False) if jsonl else row["text"]) + "\n" for row in rows))
    if as_json:
        print(json.dumps({"calls": found.nfe, "rows": rows}, ensure_ascii=False))
    elif out is None:
        print("\n".join(row["text"] for row in rows))


def _given(loaded: TextModel, infill: str | None, prompt: str | None, length: int) -> tuple[Tensor, Tensor] | None:
    """Ids and the mask of the kept ones, for one row."""
    text = infill if infill is not None else prompt
    if text is None:
        return None
    ids = loaded.encode(text)
    mask = loaded.noise.get("mask_token_id", corpus.MASK_ID)
    if prompt is not None:
        if len(ids) >= length:
            raise InputError(f"--prompt has {len(ids)} tokens, which leaves nothing of --length {length}")
        ids = torch.cat([ids, torch.full((length - len(ids),), mask)])
    fixed = ids != mask
    # with multinomial noise the marker is no token of the model; the sampler overwrites it with noise
    return torch.where(fixed, ids, ids if "mask_token_id" in loaded.noise else 0)[None], fixed[None]
