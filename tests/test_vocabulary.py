"""The same thing has the same name in every command: CONTRIBUTING.md, "One name for one thing"."""

import dataclasses
import importlib
import inspect
import re
import sys
import typing
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import shared_core.cli

Verb = Callable[..., Any]

# a name that would be a second one, and the one that the collection has for the thing; of `training.lr` the last part
SECOND_NAMES = {
    "learning-rate": ("lr", "eta", "step", "step-size", "stepsize", "rate"),
    "batch-size": ("batch", "bs", "batchsize"),
    "steps": ("updates", "num-updates", "max-steps", "train-steps", "training-steps"),
    "num-steps": ("timesteps", "num-timesteps", "diffusion-steps", "sampling-steps"),
    "checkpoint-every": ("every", "save-every", "save-interval", "checkpoint-interval"),
    "runs": ("seeds", "num-seeds", "num-runs", "repeats", "repetitions", "trials"),
    "label-noise": ("flip", "flip-probability", "noise-rate"),
    "n": ("count", "num-samples", "n-samples", "num-items"),
    "out": ("output", "out-dir", "outdir", "output-dir", "save", "save-to", "dest"),
    "seed": ("random-state", "random-seed", "rng-seed"),
    "device": ("gpu", "cuda"),
    "quiet": ("verbose", "silent"),
    "json": ("as-json", "print-json"),
}
# as a whole only: `training.noise` is the kind of a diffusion's noise, `diffusion.num-steps` are a diffusion's
WHOLE_NAMES = {"noise": "label-noise", "training.num-steps": "training.steps"}
# the same word for another thing: the eta of DDIM says how much fresh noise a step gets
OTHER_THINGS = {("spin-diffusion", "eta")}
RIGHT = {second: right for right, seconds in SECOND_NAMES.items() for second in seconds}
# verbs without --out that have nothing to print as JSON: one goes on with a run folder, the other serves until stopped
NO_RESULT = {("rar-prompt", "resume"), ("rar-prompt", "serve")}

# verbs that are another one with its options filled in, and write its run folder
DEFAULTS_OF_OTHER_VERBS = {("rar-prompt", "respond"): "run"}


@pytest.fixture
def verbs(package: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, Verb]:
    """The functions behind a command's verbs, by name."""
    tables: list[dict[str, Verb]] = []

    def keep(name: str, table: dict[str, Verb], summary: str) -> str:
        tables.append(table)
        return ""

    monkeypatch.setattr(shared_core.cli, "_overview", keep)
    monkeypatch.setattr(sys, "argv", [package.name, "--help"])
    assert importlib.import_module(f"{package.module}.cli").main() == 0
    return tables[0]


def _options(hints: dict[str, Any], names: list[str], prefix: str = "") -> Iterator[str]:
    """The options that jsonargparse makes of typed names, `a.b` for the field b of a dataclass a, with dashes."""
    for name in names:
        option = prefix + name.replace("_", "-")
        parts = [part for part in (hints[name], *typing.get_args(hints[name])) if dataclasses.is_dataclass(part)]
        for part in parts:
            fields = [field.name for field in dataclasses.fields(part)]
            yield from _options(typing.get_type_hints(part), fields, f"{option}.")
        if not parts:
            yield option


def options_of(verb: Verb) -> list[str]:
    """Every option of a verb, and its positional arguments."""
    names = list(inspect.signature(verb).parameters)
    return list(_options(dict.fromkeys(names, Any) | typing.get_type_hints(verb), names))


def right_name(option: str) -> str | None:
    """What the collection calls an option that has a second name; None where its name is right."""
    group, dot, last = option.rpartition(".")
    return WHOLE_NAMES.get(option) or (f"{group}{dot}{RIGHT[last]}" if last in RIGHT else None)


def test_options_have_the_one_name(package: Any, verbs: dict[str, Verb]) -> None:
    found = [
        f"{verb} --{option}: the collection's name is --{right}"
        for verb, function in verbs.items()
        for option in options_of(function)
        if (right := right_name(option)) and (package.name, option.rpartition(".")[2]) not in OTHER_THINGS
    ]
    assert not found, "\n".join([*found, 'see "One name for one thing" in CONTRIBUTING.md'])


def test_what_goes_into_no_folder_can_be_had_as_json(package: Any, verbs: dict[str, Verb]) -> None:
    missing = [
        verb
        for verb, function in verbs.items()
        if not {"out", "json"} & set(options_of(function)) and (package.name, verb) not in NO_RESULT
    ]
    assert not missing, f"{', '.join(missing)}: prints a result and writes no folder, so it takes --json"


def test_a_run_without_a_folder_goes_to_the_one_default(package: Any, verbs: dict[str, Verb]) -> None:
    for verb, function in verbs.items():
        out = inspect.signature(function).parameters.get("out")
        assert out is None or "runs/" not in str(out.default), f"{verb} --out: None, which `run_path` resolves"
        named = set(re.findall(r"runs/[\w.-]+", inspect.getdoc(function) or ""))
        right = f"runs/{package.name}-{DEFAULTS_OF_OTHER_VERBS.get((package.name, verb), verb)}"
        assert named <= {right, f"{right}-SCALE"}, f"{verb} --out: the help names {named}, the default is {right}"


@dataclasses.dataclass
class _Training:
    lr: float = 0.1
    noise: str = "absorbing"
    num_steps: int = 3


def test_nested_and_whole_names_are_told_apart() -> None:
    def verb(file: str, noise: float = 0.0, training: _Training | None = None) -> None: ...

    assert options_of(verb) == ["file", "noise", "training.lr", "training.noise", "training.num-steps"]
    assert [right_name(option) for option in options_of(verb)] == [
        None, "label-noise", "training.learning-rate", None, "training.steps",
    ]  # fmt: skip
