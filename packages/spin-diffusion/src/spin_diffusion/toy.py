"""Tiny pipelines of all real classes, and pictures for them: to try every command in seconds, without a model hub."""

import json
from pathlib import Path
from typing import Any, Literal

import torch
from shared_core.errors import InputError
from shared_core.files import atomic_folder

from spin_diffusion.pipelines import quiet_libraries

ToyKind = Literal["sd", "sdxl"]
COLOURS = {"red": (210, 50, 45), "green": (60, 160, 75), "blue": (50, 90, 200), "yellow": (235, 200, 60)}
SHAPES = ("circle", "square", "triangle")


def make_toy_pipeline(kind: ToyKind = "sd", seed: int = 0) -> Any:
    """A Stable Diffusion or SDXL pipeline from configuration: VAE, CLIP text encoders, tokenizers, UNet, scheduler.

    Its weights are random. Images are 32 x 32, latents 4 x 16 x 16.
    """
    import diffusers

    torch.manual_seed(seed)
    shared = {
        "vae": _vae(diffusers), "text_encoder": _text_encoder(), "tokenizer": toy_tokenizer(),
        "scheduler": diffusers.DDIMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
            set_alpha_to_one=False, steps_offset=1,
        ),
    }  # fmt: skip
    if kind == "sd":
        return diffusers.StableDiffusionPipeline(
            **shared, unet=_unet(diffusers), safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
    if kind == "sdxl":
        return diffusers.StableDiffusionXLPipeline(
            **shared, unet=_unet(diffusers, xl=True), text_encoder_2=_text_encoder(projected=True),
            tokenizer_2=toy_tokenizer(), force_zeros_for_empty_prompt=True, add_watermarker=False,
        )  # fmt: skip
    raise InputError(f"kind must be sd or sdxl, got {kind!r}")


def write_toy(folder: Path, kind: ToyKind = "sd", n: int = 24, seed: int = 0) -> None:
    """`folder/pipeline` and `folder/images` with metadata.jsonl: coloured shapes and what they are.

    Raises:
        InputError: if the folder is not empty, or n is below 1.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"--out {folder} exists and is not an empty folder")
    if n < 1:
        raise InputError(f"n must be at least 1, got {n}")
    quiet_libraries()
    with atomic_folder(folder) as aside:
        make_toy_pipeline(kind, seed).save_pretrained(aside / "pipeline", safe_serialization=True)
        _write_images(aside / "images", n, seed)


def toy_tokenizer() -> Any:
    """CLIP's tokenizer with a vocabulary of single bytes."""
    from transformers import CLIPTokenizer

    letters = sorted(_byte_letters())
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(letter + "</w>" for letter in letters)]
    return CLIPTokenizer(vocab={word: index for index, word in enumerate(words)}, merges=[], model_max_length=77)


def _byte_letters() -> list[str]:
    from tokenizers.pre_tokenizers import ByteLevel

    return list(ByteLevel.alphabet())


def _vae(diffusers: Any) -> Any:
    return diffusers.AutoencoderKL(
        block_out_channels=(8, 16), in_channels=3, out_channels=3, latent_channels=4, norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, layers_per_block=1,
        sample_size=32, scaling_factor=4.0,  # random weights make small latents; a trained VAE's have unit size
    )  # fmt: skip


def _unet(diffusers: Any, xl: bool = False) -> Any:
    options: dict[str, Any] = {"cross_attention_dim": 32}
    if xl:
        options = {
            "cross_attention_dim": 64, "addition_embed_type": "text_time", "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 32 + 6 * 8, "transformer_layers_per_block": (1, 2),
            "use_linear_projection": True,
        }  # fmt: skip
    return diffusers.UNet2DConditionModel(
        sample_size=16, in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=(16, 32),
        norm_num_groups=8, attention_head_dim=(2, 4), down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), **options,
    )  # fmt: skip


def _text_encoder(projected: bool = False) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=514, hidden_size=32, intermediate_size=37, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=77, projection_dim=32, bos_token_id=0, eos_token_id=1, pad_token_id=1,
        hidden_act="gelu" if projected else "quick_gelu",
    )  # fmt: skip
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config).eval()


def _write_images(folder: Path, count: int, seed: int) -> None:
    from PIL import Image, ImageDraw

    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for number in range(count):
        place = torch.randint(8, 24, (2,), generator=generator).tolist()
        size = int(torch.randint(10, 20, (1,), generator=generator))
        shape = SHAPES[number % len(SHAPES)]
        name, colour = list(COLOURS.items())[number // len(SHAPES) % len(COLOURS)]
        picture = Image.new("RGB", (48, 40), (245, 243, 238))
        draw = ImageDraw.Draw(picture)
        x, y = place
        if shape == "circle":
            draw.ellipse((x, y - 4, x + size, y - 4 + size), fill=colour)
        elif shape == "square":
            draw.rectangle((x, y - 4, x + size, y - 4 + size), fill=colour)
        else:
            draw.polygon([(x, y - 4 + size), (x + size, y - 4 + size), (x + size // 2, y - 4)], fill=colour)
        picture.save(folder / f"{number:04d}.png")
        rows.append({"file_name": f"{number:04d}.png", "text": f"a {name} {shape}"})
    lines = [json.dumps(row) for row in rows]
    (folder / "metadata.jsonl").write_text("".join(line + "\n" for line in lines), encoding="utf-8")
