"""A small network for the cavity law, trained by the posterior's cross-entropy; resumable to the bit."""

import json
import logging
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from shared_core.device import check_seed
from shared_core.errors import InputError, RunError
from shared_core.files import atomic_path
from torch import Tensor, nn

from ctmc_bounds.checks import check_space, check_times
from ctmc_bounds.data_laws import DataLaw
from ctmc_bounds.estimators import NetworkScore
from ctmc_bounds.losses import posterior_cross_entropy
from ctmc_bounds.samplers.base import noised
from ctmc_bounds.schedules import clock

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class NetworkShape:
    """Size of a `CavityMLP`.

    Raises:
        InputError: unless width and layers are at least 1.
    """

    S: int
    d: int
    width: int = 128
    layers: int = 2

    def __post_init__(self) -> None:
        check_space(self.S, self.d)
        if self.width < 1 or self.layers < 1:
            raise InputError(f"width = {self.width}, layers = {self.layers}: a network has at least 1 of each")


@dataclass(frozen=True)
class Training:
    """How a network is trained.

    Attributes:
        steps: Adam steps.
        batch_size: draws per step.
        learning_rate: of the first step, falling to 0 along a cosine.
        T: largest noise level.
        delta: smallest noise level, above 0.
        seed: of weights and draws.

    Raises:
        InputError: for delta = 0 or outside (0, T), steps or batch_size below 1, learning_rate not above 0, or a seed
            out of range.
    """

    steps: int = 4000
    batch_size: int = 256
    learning_rate: float = 3e-3
    T: float = 6.0
    delta: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        check_times(self.T, self.delta)
        check_seed(self.seed)
        if self.delta == 0 or self.steps < 1 or self.batch_size < 1 or not 0 < self.learning_rate < math.inf:
            needs = "delta > 0, steps >= 1, batch_size >= 1 and a finite learning_rate > 0"
            raise InputError(f"training needs {needs}, got {self}")


class CavityMLP(nn.Module):
    """(tokens, t) -> logits (batch, d, S) of the cavity laws: one-hot tokens and features of t through an MLP."""

    def __init__(self, shape: NetworkShape) -> None:
        super().__init__()
        self.shape = shape
        sizes = [shape.d * shape.S + 3, *[shape.width] * shape.layers]
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.out = nn.Linear(sizes[-1], shape.d * shape.S)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Logits; t of shape (batch,)."""
        time = t.to(self.out.weight.dtype).unsqueeze(1)
        one_hot = nn.functional.one_hot(x, self.shape.S).flatten(1).to(time.dtype)
        value = torch.cat([one_hot, torch.exp(-time), torch.log(time) / 4, time / 6], 1)
        for layer in self.hidden:
            value = nn.functional.silu(layer(value))
        return self.out(value).view(-1, self.shape.d, self.shape.S)


def make_network(shape: NetworkShape, seed: int, device: torch.device | str = "cpu") -> CavityMLP:
    """A network with weights of that seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CavityMLP(shape).to(device)


def train_cavity_network(
    data: DataLaw,
    shape: NetworkShape,
    training: Training,
    checkpoint: Path | None = None,
    checkpoint_every: int = 500,
    report: Callable[[int, float], None] | None = None,
) -> NetworkScore:
    """Minimise E -log w(x0_i), w proportional to mu(a) K_t(a, x_i): its minimum is the true cavity law.

    t is uniform in the clock of the exp_const schedule, so that every noise level counts.

    Args:
        data: law to draw x0 from.
        shape: of the network.
        training: see `Training`.
        checkpoint: safetensors file to go on from and to write every `checkpoint_every` steps.
        checkpoint_every: steps between checkpoints and reports.
        report: called with (step, mean loss since the last report).

    Raises:
        InputError: for a checkpoint of another run.
        RunError: if the loss is not finite.
    """
    device = data.device
    network = make_network(shape, training.seed, device)
    optimiser = torch.optim.Adam(network.parameters(), lr=training.learning_rate)
    generator = torch.Generator(device=device).manual_seed(training.seed)
    first = _resume(checkpoint, network, optimiser, generator, training) if checkpoint else 0
    total = 0.0
    for step in range(first, training.steps):
        for group in optimiser.param_groups:
            group["lr"] = training.learning_rate * (1 + math.cos(math.pi * step / training.steps)) / 2
        loss = _loss(network, data, training, generator)
        if not bool(torch.isfinite(loss)):
            raise RunError(f"the loss is not finite at step {step}; lower learning_rate = {training.learning_rate}")
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        total += float(loss.detach())
        if (step + 1) % checkpoint_every == 0 or step + 1 == training.steps:
            if report is not None:
                report(step + 1, total / (step % checkpoint_every + 1))
            total = 0.0
            if checkpoint is not None:
                save_checkpoint(checkpoint, network, optimiser, generator, training, step + 1)
    return _estimator(network)


def _estimator(network: CavityMLP) -> NetworkScore:
    # widened, because an exact law needs a score that is smooth in t beyond float32's rounding
    return NetworkScore(network.double().eval(), network.shape.S, network.shape.d)


def _loss(network: CavityMLP, data: DataLaw, training: Training, generator: torch.Generator) -> Tensor:
    x0 = data.sample(training.batch_size, generator)
    u = torch.rand(training.batch_size, dtype=torch.float64, generator=generator, device=x0.device)
    low, high = clock(training.delta), clock(training.T)
    v = low + (high - low) * u
    t = torch.where(v > 0, v + 1, torch.exp(v))
    x = noised(x0, data.S, t, generator)
    return posterior_cross_entropy(network(x, t), x0, x, t.to(torch.float32)).mean()


def save_checkpoint(
    path: Path,
    network: CavityMLP,
    optimiser: torch.optim.Optimizer,
    generator: torch.Generator,
    training: Training,
    step: int,
) -> None:
    """Weights, Adam moments, the generator's state and the step, in one safetensors file, atomically."""
    tensors = {f"weight.{name}": value.contiguous() for name, value in network.state_dict().items()}
    for index, state in optimiser.state_dict()["state"].items():
        tensors |= {f"adam.{index}.{name}": value for name, value in state.items()}
    tensors["generator"] = generator.get_state()
    # one key: safetensors writes several in an order that changes from run to run
    about = {"shape": asdict(network.shape), "training": asdict(training), "step": step}
    with atomic_path(path) as aside:
        save_file(tensors, aside, {"ctmc_bounds": json.dumps(about)})


def _resume(
    path: Path,
    network: CavityMLP,
    optimiser: torch.optim.Optimizer,
    generator: torch.Generator,
    training: Training,
) -> int:
    if not path.exists():
        return 0
    tensors, metadata = _read(path)
    if metadata["training"] != asdict(training) or metadata["shape"] != asdict(network.shape):
        raise InputError(f"{path} was written by a run with other settings; give another --out or remove it")
    network.load_state_dict({name.removeprefix("weight."): v for name, v in tensors.items() if name[:7] == "weight."})
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("adam."):
            _, index, key = name.split(".")
            state.setdefault(int(index), {})[key] = value
    optimiser.load_state_dict({**optimiser.state_dict(), "state": state})
    generator.set_state(tensors["generator"])
    log.info("going on from step %s of %s", metadata["step"], path)
    return metadata["step"]


def load_network(path: str | Path, device: torch.device | str = "cpu") -> NetworkScore:
    """The estimator in a checkpoint of `train_cavity_network` (or the folder that holds it).

    Raises:
        InputError: if there is none.
    """
    file = Path(path) / "network.safetensors" if Path(path).is_dir() else Path(path)
    if not file.exists():
        raise InputError(f"{path} holds no network.safetensors; make one with the verb train")
    tensors, metadata = _read(file)
    weights = {name.removeprefix("weight."): v for name, v in tensors.items() if name[:7] == "weight."}
    try:
        network = CavityMLP(NetworkShape(**metadata["shape"]))
        network.load_state_dict(weights)
    except (KeyError, TypeError, RuntimeError) as error:
        raise InputError(f"{file} holds no network of this version: its weights do not fit its shape") from error
    return _estimator(network.to(device))


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    from safetensors import SafetensorError

    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except SafetensorError as error:
        raise InputError(f"{path} is not a safetensors file: {error}") from error
    if "ctmc_bounds" not in metadata:
        raise InputError(f"{path} is not a network of ctmc-bounds: it says nothing of its shape")
    return tensors, json.loads(metadata["ctmc_bounds"])
