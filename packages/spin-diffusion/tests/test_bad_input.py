"""The table of bad inputs: one clear line that names file or item, exit code 2, nothing left behind."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

OPTIONS: list[tuple[list[object], str]] = [
    (["none", "IMAGES"], "none: no such folder, and a hub id"),
    (["IMAGES", "IMAGES"], "holds no model_index.json"),
    (["MODEL", "none"], "none: no such file or folder"),
    (["MODEL", "IMAGES", "--beta", 0], "beta must be positive"),
    (["MODEL", "IMAGES", "--beta", "1,2", "--iterations", 1], "beta has 2 values for 1 iterations"),
    (["MODEL", "IMAGES", "--iterations", 0], "iterations must be at least 1"),
    (["MODEL", "IMAGES", "--learning-rate", -1], "learning_rate must be positive"),
    (["MODEL", "IMAGES", "--max-train-steps", 0], "max_train_steps must be at least 1"),
    (["MODEL", "IMAGES", "--ref-mode", "adapter"], "ref_mode adapter needs LoRA"),
    (["MODEL", "IMAGES", "--lora-rank", 2, "--lora-targets", "no_such"], "lora targets no_such"),
    (["MODEL", "IMAGES", "--resolution", 31], "resolution must be a multiple of 2"),
    (["MODEL", "IMAGES", "--held-out", 8], "held_out 8 of 8 items leaves none"),
    (["MODEL", "IMAGES", "--limit", 0], "limit must be at least 1"),
    (["MODEL", "IMAGES", "--player", "none"], "none: no such folder"),
    (["MODEL", "IMAGES", "--player", "IMAGES"], "holds neither unet/ nor"),
    (["MODEL", "IMAGES", "--scorers", "beauty", "--held-out", 2], "there is no scorer 'beauty'"),
    (["MODEL", "IMAGES", "--scorers", "clip=none", "--held-out", 2], "scorer clip: none: no such file"),
    (["MODEL", "IMAGES", "--objective", "trajectory"], "needs noise in every step"),
    (["MODEL", "IMAGES", "--seed", -1], "seed must be in"),
    (["MODEL", "IMAGES", "--device", "cuda"], "device 'cuda' is not available"),
    (["MODEL", "IMAGES", "--precision", "float16", "--device", "cpu"], "precision float16 needs a GPU"),
    (["MODEL", "IMAGES", "--link", "log"], "--link"),
]


@pytest.mark.parametrize(("options", "words"), OPTIONS)
def test_options(spin: Any, toys: Path, tmp_path: Path, options: list[object], words: str) -> None:
    known = {"MODEL": toys / "sd" / "pipeline", "IMAGES": toys / "sd" / "images"}
    code, _, err = spin("run", *[known.get(str(item), item) for item in options], "--out", "runs/run")
    assert code == 2, err
    assert words in err
    assert err.count("\n") == 1, err
    assert not (tmp_path / "runs").exists()


def missing(images: Path) -> None:
    (images / "0003.png").unlink()


def truncated(images: Path) -> None:
    (images / "0003.png").write_bytes((images / "0003.png").read_bytes()[:60])


def text_file(images: Path) -> None:
    (images / "0003.png").write_text("not a picture")


def empty_caption(images: Path) -> None:
    rewrite(images, 3, {"file_name": "0003.png", "text": " "})


def no_file_name(images: Path) -> None:
    rewrite(images, 3, {"text": "a cat"})


def number_as_text(images: Path) -> None:
    rewrite(images, 3, {"file_name": "0003.png", "text": 7})


def not_json(images: Path) -> None:
    lines = (images / "metadata.jsonl").read_text().splitlines()
    lines[3] = "{"
    (images / "metadata.jsonl").write_text("\n".join(lines))


def no_images(images: Path) -> None:
    shutil.rmtree(images)
    images.mkdir()


def no_caption(images: Path) -> None:
    (images / "metadata.jsonl").unlink()


def rewrite(images: Path, line: int, row: dict[str, Any]) -> None:
    lines = (images / "metadata.jsonl").read_text().splitlines()
    lines[line] = json.dumps(row)
    (images / "metadata.jsonl").write_text("\n".join(lines))


DAMAGES: list[tuple[Callable[[Path], None], str, bool]] = [
    (missing, "line 4 (0003.png): the image is missing", True),
    (truncated, "line 4 (0003.png): the image is damaged", True),
    (text_file, "line 4 (0003.png): the image is damaged", True),
    (empty_caption, "line 4 (0003.png): the caption is empty", True),
    (no_file_name, "metadata.jsonl, line 4: no file_name", False),
    (number_as_text, "line 4: text must be a string", False),
    (not_json, "metadata.jsonl, line 4: not JSON", False),
    (no_images, "holds no images", False),
    (no_caption, "0000.png has no caption: expected 0000.txt beside it", False),
]


@pytest.mark.parametrize(("damage", "words", "can_skip"), DAMAGES)
def test_images(
    spin: Any, toys: Path, tmp_path: Path, damage: Callable[[Path], None], words: str, can_skip: bool
) -> None:
    shutil.copytree(toys / "sd" / "images", tmp_path / "images")
    damage(tmp_path / "images")
    given = ["prepare", toys / "sd" / "pipeline", "images", "--out", "cache", "--device", "cpu", "--quiet"]
    code, _, err = spin(*given)
    assert code == 2, err
    assert words in err
    assert err.count("\n") == 1, err
    assert not (tmp_path / "cache").exists()
    code, out, err = spin(*given, "--on-error", "skip")
    if can_skip:
        assert (code, out) == (0, "cache: 7 items, 7 prompts, 1 skipped\n"), err
        assert "1 unusable records skipped" in err
    else:
        assert code == 2


def test_latents_that_are_not_finite_name_the_image_and_the_remedy(spin: Any, toys: Path, tmp_path: Path) -> None:
    from diffusers import AutoencoderKL

    shutil.copytree(toys / "sd" / "pipeline", tmp_path / "broken")
    vae = AutoencoderKL.from_pretrained(tmp_path / "broken" / "vae")
    with torch.no_grad():
        vae.quant_conv.bias.fill_(float("nan"))
    vae.save_pretrained(tmp_path / "broken" / "vae")
    code, _, err = spin("run", "broken", toys / "sd" / "images", "--out", "run", "--quiet", "--device", "cpu")
    assert code == 2
    assert "line 1 (0000.png): the VAE's latents are not finite" in err
    assert "fp16-fix" in err
    assert not (tmp_path / "run").exists()


def test_a_cache_of_other_encoders_or_settings_is_refused(spin: Any, toys: Path, tmp_path: Path) -> None:
    images = toys / "sd" / "images"
    given = ["--device", "cpu", "--quiet"]
    assert spin("prepare", toys / "sd" / "pipeline", images, "--out", "cache", *given)[0] == 0
    code, _, err = spin("prepare", toys / "sd" / "pipeline", images, "--out", "cache", "--resolution", 64, *given)
    assert code == 2
    assert "resolution was 32, is 64" in err
    code, _, err = spin("sft", toys / "sdxl" / "pipeline", "cache", *given)
    assert code == 2
    assert "made for a pipeline of kind sd" in err
    (tmp_path / "cache" / "complete.json").unlink()
    code, _, err = spin("sft", toys / "sd" / "pipeline", "cache", *given)
    assert code == 2
    assert "is not finished" in err
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    code, _, err = spin("prepare", toys / "sd" / "pipeline", images, "--out", "mine", *given)
    assert code == 2
    assert "is not empty" in err


def test_arrays_and_tables_that_are_none(spin: Any, unet: Any, toys: Path, tmp_path: Path) -> None:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    np.savez(tmp_path / "big.npz", images=np.full((2, 3, 32, 32), 7.0), text=np.array(["a", "b"]))
    np.savez(tmp_path / "size.npz", images=np.zeros((2, 3, 8, 8)), text=np.array(["a", "b"]))
    np.savez(tmp_path / "none.npz", pictures=np.zeros(2))
    (tmp_path / "bad.npz").write_text("no")
    (tmp_path / "bad.parquet").write_text("no")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
    table = {"jpg_0": [b"x"], "jpg_1": [b"y"], "label_0": [0.3], "caption": ["c"]}
    pq.write_table(pa.table(table), tmp_path / "label.parquet")
    pq.write_table(pa.table({"image": [None], "text": ["c"]}), tmp_path / "null.parquet")
    for name, words in {
        "big.npz": "must lie in [-1, 1]", "size.npz": "item 0: arrays must be of the model's size, 32 x 32",
        "none.npz": "expected an array images", "bad.npz": "is no .npy or .npz file", "bad.parquet": "is not parquet",
        "other.parquet": "expected the columns jpg_0", "label.parquet": "row 1: label_0 must be 0, 0.5 or 1",
        "null.parquet": "row 1: the image is missing",
    }.items():  # fmt: skip
        code, _, err = spin("prepare", toys / "sd" / "pipeline", name, "--out", "cache", "--device", "cpu", "--quiet")
        assert (code, err.count("\n")) == (2, 1), err
        assert words in err, name
        assert not (tmp_path / "cache").exists()


# what needs no model is said before one is loaded
KEEPING = ("run", "sft", "generate", "eval")
EARLY: list[tuple[list[object], str]] = [
    *[([verb, "MODEL", "none"], "none: no such file or folder") for verb in ("prepare", *KEEPING)],
    (["dpo", "MODEL", "IMAGES"], "pairs need parquet"),
    (["train", "MODEL", "IMAGES", "none"], "none holds no opponents.json"),
    (["train", "MODEL", "IMAGES", "none", "--iteration", -1], "iteration must be at least 0"),
    (["generate", "MODEL", "IMAGES", "--iteration", -1], "iteration must be at least 0"),
    *[([verb, "MODEL", "IMAGES", "--held-out", 8], "held_out 8 of 8 items") for verb in KEEPING],
    (["run", "MODEL", "IMAGES", "--player", "none"], "none: no such folder"),
    (["run", "MODEL", "IMAGES", "--player", "IMAGES"], "holds neither unet/ nor"),
    (["run", "MODEL", "IMAGES", "--held-out", 2, "--features", "none"], "features none cannot be loaded"),
    (["run", "MODEL", "IMAGES", "--optim", "adamw8bit"], "needs the package bitsandbytes"),
    (["run", "MODEL", "IMAGES", "--encode-batch-size", 0], "encode_batch_size must be at least 1"),
    (["eval", "MODEL", "IMAGES", "--players", "none"], "none: no such folder"),
    (["sample", "MODEL", "--prompts", "a", "--player", "none"], "none: no such folder"),
    (["sample", "MODEL", "--prompts", "a", "--resolution", 0], "resolution must be at least 1"),
    (["merge", "MODEL", "none"], "none: no such folder"),
    (["doctor", "MODEL", "--lora-rank", -1], "lora_rank must be 0"),
    (["run", "MODEL", "LISTED"], "line 4 (0003.png): the image is missing"),
    (["run", "MODEL", "LISTED", "--on-error", "skip", "--limit", 4, "--held-out", 3], "held_out 3 of 3 items"),
    (["run", "MODEL", "IMAGES", "--out", "RUN"], "holds another run"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "words"), EARLY)
def test_before_the_model(
    spin: Any, toys: Path, tmp_path: Path, monkeypatch: Any, given: list[object], words: str
) -> None:
    from diffusers import StableDiffusionPipeline
    from shared_core.run_folder import RunFolder

    def loaded(*given: Any, **options: Any) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(StableDiffusionPipeline, "from_pretrained", loaded)
    images = toys / "sd" / "images"
    if "LISTED" in given:
        shutil.copytree(images, tmp_path / "LISTED")
        missing(tmp_path / "LISTED")
    with RunFolder(tmp_path / "RUN", package="spin-diffusion", settings={"verb": "other"}):
        pass
    known = {"MODEL": toys / "sd" / "pipeline", "IMAGES": images}
    code, _, err = spin(*[known.get(str(item), item) for item in given])
    assert code == 2, err
    assert words in err
    assert err.count("\n") == 1, err
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "LISTED") == ["RUN"]


def test_a_folder_that_was_empty_is_so_again(spin: Any, toys: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    given = ["run", toys / "sd" / "pipeline", toys / "sd" / "images", "--out", "mine", "--quiet", "--device", "cpu"]
    assert spin(*given, "--lora-rank", 2, "--lora-targets", "no_such")[0] == 2
    assert not [path for path in (tmp_path / "mine").iterdir() if not path.name.startswith(".")]


def test_options_that_the_exact_objective_has_not(spin: Any, toys: Path) -> None:
    exact = ["--objective", "trajectory", "--eta", 1, "--guidance-scale", 1]
    for option, words in {
        ("--weighting", "elbo"): "objective trajectory has no weighting elbo: leave it constant",
        ("--share-noise", "false"): "objective trajectory has no share_noise False: leave it True",
        ("--beta-convention", "salesforce"): "no beta_convention salesforce: leave it plain",
    }.items():
        code, _, err = spin("run", toys / "sd" / "pipeline", toys / "sd" / "images", *exact, *option)
        assert code == 2, err
        assert words in err


def test_a_hub_that_cannot_be_reached_is_asked_once(tmp_path: Path) -> None:
    """In a process of its own: the hub's client reads its address when it is imported."""
    code = "import sys; from spin_diffusion.hub import check_source; check_source('some/model', 'model_index.json')"
    env = os.environ | {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60)
    last = done.stderr.splitlines()[-1]
    assert "some/model: no such folder, and no model of that name in the hub's cache" in last
    assert "the hub cannot be reached" in last
    assert "Retry" not in done.stderr


def test_hub_ids_that_are_none(spin: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # the variable is read once, maybe before these tests
    for name, words in {
        "some/model": "the hub is not asked, as HF_HUB_OFFLINE is set",
        "so me/model": "no hub id either",
        "model": "a hub id has the form owner/name",
    }.items():
        code, _, err = spin("doctor", name)
        assert (code, err.count("\n")) == (2, 1), err
        assert words in err
