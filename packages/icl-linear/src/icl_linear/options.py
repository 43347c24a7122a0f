"""From a command's options to the package's objects: the problem, a given Gamma, a training."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from shared_core.device import resolve_device
from shared_core.errors import InputError
from torch import Tensor

from icl_linear.checks import check_length
from icl_linear.problem import Problem
from icl_linear.spectra import make_problem, read_table
from icl_linear.training import Training, read_tensors


def read_gamma(path: str, problem: Problem) -> Float[Tensor, "*runs d d"]:
    """Gamma from a text, .npy or safetensors file (its tensor `gamma`: one, or those of many runs).

    One row is a diagonal.

    Raises:
        InputError: if the file holds no Gamma of the problem's dimension.
    """
    if Path(path).suffix == ".safetensors":
        tensors = read_tensors(Path(path))
        found = next((tensors[name] for name in ("gamma", "model.gamma") if name in tensors), None)
        if found is None:
            raise InputError(f"{path} holds no tensor gamma; it has: {', '.join(tensors)}")
        gamma = found.double()
    else:
        gamma = read_table(path).squeeze()
    gamma = torch.diag(torch.atleast_1d(gamma)) if gamma.dim() <= 1 else gamma
    if tuple(gamma.shape[-2:]) != (problem.d, problem.d) or gamma.dim() > 3:
        raise InputError(
            f"{path} must hold a Gamma of {problem.d} x {problem.d}, got {' x '.join(map(str, gamma.shape))}"
        )
    return gamma


def problem_on(options: dict[str, Any], device: str) -> Problem:
    """The problem of the common options, on a device that does float64."""
    resolved = resolve_device(device)
    if resolved.type == "mps":
        if device == "auto":
            resolved = torch.device("cpu")
        else:
            raise InputError("the exact computations need float64, which mps has not: use --device cpu")
    return make_problem(options["spectrum"], options["d"], options["psi"], options["sigma"], options["trace"]).to(
        resolved
    )


def train_options(options: dict[str, Any], **chosen: Any) -> Callable[..., None]:
    """Fill in each model's own defaults, refuse options of another model, and return the run to start."""
    from icl_linear.verbs.pretraining import default_rate, train_run

    model = chosen["model"]
    groups = {"gpt2": ("layers", "width", "heads", "max_context"), "autograd": ("optimizer", "loss")}
    for kind, names in groups.items():
        takes = model == "gpt2" or (kind == "autograd" and model != "gamma")
        for name in names:
            if chosen[name] is not None and not takes:
                raise InputError(f"--{name.replace('_', '-')} is not an option of --model {model}")
    defaults: dict[str, Any] = {"batch_size": 64, "schedule": "constant", "loss": "query"}
    if model == "gamma":
        defaults |= {"batch_size": 1, "schedule": "geometric", "optimizer": "sgd"}
    if model == "gpt2":
        defaults |= {"loss": "all"}
    filled: dict[str, Any] = {name: defaults.get(name) if value is None else value for name, value in chosen.items()}
    problem = problem_on(options, "cpu")
    check_length("--context", filled["context"])
    if filled["learning_rate"] is None:
        filled["learning_rate"] = default_rate(problem, model, filled["context"], filled["batch_size"])
    training = Training(**{name: value for name, value in filled.items() if value is not None})
    renamed = {"kind" if name == "spectrum" else name: value for name, value in options.items()}
    return partial(train_run, problem, renamed, training)
