"""Settings that the command line shows; free of torch, so that `--help` is quick."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class TrainConfig:
    """How a small denoiser is trained.

    Args:
        noise: absorbing or multinomial.
        schedule: noise schedule of the training pairs, such as linear or beta:5,3.
        length: characters a training row.
        steps: optimiser updates.
        batch_size: rows an update.
        learning_rate: peak of AdamW's cosine decay.
        width: channels of the convolutions, or width of the transformer.
        checkpoint_every: updates between checkpoints.
        held_out: share of the text kept for the reported loss.
        max_characters: use only the beginning of the text.
    """

    noise: Literal["absorbing", "multinomial"] = "absorbing"
    schedule: str = "linear"
    length: int = 64
    steps: int = 1400
    batch_size: int = 32
    learning_rate: float = 3e-3
    width: int = 128
    checkpoint_every: int = 200
    held_out: float = 0.1
    max_characters: int | None = None


@dataclass(frozen=True)
class SampleConfig:
    """How sequences are sampled; see `DNDMSampler`.

    Args:
        method: dndm, ancestral, thinned_ancestral or rdm.
        schedule: law of the transition times; the training schedule by default.
        num_steps: T; null for continuous time (DNDM-C).
        num_calls: a budget of exactly K calls instead of T steps.
        version: 1 writes a position once, 2 rewrites it at every later call.
        top_k: choose positions by score (DNDM-k).
        remask: with top_k, let restored positions compete again.
        order: random, left_to_right or right_to_left.
        temperature: 0 takes the most likely token.
        token_correction: loo removes a token's own evidence (multinomial noise).
        time_map: index or matched.
        batch_times: per_row or shared.
    """

    method: Literal["dndm", "ancestral", "thinned_ancestral", "rdm"] = "dndm"
    schedule: str | None = None
    num_steps: int | None = 1000
    num_calls: int | None = None
    version: Literal[1, 2] = 1
    top_k: bool = False
    remask: bool = False
    order: Literal["random", "left_to_right", "right_to_left"] = "random"
    temperature: float = 1.0
    token_correction: Literal["loo"] | None = None
    time_map: Literal["index", "matched"] = "index"
    batch_times: Literal["per_row", "shared"] = "per_row"
