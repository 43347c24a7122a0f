"""Conditions on a record: all of several terms, each any of some codes or levels, or none of them.

493              the code is present           250,585       both are
491|492|496      at least one is present       !401          it is absent
sex=female       a column has this level       !401|402      neither is present
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, UInt8
from shared_core.errors import InputError
from torch import Tensor

from d3pm_ehr.layout import TokenLayout
from d3pm_ehr.vocabulary import Vocabulary


@dataclass(frozen=True)
class Term:
    """Any of these (token, level) pairs, or none of them where `negated`."""

    options: tuple[tuple[int, int], ...]
    negated: bool = False


@dataclass(frozen=True)
class Condition:
    """All of the terms."""

    terms: tuple[Term, ...]
    text: str = ""

    @classmethod
    def parse(cls, text: str, vocabulary: Vocabulary) -> "Condition":
        """Read the notation above.

        Raises:
            InputError: for an unknown code or level, an empty term, or terms that contradict each other.
        """
        terms = []
        for part in text.split(","):
            body = part.strip().removeprefix("!")
            options = tuple(_option(item.strip(), vocabulary, text) for item in body.split("|"))
            terms.append(Term(options, part.strip().startswith("!")))
        condition = cls(tuple(terms), text)
        condition._refuse_contradiction(vocabulary)
        return condition

    def _refuse_contradiction(self, vocabulary: Vocabulary) -> None:
        allowed = self._allowed(vocabulary.layout)
        for term in self.terms:
            if not term.negated and not any(level in allowed[token] for token, level in term.options):
                about = vocabulary.names[term.options[0][0]]
                raise InputError(f"--condition {self.text!r} contradicts itself about {about}")
        for token, levels in allowed.items():
            if not levels:
                raise InputError(f"--condition {self.text!r} contradicts itself about {vocabulary.names[token]}")

    def _allowed(self, layout: TokenLayout) -> dict[int, set[int]]:
        """Levels that each of its tokens may have: what the negated terms, and those about one token alone, leave."""
        allowed = {token: set(range(layout.levels[token])) for token in self.tokens}
        for term in self.terms:
            if term.negated:
                for token, level in term.options:
                    allowed[token].discard(level)
            elif len({token for token, _ in term.options}) == 1:
                allowed[term.options[0][0]] &= {level for _, level in term.options}
        return allowed

    def refuse_given(self, given: Mapping[int, int], vocabulary: Vocabulary) -> None:
        """Refuse fixed tokens with which it cannot hold.

        Raises:
            InputError: naming the token.
        """
        for term in self.terms:
            met = [(token, given.get(token) == level) for token, level in term.options if token in given]
            if (term.negated and any(same for _, same in met)) or (
                not term.negated and len(met) == len(term.options) and not any(same for _, same in met)
            ):
                about = next(token for token, same in met if same == term.negated)
                raise InputError(f"given and condition {self.text!r} contradict each other about "
                                 f"{vocabulary.names[about]}")  # fmt: skip

    @property
    def tokens(self) -> tuple[int, ...]:
        """All tokens it speaks of."""
        return tuple(sorted({token for term in self.terms for token, _ in term.options}))

    def holds(self, x: UInt8[Tensor, "rows columns"]) -> Bool[Tensor, "rows"]:
        """Which records fulfil it."""
        result = torch.ones(len(x), dtype=torch.bool, device=x.device)
        for term in self.terms:
            found = torch.stack([x[:, token] == level for token, level in term.options]).any(0)
            result &= ~found if term.negated else found
        return result

    def log_probability(self, layout: TokenLayout, logits: Float[Tensor, "rows logits"]) -> Float[Tensor, "rows"]:
        """log p(condition | x_t) where the head's tokens are independent given x_t.

        Exact for single codes; for any-of terms and several terms it is the product that independence gives.
        """
        total = logits.new_zeros(len(logits))
        for term in self.terms:
            none = sum((_log_absent(layout, logits, *option) for option in term.options), torch.zeros_like(total))
            # log(1 - e^none), stable where `none` is near 0
            total = total + (none if term.negated else torch.log(-torch.expm1(none.clamp_max(-1e-7))))
        return total

    def fixed(self, layout: TokenLayout) -> dict[int, int]:
        """The level of each of its tokens, where the terms leave one level only.

        Raises:
            InputError: where they leave several, as an any-of term or a negated level of a column with more than two.
        """
        fixed = {}
        for token, levels in self._allowed(layout).items():
            if len(levels) > 1:
                raise InputError(
                    f"--condition {self.text!r}: an any-of term, or a negated level of a column with more than two, "
                    "does not say what to fix; use --guidance.method own_head, classifier or reject"
                )
            (fixed[token],) = levels
        return fixed


def _option(text: str, vocabulary: Vocabulary, whole: str) -> tuple[int, int]:
    if not text:
        raise InputError(f"--condition {whole!r} has an empty term")
    name, equals, level = text.partition("=")
    token = vocabulary.find(name)
    if not equals:
        if vocabulary.levels_of(token) != ("absent", "present"):
            levels = ", ".join(vocabulary.levels_of(token)[:8])
            raise InputError(f"--condition: {name!r} is a column; write {name}=LEVEL with one of {levels}")
        return token, 1
    levels_ = vocabulary.levels_of(token)
    if level not in levels_:
        raise InputError(f"--condition: {name!r} has no level {level!r}; levels: {', '.join(levels_[:12])}")
    return token, levels_.index(level)


def _log_absent(layout: TokenLayout, logits: Tensor, token: int, level: int) -> Tensor:
    """log(1 - p_token(level))."""
    for group, part in layout.parts(logits):
        if token < group.stop:
            own = part[:, token - group.start]
            if group.levels == 2:
                return torch.nn.functional.logsigmoid(own if level == 0 else -own)
            others = torch.cat([own[:, :level], own[:, level + 1 :]], 1)
            return others.logsumexp(1) - own.logsumexp(1)
    raise InputError(f"token {token} is beyond the {layout.columns} of the layout")
