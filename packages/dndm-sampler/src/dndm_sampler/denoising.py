"""One network call: logits only where they are needed, checked, corrected, drawn, and counted."""

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, Protocol, cast

import torch
from jaxtyping import Float, Int, Num
from shared_core.errors import InputError, RunError
from torch import Tensor

from dndm_sampler.noise import MultinomialNoise, Noise, find_token
from dndm_sampler.randomness import draw
from dndm_sampler.schedule import TransitionSchedule

TimeMap = Literal["index", "matched"]
Denoiser = Callable[..., Tensor]


class SplitDenoiser(Protocol):
    """A denoiser whose output layer can be applied to chosen positions alone.

    `denoiser(x, t)` must equal `denoiser.head(denoiser.hidden(x, t))`.
    """

    def hidden(self, x: Int[Tensor, "rows length"], t: Float[Tensor, "rows"], **kwargs: Any) -> Tensor:
        """Features [rows, length, width]."""
        ...

    def head(self, hidden: Float[Tensor, "selected width"]) -> Float[Tensor, "selected vocab"]:
        """Logits of chosen positions."""
        ...


def as_split(denoiser: Any) -> SplitDenoiser | None:
    """The denoiser as a `SplitDenoiser`, or None where it is not one.

    A module's layers that happen to be named `hidden` and `head` do not count: the two must be methods or functions.
    """
    parts = [getattr(denoiser, name, None) for name in ("hidden", "head")]
    if all(callable(part) and not isinstance(part, torch.nn.Module) for part in parts):
        return cast(SplitDenoiser, denoiser)
    return None


def check_temperature(temperature: float) -> None:
    """Refuse a temperature that is not 0 or a positive number.

    Raises:
        InputError: naming it.
    """
    if not 0 <= temperature < math.inf:
        raise InputError(f"temperature must be 0 or more, and finite, got {temperature}")


class Drawn(NamedTuple):
    """Tokens drawn at the asked positions, and log p of each."""

    tokens: Int[Tensor, "asked"]
    scores: Float[Tensor, "asked"]


class ModelTime:
    """From the sampler's time to the time the denoiser is told, in units of (0, 1].

    `index` feeds t/T as it is (the paper and its code). `matched` feeds the t' with alpha_train(t') = alpha(t), so that
    a denoiser trained on one schedule sees the noise level it was told even when the times follow another law.

    Args:
        schedule: of the transition times.
        num_steps: T, or None where times are continuous already.
        time_map: `index` or `matched`.
        train_schedule: the schedule the denoiser was trained on; by default the same.
    """

    def __init__(
        self,
        schedule: TransitionSchedule,
        num_steps: int | None,
        time_map: TimeMap = "index",
        train_schedule: TransitionSchedule | None = None,
    ) -> None:
        self.schedule, self.num_steps, self.time_map = schedule, num_steps, time_map
        self.train_schedule = train_schedule or schedule
        if time_map not in ("index", "matched"):
            raise InputError(f"time_map must be index or matched, got {time_map!r}")
        if time_map == "matched" and train_schedule is None:
            raise InputError("time_map='matched' needs train_schedule, the schedule the denoiser was trained on")

    def __call__(self, t: Num[Tensor, "rows"]) -> Float[Tensor, "rows"]:
        """Model time in (0, 1], float64 (float32 on MPS)."""
        dtype = torch.float32 if t.device.type == "mps" else torch.float64
        u = t.to(dtype) / (self.num_steps or 1)
        if self.time_map == "matched":
            u = self.train_schedule.quantile(1 - self.schedule.alpha(u)).to(dtype)
        return u

    def describe(self, t: Num[Tensor, ""]) -> str:
        """A time of the sampler in words."""
        return f"time {float(t):.4g}" if self.num_steps is None else f"step t = {int(t)} of {self.num_steps}"

    def alpha(self, model_time: Float[Tensor, "rows"]) -> Float[Tensor, "rows"]:
        """The share of clean tokens that the denoiser expects at this model time."""
        return self.train_schedule.alpha(model_time)


class Predictor:
    """Calls the denoiser for the sampling algorithms, and counts.

    Args:
        denoiser: `(x [rows, length], t [rows], **kwargs) -> logits [rows, length, vocab]`.
        noise: the noise of the process; its special ids are never drawn.
        model_time: from the sampler's times to the model's.
        keys: of the token draws, one a position of the batch.
        temperature: 1 draws from the model's law, 0 takes the most likely token.
        loo: subtract a token's own evidence from its logit (multinomial noise; see `leave_one_out`).
        forbidden: token ids that are never written.
        model_kwargs: passed on, tensors with one entry a row cut to the rows of the call.
        one_draw: no position is asked for twice, so that its uniform can be made in advance.

    Attributes:
        rows_of_calls: the number of rows of every call made so far.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        noise: Noise,
        model_time: ModelTime,
        keys: Int[Tensor, "batch length"],
        *,
        temperature: float = 1.0,
        loo: bool = False,
        forbidden: tuple[int, ...] = (),
        model_kwargs: Mapping[str, Any] | None = None,
        one_draw: bool = False,
    ) -> None:
        self.denoiser, self.noise, self.model_time, self.keys = denoiser, noise, model_time, keys
        self.split = as_split(denoiser)
        self._uniforms = draw(keys, 0) if one_draw else None
        self.temperature, self.loo, self.forbidden = temperature, loo, forbidden
        self.model_kwargs = dict(model_kwargs or {})
        self.rows_of_calls: list[int] = []
        self._penalty: Tensor | None = None

    def __call__(
        self,
        x: Int[Tensor, "rows length"],
        t: Num[Tensor, "rows"],
        row: Int[Tensor, "asked"],
        position: Int[Tensor, "asked"],
    ) -> Drawn:
        """One network call on the first rows of the batch; tokens are drawn at (row, position) only.

        Raises:
            RunError: if a needed logit is NaN or +inf, or no token is left possible (says at which call and step).
            InputError: if the logits have the wrong shape or type.
        """
        u = self.model_time(t)
        logits = self._logits(x, u, row, position)
        if self.loo:
            logits = leave_one_out(logits, x[row, position], self.model_time.alpha(u)[row], self.noise)
        if self.temperature not in (0, 1):
            logits = logits / self.temperature
        p = logits.softmax(-1)
        cdf = p.cumsum(-1)
        # NaN, +inf and a row where no token is left (all -inf) all turn the sum into NaN
        bad = cdf[:, -1].isnan()
        if bool(bad.any()):
            raise RunError(
                f"the denoiser gave NaN, +inf or only -inf logits at call {len(self.rows_of_calls)}, "
                f"{self.model_time.describe(t[row[bad][0]])}: no token can be drawn"
            )
        if self.temperature == 0:
            tokens = p.argmax(-1)
        elif self._uniforms is not None:
            tokens = find_token(cdf, self._uniforms[row, position])
        else:
            tokens = find_token(cdf, draw(self.keys[row, position], len(self.rows_of_calls)))
        return Drawn(tokens, p.gather(1, tokens[:, None])[:, 0].log())

    def _logits(
        self,
        x: Int[Tensor, "rows length"],
        u: Float[Tensor, "rows"],
        row: Int[Tensor, "asked"],
        position: Int[Tensor, "asked"],
    ) -> Float[Tensor, "asked vocab"]:
        """Logits at the asked positions in float64, forbidden tokens at -inf, from one call that is counted."""
        self.rows_of_calls.append(len(x))
        time = u.to(torch.float32)
        kwargs = {key: self._rows_of(value, len(x)) for key, value in self.model_kwargs.items()}
        if self.split is not None:
            logits = self.split.head(self.split.hidden(x, time, **kwargs)[row, position])
        else:
            logits = self.denoiser(x, time, **kwargs)
            self._check_shape(logits, x)
            logits = logits[row, position]
        if self._penalty is None:
            self._penalty = self._forbid(logits)
        # float64 wherever it exists: see `find_token`
        return logits + self._penalty

    def _forbid(self, logits: Float[Tensor, "asked vocab"]) -> Float[Tensor, "vocab"]:
        vocab = logits.shape[-1]
        if isinstance(self.noise, MultinomialNoise) and vocab != self.noise.vocab_size:
            raise InputError(f"noise has vocab_size {self.noise.vocab_size}, the denoiser's logits {vocab}")
        dtype = torch.float32 if logits.device.type == "mps" else torch.float64
        penalty = torch.zeros(vocab, dtype=dtype, device=logits.device)
        # a mask id just past the logits is common: the model never predicts it, so there is nothing to forbid
        penalty[[token for token in self.forbidden if token < vocab]] = -torch.inf
        return penalty

    def _rows_of(self, value: Any, rows: int) -> Any:
        per_row = isinstance(value, Tensor) and value.ndim > 0 and len(value) == len(self.keys)
        return value[:rows] if per_row else value

    def _check_shape(self, logits: Any, x: Int[Tensor, "rows length"]) -> None:
        if not isinstance(logits, Tensor) or not logits.is_floating_point():
            kind = logits.dtype if isinstance(logits, Tensor) else type(logits).__name__
            raise InputError(f"denoiser must return a floating-point tensor of logits, got {kind}")
        if logits.ndim != 3 or logits.shape[:2] != x.shape:
            raise InputError(
                f"denoiser must return logits [rows, length, vocab] = [{x.shape[0]}, {x.shape[1]}, V], "
                f"got {list(logits.shape)}"
            )


def leave_one_out(
    logits: Float[Tensor, "asked vocab"],
    current: Int[Tensor, "asked"],
    alpha: Float[Tensor, "asked"],
    noise: Noise,
) -> Float[Tensor, "asked vocab"]:
    """Take a position's own token out of its posterior (derived; used in arXiv 2605.22765).

    p(x0_n = a | x_t without n) is proportional to p(x0_n = a | x_t) / (1 + 1[a = x_{t,n}] alpha / ((1 - alpha) q(a))).
    Exact for one position; for several it removes the own-token part of the bias that DNDM has with multinomial noise.

    Raises:
        InputError: for absorbing noise, where a masked position has no evidence of its own.
    """
    if not isinstance(noise, MultinomialNoise):
        raise InputError("token_correction='loo' is for multinomial noise: a mask says nothing about its token")
    q = noise.probabilities.to(logits)[current]
    log_odds = alpha.log() - torch.log1p(-alpha.clamp(max=1 - 1e-15)) - q.clamp(min=1e-300).log()
    # log(1 + exp(log_odds)) stays finite where alpha is 1 and is 0 where it is 0
    evidence = torch.logaddexp(torch.zeros_like(log_odds), log_odds)
    return logits.scatter_add(1, current[:, None], -evidence[:, None].to(logits))
