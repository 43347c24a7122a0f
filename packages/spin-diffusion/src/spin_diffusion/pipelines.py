"""Stable Diffusion pipelines taken apart: what encodes images and prompts, what is trained, what samples."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from shared_core.errors import InputError
from torch import Tensor, nn

from spin_diffusion.checkpoints import LORA_FILE
from spin_diffusion.denoiser import Condition
from spin_diffusion.hub import check_source

Kind = Literal["sd", "sdxl", "pixels"]
INDEX = "model_index.json"  # of a pipeline
UNET = "unet"  # folder of the network that is trained, in every pipeline below
CLASSES: dict[str, Kind] = {
    "StableDiffusionPipeline": "sd",
    "StableDiffusionXLPipeline": "sdxl",
    "DDPMPipeline": "pixels",
    "DDIMPipeline": "pixels",
}


@dataclass
class Parts:
    """A pipeline's parts.

    Args:
        kind: `sd`, `sdxl`, or `pixels` for a UNet without VAE and text (DDPMPipeline, DDIMPipeline).
        pipe: diffusers' pipeline, for its encoders.
        source: folder or hub id.
    """

    kind: Kind
    pipe: Any
    source: str

    @property
    def net(self) -> nn.Module:
        """The UNet."""
        return self.pipe.unet

    @property
    def scheduler(self) -> Any:
        """Of the pipeline."""
        return self.pipe.scheduler

    @property
    def resolution(self) -> int:
        """Side of the images that the UNet was made for, in pixels."""
        side = self.pipe.unet.config.sample_size
        return int(side if isinstance(side, int) else side[0]) * self.vae_factor

    @property
    def vae_factor(self) -> int:
        """Pixels a latent's pixel stands for."""
        return 1 if self.kind == "pixels" else 2 ** (len(self.pipe.vae.config.block_out_channels) - 1)

    def encoders_to(self, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        """Move VAE and text encoders."""
        for name in ("vae", "text_encoder", "text_encoder_2"):
            part = getattr(self.pipe, name, None)
            if part is not None:
                part.requires_grad_(False).eval().to(device=device, dtype=dtype)

    @torch.no_grad()
    def encode_images(self, images: Float[Tensor, "batch 3 h w"], seeds: Sequence[int] | None = None) -> Tensor:
        """Scaled latents of images in [-1, 1]: the posterior's mode, or a sample of each with its seed."""
        if self.kind == "pixels":
            return images
        vae = self.pipe.vae
        posterior = vae.encode(images.to(vae.device, vae.dtype)).latent_dist
        if seeds is None:
            latents = posterior.mode()
        else:
            noise = [torch.randn(posterior.mean.shape[1:], generator=torch.Generator().manual_seed(s)) for s in seeds]
            latents = posterior.mean + posterior.std * torch.stack(noise).to(posterior.mean)
        return (latents * vae.config.scaling_factor).float()

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Float[Tensor, "batch 3 h w"]:
        """Images in [0, 1] of scaled latents."""
        if self.kind == "pixels":
            return (latents / 2 + 0.5).clamp(0, 1).float()
        vae = self.pipe.vae
        images = vae.decode((latents / vae.config.scaling_factor).to(vae.device, vae.dtype)).sample
        return (images / 2 + 0.5).clamp(0, 1).float().cpu()

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str], resolution: int) -> tuple[Condition, Condition]:
        """What the UNet is given for each prompt, and for none (one row), as the stock pipeline would give it.

        Raises:
            InputError: if the pipeline has no text encoder.
        """
        if self.kind == "pixels":
            raise InputError(f"{self.source} takes no prompts")
        device = next(self.pipe.text_encoder.parameters()).device
        given = {"prompt": list(prompts), "device": device, "num_images_per_prompt": 1}
        given["do_classifier_free_guidance"] = True
        if self.kind == "sd":
            embedded, nothing = self.pipe.encode_prompt(**given)
            return {"encoder_hidden_states": embedded.cpu()}, {"encoder_hidden_states": nothing[:1].cpu()}
        embedded, nothing, pooled, pooled_nothing = self.pipe.encode_prompt(**given)
        # size and crop as the deployed pipeline states them
        times = torch.tensor([[resolution, resolution, 0, 0, resolution, resolution]], dtype=torch.float32)
        some = {"encoder_hidden_states": embedded, "text_embeds": pooled, "time_ids": times.repeat(len(prompts), 1)}
        none = {"encoder_hidden_states": nothing[:1], "text_embeds": pooled_nothing[:1], "time_ids": times}
        return {k: v.cpu() for k, v in some.items()}, {k: v.cpu() for k, v in none.items()}

    def too_long(self, prompts: Sequence[str]) -> list[int]:
        """Which prompts have more tokens than the text encoder reads."""
        if self.kind == "pixels":
            return []
        tokenizer = self.pipe.tokenizer
        limit = tokenizer.model_max_length
        lengths = [len(ids) for ids in tokenizer(list(prompts)).input_ids]
        return [index for index, length in enumerate(lengths) if length > limit]

    def drop_encoders(self) -> None:
        """Free VAE and text encoders: with a cache training needs neither."""
        for name in ("vae", "text_encoder", "text_encoder_2"):
            if getattr(self.pipe, name, None) is not None:
                setattr(self.pipe, name, None)


def load_parts(source: str, player: str | None = None) -> Parts:
    """A pipeline from a folder or hub id, optionally with another player's weights in it.

    Args:
        source: Stable Diffusion 1.x or 2.x, SDXL, or a pipeline of a UNet alone.
        player: a folder with `unet/` or a LoRA file (RUN/iter_K/model), or a hub id with `unet/`.

    Raises:
        InputError: if it is none of these, with what is wrong in one line.
    """
    check_model(source, player)
    import diffusers  # takes seconds, so that what can be refused is refused before

    quiet_libraries()
    config = loading(source, diffusers.DiffusionPipeline.load_config, source)
    name = str(config.get("_class_name"))
    if name not in CLASSES:
        raise InputError(f"{source} is a {name}; expected one of {', '.join(CLASSES)}")
    options: dict[str, Any] = {"use_safetensors": True, "dtype": torch.float32}
    if CLASSES[name] == "sd":
        options |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    pipe = loading(source, getattr(diffusers, name).from_pretrained, source, **options)
    parts = Parts(CLASSES[name], pipe, source)
    if player is not None:
        take_player(parts, player)
    return parts


def check_model(source: str, player: str | None = None) -> None:
    """Refuse by its files alone what `load_parts` could not load.

    Raises:
        InputError: if `source` is neither a pipeline's folder nor a hub id of one, or `player` neither a folder with a
            UNet or LoRA nor a hub id with a UNet.
    """
    folder = check_source(source, INDEX)
    if folder is not None and not (folder / INDEX).is_file():
        raise InputError(f"{source} holds no {INDEX}: give a pipeline's folder")
    if player is None:
        return
    folder = check_source(player, f"{UNET}/config.json")
    if folder is not None and not (folder / LORA_FILE).is_file() and not (folder / UNET).is_dir():
        raise InputError(f"{player} holds neither {UNET}/ nor {LORA_FILE}")


def quiet_libraries() -> None:
    """Keep progress bars and advice of diffusers and transformers from standing before a one-line error."""
    # diffusers gives the hub's client an option that it no longer has
    warnings.filterwarnings("ignore", message=".*local_dir_use_symlinks.*")
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for chatty in (diffusers_logging, transformers_logging):
        chatty.disable_progress_bar()
        chatty.set_verbosity_error()


def take_player(parts: Parts, player: str) -> None:
    """Put a player's UNet into the pipeline, or its adapter into the UNet's weights.

    Raises:
        InputError: if it is no player of this pipeline.
    """
    folder = Path(player)
    if (folder / LORA_FILE).is_file():
        loading(player, parts.pipe.load_lora_weights, str(folder))
        parts.pipe.fuse_lora(safe_fusing=True)
        parts.pipe.unload_lora_weights()
        return
    kind = type(parts.net)
    found = loading(player, kind.from_pretrained, player, subfolder=UNET, use_safetensors=True)  # type: ignore[attr-defined] # diffusers'
    from spin_diffusion.references import check_alike

    check_alike(parts.net, found)
    parts.pipe.unet = found


def loading(name: str, load: Any, *given: Any, **options: Any) -> Any:
    """Call a loader; what it cannot read is one line about `name`."""
    try:
        return load(*given, **options)
    except (OSError, ValueError, RuntimeError, KeyError, ImportError) as error:
        raise InputError(f"{name} cannot be loaded: {' '.join(str(error).split())[:300]}") from error
