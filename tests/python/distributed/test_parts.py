"""What a rank takes of inputs that belong to a whole tensor: tensors, masks, norms, and what rows it cuts."""

from __future__ import annotations

import itertools
import math
from array import array
from dataclasses import replace
from typing import Any

import bittersweet as bs
import numpy as np
import pytest
import torch
from bittersweet.distributed import parts
from bittersweet.distributed.shards import Shard
from bittersweet.options.scorers import resolve_scorer
from bittersweet.tensors.geometry import geometry_of
from bittersweet.tensors.table import Table
from torch.distributed.tensor import Shard as Split

LAYERS: dict[str, tuple[tuple[int, ...], dict[str, int]]] = {
    "linear": ((6, 8), {}),
    "transposed": ((8, 6), {"in_dim": 0}),
    "convolution": ((4, 6, 3, 2), {}),
    "transposed convolution": ((6, 4, 3), {"in_dim": 0}),
    "experts": ((4, 6, 5), {"in_dim": 1, "kernel_dims": 0}),
    "experts, inputs last": ((4, 5, 6), {"in_dim": 2}),
    "grouped": ((8, 3, 2), {"groups": 4}),
    "depthwise": ((6, 1, 3), {"groups": 6}),
    "grouped transposed": ((8, 3, 2), {"in_dim": 0, "groups": 4}),
    "vector": ((12,), {}),
}


def features(shape: tuple[int, ...], axes: dict[str, int]) -> Any:
    """Which feature each element reads, by walking the rows as the geometry says they lie."""
    geometry = geometry_of(shape, **axes)
    found = np.full(math.prod(shape), -1)
    rows, size = geometry.rows // geometry.blocks, math.prod(shape) // geometry.blocks
    for block, row, at, inner in itertools.product(
        range(geometry.blocks), range(rows), range(geometry.inputs), range(geometry.inner)
    ):
        place = block * size + row * geometry.row_stride + at * geometry.input_stride + inner
        found[place] = block * geometry.inputs + at
    return found.reshape(shape)


def boxes(shape: tuple[int, ...]) -> Any:
    """Every box that cuts one or two axes in two, at every place."""
    for axis in range(len(shape)):
        for cut in range(shape[axis] + 1):
            yield tuple(slice(0, cut) if each == axis else slice(0, n) for each, n in enumerate(shape))
            yield tuple(slice(cut, n) if each == axis else slice(0, n) for each, n in enumerate(shape))
    if len(shape) > 1:
        for first, second in itertools.product(range(1, shape[0]), range(1, shape[1])):
            yield (slice(first, shape[0]), slice(0, second), *(slice(0, n) for n in shape[2:]))


def part_of(layer: str, box: Any) -> bs.ScoreInputs:
    """A part of a weight of twos, with all of its norms."""
    shape, axes = LAYERS[layer]
    weight = np.full(shape, 2.0, np.float32)[box]
    norm = np.arange(geometry_of(shape, **axes).features, dtype=np.float32)
    shard = Shard(shape, tuple(one.start for one in box))
    return bs.ScoreInputs(weight.copy(), input_norm=norm, name="w", shard=shard, **axes)


def scores(item: bs.ScoreInputs) -> Any:
    """WANDA's, under the item's axes."""
    call = resolve_scorer("wanda", None, 0)
    table = Table([item], call)
    out = np.empty(item.weight.shape, np.float32)
    table.engine.write_scores(table.data, table.names, call.spec, array("Q", [out.ctypes.data]))
    return out


@pytest.mark.parametrize("layer", LAYERS)
def test_each_element_of_a_part_gets_its_own_norm(layer: str) -> None:
    whole = features(*LAYERS[layer])
    taken = refused = 0
    for box in boxes(whole.shape):
        item = part_of(layer, box)
        try:
            local = parts.local_item(item, "w")
        except bs.ShapeError as error:
            assert "begins or ends within one" in str(error)
            refused += 1
            continue
        if item.weight.size:
            own = parts.table_item(local, item.weight.shape)
            assert np.array_equal(scores(own), 2.0 * whole[box].astype(np.float32)), (layer, box)
            taken += 1
    assert taken > 4 and (refused > 0) == (layer == "grouped")


def test_norms_are_those_of_the_whole() -> None:
    item = part_of("linear", (slice(0, 6), slice(2, 5)))
    item.input_norm = item.input_norm[2:5]
    with pytest.raises(bs.ShapeError, match=r"input_norm of 'w' has shape \(3,\); accepted: \(8,\)"):
        parts.local_item(item, "w")


def test_a_weight_without_a_shard_is_whole() -> None:
    item = parts.local_item(bs.ScoreInputs(torch.ones(3, 2)), "w")
    assert item.shard == Shard((3, 2), (0, 0)) and item.name == "w"


class FakeMesh:
    shape = (2,)

    def get_coordinate(self) -> list[int]:
        return [1]


class FakeDTensor:
    """What is asked of a DTensor, without a process group."""

    device_mesh = FakeMesh()

    def __init__(self, part: torch.Tensor, whole: tuple[int, ...], *placements: Any) -> None:
        self._local_tensor, self.shape, self.placements = part, whole, placements


FakeDTensor.__name__ = "DTensor"


def test_what_lies_beside_a_weight_is_laid_out_like_it() -> None:
    weight, beside = torch.ones(2, 4), torch.zeros(2, 4)
    item = bs.ScoreInputs(
        FakeDTensor(weight, (4, 4), Split(0)), exp_avg=FakeDTensor(beside, (4, 4), Split(0))
    )
    local = parts.local_item(item, "w")
    assert local.weight is weight and local.exp_avg is beside and local.shard.offset == (2, 0)
    for argument in ("exp_avg", "exp_avg_sq", "grad", "scores", "max_exp_avg_sq", "mask"):
        other = FakeDTensor(torch.zeros(4, 2), (4, 4), Split(1))
        wrong = replace(item, **{argument: other})
        with pytest.raises(bs.LayoutError, match=rf"{argument} of 'w' is a DTensor.*dim=1.*Redistribute it"):
            parts.local_item(wrong, "w")
    with pytest.raises(bs.LayoutError, match="shard of 'w': given beside a weight that is a DTensor"):
        parts.local_item(replace(item, shard=Shard((4, 4), (2, 0))), "w")


def test_masks_of_parts() -> None:
    shard, shape = Shard((4, 3), (1, 0)), (2, 3)
    bits = np.arange(12).reshape(4, 3) % 5 < 2
    expected = bits[1:3]
    for whole in (bits, bs.Mask.from_bool(bits, "w"), torch.from_numpy(bits)):
        assert np.array_equal(np.asarray(parts.mask_of_part(whole, shard, shape, "w")), expected)
    own = bs.Mask.from_bool(expected.copy(), "w")
    assert parts.mask_of_part(own, shard, shape, "w") is own
    other = np.zeros((5, 5), bool)
    assert parts.mask_of_part(other, shard, shape, "w") is other
    with pytest.raises(bs.LayoutError, match="mask of 'w' is a DTensor and its weight is none"):
        parts.mask_of_part(FakeDTensor(torch.zeros(2, 3), (4, 3), Split(0)), None, shape, "w")
