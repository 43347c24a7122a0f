"""An optimiser around another one, which shares its parameter groups and state instead of having its own."""

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor

from sam_cnn.base import check_rho
from sam_cnn.perturbation import Tensors, with_gradients


class OptimizerWrapper(torch.optim.Optimizer):
    """What of SAM is the base optimiser's: groups, state, gradients.

    Args:
        base_optimizer: the wrapped optimiser.
        rho: radius of groups that have none of their own.
        adaptive: likewise.

    Raises:
        ValueError: for a group whose rho is negative or not finite.
    """

    def __init__(self, base_optimizer: torch.optim.Optimizer, rho: float, adaptive: bool) -> None:
        self.base_optimizer = base_optimizer
        # Optimizer.__init__ would build groups and state of its own; this sets up its hooks only.
        super().__setstate__({"defaults": {**base_optimizer.defaults, "rho": rho, "adaptive": adaptive}})
        self._warned_capturable_if_run_uncaptured = True
        for group in self.param_groups:
            self._complete_group(group)

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

    def parameters(self) -> Tensors:
        """All parameters, in the order of the groups."""
        return [param for group in self.param_groups for param in group["params"]]

    def gradients(self) -> Tensors:
        """The gradients that are there, in that order."""
        return with_gradients(self.parameters())[1]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients, or fill them with zeros."""
        if not set_to_none:
            super().zero_grad(set_to_none=False)
            return
        for group in self.param_groups:
            for param in group["params"]:
                param.grad = None

    def _load_base_state(self, state_dict: dict[str, Any]) -> None:
        """Load it into the base optimiser; rho and adaptive stay where the state has none."""
        radii = [(group["rho"], group["adaptive"]) for group in self.param_groups]
        self.base_optimizer.load_state_dict(state_dict)
        for group, (rho, adaptive) in zip(self.param_groups, radii, strict=True):
            group.setdefault("rho", rho)
            group.setdefault("adaptive", adaptive)
        for param, state in list(self.state.items()):
            if state.pop("old_p", None) is not None and not state:  # davda54/sam's backup; Adam wants no empty state
                del self.state[param]
