"""Regrowth: how pruned weights come back by another score than the one that lets weights go."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from ..errors import ArgumentError
from .scorers import check_seed
from .values import as_bool, as_fraction, as_int, one_of, shown

__all__ = ["SET", "Regrowth", "RigL", "checked_regrowth"]

_DECAYS = ("cosine", "linear", "constant")


@dataclass(frozen=True)
class Regrowth:
    """What is dropped at an event beyond the budget, and by which score as many places are opened instead:
    the base of `RigL`, which has the contract, and `SET`."""

    drop_fraction: float = 0.3
    decay: str = "cosine"
    begin: int = 0
    end: int | None = None
    allow_same: bool = True

    grows_by: ClassVar[str] = ""
    reads: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        if not self.grows_by:
            raise ArgumentError("regrow: Regrowth says not what to grow by; use RigL or SET")
        _set(self, "drop_fraction", as_fraction("drop_fraction", self.drop_fraction))
        _set(self, "decay", one_of("decay", self.decay, _DECAYS))
        _set(self, "begin", as_int("begin", self.begin, 0, what="a step from 0"))
        _set(self, "allow_same", as_bool("allow_same", self.allow_same))
        if self.end is not None:
            what = f"a step after begin ({self.begin}), or None for the schedule's end"
            _set(self, "end", as_int("end", self.end, self.begin + 1, what=what))

    def fraction(self, step: int, end: int | None) -> float:
        """The share of the live weights to be dropped at `step`; `end` is that of the schedule, None if it
        has none."""
        end = end if self.end is None and self.decay != "constant" else self.end
        if end is None:
            return self.drop_fraction
        if step >= end:
            return 0.0
        done = max(step - self.begin, 0) / (end - self.begin)
        if self.decay == "cosine":
            return self.drop_fraction / 2.0 * (1.0 + math.cos(math.pi * done))
        return self.drop_fraction * (1.0 - done) if self.decay == "linear" else self.drop_fraction

    def require_end(self, end: int | None) -> None:
        """Raises ArgumentError if the drop fraction is to decay and nothing says until when, or it would be 0
        before it begins; `end` is that of the schedule."""
        if self.end is None and end is not None and self.decay != "constant" and end <= self.begin:
            raise ArgumentError(
                f"regrow: {self!r} begins at step {self.begin:,}, and the schedule ends at step {end:,}. "
                "Begin earlier, or give an end"
            )
        if self.decay != "constant" and self.end is None and end is None:
            raise ArgumentError(
                f"regrow: {self!r} lets the drop fraction decay until the end of the schedule, and this "
                f"schedule names none. Pass end=step, or decay='constant'"
            )

    def to_config(self) -> dict[str, Any]:
        """The kind and the parameters, as plain values."""
        return {"kind": type(self).__name__, **asdict(self)}


@dataclass(frozen=True)
class RigL(Regrowth):
    """Weights come back by ``|gradient|``: ``Pruner(..., regrow=RigL())``. The dense gradient that
    ``backward()`` left for the step of the event is read at events alone, where it is, and never stored.

    At an event with budget K (live weights after it) and ``a`` live weights before it, all counts exact, per
    tensor (scope ``"tensor"``) or over all of them (``"global"``):

    - of the live weights the best ``r - floor(f * r + 0.5)`` by the pruner's scorer stay, ``r = min(a, K)``;
    - of all others those with the largest gradients are opened, until K are live. Dropped ones are among
      them with `allow_same`; without, no more are dropped than there are others to open.

    Among equal scores the lower (tensor, flat index) goes first and comes back last. A NaN score of either
    kind is an error at the event. An opened weight starts from 0 with all per-element state of the optimizer
    0; one that was dropped and opened in the same event has never been away, and keeps its value and state.
    Source: Evci et al., Rigging the Lottery, 2020 (arXiv 1911.11134), where the scorer is ``"magnitude"``,
    the scope ``"tensor"`` and the distribution ``"erk"``.

    Args:
        drop_fraction: f at step `begin`, from 0 to 1.
        decay: How f falls until `end`, with x from 0 at `begin` to 1: ``"cosine"`` is ``drop_fraction / 2 *
            (1 + cos(pi * x))``, ``"linear"`` is ``drop_fraction * (1 - x)``, ``"constant"`` does not fall.
            From `end` on f is 0, but for ``"constant"`` without an `end` of its own.
        begin: A step, from 0, where it is in the paper.
        end: A later step; None: the last due step of the schedule.
        allow_same: Whether a weight may be dropped and opened in the same event, as in the paper and its
            code.

    Raises:
        ArgumentError: A value outside these ranges.
    """

    grows_by: ClassVar[str] = "gradient"
    reads: ClassVar[frozenset[str]] = frozenset(("grad",))


@dataclass(frozen=True)
class SET(Regrowth):
    """Weights come back at random, uniformly among all places that are not live, anew at each event:
    ``Pruner(..., regrow=SET())``. Otherwise as `RigL`; the drop fraction is constant by default.

    Numbers come from `seed`, the step of the event and the position of the weight, so that a resumed run
    draws the same. Source: Mocanu et al., 2018 (arXiv 1707.04780), with weights of either sign dropped by one
    threshold.

    Args:
        drop_fraction, decay, begin, end, allow_same: As `RigL` has them.
        seed: 0 to 2**63 - 1; None: that of the pruner.

    Raises:
        ArgumentError: A value outside these ranges.
    """

    decay: str = "constant"
    seed: int | None = None

    grows_by: ClassVar[str] = "random"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.seed is not None:
            _set(self, "seed", check_seed(self.seed))


def checked_regrowth(value: Any) -> bool | Regrowth:
    """What `Pruner` takes as `regrow`. Raises ArgumentError for anything else."""
    if isinstance(value, Regrowth):
        return value
    try:
        return as_bool("regrow", value)
    except ArgumentError:
        found = f"the class {value.__name__}" if isinstance(value, type) else shown(value)
        raise ArgumentError(
            f"regrow: {found}; accepted: False, True, or an object: RigL(drop_fraction=0.3), "
            "SET(drop_fraction=0.3)"
        ) from None


def _set(regrowth: Regrowth, argument: str, value: object) -> None:
    """Puts a plain value into a frozen object while it is made."""
    object.__setattr__(regrowth, argument, value)
