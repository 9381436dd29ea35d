"""Memory of masks that are gone serves the next ones, and never two at a time."""

from __future__ import annotations

import gc

import bittersweet as bs
import numpy as np
import pytest
from bittersweet.tensors import warm


@pytest.fixture(autouse=True)
def nothing_spare():
    gc.collect()
    warm._spare.clear()
    yield
    warm._spare.clear()


def test_memory_is_taken_again_when_its_last_view_is_gone():
    first = warm.words(warm.LEAST + 5)
    address, view = first.ctypes.data, first[7:9]
    del first
    other = warm.words(warm.LEAST + 5)
    assert other.ctypes.data != address  # a view is alive
    del view
    again = warm.words(warm.LEAST)  # a smaller one fits
    assert (again.ctypes.data, again.size) == (address, warm.LEAST)
    assert again.flags.c_contiguous and again.flags.writeable and again.dtype == np.uint64


@pytest.mark.parametrize(("count", "fits"), [(1, False), (2 * warm.LEAST - 1, False), (2 * warm.LEAST, True)])
def test_a_block_serves_counts_that_leave_no_half_idle(count, fits):
    block = warm.words(4 * warm.LEAST)
    address = block.ctypes.data
    del block
    new = warm.words(count)
    assert (new.ctypes.data == address) == fits and new.size == count


def test_one_block_is_kept():
    blocks = [warm.words(warm.LEAST) for _ in range(3)]
    last = blocks[-1].ctypes.data
    while blocks:
        del blocks[0]
    assert [block.ctypes.data for block in warm._spare] == [last]


def test_masks_in_warm_memory_are_those_in_fresh_memory():
    random = np.random.default_rng(0)
    w = random.normal(size=64 * warm.LEAST + 13).astype(np.float32)
    inputs = [bs.ScoreInputs(w)]
    kept = [bs.make_masks(inputs, sparsity=s, scorer="magnitude")[0].words.copy() for s in (0.3, 0.9)]
    mask = bs.make_masks(inputs, sparsity=0.6, scorer="magnitude")[0]
    address, alive = mask.words.ctypes.data, mask.words.copy()
    again = bs.make_masks(inputs, sparsity=0.3, scorer="magnitude")[0]
    assert again.words.ctypes.data != address  # the first is alive
    np.testing.assert_array_equal(mask.words, alive)
    np.testing.assert_array_equal(again.words, kept[0])
    del mask
    third = bs.make_masks(inputs, sparsity=0.9, scorer="magnitude")[0]
    assert third.words.ctypes.data == address
    np.testing.assert_array_equal(third.words, kept[1])
