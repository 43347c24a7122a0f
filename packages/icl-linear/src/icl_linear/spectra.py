"""Covariance spectra by name: isotropic, power law, exponential, spiked, or given in a file."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from shared_core.errors import InputError
from torch import Tensor

from icl_linear.checks import check_count, check_positive
from icl_linear.problem import Problem

KINDS = "iso, power:A (1/i^A), exp[:B] (B^-i, B = 2), spiked:S[:R] (S ones, then R = 0.01), or a file"


def spectrum(kind: str, d: int) -> Float[Tensor, "d"]:
    """Eigenvalues of a named spectrum, not normalised.

    Args:
        kind: `iso`, `power:A` (eigenvalue i^-A), `exp` or `exp:B` (B^-i), `spiked:S[:R]` (S ones, the rest R).
        d: number of eigenvalues.

    Raises:
        InputError: for another name or a parameter out of range.
    """
    d = check_count("d", d)
    name, *parameters = kind.split(":")
    index = torch.arange(1, d + 1, dtype=torch.float64)
    try:
        numbers = [float(item) for item in parameters]
        if name == "iso" and not numbers:
            return torch.ones(d, dtype=torch.float64)
        if name == "power" and len(numbers) == 1:
            return index ** -check_positive("the exponent of power:A", numbers[0], zero=True)
        if name == "exp" and len(numbers) <= 1:
            base = numbers[0] if numbers else 2.0
            if base <= 1:
                raise InputError(f"the base of exp:B must be above 1, got {base:g}")
            return base**-index
        if name == "spiked" and len(numbers) in (1, 2):
            count = check_count("the number of spikes", numbers[0])  # type: ignore[arg-type] # checked to be whole
            if count > d:
                raise InputError(f"spiked:{count} has more spikes than dimensions, d = {d}")
            return torch.where(index <= count, 1.0, numbers[1] if len(numbers) == 2 else 0.01).double()
    except InputError:
        raise
    except ValueError:
        pass
    raise InputError(f"spectrum must be {KINDS}; got {kind!r}")


def read_table(path: str | Path) -> Float[Tensor, "..."]:
    """Numbers of a text file (commas or spaces, # comments) or a `.npy` file.

    Raises:
        InputError: if the file holds something else.
    """
    path = Path(path)
    try:
        if path.suffix == ".npy":
            return _read_npy(path)
        text = path.read_text(encoding="utf-8").replace(",", " ")
        if not any(line.split("#")[0].strip() for line in text.splitlines()):
            raise InputError(f"{path} holds no numbers")
        return torch.from_numpy(np.loadtxt(text.splitlines(), dtype=np.float64, ndmin=1))
    except (FileNotFoundError, InputError):
        raise
    except Exception as error:  # numpy raises many kinds for a broken file
        raise InputError(f"{path} must hold numbers, the same count in every row: {error}") from None


def _read_npy(path: Path) -> Float[Tensor, "..."]:
    try:
        return torch.from_numpy(np.load(path, allow_pickle=False).astype(np.float64))
    except OSError:
        raise
    except Exception as error:  # numpy raises many kinds for a broken file, and advises to unpickle
        raise InputError(f"{path} is no .npy file of plain numbers (pickled objects are refused)") from error


def make_problem(
    kind: str = "power:2", d: int = 32, psi: float = 1.0, sigma: float = 1.0, trace: float | None = 1.0
) -> Problem:
    """A problem from a named spectrum, or from a file with eigenvalues or with a covariance matrix.

    Args:
        kind: see `spectrum`; or a path: one row or column is read as eigenvalues, a square table as H.
        d: dimension of a named spectrum (a file has its own).
        psi: standard deviation of a task's coefficients.
        sigma: standard deviation of the label noise.
        trace: the spectrum is scaled to this trace; None leaves it as it is. A file is never scaled.

    Raises:
        InputError: for a spectrum, psi, sigma or trace that cannot be used.
        FileNotFoundError: if `kind` looks like a path and nothing is there.
    """
    if Path(kind).suffix in (".csv", ".txt", ".npy", ".tsv") or Path(kind).is_file():
        table = read_table(kind).squeeze()
        if table.dim() == 2:
            return Problem.from_covariance(table, psi, sigma)
        return Problem(torch.atleast_1d(table), psi, sigma)
    eigenvalues = spectrum(kind, d)
    if trace is not None:
        eigenvalues = eigenvalues * (check_positive("trace", trace) / eigenvalues.sum())
    return Problem(eigenvalues, psi, sigma)
