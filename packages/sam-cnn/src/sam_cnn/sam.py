"""Sharpness-aware minimisation as a wrapper around any torch optimiser.

    w_adv = w + rho g / ||g||,   g = grad L(w);      base optimiser's step at w with grad L(w_adv)

(Foret et al. 2021; ASAM: Kwon et al. 2021; GSAM: Zhuang et al. 2022; LookSAM: Liu et al. 2022).
"""

import logging
import math
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sam_cnn.ascent import ascent_norm, climb, groups_to_perturb
from sam_cnn.base import Variant, check_options, check_rho, make_base
from sam_cnn.perturbation import (
    Backup,
    all_finite,
    clip,
    reuse_direction,
    sharpness_direction,
    surrogate_gap_direction,
    with_gradients,
)
from sam_cnn.second_pass import NormStatistics, RandomState

log = logging.getLogger(__name__)
Closure = Callable[[], Any]
DEFAULT_ALPHA = {"sam": 0.0, "gsam": 0.4, "looksam": 0.7}


class SAM(torch.optim.Optimizer):
    """Sharpness-aware minimisation around a base optimiser.

    Parameter groups and state are the base optimiser's own, so learning-rate schedulers, checkpoints and frameworks
    built on either see the same thing. A group may set its own `rho` and `adaptive`.

    Args:
        params: parameters or groups, or a ready-made optimiser to wrap.
        base_optimizer: its class, where `params` are parameters; `base_options` are passed to it.
        rho: radius of the ascent, >= 0. A step in which every rho is 0 is the base optimiser's, with one pass.
        adaptive: ASAM. The usual rho is then 10 to 40 times larger.
        eta: ASAM's T = |w| + eta.
        variant: `sam`, `gsam` (alpha weighs the part of g orthogonal to the perturbed gradient) or `looksam` (between
            ascents the last sharpness direction is added with weight alpha).
        interval: ascend in every so many steps only; in between the step has one pass.
        alpha: of gsam (0.4 by default) and looksam (0.7).
        norm_over: `perturbed` leaves groups with rho = 0 out of the norm; `all` counts them, as davda54/sam does.
        model: where given, running statistics of normalisation layers are kept from the second pass, and a
            DistributedDataParallel model's `no_sync` serves `sync_ascent=False`.
        same_rng: replay the random numbers of the first pass (dropout masks) in the second.
        sync_ascent: whether all processes climb along their common gradient; False is m-sharpness, each process its
            own (the first pass then runs under `no_sync`, by itself with closures).
        check_finite: skip, count and log a step whose second gradient is not finite (the first always is checked).

    Attributes:
        base_optimizer: the wrapped optimiser.
        steps: completed steps.
        skipped: steps left out because of a non-finite gradient.
        last_skip: the reason, where the last step was left out, else None.

    Example:
        >>> optimizer = SAM(model.parameters(), torch.optim.SGD, rho=0.05, lr=0.1, momentum=0.9, model=model)
        >>> def closure():
        ...     loss = loss_fn(model(x), y)
        ...     loss.backward()
        ...     return loss
        >>> loss = optimizer.step(closure)

    Raises:
        ValueError: for a rho, eta, alpha, interval, variant that cannot be, or an empty list of parameters.
    """

    def __init__(
        self,
        params: Any,
        base_optimizer: type[torch.optim.Optimizer] | Callable[..., torch.optim.Optimizer] | None = None,
        rho: float = 0.05,
        adaptive: bool = False,
        *,
        eta: float = 0.0,
        variant: Variant = "sam",
        interval: int | None = None,
        alpha: float | None = None,
        norm_over: Literal["perturbed", "all"] = "perturbed",
        model: nn.Module | None = None,
        same_rng: bool = False,
        sync_ascent: bool = True,
        check_finite: bool = True,
        **base_options: Any,
    ) -> None:
        check_options(rho, eta, variant, interval, alpha, norm_over)
        self.base_optimizer = make_base(params, base_optimizer, base_options)
        # Optimizer.__init__ would build groups and state of its own; this sets up its hooks only.
        super().__setstate__({"defaults": {**self.base_optimizer.defaults, "rho": rho, "adaptive": adaptive}})
        self._warned_capturable_if_run_uncaptured = True
        for group in self.param_groups:
            self._complete_group(group)
        self.eta, self.variant, self.norm_over = eta, variant, norm_over
        self.interval = interval if interval is not None else (5 if variant == "looksam" else 1)
        self.alpha = DEFAULT_ALPHA[variant] if alpha is None else alpha
        self.model, self.same_rng, self.sync_ascent, self.check_finite = model, same_rng, sync_ascent, check_finite
        self.steps, self.skipped = 0, 0
        self.last_skip: str | None = None
        self._directions: dict[Tensor, Tensor] = {}
        self._reset_transients()

    def _reset_transients(self) -> None:
        self._phase: Literal["idle", "perturbed", "one pass", "restored", "descending"] = "idle"
        self._backup = Backup()
        self._norms = NormStatistics(self.model) if self.model is not None else None
        self._first: tuple[list[Tensor], list[Tensor]] = ([], [])
        self._stash: tuple[list[Tensor], list[Tensor]] = ([], [])
        self._rng_start: RandomState | None = None
        self._rng_after: RandomState | None = None
        self._warned = False

    # -- what belongs to the base optimiser ---------------------------------------------------------------------------

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The base optimiser's groups."""
        return self.base_optimizer.param_groups

    @param_groups.setter
    def param_groups(self, groups: list[dict[str, Any]]) -> None:
        self.base_optimizer.param_groups = groups

    @property
    def state(self) -> defaultdict[Tensor, Any]:
        """The base optimiser's state."""
        return self.base_optimizer.state

    @state.setter
    def state(self, state: defaultdict[Tensor, Any]) -> None:
        self.base_optimizer.state = state

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to the base optimiser; it may set its own `rho` and `adaptive`.

        Raises:
            ValueError: if a parameter is in another group, or rho is negative or not finite.
        """
        self._complete_group(param_group)
        self.base_optimizer.add_param_group(param_group)

    def _complete_group(self, group: dict[str, Any]) -> None:
        group.setdefault("rho", self.defaults["rho"])
        group.setdefault("adaptive", self.defaults["adaptive"])
        check_rho(group["rho"])

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients, or fill them with zeros."""
        if not set_to_none:
            super().zero_grad(set_to_none=False)
            return
        for group in self.param_groups:
            for param in group["params"]:
                param.grad = None

    # -- the step -----------------------------------------------------------------------------------------------------

    def step(
        self,
        closure: Closure | None = None,
        *,
        scaler: Any = None,
        clip_norm: float | None = None,
        reuse_gradients: bool = False,
    ) -> Any:
        """One whole step with a closure; or, after `first_step`, the same as `second_step`.

        Args:
            closure: runs forward and backward and returns the loss; called once or twice. Gradients are cleared
                before each call.
            scaler: a GradScaler whose `scale(loss).backward()` the closure used; `scaler.update()` stays with you.
            clip_norm: largest norm of the gradient that descends (the second pass's).
            reuse_gradients: the first pass was done already, its gradients are there (as in davda54/sam).

        Returns:
            What the closure returned in the first pass.

        Raises:
            ValueError: without a closure and without `first_step` before.
        """
        if closure is None:
            if self._phase == "descending":  # called back by a GradScaler
                if self.last_skip is None:
                    self.base_optimizer.step()
                    self._done()
                return None
            if self._phase == "idle":
                raise ValueError(
                    "SAM.step() needs a closure that runs forward and backward, step(closure); "
                    "or call first_step() before, a second backward pass, then second_step()"
                )
            self.second_step(scaler=scaler, clip_norm=clip_norm)
            return None
        if self._phase in ("perturbed", "one pass"):
            raise RuntimeError(f"step(closure) inside another step (phase {self._phase!r}): finish it by second_step()")
        loss = None
        if self.same_rng and not reuse_gradients:
            self.record_rng()
        if not reuse_gradients:
            self.zero_grad()
            with torch.enable_grad(), self._first_pass():
                loss = closure()
        try:
            if self.first_step(zero_grad=True):
                with torch.enable_grad():
                    again = closure()
                loss = again if reuse_gradients else loss
        except BaseException:
            self._abort()
            raise
        self.second_step(scaler=scaler, clip_norm=clip_norm)
        return loss

    @property
    def climbs(self) -> bool:
        """Whether the coming step has a second pass: it is the interval's turn, and some rho is not 0."""
        return self.steps % self.interval == 0 and any(group["rho"] for group in self.param_groups)

    def _first_pass(self) -> AbstractContextManager[Any]:
        if self.sync_ascent or self.model is None or not self.climbs or not hasattr(self.model, "no_sync"):
            return nullcontext()
        return self.model.no_sync()  # type: ignore[operator] # of DistributedDataParallel

    def record_rng(self) -> None:
        """Mark where the first forward pass begins, for `same_rng=True` without closures."""
        self._rng_start = RandomState({param.device for group in self.param_groups for param in group["params"]})

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
        if self.same_rng and self._rng_start is None:
            raise RuntimeError("same_rng=True without a closure: call record_rng() before the first forward pass")
        self.last_skip = None
        groups = groups_to_perturb(self.param_groups)
        if not self.climbs or not groups:
            return self._one_pass(zero_grad)
        params = [param for _, members, _ in groups for param in members]
        grads = [grad for _, _, members in groups for grad in members]
        if not params and not self._warned:
            self._warned = True
            warnings.warn("SAM found no gradient at all in its first pass: nothing to climb along", stacklevel=3)
        if self.variant != "sam":
            self._first = (params, [grad.clone() for grad in grads])
        buffers = self._backup.buffers(params)
        norm = ascent_norm(groups, self._resting(), buffers, self.eta)
        if not self._agree(math.isfinite(norm)):
            return self._skip_ascent(norm, zero_grad)
        self._backup.save(params, buffers)
        self._phase = "perturbed"
        climb(groups, buffers, norm, self.eta)
        if zero_grad:
            self.zero_grad()
        if self._norms is not None:
            self._norms.save()
        if self.same_rng and self._rng_start is not None:
            self._rng_after = RandomState({param.device for param in params})
            self._rng_start.apply()
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
            params = [param for group in self.param_groups for param in group["params"] if param.grad is not None]
            self._stash = (params, [param.grad for param in params])
            self.zero_grad()
        return False

    def _skip_ascent(self, norm: float, zero_grad: bool) -> bool:
        self._phase = "restored"
        where = f"is {norm}" if not math.isfinite(norm) else "is not finite in another process"
        self.last_skip = f"the norm of the first pass's gradient {where}"
        self._first = ([], [])
        if zero_grad:
            self.zero_grad()
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
        if self._phase == "perturbed":
            self._return_to_weights()
            self._turn_gradients()
        elif self._phase == "one pass":
            params, grads = self._stash
            self._stash = ([], [])
            if not any(param.grad is not None for group in self.param_groups for param in group["params"]):
                for param, grad in zip(params, grads, strict=True):
                    param.grad = grad
            self._reuse_direction()
        self._phase = "restored"

    def _return_to_weights(self) -> None:
        self._backup.restore()
        if self._norms is not None:
            self._norms.restore()
        if self._rng_after is not None:
            self._rng_after.apply()
        self._rng_start = self._rng_after = None

    def _turn_gradients(self) -> None:
        params, first = self._first
        self._first = ([], [])
        pairs = [(param, grad, param.grad) for param, grad in zip(params, first, strict=True) if param.grad is not None]
        if not pairs:
            return
        kept, old, new = ([pair[index] for pair in pairs] for index in range(3))
        if self.variant == "gsam":
            surrogate_gap_direction(old, new, self.alpha)
        elif self.variant == "looksam":
            directions = sharpness_direction(old, new)
            if all_finite(directions):
                self._directions = dict(zip(kept, directions, strict=True))

    def _reuse_direction(self) -> None:
        if self.variant == "looksam":
            kept, grads = with_gradients(self._directions)
            if kept:
                reuse_direction(grads, [self._directions[param] for param in kept], self.alpha)

    def _abort(self) -> None:
        """Leave a step that failed: the weights are those before it."""
        with torch.no_grad():
            self._return_to_weights()
        self._first, self._stash, self._phase = ([], []), ([], []), "idle"

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
        grads = with_gradients(param for group in self.param_groups for param in group["params"])[1]
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
            finite = all_finite(grads) if clip_norm is None else math.isfinite(clip(grads, clip_norm))
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
        self._rng_start = None
        self._phase = "idle"

    @contextmanager
    def ascend(self) -> Iterator[bool]:
        """Run the second pass inside: perturbed by the gradients that are there, restored on the way out.

        Yields whether a second pass is wanted (see `first_step`). Weights are restored after exceptions too. Afterwards
        the gradients are ready to descend: `second_step()`, or any optimiser of your own.
        """
        wanted = self.first_step(zero_grad=True)
        try:
            yield wanted
        except BaseException:
            self._abort()
            raise
        self.restore()

    # -- saving -------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The base optimiser's state (momentum included), rho of each group, and `sam`: counters and directions.

        Raises:
            RuntimeError: between first_step and second_step, when the weights are not the weights.
        """
        if self._phase in ("perturbed", "one pass"):
            raise RuntimeError("state_dict() between first_step() and second_step(): save after second_step()")
        ordered = [param for group in self.param_groups for param in group["params"]]
        directions = {i: self._directions[param] for i, param in enumerate(ordered) if param in self._directions}
        own = {"steps": self.steps, "skipped": self.skipped, "variant": self.variant, "directions": directions}
        return {**self.base_optimizer.state_dict(), "sam": own}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the state of `state_dict()`, of a plain base optimiser, or of davda54/sam (which holds no momentum).

        Raises:
            ValueError: if the groups differ in number or size, or the variant is another.
            RuntimeError: between first_step and second_step.
        """
        if self._phase in ("perturbed", "one pass"):
            raise RuntimeError("load_state_dict() between first_step() and second_step(): the weights are perturbed")
        own = state_dict.get("sam", {})
        if own.get("variant", self.variant) != self.variant:
            raise ValueError(f"the state is of variant {own['variant']!r}, this optimiser is {self.variant!r}")
        radii = [(group["rho"], group["adaptive"]) for group in self.param_groups]
        self.base_optimizer.load_state_dict({key: value for key, value in state_dict.items() if key != "sam"})
        for group, (rho, adaptive) in zip(self.param_groups, radii, strict=True):
            group.setdefault("rho", rho)
            group.setdefault("adaptive", adaptive)
        for param, state in list(self.state.items()):
            if state.pop("old_p", None) is not None and not state:  # davda54/sam's backup; Adam wants no empty state
                del self.state[param]
        ordered = [param for group in self.param_groups for param in group["params"]]
        self.steps, self.skipped = own.get("steps", 0), own.get("skipped", 0)
        self._directions = {
            ordered[int(index)]: value.to(ordered[int(index)], copy=True)
            for index, value in own.get("directions", {}).items()
        }

    def __getstate__(self) -> dict[str, Any]:
        transients = ("_backup", "_norms", "_first", "_stash", "_rng_start", "_rng_after", "_phase", "_warned", "step")
        return {key: value for key, value in self.__dict__.items() if key not in transients}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._reset_transients()
