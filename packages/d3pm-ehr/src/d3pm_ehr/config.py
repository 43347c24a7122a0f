"""Settings of a generator: the diffusion and the training (a network's are in `denoiser`)."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from shared_core.errors import InputError

from d3pm_ehr.denoiser import Network
from d3pm_ehr.process import KernelName, LossName, PosteriorForm, check_loss
from d3pm_ehr.schedule import ScheduleName


@dataclass(frozen=True)
class Diffusion:
    """The process.

    Args:
        kernel: uniform (multinomial diffusion), absorbing (MASK) or marginal (each code's own frequency).
        schedule: cosine, cosine_squared, linear; auto is linear for absorbing and cosine_squared otherwise.
        timesteps: T.
        posterior: mixture (head is p(x_0 | x_t)) or joint (head is the token's law given the others; loss vlb).
        evidence: add each noisy token's own evidence to its logits, so that the network need not copy its input.
    """

    kernel: KernelName = "uniform"
    schedule: ScheduleName | Literal["auto"] = "auto"
    timesteps: int = 50
    posterior: PosteriorForm = "mixture"
    evidence: bool = True

    @property
    def schedule_name(self) -> ScheduleName:
        """The schedule that `auto` stands for."""
        if self.schedule == "auto":
            return "linear" if self.kernel == "absorbing" else "cosine_squared"
        return self.schedule


@dataclass(frozen=True)
class Training:
    """How the denoiser is trained.

    Args:
        loss: ce (cross-entropy, every t alike), vlb (the bound) or hybrid (vlb + ce_weight ce).
        ce_weight: lambda of hybrid.
        time_sampler: uniform, or importance (t in proportion to the root mean square of its loss).
        steps: of the optimiser, at most.
        batch: records in a step.
        lr: peak learning rate of AdamW; decays to 0 along a cosine.
        weight_decay: of AdamW.
        ema: decay of the averaged weights that sample.
        every: steps between evaluations of the held-out bound, and between checkpoints.
        patience: evaluations without improvement after which training stops; 0 goes to the end.
        precision: auto, float32 or bfloat16.
        seed: of the weights, batches and noise.
    """

    loss: LossName = "ce"
    ce_weight: float = 0.01
    time_sampler: Literal["uniform", "importance"] = "uniform"
    steps: int = 2000
    batch: int = 256
    lr: float = 1e-3
    weight_decay: float = 0.01
    ema: float = 0.995
    every: int = 250
    patience: int = 0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "every"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.lr > 0:
            raise InputError(f"lr must be positive, got {self.lr}")
        if not 0 <= self.ema < 1:
            raise InputError(f"ema must be in 0..1 (below 1), got {self.ema}")
        if self.patience < 0 or self.weight_decay < 0 or self.ce_weight < 0:
            raise InputError("patience, weight_decay and ce_weight must not be negative")
        if self.time_sampler not in ("uniform", "importance"):
            raise InputError(f"time_sampler must be uniform or importance, got {self.time_sampler!r}")


@dataclass(frozen=True)
class GeneratorConfig:
    """Everything that determines a trained generator, but the records."""

    diffusion: Diffusion = field(default_factory=Diffusion)
    network: Network = field(default_factory=Network)
    training: Training = field(default_factory=Training)

    def __post_init__(self) -> None:
        check_loss(self.training.loss, self.diffusion.posterior, self.diffusion.kernel)
        if self.diffusion.timesteps < 1:
            raise InputError(f"timesteps must be at least 1, got {self.diffusion.timesteps}")
        if self.diffusion.schedule_name not in get_args(ScheduleName):
            raise InputError(f"schedule must be auto, {', '.join(get_args(ScheduleName))}, got {self.diffusion.schedule!r}")

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
            return cls(Diffusion(**value["diffusion"]), Network(**value["network"]), Training(**value["training"]))
        except (KeyError, TypeError) as error:
            raise InputError(f"{source} does not describe a generator: {error}") from error
