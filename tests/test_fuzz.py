"""Every reader of a user's file, on damaged files: it reads them or says `InputError`, and nothing else happens.

Each entry is a good file (made by other tools than ours) and how a package reads it. A damaged one is cut, has bytes
changed, a piece doubled or another piece put in: most damage keeps the format and breaks what it holds.
"""

import io
import json
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import save
from shared_core.errors import InputError

EXAMPLES = 25
LIMIT = 500e6  # bytes a small broken file may cost


@dataclass(frozen=True)
class Reader:
    """A good file by its name, its content, and the public function that reads it (from its path)."""

    package: str
    file: str
    content: Callable[[], bytes]
    read: Callable[[Path], Any]

    def __str__(self) -> str:
        return f"{self.package}-{self.file}"


def lines(*rows: Any) -> Callable[[], bytes]:
    """One JSON value a line."""
    return lambda: "".join(json.dumps(row) + "\n" for row in rows).encode()


def text(content: str) -> Callable[[], bytes]:
    return content.encode


def parquet(**columns: list[Any]) -> Callable[[], bytes]:
    def make() -> bytes:
        buffer = io.BytesIO()
        pd.DataFrame(columns).to_parquet(buffer)
        return buffer.getvalue()

    return make


def npz(**arrays: np.ndarray) -> Callable[[], bytes]:
    def make() -> bytes:
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)  # type: ignore[arg-type] # its stub takes a name for allow_pickle
        return buffer.getvalue()

    return make


def npy(array: np.ndarray) -> Callable[[], bytes]:
    def make() -> bytes:
        buffer = io.BytesIO()
        np.save(buffer, array)
        return buffer.getvalue()

    return make


def png() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.arange(768, dtype=np.uint8).reshape(16, 16, 3)).save(buffer, "PNG")
    return buffer.getvalue()


def law(path: Path) -> None:
    from ctmc_bounds.law_files import read_law_file

    read_law_file(path, {})


def network(path: Path) -> None:
    from ctmc_bounds.cavity_network import load_network

    load_network(path)


def long_table(path: Path) -> None:
    from d3pm_ehr.formats.assemble import Rules
    from d3pm_ehr.formats.plain import read_long

    read_long(path, Rules("none", min_records=0))


def wide_table(path: Path) -> None:
    from d3pm_ehr.formats.assemble import Rules
    from d3pm_ehr.formats.plain import read_wide

    read_wide(path, Rules("none", min_records=0))


def cohort(path: Path) -> None:
    from d3pm_ehr.formats.storage import load_cohort

    (path.parent / "vocabulary.json").write_text(
        json.dumps({"codes": ["a", "b"], "columns": [], "truncation": "none", "counts": [1, 1], "min_records": 0})
    )
    load_cohort(path.parent)


def corpus(path: Path) -> None:
    from dndm_sampler.corpus import load_corpus

    load_corpus(path, 4)


def schedule(path: Path) -> None:
    from dndm_sampler.schedule import TransitionSchedule

    TransitionSchedule.parse(f"@{path}")


def spectrum(path: Path) -> None:
    from icl_linear.spectra import make_problem

    make_problem(str(path), 3, 1.0, 1.0, None)


def tasks(path: Path) -> None:
    from icl_linear.task_table import read_tasks

    read_tasks(path)


def points(path: Path) -> None:
    from leaky_relu_bias.datasets import load
    from leaky_relu_bias.options import DataOptions

    load(str(path), DataOptions())


def binary(path: Path) -> None:
    from parity_sgd.tables import read_table

    read_table(path)


def weights(path: Path) -> None:
    from parity_sgd.runs import load_weights

    load_weights(path)


def questions(path: Path) -> None:
    from rar_prompt.readers import read_items

    read_items(path)


def exemplars(path: Path) -> None:
    from rar_prompt.readers import read_exemplars

    read_exemplars(path)


def templates(path: Path) -> None:
    from rar_prompt.templates import load_templates

    load_templates(str(path))


def prices(path: Path) -> None:
    from rar_prompt.prices import load_prices

    load_prices(str(path))


def endpoints(path: Path) -> None:
    from rar_prompt.backends.open import read_models

    read_models(str(path))


def script(path: Path) -> None:
    from rar_prompt.backends.scripted import scripted_from_file

    scripted_from_file(str(path))


def recorded(path: Path) -> None:
    from rar_prompt.backends.replay import Replay

    Replay(path)


def images(path: Path) -> None:
    from sam_cnn.images import load_splits

    load_splits(str(path), 0.1, 0)


def pictures(path: Path) -> None:
    from spin_diffusion.sources import open_image, read_records

    for record in read_records(path if path.suffix in (".parquet", ".npz") else path.parent):
        if not record.problem and record.image is not None:
            open_image(record.image, record.id, 16)


def conversations(path: Path) -> None:
    from spin_llm.records import read_examples

    read_examples(path)


def generated(path: Path) -> None:
    from spin_llm.generation import read_pairs

    read_pairs(path)


def configuration(path: Path) -> None:
    from shared_core.run_folder import read_config

    read_config(path)


def plain_json(path: Path) -> None:
    from shared_core.run_folder import read_json

    read_json(path)


def metrics(path: Path) -> None:
    from shared_core.logging import MetricsLog

    MetricsLog(path).read()


BITS = "a,b,y\n0,1,1\n1,0,0\n1,1,0\n0,0,1\n"
RNG = np.random.default_rng(0)
CALL = {"status": "ok", "backend": {"model": "m"}, "messages": [{"role": "user", "content": "q"}], "sample": 0,
        "text": "yes", "finish_reason": "stop", "model": "m", "seconds": 0.1, "attempts": 1, "reasoning": None,
        "usage": {"prompt": 1, "completion": 1}}  # fmt: skip
PAIR = {"id": "a", "prompt": [1], "real": [2], "generated": [3], "finished": True, "logprob": -1.0, "seed": 1}
TEMPLATES = text("id: mine\nversion: 1\nextends: paper\ntemplates:\n  plain: '{q}'\n")
READERS = [
    Reader("ctmc-bounds", "samples.csv", text("0,1,0\n1,1,0\n0,0,1\n"), law),
    Reader("ctmc-bounds", "table.npy", npy(np.full((2, 2, 2), 0.125)), law),
    Reader("ctmc-bounds", "table.npz", npz(S=np.array(2), d=np.array(2), probs=np.full(4, 0.25)), law),
    Reader("ctmc-bounds", "law.json", text('{"kind": "ising", "d": 4, "J": 0.5}'), law),
    Reader("ctmc-bounds", "network.safetensors", lambda: save({"weight.a": np.ones(3, np.float32)}), network),
    Reader("d3pm-ehr", "long.csv", text('patient,code\n1,401\n1,250\n2,"a b"\n2,401\n'), long_table),
    Reader("d3pm-ehr", "long.parquet", parquet(patient=["1", "1", "2"], code=["401", "250", "401"]), long_table),
    Reader("d3pm-ehr", "wide.csv", text("a,b\n0,1\n1,1\n1,0\n"), wide_table),
    Reader(
        "d3pm-ehr",
        "records.safetensors",
        lambda: save(
            {
                "indptr": np.array([0, 1, 2]),
                "indices": np.array([0, 1], np.int32),
                "columns": np.zeros((2, 0), np.int64),
            }
        ),
        cohort,
    ),
    Reader("dndm-sampler", "corpus.txt", text("the cat sat on the mat. " * 40), corpus),
    Reader("dndm-sampler", "alphas.json", text("[1.0, 0.75, 0.5, 0.25, 0.0]"), schedule),
    Reader("icl-linear", "spectrum.txt", text("1.0\n0.5\n0.25\n"), spectrum),
    Reader("icl-linear", "spectrum.npy", npy(np.array([1.0, 0.5, 0.25])), spectrum),
    Reader("icl-linear", "tasks.csv", text("task,y,x1,x2\na,1,2,3\na,2,3,4\nb,0,1,1e3\n"), tasks),
    Reader("leaky-relu-bias", "points.csv", text("a,b,y\n1,2,1\n-1,0.5,-1\n2,2,1\n"), points),
    Reader("leaky-relu-bias", "points.npz", npz(X=RNG.normal(size=(4, 5)), y=np.array([1, -1, 1, -1])), points),
    Reader("leaky-relu-bias", "points.npy", npy(np.array([[1.0, 2, 1], [2, -1, -1]])), points),
    Reader("parity-sgd", "bits.csv", text(BITS), binary),
    Reader("parity-sgd", "bits.tsv", text(BITS.replace(",", "\t")), binary),
    Reader("parity-sgd", "bits.parquet", parquet(a=[0, 1, 1], b=[1, 0, 1], y=[1, 0, 0]), binary),
    Reader("parity-sgd", "seed-0.safetensors", lambda: save({"W": np.ones((2, 3), np.float32)}), weights),
    Reader(
        "rar-prompt",
        "asked.jsonl",
        lines({"question": "2 + 2?", "answer": "4"}, {"question": "Why?", "answer": "so"}),
        questions,
    ),
    Reader("rar-prompt", "asked.csv", text("question,answer\n2 + 2?,4\nWhy?,so\n"), questions),
    Reader("rar-prompt", "asked.parquet", parquet(question=["2 + 2?", "Why?"], answer=["4", "so"]), questions),
    Reader("rar-prompt", "asked.json", text('[{"question": "2 + 2?", "answer": "4"}]'), questions),
    Reader("rar-prompt", "worked.jsonl", lines({"question": "2 + 2?", "answer": "2 + 2 = 4"}), exemplars),
    Reader("rar-prompt", "templates.yaml", TEMPLATES, templates),
    Reader("rar-prompt", "templates.json", text('{"id": "mine", "version": 1, "extends": "paper"}'), templates),
    Reader("rar-prompt", "prices.yaml", text("m: {input: 2.5, output: 10}\n"), prices),
    Reader("rar-prompt", "models.yaml", text("m: {model: 'http://localhost/v1#x', timeout: 3}\n"), endpoints),
    Reader("rar-prompt", "script.yaml", text("rules:\n- {match: 'a.*b', reply: 'yes'}\n"), script),
    Reader("rar-prompt", "calls.jsonl", lines(CALL, CALL | {"sample": 1}), recorded),
    Reader("sam-cnn", "images.npz", npz(x=RNG.integers(0, 255, (12, 4, 4), np.uint8), y=np.arange(12) % 3), images),
    Reader("spin-diffusion", "picture.png", png, pictures),
    Reader("spin-diffusion", "metadata.jsonl", lines({"file_name": "metadata.jsonl", "text": "a"}), pictures),
    Reader(
        "spin-diffusion",
        "pairs.parquet",
        lambda: parquet(caption=["a"], jpg_0=[png()], jpg_1=[png()], label_0=[1.0])(),
        pictures,
    ),
    Reader("spin-diffusion", "arrays.npz", npz(images=np.zeros((2, 1, 16, 16)), labels=np.arange(2)), pictures),
    Reader(
        "spin-llm",
        "chat.jsonl",
        lines(
            {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
            {"prompt": "c", "response": "d"},
        ),
        conversations,
    ),
    Reader("spin-llm", "alpaca.json", text('[{"instruction": "a", "input": "", "output": "b"}]'), conversations),
    Reader("spin-llm", "chat.parquet", parquet(prompt=["a", "b"], response=["c", "d"]), conversations),
    Reader("spin-llm", "pairs.jsonl", lines(PAIR), generated),
    Reader(
        "shared-core", "config.yaml", text("version: 1\nsettings: {a: 1, b: [1, 2], c: 2026-01-01}\n"), configuration
    ),
    Reader("shared-core", "result.json", text('{"a": [1, 2.5, null], "b": "c"}'), plain_json),
    Reader("shared-core", "metrics.jsonl", lines({"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25}), metrics),
]
# what breaks readers most: other types, other numbers, other structure
PIECES = [b"", b"\x00", b"\xff\xfe", b"nan", b"-1", b"1e999", b"9" * 30, b"null", b"{}", b"[", b'"', b"\n", b",", b"\r",
          b": ", b"&a [*a]", b"!!python/object:os.system", b"\xef\xbb\xbf", "é".encode()]  # fmt: skip


@st.composite
def damaged(draw: st.DrawFn, good: bytes) -> bytes:
    """The file after up to three accidents."""
    data = bytearray(good)
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(data)))
        stop = min(len(data), start + draw(st.integers(0, 12)))
        piece = draw(st.sampled_from(PIECES) | st.binary(max_size=8) | st.just(bytes(data[start:])))
        data[start:stop] = piece
        if draw(st.integers(0, 5)) == 0:
            del data[draw(st.integers(0, len(data))) :]
    return bytes(data)


@pytest.mark.parametrize("reader", READERS, ids=str)
def test_a_damaged_file_is_read_or_refused(reader: Reader, tmp_path: Path) -> None:
    good = reader.content()
    path = tmp_path / reader.file

    @settings(
        max_examples=EXAMPLES, deadline=None, derandomize=True, database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )  # fmt: skip
    @given(content=damaged(good))
    @example(content=b"")
    @example(content=good)
    def check(content: bytes) -> None:
        path.write_bytes(content)
        tracemalloc.start()
        with suppress(InputError):
            reader.read(path)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < LIMIT, f"{len(content)} bytes made it take {peak / 1e6:.0f} MB"

    check()


def test_every_package_has_its_readers_here() -> None:
    packages = {path.parent.name for path in Path(__file__).parents[1].glob("packages/*/pyproject.toml")}
    assert packages <= {reader.package for reader in READERS}
