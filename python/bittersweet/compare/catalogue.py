"""Which scorers take part, and for what reason others do not. The library's own list decides the names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bittersweet.demo.plan import DemoError
from bittersweet.options.scorers import scorer_rows

_HAD = frozenset(("weight", "exp_avg", "exp_avg_sq", "step", "bias_correction1", "grad", "input_norm"))
"""What frozen weights, their optimizer and calibration text can give; training can too."""
_LACKING = {
    "scores": "it takes scores that the caller computed, so that there is nothing of its own to measure"
}
GROWING = {
    "RigL": ("drop |w|, grow |g|", frozenset(("weight", "grad"))),
    "SET": ("drop |w|, grow at random", frozenset(("weight",))),
}
"""What drops by one score and grows by another, in training alone."""
_NOT_AT_ONCE = "it drops and grows weights while a model is trained"
_BITTER4 = "it has the score of bitter3; it differs in training, where Pruner gives it another scope"


@dataclass(frozen=True)
class Entry:
    """One distinct score, or a way of growing. `not_one_shot`, `not_in_training`: why it is left out; None:
    it takes part."""

    name: str
    aliases: tuple[str, ...]
    formula: str
    reads: frozenset[str]
    not_one_shot: str | None
    not_in_training: str | None

    @property
    def scope(self) -> str:
        """Who competes with whom during training: global but for those that come with a scope."""
        return {"wanda": "row", "bitter4": "tensor", **dict.fromkeys(GROWING, "tensor")}.get(
            self.name, "global"
        )

    @property
    def grows(self) -> bool:
        """Whether it drops and grows from a sparse start, instead of a score that prunes."""
        return self.name in GROWING


def entries(wanted: Sequence[str] | None, histories: Mapping[str, object]) -> list[Entry]:
    """One entry per distinct score of the library's list, in its order, then RigL and SET; of `wanted` names
    alone if given.

    A second name of a score is listed with the first. ``bitter4`` has an entry of its own, because `Pruner`
    treats it in its own way. `histories` names the scorers whose history can be fed during training.
    Raises `DemoError` for an unknown name.
    """
    rows = scorer_rows()
    first = {name: row["alias_of"] or name for name, row in rows.items()} | {"bitter4": "bitter4"}
    for name in wanted or ():
        if name not in rows and name not in GROWING:
            raise DemoError(f"--scorer {name} is unknown; choose from {', '.join([*rows, *GROWING])}")
    every = {*first.values(), *GROWING}
    chosen = {first.get(name, name) for name in wanted} if wanted else every
    found = []
    for name, row in rows.items():
        if first[name] == name and name in chosen:
            reads = frozenset(row["reads"])
            reason = None if name in histories else _unmet(reads)
            others = tuple(other for other in first if first[other] == name and other != name)
            not_one_shot = _BITTER4 if name == "bitter4" else reason
            found.append(Entry(name, others, row["formula"], reads, not_one_shot, reason))
    for name, (formula, reads) in GROWING.items():
        if name in chosen:
            found.append(Entry(name, (), formula, reads, _NOT_AT_ONCE, None))
    if not any(entry.not_one_shot is None or entry.not_in_training is None for entry in found):
        reasons = "; ".join(f"{entry.name} {entry.not_one_shot}" for entry in found)
        raise DemoError(f"--scorer: nothing is left to compare: {reasons}")
    return found


def _unmet(reads: frozenset[str]) -> str | None:
    for column in sorted(reads - _HAD):
        return _LACKING.get(column, f"it reads {column}, which nothing in this comparison records")
    return None
