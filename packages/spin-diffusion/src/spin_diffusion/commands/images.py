"""`sample`, `eval`, `merge` and `toy`."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from shared_core.errors import InputError
from shared_core.files import atomic_folder, write_json, write_text
from shared_core.logging import progress
from shared_core.run_folder import read_json, run_path
from torch import Tensor

from spin_diffusion.commands.setting import (
    PACKAGE,
    Reading,
    check_inputs,
    load_data,
    log_start,
    open_device,
    opened_run,
)
from spin_diffusion.config import Sampler, SPINConfig
from spin_diffusion.denoiser import Condition
from spin_diffusion.evaluation import compare_scores, decoded, distances, make_features, score_summary, scores
from spin_diffusion.opponents import generate_opponents
from spin_diffusion.pictures import save_picture
from spin_diffusion.pipelines import Parts, check_model, load_parts
from spin_diffusion.sampling import image_seed
from spin_diffusion.sampling import sample as sample_latents
from spin_diffusion.scorers import Scorer, load_scorers
from spin_diffusion.toy import ToyKind, write_toy
from spin_diffusion.training_set import TrainingSet


def sample(
    model: str, prompts: Sequence[str], out: str | None, sampler: Sampler, device: str, *,
    player: str | None, count: int, resolution: int | None, seed: int,
) -> int:  # fmt: skip
    """Images as PNG files, with a list of what they are."""
    if count < 1:
        raise InputError(f"n must be at least 1, got {count}")
    if resolution is not None and resolution < 1:
        raise InputError(f"resolution must be at least 1, got {resolution}")
    accelerator = open_device(device, "float32", seed)
    texts = _prompts(prompts)
    check_model(model, player)
    settings = {
        "verb": "sample", "model": model, "player": player, "prompts": texts, "n": count, "resolution": resolution,
        "seed": seed, "sampler": asdict(sampler),
    }  # fmt: skip
    path = run_path(out, package=PACKAGE, settings=settings)
    with opened_run(path, settings, accelerator, "metadata.jsonl") as folder:
        parts = load_parts(model, player)
        _check_prompts(parts, texts)
        rows = [(index, number) for index in range(max(1, len(texts))) for number in range(count)]
        log_start(accelerator)
        names = [f"{index:04d}-{number:02d}.png" for index, number in rows]
        starts = range(0, len(rows), sampler.batch_size)
        for start in progress(list(starts), "sampling"):
            stop = start + sampler.batch_size
            if all((folder / name).exists() for name in names[start:stop]):
                continue
            images = _draw(parts, texts, rows[start:stop], sampler, accelerator.device, resolution, seed)
            for name, image in zip(names[start:stop], images, strict=True):
                save_picture(image, folder / name)
        lines = [
            json.dumps({"file_name": name, "text": texts[index] if texts else ""}, ensure_ascii=False)
            for name, (index, _) in zip(names, rows, strict=True)
        ]
        write_text(folder / "metadata.jsonl", "".join(line + "\n" for line in lines))
    print(f"{folder}: {len(rows)} images")
    return 0


def evaluate(
    model: str, data: str, out: str | None, config: SPINConfig, device: str, reading: Reading, *,
    players: Sequence[str], samples: int, scorers: Sequence[str], features: str,
) -> int:  # fmt: skip
    """Players beside the model: distances to the real images, scores, win rates."""
    if samples < 1:
        raise InputError(f"n must be at least 1, got {samples}")
    accelerator = open_device(device, config.optimization.precision, config.seed)
    settings = {
        "verb": "eval", "model": model, "data": data, "players": list(players), "n": samples,
        "scorers": list(scorers), "features": features, "sampler": asdict(config.sampler), "seed": config.seed,
        **reading.settings(),
    }  # fmt: skip
    path = run_path(out, package=PACKAGE, settings=settings)
    check_inputs(data, path, reading)
    for player in [None, *players]:
        check_model(model, player)
    plugins, measure = load_scorers(scorers), make_features(features)
    results: dict[str, Any] = {}
    with opened_run(path, settings, accelerator) as folder:
        for number, player in enumerate([None, *players]):
            parts = load_parts(model, player)
            found = load_data(parts, data, folder, reading, accelerator, config.seed)
            if not number:
                log_start(accelerator)
            path = folder / "players" / f"{number:02d}"
            if not (path / "evaluation.json").exists():
                result = _judged(
                    parts, found.held_out or found.train, path, config, samples, plugins, measure, accelerator
                )
                if accelerator.is_main_process:
                    write_json(path / "evaluation.json", result)
                accelerator.wait_for_everyone()
            results[player or "model"] = read_json(path / "evaluation.json")
        base = results["model"]["scores"]
        for name, result in results.items():
            result["win_rates"] = compare_scores(result["scores"], base) if name != "model" else {}
        if accelerator.is_main_process:
            write_json(folder / "result.json", results)
    if accelerator.is_main_process:
        _print(results)
    return 0


def merge(model: str, player: str, out: str) -> int:
    """A whole pipeline with the player's weights in it."""
    if Path(out).exists():
        raise InputError(f"--out {out} exists; give another name or remove it")
    parts = load_parts(model, player)
    with atomic_folder(Path(out)) as aside:
        parts.pipe.save_pretrained(aside, safe_serialization=True)
    print(out)
    return 0


def toy(out: str, kind: ToyKind, n: int, seed: int) -> int:
    """A tiny pipeline and a folder of images."""
    write_toy(Path(out), kind, n, seed)
    print(f"{out}/pipeline {out}/images")
    return 0


def _prompts(given: Sequence[str]) -> list[str]:
    """Prompts as they are, or the lines of one file of them."""
    if len(given) == 1 and Path(given[0]).is_file():
        lines = Path(given[0]).read_text(encoding="utf-8").split("\n")
        texts = [line.strip() for line in lines if line.strip()]
        if not texts:
            raise InputError(f"{given[0]} holds no prompt")
        return texts
    if len(given) == 1 and given[0].endswith(".txt"):
        raise InputError(f"--prompts {given[0]}: there is no such file (a prompt that ends so is one of two or more)")
    if any(not text.strip() for text in given):
        raise InputError("a prompt is empty")
    return list(given)


def _draw(
    parts: Parts, texts: Sequence[str], rows: Sequence[tuple[int, int]], sampler: Sampler, device: torch.device,
    resolution: int | None, seed: int,
) -> Tensor:  # fmt: skip
    side = resolution or parts.resolution
    if side % parts.vae_factor or side < 1:
        raise InputError(f"resolution must be a multiple of {parts.vae_factor}, got {side}")
    parts.encoders_to(device)
    parts.net.to(device).eval()
    shape = (int(parts.net.config.in_channels), side // parts.vae_factor, side // parts.vae_factor)  # type: ignore[union-attr,arg-type] # diffusers' configuration
    condition, null = _conditions(parts, [texts[index] for index, _ in rows], side) if texts else ({}, None)
    seeds = [image_seed(seed, 0, *row) for row in rows]
    return parts.decode(sample_latents(parts.net, parts.scheduler, condition, null, sampler, seeds, shape))


def _check_prompts(parts: Parts, texts: Sequence[str]) -> None:
    """Texts for a pipeline with a text encoder, numbers of classes for a UNet that has them, else nothing."""
    if parts.kind != "pixels" and not texts:
        raise InputError("give --prompts, or a file of them, one a line")
    if parts.kind != "pixels":
        return
    classes = _classes(parts)
    if classes == 0 and texts:
        raise InputError(f"{parts.source} takes no prompts")
    if classes and not texts:
        raise InputError(f"{parts.source} has classes: give their numbers as --prompts")
    for text in texts:
        if not text.isdigit() or int(text) >= classes:
            raise InputError(f"prompts: {text!r} is no class of {parts.source}, which has 0 .. {classes - 1}")


def _classes(parts: Parts) -> int:
    config = parts.net.config
    return int(config.num_class_embeds or 0)  # type: ignore[union-attr,arg-type] # diffusers' configuration


def _conditions(parts: Parts, texts: Sequence[str], side: int) -> tuple[Condition, Condition | None]:
    if parts.kind != "pixels":
        return parts.encode_prompts(texts, side)
    # the last class is the condition without a class, as in training
    last = torch.tensor([_classes(parts) - 1])
    return {"class_labels": torch.tensor([int(text) for text in texts])}, {"class_labels": last}


def _judged(
    parts: Parts, data: TrainingSet, path: Path, config: SPINConfig, samples: int, plugins: Sequence[Scorer],
    measure: Any, accelerator: Any,
) -> dict[str, Any]:  # fmt: skip
    """One player; images of a prompt are scored apart and summed up as their mean, median and best."""
    parts.net.to(accelerator.device).eval()
    drawn = generate_opponents(
        parts.net, parts.scheduler, data, config.sampler, accelerator, seed=config.seed, samples_per_prompt=samples,
        folder=path / "samples", label="sampling",
    )  # fmt: skip
    images = decoded(drawn, parts.decode)
    real = measure(decoded(data.latents, parts.decode))
    found: dict[str, Any] = {"scores": {}, "summary": {}}
    if len(data) > 1:
        # one image a prompt: sets of the same number, as few-sample distances are biased
        found["distances"] = distances(real, measure(images[::samples]), config.seed)
    if data.prompts:
        prompts = [data.prompts[index] for index in data.prompt_of.tolist() for _ in range(samples)]
        values = scores(images, prompts, plugins)
        found["scores"] = {
            name: [row[start : start + samples] for start in range(0, len(row), samples)]
            for name, row in values.items()
        }
        found["summary"] = score_summary(found["scores"])
    return found


def _print(results: dict[str, Any]) -> None:
    for name, result in results.items():
        print(name)
        for key, value in result.get("distances", {}).items():
            print(f"  {key:<22} {value:.4g}")
        for key, value in result["summary"].items():
            print(f"  {key:<22} " + ", ".join(f"{part} {number:.4g}" for part, number in value.items()))
        for key, value in result["win_rates"].items():
            text = f"{value['value']:.2f} ({value['low']:.2f} .. {value['high']:.2f})"
            print(f"  {key + ' win rate':<22} {text}")
