"""Scores of images for prompts, as plug-ins: weights come from a path or the hub, and what has none is skipped.

A plug-in is anything with a `name` that maps images [image, 3, h, w] in [0, 1] and their prompts to one number each.
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors.torch import load_file
from shared_core.errors import InputError
from torch import Tensor, nn

from spin_diffusion.hub import check_source

log = logging.getLogger(__name__)
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # CLIP's preprocessing


class Scorer(Protocol):
    """Scores images for prompts; higher is better."""

    name: str

    def __call__(self, images: Float[Tensor, "image 3 h w"], prompts: Sequence[str]) -> Float[Tensor, "image"]:
        """One number an image."""
        ...


class ClipScorer:
    """Similarity of image and prompt under a CLIP model of transformers (CLIP score, PickScore, HPSv2).

    Args:
        name: of the score.
        source: folder or hub id of a CLIPModel in safetensors with its tokenizer.
        scale: what multiplies the cosine: 100, 1, or None for the model's own temperature (PickScore).
        tokenizer: folder or hub id of the tokenizer, where it lies elsewhere.

    Raises:
        InputError: if the model is not there.
    """

    def __init__(self, name: str, source: str, scale: float | None = None, tokenizer: str | None = None) -> None:
        from transformers import CLIPModel, CLIPTokenizer

        check_source(source, "config.json")
        self.name = name
        self.model = CLIPModel.from_pretrained(source, use_safetensors=True).eval().requires_grad_(False)
        self.tokenizer = CLIPTokenizer.from_pretrained(tokenizer or source)
        self.scale = float(self.model.logit_scale.exp()) if scale is None else scale

    @torch.no_grad()
    def __call__(self, images: Float[Tensor, "image 3 h w"], prompts: Sequence[str]) -> Float[Tensor, "image"]:
        """scale times the cosine of the two embeddings."""
        length = self.model.config.text_config.max_position_embeddings
        tokens = self.tokenizer(list(prompts), padding=True, truncation=True, max_length=length, return_tensors="pt")
        text = F.normalize(_embedding(self.model.get_text_features(**tokens)), dim=-1)
        return self.scale * (self.image_embeddings(images) * text).sum(-1)

    @torch.no_grad()
    def image_embeddings(self, images: Float[Tensor, "image 3 h w"]) -> Float[Tensor, "image width"]:
        """Normalised embeddings, also as features for distances."""
        pixels = clip_pixels(images, self.model.config.vision_config.image_size)
        return F.normalize(_embedding(self.model.get_image_features(pixel_values=pixels)), dim=-1)


class AestheticScorer:
    """LAION's aesthetic predictor: a small head on CLIP's image embedding.

    Args:
        clip: folder or hub id of the CLIP model (ViT-L/14).
        head: safetensors file of linear layers `layers.N.weight` and `.bias`, without activations between them.
    """

    name = "aesthetic"

    def __init__(self, clip: str, head: str) -> None:
        self.clip = ClipScorer("clip", clip, scale=1.0)
        weights = load_file(head)
        numbers = sorted({int(key.split(".")[-2]) for key in weights if key.endswith(".weight")})
        prefix = next(key for key in weights if key.endswith(".weight")).rsplit(".", 2)[0]
        self.layers = []
        for number in numbers:
            weight, bias = weights[f"{prefix}.{number}.weight"], weights[f"{prefix}.{number}.bias"]
            layer = nn.Linear(weight.shape[1], weight.shape[0])
            layer.load_state_dict({"weight": weight, "bias": bias})
            self.layers.append(layer)

    @torch.no_grad()
    def __call__(self, images: Float[Tensor, "image 3 h w"], prompts: Sequence[str]) -> Float[Tensor, "image"]:
        """The head's value; prompts do not matter."""
        found = self.clip.image_embeddings(images)
        for layer in self.layers:
            found = layer(found)
        return found.squeeze(-1)


class ImageRewardScorer:
    """ImageReward, through its own package `image-reward`, which loads the weights in its own format."""

    name = "imagereward"

    def __init__(self, source: str = "ImageReward-v1.0") -> None:
        import ImageReward  # type: ignore[import-not-found] # optional

        self.model = ImageReward.load(source, device="cpu")

    @torch.no_grad()
    def __call__(self, images: Float[Tensor, "image 3 h w"], prompts: Sequence[str]) -> Float[Tensor, "image"]:
        """The reward."""
        from spin_diffusion.pictures import to_pil

        scores = [self.model.score(text, to_pil(image)) for image, text in zip(images, prompts, strict=True)]
        return torch.tensor([float(score) for score in scores])


def _aesthetic(source: str | None) -> Scorer:
    if source is None:
        raise ImportError("give aesthetic=HEAD.safetensors, or aesthetic=CLIP_FOLDER:HEAD.safetensors")
    clip, _, head = source.rpartition(":")
    return AestheticScorer(clip or "openai/clip-vit-large-patch14", head)


def _hpsv2(source: str | None) -> Scorer:
    if source is None:
        raise ImportError("give hpsv2=FOLDER of its CLIP-H as transformers' CLIPModel in safetensors")
    return ClipScorer("hpsv2", source, scale=1.0)


# name -> its maker, given a path or hub id or None
SCORERS: dict[str, Callable[[str | None], Scorer]] = {
    "pickscore": lambda source: ClipScorer(
        "pickscore",
        source or "yuvalkirstain/PickScore_v1",
        tokenizer=None if source else "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
    ),
    "hpsv2": _hpsv2,
    "imagereward": lambda source: ImageRewardScorer(source or "ImageReward-v1.0"),
    "aesthetic": _aesthetic,
    "clip": lambda source: ClipScorer("clip", source or "openai/clip-vit-large-patch14", scale=100.0),
}


def load_scorers(names: Sequence[str]) -> list[Scorer]:
    """Plug-ins by `name` or `name=PATH_OR_HUB_ID`; one whose weights are not there is left out with a message.

    Raises:
        InputError: for an unknown name, or a path that does not exist.
    """
    found: list[Scorer] = []
    for item in names:
        name, _, source = item.partition("=")
        if name not in SCORERS:
            raise InputError(f"there is no scorer {name!r}; scorers: {', '.join(SCORERS)}")
        for part in source.split(":") if source else ():
            if part.count("/") != 1 and not Path(part).exists():
                raise InputError(f"scorer {name}: {part}: no such file or folder")
        try:
            found.append(SCORERS[name](source or None))
        except (OSError, ImportError, ValueError, KeyError, RuntimeError) as error:
            log.warning("scorer %s is skipped: %s", name, " ".join(str(error).split())[:200])
    return found


def clip_pixels(images: Float[Tensor, "image 3 h w"], side: int) -> Float[Tensor, "image 3 side side"]:
    """Images in [0, 1] as CLIP takes them."""
    height, width = images.shape[-2:]
    scale = side / min(height, width)
    size = (max(side, round(height * scale)), max(side, round(width * scale)))
    resized = F.interpolate(images.float(), size=size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
    top, left = (size[0] - side) // 2, (size[1] - side) // 2
    cut = resized[..., top : top + side, left : left + side]
    return (cut - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def _embedding(found: Any) -> Tensor:
    """transformers 5 returns an output object, earlier ones the tensor."""
    return found if isinstance(found, Tensor) else found.pooler_output
