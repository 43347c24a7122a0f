"""Loops in the manner of diffusers' Diffusion-DPO script (examples/research_projects/diffusion_dpo), written anew.

LoRA on the attention projections, the reference by switching the adapter off, accelerate around it, AdamW of torch,
gradient clipping, a learning-rate scheduler, a progress bar and the numbers that the script logs at every update.
"""

import io
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from common import BETA, PAIRS, RANK, RATE, Inputs, fresh
from diffusers import DDPMScheduler
from diffusers.optimization import get_scheduler
from peft import LoraConfig
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset
from tqdm.auto import tqdm

# latents of both members [2 * pair, ...], embeddings [pair, ...]
Encode = Callable[[tuple[Tensor, ...]], tuple[Tensor, Tensor]]
Noising = Callable[[int, Tensor], tuple[Tensor, Tensor]]


def cached(given: Inputs) -> tuple[TensorDataset, Encode]:
    """Latents and embeddings that were computed before."""
    latents = torch.cat([given.data.latents.parts[0], given.opponents.parts[0]], 1)  # type: ignore[attr-defined]
    embeddings = given.data.conditions["encoder_hidden_states"].parts[0]  # type: ignore[attr-defined]
    return TensorDataset(latents, embeddings), lambda row: (torch.cat(row[0].chunk(2, 1)), row[1])


def as_shipped(given: Inputs) -> tuple[TensorDataset, Encode]:
    """Pixels and token ids: the script encodes both at every update."""
    pipe = given.parts.pipe
    ids = pipe.tokenizer(
        given.prompts, padding="max_length", max_length=pipe.tokenizer.model_max_length, return_tensors="pt"
    ).input_ids

    def encode(row: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            pixels = torch.cat(row[0].chunk(2, 1))
            latents = pipe.vae.encode(pixels).latent_dist.mode() * pipe.vae.config.scaling_factor
            return latents, pipe.text_encoder(row[1])[0]

    return TensorDataset(torch.cat([given.images, given.others], 1), ids), encode


def random_noising(steps: int) -> Noising:
    """Timesteps and noise as the script draws them."""

    def draw(_: int, latents: Tensor) -> tuple[Tensor, Tensor]:
        half = len(latents) // 2
        noise = torch.randn_like(latents).chunk(2)[0].repeat(2, 1, 1, 1)
        return torch.randint(0, steps, (half,)).repeat(2), noise

    return draw


def train(
    given: Inputs,
    source: tuple[TensorDataset, Encode],
    updates: int,
    *,
    order: list[int] | None = None,
    noising: Noising | None = None,
    adapter: dict[str, Tensor] | None = None,
) -> list[float]:
    """The loss of every update.

    Args:
        given: the UNet is copied.
        source: data set and what makes latents of it.
        updates: of the weights.
        order: rows in the order in which they are met; shuffled by default.
        noising: timesteps and noise; random by default.
        adapter: its initial weights; peft's by default.
    """
    accelerator = Accelerator(cpu=True)
    dataset, encode = source
    unet: Any = fresh(given)
    unet.requires_grad_(False)
    targets = ["to_k", "to_q", "to_v", "to_out.0"]
    unet.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, init_lora_weights="gaussian", target_modules=targets))
    if adapter is not None:
        unet.load_state_dict(adapter, strict=False)
    weights = [weight for weight in unet.parameters() if weight.requires_grad]
    optimizer: Any = torch.optim.AdamW(weights, lr=RATE, betas=(0.9, 0.999), weight_decay=1e-2, eps=1e-8)
    scheduler = DDPMScheduler.from_config(given.parts.scheduler.config)
    rate: Any = get_scheduler("constant", optimizer=optimizer, num_warmup_steps=0, num_training_steps=updates)
    loader: Any = DataLoader(dataset, batch_size=PAIRS, shuffle=order is None, sampler=order)
    unet, optimizer, loader, rate = accelerator.prepare(unet, optimizer, loader, rate)
    draw = noising or random_noising(scheduler.config.num_train_timesteps)
    bar = tqdm(range(updates), disable=False, file=io.StringIO())  # as on a terminal, shown to nobody
    losses: list[float] = []
    unet.train()
    for row in _forever(loader):
        with accelerator.accumulate(unet):
            latents, embeddings = encode(row)
            steps, noise = draw(len(losses), latents)
            noised, context = scheduler.add_noise(latents, noise, steps), embeddings.repeat(2, 1, 1)
            errors = _errors(unet, noised, steps, context, noise)
            real, other = errors.chunk(2)
            plain = 0.5 * (real.mean() + other.mean())
            accelerator.unwrap_model(unet).disable_adapters()
            with torch.no_grad():
                reference = _errors(unet, noised, steps, context, noise)
            accelerator.unwrap_model(unet).enable_adapters()
            known_real, known_other = reference.chunk(2)
            logits = (known_real - known_other) - (real - other)
            loss = -F.logsigmoid(BETA * logits).mean()
            accuracy = (logits > 0).float().mean()
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            rate.step()
            optimizer.zero_grad()
        bar.update(1)
        losses.append(loss.detach().item())
        logs = {"raw": plain.item(), "ref": reference.mean().item(), "accuracy": accuracy.item()}
        bar.set_postfix(loss=losses[-1], lr=rate.get_last_lr()[0], **logs)
        if len(losses) == updates:
            break
    bar.close()
    return losses


def _errors(unet: Any, noised: Tensor, steps: Tensor, context: Tensor, noise: Tensor) -> Tensor:
    prediction = unet(noised, steps, context).sample
    return F.mse_loss(prediction.float(), noise.float(), reduction="none").mean((1, 2, 3))


def _forever(loader: Any) -> Iterator[Any]:
    while True:
        yield from loader
