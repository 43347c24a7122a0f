"""In-context linear regression: covariance, prior, noise (paper: section 2), and what follows from them.

A task is beta ~ N(0, psi^2 I); its examples are x ~ N(0, H), y ~ N(beta^T x, sigma^2). A prompt holds n examples and a
query. The model, the prior and the noise are equivariant under rotations, so everything is computed in the eigenbasis
of H, where H = diag(eigenvalues).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from shared_core.errors import InputError
from torch import Tensor

from icl_linear.checks import check_eigenvalues, check_length, check_positive, check_shape


@dataclass(frozen=True, eq=False)
class Problem:
    """A family of regression tasks with one covariance.

    Args:
        eigenvalues: of H, shape (d,), all above zero.
        psi: standard deviation of each coefficient of a task.
        sigma: standard deviation of the label noise.
        basis: (d, d), eigenvectors of H in columns; None where H is diagonal.

    Raises:
        InputError: for an eigenvalue or psi that is not above zero, or a negative sigma.

    Example:
        >>> problem = Problem(1 / torch.arange(1, 65.0, dtype=torch.float64) ** 2)
        >>> float(risk(problem, problem.gamma_star(50), 50))
    """

    eigenvalues: Float[Tensor, d]
    psi: float = 1.0
    sigma: float = 1.0
    basis: Float[Tensor, "d d"] | None = None

    def __post_init__(self) -> None:
        eigenvalues = torch.as_tensor(self.eigenvalues, dtype=torch.float64)
        object.__setattr__(self, "eigenvalues", check_eigenvalues("the spectrum", eigenvalues))
        check_positive("psi", self.psi)
        check_positive("sigma", self.sigma, zero=True)
        if self.basis is not None:
            check_shape("basis", self.basis, (self.d, self.d))

    @classmethod
    def from_covariance(cls, H: Float[Tensor, "d d"], psi: float = 1.0, sigma: float = 1.0) -> Problem:
        """The problem with a dense covariance.

        Raises:
            InputError: if `H` is not square, symmetric and positive definite.
        """
        H = torch.as_tensor(H, dtype=torch.float64)
        if H.dim() != 2 or H.shape[0] != H.shape[1]:
            raise InputError(f"the covariance must be square, got shape {tuple(H.shape)}")
        if not bool(torch.isfinite(H).all()):
            raise InputError("the covariance has entries that are not finite numbers")
        asymmetry = float((H - H.T).abs().max())
        if asymmetry > 1e-8 * float(H.abs().max()):
            raise InputError(f"the covariance must be symmetric, |H - H^T| reaches {asymmetry:.3g}")
        eigenvalues, basis = torch.linalg.eigh((H + H.T) / 2)
        # A numerically singular matrix has eigenvalues of either sign near zero: say zero, not -1e-17.
        noise = eigenvalues.abs() < 1e-14 * eigenvalues.abs().max()
        return cls(torch.where(noise, 0.0, eigenvalues).flip(0), psi, sigma, basis.flip(1))

    @property
    def d(self) -> int:
        """Dimension of the covariates; the model has d^2 parameters."""
        return self.eigenvalues.numel()

    @property
    def trace(self) -> float:
        """tr H."""
        return float(self.eigenvalues.sum())

    @property
    def covariance(self) -> Float[Tensor, "d d"]:
        """H in the coordinates of the data."""
        return self.to_data(torch.diag(self.eigenvalues))

    @property
    def zero_risk(self) -> float:
        """Risk of predicting 0: sigma^2 + psi^2 tr H."""
        return self.sigma**2 + self.psi**2 * self.trace

    def precision(self, n: float) -> Float[Tensor, d]:
        """1 / Gamma*_n: (tr H + sigma^2 / psi^2) / n + (n + 1) / n * eigenvalues, for n = 1..infinity."""
        n = check_length("context length", n, infinite=True)
        return (self.trace + (self.sigma / self.psi) ** 2) / n + (1 + 1 / n) * self.eigenvalues

    def gamma_star(self, n: float) -> Float[Tensor, d]:
        """Optimal attention for n context examples, Gamma*_n: its eigenvalues, in the eigenbasis of H."""
        return 1 / self.precision(n)

    def h_tilde(self, n: float) -> Float[Tensor, d]:
        """Eigenvalues of Htil_n = E v v^T, v = X^T y / n: psi^2 H / Gamma*_n."""
        return self.psi**2 * self.eigenvalues * self.precision(n)

    def in_eigenbasis(self, gamma: Float[Tensor, "*batch d d"]) -> Float[Tensor, "*batch d d"]:
        """U^T Gamma U."""
        return gamma if self.basis is None else self.basis.T.to(gamma) @ gamma @ self.basis.to(gamma)

    def to_data(self, gamma: Float[Tensor, "*batch d d"]) -> Float[Tensor, "*batch d d"]:
        """U Gamma U^T: from the eigenbasis of H to the coordinates of the data."""
        return gamma if self.basis is None else self.basis.to(gamma) @ gamma @ self.basis.T.to(gamma)

    def to(self, device: torch.device | str) -> Problem:
        """The same problem on `device`."""
        basis = None if self.basis is None else self.basis.to(device)
        return Problem(self.eigenvalues.to(device), self.psi, self.sigma, basis)
