"""Settings of a self-play run, under the names that TRL's users know, and the presets."""

import math
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from shared_core.errors import InputError

from spin_llm.choices import LossType, Optim, Precision, Preset, Sampling
from spin_llm.losses import LINKS
from spin_llm.models import Lora
from spin_llm.rendering import TokenLimits, check_template
from spin_llm.sampling import Sampler


@dataclass(frozen=True)
class Optimization:
    """How one stage of training moves the weights.

    Args:
        optim: adamw, adam, or rmsprop (the paper's).
        learning_rate: its peak; a list gives one for each iteration, the last one going on.
        warmup_ratio: share of the steps over which it rises from 0, after which it falls linearly to 0.
        weight_decay: of adamw.
        max_grad_norm: gradients are scaled down to it; 0 leaves them.
        num_train_epochs: passes over the data.
        schedule_epochs: passes the schedule is made for, where training stops before its end; 0 is the same number.
        train_batch_size: pairs (or examples) a step, over all processes.
        per_device_train_batch_size: pairs a forward pass; gradients are accumulated up to `train_batch_size`.
        gradient_checkpointing: recompute activations in the backward pass.
        precision: float32, or bfloat16 autocast.
        save_steps: steps between states that a killed run goes on from.

    Raises:
        InputError: for a value out of its range, naming it.
    """

    optim: Optim = "rmsprop"
    learning_rate: list[float] = field(default_factory=lambda: [5e-7, 5e-7, 1e-7])
    warmup_ratio: float = 0.1
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    num_train_epochs: int = 2
    schedule_epochs: int = 0
    train_batch_size: int = 64
    per_device_train_batch_size: int = 8
    gradient_checkpointing: bool = False
    precision: Precision = "float32"
    save_steps: int = 50

    def __post_init__(self) -> None:
        if isinstance(self.learning_rate, int | float):
            object.__setattr__(self, "learning_rate", [float(self.learning_rate)])
        if not self.learning_rate or any(not 0 < rate < math.inf for rate in self.learning_rate):
            raise InputError(f"learning_rate must be positive, got {self.learning_rate}")
        if not 0 <= self.warmup_ratio < 1:
            raise InputError(f"warmup_ratio must be in [0, 1), got {self.warmup_ratio:g}")
        for name in ("num_train_epochs", "train_batch_size", "per_device_train_batch_size", "save_steps"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.schedule_epochs and self.schedule_epochs < self.num_train_epochs:
            raise InputError(
                f"schedule_epochs {self.schedule_epochs} is below num_train_epochs {self.num_train_epochs}"
            )
        if self.max_grad_norm < 0 or self.weight_decay < 0:
            raise InputError("max_grad_norm and weight_decay must be 0 or more")

    def at(self, iteration: int) -> "Optimization":
        """These settings with the learning rate of one iteration."""
        return replace(self, learning_rate=[of_iteration(self.learning_rate, iteration)])


@dataclass(frozen=True)
class SPINConfig:
    """A whole self-play run; the defaults are the paper's where it names them.

    Args:
        iterations: how many times the opponent is renewed; the paper's iteration 0 is the first.
        beta: the paper's lambda; a list gives one for each iteration, the last one going on.
        loss_type: the link l of the objective, or `nce`, the bounded variant that is not the paper's.
        mix_previous: from the second iteration on, train also on the previous one's pairs, scored anew.
        base_weight: share of the model before self-play in the opponent (geometric mixture); 0 is plain SPIN.
        length_normalize: mean instead of sum of token log-probabilities; not the paper's.
        skip_identical: count pairs of equal responses without computing them: their loss is l(0), their gradient 0.
        optimization: of every iteration.
        sampler: of the opponent's responses.
        engine: what draws them: the model itself, or vllm.
        limits: token lengths.
        lora: rank 0 trains all weights.
        template: a format string with `{prompt}`; the tokenizer's chat template by default.
        generation_template: another one for sampling, which breaks the theory; only to repeat the official runs.
        kl_limit: nats a response that KL(p_t || p) may reach before a warning.
        stop_when_indistinguishable: end early where held-out accuracy is within its error of 1/2.
        stop_when_worse: end early where held-out NLL rose by more than two standard errors (paired).
        seed: of the order of the data, of every sample, and of LoRA's start.

    Raises:
        InputError: for a value out of its range, naming it.
    """

    iterations: int = 4
    beta: list[float] = field(default_factory=lambda: [0.1, 0.1, 0.1, 5.0])
    loss_type: LossType = "logistic"
    mix_previous: bool = True
    base_weight: float = 0.0
    length_normalize: bool = False
    skip_identical: bool = True
    optimization: Optimization = field(default_factory=Optimization)
    sampler: Sampler = field(default_factory=Sampler)
    engine: Sampling = "model"
    limits: TokenLimits = field(default_factory=TokenLimits)
    lora: Lora = field(default_factory=lambda: Lora(rank=0))
    template: str | None = None
    generation_template: str | None = None
    kl_limit: float = 10.0
    stop_when_indistinguishable: bool = False
    stop_when_worse: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.beta, int | float):
            object.__setattr__(self, "beta", [float(self.beta)])
        if self.iterations < 1:
            raise InputError(f"iterations must be at least 1, got {self.iterations}")
        if not self.beta or any(not 0 < beta < math.inf for beta in self.beta):
            raise InputError(f"beta (the paper's lambda) must be positive, got {self.beta}")
        if self.loss_type not in (*LINKS, "nce"):
            raise InputError(f"loss_type must be one of {', '.join([*LINKS, 'nce'])}, got {self.loss_type!r}")
        for name in ("beta", "learning_rate"):
            values = self.beta if name == "beta" else self.optimization.learning_rate
            if len(values) > max(self.iterations, 1) and values not in (PAPER_BETA, PAPER_RATES):
                raise InputError(f"{name} has {len(values)} values for {self.iterations} iterations")
        for name in ("template", "generation_template"):
            check_template(getattr(self, name), name)
        if self.engine not in ("model", "vllm"):
            raise InputError(f"engine must be model or vllm, got {self.engine!r}")
        if not 0 <= self.base_weight < 1:
            raise InputError(f"base_weight must be in [0, 1), got {self.base_weight:g}")
        if self.base_weight and self.loss_type == "nce":
            raise InputError("base_weight needs a margin: the mixture's constant does not cancel in loss_type nce")

    def beta_at(self, iteration: int) -> float:
        """The paper's lambda of one iteration."""
        return of_iteration(self.beta, iteration)


PAPER_BETA = [0.1, 0.1, 0.1, 5.0]
PAPER_RATES = [5e-7, 5e-7, 1e-7]


def of_iteration(values: list[float], iteration: int) -> float:
    """The value of one iteration in a list whose last value goes on."""
    return values[min(iteration, len(values) - 1)]


def preset(name: Preset) -> SPINConfig:
    """`paper`: the published settings (row length 2048 is our reading); `official`: the authors' scripts'; `small`: a
    135M model on CPUs.

    Raises:
        InputError: for another name.
    """
    if name == "paper":
        return SPINConfig(optimization=Optimization(precision="bfloat16"), limits=TokenLimits(2048, 1024))
    if name == "official":
        # the scripts schedule 6 epochs, and their authors say to stop as needed; 2 is what the model cards report
        return SPINConfig(
            optimization=Optimization(precision="bfloat16", num_train_epochs=2, schedule_epochs=6),
            generation_template="### Instruction: {prompt}\n\n### Response: ",
        )
    if name == "small":
        return SPINConfig(
            iterations=3,
            beta=[1.0],
            mix_previous=False,
            optimization=Optimization(
                optim="adamw",
                learning_rate=[2e-4, 2e-4, 1e-4],
                num_train_epochs=1,
                train_batch_size=8,
                per_device_train_batch_size=8,
                save_steps=10,
            ),
            sampler=Sampler(max_new_tokens=32),
            limits=TokenLimits(128, 64),
            lora=Lora(rank=16, alpha=32.0),
        )
    raise InputError(f"preset must be paper, official or small, got {name!r}")


def as_settings(config: SPINConfig) -> dict[str, Any]:
    """The configuration as plain data, for `config.yaml`."""
    return asdict(config)


def differing(config: SPINConfig, other: SPINConfig) -> list[str]:
    """Names of the settings in which two configurations differ."""
    return [item.name for item in fields(config) if getattr(config, item.name) != getattr(other, item.name)]
