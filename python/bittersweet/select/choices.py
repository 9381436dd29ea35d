"""The choices of a selection, checked: `Options`, and what the engine takes of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..options.ranges import Ranges, checked_ranges
from ..options.scopes import Scope, resolve_scope
from ..options.scorers import Scorer, check_seed
from ..options.selectors import Selector
from ..options.values import as_bool, as_fraction, as_int, one_of
from ..tensors.table import Table

if TYPE_CHECKING:
    from ..distributed.members import Members

_TIES = (None, "exact", "at_or_below", "below")
_NONFINITES = ("error", "keep")
_DISTRIBUTIONS = (None, "uniform", "erk", "layer_adaptive")


@dataclass(frozen=True)
class SelectOptions:
    """How `make_masks` selects, as it was asked, whatever the budget and the scorer."""

    scope: str | Scope
    distribution: str | None
    rounding: str
    remainder: str
    selector: str | Selector
    ties: str | None
    nonfinite: str
    seed: int
    eps: float | None
    regrow: bool
    max_tensor_sparsity: float | None
    tensor_sparsity: Any
    sync: bool


@dataclass(frozen=True)
class Options(SelectOptions):
    """The arguments of `make_masks` beside its inputs, as plain values."""

    tensor_sparsity: Ranges | None
    sparsity: float | None
    k: int | None
    scorer: str | Scorer

    def __post_init__(self) -> None:
        found: dict[str, Any] = {
            "sparsity": fraction_or_none("sparsity", self.sparsity),
            "k": count_or_none(self.k),
            "distribution": checked_distribution(self.distribution),
            "max_tensor_sparsity": fraction_or_none("max_tensor_sparsity", self.max_tensor_sparsity),
            "tensor_sparsity": checked_ranges(self.tensor_sparsity),
            "ties": checked_ties(self.ties),
            "nonfinite": checked_nonfinite(self.nonfinite),
            "seed": check_seed(self.seed),
            "regrow": as_bool("regrow", self.regrow),
            "sync": as_bool("sync", self.sync),
        }
        for name, value in found.items():
            object.__setattr__(self, name, value)

    def counts(self, whole: Table | Members) -> list[tuple[int, int]] | None:
        """How many elements of each tensor are pruned, at least and at most; None without ranges."""
        ranges = self.tensor_sparsity
        if ranges is None:
            return None
        return ranges.counts(whole.names, whole.numels, self.sparsity, self.k)


def decision_arguments(options: Options, counts: list[tuple[int, int]] | None) -> dict[str, Any]:
    """The keyword arguments of `_core.make_masks` but for the budget's."""
    scope = resolve_scope(options.scope, options.rounding, options.remainder)
    return {
        "scope": scope.text,
        "distribution": options.distribution,
        "rounding": scope.rounding,
        "remainder": scope.remainder,
        "max_tensor_sparsity": options.max_tensor_sparsity,
        "tensor_sparsity": counts,
        "ties": options.ties,
        "nonfinite": options.nonfinite,
        "seed": options.seed,
        "regrow": options.regrow,
    }


def global_arguments(ties: str | None, nonfinite: str, seed: int, regrow: bool) -> dict[str, Any]:
    """The same for one threshold over everything."""
    return {
        "scope": "global",
        "distribution": None,
        "rounding": "nearest",
        "remainder": "error",
        "max_tensor_sparsity": None,
        "tensor_sparsity": None,
        "ties": ties,
        "nonfinite": nonfinite,
        "seed": seed,
        "regrow": regrow,
    }


def fraction_or_none(argument: str, value: float | None) -> float | None:
    return None if value is None else as_fraction(argument, value)


def count_or_none(k: int | None) -> int | None:
    return None if k is None else as_int("k", k, -(2**63), 2**63 - 1, "an integer count")


def checked_ties(ties: str | None) -> str | None:
    return one_of("ties", ties, _TIES)


def checked_nonfinite(nonfinite: str) -> str:
    return one_of("nonfinite", nonfinite, _NONFINITES)


def checked_distribution(distribution: str | None) -> str | None:
    return one_of("distribution", distribution, _DISTRIBUTIONS)
