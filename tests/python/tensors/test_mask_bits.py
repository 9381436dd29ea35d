"""Masks as objects: packing, and what a list of them answers."""

from __future__ import annotations

from typing import Any

import bittersweet as bs
import numpy as np
import pytest
import torch
from oracle import budget, spread


@pytest.mark.parametrize("shape", [(), (1,), (63,), (64,), (65,), (3, 43), (0, 4), (5, 2, 3, 7)])
def test_packing(shape: tuple[int, ...]) -> None:
    keep = np.asarray(np.random.default_rng(0).random(shape) < 0.5)
    mask = bs.Mask.from_bool(keep, "x")
    flat = keep.reshape(-1)
    assert mask.nbytes == 8 * ((flat.size + 63) // 64)
    assert [bool(int(mask.words[i // 64]) >> (i % 64) & 1) for i in range(flat.size)] == flat.tolist()
    assert flat.size % 64 == 0 or int(mask.words[-1]) >> (flat.size % 64) == 0
    assert np.array_equal(mask.bool(), keep)
    assert mask.bool().shape == shape
    assert mask.kept() == int(flat.sum())
    tensor = torch.from_numpy(keep)
    packed = bs.Mask.from_bool(tensor, "x")
    assert packed == mask
    assert torch.equal(packed.bool(), tensor)
    assert packed.bool().dtype == torch.bool
    if keep.ndim > 1:
        assert bs.Mask.from_bool(np.asfortranarray(keep), "x") == mask


def test_masks_as_a_sequence() -> None:
    parts = {"a": spread(100, 1), "b": spread(65, 2).reshape(5, 13)}
    masks = bs.make_masks(
        [bs.ScoreInputs(x, name=n) for n, x in parts.items()], sparsity=0.5, scorer="magnitude"
    )
    assert (len(masks), masks.names, masks.nbytes) == (2, ["a", "b"], 16 + 16)
    assert masks["b"] is masks[1]
    assert [m.name for m in masks[:1]] == ["a"]
    assert [m.shape for m in masks] == [(100,), (5, 13)]
    assert [w.dtype for w in masks.words] == [np.uint64, np.uint64]
    assert masks.sparsity() == pytest.approx(budget(0.5, 165) / 165)
    again = bs.Masks([bs.Mask(m.words.copy(), m.shape, m.name) for m in masks])
    assert again == masks
    again[0].words[0] ^= np.uint64(1)
    assert again != masks
    with pytest.raises(KeyError):
        masks["c"]


@pytest.mark.parametrize(
    ("words", "shape", "error"),
    [
        (np.zeros(2, np.uint64), (64,), bs.ShapeError),
        (np.zeros(1, np.int64), (64,), bs.ArgumentError),
        (np.full(1, 2**10, np.uint64), (10,), bs.ArgumentError),
        (np.zeros(4, np.uint64)[::2], (128,), bs.ArgumentError),
    ],
)
def test_bad_words(words: Any, shape: tuple[int, ...], error: type[Exception]) -> None:
    with pytest.raises(error, match="words of 'x'"):
        bs.Mask(words, shape, "x")


def test_a_single_input_gives_a_single_array() -> None:
    inputs = bs.ScoreInputs(torch.randn(4, 4))
    single = bs.make_masks(inputs, sparsity=0.5, scorer="magnitude").bool()
    listed = bs.make_masks([inputs], sparsity=0.5, scorer="magnitude").bool()
    assert single.dtype == torch.bool
    assert isinstance(listed, list)
    assert torch.equal(single, listed[0])


def test_packed_masks_live_until_the_call_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    from bittersweet import _core

    apply = _core.apply_masks

    def after_reusing_freed_memory(*arguments: Any) -> None:
        reused = [np.full(16, 2**64 - 1, np.uint64) for _ in range(64)]
        apply(*arguments)
        assert reused

    monkeypatch.setattr(_core, "apply_masks", after_reusing_freed_memory)
    w = np.ones((8, 1000), np.float32)
    bs.apply_masks_([bs.ScoreInputs(x) for x in w], [np.zeros(1000, bool) for _ in w])
    assert not w.any()
