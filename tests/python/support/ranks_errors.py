"""Everything that can be wrong on one rank of a decision, and what all ranks then raise."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import bittersweet as bs
import numpy as np

ROWS, COLUMNS = 12, 10


def whole() -> dict[str, np.ndarray[Any, Any]]:
    """The arrays of the whole weight, and of a small one of which every rank has a copy."""
    rng = np.random.default_rng(4)
    arrays = {name: rng.standard_normal((ROWS, COLUMNS)).astype(np.float32) for name in ("weight", "exp_avg")}
    arrays["exp_avg_sq"] = rng.random((ROWS, COLUMNS)).astype(np.float32)
    arrays["copied"] = rng.standard_normal((3, 4)).astype(np.float32)
    return arrays


def rows(rank: int, size: int) -> tuple[int, int]:
    """Those that a rank holds."""
    return ROWS * rank // size, ROWS * (rank + 1) // size


def inputs(rank: int, size: int) -> list[bs.ScoreInputs]:
    """What a rank gives: rows of one weight, and a copy of another."""
    arrays, (low, high) = whole(), rows(rank, size)
    return [
        bs.ScoreInputs(
            arrays["weight"][low:high].copy(),
            exp_avg_sq=arrays["exp_avg_sq"][low:high].copy(),
            name="split",
            shard=bs.Shard((ROWS, COLUMNS), (low, 0)),
        ),
        bs.ScoreInputs(arrays["copied"].copy(), exp_avg_sq=np.abs(arrays["copied"]), name="copied"),
    ]


def expected(**options: Any) -> bs.Masks:
    """The masks of one process."""
    arrays = whole()
    items = [
        bs.ScoreInputs(arrays["weight"], exp_avg_sq=arrays["exp_avg_sq"], name="split"),
        bs.ScoreInputs(arrays["copied"], exp_avg_sq=np.abs(arrays["copied"]), name="copied"),
    ]
    return bs.make_masks(items, **options)


OPTIONS: dict[str, Any] = {"sparsity": 0.5, "scorer": "bitter7"}


@dataclass
class Fault:
    """What is wrong on one rank, and the error of all; `told` where others quote the rank that had it."""

    name: str
    error: type[Exception]
    said: str
    items: Callable[[list[bs.ScoreInputs]], Any] = lambda items: items
    options: Callable[[dict[str, Any]], dict[str, Any]] = lambda options: options
    told: bool = True


def _set(**changes: Any) -> Callable[[list[bs.ScoreInputs]], list[bs.ScoreInputs]]:
    return lambda items: [replace(items[0], **changes), *items[1:]]


def _fill(argument: str, value: float) -> Callable[[list[bs.ScoreInputs]], list[bs.ScoreInputs]]:
    def change(items: list[bs.ScoreInputs]) -> list[bs.ScoreInputs]:
        getattr(items[0], argument).flat[-1] = value
        return items

    return change


def _copied(items: list[bs.ScoreInputs]) -> list[bs.ScoreInputs]:
    items[1].weight.flat[:] = items[1].weight.flat[::-1].copy()
    items[1].exp_avg_sq.flat[:] = items[1].exp_avg_sq.flat[::-1].copy()
    return items


def _option(**changes: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda options: {
        name: value for name, value in {**options, **changes}.items() if value is not None
    }


WHOLE = bs.Shard((ROWS, COLUMNS), (0, 0))


def _here(items: list[bs.ScoreInputs]) -> bs.Shard:
    assert items[0].shard is not None
    return items[0].shard


OWN = [  # what one rank has by itself
    Fault("no state", bs.MissingStateError, "exp_avg_sq of 'split' is missing", _set(exp_avg_sq=None)),
    Fault("no weight", bs.ArgumentError, "weight of 'split': found None", _set(weight=None)),
    Fault(
        "float64",
        bs.DTypeError,
        "has dtype float64",
        lambda items: _set(weight=items[0].weight.astype(float))(items),
    ),
    Fault(
        "expanded",
        bs.LayoutError,
        "overlaps itself",
        lambda items: _set(exp_avg_sq=np.broadcast_to(np.float32(1), items[0].weight.shape))(items),
    ),
    Fault(
        "sizes",
        bs.ShapeError,
        "they must be equal",
        lambda items: _set(exp_avg_sq=items[0].weight[:1, :1])(items),
    ),
    Fault(
        "leaves the whole",
        bs.ShapeError,
        "does not lie within",
        _set(shard=replace(WHOLE, offset=(ROWS, 0))),
    ),
    Fault("not a list", bs.ArgumentError, "inputs: found int", lambda items: [*items, 3]),
    Fault("one name twice", bs.ArgumentError, "given to two tensors", lambda items: [*items, items[1]]),
    Fault("no fraction", bs.ArgumentError, "sparsity: 2", options=_option(sparsity=2)),
    Fault("no scorer", bs.ArgumentError, "no scorer is called", options=_option(scorer="bitter77")),
    Fault("a selector", bs.ArgumentError, "'sampling' over ranks", options=_option(selector="sampling")),
]
PARTS = [  # what does not fit together
    Fault(
        "another shape",
        bs.ShapeError,
        "'split' has shape",
        lambda items: _set(shard=replace(_here(items), shape=(ROWS + 1, COLUMNS)))(items),
    ),
    Fault("no part", bs.ShapeError, "no rank holds .*'split'", lambda items: items[1:]),
    Fault(
        "another part",
        bs.ShapeError,
        "'split'",
        lambda items: _set(shard=replace(_here(items), offset=(abs(_here(items).offset[0] - 1), 0)))(items),
    ),
    Fault(
        "half precision",
        bs.DTypeError,
        "dtype of 'copied' is float",
        lambda items: [items[0], replace(items[1], weight=items[1].weight.astype(np.float16))],
    ),
    Fault("NaN", bs.NonFiniteScoreError, "NaN", _fill("weight", float("nan"))),
    Fault("NaN in the state", bs.NonFiniteScoreError, "NaN", _fill("exp_avg_sq", float("nan"))),
    Fault("another copy", bs.ReplicasDiffer, "'copied'", _copied),
]
OPTION: list[tuple[str, dict[str, Any]]] = [  # what ranks say differently, and what names it
    ("sparsity: 0.", {"sparsity": 0.6}),
    ("sparsity: ", {"sparsity": None, "k": 50}),
    ("scorer: ", {"scorer": "magnitude"}),
    ("scorer: .*1e-06", {"eps": 1e-6}),
    ("s", {"seed": 1}),
    ("ties: ", {"ties": "below"}),
    ("nonfinite: ", {"nonfinite": "keep"}),
    ("regrow: ", {"regrow": True}),
    ("scope: ", {"scope": "tensor"}),
    ("max_tensor_sparsity: ", {"max_tensor_sparsity": 0.9}),
    ("tensor_sparsity: ", {"tensor_sparsity": {"*": (0, 0.9)}}),
]
FAULTS = [
    *OWN,
    *(replace(fault, told=False) for fault in PARTS),
    *(
        Fault(
            f"another {' and '.join(given)}",
            bs.RanksDisagree,
            f"about {said}",
            options=_option(**given),
            told=False,
        )
        for said, given in OPTION
    ),
]


def require_raised(fault: Fault, found: list[BaseException], where: int) -> None:
    """That all ranks raised what belongs to a fault of one."""
    for rank, error in enumerate(found):
        assert type(error) is fault.error, (fault.name, rank, error)
        assert re.search(fault.said, str(error)), (fault.name, rank, str(error))
        told = fault.told and rank != where
        assert str(error).startswith(f"on rank {where}: ") == told, (fault.name, rank, str(error))
    if not fault.told:
        assert len({str(error) for error in found}) == 1, [str(error) for error in found]
