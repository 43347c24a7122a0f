"""Supervised fine-tuning and DPO on given pairs: the start that SPIN takes, and the baseline beside it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shared_core.errors import InputError
from shared_core.logging import MetricsLog
from torch import Tensor, nn

from spin_llm.already_there import tell_stage
from spin_llm.config import Optimization
from spin_llm.models import disable_dropout, pad_id, restore_player, save_model
from spin_llm.objectives import Demonstration, ScoredPair, dpo_objective, sft_objective
from spin_llm.opponent import score_responses
from spin_llm.optimization import Item, Objective, Step, train
from spin_llm.rendering import Tokenizer, Tokens
from spin_llm.sequence_logprobs import Scoring, scoring_of
from spin_llm.training_state import saved_step


def fine_tune(
    model: nn.Module,
    tokenizer: Tokenizer,
    examples: Sequence[Tokens],
    settings: Optimization,
    out: Path,
    accelerator: Any,
    seed: int = 0,
) -> None:
    """Maximum likelihood on demonstrations, in place; the result goes to `out/model`, a killed run goes on.

    Raises:
        InputError: if there are no examples.
        RunError: if the loss is not finite.
    """
    if _is_made(model, examples, out, accelerator, "sft"):
        return
    items = [Demonstration(example.id, example.prompt, example.real) for example in examples]
    scoring = scoring_of(model, pad_id(tokenizer))
    _stage(model, tokenizer, items, sft_objective, settings, scoring, out, accelerator, seed, "sft")


def prefer(
    model: nn.Module,
    tokenizer: Tokenizer,
    examples: Sequence[Tokens],
    rejected: Sequence[Sequence[int]],
    settings: Optimization,
    beta: float,
    out: Path,
    accelerator: Any,
    seed: int = 0,
) -> None:
    """DPO on given pairs, the reference being the model as it comes.

    Args:
        model: changed in place.
        tokenizer: saved beside the result.
        examples: prompts with the chosen responses.
        rejected: token ids of the others.
        settings: optimiser, rate, batch sizes.
        beta: of DPO.
        out: folder of the run.
        accelerator: accelerate's.
        seed: of the order of the pairs.

    Raises:
        InputError: if there are no pairs.
        RunError: if the loss is not finite.
    """
    if _is_made(model, examples, out, accelerator, "dpo"):
        return
    responses = [[example.real, other] for example, other in zip(examples, rejected, strict=True)]
    pad = pad_id(tokenizer)
    scoring = scoring_of(model, pad)
    scores = score_responses(model, [example.prompt for example in examples], responses, scoring, pad_id=pad)
    items = [
        ScoredPair(example.id, example.prompt, example.real, other, *score)
        for example, other, score in zip(examples, rejected, scores, strict=True)
    ]
    _stage(model, tokenizer, items, dpo_objective(beta), settings, scoring, out, accelerator, seed, "dpo")


def _is_made(model: nn.Module, examples: Sequence[Tokens], out: Path, accelerator: Any, label: str) -> bool:
    """Make the model ready; where an earlier run has made the result, take that and say so."""
    if not examples:
        raise InputError(f"{label} needs examples, got none")
    disable_dropout(model)
    model.to(accelerator.device).eval()
    if accelerator.is_main_process:
        tell_stage(out)
    if made := (out / "model").exists():
        restore_player(model, out / "model")
    return made


def _stage(
    model: nn.Module,
    tokenizer: Tokenizer,
    items: Sequence[Item],
    objective: Objective[Any],
    settings: Optimization,
    scoring: Scoring,
    out: Path,
    accelerator: Any,
    seed: int,
    label: str,
) -> None:
    metrics, state = MetricsLog(out / "metrics.jsonl"), out / "state.safetensors"
    if accelerator.is_main_process:
        out.mkdir(parents=True, exist_ok=True)
        metrics.rewind(saved_step(state))

    def report(step: Step) -> None:
        metrics.write(step.number, **step.metrics)

    def finish(weights: dict[str, Tensor] | None) -> None:
        save_model(model, tokenizer, out / "model", weights=weights)
        state.unlink(missing_ok=True)

    train(
        model, items, objective, settings, scoring, accelerator,
        pad_id=pad_id(tokenizer), seed=seed, state=state, report=report, finish=finish, label=label,
    )  # fmt: skip
