"""Resume or refuse, one run per folder, nothing half-written."""

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from shared_core import InputError
from shared_core.run_folder import RunFolder, installed_version, read_config

SETTINGS: dict[str, Any] = {"verb": "train", "seed": 0, "sizes": (1, 2), "rate": 1e-5}


def _open(path: Path, **changes: Any) -> RunFolder:
    return RunFolder(path, package="shared-core", settings=SETTINGS | changes)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A folder that holds a run with SETTINGS."""
    _open(tmp_path / "run").close()
    return tmp_path / "run"


def test_a_new_folder_records_what_repeats_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/bin/shared-core", "train", "my file.txt"])
    with _open(tmp_path / "deep" / "run") as folder:
        assert not folder.resumed
    config = read_config(tmp_path / "deep" / "run" / "config.yaml")
    assert config["settings"] == {"verb": "train", "seed": 0, "sizes": [1, 2], "rate": 1e-5}
    assert config["command"] == "shared-core train 'my file.txt'"
    assert config["version"] == installed_version("shared-core")
    assert config["versions"]["torch"] == installed_version("torch")


def test_equal_settings_resume_and_keep_what_is_there(run: Path) -> None:
    (run / "result.json").write_text("{}")
    before = (run / "config.yaml").read_bytes()
    with _open(run) as folder:
        assert folder.resumed
        assert folder.read_json("result.json") == {}
        assert folder.read_json("other.json") is None
    assert (run / "config.yaml").read_bytes() == before


def test_without_a_folder_a_run_finds_its_own_or_the_next_free_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    caplog.set_level("INFO")

    def folder_of(**changes: Any) -> tuple[str, bool]:
        with RunFolder(None, package="shared-core", settings=SETTINGS | changes) as folder:
            return str(folder.path), folder.resumed

    first, second = "runs/shared-core-train", "runs/shared-core-train-2"
    assert folder_of() == (first, False)
    assert folder_of(seed=1) == (second, False)
    assert f"{first} holds another run; this one is in {second}" in caplog.text
    assert folder_of() == (first, True)
    assert folder_of(seed=1) == (second, True)
    Path(first, "config.yaml").write_text("[")  # spoilt: neither taken nor in the way
    assert folder_of() == ("runs/shared-core-train-3", False)
    Path("runs/shared-core-train-4").write_text("a file")
    Path("runs/shared-core-train-5").mkdir()
    Path("runs/shared-core-train-5/mine.txt").write_text("not of a run")
    assert folder_of(seed=2) == ("runs/shared-core-train-6", False)
    assert folder_of(verb="eval") == ("runs/shared-core-eval", False)


def test_a_run_that_is_there_already_is_said_to_be(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    _open(run).close()
    assert f"already there: {run}, begun with these settings, what is done is kept" in caplog.text
    (run / "result.json").write_text("{}")
    _open(run).close()
    assert caplog.text.count("already there") == 2
    assert caplog.text.rstrip().endswith(f"already there: {run}, finished with these settings")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, "seed was 0, is 1"),
        ({"new": "x"}, "new was not set, is x"),
        ({"sizes": (1, 3)}, r"sizes was \[1, 2\], is \[1, 3\]"),
        ({"seed": None}, "seed was 0, is None"),
        ({"seed": 1, "verb": "x", "rate": 1, "new": 2}, r"new .*; rate .*; seed .* \(and 1 more\)"),
    ],
)
def test_other_settings_are_refused_by_name(run: Path, changes: dict[str, Any], message: str) -> None:
    before = {path: path.read_bytes() for path in run.iterdir()}
    with pytest.raises(InputError, match=f"holds another run: {message}"):
        _open(run, **changes)
    assert {path: path.read_bytes() for path in run.iterdir()} == before
    _open(run).close()  # and the refusal released the folder


def test_inside_a_group_only_what_differs_is_named(tmp_path: Path) -> None:
    settings = {"fit": {"epochs": 2, "rho": 0.1}, "seed": 0}
    RunFolder(tmp_path / "run", package="shared-core", settings=settings).close()
    with pytest.raises(InputError, match=r"another run: fit\.epochs was 2, is 3; give another"):
        RunFolder(tmp_path / "run", package="shared-core", settings=settings | {"fit": {"epochs": 3, "rho": 0.1}})


def test_a_setting_that_is_gone_is_named(run: Path) -> None:
    fewer = {key: value for key, value in SETTINGS.items() if key != "rate"}
    with pytest.raises(InputError, match="rate was 1e-05, is not set"):
        RunFolder(run, package="shared-core", settings=fewer)


def test_another_package_is_refused(run: Path) -> None:
    with pytest.raises(InputError, match="package was shared-core, is sam-cnn"):
        RunFolder(run, package="sam-cnn", settings=SETTINGS)


def test_a_foreign_folder_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(InputError, match=r"is not empty and holds no run \(it has thesis.tex\)"):
        _open(tmp_path)
    assert [item.name for item in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_folder_left_by_a_kill_before_its_first_file_is_taken(tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    (tmp_path / ".config.yaml.x.part").touch()
    with _open(tmp_path) as folder:
        assert not folder.resumed


def test_what_a_kill_left_half_written_is_gone_when_the_run_goes_on(run: Path) -> None:
    (run / "iter_0").mkdir()
    (run / "iter_0" / ".abc.part").write_text("half")
    (run / "iter_0" / ".tmpa1B2c3").write_text("half of what safetensors was writing")
    (run / ".model.part").mkdir()
    (run / ".model.part" / "weights").write_text("half")
    _open(run, seed=0).close()
    assert sorted(path.name for path in run.rglob("*")) == [".lock", "config.yaml", "iter_0"]


def test_a_file_in_the_folders_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    with pytest.raises(InputError, match="is a file; give a folder"):
        _open(tmp_path / "run")
    with pytest.raises(OSError, match="run"):
        _open(tmp_path / "run" / "below")
    assert (tmp_path / "run").read_text() == "mine"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"settings: [", "config.yaml, line 1: not YAML"),
        (b"a: 1\n\tb: 2", "config.yaml, line 2: not YAML"),
        (b"\xff\xfe\x00", "config.yaml is not YAML"),
        (b"", "config.yaml must hold a mapping of settings, got NoneType"),
        (b"- 1\n", "config.yaml must hold a mapping of settings, got list"),
        (b"settings: 3\n", "config.yaml is not the configuration of a run"),
        (b"!!python/object/apply:os.system ['touch hacked']", "config.yaml, line 1: not YAML"),
    ],
)
def test_a_spoilt_config_is_one_line_that_names_it(run: Path, content: bytes, message: str) -> None:
    (run / "config.yaml").write_bytes(content)
    with pytest.raises(InputError, match=message) as refusal:
        _open(run)
    assert "\n" not in str(refusal.value)
    assert not Path("hacked").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [(b'{"a": 1,\n', "result.json, line 2: not JSON"), (b"\xff", "result.json is not UTF-8 text")],
)
def test_a_spoilt_json_is_one_line_that_names_it(run: Path, content: bytes, message: str) -> None:
    (run / "result.json").write_bytes(content)
    with _open(run) as folder, pytest.raises(InputError, match=message):
        folder.read_json("result.json")


HOLD = """
import sys
from shared_core.run_folder import RunFolder
with RunFolder(sys.argv[1], package="shared-core", settings={"seed": 0}):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_is_refused_until_the_first_is_gone_even_by_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "run"
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        with pytest.raises(InputError, match=r"another run is writing into .*run; wait for it or give another --out"):
            RunFolder(path, package="shared-core", settings={"seed": 0})
        first.kill()
    with RunFolder(path, package="shared-core", settings={"seed": 0}) as folder:
        assert folder.resumed


def test_an_exception_releases_the_folder(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), _open(tmp_path / "run"):
        raise ZeroDivisionError
    _open(tmp_path / "run").close()


def test_one_of_several_that_begin_at_once_gets_the_folder(tmp_path: Path) -> None:
    winners, refusals = [], []
    barrier = threading.Barrier(8)

    def begin() -> None:
        barrier.wait()
        try:
            winners.append(_open(tmp_path / "run"))
        except InputError as refusal:
            refusals.append(str(refusal))

    threads = [threading.Thread(target=begin) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(winners) == 1
    assert all("another run is writing into" in refusal for refusal in refusals)
    winners[0].close()


@pytest.mark.parametrize("name", ["données", "結果 1", "with space", "quote'\"", "-dash"])
def test_any_path_will_do(tmp_path: Path, name: str) -> None:
    with _open(tmp_path / name / name) as folder:
        folder.write_json("result.json", {"name": name})
        figure = Figure()
        figure.subplots().plot([1, 2])
        assert folder.save_figure("loss", figure) == "figures/loss.png"
    with _open(tmp_path / name / name) as folder:
        assert folder.resumed
        assert folder.read_json("result.json") == {"name": name}
    assert (tmp_path / name / name / "figures" / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_a_path_that_is_no_text_can_be_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    monkeypatch.setattr(sys, "argv", ["shared-core", str(path)])
    try:
        path.mkdir()
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    with _open(path, data=path):
        pass
    with _open(path, data=path) as folder:
        assert folder.resumed


def _as_nobody(code: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    """Run where root's power to write anywhere is gone."""
    drop = "import os\nif os.geteuid() == 0:\n    os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
    imports = "import errno, filelock, yaml, tempfile, filelock._unix\nfrom shared_core.run_folder import RunFolder\n"
    # one parse before the drop: what jsonargparse imports on first use may lie where nobody cannot read
    imports += "from shared_core.cli import run\nimport jsonargparse, shared_core.logging\n"
    imports += "def first(out: str) -> None: ...\nassert run('shared-core', [first], ['first', 'x']) == 0\n"
    return subprocess.run([sys.executable, "-c", imports + drop + code], cwd=cwd, capture_output=True, text=True)


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions")
def test_a_read_only_folder_is_one_line_and_exit_2(tmp_path: Path) -> None:
    locked = Path("/") / "usr" if os.geteuid() == 0 else tmp_path
    if os.geteuid() != 0:
        tmp_path.chmod(0o555)
    code = (
        "def work(out: str) -> None:\n    with RunFolder(out, package='shared-core', settings={}): print('wrote')\n"
        f"raise SystemExit(run('shared-core', [work], ['work', '{locked}/no/run']))"
    )
    refused = _as_nobody(code, Path("/"))
    tmp_path.chmod(0o755)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == f"shared-core work: {locked}/no: Permission denied\n"


def test_a_resumed_run_of_another_version_says_so(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump(config | {"version": "0.0.1"}))
    _open(run).close()
    assert "resuming a run begun by shared-core 0.0.1" in caplog.text


values = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["no", "1e3", "~", "=", "nan"])
)


@given(st.dictionaries(st.text(), values | st.lists(values, max_size=3), max_size=5))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_the_settings_are_the_same_ones_resume(
    tmp_path_factory: pytest.TempPathFactory, chosen: dict[str, Any]
) -> None:
    path = tmp_path_factory.mktemp("run")
    RunFolder(path, package="shared-core", settings=chosen).close()
    with RunFolder(path, package="shared-core", settings=chosen) as folder:
        assert folder.resumed
