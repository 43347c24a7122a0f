"""Hyper-parameters: defaults that succeed, values that cannot work, and what theory says against them."""

from dataclasses import dataclass
from math import ceil, factorial, log

from parity_sgd.checks import (
    check_degree,
    check_hyperparameters,
    check_size,
    check_threshold,
    warn_where_theory_says_no,
)
from parity_sgd.gradient import critical_batch
from parity_sgd.neurons import default_width
from parity_sgd.parity import SparseParity


@dataclass(frozen=True)
class SignSGD:
    """Hyper-parameters of the algorithm.

    Args:
        width: m, number of neurons.
        batch_size: B, fresh samples a step.
        steps: T.
        rho: absolute threshold of the mean gradient; a feature's gradient is (1 - 2 label_noise) k! at the start.
        learning_rate: eta.
        decay: lambda, applied outside the sign.
        prune: leave neurons out of the products once no batch can move them any more (exact).
    """

    width: int
    batch_size: int
    steps: int
    rho: float
    learning_rate: float = 0.1
    decay: float = 1.0
    prune: bool = True

    @classmethod
    def default(
        cls,
        task: SparseParity,
        *,
        width: int | None = None,
        batch_size: int | None = None,
        steps: int | None = None,
        rho: float | None = None,
        learning_rate: float = 0.1,
        decay: float = 1.0,
    ) -> "SignSGD":
        """Settings with which a run succeeds nearly always; each can be given instead.

        Width max(16 * 2^k, 4^k); rho = (1 - 2 label_noise) k! / 2; the batch with which a single step gets all its
        signs right about half of the time; 2 ln(d) / eta steps and at least 20.

        Raises:
            InputError: for a value that cannot work.
        """
        width = default_width(task.k) if width is None else width
        check_hyperparameters(
            width=width, batch_size=batch_size or 1, steps=steps or 1, learning_rate=learning_rate, decay=decay
        )
        check_size("width * d", width, task.d)
        check_degree(task.d, task.k)
        signal = (1 - 2 * task.label_noise) * factorial(task.k)
        rho = 0.5 * signal if rho is None else check_threshold(rho, task.k, task.label_noise)
        if batch_size is None:
            batch_size = ceil(critical_batch(task.d, task.k, width, rho / signal if rho else 0.5, task.label_noise))
        steps = max(20, ceil(2 * log(max(task.d, 2)) / learning_rate)) if steps is None else steps
        settings = cls(width, batch_size, steps, rho, learning_rate, decay)
        settings.check(task)
        return settings

    def check(self, task: SparseParity) -> None:
        """Refuse values that cannot work for this task.

        Raises:
            InputError: naming the argument.
        """
        check_hyperparameters(
            width=self.width,
            batch_size=self.batch_size,
            steps=self.steps,
            learning_rate=self.learning_rate,
            decay=self.decay,
        )
        check_size("width * d", self.width, task.d)
        check_degree(task.d, task.k)
        check_threshold(self.rho, task.k, task.label_noise)

    def warn(self, task: SparseParity) -> list[str]:
        """Log, and return, what theory says against these settings."""
        return warn_where_theory_says_no(
            d=task.d,
            k=task.k,
            width=self.width,
            batch_size=self.batch_size,
            steps=self.steps,
            rho=self.rho,
            learning_rate=self.learning_rate,
            decay=self.decay,
            label_noise=task.label_noise,
        )
