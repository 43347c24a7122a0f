"""Commands as a user types them: options, configuration files, one line for bad input, exit codes."""

import json
import logging
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from shared_core import InputError, RunError
from shared_core.cli import run


@dataclass
class Optimiser:
    """How to train.

    Args:
        rate: learning rate.
        nesterov: look ahead.
        sizes: layer widths.
    """

    rate: float = 0.1
    nesterov: bool = False
    sizes: list[int] | None = None


def train(
    data: str,
    num_steps: int = 3,
    words: list[str] | None = None,
    rates: list[float] | None = None,
    compile: bool = True,
    noise: Literal["absorbing", "multinomial"] = "absorbing",
    optimiser: Optimiser = Optimiser(),
    items: str | None = None,
    shared: bool | None = None,
) -> None:
    """Train a model.

    More that --help does not need.

    Args:
        data: text file.
        num_steps: updates.
        words: some words.
        rates: some rates.
        compile: compile it first.
        noise: the noise.
        optimiser: how.
        items: a name that argument namespaces also use.
        shared: yes, no, or as a preset has it.
    """
    values = dict(locals())
    values["optimiser"] = vars(optimiser)
    print(json.dumps(values))


def fail(how: str = "input") -> int:
    """Fail in some way."""
    if how == "code":
        return 1
    raise {
        "input": InputError("steps must be positive,\n got -1"),
        "run": RunError("logits became NaN at step 7"),
        "interrupt": KeyboardInterrupt(),
        "bug": ZeroDivisionError("division by zero"),
        "key": KeyError("colour"),
        "disk": OSError(28, "No space left on device", "/data/model.safetensors"),
        "nowhere": OSError(28, "No space left on device"),
        "absent": FileNotFoundError(2, "No such file or directory", "corpus.txt"),
        "folder": IsADirectoryError(21, "Is a directory", "corpus"),
        "denied": PermissionError(13, "Permission denied", "/root/x"),
        "read-only": OSError(30, "Read-only file system", "/cdrom/x"),
        "long": OSError(36, "File name too long", "x" * 10),
        "exit": SystemExit("said so"),
        "exit-3": SystemExit(3),
        "exit-none": SystemExit(),
    }[how]


def import_(quick: bool = False) -> None:
    """Import something."""
    logging.getLogger("package").info("importing")
    print("imported", quick)


def look(model: str = "small", /, n: int = 1) -> None:
    """Look at a model.

    Args:
        model: which.
        n: how often.
    """
    print(json.dumps({"model": model, "n": n}))


def call(*arguments: str) -> int:
    return run("shared-core", [train, fail, import_, look], arguments, summary="Does things.")


@pytest.fixture
def trained(capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """Call `train` and return what it was given."""

    def go(*arguments: str) -> dict[str, Any]:
        code = call("train", *arguments)
        captured = capsys.readouterr()
        assert code == 0, captured.err
        return json.loads(captured.out)

    return go


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Call something that is refused and return the one line."""

    def go(*arguments: str) -> str:
        code = call(*arguments)
        captured = capsys.readouterr()
        assert (code, captured.out) == (2, "")
        assert captured.err.count("\n") == 1, captured.err
        return captured.err

    return go


def test_help_lists_the_verbs_and_version_is_the_distributions(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--help") == 0
    text = capsys.readouterr().out
    assert "Does things." in text
    assert "  train   Train a model.\n  fail    Fail in some way.\n  import  Import something.\n" in text
    assert call("-h") == 0
    assert capsys.readouterr().out == text
    assert call("--version") == 0
    assert capsys.readouterr().out == "shared-core 0.1.0\n"


def test_no_verb_shows_the_help_and_is_bad_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert call() == 2
    assert "usage: shared-core VERB" in capsys.readouterr().out


@pytest.mark.parametrize("verb", ["trian", "--quiet", "train=1", "Train"])
def test_an_unknown_verb_is_one_line_with_the_verbs(refused: Callable[..., str], verb: str) -> None:
    assert refused(verb) == f"shared-core: there is no verb {verb!r}; verbs: train, fail, import, look\n"


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["nonsense"], []])
def test_help_imports_neither_the_parser_nor_torch_and_is_quick(
    python: Callable[..., "subprocess.CompletedProcess[str]"], arguments: list[str]
) -> None:
    code = (
        "import sys, time; start = time.process_time()\nfrom shared_core.cli import run\n"
        "run('shared-core', [print], sys.argv[1:])\n"
        "print(time.process_time() - start, [m for m in ('jsonargparse', 'torch', 'yaml', 'rich') if m in sys.modules])"
    )
    runs = [python(code, *arguments).stdout.splitlines()[-1].split(maxsplit=1) for _ in range(3)]
    assert {loaded for _, loaded in runs} == {"[]"}
    assert min(float(seconds) for seconds, _ in runs) < 0.3


def test_a_verbs_help_shows_its_options_as_typed(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("train", "--help") == 0
    text = capsys.readouterr().out
    for part in ("usage: shared-core train", "Train a model.", "--num-steps", "--optimiser.rate", "--compile [BOOL]"):
        assert part in text
    for part in ("updates. (type: int, default: 3)", "{absorbing,multinomial}", "--quiet", "--debug", "--config"):
        assert part in text
    assert "num_steps" not in text
    assert call("import", "--help") == 0


def test_options_have_their_types_and_defaults(trained: Callable[..., dict[str, Any]]) -> None:
    plain = trained("corpus.txt")
    assert plain == {
        "data": "corpus.txt",
        "num_steps": 3,
        "words": None,
        "rates": None,
        "compile": True,
        "noise": "absorbing",
        "optimiser": {"rate": 0.1, "nesterov": False, "sizes": None},
        "items": None,
        "shared": None,
    }
    assert trained("corpus.txt", "--noise", "multinomial", "--items", "x") == plain | {
        "noise": "multinomial",
        "items": "x",
    }


@pytest.mark.parametrize("spelling", [["--num-steps", "5"], ["--num_steps", "5"], ["--num-steps=5"], ["--num_steps=5"]])
def test_dashes_and_underscores_are_one_spelling(trained: Callable[..., dict[str, Any]], spelling: list[str]) -> None:
    assert trained("x", *spelling)["num_steps"] == 5
    assert trained(*spelling, "x")["num_steps"] == 5


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        (["--compile"], True),
        (["--no-compile"], False),
        (["--no_compile"], False),
        (["--compile=false"], False),
        (["--compile", "false"], False),
        (["--compile", "true"], True),
        (["--no-compile", "--compile"], True),
    ],
)
def test_switches(trained: Callable[..., dict[str, Any]], arguments: list[str], value: bool) -> None:
    assert trained("x", *arguments)["compile"] is value
    assert trained(*arguments, "x")["compile"] is value  # a switch does not swallow what follows


def test_a_switch_of_three_states(trained: Callable[..., dict[str, Any]]) -> None:
    assert trained("x")["shared"] is None
    assert trained("x", "--shared")["shared"] is True
    assert trained("x", "--no-shared")["shared"] is False
    assert trained("x", "--shared", "--num-steps", "2")["num_steps"] == 2


def test_a_switch_of_a_dataclass(trained: Callable[..., dict[str, Any]]) -> None:
    assert trained("x", "--optimiser.nesterov")["optimiser"]["nesterov"] is True


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("a,b", ["a", "b"]),
        ("a, b", ["a", "b"]),
        ("one", ["one"]),
        ("yes,1,null,1.5", ["yes", "1", "null", "1.5"]),
        ("key: value,{x}", ["key: value", "{x}"]),
        ("é,結", ["é", "結"]),
        ('["a,b", c]', ["a,b", "c"]),
        ("null", None),
    ],
)
def test_lists_of_words_are_comma_separated(
    trained: Callable[..., dict[str, Any]], typed: str, words: list[str] | None
) -> None:
    assert trained("x", "--words", typed)["words"] == words
    assert trained("x", f"--words={typed}")["words"] == words


def test_lists_of_numbers_and_numbers_below_zero(trained: Callable[..., dict[str, Any]]) -> None:
    given = trained("x", "--rates", "1,2.5,-1e-3", "--optimiser.sizes", "64,32", "--optimiser.rate", "-1e-3")
    assert given["rates"] == [1.0, 2.5, -1e-3]
    assert given["optimiser"] == {"rate": -1e-3, "nesterov": False, "sizes": [64, 32]}


@pytest.mark.parametrize("text", ["yes", "1", "null", "1e3", "a: b", "[1]", "{}", "#", "~", "2026-11-23"])
def test_text_stays_text(trained: Callable[..., dict[str, Any]], text: str) -> None:
    assert trained(text)["data"] == text


def test_after_a_double_dash_everything_is_positional(trained: Callable[..., dict[str, Any]]) -> None:
    assert trained("--num_steps", "4", "--", "--odd_name")["data"] == "--odd_name"


@pytest.mark.parametrize(
    ("arguments", "name"),
    [([], "small"), (["mine"], "mine"), (["--n", "2", "mine"], "mine"), (["mine", "--n", "2"], "mine")],
)
def test_a_positional_with_a_default_may_be_left_out(
    capsys: pytest.CaptureFixture[str], arguments: list[str], name: str
) -> None:
    assert call("look", *arguments) == 0
    assert json.loads(capsys.readouterr().out) == {"model": name, "n": 2 if "2" in arguments else 1}


def test_a_positional_with_a_default_may_come_from_a_configuration(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "c.yaml").write_text("model: from the file\n")
    assert call("look", "--config", str(tmp_path / "c.yaml")) == 0
    assert json.loads(capsys.readouterr().out)["model"] == "from the file"
    assert call("look", "--help") == 0
    assert "[model]" in capsys.readouterr().out
    assert call("look", "one", "two") == 2


def test_a_printed_configuration_gives_the_same_run(
    trained: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    arguments = ["corpus.txt", "--words", "no,1", "--no-compile", "--optimiser.sizes", "3,4", "--num-steps", "9"]
    assert call("train", *arguments, "--print_config") == 0
    config = tmp_path / "sæt op.yaml"
    config.write_text(capsys.readouterr().out, encoding="utf-8")
    expected = trained(*arguments)
    assert trained("--config", str(config)) == expected
    assert trained(f"--config={config}") == expected
    assert trained("--config", str(config), "--num-steps", "2") == expected | {"num_steps": 2}


def test_a_configuration_may_hold_some_of_the_options(trained: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    config = tmp_path / "some.yaml"
    config.write_text(yaml.safe_dump({"optimiser": {"rate": 0.5}, "num_steps": 4, "quiet": True}))
    given = trained("x", "--config", str(config))
    assert (given["num_steps"], given["optimiser"]["rate"], given["noise"]) == (4, 0.5, "absorbing")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("bogus: 1", ["bogus"]),
        ("optimiser:\n  bogus: 1", ["bogus"]),
        ("num_steps: many", ["--num-steps", "int", "many"]),
        ("a: [", ["line 1"]),
        ("a: 1\nb: [\n", ["line 3"]),
        ("just text", ["must hold a mapping of settings, got str"]),
        ("", ["must hold a mapping of settings, got NoneType"]),
        ("optimiser:\n  class_path: os.system", ["class_path"]),
        ("data: !!python/object/apply:os.system ['touch hacked']", ["line 1"]),
    ],
)
def test_a_bad_configuration_is_one_line(
    refused: Callable[..., str], tmp_path: Path, content: str, words: list[str]
) -> None:
    config = tmp_path / "bad.yaml"
    config.write_text(content)
    line = refused("train", "x", "--config", str(config))
    assert [word for word in words if word not in line] == [], line
    assert "--num-steps" in line or "bad.yaml" in line
    assert not Path("hacked").exists()


def test_a_configuration_that_is_not_there_or_a_folder(refused: Callable[..., str], tmp_path: Path) -> None:
    assert f"{tmp_path}/no.yaml: No such file or directory" in refused("train", "x", "--config", f"{tmp_path}/no.yaml")
    assert f"{tmp_path}: Is a directory" in refused("train", "x", "--config", str(tmp_path))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["data"]),
        (["x", "--bogus", "3"], ["--bogus"]),
        (["x", "y"], ["y"]),
        (["x", "--num-steps", "many"], ["--num-steps", "int", "many"]),
        (["x", "--num-steps"], ["--num"]),
        (["x", "--num", "3"], ["--num"]),
        (["x", "--comp"], ["--comp"]),
        (["x", "--num-steps", "1.5"], ["--num-steps", "int", "1.5"]),
        (["x", "--noise", "loud"], ["--noise", "'absorbing', 'multinomial'", "loud"]),
        (["x", "--rates", "1,two"], ["--rates: expected float. got", "two"]),
        (["x", "--optimiser.sizes", "3,big"], ["--optimiser.sizes: expected int. got", "big"]),
        (["x", "--words"], ["--words", "commas"]),
        (["x", "--words", "--no-compile"], ["--words", "commas"]),
        (["x", "--no-num-steps"], ["--no-num-steps"]),
        (["x", "--optimiser.bogus", "1"], ["--optimiser.bogus"]),
        (["x", "--optimiser", "3"], ["--optimiser"]),
        (["x", "--optimiser.rate", "fast"], ["--optimiser.rate", "float", "fast"]),
        (["x", "--compile=maybe"], ["--compile", "bool", "maybe"]),
    ],
)
def test_bad_options_are_one_line_that_names_them(
    refused: Callable[..., str], arguments: list[str], words: list[str]
) -> None:
    line = refused("train", *arguments)
    assert line.startswith("shared-core train: ")
    assert [word for word in words if word not in line] == [], line
    assert "Union" not in line


@pytest.mark.parametrize(
    ("how", "code", "line"),
    [
        ("input", 2, "steps must be positive, got -1"),
        ("run", 1, "logits became NaN at step 7"),
        ("interrupt", 130, "interrupted; what was finished is kept, the same command goes on"),
        ("bug", 1, "ZeroDivisionError: division by zero (--debug shows where)"),
        ("key", 1, "KeyError: 'colour' (--debug shows where)"),
        ("disk", 1, "/data/model.safetensors: No space left on device"),
        ("nowhere", 1, "OSError: [Errno 28] No space left on device (--debug shows where)"),
        ("absent", 2, "corpus.txt: No such file or directory"),
        ("folder", 2, "corpus: Is a directory"),
        ("denied", 2, "/root/x: Permission denied"),
        ("read-only", 2, "/cdrom/x: Read-only file system"),
        ("long", 2, "xxxxxxxxxx: File name too long"),
    ],
)
def test_what_goes_wrong_is_one_line_and_a_code(
    capsys: pytest.CaptureFixture[str], how: str, code: int, line: str
) -> None:
    assert call("fail", "--how", how) == code
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", f"shared-core fail: {line}\n")


@pytest.mark.parametrize(("how", "code"), [("input", 2), ("bug", 1), ("run", 1)])
def test_debug_shows_the_traceback_and_keeps_the_code(capsys: pytest.CaptureFixture[str], how: str, code: int) -> None:
    assert call("fail", "--how", how, "--debug") == code
    error = capsys.readouterr().err
    assert error.startswith("Traceback (most recent call last):")
    assert ", in fail\n" in error


def test_a_verbs_own_code_is_returned(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("fail", "--how", "code") == 1
    assert call("fail", "--how", "exit-3") == 3
    assert call("fail", "--how", "exit-none") == 0
    assert capsys.readouterr().err == ""
    assert call("fail", "--how", "exit") == 1
    assert capsys.readouterr().err == "said so\n"


def test_quiet_silences_messages_and_not_results(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("import", "--quick") == 0
    assert capsys.readouterr() == ("imported True\n", "importing\n")
    assert call("import", "--quiet") == 0
    assert capsys.readouterr() == ("imported False\n", "")


SCRIPT = """
import sys, time
from shared_core.cli import run
def shout(lines: int = 100000) -> None:
    "Print much."
    for _ in range(lines): print("x" * 50)
def wait() -> None:
    "Wait."
    print("waiting", flush=True)
    time.sleep(60)
sys.exit(run("shared-core", [shout, wait]))
"""


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("arguments", [["shout"], ["shout", "--help"], ["--help"], ["--version"]])
def test_a_reader_that_has_enough_is_no_error(
    tmp_path: Path, arguments: list[str], unbuffered: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    command = [sys.executable, "-c", SCRIPT, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("arguments", [["shout"], ["shout", "--lines", "1"], ["--help"], ["--version"]])
def test_a_full_disk_below_stdout_is_one_line(
    arguments: list[str], unbuffered: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    with open("/dev/full", "w") as full:  # noqa: PTH123 - a device
        command = [sys.executable, "-c", SCRIPT, *arguments]
        failed = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert failed.returncode == 1
    assert "No space left on device" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert failed.stderr.count("\n") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_ctrl_c_is_one_line_and_130() -> None:
    import signal

    command = [sys.executable, "-c", SCRIPT, "wait"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        start = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert error == "shared-core wait: interrupted; what was finished is kept, the same command goes on\n"
    assert time.monotonic() - start < 20


def test_defaults_of_a_dataclass_field_are_not_shared_between_calls(trained: Callable[..., dict[str, Any]]) -> None:
    trained("x", "--optimiser.rate", "9")
    assert trained("x")["optimiser"]["rate"] == 0.1


@dataclass
class Inner:
    """Inner.

    Args:
        deep_switch: a switch two levels down.
        names: words two levels down.
    """

    deep_switch: bool = False
    names: list[str] = field(default_factory=list)


@dataclass
class Outer:
    """Outer.

    Args:
        inner: below.
    """

    inner: Inner = field(default_factory=Inner)


def test_a_dataclass_in_a_dataclass(capsys: pytest.CaptureFixture[str]) -> None:
    def show(outer: Outer = Outer()) -> None:
        """Show.

        Args:
            outer: above.
        """
        print(outer.inner.deep_switch, outer.inner.names)

    arguments = ["show", "--outer.inner.deep-switch", "--outer.inner.names", "a,1"]
    assert run("shared-core", [show], arguments) == 0
    assert capsys.readouterr().out == "True ['a', '1']\n"
