"""Players on held-out items: what the pair loss cannot show, beside the opponent and beside theta_0."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from safetensors.torch import load_file, save_file
from shared_core.errors import RunError
from shared_core.files import atomic_path, write_json
from shared_core.run_folder import read_json
from torch import Tensor, nn

from spin_diffusion.config import SPINConfig
from spin_diffusion.held_out import denoising_errors, implicit_accuracy
from spin_diffusion.opponents import generate_opponents
from spin_diffusion.schedules import Schedule
from spin_diffusion.training_set import Rows, TrainingSet

log = logging.getLogger(__name__)
# number of the player (0 is theta_0) and its samples for the held-out items -> named values
Evaluate = Callable[[int, Rows], dict[str, Any]]


class Game(Protocol):
    """What a judge needs of a trainer."""

    net: nn.Module
    scheduler: Any
    schedule: Schedule
    config: SPINConfig
    accelerator: Any
    out: Path | None
    transform: Callable[[Tensor], Tensor] | None


@dataclass
class Judged:
    """A player on held-out items.

    Args:
        samples: its own for them.
        real_errors: its denoising errors on the items, [item, draw].
        fake_errors: on its samples.
        evaluation: what `evaluate` returned.
    """

    samples: Rows
    real_errors: Tensor
    fake_errors: Tensor
    evaluation: dict[str, Any]


class Judge:
    """Compares each player with its opponent and with theta_0 on held-out items.

    Args:
        game: whose current player is judged.
        held_out: items that are not trained on.
        evaluate: what else is to be known of a player's samples.
    """

    def __init__(self, game: Game, held_out: TrainingSet, evaluate: Evaluate | None) -> None:
        self.game, self.held_out, self.evaluate = game, held_out, evaluate
        self._first_error: float | None = None

    def __call__(self, player: int) -> Judged:
        """The current player on held-out items, once; its samples there have the same seeds as every player's."""
        game = self.game
        folder = self._folder(player)
        samples = generate_opponents(
            game.net, game.scheduler, self.held_out, game.config.sampler, game.accelerator,
            seed=game.config.seed + 1, folder=folder / "held_out" if folder is not None else None,
            transform=game.transform, label="sampling held-out prompts",
        )  # fmt: skip
        path = folder / "held_out.safetensors" if folder is not None else None
        if path is None or not path.exists():
            errors = {"real": self._errors(), "fake": self._errors(samples)}
            evaluation = self.evaluate(player, samples) if self.evaluate is not None else {}
            if path is not None and game.accelerator.is_main_process:
                write_json(path.with_name("evaluation.json"), evaluation)
                with atomic_path(path) as aside:
                    save_file(errors, aside)
            game.accelerator.wait_for_everyone()
        else:
            errors, evaluation = load_file(path), read_json(path.with_name("evaluation.json"))
        return Judged(samples, errors["real"], errors["fake"], evaluation)

    def _errors(self, samples: Rows | None = None) -> Tensor:
        game = self.game
        return denoising_errors(
            game.net, game.schedule, self.held_out, samples=samples, seed=game.config.seed,
            batch_size=game.config.optimization.per_device_train_batch_size, autocast=game.accelerator.autocast,
        )  # fmt: skip

    def compare(self, number: int, before: Judged) -> dict[str, float]:
        """The new player beside its opponent and beside theta_0, on held-out items."""
        real, fake = self._errors(), self._errors(before.samples)
        error, start = float(real.mean()), self._start_error(before)
        limit = self.game.config.held_out_limit
        if error > (1 + limit) * start and self.game.config.guard != "off":
            text = (
                f"iteration {number}: the held-out denoising error {error:.4g} is more than {limit:.0%} above that of "
                f"theta_0, {start:.4g}: raise beta or lower learning_rate"
            )
            if self.game.config.guard == "stop":
                raise RunError(text)
            log.warning("%s", text)
        accuracy = implicit_accuracy(real, fake, before.real_errors, before.fake_errors)
        return {"error": error, "start_error": start, "implicit_accuracy": accuracy}

    def _start_error(self, before: Judged) -> float:
        if self._first_error is None:
            path = self.game.out / "start" / "held_out.safetensors" if self.game.out is not None else None
            first = load_file(path)["real"] if path is not None and path.exists() else before.real_errors
            self._first_error = float(first.mean())
        return self._first_error

    def _folder(self, player: int) -> Path | None:
        if self.game.out is None:
            return None
        return self.game.out / "start" if player == 0 else self.game.out / f"iter_{player - 1}"
