"""What `run`, `generate` and `train` do."""

import logging
import statistics
from dataclasses import asdict
from pathlib import Path
from typing import Any

from shared_core.errors import InputError
from shared_core.files import write_json
from torch import nn

from spin_llm.already_there import tell_stage
from spin_llm.commands.opening import opened_run, player, processes
from spin_llm.commands.printing import print_numbers
from spin_llm.config import SPINConfig, as_settings
from spin_llm.estimate import estimate_cost
from spin_llm.fingerprints import digest
from spin_llm.generation import FILE, check_opponent, generate_pairs, model_engine, read_pairs
from spin_llm.iteration import Iteration, check_stop_rules
from spin_llm.loading import load_model
from spin_llm.models import add_lora, check_context, check_vocabulary, fingerprint, restore_player
from spin_llm.rendering import Renderer, Tokenizer, Tokens
from spin_llm.report import best_player, write_report
from spin_llm.self_play import SelfPlay
from spin_llm.sources import Data, read_data, tokenize_data
from spin_llm.vllm_engine import require_vllm

log = logging.getLogger(__name__)


def run(model: str, data: str, out: str | None, config: SPINConfig, device: str, dry_run: bool, **reading: Any) -> int:
    """The whole loop; returns 0."""
    if config.engine == "vllm":
        require_vllm()
    accelerator = processes(config, device)
    records = read_data(data, config, **reading)
    check_stop_rules(config, records.held_out)
    loaded, tokenizer = player(model, accelerator)
    contents = {"player": fingerprint(loaded, model)}
    loaded = add_lora(loaded, config.lora, model, config.seed)
    found = tokenize_data(records, loaded, tokenizer, config)
    if dry_run:
        print_numbers(asdict(estimate_cost(loaded, found.train, config, accelerator.device)))
        return 0
    settings = {"verb": "run", "model": model, "data": data, **reading, **as_settings(config), **contents}
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
                folder / "result.json",
                {"iterations": [asdict(item) for item in iterations], "best": best_player(folder, iterations)},
            )
            print(write_report(folder, config, iterations))
        accelerator.wait_for_everyone()
    return 0


def generate(model: str, data: str, out: str | None, config: SPINConfig, device: str, **reading: Any) -> int:
    """The opponent's responses alone."""
    accelerator = processes(config, device)
    records = read_data(data, config, **reading)
    loaded, tokenizer = player(model, accelerator)
    found = tokenize_data(records, loaded, tokenizer, config)
    loaded.to(accelerator.device).eval()
    settings = {"verb": "generate", "model": model, "data": data, **reading, **as_settings(config)}
    with opened_run(out, settings, accelerator) as folder:
        if accelerator.is_main_process:
            tell_stage(folder)
        pairs = generate_pairs(
            model_engine(loaded), found.train, config.sampler, Renderer(tokenizer, config.template).end_ids, folder,
            fingerprint(loaded, model), config.seed, accelerator, _other_prompts(found, tokenizer, config),
        )  # fmt: skip
    if accelerator.is_main_process:
        finished = statistics.mean(float(pair.finished) for pair in pairs)
        print(f"{folder / FILE}: {len(pairs)} responses, {finished:.0%} finished")
    return 0


def train(model: str, generated: str, out: str | None, config: SPINConfig, device: str, iteration: int) -> int:
    """One iteration on responses that `generate` wrote."""
    if iteration < 0:
        raise InputError(f"iteration must be 0 or more, got {iteration}")
    accelerator = processes(config, device)
    source = Path(generated)
    if not (source / FILE).exists():
        raise InputError(f"{source} holds no {FILE}: give the folder that `spin-llm generate` wrote")
    pairs = read_pairs(source / FILE)
    loaded, tokenizer = player(model, accelerator)
    check_opponent(source, fingerprint(loaded, model))
    loaded = add_lora(loaded, config.lora, model, config.seed)
    check_vocabulary(loaded, [ids for pair in pairs for ids in (pair.prompt, pair.real, pair.generated)], str(source))
    check_context(loaded, [len(pair.prompt) + max(len(pair.real), len(pair.generated)) for pair in pairs], str(source))
    settings = {
        "verb": "train", "model": model, "generated": generated, "iteration": iteration, **as_settings(config),
        "pairs": digest([Tokens(pair.id, tuple(pair.real), tuple(pair.generated)) for pair in pairs]),
    }  # fmt: skip
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


def _reload(saved: Path, model: str, config: SPINConfig) -> nn.Module:
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
