"""SAM in a Hugging Face Trainer: a mixin that makes each training step two passes.

The Trainer keeps its own base optimiser, schedule, clipping, precision, checkpoints and accelerate set-up; with
gradient accumulation each micro-batch climbs along its own gradient (m-SAM).
"""

from typing import Any

import torch
from torch import Tensor, nn

from sam_cnn.sam import SAM


class SAMTrainerMixin:
    """Put it before the Trainer: `class SAMTrainer(SAMTrainerMixin, Trainer): sam_options = {"rho": 0.05}`.

    Any Trainer with `training_step(model, inputs, num_items_in_batch)` serves. The loss that is logged is that of the
    first pass. A micro-batch whose first gradient is not finite contributes that gradient under a GradScaler (which
    then skips the step) and nothing without one; it is counted in `sam.skipped`.

    Attributes:
        sam_options: rho, adaptive, eta, same_rng, interval, sync_ascent of `SAM`.
        sam: the wrapper, once training has begun.
    """

    sam_options: dict[str, Any] = {"rho": 0.05}  # noqa: RUF012 - meant to be replaced by a subclass
    sam: SAM | None = None

    def training_step(self, model: nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Two passes of the Trainer's own step on the same inputs, the second at the perturbed weights."""
        step = super().training_step  # type: ignore[misc] # of the Trainer
        sam = self._sam(model)
        if not sam.climbs:
            return step(model, inputs, *args, **kwargs)
        params = [param for group in sam.param_groups for param in group["params"]]
        held = [param.grad for param in params]
        sam.zero_grad()
        if sam.same_rng:
            sam.record_rng()
        with sam._first_pass():
            loss = step(model, dict(inputs), *args, **kwargs)
        first = [param.grad for param in params]
        with sam.ascend() as wanted:
            if wanted:
                for param, gradient in zip(params, held, strict=True):
                    param.grad = gradient
                with torch.enable_grad():
                    step(model, dict(inputs), *args, **kwargs)
        if not wanted:
            self._without_second_pass(sam, params, held, first)
        return loss

    def _without_second_pass(self, sam: SAM, params: list[nn.Parameter], held: list[Any], first: list[Any]) -> None:
        """A first gradient that is not finite is left to a GradScaler, or dropped where there is none."""
        sam.skipped += 1
        if getattr(getattr(self, "accelerator", None), "scaler", None) is None:
            first = [None] * len(params)
        for param, before, gradient in zip(params, held, first, strict=True):
            param.grad = before if gradient is None else gradient if before is None else before + gradient

    def _sam(self, model: nn.Module) -> SAM:
        optimizer = self.optimizer  # type: ignore[attr-defined] # of the Trainer
        base = getattr(optimizer, "optimizer", optimizer)  # accelerate's wrapper holds it
        if self.sam is None or self.sam.base_optimizer is not base:
            self.sam = SAM(base, model=model, **self.sam_options)
            if self.sam.variant != "sam":
                raise ValueError(f"SAMTrainerMixin goes with variant 'sam', not {self.sam.variant!r}")
        self.sam.steps = self.state.global_step  # type: ignore[attr-defined] # of the Trainer, which counts; for interval
        return self.sam
