"""One argument of many tensors, looked at in one walk: what each alone gives, and the same errors."""

from __future__ import annotations

from typing import Any

import bittersweet as bs
import numpy as np
import pytest
import torch
from bittersweet import _core
from bittersweet.tensors import arrays, columns, devices
from bittersweet.tensors.columns import Column, of_other_shapes
from torch import nn

FIELDS = ("framework", "pointer", "dtype", "shape", "numel", "order", "device", "writable")


class Shaped(torch.Tensor):
    """A subclass: compiled code does not look at these."""


def shrunk() -> torch.Tensor:
    tensor = torch.randn(4, 5)
    tensor.untyped_storage().resize_(20)
    return tensor


def shortened() -> torch.Tensor:
    return torch.randn(6).as_strided((2, 3), (3, 1))


GOOD = {
    "a parameter": lambda: nn.Parameter(torch.randn(3, 5)),
    "bfloat16": lambda: torch.randn(7).bfloat16(),
    "float16": lambda: torch.randn(7).half(),
    "no axes": lambda: torch.tensor(2.0),
    "no elements": lambda: torch.empty(0, 3),
    "one element": lambda: torch.ones(1, 1, 1),
    "part of a storage": lambda: torch.randn(10)[3:8],
    "an axis of one with an odd stride": lambda: torch.randn(8).as_strided((1, 4), (7, 1)),
    "over a larger storage": shortened,
    "transposed": lambda: torch.randn(3, 4).t(),
    "channels_last": lambda: torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
    "every other": lambda: torch.randn(8)[::2],
    "misaligned": lambda: torch.frombuffer(bytearray(41), dtype=torch.float32, count=10, offset=1),
    "NumPy": lambda: np.ones((2, 3), np.float32),
    "inference mode": lambda: torch.inference_mode()(lambda: torch.ones(3))(),
}
BAD = {
    "float64": lambda: torch.zeros(3, dtype=torch.float64),
    "bool": lambda: torch.ones(3) > 0,
    "sparse": lambda: torch.eye(3).to_sparse(),
    "nested": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
    "expanded": lambda: torch.ones(1, 3).expand(4, 3),
    "lazily negated": lambda: torch.randn(4, dtype=torch.complex64).conj().imag,
    "a storage that was freed": shrunk,
    "meta": lambda: torch.empty(3, device="meta"),
    "no array": lambda: "weights",
}


@pytest.fixture(params=["compiled", "python"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "python":
        monkeypatch.setattr(columns, "_walk", lambda api: None)
    elif devices.runtime.exchange_api() is None:
        pytest.skip("this torch offers no exchange API")


def told(look: Any) -> tuple[str, str]:
    with pytest.raises(bs.Error) as caught:
        look()
    return type(caught.value).__name__, str(caught.value)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("kind", GOOD)
def test_a_tensor_is_what_it_is_alone(kind: str) -> None:
    value = GOOD[kind]()
    alone = arrays.inspect(value, "weight", "a")
    column = Column([value], "weight", ["a"])
    found = column.view(0)
    assert found.source is value or kind == "NumPy"
    assert [getattr(found, field) for field in FIELDS] == [getattr(alone, field) for field in FIELDS]
    assert type(found.shape) is tuple
    assert (column.pointers[0], column.dtypes[0], column.shapes[0]) == (
        alone.pointer,
        alone.dtype,
        alone.shape,
    )
    assert not column.is_plain or (alone.framework, alone.order) == ("torch", arrays.ROW_MAJOR)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("kind", BAD)
def test_the_error_is_that_of_the_tensor_alone(kind: str) -> None:
    value = BAD[kind]()
    alone = told(lambda: arrays.inspect(value, "grad", "b"))
    assert told(lambda: Column([torch.ones(2), None, value], "grad", ["a", "n", "b"])) == alone


@pytest.mark.usefixtures("way")
def test_a_subclass_is_looked_at_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    value = torch.ones(3).as_subclass(Shaped)
    looked: list[Any] = []

    def look(value: Any, *rest: Any) -> arrays.View:
        looked.append(value)
        return arrays.inspect(value, *rest)

    monkeypatch.setattr(columns, "inspect", look)
    Column([value, None], "weight", ["a", "b"])
    assert len(looked) == 1 and looked[0] is value


@pytest.mark.usefixtures("way")
def test_none_stays_none_and_order_is_kept() -> None:
    values = [None, torch.ones(2), np.ones(3, np.float32), None, nn.Parameter(torch.ones(4))]
    column = Column(values, "weight", list("abcde"))
    assert [row in column for row in range(5)] == [False, True, True, False, True]
    assert column.shapes == [(), (2,), (3,), (), (4,)]
    assert [column.pointers[row] for row in (0, 3)] == [0, 0] == [column.dtypes[row] for row in (0, 3)]


@pytest.mark.usefixtures("way")
def test_a_tensor_of_another_shape_is_not_plain_and_keeps_its_own() -> None:
    shapes = [(2, 3), (4,), (), (5,)]
    values = [torch.ones(2, 3), torch.ones(2, 2), torch.ones(1), None]
    column = Column(values, "exp_avg", list("abcd"), shapes)
    assert not column.is_plain
    assert column.shapes == [(2, 3), (2, 2), (1,), (5,)]
    assert shapes == [(2, 3), (4,), (), (5,)]
    assert of_other_shapes(values, shapes) == [1, 2]
    assert of_other_shapes([object(), torch.ones(4), torch.tensor(1.0), None], shapes) == []


@pytest.mark.usefixtures("way")
def test_one_row_and_release() -> None:
    values = [torch.ones(2), torch.randn(3, 4).t()]
    column = Column(values, "weight", ["a", "b"])
    one = column.one(1)
    assert one.view(0).source is values[1] and one.pointers[0] == values[1].data_ptr()
    column.release()
    assert 0 not in column and list(column.pointers) == [value.data_ptr() for value in values]
    assert 0 in one


def walk() -> _core.Addresses:
    api = devices.runtime.exchange_api()
    if api is None or not _core.Addresses.knows(api):
        pytest.skip("this torch offers no exchange API")
    return _core.Addresses(api, (torch.Tensor, nn.Parameter))


def test_what_no_elements_lie_behind_is_left_to_python() -> None:
    usual = torch.ones(2, 3)
    odd = [make() for make in BAD.values()] + [torch.empty(0), torch.randn(3, 4).t()]
    pointers, dtypes, shapes, places = walk().host_columns([usual, None, *odd])
    assert np.frombuffer(pointers, np.uint64).tolist() == [usual.data_ptr()] + [0] * (len(odd) + 1)
    assert np.frombuffer(dtypes, np.uint64).tolist() == [arrays.FLOAT32] + [0] * (len(odd) + 1)
    assert shapes == [(2, 3)] + [()] * (len(odd) + 1)
    assert places == list(range(2, len(odd) + 2))


@pytest.mark.parametrize("shape", [None, (2,), (2, 3, 1), (3, 2), [2, 3], (2, 2**70), (2, "3"), "23"])
def test_compiled_code_takes_no_other_shape_for_the_same(shape: Any) -> None:
    tensor = torch.ones(2, 3)
    assert walk().host_columns([tensor], [shape])[3] == [0]
    assert walk().of_other_shapes([tensor], [shape]) == [0]
    assert walk().host_columns([tensor], [(2, 3)])[3] == [] == walk().of_other_shapes([tensor], [(2, 3)])


def test_a_number_that_runs_code_is_no_size() -> None:
    tensor, ran = torch.ones(2, 3), []

    class Size:
        def __index__(self) -> int:
            ran.append(tensor.resize_(1))
            return 2

    assert walk().of_other_shapes([tensor], [(Size(), 3)]) == [0]
    assert walk().host_columns([tensor], [(Size(), 3)])[3] == [0]
    assert not ran


@pytest.mark.parametrize("call", ["host_columns", "of_other_shapes"])
def test_compiled_code_wants_one_shape_a_tensor(call: str) -> None:
    with pytest.raises(bs.ArgumentError, match="a tensor is needed"):
        getattr(walk(), call)([torch.ones(2)], [])


def test_inside_a_transform_memory_is_missed_as_ever() -> None:
    def look(tensor: torch.Tensor) -> torch.Tensor:
        with pytest.raises(bs.LayoutError, match="no memory"):
            Column([tensor], "weight", ["a"])
        return tensor

    torch.vmap(look)(torch.ones(2, 3))
