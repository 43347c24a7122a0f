"""Verbs about data and models as they are: prepare, inspect, export, doctor; and the claims: reproduce."""

from typing import Literal

from spin_llm.choices import Turns


def prepare(
    data: str, out: str = "prepared.jsonl", turns: Turns = "first", skip_bad: bool = False, seed: int = 0
) -> int:
    """Turn any known layout into one record a line: id and messages.

    Args:
        data: .jsonl, .json, .parquet, a folder of datasets, or docstrings.
        out: the .jsonl file; an existing one is not overwritten.
        turns: which assistant turn of a conversation is the response.
        skip_bad: leave unusable records out and count them.
        seed: of the order of docstrings.
    """
    from spin_llm.commands import data as commands

    return commands.prepare(data, out, turns, skip_bad, seed)


def inspect(
    model: str,
    data: str,
    template: str | None = None,
    n: int = 3,
    turns: Turns = "first",
    skip_bad: bool = False,
    seed: int = 0,
    json: bool = False,
) -> int:
    """Show what the model will see: tokens, the response marked, lengths, whether the template can be used.

    Args:
        model: whose tokenizer.
        data: .jsonl, .json, .parquet, a folder of datasets, or docstrings.
        template: format string with {prompt}, in place of the chat template.
        n: examples shown.
        turns: which assistant turn of a conversation is the response.
        skip_bad: leave unusable records out and count them.
        seed: of the order of docstrings.
        json: print JSON instead of text.
    """
    from spin_llm.commands import data as commands

    return commands.inspect(model, data, template, n, turns, skip_bad, seed, json)


def export(model: str, out: str = "exported", generated: str | None = None) -> int:
    """Write plain weights with the adapter merged in, or pairs as DPO data for TRL.

    Args:
        model: a player's folder (RUN/iter_2/model), a hub id, a .gguf file, or smollm2.
        out: a folder for the weights, or a .jsonl file for the pairs.
        generated: write the pairs of this folder (RUN/iter_2) instead.
    """
    from spin_llm.commands import data as commands

    return commands.export_model(model, out) if generated is None else commands.export_pairs(model, generated, out)


def doctor(model: str = "smollm2", /, device: str = "auto", json: bool = False) -> int:
    """Say what this machine has, and which exact short cuts a model allows.

    Args:
        model: a folder, a hub id, a .gguf file, or smollm2.
        device: auto, cpu, cuda, cuda:N or mps.
        json: print JSON instead of lines.
    """
    from spin_llm.commands import data as commands

    return commands.doctor(model, device, json)


def reproduce(
    scale: Literal["smoke", "laptop", "paper"] = "laptop",
    claims: list[str] | None = None,
    out: str | None = None,
    seed: int = 0,
    device: str = "auto",
) -> int:
    """Measure the paper's claims and print the table.

    Args:
        scale: smoke (seconds), laptop (minutes) or paper (hours: a real model).
        claims: ids; all by default.
        out: run folder.
        seed: of every draw.
        device: auto, cpu, cuda, cuda:N or mps.
    """
    from spin_llm.reproduce import claims as registered

    return registered.reproduce(scale=scale, claims=claims, out=out, seed=seed, device=device)
