"""The tiny pipeline, cached inputs and the two loops that the benchmarks share."""

import copy
from dataclasses import dataclass

import torch
from spin_diffusion.config import Lora, Optimization, SPINConfig
from spin_diffusion.pipelines import Parts
from spin_diffusion.toy import make_toy_pipeline
from spin_diffusion.training_set import TensorRows, TrainingSet
from torch import Tensor, nn

torch.set_num_threads(1)  # for ours and the peer alike: on small tensors a second thread mostly waits
ITEMS, PAIRS, RANK, RATE = 64, 4, 8, 1e-4
BETA = 5.0  # no work depends on it; at 2000 the rounding of errors in float32 alone is 1e-4 of a loss
WORDS = ("red", "green", "blue", "yellow")


@dataclass
class Inputs:
    """Images and prompts, and what the encoders make of them."""

    parts: Parts
    images: Tensor
    others: Tensor
    prompts: list[str]
    data: TrainingSet
    opponents: TensorRows


def inputs(items: int = ITEMS) -> Inputs:
    """Random images (nothing here depends on what they show), one prompt each."""
    parts = Parts("sd", make_toy_pipeline("sd"), "toy")
    parts.encoders_to(torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    images, others = torch.rand(2, items, 3, 32, 32, generator=generator) * 2 - 1
    prompts = [f"a {WORDS[i % 4]} shape number {i}" for i in range(items)]
    condition, null = parts.encode_prompts(prompts, 32)
    data = TrainingSet.of(parts.encode_images(images), condition, null)
    return Inputs(parts, images, others, prompts, data, TensorRows(parts.encode_images(others)))


def settings(updates: int) -> SPINConfig:
    """One iteration with LoRA, as the peer's script has it by default."""
    return SPINConfig(
        iterations=1,
        beta=[BETA],
        lora=Lora(rank=RANK, alpha=float(RANK)),
        guard="off",
        optimization=Optimization(
            learning_rate=[RATE], max_train_steps=[updates], lr_schedule="constant", warmup_steps=0,
            train_batch_size=PAIRS, per_device_train_batch_size=PAIRS,
        ),
    )  # fmt: skip


def fresh(given: Inputs) -> nn.Module:
    """A copy of the UNet as it was."""
    return copy.deepcopy(given.parts.net)
