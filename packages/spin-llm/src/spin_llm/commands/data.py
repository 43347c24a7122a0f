"""What `prepare`, `inspect`, `export` and `doctor` do."""

import json
from pathlib import Path

from shared_core.device import describe_device, resolve_device
from shared_core.errors import InputError
from shared_core.files import write_text

from spin_llm.generation import FILE, read_pairs
from spin_llm.models import load_model, pad_id, save_model
from spin_llm.records import Turns, to_row
from spin_llm.rendering import Renderer, Tokenizer
from spin_llm.sequence_logprobs import scoring_of
from spin_llm.sources import load_examples


def prepare(data: str, out: str, turns: Turns, skip_bad: bool, seed: int) -> int:
    """Any known layout as normalised jsonl."""
    path = Path(out)
    if path.exists():
        raise InputError(f"--out {path} exists; give another name or remove it")
    examples, _ = load_examples(data, turns, skip_bad, seed)
    write_text(path, "".join(json.dumps(to_row(item), ensure_ascii=False) + "\n" for item in examples))
    print(f"{path}: {len(examples)} examples")
    return 0


def inspect(model: str, data: str, template: str | None, count: int, turns: Turns, skip_bad: bool, seed: int) -> int:
    """Show what the model will see: each example's tokens, the response's marked, and how long they all are."""
    from rich.console import Console
    from rich.text import Text

    _, tokenizer = load_tokenizer(model)
    renderer = Renderer(tokenizer, template)
    examples, _ = load_examples(data, turns, skip_bad, seed)
    console = Console()
    for example in examples[:count]:
        prompt, real = renderer.pair(example)
        console.print(Text(f"{example.id}: {len(prompt)} + {len(real)} tokens", style="bold"))
        # brackets as well as colour: the mask must be seen in a log too
        line = Text(tokenizer.decode(prompt), style="dim")
        console.print(line + Text("[[" + tokenizer.decode(real) + "]]", style="green"))
    lengths = [tuple(map(len, renderer.pair(example))) for example in examples]
    for name, values in zip(
        ("prompt", "response", "both"), [*zip(*lengths, strict=True), [a + b for a, b in lengths]], strict=True
    ):
        ordered = sorted(values)
        marks = {share: ordered[min(len(ordered) - 1, int(share / 100 * len(ordered)))] for share in (50, 90, 99)}
        print(f"{name:<9} tokens: median {marks[50]}, 90% {marks[90]}, 99% {marks[99]}, longest {ordered[-1]}")
    print(f"{len(examples)} examples; every prompt is a prefix of its conversation; end tokens {renderer.end_ids}")
    return 0


def load_tokenizer(model: str) -> tuple[None, Tokenizer]:
    """The tokenizer alone, where the weights are not needed."""
    from spin_llm.embedded import EMBEDDED, embedded_model
    from spin_llm.models import _loading

    name = str(embedded_model()) if model == EMBEDDED else model
    if name.endswith(".gguf"):
        return None, load_model(name)[1]
    from transformers import AutoTokenizer

    return None, _loading(name, AutoTokenizer.from_pretrained, name)


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
    _, tokenizer = load_tokenizer(model)
    source = Path(generated)
    pairs = read_pairs(source / FILE if source.is_dir() else source)
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


def doctor(model: str, device: str) -> int:
    """What this machine has, and which short cuts the model allows."""
    from spin_llm.embedded import embedded_file

    where = resolve_device(device)
    print(f"device     {describe_device(where)}")
    try:
        print(f"embedded   {embedded_file().name} is there")
    except InputError as error:
        print(f"embedded   {error}")
    loaded, tokenizer = load_model(model)
    loaded.to(where)
    scoring = scoring_of(loaded, pad_id(tokenizer))
    weights = sum(weight.numel() for weight in loaded.parameters())
    print(f"model      {type(loaded).__name__}, {weights / 1e6:.1f} million weights")
    print(f"prompts    {'shared by a pair' if scoring.share_prompt else 'computed for each response'}")
    print(f"head       {'at response positions only, in chunks' if scoring.split_head else 'the whole model at once'}")
    print(f"template   {'its own' if getattr(tokenizer, 'chat_template', None) else 'none: give --template'}")
    return 0
