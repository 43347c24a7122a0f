import csv

import pytest
import torch
from icl_linear import Problem


@pytest.fixture
def small() -> Problem:
    """The brief's reference problem: psi^2 = 0.8, sigma^2 = 0.4."""
    return Problem(torch.tensor([1, 0.5, 0.25]), 0.8**0.5, 0.4**0.5)


@pytest.fixture
def rotated() -> tuple[Problem, Problem]:
    """The same problem in its eigenbasis and in rotated coordinates."""
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(4, 4, generator=generator, dtype=torch.float64)).Q
    eigenvalues = torch.tensor([2.0, 1.0, 0.5, 0.1], dtype=torch.float64)
    dense = basis @ torch.diag(eigenvalues) @ basis.T
    return Problem(eigenvalues, 0.7, 0.5), Problem.from_covariance(dense, 0.7, 0.5)


@pytest.fixture(scope="session")
def task_csv(tmp_path_factory: pytest.TempPathFactory):
    """Gaussian tasks from known constants: psi = 0.8, sigma = 0.5, eigenvalues 1 and 0.3."""
    generator = torch.Generator().manual_seed(3)
    path = tmp_path_factory.mktemp("data") / "tasks.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["task", "a", "y", "b"])
        for index in range(150):
            X = torch.randn(12, 2, generator=generator) * torch.tensor([1.0, 0.3**0.5])
            beta = 0.8 * torch.randn(2, generator=generator)
            y = X @ beta + 0.5 * torch.randn(12, generator=generator)
            writer.writerows(
                [[f"t{index}", float(row[0]), float(label), float(row[1])] for row, label in zip(X, y, strict=True)]
            )
    return path
