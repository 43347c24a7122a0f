"""`DNDMSampler`: one object for the paper's algorithms and the baselines, on any denoiser."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int, Num
from shared_core.errors import InputError
from torch import Tensor

from dndm_sampler import algorithms, baselines
from dndm_sampler.algorithms import OnCall, ignore
from dndm_sampler.denoising import Denoiser, ModelTime, Predictor, TimeMap, check_temperature
from dndm_sampler.noise import AbsorbingNoise, MultinomialNoise, Noise
from dndm_sampler.randomness import MOVES, NOISE, TIMES, TOKENS, CounterUniforms
from dndm_sampler.schedule import TransitionSchedule
from dndm_sampler.transition_times import (
    Order,
    balanced_times,
    busiest_first,
    check_order,
    continuous_times,
    count_times,
    discrete_times,
    in_order,
)

Method = Literal["dndm", "ancestral", "thinned_ancestral", "rdm"]


class BiasWarning(UserWarning):
    """Algorithm 1 samples tokens with multinomial noise, which is biased whatever the denoiser."""


@dataclass
class SamplerOutput:
    """What `DNDMSampler.sample` returns.

    Args:
        sequences: token ids [batch, length].
        nfe: network calls made.
        rows: rows evaluated over all calls (a call on 8 rows counts 8).
        nfe_per_row: calls each row took part in [batch].
        transition_times: tau [batch, length], 0 at fixed positions; None for the baselines.
        scores: log p of each written token at its writing [batch, length], 0 at fixed positions.
        history: after every call, (rows, time of each, all sequences), where asked for.
    """

    sequences: Int[Tensor, "batch length"]
    nfe: int
    rows: int
    nfe_per_row: Int[Tensor, "batch"]
    transition_times: Num[Tensor, "batch length"] | None
    scores: Float[Tensor, "batch length"]
    history: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)


class DNDMSampler:
    """Samples a discrete diffusion model with network calls only at predetermined transition times.

    Args:
        denoiser: `(x_t [rows, length] int64, t [rows] in (0, 1]) -> logits [rows, length, vocab]`. With methods
            `hidden` and `head` (see `SplitDenoiser`) the output layer runs only at the positions that are written.
        noise: `absorbing` (needs mask_token_id), `multinomial` (needs vocab_size), or a noise object.
        mask_token_id: id of the mask.
        vocab_size: V.
        schedule: law of the transition times: a `TransitionSchedule`, a name such as `linear` or `beta:17,4`, or
            whatever `TransitionSchedule` takes.
        num_steps: T; None is continuous time (DNDM-C, one call for each free position).
        num_calls: a budget K instead: exactly K calls in balanced random groups, at continuous times (ours).
        method: `dndm`, or a baseline: `ancestral` (T calls), `thinned_ancestral` (multinomial, exact), `rdm`.
        version: 1 writes a position once (Algorithm 1); 2 rewrites everything from its transition time on.
        top_k: DNDM-k: the times say how many positions are restored, the scores which.
        remask: with top_k, let restored positions compete again, as the released code does.
        order: `random`, `left_to_right` or `right_to_left`.
        temperature: 1 draws from the model's law, 0 takes the most likely token.
        token_correction: `loo` removes a token's own evidence (multinomial noise).
        time_map: `index` or `matched`, see `ModelTime`.
        train_schedule: the schedule the denoiser was trained on, where it is not `schedule`.
        batch_times: `per_row` (rows independent, each at its own times) or `shared` (one set of times for the batch).
        scalar_time: the denoiser takes one time for the whole call, which needs shared times.
        forbidden_token_ids: ids that are never written (special tokens).

    Raises:
        InputError: naming the argument that is missing, out of range or contradicts another.

    Warns:
        BiasWarning: for Algorithm 1 with multinomial noise and sampled tokens.

    Example:
        >>> denoiser = lambda x, t: torch.zeros(*x.shape, 4)
        >>> sampler = DNDMSampler(denoiser, noise="absorbing", mask_token_id=3, num_steps=1000)
        >>> sampler.sample(batch_size=2, length=8).sequences.shape
        torch.Size([2, 8])
    """

    def __init__(
        self,
        denoiser: Denoiser,
        *,
        noise: Literal["absorbing", "multinomial"] | Noise = "absorbing",
        mask_token_id: int | None = None,
        vocab_size: int | None = None,
        schedule: TransitionSchedule | str | Sequence[float] = "linear",
        num_steps: int | None = 1000,
        num_calls: int | None = None,
        method: Method = "dndm",
        version: Literal[1, 2] = 1,
        top_k: bool = False,
        remask: bool = False,
        order: Order = "random",
        temperature: float = 1.0,
        token_correction: Literal["loo"] | None = None,
        time_map: TimeMap = "index",
        train_schedule: TransitionSchedule | str | None = None,
        batch_times: Literal["per_row", "shared"] = "per_row",
        scalar_time: bool = False,
        forbidden_token_ids: Sequence[int] = (),
    ) -> None:
        self.denoiser = denoiser
        self.noise = _noise(noise, mask_token_id, vocab_size)
        self.schedule = _schedule(schedule)
        train = _schedule(train_schedule) if train_schedule is not None else None
        if num_steps is not None and num_steps < 1:
            raise InputError(f"num_steps must be at least 1, or None for continuous time, got {num_steps}")
        if num_calls is not None and num_calls < 1:
            raise InputError(f"num_calls must be at least 1, got {num_calls}")
        check_temperature(temperature)
        self.method, self.version, self.top_k, self.remask, self.order = method, version, top_k, remask, order
        self.num_steps = None if num_calls is not None else num_steps
        self.num_calls = num_calls
        self.temperature, self.loo, self.batch_times = temperature, token_correction == "loo", batch_times
        self._check_choices(token_correction, scalar_time)
        if self._is_biased():
            warnings.warn(
                "Algorithm 1 with multinomial noise and sampled tokens is biased even with a perfect denoiser: it "
                "takes noise that is not written yet for data; method='thinned_ancestral' has no such bias, "
                "token_correction='loo' less of it",
                BiasWarning,
                stacklevel=2,
            )
        self.model_time = ModelTime(self.schedule, self.num_steps, time_map, train)
        special = (self.noise.mask_token_id,) if isinstance(self.noise, AbsorbingNoise) else ()
        if any(token < 0 for token in forbidden_token_ids):
            raise InputError(f"forbidden_token_ids must be token ids, got {min(forbidden_token_ids)}")
        self.forbidden = (*special, *forbidden_token_ids)

    def _is_biased(self) -> bool:
        algorithm_1 = self.method == "dndm" and self.version == 1 and not self.top_k
        return algorithm_1 and isinstance(self.noise, MultinomialNoise) and self.temperature > 0 and not self.loo

    def _check_choices(self, token_correction: str | None, scalar_time: bool) -> None:
        choices = {"method": ("dndm", "ancestral", "thinned_ancestral", "rdm"), "version": (1, 2)}
        choices["batch_times"] = ("per_row", "shared")
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise InputError(f"{name} must be one of {', '.join(map(str, allowed))}, got {getattr(self, name)!r}")
        if token_correction not in (None, "loo"):
            raise InputError(f"token_correction must be None or 'loo', got {token_correction!r}")
        check_order(self.order, self.top_k)
        absorbing = isinstance(self.noise, AbsorbingNoise)
        if self.loo and absorbing:
            raise InputError("token_correction='loo' is for multinomial noise; absorbing noise has no such bias")
        if self.top_k and self.version == 2:
            raise InputError("top_k=True and version=2 are two different algorithms; choose one")
        if self.remask and not self.top_k:
            raise InputError("remask=True needs top_k=True")
        if scalar_time and self.method == "dndm" and self.batch_times == "per_row":
            raise InputError("batch_times='per_row' calls rows at different times, which scalar_time forbids; "
                             "use batch_times='shared'")  # fmt: skip
        if self.method != "dndm":
            if self.num_steps is None:
                raise InputError(f"method={self.method!r} needs num_steps (and no num_calls)")
            if self.top_k or self.version == 2 or self.order != "random":
                raise InputError(f"top_k, version and order belong to method='dndm', not to {self.method!r}")
        if self.method == "thinned_ancestral" and absorbing:
            raise InputError("thinned_ancestral is for multinomial noise; for absorbing noise dndm is exact already")

    @torch.no_grad()
    def sample(
        self,
        batch_size: int | None = None,
        length: int | None = None,
        *,
        input_ids: Int[Tensor, "batch length"] | None = None,
        fixed_mask: Bool[Tensor, "batch length"] | None = None,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        model_kwargs: Mapping[str, Any] | None = None,
        on_call: OnCall = ignore,
        return_history: bool = False,
    ) -> SamplerOutput:
        """Sample sequences; fixed positions keep their tokens, draw no time and cost no call.

        Args:
            batch_size: rows, where no input_ids are given.
            length: positions of a row, where no input_ids are given.
            input_ids: tokens to start from; by default everything is sampled.
            fixed_mask: True where `input_ids` is kept; by default where `input_ids` is not the mask (absorbing).
            generator: source of every draw; the same seed gives the same sequences on every device.
            device: where to work; by default that of `input_ids`, else of the denoiser's parameters, else the CPU.
            model_kwargs: passed to the denoiser; tensors with one entry a row follow their rows.
            on_call: `(number of rows, their times, sequences so far)` after every call, for progress.
            return_history: keep the sequences after every call.

        Returns:
            Sequences with their exact account of calls.

        Raises:
            InputError: if sizes are missing or contradict, or the logits do not fit.
            RunError: if logits are not finite (says at which call and step).
        """
        x, free = self._start(batch_size, length, input_ids, fixed_mask, device)
        uniforms = CounterUniforms(generator, x.device)
        row_ids = torch.arange(len(x), device=x.device)
        x = torch.where(free, self.noise.sample(uniforms.grid(NOISE, row_ids, x.shape[1])), x)
        if not bool(free.any()):
            return SamplerOutput(x, 0, 0, torch.zeros_like(row_ids), None, algorithms.no_scores(x))
        tau, moves, order, algorithm = self._prepare(free, uniforms, row_ids)
        keys = uniforms.keys(TOKENS, row_ids, x.shape[1])[order]
        kwargs = {
            key: value[order] if isinstance(value, Tensor) and value.ndim > 0 and len(value) == len(x) else value
            for key, value in (model_kwargs or {}).items()
        }
        predict = Predictor(
            self.denoiser, self.noise, self.model_time, keys, temperature=self.temperature, loo=self.loo,
            forbidden=self.forbidden, model_kwargs=kwargs,
            one_draw=self.method == "dndm" and self.version == 1 and not self.top_k,
        )  # fmt: skip
        back = order.argsort()
        history: list[tuple[Tensor, Tensor, Tensor]] = []

        def after_call(rows: int, t: Tensor, now: Tensor) -> None:
            if return_history:
                history.append((order[:rows].cpu(), t.cpu(), now[back].cpu()))
            on_call(rows, t, now)

        x, scores = algorithm(predict, x[order], moves[order], on_call=after_call)
        rows_of_calls = torch.tensor(predict.rows_of_calls, device=x.device)
        took_part = (rows_of_calls[:, None] > row_ids).sum(0)  # the first rows are in every call
        return SamplerOutput(
            x[back], len(rows_of_calls), int(rows_of_calls.sum()), took_part[back], tau, scores[back], history
        )

    def _prepare(
        self, free: Bool[Tensor, "batch length"], uniforms: CounterUniforms, row_ids: Int[Tensor, "batch"]
    ) -> tuple[Tensor | None, Tensor, Tensor, Any]:
        """The times (None for baselines), what the algorithm moves by, the order of the rows, and the algorithm."""
        if self.method == "dndm":
            tau = self.draw_times(free, uniforms)
            return tau, tau, busiest_first(count_times(tau)), self._algorithm()
        assert self.num_steps is not None  # checked in _check_choices
        keys = uniforms.keys(MOVES, row_ids, free.shape[1])
        alphas = self.schedule.alphas(self.num_steps)
        if self.method == "rdm":
            return None, free, row_ids, partial(baselines.rdm, keys=keys, alphas=alphas, noise=self.noise)
        if isinstance(self.noise, AbsorbingNoise):
            return None, free, row_ids, partial(baselines.ancestral_absorbing, alphas=alphas, keys=keys)
        chain = partial(baselines.ancestral_multinomial, alphas=alphas, noise=self.noise, keys=keys)
        if self.method == "ancestral":
            return None, free, row_ids, chain
        candidates = baselines.candidate_steps(free, alphas, self.noise, uniforms.keys(TIMES, row_ids, free.shape[1]))
        order = busiest_first(candidates.any(2).sum(1))
        thinned = partial(baselines.thinned_ancestral, alphas=alphas, noise=self.noise, keys=keys[order])
        return None, candidates, order, thinned

    def draw_times(self, free: Bool[Tensor, "batch length"], uniforms: CounterUniforms) -> Num[Tensor, "batch length"]:
        """tau of every free position, 0 elsewhere, as the options say.

        Raises:
            InputError: if batch_times is `shared` and the fixed positions differ between the rows.
        """
        rows = torch.arange(len(free), device=free.device)
        if self.batch_times == "shared":
            if not bool((free == free[:1]).all()):
                raise InputError("batch_times='shared' needs the same fixed positions in every row; use 'per_row'")
            rows = rows * 0
        u = uniforms.grid(TIMES, rows, free.shape[1] + 1)
        if self.num_calls is not None:
            tau: Tensor = balanced_times(self.schedule, self.num_calls, free, u)
        elif self.num_steps is None:
            tau = continuous_times(self.schedule, u[:, :-1])
        else:
            tau = discrete_times(self.schedule.alphas(self.num_steps), u[:, :-1])
        return in_order(tau * free, self.order)

    def plan(
        self, batch_size: int, length: int, generator: torch.Generator | None = None
    ) -> tuple[Num[Tensor, "batch length"], Int[Tensor, "batch"]]:
        """The transition times that `sample` will use with this generator's seed, and the calls of each row.

        Raises:
            InputError: if a size is below 1, or the method is a baseline.
        """
        if self.method != "dndm":
            raise InputError(f"method={self.method!r} has no transition times; plan is for dndm")
        ids, free = self._start(batch_size, length, None, None, "cpu")
        tau = self.draw_times(free, CounterUniforms(generator, ids.device))
        return tau, count_times(tau)

    def _algorithm(self) -> Any:
        if self.top_k and self.remask:
            return partial(algorithms.dndm_topk_remask, to_noise=isinstance(self.noise, AbsorbingNoise))
        if self.top_k:
            return algorithms.dndm_topk
        return algorithms.dndm_refresh if self.version == 2 else algorithms.dndm

    def _start(
        self,
        batch_size: int | None,
        length: int | None,
        input_ids: Tensor | None,
        fixed_mask: Tensor | None,
        device: torch.device | str | None,
    ) -> tuple[Int[Tensor, "batch length"], Bool[Tensor, "batch length"]]:
        if input_ids is None:
            if fixed_mask is not None:
                raise InputError("fixed_mask needs input_ids, the tokens that are kept")
            for name, value in (("batch_size", batch_size), ("length", length)):
                if value is None or value < 1:
                    raise InputError(f"{name} must be at least 1, got {value}")
            where = torch.device(device) if device is not None else _device_of(self.denoiser)
            shape = (int(batch_size or 0), int(length or 0))
            return torch.zeros(shape, dtype=torch.long, device=where), torch.ones(shape, dtype=torch.bool, device=where)
        if input_ids.ndim != 2 or input_ids.is_floating_point():
            raise InputError(
                f"input_ids must be token ids [batch, length], got {input_ids.dtype} {list(input_ids.shape)}"
            )
        ids = input_ids.to(device if device is not None else input_ids.device, torch.long)
        if fixed_mask is None:
            if not isinstance(self.noise, AbsorbingNoise):
                raise InputError("fixed_mask is needed with multinomial noise: any token may be noise")
            return ids, ids == self.noise.mask_token_id
        if fixed_mask.shape != input_ids.shape or fixed_mask.dtype != torch.bool:
            raise InputError(
                f"fixed_mask must be bool {list(input_ids.shape)} as input_ids, "
                f"got {fixed_mask.dtype} {list(fixed_mask.shape)}"
            )
        return ids, ~fixed_mask.to(ids.device)


def _noise(noise: str | Noise, mask_token_id: int | None, vocab_size: int | None) -> Noise:
    if isinstance(noise, AbsorbingNoise | MultinomialNoise):
        return noise
    if noise == "absorbing":
        if mask_token_id is None:
            raise InputError("mask_token_id is needed for absorbing noise")
        if vocab_size is not None and mask_token_id > vocab_size:
            raise InputError(f"mask_token_id {mask_token_id} is out of range for vocab_size {vocab_size}")
        return AbsorbingNoise(mask_token_id)
    if noise == "multinomial":
        if vocab_size is None:
            raise InputError("vocab_size is needed for multinomial noise")
        return MultinomialNoise(vocab_size)
    raise InputError(f"noise must be absorbing or multinomial, got {noise!r}")


def _schedule(schedule: TransitionSchedule | str | Sequence[float]) -> TransitionSchedule:
    if isinstance(schedule, TransitionSchedule):
        return schedule
    return TransitionSchedule.parse(schedule) if isinstance(schedule, str) else TransitionSchedule(schedule)


def _device_of(denoiser: Denoiser) -> torch.device:
    if isinstance(denoiser, torch.nn.Module):
        for tensor in (*denoiser.parameters(), *denoiser.buffers()):
            return tensor.device
    return torch.device("cpu")
