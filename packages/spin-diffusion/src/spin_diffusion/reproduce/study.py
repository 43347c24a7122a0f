"""One seed of a comparison on real images: the data, the judge, the supervised start, and what is trained from it."""

import copy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers import DDIMScheduler
from torch import Tensor, nn

from spin_diffusion.config import Guard, Optimization, Sampler, SPINConfig
from spin_diffusion.losses import denoising_error
from spin_diffusion.metrics import class_accuracy, frechet_distance, kernel_distance, precision_recall
from spin_diffusion.opponents import generate_opponents
from spin_diffusion.processes import make_accelerator
from spin_diffusion.reproduce.networks import CLASSES, Classifier, Digits, log_probability
from spin_diffusion.sampling import sample
from spin_diffusion.schedules import Schedule, schedule_of
from spin_diffusion.self_play import SPINTrainer
from spin_diffusion.supervised import fine_tune, prefer
from spin_diffusion.training_set import TensorRows, TrainingSet


class Scores(NamedTuple):
    """How samples of a player compare with held-out real images."""

    features: float
    pixels: float
    accuracy: float
    log_probability: float


@dataclass(frozen=True)
class Recipe:
    """How a start is tuned further.

    Args:
        updates: of an iteration.
        pairs: an update.
        rate: peak learning rate.
        beta: of mean errors.
        guidance: of the deployed sampler.
    """

    updates: int
    pairs: int
    rate: float
    beta: float
    guidance: float = 2.0


def pixel_scheduler() -> DDIMScheduler:
    """Linear betas 1e-4 .. 0.02, T = 1000, v-prediction: x_0 needs no clipping even at the noisiest step."""
    return DDIMScheduler(
        beta_start=1e-4, beta_end=0.02, beta_schedule="linear", clip_sample=False, timestep_spacing="trailing",
        prediction_type="v_prediction",
    )  # fmt: skip


class Study:
    """A supervised player and its judge.

    Args:
        data: images in [-1, 1], [image, ...].
        classifier: whose features are compared.
        start: the supervised player theta_0.
        condition: what the network is given for each class, one row each, the last one for no class.
        name: of the network's argument that takes it.
        seed: of every draw.
        count: samples of an evaluation.
        sampling_steps: of the deployed sampler.
        batch_size: images sampled together.
    """

    def __init__(
        self,
        data: Digits,
        classifier: Classifier,
        start: nn.Module,
        condition: Tensor,
        name: str,
        seed: int,
        count: int,
        sampling_steps: int = 10,
        batch_size: int = 1000,
    ) -> None:
        self.data, self.classifier, self.start, self.seed = data, classifier, start, seed
        self.count, self.sampling_steps, self.batch_size = count, sampling_steps, batch_size
        self.scheduler = pixel_scheduler()
        self.accelerator = make_accelerator("float32", cpu=next(start.parameters()).device.type == "cpu")
        self.null = {name: condition[-1:]}
        self.train = TrainingSet.of(data.train, {name: condition[:-1]}, self.null, data.train_labels)
        self.labels = data.train_labels.repeat(1 + count // len(data.train))[:count]
        self.given = {name: condition[self.labels]}

    def player(self) -> nn.Module:
        """A copy of theta_0."""
        return copy.deepcopy(self.start)

    def sampler(self, guidance: float, steps: int | None = None) -> Sampler:
        """The deployed sampler."""
        return Sampler(
            num_inference_steps=steps or self.sampling_steps, guidance_scale=guidance, batch_size=self.batch_size
        )

    def samples(self, net: nn.Module, guidance: float, steps: int | None = None) -> Tensor:
        """Of a player for the evaluation's classes; the same first noise for every player."""
        drawn = []
        settings, device = self.sampler(guidance, steps), next(net.parameters()).device
        for part in torch.arange(self.count).split(settings.batch_size):
            given = {name: value[part].to(device) for name, value in self.given.items()}
            seeds = [10**6 * (self.seed + 1) + i for i in part.tolist()]
            drawn.append(sample(net, self.scheduler, given, self.null, settings, seeds, self.train.shape).cpu())
        return torch.cat(drawn)

    def score(self, net: nn.Module, guidance: float, steps: int | None = None) -> Scores:
        """Fréchet distances to the held-out images, and what the classifier says of the class asked for."""
        return self.judge(self.samples(net, guidance, steps), self.labels)

    def judge(self, images: Tensor, labels: Tensor) -> Scores:
        """The same of given images."""
        flat, real = images.flatten(1), self.data.test.flatten(1)
        return Scores(
            frechet_distance(self.classifier.features(real), self.classifier.features(flat)),
            frechet_distance(real, flat),
            class_accuracy(self.classifier(flat), labels),
            float(log_probability(self.classifier, flat, labels).mean()),
        )

    def more(self, net: nn.Module, guidance: float) -> dict[str, float]:
        """Kernel distance, precision and recall of features."""
        images = self.samples(net, guidance).flatten(1)
        real, made = (self.classifier.features(x) for x in (self.data.test.flatten(1), images))
        found = precision_recall(real, made[: len(real)])
        return {
            "kernel": kernel_distance(real, made, "gaussian"),
            "precision": found.precision,
            "recall": found.recall,
        }

    def config(self, recipe: Recipe, iterations: int = 1, guard: Guard = "off", share_noise: bool = True) -> SPINConfig:
        """The product's settings for a recipe; warm-up 20 updates, linear decay, AdamW with weight decay 0.01."""
        settings = Optimization(
            learning_rate=[recipe.rate],
            max_train_steps=[recipe.updates],
            warmup_steps=min(20, recipe.updates // 4),
            train_batch_size=recipe.pairs,
            per_device_train_batch_size=recipe.pairs,
        )
        return SPINConfig(
            iterations=iterations,
            beta=[recipe.beta],
            share_noise=share_noise,
            guard=guard,
            optimization=settings,
            sampler=self.sampler(recipe.guidance),
            seed=self.seed,
        )

    def self_play(self, recipe: Recipe, iterations: int, out: Path | None = None, **options: Any) -> list[Scores]:
        """Scores after each iteration of Algorithm 1; the last player is kept as `last`."""
        found: list[Scores] = []
        net = self.player()
        SPINTrainer(
            net, self.scheduler, self.train, self.config(recipe, iterations, **options), out,
            after=lambda _: found.append(self.score(net, recipe.guidance)), accelerator=self.accelerator,
        ).run()  # fmt: skip
        self.last = net
        return found

    def continued(self, recipe: Recipe, updates: int, rate: float | None = None, out: Path | None = None) -> nn.Module:
        """SFT continued from theta_0 for so many updates of as many real images as self-play meets."""
        net = self.player()
        wanted = Recipe(updates, recipe.pairs, rate or recipe.rate, recipe.beta, recipe.guidance)
        net.requires_grad_(True)
        fine_tune(net, self.scheduler, self.train, self.config(wanted), out=out, accelerator=self.accelerator)
        return net

    def preferred(self, recipe: Recipe, updates: int) -> nn.Module:
        """Diffusion-DPO from theta_0: two guided samples a training label, the classifier prefers one."""
        net = self.player()
        wanted = Recipe(updates, recipe.pairs, recipe.rate, recipe.beta, recipe.guidance)
        config = self.config(wanted)
        rows = generate_opponents(
            net, self.scheduler, self.train, config.sampler, self.accelerator, seed=self.seed, samples_per_prompt=2
        )
        both = rows.take(range(2 * len(self.train))).unflatten(0, (len(self.train), 2))
        labels = self.data.train_labels
        scores = torch.stack([log_probability(self.classifier, both[:, i].flatten(1), labels) for i in range(2)], 1)
        order = scores.argsort(1, descending=True)
        ranked = torch.take_along_dim(both, order.view(*order.shape, *[1] * (both.ndim - 2)), 1)
        winners = TrainingSet.of(
            ranked[:, 0], {k: v.parts[0] for k, v in self._tables().items()}, self.null, labels
        )  # fmt: skip
        net.requires_grad_(True)
        prefer(net, self.scheduler, winners, TensorRows(ranked[:, 1]), config, accelerator=self.accelerator)
        return net

    def _tables(self) -> dict[str, TensorRows]:
        return {name: rows for name, rows in self.train.conditions.items() if isinstance(rows, TensorRows)}

    @cached_property
    def before(self) -> Scores:
        """theta_0's scores at guidance 2."""
        return self.score(self.start, 2.0)

    @cached_property
    def floor(self) -> Scores:
        """Of the real training images: what a perfect player would reach with as many samples."""
        return self.judge(self.data.train, self.data.train_labels)


@torch.no_grad()
def held_out_error(net: nn.Module, study: Study, draws: int = 20) -> float:
    """Mean denoising error on held-out images, at the same noise for every player."""
    schedule = schedule_of(study.scheduler)
    generator = torch.Generator().manual_seed(7)
    images, labels = study.data.test, study.data.test_labels
    name, rows = next(iter(study._tables().items()))
    total = 0.0
    for _ in range(draws):
        steps = torch.randint(schedule.num_steps, (len(images),), generator=generator)
        noise = torch.randn(images.shape, generator=generator)
        found = net(schedule.add_noise(images, noise, steps), steps, **{name: rows.parts[0][labels]})
        prediction = found if isinstance(found, Tensor) else found.sample
        total += float(denoising_error(prediction, schedule.target(images, noise, steps)).mean()) / draws
    return total


def pretrain(
    net: nn.Module, data: Digits, schedule: Schedule, updates: int, rate: float, seed: int, batch: int = 64
) -> None:
    """Supervised training of a network with `class_labels` from nothing, one label in ten dropped, in place.

    A plain loop: the start is what a user brings, and per-item noise would take as long as these small networks.
    """
    g = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(net.parameters(), lr=rate, weight_decay=0.01, fused=True)
    for number in range(updates):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (number + 1) / 50) * (1 - number / updates)
        rows = torch.randint(len(data.train), (batch,), generator=g)
        labels = data.train_labels[rows].masked_fill(torch.rand(batch, generator=g) < 0.1, CLASSES)
        steps = torch.randint(schedule.num_steps, (batch,), generator=g)
        noise = torch.randn(batch, *data.train.shape[1:], generator=g)
        noised = schedule.add_noise(data.train[rows], noise, steps)
        target = schedule.target(data.train[rows], noise, steps)
        optimizer.zero_grad()
        denoising_error(net(noised, steps, class_labels=labels), target).mean().backward()
        optimizer.step()
