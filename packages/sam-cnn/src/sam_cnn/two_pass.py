"""The protocol of a SAM step in two calls: first_step climbs to w + e, second_step returns to w and descends.

    idle -> first_step -> perturbed -> restore -> restored -> second_step -> idle

A step with one pass (interval, rho = 0) goes through `one pass` in place of `perturbed`, and one whose first gradient
is not finite through `skipped`.
"""

import logging
import math
import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sam_cnn.ascent import ascent_norm, climb, groups_to_perturb
from sam_cnn.perturbation import FiniteCheck, clip, with_gradients
from sam_cnn.restoring import Backup, Exchange, Restore, check_exchange
from sam_cnn.second_pass import SecondPass
from sam_cnn.variants import GradientPair, Variant
from sam_cnn.wrapper import OptimizerWrapper

log = logging.getLogger(__name__)
Phase = Literal["idle", "perturbed", "one pass", "skipped", "restored", "descending"]
UNFINISHED = ("perturbed", "one pass")


class TwoPassOptimizer(OptimizerWrapper):
    """Everything of `SAM` but closures and checkpoints; see there for the arguments."""

    def __init__(
        self,
        base_optimizer: torch.optim.Optimizer,
        pair: GradientPair,
        rho: float,
        adaptive: bool,
        *,
        eta: float,
        interval: int,
        norm_over: Literal["perturbed", "all"],
        model: nn.Module | None,
        same_rng: bool,
        sync_ascent: bool,
        check_finite: bool,
        restore: Restore,
    ) -> None:
        super().__init__(base_optimizer, rho, adaptive)
        self._restore = restore
        self.eta, self.interval, self.norm_over = eta, interval, norm_over
        self.model, self.same_rng, self.sync_ascent, self.check_finite = model, same_rng, sync_ascent, check_finite
        self.steps, self.skipped = 0, 0
        self.last_skip: str | None = None
        self._pair = pair
        self._check_restore()
        self._reset_transients()

    def _reset_transients(self) -> None:
        self._phase: Phase = "idle"
        self._weights = Backup() if self._restore == "copy" else Exchange()
        self._all_finite = FiniteCheck()
        self._second = SecondPass(self.model)
        self._stash: tuple[list[Tensor], list[Tensor]] = ([], [])
        self._warned = False

    def _check_restore(self) -> None:
        if self._restore == "pointer":
            check_exchange(self.parameters(), self.model)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to the base optimiser; it may set its own `rho` and `adaptive`.

        Raises:
            ValueError: if a parameter is in another group, rho is negative or not finite, or restore='pointer' does
                not go with the parameters.
        """
        super().add_param_group(param_group)
        try:
            self._check_restore()
        except ValueError:
            self.param_groups.pop()
            raise

    @property
    def variant(self) -> Variant:
        """sam, gsam or looksam."""
        return self._pair.variant

    @property
    def climbs(self) -> bool:
        """Whether the coming step has a second pass: it is the interval's turn, and some rho is not 0."""
        return self.steps % self.interval == 0 and any(group["rho"] for group in self.param_groups)

    def _first_pass(self) -> AbstractContextManager[Any]:
        if self.sync_ascent or not self.climbs:
            return nullcontext()
        if hasattr(self.model, "no_sync"):
            return self.model.no_sync()  # type: ignore[union-attr, operator] # of DistributedDataParallel
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            warnings.warn(
                "sync_ascent=False without model=ddp: if the closure exchanges gradients, processes climb together",
                stacklevel=3,
            )
        return nullcontext()

    def record_rng(self) -> None:
        """Mark where the first forward pass begins, for `same_rng=True` without closures; nothing without it."""
        if self.same_rng:
            self._second.record({param.device for param in self.parameters()})

    @torch.no_grad()
    def first_step(self, zero_grad: bool = False) -> bool:
        """Climb to w + e with the gradients that are there.

        Args:
            zero_grad: drop them afterwards.

        Returns:
            Whether a second pass is wanted. It is not in a step with one pass (`interval`, rho = 0) or after a
            non-finite gradient; running it all the same does no harm.

        Raises:
            RuntimeError: if the weights are perturbed already, or random numbers should be replayed unrecorded.
            ValueError: for sparse gradients, and complex ones in ASAM.
        """
        if self._phase == "perturbed":
            raise RuntimeError(
                "first_step() was called twice: the weights are still perturbed. Call second_step() between, with a "
                "GradScaler second_step(scaler=scaler)"
            )
        if self.same_rng and not self._second.recorded:
            raise RuntimeError("same_rng=True without a closure: call record_rng() before the first forward pass")
        self.last_skip = None
        groups = groups_to_perturb(self.param_groups)
        if self.steps % self.interval or not groups:
            return self._one_pass(zero_grad)
        params = [param for _, members, _ in groups for param in members]
        grads = [grad for _, _, members in groups for grad in members]
        if not params and not self._warned:
            self._warned = True
            warnings.warn("SAM found no gradient at all in its first pass: nothing to climb along", stacklevel=3)
        self._pair.keep(params, grads)
        norm = ascent_norm(groups, self._resting(), self.eta)
        if not self._agree(math.isfinite(norm)):
            return self._skip_ascent(norm, zero_grad)
        self._weights.save(params)
        self._phase = "perturbed"
        climb(groups, self._weights, norm, self.eta)
        _forget_casts()
        if zero_grad:
            self.zero_grad()
        self._second.enter()
        return True

    def _resting(self) -> list[Tensor]:
        """Gradients of groups that do not climb and count in the norm all the same."""
        if self.norm_over == "perturbed":
            return []
        groups = [group["params"] for group in self.param_groups if group["rho"] == 0.0]
        return with_gradients(param for params in groups for param in params)[1]

    def _agree(self, finite: bool) -> bool:
        """With an ascent of each process's own, all processes take the step or none does."""
        distributed = torch.distributed
        if self.sync_ascent or not distributed.is_available() or not distributed.is_initialized():
            return finite
        device = self.param_groups[0]["params"][0].device
        bad = torch.tensor(float(not finite), device=device)
        distributed.all_reduce(bad)
        return not bad.item()

    def _one_pass(self, zero_grad: bool) -> bool:
        self._phase = "one pass"
        if zero_grad:  # kept aside: these gradients will descend, unless a second pass makes others
            self._stash = with_gradients(self.parameters())
            self.zero_grad()
        self._second.enter()
        return False

    def _skip_ascent(self, norm: float, zero_grad: bool) -> bool:
        self._phase = "skipped"
        where = f"is {norm}" if not math.isfinite(norm) else "is not finite in another process"
        self.last_skip = f"the norm of the first pass's gradient {where}"
        self._pair.forget()
        if zero_grad:
            self.zero_grad()
        self._second.enter()
        return False

    @torch.no_grad()
    def restore(self) -> None:
        """End the second pass: weights back bit for bit, gradients turned into the variant's direction.

        `second_step` calls it. Call it yourself where something else calls `step()`: `scaler.step(optimizer)` or an
        accelerate optimiser.

        Raises:
            RuntimeError: if there was no first_step.
        """
        if self._phase == "idle":
            raise RuntimeError("second_step() without first_step(): the weights are not perturbed")
        self._return()
        if self._phase == "perturbed":
            self._pair.turn()
        elif self._phase == "one pass":
            params, grads = self._stash
            self._stash = ([], [])
            if not self.gradients():
                for param, grad in zip(params, grads, strict=True):
                    param.grad = grad
            self._pair.turn_single()
        self._phase = "restored"

    def _return(self) -> None:
        self._weights.restore()
        _forget_casts()
        self._second.leave()

    def _abort(self) -> None:
        """Leave a step that failed: the weights are those before it."""
        with torch.no_grad():
            self._return()
        self._pair.forget()
        self._stash, self._phase = ([], []), "idle"

    @torch.no_grad()
    def second_step(self, zero_grad: bool = False, *, scaler: Any = None, clip_norm: float | None = None) -> bool:
        """Return to w and let the base optimiser step with the gradients that are there.

        Args:
            zero_grad: drop the gradients afterwards.
            scaler: a GradScaler that scaled the losses of both passes; `scaler.update()` stays with you.
            clip_norm: largest norm of the gradient that descends.

        Returns:
            Whether the base optimiser stepped (False: skipped, see `last_skip`).

        Raises:
            RuntimeError: without first_step.
        """
        if self._phase != "restored":
            self.restore()
        grads = self.gradients()
        if scaler is not None and scaler.is_enabled():
            self._scaled_descent(scaler, grads, clip_norm)
        else:
            self._descent(grads, clip_norm)
        if zero_grad:
            self.zero_grad()
        self._opt_called = True  # for learning-rate schedulers, which watch step()
        if self.last_skip is not None:
            self.skipped += 1
            log.warning("SAM: step %d skipped: %s", self.steps + 1, self.last_skip)
        self._phase = "idle"
        return self.last_skip is None

    def _descent(self, grads: list[Tensor], clip_norm: float | None) -> None:
        if self.last_skip is None and grads and (self.check_finite or clip_norm is not None):
            finite = self._all_finite(grads) if clip_norm is None else math.isfinite(clip(grads, clip_norm))
            if not finite:
                self.last_skip = "the second pass's gradient is not finite"
        if self.last_skip is None:
            self.base_optimizer.step()
            self._done()

    def _scaled_descent(self, scaler: Any, grads: list[Tensor], clip_norm: float | None) -> None:
        if self.last_skip is not None:
            # the scaler learns of the first pass's overflow by meeting one
            target = self.param_groups[0]["params"][0]
            target.grad = torch.full_like(target, math.inf)
        elif clip_norm is not None:
            scaler.unscale_(self)
            clip(grads, clip_norm)
        before = self.steps
        self._phase = "descending"
        scaler.step(self)
        if self.steps == before and self.last_skip is None:
            self.last_skip = "the scaler found a non-finite gradient in the second pass"

    def _done(self) -> None:
        self.steps += 1
        self._phase = "idle"


def _forget_casts() -> None:
    """Autocast keeps its casts of the weights, where the whole step runs under it; compiled graphs keep none."""
    if not torch.compiler.is_compiling():
        torch.clear_autocast_cache()
