"""What is trained on: one latent an item, and the conditions of its prompt, in memory or mapped from files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from jaxtyping import Float, Int
from shared_core.errors import InputError
from torch import Tensor

from spin_diffusion.denoiser import Condition


class Rows(Protocol):
    """A long tensor of which a few rows are wanted at a time."""

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of one row."""
        ...

    def __len__(self) -> int: ...

    def take(self, rows: Sequence[int]) -> Tensor:
        """Those rows, [row, ...]."""
        ...


class TensorRows:
    """Rows of one or more tensors, one after the other (memory-mapped files of a cache look like this).

    Raises:
        InputError: for no rows, or rows of different shapes.
    """

    def __init__(self, *parts: Tensor) -> None:
        self.parts = [part for part in parts if len(part)]
        if not self.parts:
            raise InputError("there are no rows")
        if any(part.shape[1:] != self.parts[0].shape[1:] for part in self.parts):
            raise InputError("rows of different shapes cannot be trained on together")
        self._ends = torch.tensor([len(part) for part in self.parts]).cumsum(0)

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of one row."""
        return tuple(self.parts[0].shape[1:])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def take(self, rows: Sequence[int]) -> Tensor:
        """Those rows, [row, ...]."""
        if len(self.parts) == 1:
            return self.parts[0][torch.as_tensor(rows)]
        wanted = torch.as_tensor(rows)
        which = torch.searchsorted(self._ends, wanted, right=True).tolist()
        starts = [0, *self._ends.tolist()]
        return torch.stack(
            [self.parts[part][row - starts[part]] for part, row in zip(which, wanted.tolist(), strict=True)]
        )


@dataclass(frozen=True)
class TrainingSet:
    """Items to train on.

    Example:
        >>> TrainingSet.of(images, {"class_labels": labels}, null={"class_labels": torch.tensor([10])})

    Args:
        latents: x_0 of each item.
        conditions: named inputs of the network for each prompt, [prompt, ...].
        prompt_of: number of each item's prompt.
        null: the condition without a prompt, one row each; needed by guidance and caption dropout.
        ids: name of each item, for messages.
        prompts: text of each prompt, where there is one.

    Raises:
        InputError: if their lengths do not match.
    """

    latents: Rows
    conditions: Mapping[str, Rows] = field(default_factory=dict)
    prompt_of: Int[Tensor, "item"] = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    null: Condition | None = None
    ids: Sequence[str] = ()
    prompts: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not len(self.prompt_of):
            object.__setattr__(self, "prompt_of", torch.arange(len(self.latents)))
        if len(self.prompt_of) != len(self.latents):
            raise InputError(f"{len(self.latents)} latents and {len(self.prompt_of)} prompts of items do not match")
        for name, rows in self.conditions.items():
            if len(rows) <= int(self.prompt_of.max()):
                raise InputError(
                    f"condition {name} has {len(rows)} rows, and prompt {int(self.prompt_of.max())} is asked"
                )

    @classmethod
    def of(
        cls,
        latents: Float[Tensor, "item *shape"],
        conditions: Mapping[str, Tensor] | None = None,
        null: Condition | None = None,
        prompt_of: Int[Tensor, "item"] | None = None,
    ) -> "TrainingSet":
        """From tensors; without `prompt_of` the conditions have one row an item."""
        rows = {name: TensorRows(value) for name, value in (conditions or {}).items()}
        empty = torch.empty(0, dtype=torch.long)
        return cls(TensorRows(latents), rows, empty if prompt_of is None else prompt_of, null)

    def __len__(self) -> int:
        return len(self.latents)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one latent."""
        return self.latents.row_shape

    def name(self, item: int) -> str:
        """For messages."""
        return self.ids[item] if self.ids else f"item {item}"

    def condition(self, items: Sequence[int]) -> Condition:
        """The network's inputs for these items."""
        prompts = self.prompt_of[torch.as_tensor(items)].tolist()
        return {name: rows.take(prompts) for name, rows in self.conditions.items()}

    def subset(self, items: Sequence[int]) -> "TrainingSet":
        """Those items, in that order.

        Raises:
            InputError: for none.
        """
        chosen = torch.as_tensor(items, dtype=torch.long)
        if not len(chosen):
            raise InputError("no items are left to train on")
        return replace(
            self,
            latents=ChosenRows(self.latents, chosen),
            prompt_of=self.prompt_of[chosen],
            ids=[self.ids[item] for item in chosen.tolist()] if self.ids else (),
        )


class ChosenRows:
    """Some rows of others."""

    def __init__(self, rows: Rows, chosen: Int[Tensor, "row"]) -> None:
        self.rows, self.chosen = rows, chosen

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of one row."""
        return self.rows.row_shape

    def __len__(self) -> int:
        return len(self.chosen)

    def take(self, rows: Sequence[int]) -> Tensor:
        """Those rows, [row, ...]."""
        return self.rows.take(self.chosen[torch.as_tensor(rows)].tolist())
