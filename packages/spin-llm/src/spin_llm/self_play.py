"""Algorithm 1 of the paper: sample from the frozen opponent, train against it, let the result be the next opponent.

Each phase leaves its result as a file that appears whole; a phase whose file is there is done. A killed run therefore
goes on where it was, and on a CPU ends at the same weights to the bit.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from shared_core.errors import InputError
from shared_core.files import atomic_path, write_json
from shared_core.logging import MetricsLog
from shared_core.run_folder import read_json
from torch import Tensor, nn

from spin_llm.already_there import tell_run
from spin_llm.config import SPINConfig
from spin_llm.diagnostics import Watch
from spin_llm.evaluation import Evaluation, discrimination, evaluate_player
from spin_llm.fingerprints import check_same_run
from spin_llm.generation import FILE, Engine, GeneratedPair, generate_pairs, model_engine, read_pairs
from spin_llm.iteration import Iteration, check_stop_rules, is_indistinguishable, is_worse
from spin_llm.losses import contraction_factor
from spin_llm.models import disable_dropout, fingerprint, pad_id, restore_player, save_model
from spin_llm.objectives import ScoredPair, settled_loss, spin_objective
from spin_llm.opponent import score_pairs
from spin_llm.optimization import Step, train
from spin_llm.rendering import Renderer, Tokenizer, Tokens
from spin_llm.sequence_logprobs import Scoring, scoring_of
from spin_llm.training_state import is_sharded, saved_step
from spin_llm.vllm_engine import vllm_opponent

log = logging.getLogger(__name__)


class SelfPlay:
    """Self-play fine-tuning of a model on supervised examples.

    Example:
        >>> model, tokenizer = load_model("smollm2")
        >>> examples = tokenize(docstring_examples()[:320], Renderer(tokenizer), TokenLimits())
        >>> SelfPlay(model, tokenizer, examples, preset("small"), "run").run()

    Args:
        model: the supervised player theta_0, with `requires_grad` on what is to be trained (see `add_lora`).
        tokenizer: renders prompts and decodes.
        examples: tokenised demonstrations.
        config: the settings.
        out: folder of the run.
        held_out: examples for evaluation, none of which is trained on.
        source: where the model came from, part of its fingerprint.
        engine: draws the opponent's responses; the model itself by default.
        after: called with each finished `Iteration`.
        accelerator: accelerate's; made by default.
        reload: loads a saved player; needed where the weights are sharded over processes.
        generation_prompts: token ids to sample from in place of the examples' prompts, to repeat the official runs.

    Raises:
        InputError: for no examples.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Tokenizer,
        examples: Sequence[Tokens],
        config: SPINConfig,
        out: str | Path,
        *,
        held_out: Sequence[Tokens] = (),
        source: str = "",
        engine: Engine | None = None,
        after: Callable[[Iteration], None] | None = None,
        accelerator: Any = None,
        reload: Callable[[Path], nn.Module] | None = None,
        generation_prompts: Sequence[Sequence[int]] | None = None,
    ) -> None:
        if not examples:
            raise InputError("self-play needs examples, got none")
        check_stop_rules(config, held_out)
        self.accelerator = accelerator or make_accelerator(config)
        self.model = model.to(self.accelerator.device)
        disable_dropout(self.model)
        self.model.eval()
        self.tokenizer, self.config, self.out = tokenizer, config, Path(out)
        self.examples, self.held_out, self.source = examples, held_out, source
        self.engine, self.after, self.reload = engine, after, reload
        self.end_ids = Renderer(tokenizer, config.template).end_ids
        self.pad = pad_id(tokenizer)
        self.scoring: Scoring = scoring_of(self.model, self.pad)
        self.generation_prompts = generation_prompts

    def run(self) -> list[Iteration]:
        """Play all iterations, or those that are not done yet.

        Raises:
            InputError: if the folder holds a run of other settings or other data.
            RunError: if numbers are not finite; what was finished is kept.
        """
        check_same_run(self.out, self.config, self.examples, self.held_out, self.accelerator.is_main_process)
        if self.accelerator.is_main_process:
            tell_run(self.out, range(self.config.iterations))
        done: list[Iteration] = []
        if self.config.base_weight and self.accelerator.is_main_process and not (self.out / "base").exists():
            save_model(self.model, self.tokenizer, self.out / "base")
        opponent = self.evaluate(self.out / "start.json")
        for number in range(self.config.iterations):
            result = self._iteration(number, opponent)
            before, opponent = opponent, self.evaluate(self._folder(number) / "evaluation.json")
            done.append(result)
            if self.after is not None and self.accelerator.is_main_process:
                self.after(result)
            if self.config.stop_when_indistinguishable and is_indistinguishable(result):
                log.warning(
                    "held-out accuracy %.2f: real and generated cannot be told apart, stopping", result.accuracy["mean"]
                )
                break
            if self.config.stop_when_worse and is_worse(opponent, before):
                log.warning("held-out responses became less likely in iteration %d, stopping", number)
                break
        return done

    def train_on(self, current: list[GeneratedPair], number: int = 0) -> Iteration:
        """One iteration on given responses of this very player, with the settings of that iteration."""
        if self.accelerator.is_main_process:
            tell_run(self.out, [number])
        return self._learn(number, current, None)

    def _iteration(self, number: int, opponent: Evaluation | None) -> Iteration:
        if (self._folder(number) / "iteration.json").exists():
            self.become(self._folder(number) / "model")
            return Iteration.from_json(read_json(self._folder(number) / "iteration.json"))
        current = self._generate(number)
        if self.config.mix_previous and number > 0:
            current = [*current, *read_pairs(self._folder(number - 1) / FILE)]
        return self._learn(number, current, opponent)

    def _learn(self, number: int, current: list[GeneratedPair], opponent: Evaluation | None) -> Iteration:
        """Score, train, evaluate."""
        folder, beta = self._folder(number), self.config.beta_at(number)
        if contraction_factor(beta) > 1:
            log.info("beta %g < 1/2 overshoots if minimised (factor %.3g)", beta, contraction_factor(beta))
        pairs = self._scored(number, current)
        first, last = self._train(number, beta, pairs)
        identical = sum(pair.identical for pair in pairs)
        if identical == len(pairs):
            log.warning("iteration %d: every response equals the real one, there is nothing to learn", number)
        result = Iteration(number, len(pairs), identical, first, last)
        if self.held_out:
            found = self.evaluate(folder / "evaluation.json")
            result.evaluation = found.means if found is not None else {}
            if opponent is not None:
                result.accuracy = discrimination(self.model, self.held_out, opponent, self.scoring, self.pad)
        if self.accelerator.is_main_process:
            write_json(folder / "iteration.json", asdict(result))
            (folder / "state.safetensors").unlink(missing_ok=True)
        self.accelerator.wait_for_everyone()
        return result

    def _generate(self, number: int) -> list[GeneratedPair]:
        if self.engine is not None or self.config.engine == "model" or (self._folder(number) / FILE).exists():
            return self._draw(number, self.engine or model_engine(self.model), self.accelerator)
        if self.accelerator.is_main_process:
            with vllm_opponent(self.model, self.tokenizer, self.out, self.config.optimization.precision) as engine:
                self._draw(number, engine, None)
        self.accelerator.wait_for_everyone()
        return read_pairs(self._folder(number) / FILE)

    def _draw(self, number: int, engine: Engine, accelerator: Any) -> list[GeneratedPair]:
        return generate_pairs(
            engine,
            self.examples,
            self.config.sampler,
            self.end_ids,
            self._folder(number),
            fingerprint(self.model, self.source),
            self.order_seed(number),
            accelerator,
            self.generation_prompts,
        )

    def _scored(self, number: int, rows: list[GeneratedPair]) -> list[ScoredPair]:
        """Pairs, those of the previous iteration included, as this opponent scores them."""

        def scores() -> Tensor:
            return score_pairs(
                self.model, rows, self.scoring, self.accelerator, self.pad,
                self.config.optimization.per_device_train_batch_size,
            )  # fmt: skip

        path = self._folder(number) / "opponent.safetensors"
        if not path.exists():
            tensors = {"opponent": scores()}
            if self.config.base_weight and number == 0:
                tensors["base"] = tensors["opponent"].clone()  # one file must not hold a tensor twice
            elif self.config.base_weight:
                self.become(self.out / "base")
                tensors["base"] = scores()
                self.become(self._folder(number - 1) / "model")
            if self.accelerator.is_main_process:
                path.parent.mkdir(parents=True, exist_ok=True)
                with atomic_path(path) as aside:
                    save_file(tensors, aside)
            self.accelerator.wait_for_everyone()
        stored = load_file(path)
        base = stored.get("base", torch.zeros_like(stored["opponent"]))
        return [
            ScoredPair(row.id, row.prompt, row.real, row.generated, *opponent, *base_)
            for row, opponent, base_ in zip(rows, stored["opponent"].tolist(), base.tolist(), strict=True)
        ]

    def _train(
        self, number: int, beta: float, pairs: Sequence[ScoredPair]
    ) -> tuple[dict[str, float], dict[str, float]]:
        folder, config = self._folder(number), self.config
        main = self.accelerator.is_main_process
        metrics = MetricsLog(folder / "metrics.jsonl")
        if not (folder / "model").exists():
            state = folder / "state.safetensors"
            watch = Watch(beta, config.kl_limit)
            skipped = {"settled": settled_loss(config.loss_type)} if config.skip_identical else {}

            def report(step: Step) -> None:
                watch(step)
                metrics.write(step.number, **step.metrics)

            def finish(weights: dict[str, Tensor] | None) -> None:
                save_model(self.model, self.tokenizer, folder / "model", weights=weights)

            if main:
                metrics.rewind(saved_step(state))
            train(
                self.model,
                pairs,
                spin_objective(beta, config.loss_type, config.base_weight, config.length_normalize),
                config.optimization.at(number),
                self.scoring,
                self.accelerator,
                pad_id=self.pad,
                seed=self.order_seed(number),
                state=state,
                report=report,
                finish=finish,
                label=f"iteration {number}",
                **skipped,
            )
        self.accelerator.wait_for_everyone()
        self.become(folder / "model")
        rows = metrics.read()
        return (_without_step(rows[0]), _without_step(rows[-1])) if rows else ({}, {})

    def become(self, folder: Path) -> None:
        """Take the weights of a saved player.

        Raises:
            InputError: if the weights are sharded and there is no `reload`.
        """
        if is_sharded(self.accelerator):
            if self.reload is None:
                raise InputError("weights sharded over processes need `reload`, which loads a saved player")
            self.model = self.reload(folder).to(self.accelerator.device)
            disable_dropout(self.model)
            self.model.eval()
        else:
            restore_player(self.model, folder)

    def evaluate(self, path: Path) -> Evaluation | None:
        """The current player on held-out prompts, once."""
        if not self.held_out:
            return None
        missing = not path.exists()
        self.accelerator.wait_for_everyone()  # all have looked before one writes
        if missing:
            found = evaluate_player(
                self.model,
                self.tokenizer,
                self.held_out,
                self.config.sampler,
                self.end_ids,
                self.scoring,
                seed=self.config.seed,
                pad_id=self.pad,
                engine=self.engine,
            )
            if self.accelerator.is_main_process:
                write_json(path, found.to_json())
            self.accelerator.wait_for_everyone()
        return Evaluation.from_json(read_json(path))

    def order_seed(self, number: int) -> int:
        """Of an iteration's samples and the order of its pairs."""
        return self.config.seed * 1009 + number

    def _folder(self, number: int) -> Path:
        return self.out / f"iter_{number}"


def make_accelerator(config: SPINConfig, cpu: bool = False) -> Any:
    """accelerate's view of the processes that run this, with the run's precision."""
    from accelerate import Accelerator

    precision = {"float32": "no", "bfloat16": "bf16"}[config.optimization.precision]
    return Accelerator(cpu=cpu or not torch.accelerator.is_available(), mixed_precision=precision)


def _without_step(row: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in row.items() if name != "step"}
