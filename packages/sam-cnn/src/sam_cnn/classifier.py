"""A small CNN trained with SGD or a member of the SAM family, resumable to the bit."""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from shared_core.errors import InputError, RunError
from shared_core.files import atomic_path
from torch import Tensor, nn

from sam_cnn.accumulation import sam_step
from sam_cnn.images import Splits
from sam_cnn.sam import SAM

OptimizerName = Literal["sgd", "sam", "asam", "gsam", "looksam", "msam"]
DEFAULT_RHO = {"sgd": 0.0, "asam": 1.0}


@dataclass(frozen=True)
class Fit:
    """How a classifier is trained.

    Args:
        optimizer: sgd, sam, asam, gsam, looksam, or msam (each of `micro_batches` climbs along its own gradient).
        rho: radius; 0.1 by default, 1 for asam.
        epochs: passes over the data, with a cosine schedule of the learning rate.
        sam_epochs: after so many epochs the rest is plain SGD; None for none.
        learning_rate: at the start.
        momentum: of SGD.
        weight_decay: of SGD.
        batch_size: images a step.
        micro_batches: of msam.
        model: cnn, or resnet18 (of torchvision, with a first layer for small images).
        augment: shift by up to four pixels and mirror, as is usual for CIFAR.
        seed: of weights, label noise and the order of batches.

    Raises:
        InputError: for values out of range.
    """

    optimizer: OptimizerName = "sam"
    rho: float | None = None
    epochs: int = 40
    sam_epochs: int | None = None
    learning_rate: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 0.0
    batch_size: int = 64
    micro_batches: int = 4
    model: Literal["cnn", "resnet18"] = "cnn"
    augment: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "micro_batches"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be >= 1, got {getattr(self, name)}")
        if self.rho is not None and not (math.isfinite(self.rho) and self.rho >= 0):
            raise InputError(f"rho must be a finite number >= 0, got {self.rho}")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise InputError(f"learning_rate must be a finite number > 0, got {self.learning_rate}")
        if not 0 <= self.momentum < 1:
            raise InputError(f"momentum must be in [0, 1), got {self.momentum}")
        if not self.weight_decay >= 0:
            raise InputError(f"weight_decay must be >= 0, got {self.weight_decay}")
        if self.sam_epochs is not None and not 0 <= self.sam_epochs <= self.epochs:
            raise InputError(f"sam_epochs must be in 0..epochs = {self.epochs}, got {self.sam_epochs}")

    @property
    def radius(self) -> float:
        """rho as a number."""
        if self.optimizer == "sgd":
            return 0.0
        return DEFAULT_RHO.get(self.optimizer, 0.1) if self.rho is None else self.rho


class SmallCNN(nn.Module):
    """conv 16 - relu - conv 32 - relu - pool - linear 128 - relu - linear; the first has stride 2 from 16 pixels on."""

    def __init__(self, channels: int, side: tuple[int, int], classes: int) -> None:
        super().__init__()
        stride = 2 if min(side) >= 16 else 1
        self.features = nn.Sequential(
            nn.Conv2d(channels, 16, 3, stride, padding=1), nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        )  # fmt: skip
        height, width = (-(-length // stride) // 2 for length in side)
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(32 * height * width, 128), nn.ReLU(), nn.Linear(128, classes))

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.head(self.features(x))


def make_classifier(fit: Fit, splits: Splits) -> nn.Module:
    """The network with its weights drawn from the seed, on the splits' device."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(fit.seed)
        if fit.model == "cnn":
            model: nn.Module = SmallCNN(splits.x.shape[1], (splits.x.shape[2], splits.x.shape[3]), splits.classes)
        else:
            model = _resnet(splits.classes, splits.x.shape[1])
    return model.to(splits.x.device)


def _resnet(classes: int, channels: int) -> nn.Module:
    try:
        resnet18 = import_module("torchvision.models").resnet18
    except ImportError:
        raise InputError("model resnet18 needs torchvision: pip install 'sam-cnn[vision]'") from None
    model = resnet18(num_classes=classes)
    model.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
    model.maxpool = nn.Identity()
    return model


def make_optimizer(fit: Fit, model: nn.Module) -> SAM:
    """The member of the family; plain SGD is its radius 0."""
    return SAM(
        model.parameters(),
        torch.optim.SGD,
        fit.radius,
        adaptive=fit.optimizer == "asam",
        variant=fit.optimizer if fit.optimizer in ("gsam", "looksam") else "sam",
        model=model,
        lr=fit.learning_rate,
        momentum=fit.momentum,
        weight_decay=fit.weight_decay,
    )


@dataclass
class Progress:
    """What a training has reached.

    Attributes:
        epoch: epochs done.
        history: one mapping an epoch: loss, validation accuracy, share of wrong labels that are reproduced.
    """

    epoch: int
    history: list[dict[str, float]]


def fit_classifier(
    fit: Fit,
    splits: Splits,
    model: nn.Module,
    optimizer: SAM,
    progress: Progress,
    after: Callable[[Progress], None] = lambda progress: None,
) -> Progress:
    """Train from `progress` to the end, in place.

    Raises:
        RunError: if the loss is not finite in every step of an epoch.
    """
    n = len(splits.y)
    for epoch in range(progress.epoch, fit.epochs):
        generator = torch.Generator().manual_seed(fit.seed * 1_000_003 + epoch)
        order = torch.randperm(n, generator=generator)
        model.train()
        losses = []
        for step, rows in enumerate(order.split(fit.batch_size)):
            share = (epoch + step * fit.batch_size / n) / fit.epochs
            _set_rates(fit, optimizer, epoch, share)
            losses.append(_step(fit, splits, model, optimizer, rows, generator))
        finite = [loss for loss in losses if math.isfinite(loss)]
        if not finite:
            raise RunError(f"no finite loss in epoch {epoch + 1}: lower learning_rate or rho = {fit.radius}")
        row = {"epoch": epoch + 1, "loss": sum(finite) / len(finite), "skipped": optimizer.skipped}
        progress.history.append(row | measure(model, splits, test=False))
        progress.epoch = epoch + 1
        after(progress)
    return progress


def _set_rates(fit: Fit, optimizer: SAM, epoch: int, share: float) -> None:
    plain = fit.sam_epochs is not None and epoch >= fit.sam_epochs
    for group in optimizer.param_groups:
        group["lr"] = fit.learning_rate * 0.5 * (1 + math.cos(math.pi * share))
        group["rho"] = 0.0 if plain else fit.radius


def _step(
    fit: Fit, splits: Splits, model: nn.Module, optimizer: SAM, rows: Tensor, generator: torch.Generator
) -> float:
    rows = rows.to(splits.x.device)
    x, y = splits.x[rows], splits.y[rows]
    if fit.augment:
        x = _augment(x, generator)

    def loss_fn(batch: tuple[Tensor, Tensor]) -> Tensor:
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    if fit.optimizer == "msam":
        size = -(-len(y) // fit.micro_batches)
        batches = list(zip(x.split(size), y.split(size), strict=True))
        return sam_step(optimizer, loss_fn, batches, ascent="micro")
    return sam_step(optimizer, loss_fn, [(x, y)])


def _augment(x: Tensor, generator: torch.Generator) -> Tensor:
    n, _, height, width = x.shape
    padded = nn.functional.pad(x, (4, 4, 4, 4))
    shifts = torch.randint(0, 9, (n, 2), generator=generator).tolist()
    mirror = (torch.rand(n, generator=generator) < 0.5).tolist()
    moved = [image[:, i : i + height, j : j + width] for image, (i, j) in zip(padded, shifts, strict=True)]
    return torch.stack([image.flip(-1) if flip else image for image, flip in zip(moved, mirror, strict=True)])


@torch.no_grad()
def measure(model: nn.Module, splits: Splits, *, test: bool) -> dict[str, float]:
    """Accuracies in percent, and the share of wrong training labels that the model reproduces.

    Args:
        model: to be judged.
        splits: the data.
        test: the test accuracy too; leave it out while anything is being chosen.
    """
    model.eval()
    predicted = _predict(model, splits.x)
    result = {
        "validation": _accuracy(_predict(model, splits.validation[0]), splits.validation[1]),
        "train": _accuracy(predicted, splits.y),
    }
    if splits.wrong.any():
        result["memorised"] = _accuracy(predicted[splits.wrong], splits.y[splits.wrong])
    if test:
        result["test"] = _accuracy(_predict(model, splits.test[0]), splits.test[1])
    return result


def _predict(model: nn.Module, x: Tensor) -> Tensor:
    return torch.cat([model(part).argmax(-1) for part in x.split(1000)])


def _accuracy(predicted: Tensor, y: Tensor) -> float:
    return 100 * float((predicted == y).double().mean())


def save_checkpoint(path: Path, model: nn.Module, optimizer: SAM, progress: Progress) -> None:
    """Everything a training needs to go on, in one safetensors file, atomically."""
    state = optimizer.state_dict()
    tensors = {f"model.{name}": value.contiguous() for name, value in model.state_dict().items()}
    for index, entry in state["state"].items():
        tensors |= {f"state.{index}.{key}": value for key, value in entry.items() if isinstance(value, Tensor)}
    tensors |= {f"direction.{index}": value for index, value in state["sam"]["directions"].items()}
    counters = {key: state["sam"][key] for key in ("steps", "skipped")}
    with atomic_path(path) as aside:
        # one entry only: safetensors writes several in no fixed order
        save_file(tensors, aside, metadata={"training": json.dumps({**asdict(progress), **counters})})


def load_checkpoint(path: Path, model: nn.Module, optimizer: SAM) -> Progress:
    """Put a saved training back into a fresh model and optimiser.

    Raises:
        InputError: if the file is not such a checkpoint, or of another model.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        training = json.loads(metadata["training"])
        progress = Progress(training["epoch"], training["history"])
        counters = {key: training[key] for key in ("steps", "skipped")}
        model.load_state_dict({key.removeprefix("model."): v for key, v in tensors.items() if key.startswith("model.")})
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{path} is not a checkpoint of this training: {str(error).splitlines()[0]}") from None
    state: dict[int, dict[str, Any]] = {}
    directions = {}
    for name, value in tensors.items():
        kind, _, rest = name.partition(".")
        if kind == "state":
            index, _, key = rest.partition(".")
            state.setdefault(int(index), {})[key] = value
        elif kind == "direction":
            directions[int(rest)] = value
    own = {**counters, "variant": optimizer.variant, "directions": directions}
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"], "sam": own})
    return progress
