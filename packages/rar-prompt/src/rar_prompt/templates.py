"""Prompts as versioned data: template sets, their hash, and rendering by replacement."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

from shared_core.errors import InputError

from rar_prompt.chat import without_thinking
from rar_prompt.items import Item

BUILT_IN = ("paper", "official-gpt4", "official-gpt35")
REQUIRED: tuple[str, ...] = (
    "plain",
    "one_step",
    "rephrase",
    "respond",
    "cot",
    "one_step_cot",
    "respond_cot",
    "exemplar",
    "repair",
)
REQUIRED += ("few_shot",)
SLOTS = {"q", "x", "a", "sentence", "choices", "spec", "exemplars", "choices_line", "spec_line", "context_block"}
_SLOT = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class TemplateSet:
    """A named set of prompts. The same id and version never mean two different texts.

    Args:
        id: `paper`, `official-gpt4`, `official-gpt35`, or a user's own.
        version: raised with every change of a text.
        templates: text by name; NAME_choices is preferred over NAME for a question with choices.
        sentences: the wordings of the one-step instruction.
        default_sentence: the wording used when none is named.
        specs: instruction by task (`SPEC` of the official script), appended where the template says.
        tasks: templates that replace the general ones for one task.
    """

    id: str
    version: int
    templates: Mapping[str, str]
    sentences: Mapping[str, str]
    default_sentence: str
    specs: Mapping[str, str] = field(default_factory=dict)
    tasks: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @cached_property
    def hash(self) -> str:
        """First 16 hex digits of the SHA-256 of every text of the set."""
        texts = [dict(self.templates), dict(self.sentences), self.default_sentence, dict(self.specs)]
        content = json.dumps([self.id, self.version, *texts, {key: dict(value) for key, value in self.tasks.items()}])
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def sentence(self, wording: str | None = None) -> str:
        """The one-step instruction of that wording.

        Raises:
            InputError: if there is no such wording.
        """
        name = wording or self.default_sentence
        if name not in self.sentences:
            raise InputError(f"there is no wording {name!r}; wordings of {self.id}: {', '.join(self.sentences)}")
        return self.sentences[name]

    def render(self, name: str, item: Item, **values: str) -> str:
        """The text of template `name` for an item; `values` fill {x}, {sentence} and {exemplars}.

        Every slot is replaced once and nothing is looked for in what replaced it: a question may hold braces.
        """
        own = self.tasks.get(item.task, {})
        keys = [f"{name}_choices", name] if item.choices else [name]
        text = next(source[key] for key in keys for source in (own, self.templates) if key in source)
        spec = item.spec if item.spec is not None else self.specs.get(item.task, "")
        choices = " ".join(f"{chr(65 + index)}. {choice}" for index, choice in enumerate(item.choices))
        slots = {
            "q": item.question,
            "choices": choices,
            "choices_line": f"\nChoices: {choices}" if choices else "",
            "spec": spec,
            "spec_line": f"\n{spec}" if spec else "",
            "context_block": f"{item.context}\n\n" if item.context else "",
        } | values
        return _fill(text, slots)

    def render_exemplars(self, exemplars: tuple[tuple[str, str], ...]) -> str:
        """Worked examples, one blank line between them."""
        pairs = [{"q": q, "a": a} for q, a in exemplars]
        return "\n\n".join(_fill(self.templates["exemplar"], pair) for pair in pairs)


def _fill(text: str, slots: Mapping[str, str]) -> str:
    """Replace every slot once; what replaced it is not looked at again."""
    return _SLOT.sub(lambda found: slots[found[1]], text)


def clean_rephrasing(text: str) -> str:
    """Strip reasoning and white space, then one pair of double quotes if both ends have it (as the official script)."""
    text = without_thinking(text).strip()
    if len(text) > 1 and text[0] == '"' and text[-1] == '"':
        return text[1:-1]
    return text


def load_templates(name: str = "paper") -> TemplateSet:
    """A built-in set by its id, or a user's file (json or yaml), which may say `extends: paper`.

    Raises:
        InputError: if there is no such set, or the file lacks a template or uses an unknown slot.
    """
    if name in BUILT_IN:
        text = resources.files("rar_prompt").joinpath("prompts", f"{name}.json").read_text(encoding="utf-8")
        return _template_set(json.loads(text), name)
    if not Path(name).is_file():
        raise InputError(f"there is no template set {name!r}: give one of {', '.join(BUILT_IN)} or a file")
    from shared_core.run_folder import read_config, read_json

    content = read_json(name) if name.endswith(".json") else read_config(name)
    if not isinstance(content, dict):
        raise InputError(f"{name} must hold a mapping of templates")
    return _template_set(content, name)


def _template_set(content: dict[str, Any], where: str) -> TemplateSet:
    known = {"id", "version", "about", "extends", "templates", "sentences", "default_sentence", "specs", "tasks"}
    if set(content) - known:
        raise InputError(f"{where}: unknown key {sorted(set(content) - known)[0]!r}; keys: {', '.join(sorted(known))}")
    for key in ("templates", "sentences", "specs", "tasks"):
        inner = content.get(key, {}).values() if key == "tasks" and isinstance(content.get(key, {}), dict) else ()
        if not all(isinstance(part, dict) for part in (content.get(key, {}), *inner)):
            raise InputError(f"{where}: {key} must be a mapping of names to texts")
    if "extends" in content:
        base = load_templates(str(content["extends"]))
        for key in ("templates", "sentences", "specs", "tasks"):
            content[key] = {**getattr(base, key), **content.get(key, {})}
        content.setdefault("default_sentence", base.default_sentence)
        if content.get("id", base.id) in BUILT_IN:
            raise InputError(f"{where}: give the set an id of its own; {', '.join(BUILT_IN)} are taken")
    missing = [name for name in REQUIRED if name not in content.get("templates", {})]
    if missing:
        raise InputError(f"{where}: the template {missing[0]!r} is missing (or say `extends: paper`)")
    groups = [content["templates"], *content.get("tasks", {}).values()]
    for text in (text for group in groups for text in group.values()):
        wrong = [slot for slot in _SLOT.findall(str(text)) if slot not in SLOTS]
        if wrong or not isinstance(text, str):
            slots = ", ".join(sorted(SLOTS))
            raise InputError(f"{where}: {text!r} has an unknown slot {{{''.join(wrong[:1])}}}; slots: {slots}")
    try:
        return TemplateSet(
            id=str(content["id"]),
            version=int(content["version"]),
            templates=content["templates"],
            sentences=content["sentences"],
            default_sentence=content["default_sentence"],
            specs=content.get("specs", {}),
            tasks=content.get("tasks", {}),
        )
    except KeyError as error:
        raise InputError(f"{where}: the key {error.args[0]!r} is missing") from error
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: version must be a whole number, got {content['version']!r}") from error
