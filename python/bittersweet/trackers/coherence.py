"""Scorers with a memory: what training did to each tensor, observed once a step and kept by parameter name.

`CoherenceTracker` is bitter10's, `SketchTracker` bitter10s's. (`SnapshotTracker`, of bitter10c, and
`MovementTracker` have files of their own.) A `Pruner` with such a scorer feeds its own. Alone, call `update`
once after every ``optimizer.step()`` and put `modifiers` into `ScoreInputs`. Weights, gradients and optimizer
state are never written. The same training gives the same bits for any number of threads and instruction set,
and a run resumed from `state_dict` those of one that was not interrupted.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .. import _core
from ..errors import CheckpointError
from ..options.scorers import Bitter10, Bitter10s, check_seed
from ..options.storage import check_storage
from ..tensors.masks import WIDTH
from ..tensors.owned import address_of
from .base import ModifierTracker
from .feeding import Feed
from .state import Layout, Restored
from .verbs import verbs_of

if TYPE_CHECKING:
    import torch

    from ..model.targets import PlanEntry
    from ..optimizers.optimizers import Optimizers
    from ..tensors.masks import Mask

__all__ = ["CoherenceTracker", "SketchTracker"]


class CoherenceTracker(ModifierTracker):
    """bitter10: how steadily each tensor moves. Keeps two copies of every tracked parameter.

    An update reads the weights and these copies. The first remembers the weights, the second sees a step, the
    third compares two. What has no meaning in a step (nothing moved, nothing is live, a number is not finite)
    leaves its average as it was. Retention alone is no average: `modifiers` reads it off `exp_avg` and the
    remembered weights, so what was dead at the last update takes no part; it is 0 where it has no meaning.
    In float16 and bfloat16 weights most steps are below the rounding: keep float32 weights for this tracker.

    Args:
        parameters, optimizer, targets, ignore: See `update` and `find_targets`. A model, or named parameters
            (a mapping or pairs); the optimizer keeps `exp_avg`.
        alpha, a, b, c, d, floor, decay: See `Bitter10`.
        storage: ``"float32"`` or ``"bfloat16"``, or torch's dtypes. With bfloat16 the average of steps takes
            half its memory, and so do remembered weights that are bfloat16; others are remembered as float32,
            or steps would drown in the rounding. What is stored as bfloat16 is computed in float32 and
            rounded stochastically (`stochastic_round_`), so that a small change counts in the mean.
        seed: Of the random bits, which are drawn by seed, number of the update, position in `names` and
            element. The saved state has the seed; a `Pruner` gives its own.
    """

    scorer = Bitter10
    needed = 3
    roles = ("weight", "exp_avg")

    def __init__(
        self,
        parameters: Any,
        optimizer: torch.optim.Optimizer | Optimizers,
        *,
        alpha: float = 1.0,
        a: float = 1.0,
        b: float = 1.0,
        c: float = 1.0,
        d: float = 1.0,
        floor: float = 0.05,
        decay: float = 0.9,
        storage: str | torch.dtype = "float32",
        seed: int = 0,
        **choice: Any,
    ) -> None:
        self._parameters = Bitter10(alpha=alpha, a=a, b=b, c=c, d=d, floor=floor, decay=decay)
        self.storage, self._seed = check_storage(storage), check_seed(seed)
        super().__init__(parameters, optimizer, **choice)
        self._feed = Feed(self._source, ("weight",))
        self._momentum = Feed(self._source, ("exp_avg",))

    def answers(self) -> dict[str, Any]:
        c = self._parameters.c
        return _answers(self, self._parameters, c, self._retention() if c else None)

    def _retention(self) -> dict[int, float]:
        """Of those with a history and, now, an `exp_avg`, by position."""
        self._momentum.refresh({})
        device = self._momentum.device
        rows = {i: row for row, i in enumerate(self._momentum.present or ()) if self._kept[i]}
        table = array("Q")
        for row in rows.values():
            table += self._momentum.data[row * WIDTH : (row + 1) * WIDTH]
        memory = array("Q", [word for i in rows for word in self._array(i, "previous", device)])
        found = verbs_of(device).measure_retention(table, [self.names[i] for i in rows], memory)
        return dict(zip(rows, found, strict=True))

    def _observe(self, masks: Mapping[str, Mask]) -> None:
        if self._ready(masks):
            table, names, decay = self._feed.data, self._feed.names, self._parameters.decay
            self._verbs.track_coherence(table, names, self._memory, decay, self._draws)

    def _layout(self, entry: PlanEntry) -> Layout:
        # A bfloat16 that is near a float32 weight differs from it by more than most steps do.
        exact = self.storage if entry.dtype == "bfloat16" else "float32"
        copies = {"previous": (exact, entry.numel), "average": (self.storage, entry.numel)}
        return {**copies, **self._scalars_layout()}

    def _words(self, i: int) -> list[int]:
        return [*self._array(i, "previous"), *self._array(i, "average"), self._at(i, "scalars"), i]


class SketchTracker(ModifierTracker):
    """bitter10s: `CoherenceTracker` from 64 places of `exp_avg` and `exp_avg_sq`; 824 bytes a parameter.

    The first update remembers `exp_avg`, the second compares. The places are 8 runs of 8 neighbours (one
    cache line serves eight), one run in each of 8 equal stretches of a tensor, drawn by Philox4x32-10 from
    `seed` and the parameter's name. With most weights dead few of them are live, and averages are noisier.

    Args:
        parameters, optimizer, targets, ignore: As of `CoherenceTracker`; the optimizer keeps both moments.
        alpha, a, b, d, floor, decay, seed: See `Bitter10s`.
    """

    scorer = Bitter10s
    needed = 2
    roles = ("exp_avg", "exp_avg_sq")

    def __init__(
        self,
        parameters: Any,
        optimizer: torch.optim.Optimizer | Optimizers,
        *,
        alpha: float = 1.0,
        a: float = 1.0,
        b: float = 1.0,
        d: float = 1.0,
        floor: float = 0.05,
        decay: float = 0.9,
        seed: int = 0,
        **choice: Any,
    ) -> None:
        self._parameters = Bitter10s(alpha=alpha, a=a, b=b, d=d, floor=floor, decay=decay)
        self._seed = check_seed(seed)
        super().__init__(parameters, optimizer, **choice)

    def answers(self) -> dict[str, Any]:
        return _answers(self, self._parameters, 0.0, None)

    def checked(self, state: Mapping[str, Any], *, convert: bool = False) -> Restored:
        restored = super().checked(state, convert=convert)
        for entry, tensors in zip(self._entries, restored.tensors, strict=True):
            places = tensors.get("positions")
            if (
                places is not None
                and places.numel()
                and not 0 <= int(places.min()) <= int(places.max()) < entry.numel
            ):
                raise CheckpointError(
                    f"the saved positions of '{entry.name}' lie beyond its {entry.numel} elements; the state "
                    "is damaged"
                )
        return restored

    def _observe(self, masks: Mapping[str, Mask]) -> None:
        if self._ready(masks):
            table, names, decay = self._feed.data, self._feed.names, self._parameters.decay
            self._verbs.track_sketch(table, names, self._memory, decay)

    def _layout(self, entry: PlanEntry) -> Layout:
        count = min(_core.SKETCH_PLACES, entry.numel)
        return {"positions": ("int64", count), "previous": ("float32", count), **self._scalars_layout()}

    def _created(self, i: int) -> dict[str, torch.Tensor]:
        import torch

        kept = super()._created(i)
        entry = self._entries[i]
        places = _core.sketch_positions(entry.name, entry.numel, self._seed)
        kept["positions"].copy_(torch.tensor(places, dtype=torch.int64, device="cpu"))
        return kept

    def _words(self, i: int) -> list[int]:
        positions, *others = super()._words(i)
        return [positions, self._kept[i]["positions"].numel(), *others]


def _answers(
    tracker: ModifierTracker, p: Bitter10 | Bitter10s, c: float, retention: Mapping[int, float] | None
) -> dict[str, Any]:
    rows = tracker._numbers("scalars")
    a, b, c = (int(4 * exponent) for exponent in (p.a, p.b, c))
    width = _core.COHERENCE_WIDTH
    addresses = array("Q", [address_of(row, "float64", width, "scalars") for row in rows.values()])
    retained = [(retention or {}).get(i, 0.0) for i in rows]
    values = _core.coherence_modifiers(addresses, retained, p.alpha, a, b, c, p.d, p.floor)
    used = {"flip": a, "direction": b, "jitter": p.d}
    answers: dict[str, Any] = tracker._judge(rows, values, [name for name, weight in used.items() if weight])
    for i, row in rows.items():
        if retention is not None and i not in retention:
            why = "the optimizer keeps no exp_avg for it now"
            answers[tracker.names[i]] = tracker._missing(i, int(row[0]), why)
    return answers
