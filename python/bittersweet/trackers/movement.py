"""`MovementTracker`: which weights training moves away from zero, summed over all of its steps."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..optimizers.hooks import listen
from ..options.scorers import Movement, check_seed
from ..options.storage import check_storage
from ..tensors.masks import WIDTH, Mask
from .base import Tracker
from .state import Layout

if TYPE_CHECKING:
    import torch

    from ..model.targets import PlanEntry
    from ..optimizers.optimizers import Optimizers

__all__ = ["MovementTracker"]

_NO_MASKS: Mapping[str, Mask] = {}
_WORDS = 4
"""That the compiled module is told of each parameter's memory."""


class MovementTracker(Tracker):
    """movement (Sanh et al., https://arxiv.org/abs/2005.07683): ``-sum(lr * g * w)``, one number per weight.

    ``sum -= (lr * g) * w`` runs, in float32, before every ``optimizer.step()``, with the learning rate of the
    parameter's group (the other way round in a group that maximizes) and the gradient that the optimizer is
    given: accumulated and clipped. A step that a GradScaler skips is not counted, and its scale is taken out.
    With ``optimizer.step(closure)`` it looks inside the step, after the closure's first evaluation. A
    parameter without a gradient is passed over. A pruned weight is 0, so its sum stays as it was.

    Args:
        parameters, optimizer, targets, ignore: As of `CoherenceTracker`.
        hook: Whether the optimizer calls `update` by itself, until `detach`. False: call it by hand before
            ``optimizer.step()``.
        storage: Of the sums: ``"float32"`` or ``"bfloat16"``, in half the memory; see `CoherenceTracker`. A
            sum of many small terms is right in the mean; rounded to nearest it would lose them.
        seed: See `CoherenceTracker`.
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
        storage: str | torch.dtype = "float32",
        seed: int = 0,
        **choice: Any,
    ) -> None:
        self.storage, self._seed = check_storage(storage), check_seed(seed)
        super().__init__(parameters, optimizer, **choice)
        self._hook = hook
        self._stepping: list[torch.optim.Optimizer] | None = None
        self._handles: list[Any] = []
        self._listen()

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        del state["_handles"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__({**state, "_handles": []})
        self._listen()

    def scores(self, missing: str = "error") -> dict[str, torch.Tensor]:
        """The sums by name, in the parameter's shape, for ``ScoreInputs(scores=...)``: the tracker's own
        memory, which the next step changes.

        Args:
            missing: A tensor that has had no gradient is an ``"error"``, or is left out (``"skip"``).

        Raises:
            MissingStateError: Naming the tensor.
        """
        return self._known(missing)

    def follow(self, optimizers: Optimizers) -> None:
        super().follow(optimizers)
        self._listen()

    def detach(self) -> None:
        """Removes the hook."""
        self._hook = False
        self._listen()

    def answers(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        counts = self._numbers("updates")
        for i, (entry, kept) in enumerate(zip(self._entries, self._kept, strict=True)):
            updates = int(counts[i]) if i in counts else 0
            seen = updates >= self.needed
            found[entry.name] = kept["sums"].view(entry.shape) if seen else self._missing(i, updates, "")
        return found

    def before_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Nothing to see yet."""

    def gradients_ready(self, optimizer: torch.optim.Optimizer, evaluation: int) -> None:
        """Takes in the gradients of this step; of a closure that is evaluated again, those of the first time,
        at the weights before the step."""
        found = getattr(optimizer, "found_inf", None)  # as GradScaler tells fused optimizers to skip
        if evaluation <= 1 and (found is None or not bool(found)):
            own = self._source.optimizers
            self._stepping = [i for i, o in zip(own.inner, own.outer, strict=True) if optimizer in (i, o)]
            self.observe(None, _NO_MASKS)
            self._stepping = None

    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Nothing to see any more."""

    def _listen(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = listen(self._source.optimizers.outer, self) if self._hook else []

    def _observe(self, masks: Mapping[str, Mask]) -> None:
        if not self._ready(_NO_MASKS):
            return
        parameters, present = self._source.parameters(), self._feed.present or []
        for optimizer in self._source.optimizers.inner:
            if self._stepping is not None and optimizer not in self._stepping:
                continue
            scale = getattr(optimizer, "grad_scale", None)  # as GradScaler tells fused ones to unscale
            factor = 1.0 if scale is None else 1.0 / float(scale)
            groups = self._source.optimizers.groups()
            if len(self._source.optimizers.inner) > 1:
                own = {id(p) for group in optimizer.param_groups for p in group["params"]}
                groups = {key: group for key, group in groups.items() if key in own}
            rows = [row for row, i in enumerate(present) if id(parameters[i]) in groups]
            rates = [factor * _rate(groups[id(parameters[present[row]])]) for row in rows]
            table, names, memory = self._feed.data, self._feed.names, self._memory
            if len(rows) < len(present):
                table = array("Q", [x for r in rows for x in table[r * WIDTH : (r + 1) * WIDTH]])
                names = [names[r] for r in rows]
                memory = array("Q", [x for r in rows for x in memory[r * _WORDS : (r + 1) * _WORDS]])
            if rows:
                self._verbs.accumulate_movement(table, names, memory, rates, self._draws)

    def _words(self, i: int) -> list[int]:
        return [*self._array(i, "sums"), self._at(i, "updates"), i]

    def _layout(self, entry: PlanEntry) -> Layout:
        return {"sums": (self.storage, entry.numel), "updates": ("int64", 1)}


def _rate(group: Mapping[str, Any]) -> float:
    rate = float(group.get("lr", 0.0))
    return -rate if group.get("maximize") else rate
