"""Training by stochastic gradients on fresh (or pooled) tasks, resumable to the bit, on whatever accelerate offers.

The tasks of step t are drawn from a generator seeded by (seed, t), so a resumed run needs no random state, and several
processes split the very same batch: their run is the run of one process but for the rounding of sums.
"""

import math
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from shared_core.errors import InputError, RunError
from shared_core.files import atomic_path
from torch import Tensor, nn

from icl_linear.attention import ICLTransformer, LinearAttention
from icl_linear.checks import check_count, check_length, check_positive
from icl_linear.problem import Problem
from icl_linear.ridge import ridge_coefficients
from icl_linear.sampling import Design, Tasks, sample_tasks
from icl_linear.schedule import Schedule, make_schedule

if TYPE_CHECKING:
    from accelerate import Accelerator

ModelName = Literal["gamma", "factored", "full", "gpt2"]


@dataclass(frozen=True)
class Training:
    """How a module is trained.

    Args:
        model: `gamma` (the paper's), `factored` or `full` linear attention, `gpt2`.
        context: N, examples in each prompt.
        steps: optimiser steps.
        batch_size: prompts in each step.
        learning_rate: of the loss e^2 / 2.
        schedule: `constant`, `geometric`, `linear`, `poly:POWER`.
        optimizer: adam or sgd.
        loss: `query` is the paper's, at the last position; `all` averages over every prefix.
        seed: of the tasks and the start.
        pool: tasks are drawn from so many; fresh ones by default.
        design: law of the inputs.
        layers: of gpt2.
        width: of gpt2.
        heads: of gpt2.
        max_context: examples gpt2 has positions for; its training context by default.
    """

    model: ModelName = "full"
    context: int = 20
    steps: int = 2000
    batch_size: int = 64
    learning_rate: float = 0.003
    schedule: str = "constant"
    optimizer: Literal["adam", "sgd"] = "adam"
    loss: Literal["query", "all"] = "query"
    seed: int = 0
    pool: int | None = None
    design: Design = "gaussian"
    layers: int = 3
    width: int = 64
    heads: int = 4
    max_context: int | None = None

    def __post_init__(self) -> None:
        check_length("context", self.context)
        check_count("steps", self.steps)
        check_count("batch_size", self.batch_size)
        check_positive("learning_rate", self.learning_rate)
        if self.pool is not None:
            check_count("pool", self.pool)

    def schedule_(self) -> Schedule:
        """Learning rates of all steps."""
        return make_schedule(self.schedule, self.learning_rate, self.steps)


def make_model(d: int, training: Training) -> nn.Module:
    """The module of a `Training`, started from its seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        if training.model == "gpt2":
            holds = max(training.context, training.max_context or 0)
            return ICLTransformer(d, holds, training.layers, training.width, training.heads)
        return LinearAttention(d, {"gamma": "merged"}.get(training.model, training.model))  # type: ignore[arg-type] # the names coincide


def make_optimizer(model: nn.Module, training: Training) -> torch.optim.Optimizer:
    """Adam or plain SGD over the weights that are trained.

    Raises:
        InputError: for another optimizer.
    """
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    if training.optimizer == "sgd":
        return torch.optim.SGD(weights, lr=training.learning_rate)
    if training.optimizer == "adam":
        return torch.optim.Adam(weights, lr=training.learning_rate)
    raise InputError(f"optimizer must be adam or sgd, got {training.optimizer!r}")


def training_tasks(problem: Problem, training: Training, step: int, device: torch.device) -> Tasks:
    """The prompts of one step."""
    betas = None
    if training.pool is not None:
        pool = torch.Generator().manual_seed(mix(training.seed, -1))
        betas = problem.psi * torch.randn(training.pool, problem.d, generator=pool, dtype=torch.float64)
        betas = betas.to(device)
    generator = torch.Generator(device).manual_seed(mix(training.seed, step))
    return sample_tasks(
        problem,
        training.context,
        training.batch_size,
        generator,
        design=training.design,
        dtype=torch.float32,
        betas=betas,
    )


class Objective(nn.Module):
    """Half the mean squared error of a model, as a module: gradients of several processes meet in its forward call.

    Args:
        model: predicts by `model(X, y, x_query)` and `model.prefix_predictions(X, y)`.
        loss: `query` judges the last position, `all` every prefix.
    """

    def __init__(self, model: nn.Module, loss: Literal["query", "all"]) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, X: Tensor, y: Tensor, x_query: Tensor, y_query: Tensor) -> Float[Tensor, ""]:
        """Mean over the prompts (and prefixes) of (f - y)^2 / 2."""
        if self.loss == "query":
            return (self.model(X, y, x_query) - y_query).square().mean() / 2
        inputs, labels = torch.cat([X, x_query[:, None]], 1), torch.cat([y, y_query[:, None]], 1)
        return (self.model.prefix_predictions(inputs, labels) - labels).square().mean() / 2  # type: ignore[operator] # both modules have it


def accelerator_on(device: torch.device) -> "Accelerator":
    """This process's accelerator; alone, on `device` itself."""
    from accelerate import Accelerator

    if device.type == "cuda" and "LOCAL_RANK" not in os.environ:
        torch.cuda.set_device(device)  # accelerate takes the current one
    return Accelerator(cpu=device.type == "cpu")


def train_module(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    problem: Problem,
    training: Training,
    device: torch.device,
    *,
    start: int = 0,
    checkpoint_every: int = 100,
    after: Callable[[int, nn.Module, torch.optim.Optimizer, float], None] | None = None,
) -> nn.Module:
    """Train in place from step `start` to the end, and return the module.

    Args:
        model: predicts by `model(X, y, x_query)` and `model.prefix_predictions(X, y)`.
        optimizer: over its weights.
        problem: the tasks.
        training: how.
        device: where; under `accelerate launch` each process's own device is used instead.
        start: steps that are already done.
        checkpoint_every: steps between calls of `after`.
        after: called, by the main process only, with (steps done, module, optimiser, mean loss since the last call).

    Raises:
        InputError: for a batch smaller than the number of processes.
        RunError: if the loss is no longer a finite number.
    """
    accelerator = accelerator_on(device)
    processes = accelerator.num_processes
    if training.batch_size < processes:
        raise InputError(f"batch_size {training.batch_size} cannot be shared by {processes} processes: raise it")
    objective, optimizer_ = accelerator.prepare(Objective(model, training.loss), optimizer)
    problem = problem.to(accelerator.device)
    rates = training.schedule_().step_sizes()
    share = slice(accelerator.process_index, None, processes)
    # Gradients and losses are averaged over processes; a larger share counts for more.
    weight = len(range(training.batch_size)[share]) * processes / training.batch_size
    total, count = torch.zeros((), device=accelerator.device), 0
    for step in range(start, training.steps):
        tasks = training_tasks(problem, training, step, accelerator.device)
        for group in optimizer_.param_groups:
            group["lr"] = rates[step]
        loss = weight * objective(tasks.X[share], tasks.y[share], tasks.x_query[share], tasks.y_query[share])
        optimizer_.zero_grad()
        accelerator.backward(loss)
        optimizer_.step()
        total, count = total + loss.detach(), count + 1
        if (step + 1) % checkpoint_every == 0 or step + 1 == training.steps:
            mean = float(accelerator.reduce(total, "mean")) / count
            if not math.isfinite(mean):
                raise RunError(
                    f"the loss is {mean} at step {step + 1}: lower the learning rate ({training.learning_rate:g})"
                )
            if after is not None and accelerator.is_main_process:
                after(step + 1, model, optimizer, mean)
            total, count = torch.zeros_like(total), 0
    return model


@dataclass(frozen=True)
class Evaluation:
    """Excess over the noise of a model and of ridge on the same prompts, with standard errors."""

    length: int
    model: float
    model_error: float
    ridge: float
    ridge_error: float


@torch.no_grad()
def evaluate_module(
    model: nn.Module, problem: Problem, lengths: list[int], *, prompts: int = 2000, seed: int = 1, device: torch.device
) -> list[Evaluation]:
    """E (f - beta^T x)^2 at each context length on fresh Gaussian tasks, with ridge on the same ones."""
    rows = []
    problem, model = problem.to(device), model.to(device)
    for length in lengths:
        generator = torch.Generator(device).manual_seed(mix(seed, length))
        parts = []
        for start in range(0, prompts, 500):
            tasks = sample_tasks(problem, length, min(500, prompts - start), generator)
            truth = (tasks.beta * tasks.x_query).sum(-1)
            dtype = next(model.parameters()).dtype
            found = model(tasks.X.to(dtype), tasks.y.to(dtype), tasks.x_query.to(dtype))
            penalty = max((problem.sigma / problem.psi) ** 2, 1e-12)
            ridge = (ridge_coefficients(tasks.X, tasks.y, penalty) * tasks.x_query).sum(-1)
            parts.append(torch.stack([(found - truth) ** 2, (ridge - truth) ** 2]).cpu())
        errors = torch.cat(parts, 1)
        means, spreads = errors.mean(1), errors.std(1) / prompts**0.5
        rows.append(Evaluation(length, float(means[0]), float(spreads[0]), float(means[1]), float(spreads[1])))
    return rows


def save_checkpoint(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer | None = None, step: int = 0
) -> None:
    """Weights and optimiser state as one safetensors file, written atomically."""
    tensors = {f"model.{name}": value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    if optimizer is not None:
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": torch.as_tensor(value).cpu() for name, value in state.items()}
    tensors["step"] = torch.tensor(step)
    with atomic_path(path) as aside:
        save_file(tensors, aside)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        InputError: if it is something else.
        FileNotFoundError: if it is not there.
    """
    try:
        return load_file(path)
    except FileNotFoundError:
        raise
    except Exception as error:
        raise InputError(f"{path} is not a safetensors file: {error}") from None


def load_checkpoint(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> int:
    """Restore what `save_checkpoint` wrote and return its step.

    Raises:
        InputError: if the file is not a checkpoint of this model.
    """
    tensors = read_tensors(path)
    step = int(tensors.pop("step", torch.tensor(0)))
    try:
        model.load_state_dict({name[6:]: value for name, value in tensors.items() if name.startswith("model.")})
    except RuntimeError as error:
        raise InputError(f"{path} is not a checkpoint of this model: {str(error).splitlines()[0]}") from None
    if optimizer is not None:
        state: dict[int, dict[str, Any]] = {}
        for name, value in tensors.items():
            if name.startswith("optimizer."):
                _, index, key = name.split(".", 2)
                state.setdefault(int(index), {})[key] = value
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return step


def model_settings(training: Training) -> dict[str, Any]:
    """What `config.yaml` records of a training."""
    return asdict(training)


def as_gamma(model: nn.Module) -> Float[Tensor, "d d"] | None:
    """Gamma of a linear attention module that is nothing but Gamma, else None."""
    if isinstance(model, LinearAttention) and model.outside_gamma() == 0:
        return model.to_gamma().detach().double().cpu()
    return None


def mix(seed: int, step: int) -> int:
    """Distinct, well spread seeds for (seed, step)."""
    return (seed * 0x9E3779B97F4A7C15 + (step + 2) * 0xBF58476D1CE4E5B9) % 2**63
