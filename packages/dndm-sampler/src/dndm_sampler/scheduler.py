"""`DNDMScheduler`: the method behind the scheduler interface of diffusers.

A pipeline owns the loop and the network, so the scheduler sees logits instead of making calls. It draws the transition
times, writes the positions whose time has come, and leaves every other position as it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils.outputs import BaseOutput
from jaxtyping import Bool, Float, Int, Num
from shared_core.errors import InputError
from torch import Tensor

from dndm_sampler.algorithms import best, spread
from dndm_sampler.denoising import ModelTime, Predictor, check_temperature
from dndm_sampler.noise import AbsorbingNoise, MultinomialNoise, Noise
from dndm_sampler.randomness import TIMES, TOKENS, CounterUniforms
from dndm_sampler.schedule import TransitionSchedule
from dndm_sampler.transition_times import (
    Order,
    balanced_times,
    check_order,
    continuous_times,
    discrete_times,
    in_order,
)

_BLOCK_REFINEMENT_OPTIONS = ("threshold", "editing_threshold", "minimal_topk", "sampling_method", "top_p", "top_k")


@dataclass
class DNDMSchedulerOutput(BaseOutput):
    """What `DNDMScheduler.step` returns; fields and order as in `BlockRefinementSchedulerOutput`.

    Args:
        prev_sample: tokens after the step [batch, block].
        transfer_index: True where a position was written for the first time in this step.
        editing_transfer_index: True where version 2 changed a position written before; all False otherwise.
        sampled_tokens: the tokens drawn in this step; where none was drawn, the current token.
        sampled_probs: probability of each drawn token, 0 where none was drawn.
        pred_logits: the model's logits, passed through for self-conditioning.
    """

    prev_sample: Int[Tensor, "batch block"]
    transfer_index: Bool[Tensor, "batch block"]
    editing_transfer_index: Bool[Tensor, "batch block"]
    sampled_tokens: Int[Tensor, "batch block"]
    sampled_probs: Float[Tensor, "batch block"]
    pred_logits: Float[Tensor, "batch block vocab"]


class _GivenLogits:
    """The denoiser of a `Predictor` whose network call was already made by the pipeline."""

    logits: Tensor

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        return self.logits


@dataclass
class _Block:
    """The plan of one block: which turn each position moves at, and how far it has come.

    Args:
        first: step index at which the plan starts.
        times: transition time of each turn, in (0, 1] [batch, turns].
        turn_of: turn at which a position moves [batch, block].
        free: positions that are sampled.
        waiting: free positions that were not written yet.
        given: holds the logits of the present step.
        predict: draws tokens from them.
    """

    first: int
    times: Float[Tensor, "batch turns"]
    turn_of: Int[Tensor, "batch block"]
    free: Bool[Tensor, "batch block"]
    waiting: Bool[Tensor, "batch block"]
    given: _GivenLogits
    predict: Predictor


class DNDMScheduler(SchedulerMixin, ConfigMixin):  # type: ignore[misc]  # diffusers' two bases disagree on config_name
    """DNDM for loops and pipelines written against diffusers schedulers.

    Two ways to choose the times:

    - `times="budget"` (default): `set_timesteps(S)` gives the step indices 0..S-1, as diffusers' text pipelines use
      them. Every row has its own transition times in S balanced random groups, so that S steps write every position;
      a row with n < S free positions is complete after n steps. The steps are for models that take no time.
    - `times="predetermined"`: `set_timesteps(T, block_length=N)` draws N transition times on T steps (continuous ones
      where T is None), and `timesteps` are the distinct ones, falling, on the scale of `num_train_timesteps`. A loop
      `for t in scheduler.timesteps` makes exactly one network call for each. The rows of a batch share the times and
      differ in which position moves when.

    The scheduler keeps the plan of the current block. It is drawn at the first step, from that step's `generator`, and
    drawn again at the first step of the next block or when the shape of the sample changes. Free positions are those
    that hold the mask (absorbing noise), or all outside `prompt_mask` (multinomial noise); the others are never
    written. Noise tokens stay as they were drawn until their position is written.

    Args:
        schedule: law of the transition times: `linear`, `cosine`, `cosine2`, `beta:A,B`, or a list of alphas.
        noise: `absorbing` or `multinomial` (uniform).
        mask_token_id: id of the mask; `step` can be given another.
        vocab_size: V of multinomial noise; by default the width of the logits.
        times: `budget` or `predetermined`, see above.
        block_length: positions of a block where `set_timesteps` is not given them.
        num_inference_steps: S until `set_timesteps` is called (budget; predetermined times are drawn there only).
        num_train_timesteps: scale of predetermined `timesteps` and of `add_noise`; time 0 is data.
        version: 1 writes a position once; 2 writes it again at every later step (`editing_transfer_index`).
        top_k: the times say how many positions are written, the scores which.
        restoration_order: `random`, `left_to_right` or `right_to_left`.
        temperature: of the token draws where `step` is not given one; 0 takes the most likely token.
        token_correction: `loo` removes a token's own evidence (multinomial noise).

    Raises:
        InputError: naming the argument that is out of range or contradicts another.

    Example:
        >>> model = lambda x: torch.zeros(*x.shape, 4)
        >>> scheduler = DNDMScheduler(mask_token_id=4, times="predetermined")
        >>> scheduler.set_timesteps(50, block_length=8)
        >>> x = torch.full((2, 8), 4)
        >>> for t in scheduler.timesteps:
        ...     x = scheduler.step(model(x), t, x).prev_sample
        >>> bool((x < 4).all())
        True
    """

    order = 1

    @register_to_config
    def __init__(
        self,
        schedule: str | Sequence[float] = "linear",
        noise: Literal["absorbing", "multinomial"] = "absorbing",
        mask_token_id: int | None = None,
        vocab_size: int | None = None,
        times: Literal["budget", "predetermined"] = "budget",
        block_length: int = 32,
        num_inference_steps: int | None = 32,
        num_train_timesteps: int = 1000,
        version: Literal[1, 2] = 1,
        top_k: bool = False,
        restoration_order: Order = "random",
        temperature: float = 1.0,
        token_correction: Literal["loo"] | None = None,
    ) -> None:
        self._check_choices(noise, times, version, token_correction)
        check_order(restoration_order, top_k)
        if token_correction == "loo" and noise == "absorbing":
            raise InputError("token_correction='loo' is for multinomial noise; absorbing noise has no such bias")
        if top_k and version == 2:
            raise InputError("top_k=True and version=2 are two different algorithms; choose one")
        if noise == "multinomial" and mask_token_id is not None:
            raise InputError("mask_token_id is for absorbing noise; multinomial noise has no mask")
        if num_train_timesteps < 1:
            raise InputError(f"num_train_timesteps must be at least 1, got {num_train_timesteps}")
        check_temperature(temperature)
        self._schedule = (
            TransitionSchedule.parse(schedule) if isinstance(schedule, str) else TransitionSchedule(list(schedule))
        )
        self._plan: Int[Tensor, block] = torch.zeros(0, dtype=torch.long)
        self._block: _Block | None = None
        self.num_inference_steps: int | None = None
        self.timesteps: Num[Tensor, calls] = torch.zeros(0)
        if times == "budget":  # predetermined times are drawn on demand: nobody's generator is touched here
            self.set_timesteps(num_inference_steps)

    @staticmethod
    def _check_choices(noise: str, times: str, version: int, token_correction: str | None) -> None:
        if noise not in ("absorbing", "multinomial"):
            raise InputError(f"noise must be absorbing or multinomial, got {noise!r}")
        if times not in ("budget", "predetermined"):
            raise InputError(f"times must be budget or predetermined, got {times!r}")
        if version not in (1, 2):
            raise InputError(f"version must be 1 or 2, got {version!r}")
        if token_correction not in (None, "loo"):
            raise InputError(f"token_correction must be None or 'loo', got {token_correction!r}")

    @property
    def _options(self) -> Any:
        return self.config  # diffusers types it as a dict, but its entries are attributes

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        block_length: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        """Set the number of calls (budget), or draw the predetermined times.

        Args:
            num_inference_steps: S network calls for a block (budget); T diffusion steps, None for continuous time
                (predetermined).
            device: of `timesteps`.
            block_length: positions that draw a time (predetermined): at least the free positions of any row. With
                fixed positions give the number of free ones, else some calls write nothing in a row.
            generator: source of the predetermined times.

        Raises:
            InputError: if a number is below 1, or a budget has none.
        """
        length = self._options.block_length if block_length is None else block_length
        if length < 1:
            raise InputError(f"block_length must be at least 1, got {length}")
        if num_inference_steps is not None and num_inference_steps < 1:
            raise InputError(f"num_inference_steps must be at least 1, got {num_inference_steps}")
        self.num_inference_steps, self._block = num_inference_steps, None
        if self._options.times == "predetermined":
            times = self._draw_plan(num_inference_steps, length, generator)
            rising, place = times.unique(return_inverse=True)
            self.timesteps, self._plan = rising.flip(0).to(device), len(rising) - 1 - place
        elif num_inference_steps is None:
            raise InputError("num_inference_steps is needed with times='budget': it is the number of calls")
        else:
            self.timesteps = torch.arange(num_inference_steps, device=device)

    def _draw_plan(self, num_steps: int | None, length: int, generator: torch.Generator | None) -> Float[Tensor, "n"]:
        """Independent times for the positions of a block, on the scale of the model, float32."""
        where = torch.device("cpu")
        uniforms = CounterUniforms(generator, where).grid(TIMES, torch.zeros(1, dtype=torch.long), length)
        if num_steps is None:
            u = continuous_times(self._schedule, uniforms)[0]
        else:
            u = discrete_times(self._schedule.alphas(num_steps), uniforms)[0] / num_steps
        return (u * self._options.num_train_timesteps).float()

    def step(
        self,
        model_output: Float[Tensor, "batch block vocab"],
        timestep: int | float | Tensor,
        sample: Int[Tensor, "batch block"],
        *,
        mask_token_id: int | None = None,
        temperature: float | None = None,
        prompt_mask: Bool[Tensor, "*batch block"] | None = None,
        generator: torch.Generator | None = None,
        return_dict: bool = True,
        **block_refinement: Any,
    ) -> DNDMSchedulerOutput | tuple[Tensor, ...]:
        """Write the positions whose transition time has come.

        Args:
            model_output: logits of the block.
            timestep: an element of `timesteps`: a step index 0..S-1 (budget) or a time (predetermined).
            sample: tokens of the block.
            mask_token_id: id of the mask, where it is not the configured one.
            temperature: of this step's draws, where it is not the configured one.
            prompt_mask: True where a token is given and never written [block] or [batch, block].
            generator: source of all draws of a block; read once, at its first step.
            return_dict: return a `DNDMSchedulerOutput`, else a tuple of its fields.
            block_refinement: what pipelines pass to `BlockRefinementScheduler`. `sampling_method="greedy"` is
                temperature 0. DNDM goes by time and not by confidence, so `threshold`, `editing_threshold` and
                `minimal_topk` change nothing; `top_p` and `top_k` (filters) are refused.

        Raises:
            InputError: if the timestep, the shapes or the options do not fit.
            RunError: if a needed logit is NaN or +inf.
        """
        _check_options(block_refinement)
        if sample.ndim != 2 or sample.is_floating_point():
            raise InputError(f"sample must be token ids [batch, block], got {sample.dtype} {list(sample.shape)}")
        temperature = self._options.temperature if temperature is None else temperature
        check_temperature(temperature)
        if block_refinement.get("sampling_method") == "greedy":
            temperature = 0.0
        index = self._index(timestep)
        block = self._block
        if block is None or index == 0 or block.free.shape != sample.shape:
            noise = self._noise(mask_token_id, model_output.shape[-1])
            block = self._block = self._new_block(index, sample, noise, prompt_mask, generator)
        block.given.logits, block.predict.temperature = model_output, temperature
        written, tokens, probs = self._write(block, sample, index - block.first)
        del block.given.logits  # as large as the vocabulary: not kept until the next step
        first_time = written & block.waiting
        edited = written & ~block.waiting & (tokens != sample)
        block.waiting = block.waiting & ~written
        prev_sample = torch.where(written, tokens, sample)
        output = DNDMSchedulerOutput(prev_sample, first_time, edited, tokens, probs, model_output)
        return output if return_dict else output.to_tuple()

    def _write(
        self, block: _Block, sample: Int[Tensor, "batch block"], turn: int
    ) -> tuple[Bool[Tensor, "batch block"], Int[Tensor, "batch block"], Float[Tensor, "batch block"]]:
        """Which positions this turn writes, and the tokens and probabilities that were drawn."""
        # "at or before this turn": a pipeline that skips a step leaves nothing unwritten
        reached = block.free & (block.turn_of <= turn)
        if self._options.top_k:
            number = reached.sum(1) - (block.free & ~block.waiting).sum(1)
            asked = block.waiting & (number > 0)[:, None]
        else:
            asked = reached & block.waiting
            if self._options.version == 2:  # everything reached, in the rows where something is due
                asked = reached & asked.any(1, keepdim=True)
        row, position = asked.nonzero(as_tuple=True)
        drawn = block.predict(sample, block.times[:, min(turn, block.times.shape[1] - 1)], row, position)
        written = asked
        if self._options.top_k:
            written = asked & best(spread(drawn.scores, row, position, sample), number)
        tokens, probs = sample.clone(), torch.zeros(sample.shape, device=sample.device)
        tokens[row, position] = drawn.tokens.to(sample.dtype)
        probs[row, position] = drawn.scores.exp().to(probs.dtype)
        return written, tokens, probs

    def _index(self, timestep: int | float | Tensor) -> int:
        """Place of a timestep in `timesteps`."""
        if self._options.times == "budget":
            index, steps = int(timestep), len(self.timesteps)
            if not 0 <= index < steps:
                raise InputError(f"timestep must be a step index 0..{steps - 1}, got {index}")
            return index
        if not len(self.timesteps):
            raise InputError("call set_timesteps before step: it draws the predetermined times")
        place = (self.timesteps == torch.as_tensor(timestep).to(self.timesteps)).nonzero()
        if not len(place):
            raise InputError(f"timestep {float(timestep):g} is not one of scheduler.timesteps: "
                             "no position moves there, so the call is not needed")  # fmt: skip
        return int(place[0])

    def _noise(self, mask_token_id: int | None, vocab_size: int) -> Noise:
        if self._options.noise == "multinomial":
            if mask_token_id is not None:
                raise InputError(f"mask_token_id={mask_token_id} was given, but the scheduler's noise is multinomial; "
                                 "use DNDMScheduler(noise='absorbing')")  # fmt: skip
            return MultinomialNoise(self._options.vocab_size or vocab_size)
        mask = self._options.mask_token_id if mask_token_id is None else mask_token_id
        if mask is None:
            raise InputError("mask_token_id is needed for absorbing noise, here or in the scheduler's configuration; "
                             "for a model with uniform noise use DNDMScheduler(noise='multinomial')")  # fmt: skip
        return AbsorbingNoise(mask)

    def _new_block(
        self,
        index: int,
        sample: Int[Tensor, "batch block"],
        noise: Noise,
        prompt_mask: Tensor | None,
        generator: torch.Generator | None,
    ) -> _Block:
        """Draw who moves when, for the steps from `index` on."""
        rows, length = torch.arange(len(sample), device=sample.device), sample.shape[1]
        uniforms = CounterUniforms(generator, sample.device)
        free = torch.ones_like(sample, dtype=torch.bool)
        if isinstance(noise, AbsorbingNoise):
            free = sample == noise.mask_token_id
        if prompt_mask is not None:
            if prompt_mask.dtype != torch.bool or prompt_mask.shape not in (sample.shape, sample.shape[1:]):
                raise InputError(f"prompt_mask must be bool [{length}] or {list(sample.shape)}, "
                                 f"got {prompt_mask.dtype} {list(prompt_mask.shape)}")  # fmt: skip
            free = free & ~prompt_mask.to(sample.device)
        grid = uniforms.grid(TIMES, rows, length + 1)
        if self._options.times == "budget":
            tau = balanced_times(self._schedule, len(self.timesteps) - index, free, grid)
            times, turn_of = _turns_of_rows(tau)
        else:
            times, turn_of = self._assign_plan(index, free, grid[:, :-1])
        last = times.shape[1]
        turn_of = last - in_order((last - turn_of) * free, self._options.restoration_order)
        given = _GivenLogits()
        predict = Predictor(
            given, noise, ModelTime(self._schedule, None), uniforms.keys(TOKENS, rows, length),
            loo=self._options.token_correction == "loo",
            one_draw=self._options.version == 1 and not self._options.top_k,
            forbidden=(noise.mask_token_id,) if isinstance(noise, AbsorbingNoise) else (),
        )  # fmt: skip
        return _Block(index, times, turn_of, free, free, given, predict)

    def _assign_plan(
        self, index: int, free: Bool[Tensor, "batch block"], uniforms: Float[Tensor, "batch block"]
    ) -> tuple[Float[Tensor, "batch turns"], Int[Tensor, "batch block"]]:
        """Deal the predetermined times out to the free positions of each row, in random order.

        The plan is a list of independent draws, so its first n entries are n independent draws too.
        """
        most = int(free.sum(1).max())
        if index != 0:
            raise InputError("predetermined times: a block must start at scheduler.timesteps[0] "
                             f"= {float(self.timesteps[0]):g}, got number {index} of them first")  # fmt: skip
        if most > len(self._plan):
            raise InputError(f"set_timesteps drew times for block_length = {len(self._plan)} positions, "
                             f"but a row has {most} free positions")  # fmt: skip
        rank = torch.where(free, uniforms, 2.0).argsort(dim=1).argsort(dim=1).clamp(max=len(self._plan) - 1)
        times = self.timesteps.to(uniforms) / self._options.num_train_timesteps
        return times.expand(len(free), -1), self._plan.to(free.device)[rank]

    @property
    def transition_times(self) -> Float[Tensor, "batch block"]:
        """tau of every position of the current block in (0, 1], 0 at fixed positions.

        Raises:
            InputError: before the first step of a block.
        """
        if self._block is None:
            raise InputError("the transition times are drawn at the first step of a block; call step first")
        block = self._block
        tau = block.times.gather(1, block.turn_of.clamp(max=block.times.shape[1] - 1))
        return tau * block.free

    def add_noise(
        self,
        original_samples: Int[Tensor, "batch length"],
        timesteps: int | float | Num[Tensor, "..."],
        generator: torch.Generator | None = None,
    ) -> Int[Tensor, "batch length"]:
        """Draw x_t from q(x_t | x_0) = alpha_t x_0 + (1 - alpha_t) q_noise, for training and for initial samples.

        Args:
            original_samples: clean tokens.
            timesteps: one time or one a row, on 0..num_train_timesteps; the largest gives pure noise.
            generator: source of the draws.

        Raises:
            InputError: if a time is out of range, or the noise needs `mask_token_id` or `vocab_size`.
        """
        if self._options.noise == "multinomial" and self._options.vocab_size is None:
            raise InputError("add_noise needs vocab_size in the scheduler's configuration")
        noise = self._noise(None, self._options.vocab_size or 0)
        device = original_samples.device
        wide = torch.float32 if device.type == "mps" else torch.float64
        u = torch.as_tensor(timesteps, device=device).to(wide) / self._options.num_train_timesteps
        if u.ndim > 1 or u.numel() not in (1, len(original_samples)) or not bool(((u >= 0) & (u <= 1)).all()):
            raise InputError(f"timesteps must be one time or one a row in 0..{self._options.num_train_timesteps}, "
                             f"got {timesteps}")  # fmt: skip
        where = device if generator is None else generator.device
        draws = torch.rand(2, *original_samples.shape, generator=generator, device=where, dtype=wide).to(device)
        clean = draws[0] < self._schedule.alpha(u).reshape(-1, 1)
        return torch.where(clean, original_samples, noise.sample(draws[1]).to(original_samples))

    @staticmethod
    def check_eos_finished(**state: Any) -> Bool[Tensor, "batch"]:
        """Rows that have committed an end-of-text token, for `LLaDA2Pipeline`; as in `BlockRefinementScheduler`."""
        from diffusers import BlockRefinementScheduler

        return BlockRefinementScheduler.check_eos_finished(**state)

    def check_block_should_continue(self, *, finished: Bool[Tensor, "batch"], **_state: Any) -> bool:
        """Whether a position still waits, for `LLaDA2Pipeline`: the block ends with its last transition time."""
        return self._block is not None and bool(self._block.waiting.any()) and not bool(finished.all())


def _turns_of_rows(
    tau: Float[Tensor, "batch block"],
) -> tuple[Float[Tensor, "batch turns"], Int[Tensor, "batch block"]]:
    """Each row's distinct times, falling, and the place of every position's time among them."""
    falling, place = tau.sort(dim=1, descending=True, stable=True)
    turn = (falling.diff(dim=1, prepend=falling[:, :1]) != 0).cumsum(1)
    # one spare turn: fixed positions have time 0, which comes last
    times = torch.zeros(len(tau), tau.shape[1] + 1, dtype=tau.dtype, device=tau.device).scatter_(1, turn, falling)
    return times, torch.empty_like(place).scatter_(1, place, turn)


def _check_options(options: dict[str, Any]) -> None:
    for name, value in options.items():
        if name not in _BLOCK_REFINEMENT_OPTIONS:
            raise TypeError(f"step() got an unexpected keyword argument {name!r}")
        if name in ("top_p", "top_k") and value is not None:
            raise InputError(f"{name}={value}: DNDMScheduler does not filter logits; use temperature, or filter before")
