"""`prepare`, `sft`, `dpo`, `generate`, `train` and `run`."""

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from shared_core.errors import InputError
from shared_core.files import write_json, write_text
from shared_core.run_folder import read_json, run_path
from torch import Tensor

from spin_diffusion.checkpoints import save_player
from spin_diffusion.commands.setting import (
    PACKAGE,
    Data,
    Reading,
    check_inputs,
    load_data,
    log_start,
    open_device,
    opened_run,
)
from spin_diffusion.config import SPINConfig, as_settings
from spin_diffusion.evaluation import Features, decoded, distances, make_features, score_summary, scores
from spin_diffusion.judging import Evaluate
from spin_diffusion.latent_cache import DONE, check_data, prepare_cache
from spin_diffusion.lora import add_lora, check_targets, lora_state, merge_lora
from spin_diffusion.model_card import model_card
from spin_diffusion.noise import counter_seed
from spin_diffusion.opponents import check_opponents, check_sampler, generate_opponents, read_opponents
from spin_diffusion.optimization import check_optimizer
from spin_diffusion.pipelines import Parts, check_model, load_parts
from spin_diffusion.report import write_report
from spin_diffusion.scorers import load_scorers
from spin_diffusion.self_play import Iteration, SPINTrainer, enable_checkpointing
from spin_diffusion.supervised import fine_tune, prefer
from spin_diffusion.training_set import Rows

log = logging.getLogger(__name__)


def prepare(model: str, data: str, out: str, reading: Reading, pairs: bool, device: str, seed: int) -> int:
    """Encode images and prompts once."""
    accelerator = open_device(device, "float32", seed)
    folder = Path(out)
    fresh = not folder.exists()
    if (folder / DONE).exists():
        log.info("already there: %s, finished with these settings", folder)
    else:
        check_data(
            data, pairs=pairs, dedup_prompts=reading.dedup_prompts, limit=reading.limit, on_error=reading.on_error
        )
    parts = load_parts(model)
    try:
        prepare_cache(
            parts, data, folder, accelerator.device, resolution=reading.resolution, pairs=pairs, limit=reading.limit,
            sample_latents=reading.sample_latents, dedup_prompts=reading.dedup_prompts, on_error=reading.on_error,
            batch_size=reading.batch_size, seed=seed,
        )  # fmt: skip
    except InputError:
        if fresh and folder.exists() and not any(folder.rglob("*.safetensors")):
            import shutil

            shutil.rmtree(folder)
        raise
    done = read_json(folder / "complete.json")
    print(f"{folder}: {done['items']} items, {done['prompts']} prompts, {done['skipped']} skipped")
    return 0


def run(
    model: str, data: str, out: str | None, config: SPINConfig, device: str, reading: Reading, *,
    player: str | None, scorers: list[str], features: str, round_trip: bool,
) -> int:  # fmt: skip
    """The whole loop; returns 0."""
    accelerator = open_device(device, config.optimization.precision, config.seed)
    check_optimizer(config.optimization)
    settings = {
        "verb": "run", "model": model, "player": player, "data": data, "scorers": scorers, "features": features,
        "round_trip": round_trip, **reading.settings(), **as_settings(config),
    }  # fmt: skip
    path = run_path(out, package=PACKAGE, settings=settings)
    check_inputs(data, path, reading)
    check_model(model, player)
    plugins = load_scorers(scorers) if reading.held_out else []
    measure = make_features(features) if reading.held_out else None
    with opened_run(path, settings, accelerator) as folder:
        parts = load_parts(model, player)
        check_targets(parts.net, config.lora)
        found = load_data(parts, data, folder, reading, accelerator, config.seed)
        log_start(accelerator, found)
        for name in ("text_encoder", "text_encoder_2"):  # embeddings are cached
            if getattr(parts.pipe, name, None) is not None:
                setattr(parts.pipe, name, None)
        trainer = SPINTrainer(
            parts.net, parts.scheduler, found.train, config, folder, held_out=found.held_out, accelerator=accelerator,
            evaluate=_evaluate(parts, found, plugins, measure), transform=_round_trip(parts) if round_trip else None,
            after=lambda item: _finished(item, folder, model, config),
        )  # fmt: skip
        iterations = trainer.run()
        if accelerator.is_main_process:
            write_json(folder / "result.json", {"iterations": [asdict(item) for item in iterations]})
            print(write_report(folder, parts, config, iterations, found.train.shape, found.held_out))
        accelerator.wait_for_everyone()
    return 0


def sft(
    model: str, data: str, out: str | None, config: SPINConfig, device: str, reading: Reading, player: str | None
) -> int:
    """Denoising score matching on the real images."""
    accelerator = open_device(device, config.optimization.precision, config.seed)
    check_optimizer(config.optimization)
    settings = {
        "verb": "sft",
        "model": model,
        "player": player,
        "data": data,
        **reading.settings(),
        **as_settings(config),
    }
    path = run_path(out, package=PACKAGE, settings=settings)
    check_inputs(data, path, reading)
    check_model(model, player)
    with opened_run(path, settings, accelerator, "model") as folder:
        parts = load_parts(model, player)
        check_targets(parts.net, config.lora)
        found = load_data(parts, data, folder, reading, accelerator, config.seed)
        log_start(accelerator, found)
        _stage(parts, config, folder, accelerator, found, "sft")
        _write_card(accelerator, folder / "model", model, config, "Supervised fine-tuning")
    print(folder / "model")
    return 0


def dpo(
    model: str, data: str, out: str | None, config: SPINConfig, device: str, reading: Reading, player: str | None
) -> int:
    """Diffusion-DPO on given pairs."""
    accelerator = open_device(device, config.optimization.precision, config.seed)
    check_optimizer(config.optimization)
    settings = {
        "verb": "dpo",
        "model": model,
        "player": player,
        "data": data,
        **reading.settings(),
        **as_settings(config),
    }
    path = run_path(out, package=PACKAGE, settings=settings)
    check_inputs(data, path, reading, pairs=True)
    check_model(model, player)
    with opened_run(path, settings, accelerator, "model") as folder:
        parts = load_parts(model, player)
        check_targets(parts.net, config.lora)
        found = load_data(parts, data, folder, reading, accelerator, config.seed, pairs=True)
        log_start(accelerator, found)
        _stage(parts, config, folder, accelerator, found, "dpo")
        _write_card(accelerator, folder / "model", model, config, "Diffusion-DPO")
    print(folder / "model")
    return 0


def generate(
    model: str, data: str, out: str | None, config: SPINConfig, device: str, reading: Reading, *,
    player: str | None, iteration: int, round_trip: bool,
) -> int:  # fmt: skip
    """The opponent's samples alone."""
    _check_iteration(iteration)
    accelerator = open_device(device, config.optimization.precision, config.seed)
    settings = {
        "verb": "generate", "model": model, "player": player, "data": data, "iteration": iteration,
        "round_trip": round_trip, "samples_per_prompt": config.samples_per_prompt, "sampler": asdict(config.sampler),
        "seed": config.seed, **reading.settings(),
    }  # fmt: skip
    path = run_path(out, package=PACKAGE, settings=settings)
    check_inputs(data, path, reading)
    check_model(model, player)
    with opened_run(path, settings, accelerator, "opponents/complete.json") as folder:
        parts = load_parts(model, player)
        found = load_data(parts, data, folder, reading, accelerator, config.seed)
        log_start(accelerator, found)
        parts.net.to(accelerator.device).eval()
        rows = generate_opponents(
            parts.net, parts.scheduler, found.train, config.sampler, accelerator, seed=config.seed,
            iteration=iteration, samples_per_prompt=config.samples_per_prompt, folder=folder / "opponents",
            transform=_round_trip(parts) if round_trip else None,
        )  # fmt: skip
    if accelerator.is_main_process:
        print(f"{folder / 'opponents'}: {len(rows)} samples")
    return 0


def train(
    model: str, data: str, opponents: str, out: str | None, config: SPINConfig, device: str, reading: Reading, *,
    player: str | None, iteration: int,
) -> int:  # fmt: skip
    """One iteration on samples that `generate` wrote."""
    _check_iteration(iteration)
    accelerator = open_device(device, config.optimization.precision, config.seed)
    check_optimizer(config.optimization)
    settings = {
        "verb": "train", "model": model, "player": player, "data": data, "opponents": opponents,
        "iteration": iteration, **reading.settings(), **as_settings(config),
    }  # fmt: skip
    path = run_path(out, package=PACKAGE, settings=settings)
    check_inputs(data, path, reading)
    source = Path(opponents) / "opponents" if (Path(opponents) / "opponents").is_dir() else Path(opponents)
    check_sampler(source, config.sampler)
    check_model(model, player)
    with opened_run(path, settings, accelerator, f"iter_{iteration}/iteration.json") as folder:
        parts = load_parts(model, player)
        check_targets(parts.net, config.lora)
        found = load_data(parts, data, folder, reading, accelerator, config.seed)
        check_opponents(source, parts.net, found.train)
        log_start(accelerator, found)
        trainer = SPINTrainer(parts.net, parts.scheduler, found.train, config, folder, accelerator=accelerator)
        result = trainer.read_iteration(iteration) or trainer.train_iteration(iteration, read_opponents(source))
        if accelerator.is_main_process:
            _finished(result, folder, model, config)
            print(folder / f"iter_{iteration}" / "model")
    return 0


def _check_iteration(iteration: int) -> None:
    if iteration < 0:
        raise InputError(f"iteration must be at least 0, got {iteration}")


def _stage(parts: Parts, config: SPINConfig, folder: Path, accelerator: Any, found: Data, kind: str) -> None:
    """SFT or DPO with full weights or LoRA; the result goes to `folder/model`."""
    net, target = parts.net, folder / "model"
    if target.exists():
        return
    if config.optimization.gradient_checkpointing:
        enable_checkpointing(net)
    if config.optimization.channels_last:
        net.to(memory_format=torch.channels_last)
    if config.lora.rank:
        add_lora(net, config.lora, counter_seed("adapter", config.seed, 0))
    else:
        net.requires_grad_(True)
    if kind == "sft":
        fine_tune(net, parts.scheduler, found.train, config, out=folder, accelerator=accelerator)
    else:
        assert found.rejected is not None
        prefer(net, parts.scheduler, found.train, found.rejected, config, out=folder, accelerator=accelerator)
    adapters = []
    if config.lora.rank:
        adapters = [lora_state(net)]
        merge_lora(net)
    if accelerator.is_main_process:
        save_player(net, target, adapters)
        (folder / "state.safetensors").unlink(missing_ok=True)
    accelerator.wait_for_everyone()


def _evaluate(parts: Parts, found: Data, plugins: list[Any], measure: Features | None) -> Evaluate | None:
    """Distances and scores of a player's samples for the held-out prompts."""
    held_out = found.held_out
    if held_out is None or measure is None:
        return None
    prompts = [held_out.prompts[index] for index in held_out.prompt_of.tolist()] if held_out.prompts else []

    def evaluate(player: int, samples: Rows) -> dict[str, Any]:
        images = decoded(samples, parts.decode)
        result: dict[str, Any] = {}
        if len(samples) > 1:
            result["distances"] = distances(measure(decoded(held_out.latents, parts.decode)), measure(images))
        if plugins and prompts:
            values = scores(images, prompts, plugins)
            result["scores"] = values
            result["score_summary"] = score_summary({name: [[v] for v in row] for name, row in values.items()})
        return result

    return evaluate


def _round_trip(parts: Parts) -> Any:
    def round_trip(latents: Tensor) -> Tensor:
        """Through the VAE and back: real latents have its artefacts, the sampler's have not."""
        return parts.encode_images(parts.decode(latents) * 2 - 1)

    return round_trip


def _finished(item: Iteration, folder: Path, model: str, config: SPINConfig) -> None:
    """One line on stdout, and the player's card."""
    path = folder / f"iter_{item.number}" / "model" / "README.md"
    if not path.exists():
        write_text(path, model_card(model, config, f"SPIN-Diffusion, iteration {item.number + 1}"))
    text = f"iteration {item.number}: loss {item.first['loss']:.4f} -> {item.last['loss']:.4f}"
    text += f", d_real {item.last['d_real']:+.2e}, d_fake {item.last['d_fake']:+.2e}"
    if item.held_out:
        text += f", held-out error {item.held_out['error']:.4f} (start {item.held_out['start_error']:.4f})"
        text += f", held-out accuracy {item.held_out['implicit_accuracy']:.2f}"
    for name, value in item.evaluation.get("distances", {}).items():
        text += f", {name} {value:.4g}"
    for name, value in item.evaluation.get("score_summary", {}).items():
        text += f", {name} {value['mean']:.4g}"
    print(text, flush=True)


def _write_card(accelerator: Any, folder: Path, model: str, config: SPINConfig, title: str) -> None:
    if accelerator.is_main_process:
        write_text(folder / "README.md", model_card(model, config, title))
    accelerator.wait_for_everyone()
