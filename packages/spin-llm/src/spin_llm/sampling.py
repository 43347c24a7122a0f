"""Responses of the frozen opponent: ancestral sampling whose every knob is explicit and whose token ids are kept.

The theory needs y' ~ p_t(.|x), that is temperature 1 and no truncation; a model's own generation settings are never
read. Each response has random numbers of its own, so what is drawn does not depend on which others share its batch
(up to rounding).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from shared_core.errors import InputError, RunError
from torch import Tensor, nn

from spin_llm.packing import TokenIds

LEAVING = 8  # finished rows leave a batch when they are an eighth of it


@dataclass(frozen=True)
class Sampler:
    """How responses are drawn.

    Args:
        temperature: divides the logits; 0 takes the most probable token.
        top_p: smallest set of tokens with so much probability; 1 keeps all.
        top_k: so many tokens; 0 keeps all.
        max_new_tokens: a response is cut there, and then has no end token.
        batch_size: responses drawn together.

    Raises:
        InputError: for a value out of its range, naming it.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_new_tokens: int = 256
    batch_size: int = 32

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise InputError(f"temperature must be 0 or more, got {self.temperature:g}")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p must be in (0, 1], got {self.top_p:g}")
        for name in ("max_new_tokens", "batch_size"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.top_k < 0:
            raise InputError(f"top_k must be 0 (all tokens) or more, got {self.top_k}")

    @property
    def is_exact(self) -> bool:
        """Whether draws follow the model's own law, as the theory asks."""
        return self.temperature == 1 and self.top_p == 1 and self.top_k == 0


@dataclass
class Response:
    """One sampled response.

    Args:
        ids: its tokens, the end token included where the model wrote one.
        logprob: log p(y'|x) in nats by the model's raw logits, whatever the sampler did to them.
        finished: whether it ended by itself.
    """

    ids: list[int]
    logprob: float
    finished: bool


def sampling_batches(prompts: Sequence[TokenIds], batch_size: int) -> list[list[int]]:
    """Indices of the prompts that are sampled together: sorted by length, so that little is padded."""
    order = sorted(range(len(prompts)), key=lambda index: (len(prompts[index]), index))
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def sample_responses(
    model: nn.Module,
    prompts: Sequence[TokenIds],
    sampler: Sampler,
    end_ids: Sequence[int],
    seeds: Sequence[int],
    progress: Callable[[Sequence[list[int]]], Iterator[list[int]]] = iter,
) -> list[Response]:
    """Draw one response to each prompt.

    Args:
        model: a causal language model of transformers, in evaluation mode.
        prompts: token ids; repeat a prompt to draw several responses to it.
        sampler: the knobs.
        end_ids: tokens that end a response.
        seeds: one for each response.
        progress: wraps the iteration over batches.

    Raises:
        InputError: for an empty prompt, or a wrong number of seeds.
        RunError: if the model's logits are not finite.
    """
    if len(seeds) != len(prompts):
        raise InputError(f"need one seed for each of the {len(prompts)} prompts, got {len(seeds)}")
    found: dict[int, Response] = {}
    for rows in progress(sampling_batches(prompts, sampler.batch_size)):
        drawn = sample_batch(model, [prompts[row] for row in rows], sampler, end_ids, [seeds[row] for row in rows])
        found |= zip(rows, drawn, strict=True)
    return [found[index] for index in range(len(prompts))]


@torch.inference_mode()
def sample_batch(
    model: nn.Module, prompts: Sequence[TokenIds], sampler: Sampler, end_ids: Sequence[int], seeds: Sequence[int]
) -> list[Response]:
    """Draw responses to a few prompts of similar length in one left-padded batch; finished rows leave it."""
    if any(not len(prompt) for prompt in prompts):
        raise InputError("a prompt is empty")
    from spin_llm.decoding import Decoding

    state = Decoding(model, prompts)
    uniforms = torch.stack([_uniforms(seed, sampler.max_new_tokens) for seed in seeds])
    responses = [Response([], 0.0, False) for _ in prompts]
    ends = torch.tensor(list(end_ids))
    rows = torch.arange(len(prompts))  # those still in the batch, finished ones among them
    for step in range(sampler.max_new_tokens):
        logits = state.logits.float() if state.logits.dtype in (torch.float16, torch.bfloat16) else state.logits
        tokens, logprobs = draw(logits, sampler, uniforms[rows, step].to(logits.device))
        for row, token, logprob in zip(rows.tolist(), tokens.tolist(), logprobs.tolist(), strict=True):
            if not responses[row].finished:
                responses[row].ids.append(token)
                responses[row].logprob += logprob
        for row in rows[torch.isin(tokens.cpu(), ends)].tolist():
            responses[row].finished = True
        open_ = torch.tensor([not responses[row].finished for row in rows.tolist()])
        if not open_.any() or step + 1 == sampler.max_new_tokens:
            break
        # leaving copies the cache of those that stay
        leave = LEAVING * int((~open_).sum()) >= len(rows)
        keep = open_.nonzero()[:, 0] if leave else None
        rows = rows[keep] if keep is not None else rows
        state.advance(tokens, keep)
    return responses


def draw(
    logits: Float[Tensor, "row vocab"], sampler: Sampler, uniforms: Float[Tensor, "row"]
) -> tuple[Tensor, Float[Tensor, "row"]]:
    """One token a row by inversion of the cumulative law, and its log-probability under the raw logits.

    Raises:
        RunError: if logits are not finite.
    """
    total = logits.logsumexp(-1)
    if not torch.isfinite(total).all():
        raise RunError("the model's logits are not finite: no response can be drawn")
    if sampler.temperature == 0:
        tokens = logits.argmax(-1)
    else:
        cumulative = _truncated(logits / sampler.temperature, sampler).softmax(-1).cumsum(-1, dtype=torch.float64)
        # rounding must not pick a token of probability 0 at the upper end, hence the factor below 1
        wanted = uniforms.double() * cumulative[:, -1] * (1 - 1e-15)
        tokens = torch.searchsorted(cumulative, wanted[:, None], right=True)[:, 0].clamp_(max=logits.shape[-1] - 1)
    return tokens, logits.gather(1, tokens[:, None])[:, 0] - total


def _truncated(logits: Float[Tensor, "row vocab"], sampler: Sampler) -> Float[Tensor, "row vocab"]:
    if 0 < sampler.top_k < logits.shape[-1]:
        smallest = logits.topk(sampler.top_k, -1).values[:, -1:]
        logits = logits.masked_fill(logits < smallest, -torch.inf)
    if sampler.top_p < 1:
        ordered, places = logits.sort(-1, descending=True)
        mass = ordered.softmax(-1)
        # a token stays while what comes before it has not reached top_p
        beyond = mass.cumsum(-1) - mass >= sampler.top_p
        logits = logits.masked_fill(beyond.scatter(1, places, beyond), -torch.inf)
    return logits


def _uniforms(seed: int, count: int) -> Float[Tensor, "token"]:
    return torch.rand(count, generator=torch.Generator().manual_seed(seed % 2**63), dtype=torch.float64)
