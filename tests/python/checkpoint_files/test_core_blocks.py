"""The compiled face of blocks: memory, shapes and norms that do not fit together are refused, never read."""

from __future__ import annotations

from typing import Any

import bittersweet as bs
import numpy as np
import pytest
from bittersweet import _core

SPEC: Any = ("magnitude", None, None, 0)
F32, BF16 = 1, 3


@pytest.mark.parametrize(
    ("dtype", "size", "shape", "error", "message"),
    [
        (0, 96, (4, 6, 1, False), bs.DTypeError, "unknown code 0"),
        (4, 96, (4, 6, 1, False), bs.DTypeError, "unknown code 4"),
        (F32, 95, (4, 6, 1, False), bs.ShapeError, "memory of 95 bytes for 24 elements of float32"),
        (F32, 97, (4, 6, 1, False), bs.ShapeError, "memory of 97 bytes"),
        (BF16, 96, (4, 6, 1, False), bs.ShapeError, "96 bytes for 24 elements of bfloat16"),
        (F32, 0, (4, 6, 1, False), bs.ShapeError, "memory of 0 bytes"),
        (F32, 96, (-4, -6, 1, False), bs.ShapeError, "a size of -4"),
        (F32, 96, (1 << 40, 6, 1, False), bs.ShapeError, "a size of"),
        (F32, 96, (1 << 31, 1 << 31, 1 << 31, True), bs.ShapeError, "for more elements|a size of"),
        (F32, 96, (1 << 31, 1 << 31, 4, True), bs.ShapeError, "for more elements"),
    ],
)
def test_memory_and_shape(dtype: int, size: int, shape: Any, error: type, message: str) -> None:
    memory = bytearray(size)
    run = _core.BlockwisePrune(24, 0.5, SPEC)
    with pytest.raises(error, match=message):
        run.count(memory, dtype, shape, None, "a", 0)
    with pytest.raises(error, match=message):
        _core.NonFiniteWatch().look(memory, dtype, shape, None, "a", 0, SPEC, "row")
    with pytest.raises(error, match=message):
        _core.prune_block(memory, dtype, shape, None, "a", SPEC, 0.5, "row", "nearest", "error")


def test_other_memory() -> None:
    run = _core.BlockwisePrune(24, 0.5, SPEC)
    wide = np.zeros(24, np.float32)
    for memory in (wide, np.zeros((2, 48), np.uint8), np.zeros(192, np.uint8)[::2]):
        with pytest.raises(bs.ShapeError, match="block: memory of"):
            run.count(memory, F32, (4, 6, 1, False), None, "a", 0)
    with pytest.raises(bs.LayoutError, match="not a multiple of the size"):
        run.count(memoryview(bytearray(97))[1:], F32, (4, 6, 1, False), None, "a", 0)
    with pytest.raises((BufferError, TypeError)):
        _core.prune_block(bytes(96), F32, (4, 6, 1, False), None, "a", SPEC, 0.5, "row", "nearest", "error")


def test_norms() -> None:
    memory, wanda = bytearray(96), ("wanda", None, None, 0)
    run = _core.BlockwisePrune(24, 0.5, wanda)
    for norms in (
        np.ones(5, np.float32),
        np.ones(6),
        np.ones((1, 6), np.float32),
        np.ones(12, np.float32)[::2],
    ):
        with pytest.raises(bs.ShapeError, match="for 6 inputs; one float32 each"):
            run.count(memory, F32, (4, 6, 1, False), norms, "a", 0)
    with pytest.raises(bs.MissingStateError, match="input_norm"):
        run.count(memory, F32, (4, 6, 1, False), None, "a", 0)
    run.count(memory, F32, (4, 6, 1, False), np.ones(6, np.float32), "a", 0)


def test_passes_out_of_turn() -> None:
    memory, run = bytearray(96), _core.BlockwisePrune(24, 0.5, SPEC)
    assert run.stage == "count"
    for call in (
        lambda: run.write(memory, F32, (4, 6, 1, False), None, "a"),
        run.finish,
        run.sample_positions,
    ):
        with pytest.raises(bs.ArgumentError, match="called in another pass"):
            call()
    with pytest.raises(bs.ShapeError, match="0 elements were counted in a pass over 24"):
        run.next()
