"""Which part of a tensor a rank holds: against torch's own helper, and against cutting up its indices."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import Any

import bittersweet as bs
import pytest
import torch
from bittersweet.distributed import shards
from bittersweet.distributed.shards import Layout, Shard, is_dtensor, local, shard_of
from torch.distributed.tensor import DTensor, Partial, Replicate, distribute_tensor
from torch.distributed.tensor import Shard as Split
from torch.distributed.tensor._utils import _compute_local_shape_and_global_offset as torchs
from torch.distributed.tensor.placement_types import _StridedShard

SHAPES = [(), (0,), (1,), (5,), (7, 3), (10, 4), (1, 9), (3, 5, 8), (16, 6), (13, 0), (9, 2, 2, 5)]
MESHES = [(1,), (2,), (3,), (4,), (8,), (2, 2), (2, 3), (4, 2), (3, 3), (2, 2, 2), (3, 2, 2), (1, 4, 2)]


def placements_of(mesh: tuple[int, ...], axes: int) -> Iterator[tuple[Any, ...]]:
    one = [Replicate(), *(Split(axis) for axis in range(min(axes, 3)))]
    yield from itertools.product(one, repeat=len(mesh))
    if (
        len(mesh) > 1 and axes
    ):  # what a mesh axis to the right has already split: fully_shard over tensor parallel
        rest = [Replicate(), *([Split(1)] if axes > 1 else [])]
        for other in rest if len(mesh) == 3 else [None]:
            tail = (Split(0),) if other is None else (Split(0), other)
            yield (_StridedShard(0, split_factor=mesh[1]), *tail)
    if len(mesh) == 3 and axes:
        yield (
            _StridedShard(0, split_factor=mesh[1] * mesh[2]),
            _StridedShard(0, split_factor=mesh[2]),
            Split(0),
        )


def box(shape: tuple[int, ...], mesh: tuple[int, ...], here: tuple[int, ...], placements: Any) -> Any:
    return shards._box(shape, mesh, here, shards._splits(placements, "x", "weight"))


@pytest.mark.parametrize("mesh", MESHES, ids=str)
def test_boxes_are_those_of_torch(mesh: tuple[int, ...]) -> None:
    compared = 0
    for shape in SHAPES:
        for placements in placements_of(mesh, len(shape)):
            for here in itertools.product(*map(range, mesh)):
                found = box(shape, mesh, here, placements)
                if found is None:
                    continue  # several intervals: below
                sizes, offsets = torchs(shape, mesh, list(here), placements)
                assert tuple(size for _, size in found) == tuple(sizes), (shape, placements, here)
                if all(sizes):  # torch puts what is empty behind the end
                    assert tuple(start for start, _ in found) == tuple(offsets), (shape, placements, here)
                compared += 1
    assert compared > 20


def kept(length: int, mesh: tuple[int, ...], here: tuple[int, ...], placements: Any) -> list[int]:
    """The indices of one axis that a rank keeps, by cutting up the indices themselves."""
    left = torch.arange(length)
    for parts, part, placement in zip(mesh, here, placements, strict=True):
        factor = getattr(placement, "split_factor", 1)
        chunks = [torch.chunk(chunk, parts) for chunk in torch.chunk(left, factor)] if len(left) else []
        left = torch.cat([left[:0], *(chunk[part] for chunk in chunks if part < len(chunk))])
    return left.tolist()


def test_strided_parts_are_one_interval_or_none() -> None:
    """Any split factors, not only those that a mesh gives."""
    chosen = random.Random(3)
    several = 0
    for _ in range(4000):
        mesh = tuple(chosen.randint(1, 4) for _ in range(chosen.randint(1, 3)))
        here = tuple(chosen.randrange(parts) for parts in mesh)
        length = chosen.randint(0, 40)
        placements = [_StridedShard(0, split_factor=chosen.randint(1, 5)) for _ in mesh]
        expected = kept(length, mesh, here, placements)
        found = box((length,), mesh, here, placements)
        if expected != list(range(expected[0], expected[0] + len(expected))) if expected else False:
            assert found is None
            several += 1
        else:
            assert found is not None
            assert list(range(found[0][0], sum(found[0]))) == expected
    assert 400 < several < 3600


def test_fully_shard_over_tensor_parallel_leaves_one_interval_a_rank() -> None:
    """Whatever the lengths: tensor parallel cuts first, and fully_shard cuts each of its parts."""
    for length, data, model in itertools.product(range(25), range(1, 5), range(1, 5)):
        placements = (_StridedShard(0, split_factor=model), Split(0))
        rows: list[int] = []
        for here in itertools.product(range(data), range(model)):
            found = box((length, 2), (data, model), here, placements)
            if found is not None:
                rows += range(found[0][0], sum(found[0]))
        assert sorted(rows) == sorted(set(rows)), "no row twice"


class FakeMesh:
    def __init__(self, shape: tuple[int, ...], here: tuple[int, ...] | None) -> None:
        self.shape, self.here = shape, here

    def get_coordinate(self) -> list[int] | None:
        return None if self.here is None else list(self.here)


class FakeDTensor:
    """What `shard_of` asks of a DTensor, without a process group."""

    def __init__(self, part: torch.Tensor, whole: tuple[int, ...], mesh: FakeMesh, *placements: Any) -> None:
        self.part, self.shape, self.device_mesh, self.placements = part, whole, mesh, placements

    def to_local(self) -> torch.Tensor:
        return self.part


FakeDTensor.__name__ = "DTensor"


def test_a_part_is_described() -> None:
    part = torch.zeros(3, 4)
    found = shard_of(FakeDTensor(part, (10, 4), FakeMesh((4,), (1,)), Split(0)), "w")
    assert found == Shard((10, 4), (3, 0))
    assert found is not None and found.numel == 40
    assert shard_of(torch.zeros(3), "w") is None and shard_of(object(), "w") is None
    assert local(part) is part


def test_parts_without_elements() -> None:
    empty = FakeDTensor(torch.zeros(0, 4), (3, 4), FakeMesh((4,), (3,)), Split(0))
    assert shard_of(empty, "w") == Shard((3, 4), (0, 0))
    outside = FakeDTensor(torch.zeros(0), (3, 4), FakeMesh((4,), None), Split(0))
    assert shard_of(outside, "w") == Shard((3, 4), (0, 0))


class Float8(torch.Tensor):
    pass


class AsyncCollectiveTensor(torch.Tensor):
    pass


_RaggedShard = type("_RaggedShard", (), {})


@pytest.mark.parametrize(
    "part, placement, said",
    [
        (torch.zeros(4, 4), Partial(), r"grad of 'w'.*Partial.*still to be added up.*redistribute"),
        (torch.zeros(4, 4), _RaggedShard(), r"and no _RaggedShard.*redistribute"),
        (torch.zeros(4, 4), _StridedShard(0, split_factor=2), r"is not the box.*StridedShard.*redistribute"),
        (torch.zeros(3, 4), Split(0), r"of shape \(3, 4\), is not the box"),
        (torch.zeros(4, 4).as_subclass(Float8), Split(0), r"is a Float8, which.*Prune before converting"),
        (torch.zeros(4, 4).as_subclass(AsyncCollectiveTensor), Split(0), r"still filling.*wait\(\)"),
    ],
    ids=["partial", "ragged", "intervals", "other shape", "float8", "unfinished"],
)
def test_what_is_no_box_of_plain_numbers_is_refused(part: Any, placement: Any, said: str) -> None:
    tensor = FakeDTensor(part, (8, 4), FakeMesh((2,), (0,)), placement)
    with pytest.raises(bs.LayoutError, match=said):
        shard_of(tensor, "w", "grad")


@pytest.mark.parametrize(
    "arguments, error, said",
    [
        (((4, 2), (0,)), bs.ShapeError, "2 axes and offset .* 1"),
        (((1,) * 9, (0,) * 9), bs.ShapeError, "9 axes; accepted: 8"),
        (((4.0, 2), (0, 0)), bs.ArgumentError, "shard: shape"),
        ((4, (0,)), bs.ArgumentError, "shard: shape: 4; accepted: a sequence"),
        (((4,), (-1,)), bs.ArgumentError, "shard: offset"),
        (((4,), (0,), -1), bs.ArgumentError, "shard: position"),
    ],
)
def test_wrong_shards_are_refused(arguments: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        Shard(*arguments)


def test_an_array_lies_within_the_whole() -> None:
    Shard((4, 6), (2, 3)).require_fits((2, 3), "w")
    Shard((4, 6), (4, 6)).require_fits((0,), "w")
    for shape in ((3, 3), (2, 4), (2,), (2, 3, 1)):
        with pytest.raises(bs.ShapeError, match=r"shard of 'w': .* does not lie within shape \(4, 6\)"):
            Shard((4, 6), (2, 3)).require_fits(shape, "w")


@pytest.fixture
def mesh() -> Iterator[Any]:
    """Rank 1 of a mesh of 2 x 2 without other processes."""
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=1, world_size=4)
    yield init_device_mesh("cpu", (2, 2))
    dist.destroy_process_group()


def test_real_dtensors(mesh: Any) -> None:
    whole = torch.arange(35.0).reshape(7, 5)
    for placements in itertools.product((Replicate(), Split(0), Split(1)), repeat=2):
        tensor = distribute_tensor(whole, mesh, placements, src_data_rank=None)
        assert is_dtensor(tensor) and is_dtensor(torch.nn.Parameter(tensor))
        found = shard_of(torch.nn.Parameter(tensor), "w")
        assert found is not None and found.layout == Layout(mesh, tuple(placements))
        part = local(tensor)
        assert type(part) is torch.Tensor and part.data_ptr() == tensor._local_tensor.data_ptr()
        cut = tuple(slice(at, at + size) for at, size in zip(found.offset, part.shape, strict=True))
        assert torch.equal(part, whole[cut])
        again = found.dtensor(part > 3)
        assert isinstance(again, DTensor) and again.dtype == torch.bool and again.shape == (7, 5)
        assert again.stride() == (5, 1) and again.placements == tuple(placements)
        assert again.to_local().shape == part.shape
