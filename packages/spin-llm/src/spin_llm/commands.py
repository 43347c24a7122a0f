"""What each verb of `spin-llm` does."""

import json
import logging
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from shared_core.device import check_seed, describe_device, resolve_device
from shared_core.errors import InputError
from shared_core.files import write_json, write_text
from shared_core.run_folder import RunFolder
from torch import nn

from spin_llm.config import SPINConfig, as_settings
from spin_llm.estimate import estimate_cost
from spin_llm.evaluation import Evaluation, evaluate_player
from spin_llm.generation import FILE, check_opponent, generate_pairs, model_engine, read_pairs
from spin_llm.models import add_lora, fingerprint, load_model, pad_id, save_model
from spin_llm.records import Turns, to_row
from spin_llm.rendering import Renderer, Tokenizer
from spin_llm.report import write_report
from spin_llm.self_play import Iteration, SelfPlay, make_accelerator
from spin_llm.sequence_logprobs import scoring_of
from spin_llm.sources import Data, load_data, load_examples
from spin_llm.supervised import fine_tune, prefer
from spin_llm.vllm_engine import require_vllm

log = logging.getLogger(__name__)


@contextmanager
def opened_run(out: str, settings: dict[str, Any], accelerator: Any) -> Iterator[Path]:
    """The run folder, held by the main process while all work in it."""
    path = Path(out)
    if accelerator.is_main_process:
        with RunFolder(path, package="spin-llm", settings=settings):
            accelerator.wait_for_everyone()
            yield path
    else:
        accelerator.wait_for_everyone()
        yield path


def player(model: str, config: SPINConfig, device: str) -> tuple[nn.Module, Tokenizer, Any]:
    """Model, tokenizer and accelerate's view of the processes; the device is checked first."""
    check_seed(config.seed)
    where = resolve_device(device)
    accelerator = make_accelerator(config, cpu=where.type == "cpu")
    if accelerator.num_processes == 1 and where.type == "cuda":
        accelerator.state.device = where
    loaded, tokenizer = load_model(model)
    log.info("%s on %s, %d process(es)", model, describe_device(accelerator.device), accelerator.num_processes)
    return loaded, tokenizer, accelerator


def run(model: str, data: str, out: str, config: SPINConfig, device: str, dry_run: bool, **reading: Any) -> int:
    """The whole loop; returns 0."""
    if config.engine == "vllm":
        require_vllm()
    loaded, tokenizer, accelerator = player(model, config, device)
    loaded = add_lora(loaded, config.lora, model, config.seed)
    found = load_data(data, loaded, tokenizer, config, **reading)
    if dry_run:
        print_mapping(asdict(estimate_cost(loaded, found.train, config, accelerator.device)))
        return 0
    settings = {"verb": "run", "model": model, "data": data, **reading, **as_settings(config)}
    with opened_run(out, settings, accelerator) as folder:
        game = SelfPlay(
            loaded,
            tokenizer,
            found.train,
            config,
            folder,
            held_out=found.held_out,
            source=model,
            accelerator=accelerator,
            after=print_iteration,
            reload=lambda saved: _reload(saved, model, config),
            generation_prompts=_other_prompts(found, tokenizer, config),
        )
        iterations = game.run()
        if accelerator.is_main_process:
            write_json(
                folder / "result.json", {"iterations": [asdict(item) for item in iterations], "best": best(iterations)}
            )
            print(write_report(folder, config, iterations))
        accelerator.wait_for_everyone()
    return 0


def _reload(saved: Path, model: str, config: SPINConfig) -> nn.Module:
    from spin_llm.models import restore_player

    fresh = add_lora(load_model(model)[0], config.lora, model, config.seed)
    restore_player(fresh, saved)
    return fresh


def _other_prompts(found: Data, tokenizer: Tokenizer, config: SPINConfig) -> list[list[int]] | None:
    """Token ids under the sampling template, where that is another one than training's."""
    if config.generation_template is None:
        return None
    log.warning(
        "generation_template: responses are no samples of the player that is trained; the theory does not apply"
    )
    by_id = {example.id: example for example in found.examples}
    renderer = Renderer(tokenizer, config.generation_template)
    return [renderer.prompt(by_id[item.id].prompt)[-config.limits.max_prompt_length :] for item in found.train]


def best(iterations: list[Iteration]) -> int | None:
    """The iteration whose player gives held-out responses the highest likelihood."""
    scored = [item for item in iterations if item.evaluation]
    if not scored:
        return None
    return min(scored, key=lambda item: item.evaluation["nll_per_token"]["mean"]).number


def print_iteration(item: Iteration) -> None:
    """One line on stdout."""
    text = f"iteration {item.number}: {item.pairs} pairs ({item.identical} identical)"
    if item.last:
        text += f", loss {item.first['loss']:.4f} -> {item.last['loss']:.4f}"
        text += f", margin {item.last['rewards/margins']:.3f}"
    for name, value in item.evaluation.items():
        text += f", {name} {value['mean']:.4f} +- {value['error']:.4f}"
    if item.accuracy:
        text += f", held-out accuracy {item.accuracy['mean']:.2f}"
    print(text, flush=True)


def sft(model: str, data: str, out: str, config: SPINConfig, device: str, **reading: Any) -> int:
    """Make theta_0."""
    loaded, tokenizer, accelerator = player(model, config, device)
    loaded = add_lora(loaded, config.lora, model, config.seed)
    found = load_data(data, loaded, tokenizer, config, **reading)
    settings = {"verb": "sft", "model": model, "data": data, **reading, **as_settings(config)}
    with opened_run(out, settings, accelerator) as folder:
        fine_tune(loaded, tokenizer, found.train, config.optimization.at(0), folder, accelerator, config.seed)
    print(folder / "model")
    return 0


def dpo(model: str, data: str, out: str, config: SPINConfig, device: str, **reading: Any) -> int:
    """The paper's baseline on data that holds two responses a prompt."""
    loaded, tokenizer, accelerator = player(model, config, device)
    loaded = add_lora(loaded, config.lora, model, config.seed)
    found = load_data(data, loaded, tokenizer, config, **reading)
    by_id = {example.id: example for example in found.examples}
    without = [item.id for item in found.train if by_id[item.id].generated is None]
    if without:
        raise InputError(
            f"{data}: example {without[0]} has no second response; dpo needs records with real and generated"
        )
    renderer = Renderer(tokenizer, config.template)
    rejected = [renderer.pair(by_id[item.id], by_id[item.id].generated)[1] for item in found.train]
    room = config.limits.max_length
    rejected = [ids[: room - len(item.prompt)] for ids, item in zip(rejected, found.train, strict=True)]
    settings = {"verb": "dpo", "model": model, "data": data, **reading, **as_settings(config)}
    with opened_run(out, settings, accelerator) as folder:
        prefer(
            loaded, tokenizer, found.train, rejected, config.optimization.at(0), config.beta_at(0), folder, accelerator,
            config.seed,
        )  # fmt: skip
    print(folder / "model")
    return 0


def generate(model: str, data: str, out: str, config: SPINConfig, device: str, **reading: Any) -> int:
    """The opponent's responses alone."""
    loaded, tokenizer, accelerator = player(model, config, device)
    found = load_data(data, loaded, tokenizer, config, **reading)
    loaded.to(accelerator.device).eval()
    settings = {"verb": "generate", "model": model, "data": data, **reading, **as_settings(config)}
    with opened_run(out, settings, accelerator) as folder:
        pairs = generate_pairs(
            model_engine(loaded), found.train, config.sampler, Renderer(tokenizer, config.template).end_ids, folder,
            fingerprint(loaded, model), config.seed, accelerator, _other_prompts(found, tokenizer, config),
        )  # fmt: skip
    if accelerator.is_main_process:
        finished = statistics.mean(float(pair.finished) for pair in pairs)
        print(f"{folder / FILE}: {len(pairs)} responses, {finished:.0%} finished")
    return 0


def train(model: str, generated: str, out: str, config: SPINConfig, device: str, iteration: int) -> int:
    """One iteration on responses that `generate` wrote."""
    from spin_llm.rendering import Tokens

    loaded, tokenizer, accelerator = player(model, config, device)
    source = Path(generated)
    if not (source / FILE).exists():
        raise InputError(f"{source} holds no {FILE}: give the folder that `spin-llm generate` wrote")
    check_opponent(source, fingerprint(loaded, model))
    loaded = add_lora(loaded, config.lora, model, config.seed)
    pairs = read_pairs(source / FILE)
    settings = {"verb": "train", "model": model, "generated": generated, "iteration": iteration, **as_settings(config)}
    with opened_run(out, settings, accelerator) as folder:
        examples = [Tokens(pair.id, tuple(pair.prompt), tuple(pair.real)) for pair in pairs]
        game = SelfPlay(
            loaded, tokenizer, examples, config, folder,
            source=model, accelerator=accelerator, reload=lambda saved: _reload(saved, model, config),
        )  # fmt: skip
        result = game.train_on(pairs, iteration)
        if accelerator.is_main_process:
            print_iteration(result)
            print(folder / f"iter_{iteration}" / "model")
    return 0


def evaluate(model: str, data: str, out: str, config: SPINConfig, device: str, samples: int, **reading: Any) -> int:
    """A player on examples."""
    loaded, tokenizer, accelerator = player(model, config, device)
    found = load_data(data, loaded, tokenizer, config, **reading)
    examples = found.held_out or found.train
    loaded.to(accelerator.device).eval()
    settings = {"verb": "eval", "model": model, "data": data, "samples": samples, **reading, **as_settings(config)}
    with opened_run(out, settings, accelerator) as folder:
        path = folder / "evaluation.json"
        if not path.exists():
            result = evaluate_player(
                loaded, tokenizer, examples, config.sampler, Renderer(tokenizer, config.template).end_ids,
                scoring_of(loaded, pad_id(tokenizer)), samples=samples, seed=config.seed, pad_id=pad_id(tokenizer),
            )  # fmt: skip
            write_json(path, result.to_json())
        means = Evaluation.from_json(json.loads(path.read_text(encoding="utf-8"))).means
    for name, value in means.items():
        print(f"{name:<14} {value['mean']:.4f} +- {value['error']:.4f}")
    return 0


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


def print_mapping(values: dict[str, Any]) -> None:
    """Name and number a line."""
    for name, value in values.items():
        print(f"{name:<16} {value:,}" if isinstance(value, int) else f"{name:<16} {value:.3g}")
