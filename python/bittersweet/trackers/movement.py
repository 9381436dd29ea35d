"""`MovementTracker`: which weights training moves away from zero, summed over all of its steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .. import _core
from ..errors import ArgumentError, Error
from ..options.scorers import Movement
from ..tensors.masks import Mask
from .base import Tracker
from .state import Layout

if TYPE_CHECKING:
    import torch

    from ..optimizers.optimizers import Optimizers
    from ..model.targets import PlanEntry

__all__ = ["MovementTracker"]

_NO_MASKS: Mapping[str, Mask] = {}


class MovementTracker(Tracker):
    """movement (Sanh et al., https://arxiv.org/abs/2005.07683): ``-sum(lr * g * w)``, one float32 per weight.

    ``accumulator -= (lr * g) * w`` runs before every ``optimizer.step()``, with the learning rate of the
    parameter's group (the other way round in a group that maximizes) and the gradient that the optimizer is
    given: accumulated and clipped. A step that a GradScaler skips is not counted, and its scale is taken out.
    A parameter without a gradient is passed over. A pruned weight is 0, so its sum stays as it was.

    Args:
        parameters, optimizer, targets, ignore: As of `CoherenceTracker`.
        hook: Whether the optimizer calls `update` by itself, until `detach`. False: call it by hand before
            ``optimizer.step()``.
    """

    scorer = Movement
    needed = 1
    follows_step = False
    roles = ("weight", "grad")

    def __init__(
        self,
        parameters: Any,
        optimizer: torch.optim.Optimizer | Optimizers,
        *,
        hook: bool = True,
        **choice: Any,
    ) -> None:
        super().__init__(parameters, optimizer, **choice)
        self._handle: Any = None
        if hook:
            if len(self._source.optimizers.outer) != 1:
                raise ArgumentError("optimizer: the movement tracker follows one optimizer. Pass the one")
            self._handle = self._source.optimizers.outer[0].register_step_pre_hook(self._before_step)

    def scores(self, missing: str = "error") -> dict[str, torch.Tensor]:
        """The sums by name, in the parameter's shape, for ``ScoreInputs(scores=...)``: the tracker's own
        memory, which the next step changes.

        Args:
            missing: A tensor that has had no gradient is an ``"error"``, or is left out (``"skip"``).

        Raises:
            MissingStateError: Naming the tensor.
        """
        return self._known(missing)

    def detach(self) -> None:
        """Removes the hook."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def answers(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for i, (entry, kept) in enumerate(zip(self._entries, self._kept, strict=True)):
            updates = int(kept["updates"]) if kept else 0
            seen = updates >= self.needed
            found[entry.name] = kept["sums"].view(entry.shape) if seen else self._missing(i, updates, "")
        return found

    def _before_step(
        self, optimizer: torch.optim.Optimizer, arguments: Any, named: Mapping[str, Any]
    ) -> None:
        if named.get("closure") is not None or any(value is not optimizer for value in arguments):
            raise Error(
                "optimizer.step(closure) computes its gradients after the movement tracker has looked at "
                "them. Call backward() first and step() without a closure"
            )
        found = getattr(optimizer, "found_inf", None)  # as GradScaler tells fused optimizers to skip
        if found is None or not bool(found):
            self._eagerly(self.observe, None, _NO_MASKS)

    def _observe(self, masks: Mapping[str, Mask]) -> None:
        if not self._ready(_NO_MASKS):
            return
        optimizers = self._source.optimizers
        scale = getattr(optimizers.inner[0], "grad_scale", None)  # as GradScaler tells them to unscale
        factor = 1.0 if scale is None else 1.0 / float(scale)
        groups, parameters = optimizers.groups(), self._source.parameters()
        rates, present = [], self._feed.present or ()
        for i in present:
            group = groups.get(id(parameters[i]), {})
            rate = factor * float(group.get("lr", 0.0))
            rates.append(-rate if group.get("maximize") else rate)
        _core.accumulate_movement(self._feed.data, self._feed.names, self._memory, rates)
        for i in present:
            self._kept[i]["updates"] += 1

    def _words(self, kept: Mapping[str, torch.Tensor]) -> list[int]:
        return [kept["sums"].data_ptr()]

    def _layout(self, entry: PlanEntry) -> Layout:
        return {"sums": ("float32", entry.numel), "updates": ("int64", 1)}
