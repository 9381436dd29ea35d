"""Scorers as objects: a published name and its parameters. Plain names work wherever an object does.

Every score is keep-high, prune-low, computed in float32 from the weight `w`, Adam's `m` (``exp_avg``) and `v`
(``exp_avg_sq``), the gradient `g` or an input norm. The compiled library holds the list; `scorers()` returns
it.
"""

from __future__ import annotations

import difflib
import functools
import os
from dataclasses import dataclass, fields
from typing import ClassVar, NamedTuple

from .. import _core
from ..errors import ArgumentError
from .storage import check_storage
from .values import BELOW_ONE, FINITE, as_int, as_number, shown, shown_choice

_ELSEWHERE = {
    **dict.fromkeys(
        ("l1", "l2", "l1_norm", "l2_norm", "l1_unstructured", "l1unstructured", "global_magnitude"),
        "magnitude",
    ),
    **dict.fromkeys(("random_unstructured", "randomunstructured"), "random"),
    **dict.fromkeys(("saliency", "global_saliency", "snip"), "taylor"),
    **dict.fromkeys(("grad", "gradients"), "gradient"),
}


@dataclass(frozen=True)
class Scorer:
    """A scorer with its parameters. Subclasses say which; all are immutable and comparable."""

    name: ClassVar[str]


@dataclass(frozen=True)
class _WithEps(Scorer):
    """A scorer whose formula has an `eps`; any finite value from 0 is accepted."""

    eps: float = 1e-8

    def __post_init__(self) -> None:
        _set(self, "eps", _as_eps(self.eps))


class Magnitude(Scorer):
    """``|w|``."""

    name = "magnitude"


class Bitter1(Magnitude):
    """Published name of `Magnitude`."""

    name = "bitter1"


class Bitter2(Magnitude):
    """Published name of `Magnitude`."""

    name = "bitter2"


class Bitter0(_WithEps):
    """``|w*m| * |w| / (sqrt(v) + eps)``."""

    name = "bitter0"


class Bitter3(_WithEps):
    """``|w| * sqrt(|m| + eps)``."""

    name = "bitter3"


class Bitter4(Bitter3):
    """The score of `Bitter3`, meant for scope ``"tensor"`` with distribution ``"layer_adaptive"``."""

    name = "bitter4"


class Bitter5(_WithEps):
    """``0.1 |w| - sign(w) * m / (sqrt(v) + eps)``: weights that move away from zero score high."""

    name = "bitter5"


class Bitter6(_WithEps):
    """``|w| * sqrt(|m| + eps) * sqrt(m*m / (v + eps))``; `Bitter10z` up to the place of eps."""

    name = "bitter6"


class Bitter7(_WithEps):
    """``|w| * (|v| + eps)^(1/4)``, the fourth root as two square roots; ``eps=0`` is sound."""

    name = "bitter7"


class Bitter8(_WithEps):
    """``|w| * rsqrt(rsqrt(|v| + eps))`` in float32 registers, whatever the storage."""

    name = "bitter8"


class Bitter9(Bitter8):
    """The score of `Bitter8` as one fused pass (which every scorer here is)."""

    name = "bitter9"


class Bitter8BiasCorrected(_WithEps):
    """``|w| * sqrt(|m / (1 - beta1^t)| + eps)``; ranks like `Bitter3` where all steps `t` are equal."""

    name = "bitter8_bias_corrected"


class Bitter9Hybrid(_WithEps):
    """``|w| * sqrt(|m| + eps) - 0.1 * sign(w) * m / (sqrt(v) + eps)``."""

    name = "bitter9_hybrid"


@dataclass(frozen=True)
class Bitter10z(_WithEps):
    """``|w| * sqrt(|m| + eps) * |m| / (sqrt(v) + eps)``."""

    name = "bitter10z"
    eps: float = 1e-12


class Bitter5Published(_WithEps):
    """`Bitter5` with the published sign, which rewards weights that move toward zero. For comparison only."""

    name = "bitter5_published"


class Bitter9HybridPublished(_WithEps):
    """`Bitter9Hybrid` with the published sign. For comparison only."""

    name = "bitter9_hybrid_published"


class Bitter8Published(_WithEps):
    """`Bitter8` with every operation rounded to float16. For comparison only: eps 1e-8 is 0 there."""

    name = "bitter8_published"


_POWERS = "0.5, 0.25, 0.125 (powers by repeated square roots)"


@dataclass(frozen=True)
class AdamVariance(_WithEps):
    """``|w| * (|v| + eps)^q`` with q = 0.5 (ranks like Adam-Fisher), 0.25 (`Bitter7`) or 0.125."""

    name = "adam_variance"
    eps: float = 0.0
    q: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        q = as_number("q", self.q, 0.125, 0.5, _POWERS)
        if q not in (0.5, 0.25, 0.125):
            raise ArgumentError(f"q: {shown(self.q)}; accepted: {_POWERS}")
        _set(self, "q", q)


class Wanda(Scorer):
    """``|w_ij| * norm_j`` with given norms of the input features; its comparison group is scope ``"row"``."""

    name = "wanda"


class Gradient(Scorer):
    """``|g|``."""

    name = "gradient"


class Taylor(Scorer):
    """``|w * g|``."""

    name = "taylor"


@dataclass(frozen=True)
class Random(Scorer):
    """Uniform in [0, 1) from the seed and the element's position in the whole list of tensors.

    ``seed=None`` takes the seed of the call.
    """

    name = "random"
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.seed is not None:
            _set(self, "seed", check_seed(self.seed))


class Identity(Scorer):
    """Scores that the caller computed, by their value (``ScoreInputs(scores=...)``)."""

    name = "identity"


@dataclass(frozen=True)
class Bitter10(_WithEps):
    """`Bitter3` times the temporal coherence of its tensor, from a `CoherenceTracker`; two extra copies, kept
    as `storage` says there.

    The modifier of a tensor is ``max(floor, alpha * p(1 - flip)^a * p(direction)^b * p(retention)^c / (1 + d
    * jitter))`` with ``p(x) = max(x, floor)``: flip is the share of weights whose step changes sign,
    direction the cosine between a step and the steps before it, retention ``cos(-exp_avg, weight)``, jitter
    the relative variance of the step sizes. Exponents are multiples of 1/4; `decay` is that of the moving
    averages; retention has none, it is that of now.
    """

    name = "bitter10"
    eps: float = 1e-12
    alpha: float = 1.0
    a: float = 1.0
    b: float = 1.0
    c: float = 1.0
    d: float = 1.0
    floor: float = 0.05
    decay: float = 0.9
    storage: str = "float32"

    def __post_init__(self) -> None:
        super().__post_init__()
        _coherence(self)
        _set(self, "storage", check_storage(self.storage))


@dataclass(frozen=True)
class Bitter10s(_WithEps):
    """`Bitter10` from a sketch: 64 fixed places of `exp_avg` per tensor (`SketchTracker`), without retention.

    Flip and direction compare `exp_avg` with the step before, jitter is that of ``sqrt(exp_avg_sq)``.
    ``seed=None`` takes the seed of the call.
    """

    name = "bitter10s"
    eps: float = 1e-12
    alpha: float = 1.0
    a: float = 1.0
    b: float = 1.0
    d: float = 1.0
    floor: float = 0.05
    decay: float = 0.9
    seed: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _coherence(self)
        if self.seed is not None:
            _set(self, "seed", check_seed(self.seed))


@dataclass(frozen=True)
class Bitter10c(_WithEps):
    """`Bitter3` times the coherence since a snapshot of the weights, taken every `every` steps.

    The modifier of a tensor is ``max(cos(-exp_avg, weight - snapshot), floor) / (1 + jitter of
    sqrt(exp_avg_sq))``. The snapshot, of dtype `storage`, lies in memory, or in the file `path` (see
    `SnapshotTracker`).
    """

    name = "bitter10c"
    eps: float = 1e-12
    every: int = 100
    floor: float = 0.05
    path: str | None = None
    storage: str = "float32"

    def __post_init__(self) -> None:
        super().__post_init__()
        _set(self, "every", as_int("every", self.every, 1, 2**62, "a number of steps from 1"))
        _set(self, "floor", as_number("floor", self.floor, 0.0, 1.0))
        if self.path is not None:
            _set(self, "path", _as_path(self.path))
        _set(self, "storage", check_storage(self.storage))


@dataclass(frozen=True)
class Movement(Scorer):
    """``-sum(lr * g * w)`` over the optimizer's steps so far (`MovementTracker`), by its value; sums of dtype
    `storage`."""

    name = "movement"
    storage: str = "float32"

    def __post_init__(self) -> None:
        _set(self, "storage", check_storage(self.storage))


class ScorerCall(NamedTuple):
    """A resolved scorer: its name as given, the tuple the compiled module takes, and the columns it reads."""

    name: str
    eps: float | None
    spec: tuple[str, float | None, float | None, int]
    reads: frozenset[str]


def scorers() -> list[str]:
    """The names of all scorers, aliases included."""
    return list(scorer_rows())


@functools.cache
def scorer_rows() -> dict[str, _core.ScorerRow]:
    """The compiled library's list of scorers, by name."""
    return {row["name"]: row for row in _core.scorer_table()}


def resolve_scorer(scorer: str | Scorer, eps: float | None, seed: int) -> ScorerCall:
    """Turns a name or an object into a call; raises ArgumentError for what the scorer does not know."""
    seed = check_seed(seed)
    if isinstance(scorer, Scorer):
        if eps is not None:
            raise ArgumentError(f"eps: {shown(eps)} was given beside {scorer!r}; put it into the object")
        given = {field.name: getattr(scorer, field.name) for field in fields(scorer)}
        name, q = scorer.name, given.get("q")
        eps, own_seed = given.get("eps"), given.get("seed")
        seed = seed if own_seed is None else own_seed
    elif isinstance(scorer, str):
        name, q = str(scorer), None
    else:
        raise ArgumentError(
            f"scorer: {shown_choice(scorer, Scorer)}; accepted: a scorer object, or one of the names "
            f"{', '.join(scorers())}"
        )
    row = scorer_rows().get(name)
    if row is None:
        raise ArgumentError(
            f"scorer: no scorer is called '{name}'{_meant(name)}; known names: {', '.join(scorers())}"
        )
    if row["default_eps"] is None and eps is not None:
        raise ArgumentError(f"eps: scorer '{name}' ({row['formula']}) has no eps; leave it out")
    if eps is not None:
        eps = _as_eps(eps)
    effective = row["default_eps"] if eps is None else eps
    return ScorerCall(name, effective, (name, eps, q, seed), frozenset(row["reads"]))


def _meant(name: str) -> str:
    """Which scorer others call so, or which name is nearest; empty if that cannot be told."""
    name, ours = name.lower(), _ELSEWHERE.get(name.lower())
    if ours is None and not (
        name.startswith("bitter") and name not in scorers()
    ):  # one digit is another scorer
        ours = next(iter(difflib.get_close_matches(name, scorers(), 1, 0.8)), None)
    return f" (did you mean '{ours}'?)" if ours else ""


def check_seed(seed: int) -> int:
    """The seed as a plain integer. Raises ArgumentError if it is none."""
    return as_int("seed", seed, 0, 2**63 - 1, "an integer from 0 to 2**63 - 1")


def _coherence(scorer: Bitter10 | Bitter10s) -> None:
    for argument, most in (("alpha", 1e30), ("d", 1e30), ("floor", 1.0)):
        _set(scorer, argument, as_number(argument, getattr(scorer, argument), 0.0, most))
    decay = as_number("decay", scorer.decay, 0.0, BELOW_ONE, "a number from 0 to below 1")
    _set(scorer, "decay", decay)
    for exponent in ("a", "b", "c"):
        if hasattr(scorer, exponent):
            accepted = "multiples of 1/4 from 0 to 16"
            value = as_number(exponent, getattr(scorer, exponent), 0.0, 16.0, accepted)
            if 4 * value != int(4 * value):
                raise ArgumentError(f"{exponent}: {shown(value)}; accepted: {accepted}")
            _set(scorer, exponent, value)


def _as_eps(eps: float) -> float:
    return as_number("eps", eps, 0.0, FINITE, "a finite number from 0")


def _as_path(path: str | os.PathLike[str]) -> str:
    try:
        return str(os.fsdecode(path))
    except TypeError:
        raise ArgumentError(f"path: {shown(path)}; accepted: the path of a file") from None


def _set(scorer: Scorer, argument: str, value: object) -> None:
    """Puts a plain value into a frozen scorer while it is made."""
    object.__setattr__(scorer, argument, value)


TRACKED: dict[str, type[Scorer]] = {cls.name: cls for cls in (Bitter10, Bitter10s, Bitter10c, Movement)}
"""Scorers with a memory, by name."""
