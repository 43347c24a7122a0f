"""Sharpness-aware minimisation as a wrapper around any torch optimiser.

    w_adv = w + rho g / ||g||,   g = grad L(w);      base optimiser's step at w with grad L(w_adv)

(Foret et al. 2021; ASAM: Kwon et al. 2021; GSAM: Zhuang et al. 2022; LookSAM: Liu et al. 2022).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import nn

from sam_cnn.base import check_options, make_base
from sam_cnn.restoring import Restore
from sam_cnn.two_pass import UNFINISHED, TwoPassOptimizer
from sam_cnn.variants import DEFAULT_ALPHA, GradientPair, Variant

Closure = Callable[[], Any]


class SAM(TwoPassOptimizer):
    """Sharpness-aware minimisation around a base optimiser.

    Parameter groups and state are the base optimiser's own, so learning-rate schedulers, checkpoints and frameworks
    built on either see the same thing. A group may set its own `rho` and `adaptive`. Nothing is added to ||g||, so that
    the ascent has length rho whatever the size of the gradient; below a norm of 1e-30 it counts as zero, and w_adv = w.

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
        restore: `copy` copies the weights aside and back, which goes everywhere. `pointer` lets the parameters point to
            w + e in the second pass and back: the same bits, faster with large models, for a plain loop in one
            process. A view of a parameter made outside the forward pass (a CUDA graph's too) sees w then.

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
        ValueError: for a rho, eta, alpha, interval, variant that cannot be, an empty list of parameters, or
            restore='pointer' with several processes, tensors of other kinds or shared memory.
        TypeError: for an option that neither SAM nor the base optimiser has.
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
        restore: Restore = "copy",
        **base_options: Any,
    ) -> None:
        check_options(rho, eta, variant, interval, alpha, norm_over, model, restore)
        super().__init__(
            make_base(params, base_optimizer, base_options),
            GradientPair(variant, DEFAULT_ALPHA[variant] if alpha is None else alpha),
            rho,
            adaptive,
            eta=eta,
            interval=interval if interval is not None else (5 if variant == "looksam" else 1),
            norm_over=norm_over,
            model=model,
            same_rng=same_rng,
            sync_ascent=sync_ascent,
            check_finite=check_finite,
            restore=restore,
        )

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
            RuntimeError: between first_step and second_step.
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
        if self._phase in UNFINISHED:
            raise RuntimeError(
                "step(closure) inside another step: first_step() was called and second_step() was not. Call "
                "second_step() first; a closure itself must not call step()"
            )
        loss = None
        if not reuse_gradients:
            self.record_rng()
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
        if self._phase in UNFINISHED:
            raise RuntimeError("state_dict() between first_step() and second_step(): save after second_step()")
        directions = self._pair.by_index(self.parameters())
        own = {"steps": self.steps, "skipped": self.skipped, "variant": self.variant, "directions": directions}
        return {**self.base_optimizer.state_dict(), "sam": own}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the state of `state_dict()`, of a plain base optimiser, or of davda54/sam (which holds no momentum).

        Raises:
            ValueError: if the groups differ in number or size, or the variant is another.
            RuntimeError: between first_step and second_step.
        """
        if self._phase in UNFINISHED:
            raise RuntimeError("load_state_dict() between first_step() and second_step(): the weights are perturbed")
        own = state_dict.get("sam", {})
        if own.get("variant", self.variant) != self.variant:
            raise ValueError(f"the state is of variant {own['variant']!r}, this optimiser is {self.variant!r}")
        self._load_base_state({key: value for key, value in state_dict.items() if key != "sam"})
        self.steps, self.skipped = own.get("steps", 0), own.get("skipped", 0)
        self._pair.load(self.parameters(), own.get("directions", {}))

    def __getstate__(self) -> dict[str, Any]:
        transients = ("_weights", "_all_finite", "_second", "_stash", "_phase", "_warned", "step")
        return {key: value for key, value in self.__dict__.items() if key not in transients}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._reset_transients()
