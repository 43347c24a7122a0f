"""What is recorded of a run, and when: checkpoints at t = 0, 1, 2, 5, 10, 20, 50, ... and the last step."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from leaky_relu_bias.gradient_descent import Engine
from leaky_relu_bias.network import TwoLayerNet, log_loss, network_output
from leaky_relu_bias.orthogonality import TrainingSet
from leaky_relu_bias.ranks import stable_rank_excess

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    "t", "log10_t", "loss", "log10_loss", "t_times_loss", "w_fro", "w_fro_pos", "w_fro_neg", "sr_pos", "sr_neg",
    "sr_joint", "sr_pos_excess", "sr_neg_excess", "margin_min", "margin_max", "normalized_margin_min",
    "normalized_margin_max", "ideal_sign_fraction", "flips_since_last",
)  # fmt: skip


@dataclass(frozen=True)
class Snapshot:
    """A batch of runs at one time: `values` by column name, shape (runs,); margins q, shape (runs, n)."""

    log_t: float
    values: dict[str, Float[Tensor, " runs"]]
    margins: Float[Tensor, "runs n"]

    @classmethod
    def of_rows(cls, rows: Sequence[dict[str, Any]]) -> "Snapshot":
        """The inverse of `rows`, also after a passage through JSON (where infinities are words)."""
        values = {name: torch.tensor([float(row[name]) for row in rows], dtype=torch.float64) for name in COLUMNS[2:]}
        margins = torch.tensor([[float(q) for q in row["margins"]] for row in rows], dtype=torch.float64)
        return cls(float(rows[0]["log10_t"]) * math.log(10), values, margins)

    def rows(self) -> list[dict[str, Any]]:
        """One mapping a run, plain numbers, with the margins."""
        t = math.exp(self.log_t) if self.log_t < 700 else math.inf
        time = {"t": round(t) if t < 2**53 else t, "log10_t": self.log_t / math.log(10)}
        return [
            {"run": run} | time | {name: column[run].item() for name, column in self.values.items()}
            | {"margins": self.margins[run].tolist()}
            for run in range(len(self.margins))
        ]  # fmt: skip


def checkpoint_times(steps: int) -> list[int]:
    """0, 1, 2, 5, 10, 20, 50, ... up to `steps`, which is always the last."""
    times = [base * 10**power for power in range(len(str(steps))) for base in (1, 2, 5)]
    return [0, *[time for time in times if time < steps], *([steps] if steps else [])]


def observe(engine: Engine, log_t: float, Z: Tensor, W: Tensor, flips: Tensor | None = None) -> Snapshot:
    """Every column of the record from the pre-activations and (isometric) weights of a batch of runs.

    The normalised margin is q / ||W||_F over all trained weights: f is homogeneous of degree 1 in W.
    """
    y, m = engine.data.y, engine.m
    q = y * network_output(Z, engine.gamma)
    log_L = log_loss(q)
    norm = torch.linalg.matrix_norm(W)
    own_class = torch.cat([(y > 0).expand(m, -1), (y < 0).expand(m, -1)])
    positive, negative = stable_rank_excess(W[:, :m]), stable_rank_excess(W[:, m:])
    values = {
        "loss": log_L.exp(),
        "log10_loss": log_L / math.log(10),
        "t_times_loss": (log_L + log_t).exp(),
        "w_fro": norm,
        "w_fro_pos": torch.linalg.matrix_norm(W[:, :m]),
        "w_fro_neg": torch.linalg.matrix_norm(W[:, m:]),
        "sr_pos": 1 + positive,
        "sr_neg": 1 + negative,
        "sr_joint": 1 + stable_rank_excess(W),
        "sr_pos_excess": positive,
        "sr_neg_excess": negative,
        "margin_min": q.amin(-1),
        "margin_max": q.amax(-1),
        "normalized_margin_min": q.amin(-1) / norm,
        "normalized_margin_max": q.amax(-1) / norm,
        "ideal_sign_fraction": ((Z > 0) == own_class).to(q.dtype).mean((1, 2)),
        "flips_since_last": torch.zeros(len(q), dtype=torch.int64) if flips is None else flips,
    }
    return Snapshot(log_t, {name: column.cpu() for name, column in values.items()}, q.cpu())


def observe_engine(engine: Engine) -> Snapshot:
    """The record of an engine now; counts its sign changes from here on."""
    log_t = math.log(engine.t) if engine.t else -math.inf
    return observe(engine, log_t, engine.preactivations(), engine.isometric_weights(), engine.take_flips())


@dataclass(frozen=True, eq=False)
class Trajectory:
    """A finished batch of runs on one training set.

    Args:
        data: what was trained on.
        nets: one network a run.
        snapshots: the record, by time.
        engine: the state at the end; `engine.weights()` are the weights.
        why: why this engine ran.
        seconds: wall time.
    """

    data: TrainingSet
    nets: tuple[TwoLayerNet, ...]
    snapshots: tuple[Snapshot, ...]
    engine: Engine
    why: str = ""
    seconds: float = math.nan
    notes: tuple[str, ...] = field(default=())

    @property
    def log_t(self) -> Float[Tensor, " times"]:
        """Natural logarithm of the checkpoint times."""
        return torch.tensor([snapshot.log_t for snapshot in self.snapshots], dtype=torch.float64)

    @property
    def t(self) -> Float[Tensor, " times"]:
        """Checkpoint times (inf beyond 1e308)."""
        return self.log_t.exp()

    def column(self, name: str) -> Float[Tensor, "times runs"]:
        """One recorded quantity."""
        return torch.stack([snapshot.values[name] for snapshot in self.snapshots])

    @property
    def margins(self) -> Float[Tensor, "times runs n"]:
        """The margins q_i of every point."""
        return torch.stack([snapshot.margins for snapshot in self.snapshots])

    def rows(self) -> Iterator[dict[str, Any]]:
        """The record as mappings, one a time and run, with the seed."""
        for snapshot in self.snapshots:
            for row, net in zip(snapshot.rows(), self.nets, strict=True):
                yield {"seed": net.seed} | row

    def to_pandas(self) -> "pd.DataFrame":
        """The record as a data frame (margins left out: see `margins`)."""
        import pandas as pd

        return pd.DataFrame([{k: v for k, v in row.items() if k != "margins"} for row in self.rows()])

    def predict(self, X: Any) -> Float[Tensor, "runs points"]:
        """f(W, x) of new points at the end of every run."""
        points = torch.as_tensor(X, dtype=self.data.X.dtype, device=self.data.X.device)
        return network_output(self.engine.weights() @ points.T, self.engine.gamma)

    def then(self, later: "Trajectory") -> "Trajectory":
        """This record followed by a later one of the same runs."""
        return Trajectory(
            self.data, self.nets, self.snapshots + later.snapshots, later.engine, later.why,
            self.seconds + later.seconds, self.notes + later.notes,
        )  # fmt: skip
