"""The paper's algorithm: online sign SGD with a dead zone on the two-layer network."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float
from shared_core.errors import InputError, RunError
from shared_core.logging import progress
from torch import Tensor

from parity_sgd.accuracy import Accuracy, exact_accuracy, packed_values
from parity_sgd.codes import code_bytes, parity, random_codes, support_mask
from parity_sgd.gradient import batch_gradient
from parity_sgd.network import random_weights, stacked_weights
from parity_sgd.neurons import Outcome, RecoveredSupport, is_good, predict_outcome, recover_support
from parity_sgd.optimizer import threshold_sign
from parity_sgd.parity import SparseParity
from parity_sgd.settings import SignSGD
from parity_sgd.steps import MAX_ROWS, SAFETY, run_steps
from parity_sgd.streams import stream_generator
from parity_sgd.threads import each_in_threads, sum_in_threads

CHUNK_ROWS = MAX_ROWS
"""Larger batches are drawn and summed in chunks of so many rows, in threads; sums do not depend on how many."""
GPU_CHUNK_ROWS = 65536
EVALUATION_SAMPLES = 2048


class Trainer:
    """One run: initial weights and data from `seed`, any number of steps at a time.

    Args:
        task: the law; its device is where the run happens. The run has a stream of its own.
        settings: hyper-parameters.
        seed: seed of the initial weights and of the stream.
        weights: (W, a) to start from instead.

    Attributes:
        W0: initial weights.
        a: second layer.
        step: steps done.

    Raises:
        InputError: if settings cannot work for the task.
    """

    def __init__(
        self,
        task: SparseParity,
        settings: SignSGD,
        seed: int = 0,
        weights: tuple[Float[Tensor, "m d"], Float[Tensor, "m"]] | None = None,
    ) -> None:
        settings.check(task)
        if weights is None:
            weights = random_weights(task.d, settings.width, stream_generator(seed, "weights", task.device))
        self.task, self.settings, self.seed, self.step = task.with_seed(seed), settings, seed, 0
        self.W0, self.a = weights[0].to(task.device), weights[1].to(task.device)
        if self.W0.shape != (settings.width, task.d):
            raise InputError(f"initial weights must be {(settings.width, task.d)}, got {tuple(self.W0.shape)}")
        self.W = self.W0.clone()

    def advance(self, steps: int) -> None:
        """Do `steps` steps, each on a fresh batch.

        w_r <- (1 - lambda eta) w_r + eta st(G_r),  G_r = (1/B) sum_i k <w_r, x_i>^(k-1) a_r y_i x_i.

        Raises:
            RunError: if weights are no longer finite.
        """
        if self.W.device.type == "cpu" and self.W.dtype == torch.float32 and not self._in_chunks():
            self._fused_steps(steps)
        else:
            for _ in range(steps):
                # not W[mask], which wakes torch's threads even for a small W, and they then spin beside ours
                alive = self._alive().nonzero().flatten()
                moved = self._one_step(self.W.index_select(0, alive), self.a.index_select(0, alive))
                self.W *= 1 - self.settings.decay * self.settings.learning_rate
                self.W.index_copy_(0, alive, moved)
        self.step += steps
        if not bool(torch.isfinite(self.W).all()):
            raise RunError(f"weights are not finite after step {self.step}; lower learning-rate")

    def _alive(self) -> Tensor:
        """Neurons that some batch could still move: |G_rj| <= k ||w_r||_1^(k-1), and norms of others only shrink."""
        if not self.settings.prune or self.settings.decay == 0:
            return torch.ones(len(self.W), dtype=torch.bool, device=self.W.device)
        return self.task.k * self.W.abs().sum(1) ** (self.task.k - 1) >= SAFETY * self.settings.rho

    def _in_chunks(self) -> bool:
        return self.task.counts_pay(self.settings.batch_size) or self.settings.batch_size > CHUNK_ROWS

    def _fused_steps(self, steps: int) -> None:
        self.W = self.W.contiguous()
        run_steps(
            self.task.stream_words(),
            support_mask(self.task.support, code_bytes(self.task.d)),
            self.W.numpy(),
            self.a.double().numpy(),
            steps=steps,
            batch_size=self.settings.batch_size,
            k=self.task.k,
            label_noise=self.task.label_noise,
            eta=self.settings.learning_rate,
            decay=self.settings.decay,
            rho=self.settings.rho,
            prune=self.settings.prune,
        )

    def _one_step(self, W: Float[Tensor, "n d"], a: Float[Tensor, "n"]) -> Float[Tensor, "n d"]:
        B, eta = self.settings.batch_size, self.settings.learning_rate
        if self.task.counts_pay(B):
            codes, y, _ = self.task.counts(B)
            G = batch_gradient(W, a, self.task.k, codes, y, B)
        else:
            rows = CHUNK_ROWS if self.W.device.type == "cpu" else GPU_CHUNK_ROWS
            sizes = (min(rows, B - start) for start in range(0, B, rows))
            G = sum_in_threads(
                lambda batch: batch_gradient(W, a, self.task.k, batch[0], batch[1], B),
                (self.task.rows(size)[:2] for size in sizes),
            )
        return (1 - self.settings.decay * eta) * W + eta * threshold_sign(G, self.settings.rho).to(W.dtype)

    def metrics(self) -> dict[str, float]:
        """Where the run stands: accuracy and margins on fresh clean points, sizes of features and of noise."""
        codes, y = _evaluation_points(self.task)
        margins = y * packed_values(self.W, self.a, self.task.k, codes) / len(self.W)
        support = list(self.task.support)
        features, good = self.W[:, support].abs(), is_good(self.W0, self.a, support)
        noise = self.W.abs().clone()
        noise[:, support] = 0
        return {
            "samples": float(self.step) * self.settings.batch_size,
            "accuracy": (margins > 0).float().mean().item(),
            "margin_min": margins.min().item(),
            "margin_mean": margins.mean().item(),
            "good_feature": _mean(features[good]),
            "bad_feature": _mean(features[~good]),
            "noise_max": noise.max().item(),
        }

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that the rest of the run depends on, as tensors."""
        stream = {f"stream.{name}": value for name, value in self.task.state_dict().items()}
        return {"W": self.W, "W0": self.W0, "a": self.a, "step": torch.tensor(self.step), **stream}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on where another run of the same settings stood."""
        # steps are in place: without a copy they would change the caller's tensors
        self.W, self.W0, self.a = (state[name].to(self.task.device, copy=True) for name in ("W", "W0", "a"))
        self.step = int(state["step"])
        self.task.load_state_dict({name: state[f"stream.{name}"] for name in ("points", "flips")})


def _evaluation_points(task: SparseParity) -> tuple[Tensor, Tensor]:
    # A stream of its own: evaluation neither consumes training data nor sees them again.
    codes = random_codes(EVALUATION_SAMPLES, task.d, stream_generator(task.seed, "evaluation", task.device))
    return codes, parity(codes, task.support)


def _mean(values: Tensor) -> float:
    return values.mean().item() if values.numel() else 0.0


@dataclass(frozen=True)
class TrainedRun:
    """One finished run.

    Args:
        seed: its seed.
        W: trained weights.
        a: second layer.
        W0: initial weights.
        accuracy: exact where possible.
        predicted: outcome read off W0.
        recovered: support read off W.
        history: one row a logged step.
    """

    seed: int
    W: Float[Tensor, "m d"]
    a: Float[Tensor, "m"]
    W0: Float[Tensor, "m d"]
    accuracy: Accuracy
    predicted: Outcome
    recovered: RecoveredSupport
    history: pd.DataFrame


def start_together(task: SparseParity, settings: SignSGD, seeds: Sequence[int]) -> list[Trainer]:
    """One run a seed, each exactly as alone; the starts of all are made in one tensor."""
    if not seeds:
        return []
    generators = [stream_generator(seed, "weights", task.device) for seed in seeds]
    W, a = stacked_weights(task.d, settings.width, generators)
    return [Trainer(task, settings, seed, (W[i].contiguous(), a[i].contiguous())) for i, seed in enumerate(seeds)]


def finish(trainer: Trainer, history: pd.DataFrame) -> TrainedRun:
    """Score a run that has done its steps."""
    task = trainer.task
    return TrainedRun(
        seed=trainer.seed,
        W=trainer.W,
        a=trainer.a,
        W0=trainer.W0,
        accuracy=exact_accuracy(trainer.W, trainer.a, task.support, seed=trainer.seed),
        predicted=predict_outcome(trainer.W0, trainer.a, task.support),
        recovered=recover_support(trainer.W, task.k),
        history=history,
    )


def train(
    task: SparseParity,
    settings: SignSGD | None = None,
    *,
    seeds: Sequence[int] = (0,),
    log_every: int = 0,
    callback: Callable[[Trainer], None] | None = None,
) -> list[TrainedRun]:
    """Run the algorithm once per seed, seeds in parallel threads.

    Args:
        task: the law of the data.
        settings: hyper-parameters; `SignSGD.default(task)` where None.
        seeds: each has its own initial weights and its own data.
        log_every: steps between rows of the history; 0 keeps none.
        callback: called after every logged step with the run.

    Example:
        >>> run = train(SparseParity(d=16, k=2))[0]
        >>> run.accuracy.value, run.recovered.support
        (1.0, (0, 1))
    """
    settings = settings or SignSGD.default(task)
    trainers = start_together(task, settings, seeds)

    def one(trainer: Trainer) -> TrainedRun:
        history = []
        while trainer.step < settings.steps:
            trainer.advance(min(log_every or settings.steps, settings.steps - trainer.step))
            if log_every:
                history.append({"step": trainer.step, **trainer.metrics()})
                if callback:
                    callback(trainer)
        return finish(trainer, pd.DataFrame(history))

    return each_in_threads(one, trainers, task.device)


def neuron_path(task: SparseParity, settings: SignSGD, seed: int) -> tuple[Tensor, Trainer]:
    """All weights after 0..T steps of one run, (T + 1, m, d)."""
    trainer = Trainer(task, settings, seed)
    path = [trainer.W.cpu().clone()]
    for _ in progress(range(settings.steps), "neurons"):
        trainer.advance(1)
        path.append(trainer.W.cpu().clone())
    return torch.stack(path), trainer
