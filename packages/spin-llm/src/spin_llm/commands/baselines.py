"""What `sft`, `dpo` and `eval` do."""

import json
from typing import Any

from shared_core.errors import InputError
from shared_core.files import write_json

from spin_llm.already_there import tell_stage
from spin_llm.commands.opening import opened_run, player, processes
from spin_llm.commands.printing import print_json
from spin_llm.config import SPINConfig, as_settings
from spin_llm.evaluation import Evaluation, evaluate_player
from spin_llm.fingerprints import digest
from spin_llm.models import add_lora, fingerprint, pad_id
from spin_llm.rendering import Renderer, Tokens
from spin_llm.sequence_logprobs import scoring_of
from spin_llm.sources import read_data, tokenize_data
from spin_llm.supervised import fine_tune, prefer


def sft(model: str, data: str, out: str | None, config: SPINConfig, device: str, **reading: Any) -> int:
    """Make theta_0."""
    accelerator = processes(config, device)
    records = read_data(data, config, **reading)
    loaded, tokenizer = player(model, accelerator)
    contents = {"player": fingerprint(loaded, model)}
    loaded = add_lora(loaded, config.lora, model, config.seed)
    found = tokenize_data(records, loaded, tokenizer, config)
    contents["examples"] = digest(found.train)
    settings = {"verb": "sft", "model": model, "data": data, **reading, **as_settings(config), **contents}
    with opened_run(out, settings, accelerator) as folder:
        fine_tune(loaded, tokenizer, found.train, config.optimization.at(0), folder, accelerator, config.seed)
    print(folder / "model")
    return 0


def dpo(model: str, data: str, out: str | None, config: SPINConfig, device: str, **reading: Any) -> int:
    """The paper's baseline on data that holds two responses a prompt."""
    accelerator = processes(config, device)
    records = read_data(data, config, **reading)
    without = [example.id for example in records.train if example.generated is None]
    if without:
        raise InputError(
            f"{data}: example {without[0]} has no second response; dpo needs records with real and generated"
        )
    loaded, tokenizer = player(model, accelerator)
    contents = {"player": fingerprint(loaded, model)}
    loaded = add_lora(loaded, config.lora, model, config.seed)
    found = tokenize_data(records, loaded, tokenizer, config)
    contents["examples"] = digest(found.train)
    by_id = {example.id: example for example in found.examples}
    renderer = Renderer(tokenizer, config.template)
    rejected = [renderer.pair(by_id[item.id], by_id[item.id].generated)[1] for item in found.train]
    room = config.limits.max_length
    rejected = [ids[: room - len(item.prompt)] for ids, item in zip(rejected, found.train, strict=True)]
    contents["rejected"] = digest(
        [Tokens(item.id, (), tuple(ids)) for item, ids in zip(found.train, rejected, strict=True)]
    )
    settings = {"verb": "dpo", "model": model, "data": data, **reading, **as_settings(config), **contents}
    with opened_run(out, settings, accelerator) as folder:
        prefer(
            loaded, tokenizer, found.train, rejected, config.optimization.at(0), config.beta_at(0), folder, accelerator,
            config.seed,
        )  # fmt: skip
    print(folder / "model")
    return 0


def evaluate(
    model: str, data: str, out: str | None, config: SPINConfig, device: str, samples: int, as_json: bool, **reading: Any
) -> int:
    """A player on examples."""
    if samples < 1:
        raise InputError(f"samples must be at least 1, got {samples}")
    accelerator = processes(config, device)
    records = read_data(data, config, **reading)
    loaded, tokenizer = player(model, accelerator)
    found = tokenize_data(records, loaded, tokenizer, config)
    examples = found.held_out or found.train
    loaded.to(accelerator.device).eval()
    contents = {"player": fingerprint(loaded, model), "examples": digest(examples)}
    settings = {
        "verb": "eval", "model": model, "data": data, "samples": samples, **reading, **as_settings(config), **contents,
    }  # fmt: skip
    with opened_run(out, settings, accelerator) as folder:
        path = folder / "evaluation.json"
        if accelerator.is_main_process:
            tell_stage(folder)
        if not path.exists():
            result = evaluate_player(
                loaded, tokenizer, examples, config.sampler, Renderer(tokenizer, config.template).end_ids,
                scoring_of(loaded, pad_id(tokenizer)), samples=samples, seed=config.seed, pad_id=pad_id(tokenizer),
            )  # fmt: skip
            write_json(path, result.to_json())
        means = Evaluation.from_json(json.loads(path.read_text(encoding="utf-8"))).means
    if as_json:
        print_json({"prompts": len(examples), "samples": samples, **means})
        return 0
    for name, value in means.items():
        print(f"{name:<14} {value['mean']:.4f} +- {value['error']:.4f}")
    return 0
