"""Settings of a run as plain data."""

import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from shared_core.errors import InputError

from spin_diffusion.losses import LINKS, BetaConvention, Link
from spin_diffusion.schedules import ErrorSpace, Weighting

Preset = Literal["paper", "small"]
RefMode = Literal["auto", "copy", "adapter", "table"]
Precision = Literal["float32", "bfloat16", "float16"]
Guard = Literal["off", "warn", "stop", "shrink"]
SchedulerName = Literal["deployed", "ddim", "ddpm", "dpm-solver++", "euler", "pndm", "unipc"]


@dataclass(frozen=True)
class Optimization:
    """How an iteration is trained; lists have one value for each iteration, the last one goes on.

    Args:
        learning_rate: its peak. It is never scaled by batch size or processes.
        max_train_steps: updates.
        lr_schedule: after the warm-up: `linear` or `cosine` to 0, or `constant`.
        warmup_steps: of a linear rise; at most all steps but one.
        train_batch_size: pairs an update, over all processes and accumulated.
        per_device_train_batch_size: pairs a forward pass.
        reference_batch_size: pairs a pass of ref_mode `table`, which has no gradient and room for more; 0 takes the
            batches of training, whose numbers agree with a copy's to the last bit.
        optim: `adamw`, or `adamw8bit` of the package bitsandbytes.
        adam_beta1: of Adam.
        adam_beta2: of Adam.
        adam_epsilon: of Adam.
        weight_decay: decoupled.
        max_grad_norm: gradients are scaled down to it; 0 leaves them.
        ema_decay: the iterate is an exponential moving average of the weights; 0 takes the last ones.
        precision: of the forward pass; weights and errors stay float32.
        gradient_checkpointing: recompute activations in the backward pass.
        channels_last: memory layout of convolutions.
        save_steps: updates between states that a killed run goes on from.

    Raises:
        InputError: for a value out of its range, naming it.
    """

    learning_rate: list[float] = field(default_factory=lambda: [2e-5])
    max_train_steps: list[int] = field(default_factory=lambda: [500])
    lr_schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup_steps: int = 200
    train_batch_size: int = 2048
    per_device_train_batch_size: int = 8
    reference_batch_size: int = 0
    optim: Literal["adamw", "adamw8bit"] = "adamw"
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    weight_decay: float = 1e-2
    max_grad_norm: float = 1.0
    ema_decay: float = 0.0
    precision: Precision = "float32"
    gradient_checkpointing: bool = False
    channels_last: bool = False
    save_steps: int = 50

    def __post_init__(self) -> None:
        if any(not rate > 0 or math.isinf(rate) for rate in self.learning_rate) or not self.learning_rate:
            raise InputError(f"learning_rate must be positive, got {self.learning_rate}")
        if any(steps < 1 for steps in self.max_train_steps) or not self.max_train_steps:
            raise InputError(f"max_train_steps must be at least 1, got {self.max_train_steps}")
        for name in ("train_batch_size", "per_device_train_batch_size", "save_steps"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("warmup_steps", "weight_decay", "max_grad_norm", "reference_batch_size"):
            if not getattr(self, name) >= 0:
                raise InputError(f"{name} must be at least 0, got {getattr(self, name)}")
        for name in ("ema_decay", "adam_beta1", "adam_beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name} must be in [0, 1), got {getattr(self, name)}")
        _one_of("precision", self.precision, ("float32", "bfloat16", "float16"))
        _one_of("lr_schedule", self.lr_schedule, ("linear", "cosine", "constant"))
        _one_of("optim", self.optim, ("adamw", "adamw8bit"))


@dataclass(frozen=True)
class Sampler:
    """How images are drawn: opponents must come from the sampler that will be deployed.

    Args:
        scheduler: `deployed` is the pipeline's own.
        num_inference_steps: calls of the network.
        guidance_scale: of classifier-free guidance; 1 is none.
        guidance_rescale: phi of Lin et al. 2023; 0 is none.
        eta: noise of DDIM's steps; 0 is deterministic.
        batch_size: images sampled together.

    Raises:
        InputError: for a value out of its range, naming it.
    """

    scheduler: SchedulerName = "deployed"
    num_inference_steps: int = 50
    guidance_scale: float = 7.5
    guidance_rescale: float = 0.0
    eta: float = 0.0
    batch_size: int = 8

    def __post_init__(self) -> None:
        _one_of("scheduler", self.scheduler, SchedulerName.__args__)  # type: ignore[attr-defined] # a Literal's values
        if self.num_inference_steps < 1:
            raise InputError(f"num_inference_steps must be at least 1, got {self.num_inference_steps}")
        if self.batch_size < 1:
            raise InputError(f"sampling batch_size must be at least 1, got {self.batch_size}")
        if not self.guidance_scale >= 0:
            raise InputError(f"guidance_scale must be at least 0, got {self.guidance_scale:g}")
        if not 0 <= self.eta <= 1:
            raise InputError(f"eta must be in [0, 1], got {self.eta:g}")
        if not 0 <= self.guidance_rescale <= 1:
            raise InputError(f"guidance_rescale must be in [0, 1], got {self.guidance_rescale:g}")


@dataclass(frozen=True)
class Lora:
    """Low-rank adaptation; rank 0 trains every weight.

    Args:
        rank: of the update of each adapted layer.
        alpha: the update is scaled by alpha / rank.
        targets: names of the adapted layers; by default the projections of every attention.

    Raises:
        InputError: for a value out of its range, naming it.
    """

    rank: int = 0
    alpha: float = 16.0
    targets: list[str] = field(default_factory=lambda: ["to_k", "to_q", "to_v", "to_out.0"])

    def __post_init__(self) -> None:
        if self.rank < 0:
            raise InputError(f"lora rank must be 0 (train every weight) or more, got {self.rank}")
        if self.rank and not self.alpha > 0:
            raise InputError(f"lora alpha must be positive, got {self.alpha:g}")
        if self.rank and not self.targets:
            raise InputError("lora targets name no layer")


@dataclass(frozen=True)
class SPINConfig:
    """Everything that determines a self-play run, beside model and data.

    Args:
        iterations: K, how many times the opponent is renewed.
        beta: of mean squared errors, one for each iteration; with objective `trajectory` the paper's lambda, of sums.
        beta_convention: `salesforce` halves it, as the public Diffusion-DPO code does.
        objective: `approximate` is eq. (4.9), which re-noises samples; `trajectory` is eq. (4.8), which keeps the
            opponent's whole trajectories and is for small models.
        link: the paper's l.
        weighting: of timesteps: `constant`, or `elbo` (the paper's beta_t) or `snr` (min-SNR-5), which weigh errors of
            eps whatever the network's target is, with mean 1 over all timesteps (see `step_weights`).
        weight_clip: largest weight of elbo and snr, in medians.
        error_space: what `constant` counts: errors of the network's own target, or of eps.
        share_noise: the two members of a pair meet the same timestep and noise.
        samples_per_prompt: opponents drawn for each item; each visit takes the next one.
        caption_dropout: share of visits without a prompt.
        ref_mode: the frozen opponent's errors come from a second network (`copy`), from the network with LoRA switched
            off (`adapter`), or were computed before (`table`); `auto` is adapter with LoRA, else table.
        guard: what happens when d_real passes `guard_limit` of the reference error: warn, stop, or shrink the rate.
        guard_limit: share of the reference error that the running d_real may reach.
        held_out_limit: share by which the held-out denoising error may exceed that of theta_0.
        optimization: of every iteration.
        sampler: of opponents and evaluation.
        lora: rank 0 trains all weights.
        seed: of every draw.

    Raises:
        InputError: for a value out of its range, or settings that exclude one another, naming them.
    """

    iterations: int = 3
    beta: list[float] = field(default_factory=lambda: [2000.0])
    beta_convention: BetaConvention = "plain"
    objective: Literal["approximate", "trajectory"] = "approximate"
    link: Link = "logistic"
    weighting: Weighting = "constant"
    weight_clip: float = 10.0
    error_space: ErrorSpace = "native"
    share_noise: bool = True
    samples_per_prompt: int = 1
    caption_dropout: float = 0.0
    ref_mode: RefMode = "auto"
    guard: Guard = "warn"
    guard_limit: float = 0.02
    held_out_limit: float = 0.05
    optimization: Optimization = field(default_factory=Optimization)
    sampler: Sampler = field(default_factory=Sampler)
    lora: Lora = field(default_factory=Lora)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise InputError(f"iterations must be at least 1, got {self.iterations}")
        if not self.beta or any(not beta > 0 or math.isinf(beta) for beta in self.beta):
            raise InputError(f"beta must be positive, got {self.beta}")
        for name in ("beta", "learning_rate", "max_train_steps"):
            values = self.beta if name == "beta" else getattr(self.optimization, name)
            if len(values) > self.iterations:
                raise InputError(f"{name} has {len(values)} values for {self.iterations} iterations")
        if self.samples_per_prompt < 1:
            raise InputError(f"samples_per_prompt must be at least 1, got {self.samples_per_prompt}")
        if not 0 <= self.caption_dropout < 1:
            raise InputError(f"caption_dropout must be in [0, 1), got {self.caption_dropout:g}")
        if not self.guard_limit > 0 or not self.held_out_limit > 0:
            raise InputError("guard_limit and held_out_limit must be positive")
        if self.weight_clip < 1:
            raise InputError(f"weight_clip must be at least 1, got {self.weight_clip:g}")
        if self.ref_mode == "adapter" and not self.lora.rank:
            raise InputError("ref_mode adapter needs LoRA: give a lora rank, or take table or copy")
        if self.objective == "trajectory" and self.sampler.eta == 0:
            raise InputError("objective trajectory needs noise in every step: give the sampler eta > 0")
        if self.objective == "trajectory" and self.sampler.guidance_scale != 1:
            raise InputError("objective trajectory needs samples of the player itself: give guidance_scale 1")
        if self.objective == "trajectory":
            self._refuse_approximate_options()
        _one_of("link", self.link, LINKS)
        _one_of("beta_convention", self.beta_convention, ("plain", "salesforce"))
        _one_of("weighting", self.weighting, ("constant", "elbo", "snr"))
        _one_of("error_space", self.error_space, ("native", "eps"))
        _one_of("ref_mode", self.ref_mode, ("auto", "copy", "adapter", "table"))
        _one_of("guard", self.guard, ("off", "warn", "stop", "shrink"))
        _one_of("objective", self.objective, ("approximate", "trajectory"))

    def _refuse_approximate_options(self) -> None:
        """What belongs to eq. (4.9) alone: (4.8) has the weights of its transitions, and noise of its own."""
        usual = {item.name: item.default for item in fields(self)}
        for name in ("weighting", "error_space", "beta_convention", "share_noise", "caption_dropout"):
            if getattr(self, name) != usual[name]:
                raise InputError(f"objective trajectory has no {name} {getattr(self, name)}: leave it {usual[name]}")

    def beta_at(self, iteration: int) -> float:
        """Of one iteration."""
        return self.beta[min(iteration, len(self.beta) - 1)]

    def rate_at(self, iteration: int) -> float:
        """Peak learning rate of one iteration."""
        return self.optimization.learning_rate[min(iteration, len(self.optimization.learning_rate) - 1)]

    def steps_at(self, iteration: int) -> int:
        """Updates of one iteration."""
        return self.optimization.max_train_steps[min(iteration, len(self.optimization.max_train_steps) - 1)]

    @property
    def reference(self) -> Literal["copy", "adapter", "table"]:
        """`ref_mode` with `auto` decided."""
        if self.ref_mode == "auto":
            return "adapter" if self.lora.rank else "table"
        return self.ref_mode


def preset(name: Preset) -> SPINConfig:
    """`paper`: the settings of the published checkpoints' cards, three iterations; `small`: small models on CPUs.

    The cards give learning rate 2e-5, batch 2048, AdamW, 200 warm-up of 500 steps, linear decay. beta and the sampler's
    number of steps are assumptions (see recipes/).

    Raises:
        InputError: for another name.
    """
    if name == "paper":
        return SPINConfig(
            iterations=3,
            optimization=Optimization(precision="bfloat16", gradient_checkpointing=True),
        )
    if name == "small":
        return SPINConfig(
            iterations=3,
            optimization=Optimization(
                max_train_steps=[60],
                learning_rate=[1e-4],
                warmup_steps=10,
                train_batch_size=8,
                per_device_train_batch_size=8,
                save_steps=20,
            ),
            sampler=Sampler(num_inference_steps=10, guidance_scale=2.0),
        )
    raise InputError(f"preset must be paper or small, got {name!r}")


def as_settings(config: SPINConfig) -> dict[str, Any]:
    """The configuration as plain data, for `config.yaml`."""
    return asdict(config)


def _one_of(name: str, value: str, known: Any) -> None:
    if value not in known:
        raise InputError(f"{name} must be one of {', '.join(known)}, got {value!r}")
