"""Commands from typed functions: `NAME VERB --option value`, YAML configuration, one line for bad input.

`NAME --help`, `--version` and an unknown verb are answered here without importing anything else; the chosen verb's
parser is made by jsonargparse from its signature and docstring.
"""

import argparse
import errno
import inspect
import json
import logging
import os
import re
import sys
import traceback
import typing
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from itertools import pairwise
from typing import Any, NoReturn

from shared_core.errors import InputError, RunError

Verb = Callable[..., int | None]
DONE, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130


def run(name: str, verbs: Sequence[Verb], argv: Sequence[str] | None = None, summary: str = "") -> int:
    """Run one verb of the command `name` and return its exit code.

    Args:
        name: the command, which is also the distribution whose version `--version` prints.
        verbs: functions with typed signatures and Google-style docstrings; `import_` is shown as `import`.
            They return None or 0 for done, 1 for work that ran and failed.
        argv: arguments without the command; `sys.argv[1:]` by default.
        summary: one line for `--help`.

    Returns:
        0 done; 1 a claim did not hold or the run failed; 2 bad usage or input; 130 interrupted.
    """
    # torch does so at the end of its import: interrupted before, it would log statistics of its caches at the exit
    logging.getLogger("torch").setLevel(logging.WARNING)
    arguments = list(sys.argv[1:] if argv is None else argv)
    table = {_verb_name(verb): verb for verb in verbs}
    first, *rest = arguments or [""]
    if first in table:
        prog = f"{name} {first}"
        return _guarded(prog, lambda: _run_verb(prog, table[first], rest), debug="--debug" in rest)
    if first in ("", "-h", "--help"):
        return _guarded(name, lambda: print(_overview(name, table, summary))) or (DONE if arguments else BAD_INPUT)
    if first == "--version":
        return _guarded(name, lambda: _print_version(name))
    return _complain(f"{name}: there is no verb {first!r}; verbs: {', '.join(table)}")


def _print_version(name: str) -> None:
    import importlib.metadata

    print(name, importlib.metadata.version(name))


def _run_verb(prog: str, verb: Verb, arguments: list[str]) -> int | None:
    values = _parse(prog, verb, arguments)
    from shared_core.logging import configure

    configure(quiet=values.pop("quiet"))
    return verb(*[values.pop(item.name) for item in _optional_positionals(verb)], **values)


def _optional_positionals(verb: Verb) -> list[inspect.Parameter]:
    """Of `def verb(model: str = "smollm2", /, ...)` the model: typed without an option's name, or left out."""
    parameters = inspect.signature(verb).parameters.values()
    return [item for item in parameters if item.kind is item.POSITIONAL_ONLY]


def _guarded(prog: str, work: Callable[[], int | None], debug: bool = False) -> int:
    """The exit code of `work`, and one line on stderr for what went wrong."""
    try:
        try:
            code = work() or DONE
        except SystemExit as stop:  # --help, --print_config
            code = _complain(stop.code, FAILED) if isinstance(stop.code, str) else stop.code or DONE
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return _complain(f"{prog}: interrupted; what was finished is kept, the same command goes on", INTERRUPTED)
    except BrokenPipeError:  # `NAME VERB | head`: the reader has enough
        _drop_unwritten_output()
        return DONE
    except Exception as error:
        if debug:
            traceback.print_exc()
        _drop_unwritten_output()
        return _complain(f"{prog}: {_one_line(error)}", BAD_INPUT if _is_bad_input(error) else FAILED)


def _drop_unwritten_output() -> None:
    """Where stdout takes no more (closed pipe, full disk) keep the interpreter from failing once more at its exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _is_bad_input(error: Exception) -> bool:
    about_a_path = (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError, FileExistsError)
    wrong_path = isinstance(error, OSError) and error.errno in (errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP)
    return wrong_path or isinstance(error, (InputError, *about_a_path))


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    text = " ".join(str(error).split())
    if isinstance(error, InputError | RunError):
        return text
    return f"{type(error).__name__}: {text[:300]} (--debug shows where)"


def _complain(message: str, code: int = BAD_INPUT) -> int:
    print(message, file=sys.stderr)
    return code


def _verb_name(verb: Verb) -> str:
    return verb.__name__.rstrip("_").replace("_", "-")


def _overview(name: str, table: dict[str, Verb], summary: str) -> str:
    width = max(map(len, table)) + 2
    first_lines = {verb: (inspect.getdoc(function) or "").partition("\n")[0] for verb, function in table.items()}
    return "\n".join(
        [
            f"usage: {name} VERB [options]",
            "",
            *([summary, ""] if summary else []),
            "verbs:",
            *[f"  {verb:<{width}}{line}" for verb, line in first_lines.items()],
            "",
            f"{name} VERB --help shows a verb's options; every verb takes --quiet, --debug (tracebacks),",
            "--config FILE.yaml (options from a file) and --print_config (writes such a file).",
        ]
    )


def _parse(prog: str, verb: Verb, arguments: list[str]) -> dict[str, Any]:
    import jsonargparse

    from shared_core.run_folder import read_config

    configs: list[str] = []

    class Parser(jsonargparse.ArgumentParser):
        def error(self, message: str, ex: Exception | None = None) -> NoReturn:
            text = _readable(message)
            source = f"{configs[-1]}: " if configs and "--" not in text else ""  # no option named: it is in the file
            raise InputError(f"{source}{text} (see {prog} --help)") from ex

    logging.getLogger("jsonargparse").setLevel(logging.ERROR)
    # whole names only: `--batch` must not become the --batch-size or --batches of today, and another thing tomorrow
    parser = Parser(prog=prog, description=(inspect.getdoc(verb) or "").partition("\n")[0], allow_abbrev=False)
    parser.add_argument("--config", action="config", help="YAML file with the options below")
    parser.add_function_arguments(verb, as_positional=True)
    for item in _optional_positionals(verb):  # which jsonargparse takes for required
        (action,) = [action for action in parser._actions if action.dest == item.name]
        action.nargs, action.required, action.default = "?", False, argparse.SUPPRESS  # else it overrides --config
    parser.add_argument("--quiet", type=bool, default=False, help="warnings and results only")
    parser.add_argument("--debug", type=bool, default=False, help="show tracebacks")
    switches = _options(verb, _is_switch) | {"quiet", "debug"}
    _show_dashes(parser, switches)
    # argparse takes the -1e-3 of `--learning-rate -1e-3` for an option
    parser._negative_number_matcher = re.compile(r"-(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$|-inf$", re.IGNORECASE)
    normal = _normalise(arguments, parser, switches, _options(verb, _is_list), _options(verb, _is_text_list))
    for option, value in pairwise([*normal, ""]):
        name, equals, given = option.partition("=")
        if name == "--config":
            configs.append(given if equals else value)
            read_config(configs[-1])  # its errors name the file
    parsed = parser.parse_args(normal)
    values = parser.instantiate(parsed)
    # jsonargparse marks keys that are also method names of its namespace with a zero-width space
    known = {item.name: item.default for item in _optional_positionals(verb)}
    known |= {key.replace("\u200b", ""): value for key, value in vars(values).items()}
    return {key: known[key] for key in [*inspect.signature(verb).parameters, "quiet"]}


def _options(verb: Verb, wanted: Callable[[Any], bool]) -> set[str]:
    """Names of the options whose type is `wanted`, `a.b` for the field b of a dataclass a."""

    def find(hints: dict[str, Any], prefix: str = "") -> set[str]:
        found = {prefix + name for name, hint in hints.items() if wanted(hint)}
        for name, hint in hints.items():
            if is_dataclass(hint) and isinstance(hint, type):
                inner = typing.get_type_hints(hint)
                found |= find({item.name: inner[item.name] for item in fields(hint)}, f"{prefix}{name}.")
        return found

    return find(typing.get_type_hints(verb))


def _is_switch(hint: Any) -> bool:
    return hint is bool or hint == bool | None


def _is_list(hint: Any) -> bool:
    return any(typing.get_origin(part) is list for part in (hint, *typing.get_args(hint)))


def _is_text_list(hint: Any) -> bool:
    return any(part == list[str] for part in (hint, *typing.get_args(hint)))


def _show_dashes(parser: Any, switches: set[str]) -> None:
    """Offer `--num-steps` for `num_steps`, and show a switch without a value."""
    for action in parser._actions:
        dashed = [option.replace("_", "-") for option in action.option_strings if option != "--print_config"]
        if action.dest.replace("\u200b", "") in switches:
            action.metavar = "[BOOL]"
        if dashed != action.option_strings and "--print_config" not in action.option_strings:
            for option in dashed:
                parser._option_string_actions.setdefault(option, action)
            action.option_strings = dashed


def _normalise(
    arguments: list[str], parser: Any, switches: set[str], lists: set[str], text_lists: set[str]
) -> list[str]:
    """Bring what people type into the one form that jsonargparse reads.

    `--flag` (or `--flag true`) and `--no-flag` become `--flag=true` and `--flag=false`; `--items a,b` becomes
    `--items=["a", "b"]`, `--sizes 1,2` becomes `--sizes=[1,2]`; underscores and dashes are one spelling.
    """
    result: list[str] = []
    rest = deque(arguments)
    while rest:
        argument = rest.popleft()
        if argument == "--":
            return [*result, argument, *rest]
        option, equals, value = argument.partition("=")
        if not option.startswith("--"):
            result.append(argument)
            continue
        dest = option[2:].replace("-", "_")
        dashed = option.replace("_", "-")
        if dest == "print_config":
            result.append("--print_config" + equals + value)
        elif dest in switches and not equals:
            given = rest.popleft() if rest and rest[0] in ("true", "false") else "true"
            result.append(f"{dashed}={given}")
        elif dest.removeprefix("no_") in switches and not equals:
            result.append(f"--{dashed.removeprefix('--no-')}=false")
        elif dest in lists:
            value = value if equals else rest.popleft() if rest else "--"
            if value.startswith("--"):
                raise InputError(f"{dashed}: expected values separated by commas")
            if not value.startswith("[") and value != "null":
                # quoted where text is wanted: YAML would read `no` and `1` as other things
                value = json.dumps([item.strip() for item in value.split(",")]) if dest in text_lists else f"[{value}]"
            result.append(f"{dashed}={value}")
        else:
            result.append((dashed if dashed in parser._option_string_actions else option) + equals + value)
    return result


def _readable(message: str) -> str:
    """Make jsonargparse's message one line that names the option."""
    text = " ".join(message.split())
    text = re.sub(r'Parser key "([^"]+)":', lambda found: f"--{found[1].replace('_', '-')}:", text)
    text = re.sub(r"Expected a (?:typing\.)?Literal\[([^\]]*)\]\.?", r"expected one of \1.", text)
    text = re.sub(r"Expected a <class '(\w+)'>\.?", r"expected \1.", text)
    text = re.sub(r"Got value: (.*)$", r"got \1", text)
    text = re.sub(r"Does not validate against any of the Union subtypes .*? Errors: (.*)$", _any_of, text)
    return text.replace("\u200b", "")


def _any_of(found: re.Match[str]) -> str:
    """What an option with several types (mostly: a type or nothing) would have taken, and what it was given."""
    reasons, _, given = found[1].partition(" Given value type: ")
    expected = [reason.partition(" got ")[0] for reason in reasons.removeprefix("- ").split(" - ")]
    kept = [reason.removesuffix(".") for reason in expected if "NoneType" not in reason]
    return f"{' or '.join(dict.fromkeys(kept))}. got {given.partition('Given value: ')[2]}"
