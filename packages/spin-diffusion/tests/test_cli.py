"""Every verb as a user types it, on tiny pipelines of the real classes."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

QUICK = ["--max-train-steps", 3, "--num-inference-steps", 3, "--device", "cpu", "--quiet"]


def pick_a_pic(path: Path, rows: int = 6) -> None:
    """Pick-a-Pic's layout: two images, a label, a caption; the third row is a tie."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    def jpg(colour: tuple[int, int, int]) -> bytes:
        made = io.BytesIO()
        Image.new("RGB", (40, 36), colour).save(made, format="JPEG")
        return made.getvalue()

    table = {
        "jpg_0": [jpg((30 * i, 0, 0)) for i in range(rows)], "jpg_1": [jpg((0, 30 * i, 0)) for i in range(rows)],
        "label_0": [[1.0, 0.0, 0.5][i % 3] for i in range(rows)], "caption": [f"prompt {i}" for i in range(rows)],
    }  # fmt: skip
    pq.write_table(pa.table(table), path)


@pytest.mark.parametrize(("kind", "lora"), [("sd", 0), ("sd", 2), ("sdxl", 2)])
def test_run_on_a_folder_of_images_and_stock_diffusers_loads_the_player(
    spin: Any, toys: Path, tmp_path: Path, kind: str, lora: int
) -> None:
    from diffusers import DiffusionPipeline, UNet2DConditionModel
    from spin_diffusion.pipelines import load_parts

    pipeline, images = toys / kind / "pipeline", toys / kind / "images"
    given = ["run", pipeline, images, "--out", "é run", "--held-out", 2, "--iterations", 2, "--lora-rank", lora, *QUICK]
    code, out, err = spin(*given)
    assert code == 0, err
    assert out.count("loss 0.6931 -> ") == 2
    assert "frechet" in out
    run = tmp_path / "é run"
    for name in ("config.yaml", "result.json", "report.md", "figures/training.png", "figures/samples.png"):
        assert (run / name).stat().st_size > 0
    again, repeated, err = spin(*(item for item in given if item != "--quiet"))
    assert (again, repeated) == (0, out)
    assert err.count("already there: é run, finished with these settings\n") == 1
    player = run / "iter_1" / "model"
    parts = load_parts(str(pipeline), str(player))
    assert isinstance(parts.net, UNet2DConditionModel)
    stock = DiffusionPipeline.from_pretrained(pipeline)
    if lora:
        stock.load_lora_weights(str(player))
    else:
        stock.unet = UNet2DConditionModel.from_pretrained(player, subfolder="unet")
    code, _, err = spin("merge", pipeline, player, "--out", "merged", "--quiet")
    assert code == 0, err
    merged = DiffusionPipeline.from_pretrained(tmp_path / "merged")
    stock.set_progress_bar_config(disable=True)
    merged.set_progress_bar_config(disable=True)
    pictures = [
        pipe("a red circle", height=32, width=32, num_inference_steps=3, output_type="latent",
             generator=torch.Generator().manual_seed(0)).images
        for pipe in (stock, merged)
    ]  # fmt: skip
    torch.testing.assert_close(pictures[0], pictures[1], rtol=0, atol=1e-4)


def test_other_settings_in_the_same_folder_are_refused(spin: Any, toys: Path) -> None:
    given = ["run", toys / "sd" / "pipeline", toys / "sd" / "images", "--out", "run", "--iterations", 1, *QUICK]
    assert spin(*given)[0] == 0
    code, _, err = spin(*given, "--seed", 1)
    assert (code, err.count("\n")) == (2, 1)
    assert "seed was 0, is 1" in err


def test_one_iteration_by_hand_from_a_cache(spin: Any, toys: Path, tmp_path: Path) -> None:
    pipeline = toys / "sd" / "pipeline"
    code, out, err = spin("prepare", pipeline, toys / "sd" / "images", "--out", "cache", "--device", "cpu")
    assert (code, out) == (0, "cache: 8 items, 8 prompts, 0 skipped\n"), err
    code, out, err = spin(
        "sft", pipeline, "cache", "--out", "sft", "--max-train-steps", 3, "--caption-dropout", 0.1, "--quiet"
    )
    assert (code, out) == (0, "sft/model\n"), err
    sampler = ["--num-inference-steps", 3, "--device", "cpu", "--quiet"]
    code, out, err = spin("generate", pipeline, "cache", "--player", "sft/model", "--out", "gen", *sampler)
    assert (code, out) == (0, "gen/opponents: 8 samples\n"), err
    train = ["train", pipeline, "cache", "gen", *QUICK]
    code, out, err = spin(*train, "--player", "sft/model", "--out", "one")
    assert code == 0, err
    assert "loss 0.6931 -> " in out
    code, _, err = spin(*train[:-1], "--out", "two")
    assert (code, err.count("\n")) == (2, 1)
    assert "holds samples of the player" in err
    code, _, err = spin(*train, "--player", "sft/model", "--guidance-scale", 3, "--out", "two")
    assert code == 2
    assert "another sampler" in err
    code, _, err = spin(*train, "--player", "sft/model", "--limit", 7, "--out", "two")
    assert code == 2
    assert "other prompts" in err
    assert not (tmp_path / "two").exists()
    code, out, err = spin(
        "eval", pipeline, "cache", "--players", "sft/model,one/iter_0/model", "--n", 2, "--out", "eval", *sampler
    )
    assert code == 0, err
    assert [line for line in out.splitlines() if not line.startswith(" ")] == ["model", "sft/model", "one/iter_0/model"]


def test_images_are_sampled_to_files_and_only_once(spin: Any, toys: Path, tmp_path: Path) -> None:
    given = [toys / "sd" / "pipeline", "--num-inference-steps", 2, "--n", 2, "--device", "cpu", "--quiet"]
    code, out, err = spin("sample", "--prompts", "a red circle,a cat", *given, "--out", "some")
    assert (code, out) == (0, "some: 4 images\n"), err
    names = sorted(path.name for path in (tmp_path / "some").glob("*.png"))
    assert names == ["0000-00.png", "0000-01.png", "0001-00.png", "0001-01.png"]
    before = (tmp_path / "some" / names[0]).stat().st_mtime_ns
    assert spin("sample", "--prompts", "a red circle,a cat", *given, "--out", "some")[0] == 0
    assert (tmp_path / "some" / names[0]).stat().st_mtime_ns == before
    assert "no such file" in spin("sample", "--prompts", "missing.txt", *given, "--out", "none")[2]
    (tmp_path / "prompts.txt").write_text("a red circle\n\na cat\n")
    assert spin("sample", "--prompts", "prompts.txt", *given, "--out", "file")[0] == 0
    assert (tmp_path / "file" / names[3]).read_bytes() == (tmp_path / "some" / names[3]).read_bytes()


def test_pick_a_pic_for_self_play_and_for_dpo(spin: Any, toys: Path, tmp_path: Path) -> None:
    pipeline = toys / "sd" / "pipeline"
    pick_a_pic(tmp_path / "pick.parquet")
    code, out, err = spin("prepare", pipeline, "pick.parquet", "--out", "cache", "--pairs", "--device", "cpu")
    assert (code, out) == (0, "cache: 4 items, 4 prompts, 0 skipped\n"), err
    stored = load_file(tmp_path / "cache" / "latents.000000.safetensors")
    assert stored["latents"].shape == stored["rejected"].shape == (4, 4, 16, 16)
    assert not torch.equal(stored["latents"], stored["rejected"])
    code, out, err = spin(
        "dpo", pipeline, "cache", "--out", "dpo", "--max-train-steps", 2, "--device", "cpu", "--quiet"
    )
    assert (code, out) == (0, "dpo/model\n"), err
    code, _, err = spin("run", pipeline, "pick.parquet", "--iterations", 1, "--out", "run", "--round-trip", *QUICK)
    assert code == 0, err
    code, _, err = spin("dpo", pipeline, "run/cache", "--out", "other", "--quiet", "--device", "cpu")
    assert code == 2
    assert "prepared without pairs" in err


def test_a_class_conditional_unet_without_text(spin: Any, unet: Any, tmp_path: Path) -> None:
    import numpy as np
    from diffusers import DDIMScheduler, DDPMPipeline

    DDPMPipeline(unet(), DDIMScheduler()).save_pretrained(tmp_path / "pixels")
    generator = np.random.default_rng(0)
    np.savez(tmp_path / "d.npz", images=generator.uniform(-1, 1, (9, 1, 8, 8)).astype("float32"), labels=np.arange(9))
    code, out, err = spin("run", "pixels", "d.npz", "--iterations", 1, "--held-out", 2, "--out", "run", *QUICK)
    assert code == 0, err
    assert "loss 0.6931 -> " in out
    player = ["--player", "run/iter_0/model", "--num-inference-steps", 2, "--device", "cpu", "--quiet"]
    code, out, err = spin("sample", "pixels", "--prompts", "3,5", "--out", "digits", *player)
    assert (code, out) == (0, "digits: 2 images\n"), err
    code, _, err = spin("sample", "pixels", "--prompts", "cat", "--out", "cats", *player)
    assert code == 2
    assert "'cat' is no class of pixels, which has 0 .. 10" in err


def test_scores_by_a_clip_model_from_a_folder(spin: Any, toys: Path, tmp_path: Path) -> None:
    from spin_diffusion.toy import toy_tokenizer
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(0)
    text = {"vocab_size": 514, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
            "num_attention_heads": 2, "eos_token_id": 1}  # fmt: skip
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
              "image_size": 28, "patch_size": 14}  # fmt: skip
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).save_pretrained(tmp_path / "clip")
    toy_tokenizer().save_pretrained(tmp_path / "clip")
    given = ["run", toys / "sd" / "pipeline", toys / "sd" / "images", "--iterations", 1, "--held-out", 3, *QUICK]
    scorers = "pickscore=clip,clip=clip,imagereward"
    code, out, err = spin(*given, "--scorers", scorers, "--features", "clip", "--out", "run")
    assert code == 0, err
    assert "pickscore" in out
    assert "scorer imagereward is skipped" in err
    assert (tmp_path / "run" / "figures" / "win_rates.png").stat().st_size > 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert len(result["iterations"][0]["evaluation"]["scores"]["clip"]) == 3


def test_a_prompt_that_is_too_long_warns_once(spin: Any, toys: Path, tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "images").mkdir()
    for index in range(2):
        Image.new("RGB", (32, 32)).save(tmp_path / "images" / f"{index}.png")
        (tmp_path / "images" / f"{index}.txt").write_text(f"{index} " + "very " * 40 + "long")
    code, _, err = spin("prepare", toys / "sd" / "pipeline", "images", "--quiet", "--device", "cpu")
    assert code == 0, err
    assert err.count("are longer than the text encoder reads") == 1
    assert "2 of 2 prompts" in err


def test_doctor_tells_versions_and_memory(spin: Any, toys: Path) -> None:
    code, out, err = spin("doctor", toys / "sd" / "pipeline", "--device", "cpu")
    assert code == 0, err
    for words in (
        "diffusers",
        "memory table",
        "memory copy",
        "epsilon, 1000 timesteps",
        "bitsandbytes",
        "mean 5.48 when cut",
    ):
        assert words in out
    same = ["doctor", "--device", "cpu", toys / "sd" / "pipeline"]
    assert spin(*same) == (0, out, err)
    assert "memory" not in spin("doctor")[1]
    code, _, err = spin("doctor", toys / "sd" / "pipeline", "other")
    assert (code, err.count("\n")) == (2, 1)


@pytest.mark.slow
def test_two_processes_equal_one(spin: Any, toys: Path, tmp_path: Path) -> None:
    """T8: the same samples and, to rounding, the same weights."""
    data = [toys / "sd" / "pipeline", toys / "sd" / "images", "--held-out", 2, "--iterations", 1]
    given = [
        *data,
        "--train-batch-size",
        5,
        "--per-device-train-batch-size",
        2,
        "--generation-batch-size",
        4,
        *QUICK[:-1],
    ]
    code, _, err = spin("run", *given, "--out", tmp_path / "1")
    assert code == 0, err
    # `accelerate launch --cpu` starts one process whatever number is asked; torchrun is what it calls on GPUs
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "-m", "spin_diffusion"]
    command = list(map(str, [*launch, "run", *given, "--out", tmp_path / "2"]))
    done = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "2 process(es)" in done.stderr
    for name in ("iter_0/model/unet/diffusion_pytorch_model.safetensors", "iter_0/opponents/000001.safetensors"):
        one, two = (load_file(tmp_path / count / name) for count in "12")
        for key in one:
            torch.testing.assert_close(one[key], two[key], rtol=0, atol=1e-4)
