"""The opponent's responses to all prompts, written batch by batch: a killed run goes on at the same batch."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from shared_core.errors import InputError
from shared_core.files import write_json, write_text
from shared_core.logging import progress
from shared_core.run_folder import read_json
from torch import nn

from spin_llm.rendering import Tokens
from spin_llm.sampling import Response, Sampler, sample_batch, sampling_batches

FILE, HEADER, PARTS = "generated.jsonl", "generated.json", "generated.parts"


class Engine(Protocol):
    """Draws responses to a few prompts."""

    def __call__(
        self, prompts: Sequence[Sequence[int]], sampler: Sampler, end_ids: Sequence[int], seeds: Sequence[int]
    ) -> list[Response]:
        """One response to each prompt."""
        ...


@dataclass(frozen=True)
class GeneratedPair:
    """One line of `generated.jsonl`: an example and what the opponent answered.

    Args:
        id: of the example.
        prompt: token ids that training sees.
        real: token ids of y.
        generated: token ids of y', as sampled.
        finished: whether y' ended by itself.
        logprob: log p(y'|x) as recorded while sampling, nats.
        seed: of y'.
    """

    id: str
    prompt: list[int]
    real: list[int]
    generated: list[int]
    finished: bool
    logprob: float
    seed: int


def model_engine(model: nn.Module) -> Engine:
    """The package's own sampler around a model."""
    return lambda prompts, sampler, end_ids, seeds: sample_batch(model, prompts, sampler, end_ids, seeds)


def generate_pairs(
    engine: Engine,
    examples: Sequence[Tokens],
    sampler: Sampler,
    end_ids: Sequence[int],
    folder: Path,
    opponent: str,
    seed: int,
    accelerator: Any = None,
    prompts: Sequence[Sequence[int]] | None = None,
) -> list[GeneratedPair]:
    """One response of the opponent to every example, into `folder/generated.jsonl`.

    Args:
        engine: draws them.
        examples: all of them, on every process.
        sampler: the knobs, recorded beside the result.
        end_ids: tokens that end a response.
        folder: of this iteration.
        opponent: the opponent's fingerprint, recorded too.
        seed: the i-th example's response is drawn with `response_seed(seed, i)`.
        accelerator: accelerate's; its processes take every n-th batch.
        prompts: token ids to sample from, where they are not those that training sees.

    Raises:
        InputError: if the folder holds responses of another opponent or sampler.
    """
    header = {"opponent": opponent, "sampler": asdict(sampler), "seed": seed, "examples": len(examples)}
    rank, world = (accelerator.process_index, accelerator.num_processes) if accelerator is not None else (0, 1)
    if rank == 0:
        _begin(folder, header)
    if accelerator is not None:
        accelerator.wait_for_everyone()
    if (folder / FILE).exists():
        if rank == 0:  # a kill may have come before they were removed
            shutil.rmtree(folder / PARTS, ignore_errors=True)
        return read_pairs(folder / FILE)
    asked = prompts if prompts is not None else [example.prompt for example in examples]
    batches = sampling_batches(asked, sampler.batch_size)
    todo = [index for index in range(rank, len(batches), world) if not _part(folder, index).exists()]
    for index in progress(todo, "sampling the opponent"):
        rows = batches[index]
        seeds = [response_seed(seed, row) for row in rows]
        drawn = engine([asked[row] for row in rows], sampler, end_ids, seeds)
        lines = [
            asdict(
                GeneratedPair(
                    examples[row].id, list(examples[row].prompt), list(examples[row].real), response.ids,
                    response.finished, response.logprob, number,
                )
            )
            for row, response, number in zip(rows, drawn, seeds, strict=True)
        ]  # fmt: skip
        write_json(_part(folder, index), [{"row": row} | line for row, line in zip(rows, lines, strict=True)])
    if accelerator is not None:
        accelerator.wait_for_everyone()
    if rank == 0:
        _merge(folder, len(batches))
    if accelerator is not None:
        accelerator.wait_for_everyone()
    return read_pairs(folder / FILE)


def response_seed(seed: int, row: int) -> int:
    """Random numbers of its own for every response of every run."""
    return ((seed + 1) * 0x9E3779B97F4A7C15 + (row + 1) * 0xBF58476D1CE4E5B9) % 2**63


def read_pairs(path: Path) -> list[GeneratedPair]:
    """Read what `generate_pairs` wrote.

    Raises:
        InputError: naming file and record.
    """
    pairs = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            pair = GeneratedPair(**json.loads(line))
            for name in ("prompt", "real", "generated"):
                ids = getattr(pair, name)
                if not isinstance(ids, list) or not ids or any(type(token) is not int for token in ids):
                    raise TypeError(f"{name} is no list of token ids")
            pairs.append(pair)
        except (json.JSONDecodeError, UnicodeDecodeError, RecursionError, TypeError) as error:
            raise InputError(f"{path}, record {number}: not a generated pair ({error})") from error
    return pairs


def check_opponent(folder: Path, opponent: str) -> None:
    """Refuse responses that another model gave: they are no samples of this player's opponent.

    Raises:
        InputError: naming both fingerprints.
    """
    header = read_json(folder / HEADER)
    if header.get("opponent") != opponent:
        raise InputError(
            f"{folder / FILE} was sampled from the model {header.get('opponent')}, and the one given is {opponent}"
        )


def _begin(folder: Path, header: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / HEADER
    if not path.exists():
        write_json(path, header)
        return
    earlier = read_json(path)
    for name in header:
        if earlier.get(name) != header[name]:
            raise InputError(
                f"{path}: {name} was {earlier.get(name)}, is {header[name]}; remove {folder} or use another"
            )


def _merge(folder: Path, count: int) -> None:
    rows = [row for index in range(count) for row in read_json(_part(folder, index))]
    rows.sort(key=lambda row: row["row"])
    lines = [json.dumps({name: value for name, value in row.items() if name != "row"}) for row in rows]
    write_text(folder / FILE, "".join(line + "\n" for line in lines))
    for index in range(count):
        _part(folder, index).unlink()
    (folder / PARTS).rmdir()


def _part(folder: Path, index: int) -> Path:
    return folder / PARTS / f"{index:06d}.json"
