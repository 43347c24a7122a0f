"""The paper's methods: each turns a question into one or two calls.

Notation: x question, x' its rephrasing, y answer, s steps, z_r the rephrase instruction, z_c the chain-of-thought one.
A method knows neither servers nor files: it is given `ask(role, stage, text)`, which returns a reply.
"""

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

from shared_core.errors import InputError

from rar_prompt.caller import Called
from rar_prompt.items import Item
from rar_prompt.templates import TemplateSet, clean_rephrasing

Role = Literal["responder", "rephraser"]
Ask = Callable[[Role, str, str], Awaitable[Called]]


@dataclass
class Solution:
    """What a method did for one question.

    Args:
        text: the reply that holds the answer; empty where a first step was cut off.
        truncated: whether the last reply was cut off.
        rephrased: x', where there was a separate one.
        calls: (stage, call) in order.
    """

    text: str
    truncated: bool
    rephrased: str | None = None
    calls: list[tuple[str, Called]] = field(default_factory=list)


class Method(Protocol):
    """A way of asking."""

    @property
    def name(self) -> str:
        """Its name in tables, which `method` reads back."""
        ...

    @property
    def rephrases(self) -> bool:
        """Whether a rephraser is called."""
        ...

    def check(self, item: Item) -> None:
        """Raise InputError if the item lacks what the method needs."""
        ...

    async def solve(self, item: Item, templates: TemplateSet, ask: Ask) -> Solution:
        """Ask about one item, which `check` has passed."""
        ...


@dataclass(frozen=True)
class OneCall:
    """A single call: [x] -> y (plain), [x, z_c] -> (s, y) (cot), [x, z_r] -> (x', y) (one-step), [x, z_r, z_c].

    Args:
        template: `plain`, `cot`, `one_step`, `one_step_cot` or `few_shot`.
        wording: of the one-step instruction; the template set's own by default.
    """

    template: str
    wording: str | None = None
    rephrases = False

    @property
    def name(self) -> str:
        """E.g. `one-step:reword`."""
        return self.template.replace("_", "-") + (f":{self.wording}" if self.wording else "")

    def check(self, item: Item) -> None:
        """Few-shot prompts need exemplars."""
        if self.template == "few_shot":
            _check_exemplars(item)

    async def solve(self, item: Item, templates: TemplateSet, ask: Ask) -> Solution:
        """One prompt, one completion."""
        self.check(item)
        values = {"sentence": templates.sentence(self.wording)}
        if self.template == "few_shot":
            values["exemplars"] = templates.render_exemplars(item.exemplars)
        called = await ask("responder", "respond", templates.render(self.template, item, **values))
        return Solution(called.reply.text, called.reply.truncated, calls=[("respond", called)])


@dataclass(frozen=True)
class TwoStep:
    """Two-step RaR: rephraser [x, z_r] -> x'; responder [x, x'] -> y. The original question is never dropped.

    Args:
        cot: the responder is asked to think step by step.
        given: take the item's own rephrasing instead of calling a rephraser.
    """

    cot: bool = False
    given: bool = False

    @property
    def name(self) -> str:
        """E.g. `two-step-cot`."""
        return f"two-step{'-cot' if self.cot else ''}{':given' if self.given else ''}"

    @property
    def rephrases(self) -> bool:
        """Unless the rephrasings are given."""
        return not self.given

    def check(self, item: Item) -> None:
        """A rephrasing that is to be taken must be there.

        Raises:
            InputError: naming the item that has none.
        """
        if self.given and not item.rephrased:
            raise InputError(f"{item.task} {item.id} has no rephrasing; give the field `rephrased`")

    async def solve(self, item: Item, templates: TemplateSet, ask: Ask) -> Solution:
        """x' <- rephraser(step1(x)); y <- responder(step2(x, x'))."""
        self.check(item)
        if self.given:
            rephrased, calls = item.rephrased or "", []
        else:
            first = await ask("rephraser", "rephrase", templates.render("rephrase", item))
            calls = [("rephrase", first)]
            rephrased = clean_rephrasing(first.reply.text)
            if first.reply.truncated:  # half a question is not worth an answer
                return Solution("", True, rephrased, calls)
        template = "respond_cot" if self.cot else "respond"
        called = await ask("responder", "respond", templates.render(template, item, x=rephrased))
        return Solution(called.reply.text, called.reply.truncated, rephrased, [*calls, ("respond", called)])


@dataclass(frozen=True)
class FewShotRepaired:
    """Few-shot CoT with exemplars that the rephraser repaired: [exemplars, z_r] -> exemplars'; [exemplars', x] -> y."""

    name = "few-shot-repaired"
    rephrases = True

    def check(self, item: Item) -> None:
        """There must be exemplars."""
        _check_exemplars(item)

    async def solve(self, item: Item, templates: TemplateSet, ask: Ask) -> Solution:
        """The repair is one call for all items that share their exemplars."""
        self.check(item)
        text = templates.render_exemplars(item.exemplars)
        first = await ask("rephraser", "repair", templates.render("repair", item, exemplars=text))
        repaired = clean_rephrasing(first.reply.text)
        if first.reply.truncated:
            return Solution("", True, repaired, [("repair", first)])
        called = await ask("responder", "respond", templates.render("few_shot", item, exemplars=repaired))
        calls = [("repair", first), ("respond", called)]
        return Solution(called.reply.text, called.reply.truncated, repaired, calls)


def _check_exemplars(item: Item) -> None:
    if not item.exemplars:
        raise InputError(f"{item.task} {item.id} has no exemplars; few-shot methods need --exemplars FILE")


METHODS: dict[str, Callable[[], Method]] = {
    "plain": lambda: OneCall("plain"),
    "cot": lambda: OneCall("cot"),
    "one-step": lambda: OneCall("one_step"),
    "one-step-cot": lambda: OneCall("one_step_cot"),
    "two-step": TwoStep,
    "two-step-cot": lambda: TwoStep(cot=True),
    "two-step:given": lambda: TwoStep(given=True),
    "two-step-cot:given": lambda: TwoStep(cot=True, given=True),
    "few-shot": lambda: OneCall("few_shot"),
    "few-shot-repaired": FewShotRepaired,
}


@dataclass(frozen=True)
class Plan:
    """A method and how many samples of it vote (self-consistency; 1 is the method itself)."""

    method: Method
    votes: int = 1

    @property
    def name(self) -> str:
        """E.g. `one-step*5`."""
        return self.method.name + (f"*{self.votes}" if self.votes > 1 else "")


def plan(name: str, templates: TemplateSet) -> Plan:
    """The plan of that name: a key of `METHODS`, `one-step:WORDING` or `one-step-cot:WORDING`, and `*K` for K votes.

    Raises:
        InputError: if there is no such method or wording, or the votes are no number in 1..100.
    """
    found = re.fullmatch(r"(?P<base>[^*]+?)(?:\*(?P<votes>\d+))?", name.strip())
    base = found["base"] if found else name
    votes = int(found["votes"]) if found and found["votes"] else 1
    if not 1 <= votes <= 100:
        raise InputError(f"method {name!r}: votes must be in 1..100")
    if base in METHODS:
        return Plan(METHODS[base](), votes)
    method, colon, wording = base.partition(":")
    if colon and method in ("one-step", "one-step-cot"):
        templates.sentence(wording)
        return Plan(OneCall(method.replace("-", "_"), wording), votes)
    raise InputError(f"there is no method {name!r}; methods: {', '.join(METHODS)}, one-step:WORDING, and METHOD*VOTES")
