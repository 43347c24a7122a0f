"""A few lines beside a player's weights: what it is and how stock diffusers loads it."""

from spin_diffusion.config import SPINConfig


def model_card(model: str, config: SPINConfig, title: str) -> str:
    """README.md of a player.

    Args:
        model: the pipeline that it was trained in.
        config: the settings.
        title: the method, and which iteration.
    """
    if config.lora.rank:
        load = f'pipe = DiffusionPipeline.from_pretrained("{model}")\npipe.load_lora_weights("PATH/TO/THIS/FOLDER")'
    else:
        load = (
            'unet = UNet2DConditionModel.from_pretrained("PATH/TO/THIS/FOLDER", subfolder="unet")\n'
            f'pipe = DiffusionPipeline.from_pretrained("{model}", unet=unet)'
        )
    weights = f"LoRA of rank {config.lora.rank} an iteration" if config.lora.rank else "all weights of the UNet"
    return f"""---
library_name: diffusers
base_model: {model}
tags: [text-to-image, spin-diffusion]
---

# {title}

Trained with spin-diffusion: {weights}, beta {config.beta}, learning rate {config.optimization.learning_rate}, batch
{config.optimization.train_batch_size}, seed {config.seed}; sampler {config.sampler.scheduler},
{config.sampler.num_inference_steps} steps, guidance {config.sampler.guidance_scale:g}.

```python
{load}
```
"""
