"""Noising x_0 and what a network is asked to predict: the DDIM convention of the paper, and flow matching.

A step is named by diffusers' index i = 0..T-1, which is the paper's t = i + 1. Tables are float64 and are cast to the
dtype of the samples where they are used.
"""

from typing import Any, Literal, Protocol

import torch
from jaxtyping import Float, Int
from shared_core.errors import InputError
from torch import Tensor

Prediction = Literal["epsilon", "v_prediction", "sample", "flow"]
Weighting = Literal["constant", "elbo", "snr"]
ErrorSpace = Literal["native", "eps"]
MIN_SNR_GAMMA = 5.0


class Schedule(Protocol):
    """How samples are noised, and what is to be predicted from them."""

    prediction: Prediction

    @property
    def num_steps(self) -> int:
        """T."""
        ...

    @property
    def snr(self) -> Float[Tensor, "steps"]:
        """Signal to noise ratio, falling."""
        ...

    @property
    def eps_factor(self) -> Float[Tensor, "steps"]:
        """By this the squared error of the network's own target is multiplied to be that of eps."""
        ...

    def add_noise(self, x0: Tensor, noise: Tensor, steps: Int[Tensor, "batch"]) -> Tensor:
        """The noised samples."""
        ...

    def target(self, x0: Tensor, noise: Tensor, steps: Int[Tensor, "batch"]) -> Tensor:
        """What the network is to predict."""
        ...

    def model_time(self, steps: Int[Tensor, "batch"]) -> Tensor:
        """What the network is told."""
        ...


class NoiseSchedule:
    """x_t = sqrt(alpha_t) x_0 + sqrt(1 - alpha_t) eps, with alpha_t the cumulative product.

    Args:
        alphas_cumprod: alpha of steps 0..T-1, falling.
        prediction: the network's target: `epsilon`, `v_prediction` (sqrt(alpha) eps - sqrt(1 - alpha) x_0) or `sample`.

    Raises:
        InputError: if the alphas do not fall within [0, 1], or the prediction is unknown.
    """

    def __init__(self, alphas_cumprod: Float[Tensor, "steps"], prediction: Prediction = "epsilon") -> None:
        alphas = torch.as_tensor(alphas_cumprod).detach().double().cpu()
        if alphas.ndim != 1 or len(alphas) < 2 or not bool((alphas.diff() < 0).all()):
            raise InputError("alphas_cumprod must be a falling sequence of two numbers at least")
        if not 0 <= float(alphas[-1]) < float(alphas[0]) < 1:
            raise InputError(f"alphas_cumprod must lie in [0, 1), got {alphas[0]:g} .. {alphas[-1]:g}")
        if prediction not in ("epsilon", "v_prediction", "sample"):
            raise InputError(f"prediction must be epsilon, v_prediction or sample, got {prediction!r}")
        if prediction == "epsilon" and float(alphas[-1]) == 0:
            raise InputError("epsilon cannot be learned from pure noise: with zero terminal SNR use v_prediction")
        self.alphas_cumprod = alphas
        self.prediction: Prediction = prediction

    @property
    def num_steps(self) -> int:
        """T."""
        return len(self.alphas_cumprod)

    @property
    def snr(self) -> Float[Tensor, "steps"]:
        """alpha / (1 - alpha)."""
        return self.alphas_cumprod / (1 - self.alphas_cumprod)

    @property
    def eps_factor(self) -> Float[Tensor, "steps"]:
        """1 for epsilon, alpha for v, alpha / (1 - alpha) for x_0."""
        if self.prediction == "epsilon":
            return torch.ones_like(self.alphas_cumprod)
        return self.alphas_cumprod if self.prediction == "v_prediction" else self.snr

    def add_noise(self, x0: Tensor, noise: Tensor, steps: Int[Tensor, "batch"]) -> Tensor:
        """The forward process q(x_t | x_0) at the given noise."""
        signal, spread = self._roots(x0, steps)
        return signal * x0 + spread * noise

    def target(self, x0: Tensor, noise: Tensor, steps: Int[Tensor, "batch"]) -> Tensor:
        """eps, v or x_0."""
        if self.prediction == "epsilon":
            return noise
        if self.prediction == "sample":
            return x0
        signal, spread = self._roots(x0, steps)
        return signal * noise - spread * x0

    def model_time(self, steps: Int[Tensor, "batch"]) -> Tensor:
        """The index itself."""
        return steps

    def _roots(self, x0: Tensor, steps: Int[Tensor, "batch"]) -> tuple[Tensor, Tensor]:
        alphas = self.alphas_cumprod[steps.cpu()]
        return _like(alphas.sqrt(), x0), _like((1 - alphas).sqrt(), x0)


class FlowSchedule:
    """Rectified flow: x_s = (1 - s) x_0 + s eps, target eps - x_0.

    Args:
        sigmas: s of steps 0..T-1, rising within (0, 1].
        time_scale: the network is told s times this.

    Raises:
        InputError: if the sigmas do not rise within (0, 1].
    """

    prediction: Prediction = "flow"

    def __init__(self, sigmas: Float[Tensor, "steps"], time_scale: float = 1000.0) -> None:
        values = torch.as_tensor(sigmas).detach().double().cpu()
        if values.ndim != 1 or len(values) < 2 or not bool((values.diff() > 0).all()):
            raise InputError("sigmas must be a rising sequence of two numbers at least")
        if not 0 < float(values[0]) < float(values[-1]) <= 1:
            raise InputError(f"sigmas must lie in (0, 1], got {values[0]:g} .. {values[-1]:g}")
        self.sigmas, self.time_scale = values, time_scale

    @property
    def num_steps(self) -> int:
        """T."""
        return len(self.sigmas)

    @property
    def snr(self) -> Float[Tensor, "steps"]:
        """((1 - s) / s)^2."""
        return ((1 - self.sigmas) / self.sigmas) ** 2

    @property
    def eps_factor(self) -> Float[Tensor, "steps"]:
        """(1 - s)^2."""
        return (1 - self.sigmas) ** 2

    def add_noise(self, x0: Tensor, noise: Tensor, steps: Int[Tensor, "batch"]) -> Tensor:
        """A point of the straight line from x_0 to the noise."""
        share = _like(self.sigmas[steps.cpu()], x0)
        return (1 - share) * x0 + share * noise

    def target(self, x0: Tensor, noise: Tensor, steps: Int[Tensor, "batch"]) -> Tensor:
        """The line's velocity."""
        return noise - x0

    def model_time(self, steps: Int[Tensor, "batch"]) -> Tensor:
        """time_scale times s, in float32."""
        return (self.sigmas[steps.cpu()] * self.time_scale).float().to(steps.device)


def schedule_of(scheduler: Any) -> Schedule:
    """The training schedule of a diffusers scheduler, whatever it was set to for sampling.

    Raises:
        InputError: for a scheduler that is neither of the DDPM family nor of flow matching.
    """
    fresh = type(scheduler).from_config(scheduler.config)  # set_timesteps changes what is stored
    if hasattr(fresh, "alphas_cumprod"):
        return NoiseSchedule(fresh.alphas_cumprod, fresh.config.get("prediction_type", "epsilon"))
    if type(fresh).__name__.startswith("FlowMatch"):
        return FlowSchedule(fresh.sigmas.flip(0)[-fresh.config.num_train_timesteps :], fresh.config.num_train_timesteps)
    raise InputError(f"{type(scheduler).__name__} has neither alphas_cumprod nor flow-matching sigmas")


def elbo_weights(schedule: Schedule) -> Float[Tensor, "steps"]:
    """T h_t^2 / (2 sigma_t^2) at eta = 1, the paper's beta_t / lambda: T (SNR(t-1) / SNR(t) - 1) / 2.

    The first step, whose sigma is 0, is given the value of the second one.
    """
    snr = schedule.snr
    rest = schedule.num_steps * (snr[:-1] / snr[1:] - 1) / 2
    return torch.cat([rest[:1], rest])


def step_weights(
    schedule: Schedule, weighting: Weighting = "constant", error_space: ErrorSpace = "native", clip: float = 10.0
) -> Float[Tensor, "steps"]:
    """w by which an error of the network's own target counts at each step.

    `constant` counts errors of `error_space` alike: w is 1, or for `eps` the schedule's `eps_factor`.

    `elbo` is `elbo_weights`, and `snr` is min(SNR, 5) / SNR (Hang et al. 2023). Both are weights v of errors of eps,
    cut at `clip` times their median and divided by their mean m over all steps (`weight_scale`); w = v / m times
    `eps_factor`, so that the weighted error is the same number whatever the target is, and `error_space` does not
    matter. With `elbo`, beta is the mean over steps of the paper's beta_t = lambda T h_t^2 / (2 sigma_t^2): the paper's
    lambda is beta / m for summed errors, beta / (m d) for means over d elements.

    Raises:
        InputError: for unknown names or a clip below 1.
    """
    if clip < 1:
        raise InputError(f"weight_clip must be at least 1, got {clip:g}")
    if error_space not in ("native", "eps"):
        raise InputError(f"error_space must be native or eps, got {error_space!r}")
    if weighting == "constant":
        ones = torch.ones(schedule.num_steps, dtype=torch.float64)
        return ones * schedule.eps_factor if error_space == "eps" else ones
    weights = _eps_weights(schedule, weighting, clip)
    return weights / weights.mean() * schedule.eps_factor


def weight_scale(schedule: Schedule, weighting: Weighting, clip: float = 10.0) -> float:
    """m, the mean over all steps of the weights of eps errors, cut at `clip` medians, that `step_weights` divides by.

    Raises:
        InputError: for another weighting than elbo or snr.
    """
    return float(_eps_weights(schedule, weighting, clip).mean())


def _eps_weights(schedule: Schedule, weighting: Weighting, clip: float) -> Float[Tensor, "steps"]:
    if weighting not in ("elbo", "snr"):
        raise InputError(f"weighting must be constant, elbo or snr, got {weighting!r}")
    weights = elbo_weights(schedule) if weighting == "elbo" else _min_snr(schedule.snr)
    return weights.clamp(max=clip * float(weights.median()))


def _min_snr(snr: Tensor) -> Tensor:
    return (MIN_SNR_GAMMA / snr).clamp(max=1)


def _like(values: Tensor, x: Tensor) -> Tensor:
    return values.to(x.device, x.dtype).reshape(-1, *[1] * (x.ndim - 1))
