"""How good a player is on prompts it never saw, prompt by prompt, so that two players can be compared in pairs."""

import math
import re
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from shared_core.errors import InputError
from torch import nn

from spin_llm.generation import Engine, model_engine, response_seed
from spin_llm.objectives import TIE
from spin_llm.opponent import score_responses
from spin_llm.rendering import Tokenizer, Tokens
from spin_llm.sampling import Response, Sampler, sampling_batches
from spin_llm.sequence_logprobs import Scoring

METRICS = ("nll_per_token", "rouge_l", "finished", "tokens")


@dataclass
class Evaluation:
    """One player on held-out prompts.

    Args:
        prompts: ids of the examples.
        values: for each metric one number a prompt: `nll_per_token` of the real response in nats, `rouge_l` (F1 of
            samples at the sampler's temperature against it), share `finished`, mean number of `tokens`.
        real_logprob: log p(y|x), nats.
        sample: token ids of the first sample to each prompt.
        sample_logprob: log p(y'|x) of it.
        texts: all samples to each prompt, decoded.
    """

    prompts: list[str]
    values: dict[str, list[float]]
    real_logprob: list[float]
    sample: list[list[int]]
    sample_logprob: list[float]
    texts: list[list[str]] = field(default_factory=list)
    means: dict[str, dict[str, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.means = {name: mean_and_error(values) for name, values in self.values.items()}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Evaluation":
        """What `asdict` and json made of one."""
        return cls(**value)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def evaluate_player(
    model: nn.Module,
    tokenizer: Tokenizer,
    examples: Sequence[Tokens],
    sampler: Sampler,
    end_ids: Sequence[int],
    scoring: Scoring,
    *,
    samples: int = 2,
    seed: int = 0,
    pad_id: int = 0,
    engine: Engine | None = None,
) -> Evaluation:
    """Likelihood of the real responses and quality of sampled ones.

    Args:
        model: the player, in evaluation mode.
        tokenizer: decodes for ROUGE.
        examples: held out from training.
        sampler: of the responses.
        end_ids: tokens that end one.
        scoring: what the model allows.
        samples: responses a prompt.
        seed: the same for all players that are compared: common random numbers.
        pad_id: fills rows up.
        engine: draws responses; the model itself by default.

    Raises:
        InputError: if there are no examples.
    """
    if not examples:
        raise InputError("evaluation needs held-out examples, got none")
    draw = engine or model_engine(model)
    prompts = [example.prompt for example in examples for _ in range(samples)]
    drawn: dict[int, Response] = {}
    for rows in sampling_batches(prompts, sampler.batch_size):
        seeds = [response_seed(seed + 1_000_003, row) for row in rows]
        drawn |= zip(rows, draw([prompts[row] for row in rows], sampler, end_ids, seeds), strict=True)
    groups = [[drawn[row * samples + k] for k in range(samples)] for row in range(len(examples))]
    responses = [[example.real, group[0].ids] for example, group in zip(examples, groups, strict=True)]
    scores = score_responses(model, [example.prompt for example in examples], responses, scoring, pad_id=pad_id)

    def text(ids: Sequence[int]) -> str:
        return str(tokenizer.decode(list(ids), skip_special_tokens=True))

    texts = [[text(response.ids) for response in group] for group in groups]
    values = {
        "nll_per_token": [-score[0] / len(example.real) for example, score in zip(examples, scores, strict=True)],
        "rouge_l": [
            statistics.mean(rouge_l(text(example.real), sample) for sample in group)
            for example, group in zip(examples, texts, strict=True)
        ],
        "finished": [statistics.mean(float(response.finished) for response in group) for group in groups],
        "tokens": [statistics.mean(len(response.ids) for response in group) for group in groups],
    }
    return Evaluation(
        [example.id for example in examples],
        values,
        [score[0] for score in scores],
        [group[0].ids for group in groups],
        [score[1] for score in scores],
        texts,
    )


def discrimination(
    model: nn.Module, examples: Sequence[Tokens], opponent: Evaluation, scoring: Scoring, pad_id: int = 0
) -> dict[str, float]:
    """Held-out share of prompts where a player tells the real response from its opponent's (ties count one half).

    Near 1/2 the player cannot tell them apart any more: self-play has nothing left to learn from.
    """
    responses = [[example.real, sample] for example, sample in zip(examples, opponent.sample, strict=True)]
    scores = score_responses(model, [example.prompt for example in examples], responses, scoring, pad_id=pad_id)
    hits = []
    rows = zip(scores, opponent.real_logprob, opponent.sample_logprob, strict=True)
    for (real, generated), before_real, before_generated in rows:
        margin = (real - before_real) - (generated - before_generated)
        hits.append(0.5 if abs(margin) < TIE else float(margin > 0))
    return mean_and_error(hits)


def compare_paired(one: Evaluation, other: Evaluation, metric: str) -> dict[str, float]:
    """Mean over prompts of `one` minus `other`, and its standard error: both met the same prompts.

    Raises:
        InputError: if they did not.
    """
    if one.prompts != other.prompts:
        raise InputError("the two evaluations are of different prompts and cannot be compared in pairs")
    return mean_and_error([a - b for a, b in zip(one.values[metric], other.values[metric], strict=True)])


def mean_and_error(values: Sequence[float]) -> dict[str, float]:
    """Mean, and standard error of the mean."""
    spread = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return {"mean": statistics.fmean(values), "error": spread}


def rouge_l(one: str, other: str) -> float:
    """ROUGE-L F1 (Lin 2004): 2 LCS / (m + n) on lower-case words of letters and digits, 0 where there is none.

    The same numbers as the package rouge-score without its stemmer.
    """
    a, b = (re.findall(r"[a-z0-9]+", text.lower()) for text in (one, other))
    longest = [0] * (len(b) + 1)
    for word in a:
        before = longest[:]
        for place, candidate in enumerate(b):
            longest[place + 1] = before[place] + 1 if word == candidate else max(before[place + 1], longest[place])
    return 2 * longest[-1] / (len(a) + len(b)) if longest[-1] else 0.0
