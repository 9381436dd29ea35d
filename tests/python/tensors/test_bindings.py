"""The compiled module by itself: addresses and sizes that cannot be right are errors, never a crash."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import Any

import bittersweet as bs
import numpy as np
import pytest
from bittersweet import _core
from bittersweet.tensors.masks import COLUMN, WIDTH

NUMEL = 70
WEIGHT = np.arange(1.0, NUMEL + 1, dtype=np.float32)
FLOATS = np.zeros(NUMEL, np.float32)
WORDS = np.full(2, 2**64 - 1, np.uint64) >> np.array([0, 58], np.uint64)
SCALARS = np.zeros(_core.COHERENCE_WIDTH)
POSITIONS = np.arange(0, 64, dtype=np.int64)
MAGNITUDE = ("magnitude", None, None, 0)


def at(values: Any) -> int:
    return int(values.ctypes.data)


def table(**changed: int) -> array[int]:
    """One row of a weight that also plays each other part, with some columns changed."""
    row = array("Q", bytes(8 * WIDTH))
    for role in ("weight", "exp_avg", "exp_avg_sq", "grad"):
        row[COLUMN[role]], row[COLUMN[f"{role}_dtype"]] = at(WEIGHT), 1
    geometry = {
        "numel": NUMEL,
        "rows": 1,
        "inputs": NUMEL,
        "inner": 1,
        "row_stride": NUMEL,
        "input_stride": 1,
        "blocks": 1,
    }
    one = {"modifier": 0x3F800000, "bias_correction1": 0x3F800000, "dimension_sum": NUMEL}
    for name, value in {**geometry, **one, "mask": at(WORDS), **changed}.items():
        row[COLUMN[name]] = value % 2**64
    return row


def words(*values: int) -> array[int]:
    return array("Q", values)


CALLS: dict[str, Callable[[], Any]] = {
    "scores to nowhere": lambda: _core.write_scores(table(), ["w"], MAGNITUDE, words(0)),
    "scores between floats": lambda: _core.write_scores(table(), ["w"], MAGNITUDE, words(at(FLOATS) + 1)),
    "scores without a place": lambda: _core.write_scores(table(), ["w"], MAGNITUDE, words()),
    "scores of nothing": lambda: _core.write_scores(table(weight=0), ["w"], MAGNITUDE, words(at(FLOATS))),
    "an odd dtype": lambda: _core.write_scores(table(weight_dtype=9), ["w"], MAGNITUDE, words(at(FLOATS))),
    "no dtype": lambda: _core.write_scores(table(weight_dtype=0), ["w"], MAGNITUDE, words(at(FLOATS))),
    "a negative size": lambda: _core.count_live(table(numel=-5), COLUMN["mask"]),
    "half a row": lambda: _core.count_live(table()[:7], COLUMN["mask"]),
    "a column of no masks": lambda: _core.count_live(table(), COLUMN["numel"]),
    "a mask between words": lambda: _core.count_live(table(mask=at(WORDS) + 4), COLUMN["mask"]),
    "a new mask between words": lambda: _core.apply_masks(
        table(new_mask=at(WORDS) + 1), COLUMN["new_mask"], 1
    ),
    "packing nothing": lambda: _core.pack_mask(0, NUMEL, at(WORDS)),
    "packing to nowhere": lambda: _core.pack_mask(at(FLOATS), NUMEL, 0),
    "packing less than nothing": lambda: _core.pack_mask(at(FLOATS), -1, at(WORDS)),
    "unpacking nothing": lambda: _core.unpack_mask(0, NUMEL, at(FLOATS)),
    "unpacking to nowhere": lambda: _core.unpack_mask(at(WORDS), NUMEL, 0),
    "coherence in no memory": lambda: _core.track_coherence(
        table(), ["w"], words(0, 1, at(FLOATS), 1, at(SCALARS), 0), 0.9, 0
    ),
    "coherence without averages": lambda: _core.track_coherence(
        table(), ["w"], words(at(FLOATS), 3, 0, 3, at(SCALARS), 0), 0.9, 0
    ),
    "coherence without scalars": lambda: _core.track_coherence(
        table(), ["w"], words(at(FLOATS), 1, at(FLOATS), 1, 0, 0), 0.9, 0
    ),
    "coherence in too little": lambda: _core.track_coherence(table(), ["w"], words(at(FLOATS), 1), 0.9, 0),
    "coherence in halves": lambda: _core.track_coherence(
        table(), ["w"], words(at(FLOATS), 1, at(FLOATS), 2, at(SCALARS), 0), 0.9, 0
    ),
    "coherence beyond all streams": lambda: _core.track_coherence(
        table(), ["w"], words(at(FLOATS), 3, at(FLOATS), 3, at(SCALARS), 2**32), 0.9, 0
    ),
    "retention of nothing": lambda: _core.measure_retention(table(), ["w"], words(0, 1)),
    "retention of no dtype": lambda: _core.measure_retention(table(), ["w"], words(at(FLOATS), 0)),
    "a sketch nowhere": lambda: _core.track_sketch(
        table(), ["w"], words(0, 64, at(FLOATS), at(SCALARS)), 0.9
    ),
    "a sketch of less than nothing": lambda: _core.track_sketch(
        table(), ["w"], words(at(POSITIONS), 2**64 - 1, at(FLOATS), at(SCALARS)), 0.9
    ),
    "a sketch of more than all": lambda: _core.track_sketch(
        table(), ["w"], words(at(POSITIONS), 2**40, at(FLOATS), at(SCALARS)), 0.9
    ),
    "a sketch beyond the tensor": lambda: _core.track_sketch(
        table(numel=62), ["w"], words(at(POSITIONS) + 8, 62, at(FLOATS), at(SCALARS)), 0.9
    ),
    "a snapshot of nothing": lambda: _core.compare_snapshot(table(), ["w"], words(0, 1, at(SCALARS))),
    "a snapshot without scalars": lambda: _core.compare_snapshot(table(), ["w"], words(at(FLOATS), 3, 0)),
    "movement to nowhere": lambda: _core.accumulate_movement(
        table(), ["w"], words(0, 1, at(POSITIONS), 0), [0.1], 0
    ),
    "movement between floats": lambda: _core.accumulate_movement(
        table(), ["w"], words(at(FLOATS) + 2, 1, at(POSITIONS), 0), [0.1], 0
    ),
    "movement between halves": lambda: _core.accumulate_movement(
        table(), ["w"], words(at(FLOATS) + 1, 3, at(POSITIONS), 0), [0.1], 0
    ),
    "movement that is not counted": lambda: _core.accumulate_movement(
        table(), ["w"], words(at(FLOATS), 1, 0, 0), [0.1], 0
    ),
    "movement without a rate": lambda: _core.accumulate_movement(
        table(), ["w"], words(at(FLOATS), 1, at(POSITIONS), 0), [], 0
    ),
    "modifiers of nothing": lambda: _core.coherence_modifiers(words(0), [0.0], 1, 4, 4, 4, 1, 0.05),
    "modifiers between doubles": lambda: _core.snapshot_modifiers(words(at(SCALARS) + 4), 0.05),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_what_cannot_be_right_is_an_error(call: Callable[[], Any]) -> None:
    with pytest.raises(bs.Error):
        call()


def test_the_same_calls_with_sound_memory_work() -> None:
    """So that it is the change that each of them is refused for."""
    _core.write_scores(table(), ["w"], MAGNITUDE, words(at(FLOATS)))
    assert np.array_equal(FLOATS, WEIGHT)
    assert _core.count_live(table(), COLUMN["mask"]) == [NUMEL]
    assert _core.count_live(table(numel=0, weight=0, mask=0), COLUMN["mask"]) == [0]
    keep = np.ones(NUMEL, bool)
    packed = np.zeros(2, np.uint64)
    _core.pack_mask(at(keep), NUMEL, at(packed))
    assert np.array_equal(packed, WORDS)
    _core.pack_mask(0, 0, 0)
    _core.unpack_mask(0, 0, 0)
    average = np.zeros(NUMEL, np.float32)
    for dtype in (1, 3):
        memory = words(at(FLOATS), dtype, at(average), dtype, at(SCALARS), 0)
        _core.track_coherence(table(), ["w"], memory, 0.9, 0)
        _core.measure_retention(table(), ["w"], words(at(FLOATS), dtype))
        _core.compare_snapshot(table(), ["w"], words(at(FLOATS), dtype, at(SCALARS)))
        updates = np.zeros(1, np.int64)
        _core.accumulate_movement(table(), ["w"], words(at(FLOATS), dtype, at(updates), 0), [0.1], 0)
        assert updates[0] == 1
    _core.track_sketch(table(), ["w"], words(at(POSITIONS), 64, at(FLOATS), at(SCALARS)), 0.9)
    assert len(_core.coherence_modifiers(words(at(SCALARS)), [0.0], 1, 4, 4, 4, 1, 0.05)) == 1
