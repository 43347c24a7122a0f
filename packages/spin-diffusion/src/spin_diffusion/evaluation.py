"""A player's images beside the real ones and beside another player's: distances, scores, win rates."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from shared_core.errors import InputError
from torch import Tensor

from spin_diffusion.metrics import (
    frechet_distance,
    kernel_distance,
    precision_recall,
    summary,
    two_sample_accuracy,
    win_rate,
)
from spin_diffusion.scorers import ClipScorer, Scorer
from spin_diffusion.training_set import Rows

Features = Callable[[Float[Tensor, "image 3 h w"]], Float[Tensor, "image width"]]
SIDE = 8  # pixels a side of the features that need no encoder
LEAST = 10  # images below which two-sample accuracy and precision mean nothing


def pixel_features(images: Float[Tensor, "image 3 h w"]) -> Float[Tensor, "image width"]:
    """Colours of 8 x 8 patches: features where no encoder is at hand."""
    return F.adaptive_avg_pool2d(images.float(), min(SIDE, *images.shape[-2:])).flatten(1)


def make_features(source: str = "pixels") -> Features:
    """`pixels`, or the image embeddings of a CLIP model in a folder or on the hub.

    Raises:
        InputError: if that cannot be loaded.
    """
    if source == "pixels":
        return pixel_features
    try:
        return ClipScorer("features", source, scale=1.0).image_embeddings
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"features {source} cannot be loaded: {' '.join(str(error).split())[:200]}") from error


def distances(
    real: Float[Tensor, "image width"], generated: Float[Tensor, "image width"], seed: int = 0
) -> dict[str, float]:
    """Distances of two sets of features; compare them between players at the same number of images only."""
    found = {"frechet": frechet_distance(real, generated), "kernel": kernel_distance(real, generated)}
    if min(len(real), len(generated)) >= LEAST:
        both = precision_recall(real, generated)
        found |= {"precision": both.precision, "recall": both.recall}
        found["two_sample_accuracy"] = two_sample_accuracy(real, generated, seed=seed)
    return found


def scores(
    images: Float[Tensor, "image 3 h w"], prompts: Sequence[str], scorers: Sequence[Scorer], batch_size: int = 16
) -> dict[str, list[float]]:
    """Each plug-in's score of each image."""
    found: dict[str, list[float]] = {}
    for scorer in scorers:
        values: list[float] = []
        for start in range(0, len(images), batch_size):
            stop = start + batch_size
            values += scorer(images[start:stop], prompts[start:stop]).double().tolist()
        found[scorer.name] = values
    return found


def compare_scores(ours: dict[str, list[list[float]]], theirs: dict[str, list[list[float]]]) -> dict[str, Any]:
    """Win rates by prompt, with 95 % bootstrap intervals; `scores[name][prompt][sample]`."""
    return {name: win_rate(ours[name], theirs[name])._asdict() for name in ours if name in theirs}


def score_summary(found: dict[str, list[list[float]]]) -> dict[str, dict[str, float]]:
    """Mean and median over prompts, and of the best of each prompt's samples."""
    return {name: summary(values) for name, values in found.items()}


def decoded(rows: Rows, decode: Callable[[Tensor], Tensor], batch_size: int = 8) -> Float[Tensor, "image 3 h w"]:
    """Images of latents."""
    starts = range(0, len(rows), batch_size)
    return torch.cat([decode(rows.take(list(range(i, min(i + batch_size, len(rows)))))) for i in starts])
