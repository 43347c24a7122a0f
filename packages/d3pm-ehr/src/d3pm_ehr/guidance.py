"""Conditional generation by an energy in the space of the last hidden layer.

With z = hidden(x_t, t) and a condition c,

    E(y) = lambda KL(p(x_0 | y) || p(x_0 | z)) - log p(c | y, t) + (mu / 2) |y - z|^2,
    y_{k+1} = y_k - eta grad E(y_k) + sqrt(2 eta tau) eps_k,   y_0 = z,  k = 0..M-1,

and the reverse step uses p(x_0 | y_M). The KL is summed over tokens; mu = 0 is the method as published (the KL alone
does not confine y where tau > 0). Only the head is differentiated, never the trunk.
"""

import logging
import math

import torch
from jaxtyping import Float, UInt8
from shared_core.errors import InputError
from shared_core.logging import progress
from torch import Tensor, nn

from d3pm_ehr.cohort import Cohort
from d3pm_ehr.condition import Condition
from d3pm_ehr.config import Guidance
from d3pm_ehr.denoiser import TIME_FEATURES, Denoiser, time_features
from d3pm_ehr.sampling import Draws
from d3pm_ehr.training import mix

log = logging.getLogger(__name__)


class NoisyClassifier(nn.Module):
    """log-odds of a condition on x_0 from the hidden state of x_t and t: one hidden layer."""

    def __init__(self, width: int, num_steps: int, hidden: int = 64) -> None:
        super().__init__()
        self.num_steps = num_steps
        self.layers = nn.Sequential(nn.Linear(width + TIME_FEATURES, hidden), nn.SiLU(), nn.Linear(hidden, 1))

    def forward(self, pooled: Float[Tensor, "rows width"], t: Tensor) -> Float[Tensor, "rows"]:
        """Log-odds."""
        times = time_features(t, self.num_steps).to(pooled.dtype).expand(len(pooled), -1)
        return self.layers(torch.cat([pooled, times], 1))[:, 0]


def train_classifier(
    model: Denoiser,
    cohort: Cohort,
    labels: Tensor,
    *,
    steps: int = 600,
    batch_size: int = 256,
    learning_rate: float = 3e-3,
    seed: int = 0,
) -> NoisyClassifier:
    """Train on frozen hidden states of noisy records, t uniform, by cross-entropy.

    Args:
        model: trained denoiser.
        cohort: training records.
        labels: whether each fulfils the condition.
        steps: of Adam.
        batch_size: records in a step.
        learning_rate: of Adam.
        seed: of everything drawn.

    Raises:
        InputError: if the labels are all equal (there is nothing to learn).
    """
    device = model.process.abar.device
    if bool(labels.all()) or not bool(labels.any()):
        raise InputError(f"the condition holds for {int(labels.sum())} of {len(labels)} records: nothing to learn from")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        classifier = NoisyClassifier(model.network.width, model.process.num_steps).to(device)
    with torch.no_grad():
        classifier.layers[2].bias.fill_(float(torch.logit(labels.float().mean())))  # type: ignore[operator] # a Linear's bias
    optimizer = torch.optim.Adam(classifier.parameters(), lr=learning_rate)
    for step in progress(range(steps), "training the classifier"):
        host = torch.Generator().manual_seed(mix(seed + 1, 2 * step))
        noise = torch.Generator(device).manual_seed(mix(seed + 1, 2 * step + 1))
        rows = torch.randint(len(cohort), (batch_size,), generator=host)
        t = torch.randint(1, model.process.num_steps + 1, (batch_size,), generator=host).to(device)
        with torch.no_grad():
            x_t = model.process.corrupt(cohort.tokens(rows.numpy()).to(device), t, noise)
            pooled = model.pooled(model.hidden(x_t, t))
        target = labels[rows].to(device, pooled.dtype)
        loss = nn.functional.binary_cross_entropy_with_logits(classifier(pooled, t), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return classifier.eval()


class LangevinGuide:
    """The update above, as `sample_tokens` calls it.

    Args:
        model: denoiser.
        guidance: sizes.
        condition: for `own_head`.
        classifier: for `classifier`.

    Raises:
        InputError: if neither or both of condition and classifier are given.
    """

    def __init__(
        self,
        model: Denoiser,
        guidance: Guidance,
        condition: Condition | None = None,
        classifier: nn.Module | None = None,
    ) -> None:
        if (condition is None) == (classifier is None):
            raise InputError("guidance needs either a condition (own_head) or a classifier")
        self.model, self.guidance, self.condition, self.classifier = model, guidance, condition, classifier

    def __call__(self, x_t: UInt8[Tensor, "rows columns"], t: Tensor, z: Tensor, draws: Draws) -> Tensor:
        """y_M."""
        offset = self.model.offset(x_t, t)
        with torch.no_grad():
            reference = self.model.head(z) + offset
        y = z
        for _ in range(self.guidance.inner_steps):
            y = y - self.guidance.learning_rate * self.gradient(y, z, reference, offset, x_t, t)
            if self.guidance.temperature > 0:
                noise = draws.normal(tuple(y.shape[1:]), y.dtype)
                y = y + math.sqrt(2 * self.guidance.learning_rate * self.guidance.temperature) * noise
        return y

    @torch.enable_grad()
    def gradient(
        self, y: Tensor, z: Tensor, reference: Tensor, offset: Tensor | float, x_t: Tensor, t: Tensor
    ) -> Tensor:
        """grad E(y); the KL's part is exactly 0 at y = z."""
        y = y.detach().requires_grad_()
        logits = self.model.head(y) + offset
        if self.condition is not None:
            clean = self.model.process.clean_logits(x_t, t, logits)
            log_p = self.condition.log_probability(self.model.layout, clean).sum()
        else:
            assert self.classifier is not None
            log_p = nn.functional.logsigmoid(self.classifier(self.model.pooled(y), t)).sum()
        pull = self.guidance.strength * self._divergence_gradient(logits.detach(), reference)
        (grad,) = torch.autograd.grad([logits, -log_p], [y], [pull, torch.ones_like(log_p)])
        if self.guidance.confine:
            grad = grad + self.guidance.confine * (y.detach() - z)
        return grad

    def _divergence_gradient(self, logits: Tensor, reference: Tensor) -> Tensor:
        """d KL(p(logits) || p(reference)) / d logits: p (d - sum p d), with d the difference of log-probabilities."""
        layout = self.model.layout
        parts = []
        for (group, own), (_, other) in zip(layout.parts(logits), layout.parts(reference), strict=True):
            if group.levels == 2:
                p = torch.sigmoid(own)
                parts.append(p * (1 - p) * (own - other))
            else:
                p, d = own.softmax(-1), own - other
                parts.append((p * (d - (p * d).sum(-1, keepdim=True))).flatten(1))
        return torch.cat(parts, 1)
