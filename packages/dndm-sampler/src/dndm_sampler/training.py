"""Training the small denoisers: resumable to the bit on a CPU, safetensors and json only."""

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from shared_core.device import check_seed
from shared_core.errors import InputError, RunError
from shared_core.files import atomic_path
from shared_core.logging import progress
from shared_core.run_folder import RunFolder, read_json
from torch import Tensor, nn

from dndm_sampler import corpus, translation
from dndm_sampler.char_denoiser import CharDenoiser
from dndm_sampler.config import TrainConfig
from dndm_sampler.schedule import TransitionSchedule

log = logging.getLogger(__name__)


class Batch(NamedTuple):
    """Clean tokens, and what else the denoiser is given."""

    clean: Int[Tensor, "rows length"]
    inputs: Mapping[str, Tensor]


class Task(NamedTuple):
    """What a denoiser is trained on: batches, and what of the data belongs to the run's settings."""

    name: str
    batch: Callable[..., Batch]
    settings: Mapping[str, Any] = {}


class NoisyBatch(NamedTuple):
    """What the denoiser sees at time t, and where its loss counts."""

    noisy: Int[Tensor, "rows length"]
    t: Float[Tensor, "rows"]
    where: Bool[Tensor, "rows length"]


def corrupt(
    clean: Int[Tensor, "rows length"],
    schedule: TransitionSchedule,
    vocab_size: int,
    noise: str,
    generator: torch.Generator,
) -> NoisyBatch:
    """x_t from x_0 at stratified times: q(x_t | x_0) = alpha_t x_0 + (1 - alpha_t) noise.

    The marginals are those of D3PM and DNDM alike, so one denoiser serves both. The loss is the mean cross-entropy at
    masked tokens (absorbing) or at all tokens (multinomial).
    """
    rows = len(clean)
    t = (torch.arange(rows) + torch.rand(rows, generator=generator)) / rows
    noised = torch.rand(clean.shape, generator=generator) >= schedule.alpha(t)[:, None]
    if noise == "absorbing":
        return NoisyBatch(clean.masked_fill(noised, vocab_size), t, noised)
    random = torch.randint(vocab_size, clean.shape, generator=generator)
    return NoisyBatch(torch.where(noised, random, clean), t, torch.ones_like(noised))


def denoising_loss(model: nn.Module, noisy: NoisyBatch, batch: Batch) -> Float[Tensor, ""]:
    """Mean cross-entropy of the clean tokens where the loss counts; 0 where it counts nowhere (no token was masked)."""
    logits = model(noisy.noisy, noisy.t, **batch.inputs)
    total = nn.functional.cross_entropy(logits[noisy.where], batch.clean[noisy.where], reduction="sum")
    return total / noisy.where.sum().clamp(min=1)


def train_text(
    out: str | Path, text: str | Path | None, config: TrainConfig, seed: int, device: torch.device
) -> nn.Module:
    """Train a `CharDenoiser` on a text file, or on the standard library's documentation.

    Args:
        out: run folder; an unfinished run with the same settings goes on where its last checkpoint stands.
        text: UTF-8 file; None for the documentation of the running Python.
        config: settings.
        seed: of the weights and of every batch.
        device: where to train.

    Returns:
        The trained model in eval mode; it is also in `out/model.safetensors`.

    Raises:
        InputError: for settings or text that cannot be used, or a folder that holds another run.
        RunError: if the loss becomes NaN (the last good checkpoint stays).
    """
    return train_to_folder(out, "text", config, seed, device, text)[0]


def _text_task(text: str | Path | None, config: TrainConfig) -> Task:
    ids = corpus.load_corpus(text, config.length, config.max_characters)
    train_ids, held_out = corpus.split(ids, config.held_out)
    for part, name in ((train_ids, "training"), (held_out, "held-out")):
        if len(part) < config.length:
            raise InputError(
                f"the {name} part of the text holds {len(part)} characters, less than one row of length "
                f"{config.length}; change held_out ({config.held_out}) or length, or give more text"
            )

    def batch(generator: torch.Generator, held: bool = False) -> Batch:
        source = held_out if held else train_ids
        start = torch.randint(len(source) - config.length + 1, (config.batch_size, 1), generator=generator)
        return Batch(source[start + torch.arange(config.length)], {})

    return Task("text", batch, {"text": str(text) if text else None, "characters": len(ids)})


def train_translation(out: str | Path, config: TrainConfig, seed: int, device: torch.device) -> nn.Module:
    """Train a `Translator` on the toy translation task; arguments and result as `train_text`.

    Raises:
        InputError: as `train_text`, and for a width that is not a multiple of 4.
        RunError: as `train_text`.
    """
    return train_to_folder(out, "translation", config, seed, device)[0]


def _translation_task(config: TrainConfig) -> Task:
    if config.width < 4 or config.width % 4:
        raise InputError(f"width must be a positive multiple of 4 for the translation task, got {config.width}")

    def batch(generator: torch.Generator, held: bool = False) -> Batch:
        # numbers divisible by ten are held out: never trained on, always evaluated
        numbers = torch.randint(100_000, (config.batch_size,), generator=generator) * 10
        if not held:
            numbers = numbers + torch.randint(1, 10, (config.batch_size,), generator=generator)
        dialect = torch.randint(translation.NUM_DIALECTS, (config.batch_size,), generator=generator)
        refs = translation.references(numbers)
        return Batch(refs[torch.arange(len(numbers)), dialect], {"source": translation.digits(numbers)})

    return Task("translation", batch)


def build_model(task: str, config: TrainConfig) -> tuple[nn.Module, int]:
    """The untrained model of a task and its number of clean tokens."""
    extra = int(config.noise == "absorbing")
    if task == "text":
        return CharDenoiser(len(corpus.ALPHABET), extra, config.width), len(corpus.ALPHABET)
    return translation.Translator(config.width, extra_tokens=extra), translation.VOCAB_SIZE


def train_to_folder(
    out: str | Path | None,
    task: str,
    config: TrainConfig,
    seed: int,
    device: torch.device,
    text: str | Path | None = None,
) -> tuple[nn.Module, Path]:
    """The trained model of a task, `text` or `translation`, and the run folder it is in; None is the default folder.

    Raises:
        InputError: as `train_text` and `train_translation`.
        RunError: as `train_text`.
    """
    _check(config)
    work = _translation_task(config) if task == "translation" else _text_task(text, config)
    return _train(out, work, config, seed, device)


def _train(
    out: str | Path | None, task: Task, config: TrainConfig, seed: int, device: torch.device
) -> tuple[nn.Module, Path]:
    check_seed(seed)
    torch.manual_seed(seed)
    model, vocab_size = build_model(task.name, config)
    model.to(device)
    schedule = TransitionSchedule.parse(config.schedule)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=0.01, betas=(0.9, 0.98))

    def loss_of(step: int, held: bool = False) -> Tensor:
        # every step has its own seed, so a resumed run needs no generator state
        generator = torch.Generator().manual_seed((seed * 2 + held) * 2**32 + step)
        batch = task.batch(generator, held)
        noisy = corrupt(batch.clean, schedule, vocab_size, config.noise, generator)
        on_device = Batch(batch.clean.to(device), {key: value.to(device) for key, value in batch.inputs.items()})
        return denoising_loss(model, NoisyBatch(*(part.to(device) for part in noisy)), on_device)

    settings = {"verb": "train", "task": task.name, **task.settings}
    settings |= {"seed": seed, "device": device.type, "config": asdict(config)}
    with RunFolder(out, package="dndm-sampler", settings=settings) as folder:
        start = load_checkpoint(folder.path, model, optimizer) if folder.resumed else 0
        folder.metrics.rewind(start)
        for step in progress(range(start, config.steps), f"training ({config.noise})"):
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * _cosine_decay(step, config.steps)
            loss = loss_of(step)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            done = step + 1
            if done % config.checkpoint_every == 0 or done == config.steps:
                value = loss.item()
                if not math.isfinite(value):
                    raise RunError(f"training loss is {value} at step {done}; {folder.path} keeps the last good "
                                   "checkpoint: lower learning_rate and start again")  # fmt: skip
                folder.metrics.write(done, loss=value)
                save_checkpoint(folder.path, model, optimizer, done)
        model.eval()
        with torch.no_grad():
            held_out = [float(loss_of(step, held=True)) for step in range(16)]
        save_model(folder.path, model, task.name, config)
        folder.write_json("result.json", {"steps": config.steps, "held_out_loss": sum(held_out) / len(held_out)})
        log.info("held-out loss %.3f nats a token", sum(held_out) / len(held_out))
    return model, folder.path


def _cosine_decay(step: int, steps: int) -> float:
    return 0.5 * (1 + math.cos(math.pi * step / steps))


def save_checkpoint(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Weights and optimiser state in one safetensors file, which appears whole."""
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in state.items()}
    with atomic_path(folder / "checkpoint.safetensors") as aside:
        save_file({name: value.contiguous() for name, value in tensors.items()}, aside, metadata={"step": str(step)})


def load_checkpoint(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Restore weights and optimiser state in place and return the step, 0 where there is no checkpoint yet.

    Raises:
        InputError: if the file is damaged.
    """
    path = folder / "checkpoint.safetensors"
    if not path.exists():
        return 0
    try:
        tensors = load_file(path)
        with safe_open(path, "pt") as file:
            step = int(file.metadata()["step"])
    except (SafetensorError, KeyError, TypeError) as error:
        raise InputError(f"{path} is not a checkpoint: {error}") from error
    model.load_state_dict({key[6:]: value for key, value in tensors.items() if key.startswith("model.")})
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".")
            state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    log.info("at step %d", step)
    return step


def save_model(folder: Path, model: nn.Module, task: str, config: TrainConfig) -> None:
    """`model.safetensors` and `model.json` (which rebuilds the model), for `load_model`."""
    from shared_core.files import write_json

    with atomic_path(folder / "model.safetensors") as aside:
        save_file({name: value.contiguous() for name, value in model.state_dict().items()}, aside)
    write_json(folder / "model.json", {"task": task, "config": asdict(config)})


def load_model(folder: str | Path, device: torch.device | str = "cpu") -> tuple[nn.Module, str, TrainConfig]:
    """A trained model in eval mode, its task, and the settings it was trained with.

    Raises:
        InputError: if `folder` holds no finished training, or its files are damaged.
    """
    description, weights = Path(folder) / "model.json", Path(folder) / "model.safetensors"
    if not description.exists() or not weights.exists():
        raise InputError(f"{folder} holds no trained model (model.json and model.safetensors); train one first")
    try:
        values = read_json(description)
        config, task = TrainConfig(**values["config"]), values["task"]
        model, _ = build_model(task, config)
        model.load_state_dict(load_file(weights))
    except (SafetensorError, KeyError, TypeError, RuntimeError) as error:
        raise InputError(f"{folder} holds a damaged model: {str(error).splitlines()[0]}") from error
    return model.to(device).eval(), task, config


def _check(config: TrainConfig) -> None:
    TransitionSchedule.parse(config.schedule)
    if config.noise not in ("absorbing", "multinomial"):
        raise InputError(f"noise must be absorbing or multinomial, got {config.noise!r}")
    for name in ("length", "steps", "batch_size", "checkpoint_every"):
        if getattr(config, name) < 1:
            raise InputError(f"{name} must be at least 1, got {getattr(config, name)}")
    if not 0.01 <= config.held_out <= 0.5:
        raise InputError(f"held_out must be from 0.01 to 0.5, got {config.held_out}")
    if config.max_characters is not None and config.max_characters < 1:
        raise InputError(f"max_characters must be at least 1, got {config.max_characters}")
    if not config.learning_rate > 0:
        raise InputError(f"learning_rate must be positive, got {config.learning_rate}")
