"""What `prepare`, `inspect`, `export` and `doctor` do."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shared_core.device import describe_device, resolve_device
from shared_core.errors import InputError
from shared_core.files import write_text

from spin_llm.choices import Turns
from spin_llm.commands.printing import print_json, print_lines
from spin_llm.embedded import EMBEDDED, embedded_file
from spin_llm.generation import FILE, read_pairs
from spin_llm.loading import load_model, load_tokenizer
from spin_llm.models import pad_id, save_model
from spin_llm.records import to_row
from spin_llm.rendering import Renderer, check_template
from spin_llm.sequence_logprobs import scoring_of
from spin_llm.sources import load_examples, render_examples

SHARES = {"median": 0.5, "90%": 0.9, "99%": 0.99}


def prepare(data: str, out: str, turns: Turns, skip_bad: bool, seed: int) -> int:
    """Any known layout as normalised jsonl."""
    path = Path(out)
    if path.exists():
        raise InputError(f"--out {path} exists; give another name or remove it")
    examples, _ = load_examples(data, turns, skip_bad, seed)
    write_text(path, "".join(json.dumps(to_row(item), ensure_ascii=False) + "\n" for item in examples))
    print(f"{path}: {len(examples)} examples")
    return 0


def inspect(
    model: str, data: str, template: str | None, n: int, turns: Turns, skip_bad: bool, seed: int, as_json: bool
) -> int:
    """Show what the model will see: each example's tokens, the response's marked, and how long they all are."""
    if n < 0:
        raise InputError(f"n must be 0 or more, got {n}")
    check_template(template)
    examples, _ = load_examples(data, turns, skip_bad, seed)
    tokenizer = load_tokenizer(model)
    renderer = Renderer(tokenizer, template)
    rendered = render_examples(examples, renderer, skip_bad)
    if not rendered:
        raise InputError(f"{data}: the template can render none of {len(examples)} examples")
    lengths = [(len(prompt), len(real)) for _, prompt, real in rendered]
    shown = [
        {"id": example.id, "prompt": tokenizer.decode(prompt), "response": tokenizer.decode(real),
         "prompt_tokens": len(prompt), "response_tokens": len(real)}
        for example, prompt, real in rendered[:n]
    ]  # fmt: skip
    tokens = {
        name: _quantiles(values)
        for name, values in zip(
            ("prompt", "response", "both"), [*zip(*lengths, strict=True), [a + b for a, b in lengths]], strict=True
        )
    }
    if as_json:
        print_json({"shown": shown, "examples": len(rendered), "tokens": tokens, "end_tokens": renderer.end_ids})
        return 0
    _print_marked(shown)
    for name, row in tokens.items():
        print(f"{name:<9} tokens: " + ", ".join(f"{mark} {value}" for mark, value in row.items()))
    print(f"{len(rendered)} examples; every prompt is a prefix of its conversation; end tokens {renderer.end_ids}")
    return 0


def _print_marked(shown: Sequence[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console()
    for row in shown:
        console.print(Text(f"{row['id']}: {row['prompt_tokens']} + {row['response_tokens']} tokens", style="bold"))
        # brackets as well as colour: the mask must be seen in a log too
        console.print(Text(row["prompt"], style="dim") + Text(f"[[{row['response']}]]", style="green"))


def _quantiles(values: Sequence[int]) -> dict[str, int]:
    ordered = sorted(values)
    marks = {name: ordered[min(len(ordered) - 1, int(share * len(ordered)))] for name, share in SHARES.items()}
    return marks | {"longest": ordered[-1]}


def export_model(model: str, out: str) -> int:
    """Plain weights with the adapter merged in."""
    if Path(out).exists():
        raise InputError(f"--out {out} exists; give another name or remove it")
    loaded, tokenizer = load_model(model)
    save_model(loaded, tokenizer, Path(out), merge=True)
    print(out)
    return 0


def export_pairs(model: str, generated: str, out: str) -> int:
    """Pairs as TRL's DPO data: prompt, chosen, rejected."""
    if Path(out).exists():
        raise InputError(f"--out {out} exists; give another name or remove it")
    source = Path(generated)
    pairs = read_pairs(source / FILE if source.is_dir() else source)
    tokenizer = load_tokenizer(model)
    rows = [
        {
            name: tokenizer.decode(ids)
            for name, ids in (("prompt", pair.prompt), ("chosen", pair.real), ("rejected", pair.generated))
        }
        for pair in pairs
    ]
    write_text(out, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    print(f"{out}: {len(rows)} pairs")
    return 0


def doctor(model: str, device: str, as_json: bool) -> int:
    """What this machine has, and which short cuts the model allows."""
    where = resolve_device(device)
    there, said = _embedded()
    found = {"device": describe_device(where), "embedded": said}
    if not as_json:
        print_lines(found)  # what is known so far, in case the model cannot be loaded
    if model == EMBEDDED and not there:  # nothing is wrong with the machine
        if as_json:
            print_json(found)
        return 0
    loaded, tokenizer = load_model(model)
    loaded.to(where)
    scoring = scoring_of(loaded, pad_id(tokenizer))
    weights = sum(weight.numel() for weight in loaded.parameters())
    about = {
        "model": f"{type(loaded).__name__}, {weights / 1e6:.1f} million weights",
        "prompts": "shared by a pair" if scoring.share_prompt else "computed for each response",
        "head": "at response positions only, in chunks" if scoring.split_head else "the whole model at once",
        "template": "its own" if getattr(tokenizer, "chat_template", None) else "none: give --template",
    }
    if as_json:
        print_json(found | about)
    else:
        print_lines(about)
    return 0


def _embedded() -> tuple[bool, str]:
    """Whether the embedded model can be had, and the file or how to get it."""
    try:
        return True, f"{embedded_file().name} is there"
    except InputError as error:
        return False, str(error)
