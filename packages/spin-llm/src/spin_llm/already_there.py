"""What an earlier, interrupted or finished run left in its folder, told in one line before the work goes on."""

import logging
from collections.abc import Sequence
from pathlib import Path

from spin_llm.generation import FILE, PARTS
from spin_llm.training_state import saved_step

log = logging.getLogger(__name__)


def tell_stage(folder: Path) -> None:
    """Say what a folder of one stage (`sft`, `dpo`, `generate`) holds; nothing for a new one."""
    _tell(folder, _results(folder))


def tell_run(out: Path, iterations: Sequence[int]) -> None:
    """Say which iterations of a run are finished, and what there is of the next one; nothing for a new run."""
    finished = [number for number in iterations if (out / f"iter_{number}" / "iteration.json").exists()]
    found = [_listed(finished)] if finished else []
    for number in [number for number in iterations if number not in finished][:1]:
        results = _results(out / f"iter_{number}")
        found += [f"of iteration {number}: {', '.join(results)}"] if results else []
    _tell(out, found or (["start.json"] if (out / "start.json").exists() else []))


def _tell(folder: Path, found: Sequence[str]) -> None:
    if found:
        log.info("already there: %s (%s)", "; ".join(found), folder)


def _listed(numbers: Sequence[int]) -> str:
    first, last = numbers[0], numbers[-1]
    return f"iteration {first}" if first == last else f"iterations {first} to {last}"


def _results(folder: Path) -> list[str]:
    names = (FILE, "opponent.safetensors", "model", "evaluation.json")
    found = [name for name in names if (folder / name).exists()]
    if FILE not in found and (batches := len(list((folder / PARTS).glob("*.json")))):
        found.append(f"{batches} batches of responses")
    if "model" not in found and (steps := saved_step(folder / "state.safetensors")):
        found.append(f"{steps} steps of training")
    return found
