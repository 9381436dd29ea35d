"""One argument of many tensors, looked at in one walk: what each alone gives, and the same errors."""

from __future__ import annotations

from typing import Any

import bittersweet as bs
import numpy as np
import pytest
import torch
from bittersweet import _core
from bittersweet.tensors import arrays, columns, devices
from bittersweet.tensors.columns import inspect_all
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
    (found,) = inspect_all([value], "weight", ["a"])
    assert found is not None
    assert found.source is value or kind == "NumPy"
    assert [getattr(found, field) for field in FIELDS] == [getattr(alone, field) for field in FIELDS]
    assert type(found.shape) is tuple


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("kind", BAD)
def test_the_error_is_that_of_the_tensor_alone(kind: str) -> None:
    value = BAD[kind]()
    alone = told(lambda: arrays.inspect(value, "grad", "b"))
    assert told(lambda: inspect_all([torch.ones(2), None, value], "grad", ["a", "n", "b"])) == alone


@pytest.mark.usefixtures("way")
def test_a_subclass_is_looked_at_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    value = torch.ones(3).as_subclass(Shaped)
    looked: list[Any] = []
    monkeypatch.setattr(columns, "inspect", lambda value, *rest: looked.append(value))
    inspect_all([value, None], "weight", ["a", "b"])
    assert len(looked) == 1 and looked[0] is value


@pytest.mark.usefixtures("way")
def test_none_stays_none_and_order_is_kept() -> None:
    values = [None, torch.ones(2), np.ones(3, np.float32), None, nn.Parameter(torch.ones(4))]
    views = inspect_all(values, "weight", list("abcde"))
    assert [view and view.shape for view in views] == [None, (2,), (3,), None, (4,)]


def test_what_no_elements_lie_behind_is_left_to_python() -> None:
    api = devices.runtime.exchange_api()
    if api is None or not _core.Addresses.knows(api):
        pytest.skip("this torch offers no exchange API")
    walk = _core.Addresses(api, (torch.Tensor, nn.Parameter))
    usual = torch.ones(2, 3)
    odd = [make() for make in BAD.values()] + [torch.empty(0), None, torch.randn(3, 4).t()]
    found = walk.host_views([usual, *odd])
    assert found == [(usual.data_ptr(), arrays.FLOAT32, (2, 3))] + [None] * len(odd)


def test_inside_a_transform_memory_is_missed_as_ever() -> None:
    def look(tensor: torch.Tensor) -> torch.Tensor:
        with pytest.raises(bs.LayoutError, match="no memory"):
            inspect_all([tensor], "weight", ["a"])
        return tensor

    torch.vmap(look)(torch.ones(2, 3))
