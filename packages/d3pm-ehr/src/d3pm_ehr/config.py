"""Settings: of the diffusion, the network, the training, the guidance. Importing them imports no torch."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from shared_core.errors import InputError

KernelName = Literal["uniform", "absorbing", "marginal"]
PosteriorForm = Literal["mixture", "joint"]
LossName = Literal["vlb", "hybrid", "ce"]
ScheduleName = Literal["cosine", "cosine_squared", "linear"]
Backbone = Literal["mlp", "transformer", "linear"]


@dataclass(frozen=True)
class Diffusion:
    """The process.

    Args:
        kernel: uniform (multinomial diffusion), absorbing (MASK) or marginal (each code's own frequency).
        schedule: cosine, cosine_squared, linear; auto is linear for absorbing and cosine_squared otherwise.
        num_steps: T, the steps of the diffusion.
        posterior: mixture (head is p(x_0 | x_t)) or joint (head is the token's law given the others; loss vlb).
        evidence: add each noisy token's own evidence to its logits, so that the network need not copy its input: a
            better bound after few steps, but hidden states then move the logits less, and guidance needs larger steps.
    """

    kernel: KernelName = "uniform"
    schedule: ScheduleName | Literal["auto"] = "auto"
    num_steps: int = 50
    posterior: PosteriorForm = "mixture"
    evidence: bool = False

    @property
    def schedule_name(self) -> ScheduleName:
        """The schedule that `auto` stands for."""
        if self.schedule == "auto":
            return "linear" if self.kernel == "absorbing" else "cosine_squared"
        return self.schedule


@dataclass(frozen=True)
class Network:
    """The size of a denoiser.

    Args:
        backbone: `mlp` (a multi-hot vector through residual blocks; the CPU's choice), `transformer` (full attention
            over the tokens, N^2) or `linear` (Linformer attention, N times `rank`).
        width: hidden units, or the width of a token.
        depth: residual blocks or layers.
        heads: of attention.
        rank: keys and values that `linear` keeps.

    Raises:
        InputError: for a size below 1, or a width that `heads` does not divide.
    """

    backbone: Backbone = "mlp"
    width: int = 256
    depth: int = 2
    heads: int = 4
    rank: int = 64

    def __post_init__(self) -> None:
        for name in ("width", "depth", "heads", "rank"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.backbone != "mlp" and self.width % self.heads:
            raise InputError(f"width must be a multiple of heads, got {self.width} and {self.heads}")


@dataclass(frozen=True)
class Training:
    """How the denoiser is trained.

    Args:
        loss: ce (cross-entropy, every t alike), vlb (the bound) or hybrid (vlb + ce_weight ce).
        ce_weight: lambda of hybrid.
        time_sampler: uniform, or importance (t in proportion to the root mean square of its loss).
        steps: of the optimiser, at most.
        batch_size: records in a step.
        learning_rate: of AdamW at its peak; decays to 0 along a cosine.
        weight_decay: of AdamW.
        ema: decay of the averaged weights that sample.
        checkpoint_every: steps between checkpoints, and between evaluations on the tuning records.
        judge: what is lowest at the best evaluation, whose weights are kept: bound (of the held-out likelihood), or ce,
            the held-out cross-entropy. With few records ce is the safer one: it rises as soon as records are learnt by
            heart, while the bound may go on falling because the network gets better at copying its input.
        patience: evaluations without a better one after which training stops; 0 goes to the end.
        precision: auto, float32 or bfloat16.

    Raises:
        InputError: for a number out of its range, or another word.
    """

    loss: LossName = "ce"
    ce_weight: float = 0.01
    time_sampler: Literal["uniform", "importance"] = "uniform"
    steps: int = 2000
    batch_size: int = 256
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    ema: float = 0.995
    checkpoint_every: int = 50
    judge: Literal["bound", "ce"] = "bound"
    patience: int = 10
    precision: Literal["auto", "float32", "bfloat16"] = "auto"

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.learning_rate > 0:
            raise InputError(f"learning_rate must be positive, got {self.learning_rate}")
        if not 0 <= self.ema < 1:
            raise InputError(f"ema must be in 0..1 (below 1), got {self.ema}")
        if self.patience < 0 or self.weight_decay < 0 or self.ce_weight < 0:
            raise InputError("patience, weight_decay and ce_weight must not be negative")
        if self.judge not in ("bound", "ce"):
            raise InputError(f"judge must be bound or ce, got {self.judge!r}")
        if self.time_sampler not in ("uniform", "importance"):
            raise InputError(f"time_sampler must be uniform or importance, got {self.time_sampler!r}")


def check_loss(loss: LossName, form: PosteriorForm, kernel: KernelName) -> None:
    """Refuse the one pairing that trains one thing and samples another.

    Raises:
        InputError: for cross-entropy with the joint form and a kernel other than absorbing, or an unknown loss.
    """
    if loss not in get_args(LossName):
        raise InputError(f"loss must be one of {', '.join(get_args(LossName))}, got {loss!r}")
    if loss == "ce" and form == "joint" and kernel != "absorbing":
        raise InputError(
            f"loss ce with posterior joint and kernel {kernel} would sample a wrong law: cross-entropy makes the head "
            "p(x_0 | x_t), the joint form needs the token's law given the others; use posterior mixture or loss vlb"
        )


@dataclass(frozen=True)
class GeneratorConfig:
    """Everything that determines a trained generator, but the records; `seed` is of weights, batches and noise.

    Raises:
        InputError: for parts that do not fit one another, or num_steps below 1.
    """

    diffusion: Diffusion = field(default_factory=Diffusion)
    network: Network = field(default_factory=Network)
    training: Training = field(default_factory=Training)
    seed: int = 0

    def __post_init__(self) -> None:
        check_loss(self.training.loss, self.diffusion.posterior, self.diffusion.kernel)
        if self.diffusion.evidence and self.diffusion.posterior == "joint":
            raise InputError(
                "evidence is for posterior mixture: the joint form's head leaves a token's own evidence out"
            )
        if self.diffusion.num_steps < 1:
            raise InputError(f"num_steps must be at least 1, got {self.diffusion.num_steps}")
        if self.diffusion.schedule_name not in get_args(ScheduleName):
            raise InputError(
                f"schedule must be auto, {', '.join(get_args(ScheduleName))}, got {self.diffusion.schedule!r}"
            )

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any], source: str = "config") -> "GeneratorConfig":
        """The inverse of `to_json`.

        Raises:
            InputError: if a field is missing, unknown or out of range (names `source`).
        """
        try:
            return cls(Diffusion(**value["diffusion"]), Network(**value["network"]), Training(**value["training"]),
                       int(value["seed"]))  # fmt: skip
        except (KeyError, TypeError) as error:
            raise InputError(f"{source} does not describe a generator: {error}") from error


@dataclass(frozen=True)
class Guidance:
    """How a condition steers sampling.

    Args:
        method: classifier (a trained one, on hidden states), own_head (the denoiser's own probability of the
            condition), replace (fix the tokens; exact for absorbing), reject (draw until it holds; exact).
        inner_steps: M, Langevin steps in each reverse step.
        learning_rate: eta in the paper, the step size of the Langevin updates.
        strength: lambda, weight of staying close to the unguided law; smaller guides harder.
        temperature: tau, of the Langevin noise; 0 is gradient descent.
        confine: mu, of the quadratic term.

    Raises:
        InputError: for another method, or a negative number.
    """

    method: Literal["classifier", "own_head", "replace", "reject"] = "own_head"
    inner_steps: int = 5
    learning_rate: float = 1.0
    strength: float = 0.1
    temperature: float = 0.0
    confine: float = 0.0

    def __post_init__(self) -> None:
        if self.method not in ("classifier", "own_head", "replace", "reject"):
            raise InputError(f"guidance must be classifier, own_head, replace or reject, got {self.method!r}")
        if self.inner_steps < 0:
            raise InputError(f"inner_steps must be >= 0, got {self.inner_steps}")
        for name in ("learning_rate", "strength", "temperature", "confine"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"{name} must be >= 0, got {getattr(self, name)}")
