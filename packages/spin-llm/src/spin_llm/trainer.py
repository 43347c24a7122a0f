"""Self-play behind the argument names that TRL's trainers have."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from spin_llm.choices import Turns
from spin_llm.config import SPINConfig
from spin_llm.iteration import Iteration
from spin_llm.loading import load_model
from spin_llm.models import Lora, add_lora
from spin_llm.records import example_of
from spin_llm.rendering import Renderer, Tokenizer, tokenize
from spin_llm.self_play import SelfPlay


class SPINTrainer:
    """SPIN on records as `datasets` holds them.

    Example:
        >>> trainer = SPINTrainer("my/model", SPINConfig(iterations=2), train_dataset=rows, output_dir="run")
        >>> trainer.train()

    Args:
        model: a live model (then `processing_class` is needed), or what `load_model` takes.
        args: the settings.
        train_dataset: records in any layout that `read_examples` knows.
        eval_dataset: the same, held out.
        processing_class: the tokenizer.
        peft_config: LoRA settings, in place of those in `args`.
        output_dir: folder of the run.
        turns: which assistant turn of a conversation is the response.
        callback: called with each finished `Iteration`.

    Raises:
        InputError: for an unusable record, naming it and its field.
        TypeError: for a live model without its tokenizer.
    """

    def __init__(
        self,
        model: nn.Module | str | Path,
        args: SPINConfig,
        train_dataset: Iterable[Mapping[str, Any]],
        eval_dataset: Iterable[Mapping[str, Any]] = (),
        processing_class: Tokenizer | None = None,
        peft_config: Lora | None = None,
        output_dir: str | Path = "runs/spin-llm",
        turns: Turns = "first",
        callback: Callable[[Iteration], None] | None = None,
    ) -> None:
        train, held_out = (
            [example_of(dict(row), f"{name}, record {number}", turns) for number, row in enumerate(rows, start=1)]
            for name, rows in (("train_dataset", train_dataset), ("eval_dataset", eval_dataset))
        )
        source = "" if isinstance(model, nn.Module) else str(model)
        if not isinstance(model, nn.Module):
            model, tokenizer = load_model(model)
            processing_class = processing_class or tokenizer
        if processing_class is None:
            raise TypeError("a live model needs its tokenizer as processing_class")
        self.model = add_lora(model, peft_config or args.lora, source, args.seed)
        self.processing_class, self.args = processing_class, args
        renderer = Renderer(processing_class, args.template)
        self._game = SelfPlay(
            self.model, processing_class, tokenize(train, renderer, args.limits), args, output_dir,
            held_out=tokenize(held_out, renderer, args.limits), source=source, after=callback,
        )  # fmt: skip

    def train(self) -> list[Iteration]:
        """Play all iterations, or those that an interrupted call left; `model` is then the last player."""
        return self._game.run()
