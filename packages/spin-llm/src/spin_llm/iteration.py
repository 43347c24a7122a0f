"""What an iteration came to, and the rules by which it may be the last."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from shared_core.errors import InputError

from spin_llm.config import SPINConfig
from spin_llm.evaluation import Evaluation, compare_paired


@dataclass
class Iteration:
    """What one iteration came to.

    Args:
        number: the paper's t, from 0.
        pairs: trained on, the previous iteration's included.
        identical: among them, pairs whose two responses are equal.
        first: metrics of the first step; its loss is l(0).
        last: metrics of the last step.
        evaluation: means and errors on held-out prompts.
        accuracy: on held-out prompts, of telling real responses from the opponent's.
    """

    number: int
    pairs: int
    identical: int
    first: dict[str, float]
    last: dict[str, float]
    evaluation: dict[str, Any] = field(default_factory=dict)
    accuracy: dict[str, float] = field(default_factory=dict)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Iteration":
        """What `write_json` made of one: of a single held-out prompt the error is NaN, which JSON holds as text."""
        judged = {
            name: {key: float(number) for key, number in row.items()} for name, row in value["evaluation"].items()
        }
        accuracy = {key: float(number) for key, number in value["accuracy"].items()}
        return cls(**value | {"evaluation": judged, "accuracy": accuracy})


def check_stop_rules(config: SPINConfig, held_out: Sequence[object]) -> None:
    """Refuse a rule that could never apply.

    Raises:
        InputError: if there is a stop rule and nothing to judge by.
    """
    if not held_out and (config.stop_when_worse or config.stop_when_indistinguishable):
        raise InputError("stop_when_worse and stop_when_indistinguishable need held-out examples (--held-out)")


def is_worse(player: Evaluation | None, before: Evaluation | None) -> bool:
    """Whether held-out responses became less likely, by two standard errors of the paired difference."""
    if player is None or before is None:
        return False
    change = compare_paired(player, before, "nll_per_token")
    return change["mean"] > 2 * change["error"]


def is_indistinguishable(result: Iteration) -> bool:
    """Whether held-out real responses cannot be told from the opponent's: accuracy within its error of one half."""
    accuracy = result.accuracy
    return bool(accuracy) and abs(accuracy["mean"] - 0.5) <= accuracy["error"]
