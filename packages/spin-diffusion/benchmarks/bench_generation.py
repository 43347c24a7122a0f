"""Images a second of the opponent's sampler beside the stock pipeline, called image by image.

Both draw latents of the same prompts from the same first noise, ten DDIM steps with guidance; the pipeline is asked for
latents, so that nobody decodes. A second row gives the peer prompts whose embeddings were computed before.
"""

import time
from importlib.metadata import version
from typing import Any

import torch
from common import Inputs, inputs
from shared_core.benchmark import Comparison, compare
from spin_diffusion.config import Sampler
from spin_diffusion.opponents import generate_opponents
from spin_diffusion.processes import make_accelerator
from spin_diffusion.sampling import image_seed
from torch import Tensor

COUNT, STEPS, GUIDANCE, REPEATS = 32, 10, 7.5, 5


def ours(given: Inputs) -> Tensor:
    """Of cached prompts, sixteen at a time."""
    settings = Sampler(num_inference_steps=STEPS, guidance_scale=GUIDANCE, batch_size=16)
    data = given.data
    rows = generate_opponents(given.parts.net, given.parts.scheduler, data, settings, make_accelerator(), seed=0)
    return rows.take(range(len(data)))


def theirs(given: Inputs, embedded: bool) -> Tensor:
    """One call of the pipeline an image, its first noise from the generator that ours takes for that image."""
    pipe, drawn = given.parts.pipe, []
    pipe.set_progress_bar_config(disable=True)
    rows = given.data.conditions["encoder_hidden_states"]
    for item, prompt in enumerate(given.prompts):
        asked: dict[str, Any] = {"prompt": prompt}
        if embedded:
            assert given.data.null is not None
            nothing = given.data.null["encoder_hidden_states"]
            asked = {"prompt_embeds": rows.take([item]), "negative_prompt_embeds": nothing}
        generator = torch.Generator().manual_seed(image_seed(0, 0, item))
        options = {"num_inference_steps": STEPS, "guidance_scale": GUIDANCE, "output_type": "latent"}
        drawn.append(pipe(**asked, **options, height=32, width=32, generator=generator).images)
    return torch.cat(drawn)


def run() -> list[Comparison]:
    given = inputs(COUNT)
    rows = []
    for embedded in (False, True):
        mine, other, gap = [], [], 0.0
        for repeat in range(REPEATS + 1):
            start = time.perf_counter()
            a = ours(given)
            middle = time.perf_counter()
            b = theirs(given, embedded)
            end = time.perf_counter()
            gap = max(gap, float((a - b).abs().max() / b.abs().max()))
            if repeat:
                mine.append(COUNT / (middle - start))
                other.append(COUNT / (end - middle))
        rows.append(
            compare(
                "generation-embedded" if embedded else "generation",
                f"opponent images a second, {STEPS} DDIM steps with guidance"
                + (", prompts embedded for both" if embedded else "")
                + f"; largest gap of latents {gap:.0e} of their range",
                f"diffusers {version('diffusers')} StableDiffusionPipeline, image by image",
                mine,
                other,
                same_result=gap < 1e-4,
                unit="images/s",
                better="higher",
            )
        )
    return rows


if __name__ == "__main__":
    for row in run():
        print(row)
