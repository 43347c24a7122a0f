"""Money: a user's price file, the cost of a call, and a budget that stops a run cleanly."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shared_core.errors import InputError, RunError

from rar_prompt.chat import Usage


class BudgetSpentError(RunError):
    """The next call might exceed the budget; everything finished is kept."""


@dataclass(frozen=True)
class Price:
    """Money per million tokens; `cached` is what the provider takes for prompt tokens in its own cache."""

    input: float
    output: float
    cached: float | None = None


class Prices:
    """Prices by model name. What is not in the file is unknown (None), not free."""

    def __init__(self, prices: dict[str, Price]) -> None:
        self.prices = prices

    def cost(self, model: str, usage: Usage) -> float | None:
        """Cost of one call, None where the price or the tokens are unknown."""
        price = self.prices.get(model)
        if price is None or usage.prompt is None or usage.completion is None:
            return None
        cached = min(usage.cached, usage.prompt)
        of_cached = price.input if price.cached is None else price.cached
        fresh = usage.prompt - cached
        return (fresh * price.input + cached * of_cached + usage.completion * price.output) / 1e6

    def require(self, models: Sequence[str]) -> None:
        """Raise InputError naming a model without a price."""
        missing = next((name for name in models if name not in self.prices), None)
        if missing is not None:
            raise InputError(f"a budget in money needs a price for every model: {missing!r} is not in the price file")


def load_prices(path: str | None) -> Prices:
    """Read a YAML or JSON file `model: {input: 2.5, output: 10, cached: 1.25}` (per million tokens).

    Raises:
        InputError: naming file and model, where something is not a price.
    """
    if path is None:
        return Prices({})
    from shared_core.run_folder import read_config

    if not Path(path).is_file():
        raise InputError(f"--prices {path}: there is no such file")
    prices = {}
    for model, row in read_config(path).items():
        wanted = "wanted {input: 2.5, output: 10, cached: 1.25} (cached may be left out)"
        if not isinstance(row, dict) or not {"input", "output"} <= set(row) <= {"input", "output", "cached"}:
            raise InputError(f"{path}: {model}: {wanted}, got {row!r}")
        if not all(isinstance(value, int | float) and value >= 0 for value in row.values()):
            raise InputError(f"{path}: {model}: prices must be numbers of at least 0, got {row!r}")
        prices[str(model)] = Price(**{name: float(value) for name, value in row.items()})
    return Prices(prices)


class Budget:
    """Stops a run before it spends more than allowed.

    A call first reserves what it may cost (its prompt, and as many reply tokens as allowed); when that does not fit it
    waits for calls in flight, which mostly cost less than reserved, and if it still does not fit the budget is spent.

    Args:
        max_tokens: of all calls, those of earlier sessions of the run included; None is no limit.
        max_cost: the same in money.
        tokens: spent already.
        cost: spent already.
    """

    def __init__(
        self, max_tokens: int | None = None, max_cost: float | None = None, tokens: int = 0, cost: float = 0.0
    ) -> None:
        self.max_tokens = max_tokens
        self.max_cost = max_cost
        self.tokens = tokens
        self.cost = cost
        self._held: list[tuple[int, float]] = []
        self._settled = asyncio.Condition()

    @property
    def limited(self) -> bool:
        """Whether there is anything to keep to."""
        return self.max_tokens is not None or self.max_cost is not None

    async def reserve(self, tokens: int, cost: float | None) -> tuple[int, float]:
        """Hold what a call may take.

        Raises:
            BudgetSpentError: if it does not fit even when nothing is in flight.
            InputError: if there is a budget in money and this call's price is unknown.
        """
        if self.max_cost is not None and cost is None:
            raise InputError("a budget in money needs a price for every model: add it to the price file")
        hold = (tokens, cost or 0.0)
        if not self.limited:
            return hold
        async with self._settled:
            while not self._fits(hold):
                if not self._held:
                    raise BudgetSpentError(self._spent())
                await self._settled.wait()
            self._held.append(hold)
        return hold

    async def settle(self, hold: tuple[int, float], tokens: int, cost: float | None) -> None:
        """Replace what was held by what was spent."""
        self.tokens += tokens
        self.cost += cost or 0.0
        if self.limited:
            async with self._settled:
                self._held.remove(hold)
                self._settled.notify_all()

    def _fits(self, hold: tuple[int, float]) -> bool:
        tokens = self.tokens + hold[0] + sum(held[0] for held in self._held)
        cost = self.cost + hold[1] + sum(held[1] for held in self._held)
        within_tokens = self.max_tokens is None or tokens <= self.max_tokens
        return within_tokens and (self.max_cost is None or cost <= self.max_cost)

    def _spent(self) -> str:
        limits = []
        if self.max_tokens is not None:
            limits.append(f"{self.tokens} of {self.max_tokens} tokens")
        if self.max_cost is not None:
            limits.append(f"{self.cost:.4f} of {self.max_cost:.4f} in money")
        return f"the budget does not allow another call: spent {' and '.join(limits)}"
