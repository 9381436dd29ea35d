"""Reading addresses in one walk: compiled and in Python by the same tests, against data_ptr()."""

from __future__ import annotations

import copy
import gc
from array import array
from collections.abc import Callable
from typing import Any

import bittersweet as bs
import pytest
import torch
from bittersweet import _core
from bittersweet.tensors import addresses
from bittersweet.tensors.addresses import Addresses, Reader, reader
from torch import nn

API = getattr(torch.Tensor, "__dlpack_c_exchange_api__", None)
compiled_only = pytest.mark.skipif(API is None, reason="this torch offers no exchange API")
UNTOUCHED = 2**64 - 3


@pytest.fixture(params=["compiled", "python"])
def walk(request: pytest.FixtureRequest) -> Addresses:
    if request.param == "python":
        return Reader()
    if API is None:
        pytest.skip("this torch offers no exchange API")
    return reader()


def read(walk: Addresses, tensors: list[Any]) -> list[int] | None:
    """The addresses of now, None if there is no answer; places in reverse order, with a hole between them."""
    out = array("Q", [UNTOUCHED] * (2 * len(tensors) + 1))
    places = array("Q", [2 * (len(tensors) - i) for i in range(len(tensors))])
    if not walk.read(tensors, out, places):
        assert set(out) <= {UNTOUCHED}
        return None
    assert set(out[1::2]) <= {UNTOUCHED}
    return [out[place] for place in places]


def now(tensors: list[Any]) -> list[int]:
    return [UNTOUCHED if tensor is None else tensor.data_ptr() for tensor in tensors]


def several() -> list[Any]:
    """Shapes, dtypes and layouts of all kinds that a table may have."""
    return [
        nn.Parameter(torch.randn(3, 5)),
        torch.randn(7, dtype=torch.float64)[2:],
        torch.randn(4, 6).to(torch.bfloat16).t(),
        None,
        torch.zeros(2, 3, 4, 5).to(memory_format=torch.channels_last).half(),
        torch.tensor(1.0),
        torch.empty(0, 3),
        torch.arange(5),
        torch.ones(1, 4, 1) > 0,
    ]


def test_addresses_are_those_of_data_ptr(walk: Addresses) -> None:
    tensors = several()
    assert walk.remember(tensors)
    for _ in range(3):
        assert read(walk, tensors) == now(tensors)


def test_nothing_is_something(walk: Addresses) -> None:
    assert walk.remember([])
    assert read(walk, []) == []
    assert walk.remember([None, None])
    assert read(walk, [None, None]) == [UNTOUCHED] * 2


def test_what_was_never_remembered_is_not_read(walk: Addresses) -> None:
    assert read(walk, [torch.ones(2)]) is None
    assert read(walk, []) == []


def test_tensors_may_move(walk: Addresses) -> None:
    tensors = [nn.Parameter(torch.randn(3, 5)), torch.randn(64)]
    assert walk.remember(tensors)
    for _ in range(3):
        kept = tensors[0].data
        tensors[0].data = torch.randn(3, 5)
        tensors[1] = torch.randn(200)[17:81]
        assert tensors[0].data_ptr() != kept.data_ptr()
        assert read(walk, tensors) == now(tensors)


def test_strides_of_axes_of_one_do_not_count(walk: Addresses) -> None:
    one = torch.randn(3, 1)
    assert walk.remember([one])
    other = torch.randn(3, 2)[:, :1].clone().as_strided((3, 1), (1, 9))
    assert other.is_contiguous()
    assert read(walk, [other]) == now([other])


def negated() -> torch.Tensor:
    view: torch.Tensor = torch._neg_view(torch.randn(3, 5))
    return view


def shrunk(left: int) -> torch.Tensor:
    tensor = torch.randn(3, 5)
    tensor.untyped_storage().resize_(left)
    return tensor


def with_offset() -> torch.Tensor:
    tensor = torch.randn(40)[25:].view(3, 5)
    tensor.untyped_storage().resize_(39 * 4)
    return tensor


def misaligned() -> torch.Tensor:
    return torch.frombuffer(bytearray(61), dtype=torch.float32, count=15, offset=1).view(3, 5)


class Sub(torch.Tensor):
    pass


CHANGES: dict[str, Callable[[], Any]] = {
    "another dtype of the same size": lambda: torch.zeros(3, 5, dtype=torch.int32),
    "another dtype": lambda: torch.zeros(3, 5, dtype=torch.bfloat16),
    "another shape": lambda: torch.zeros(5, 3),
    "one axis more": lambda: torch.zeros(3, 5, 1),
    "transposed": lambda: torch.zeros(5, 3).t(),
    "every other column": lambda: torch.zeros(3, 10)[:, ::2],
    "expanded": lambda: torch.zeros(1, 5).expand(3, 5),
    "empty": lambda: torch.zeros(0, 5),
    "a parameter": lambda: nn.Parameter(torch.zeros(3, 5)),
    "a subclass": lambda: torch.zeros(3, 5).as_subclass(Sub),
    "on the meta device": lambda: torch.zeros(3, 5, device="meta"),
    "sparse": lambda: torch.zeros(3, 5).to_sparse(),
    "compressed": lambda: torch.eye(3, 5).to_sparse_csr(),
    "quantised": lambda: torch.quantize_per_tensor(torch.zeros(3, 5), 0.1, 0, torch.qint8),
    "for oneDNN": lambda: torch.zeros(3, 5).to_mkldnn(),
    "nested": lambda: torch.nested.nested_tensor([torch.zeros(3, 5)]),
    "negated": negated,
    "shrunk to nothing": lambda: shrunk(0),
    "shrunk to a byte": lambda: shrunk(1),
    "a byte too small": lambda: shrunk(59),
    "an element too small behind an offset": with_offset,
    "misaligned": misaligned,
    "None": lambda: None,
    "a number": lambda: 1.0,
    "a string": lambda: "weight",
    "an array": lambda: torch.zeros(3, 5).numpy(),
    "the class": lambda: torch.Tensor,
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("position", [0, 1, 2])
def test_what_has_changed_is_left_to_the_full_checks(walk: Addresses, change: str, position: int) -> None:
    tensors = [torch.randn(3, 5) for _ in range(3)]
    assert walk.remember(tensors)
    changed: list[Any] = list(tensors)
    changed[position] = CHANGES[change]()
    assert read(walk, changed) is None
    assert read(walk, tensors) is None, "what was remembered is forgotten"
    assert walk.remember(tensors)
    assert read(walk, tensors) == now(tensors)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "change", ["a subclass", "on the meta device", "sparse", "quantised", "nested", "a number", "a string"]
)
def test_what_cannot_be_read_is_not_remembered(walk: Addresses, change: str) -> None:
    good = torch.randn(3, 5)
    assert walk.remember([good])
    assert not walk.remember([good, CHANGES[change]()])
    assert read(walk, [good]) is None
    assert read(walk, []) == []


def test_a_tensor_in_the_place_of_none_and_the_reverse(walk: Addresses) -> None:
    assert walk.remember([None, torch.ones(2)])
    assert read(walk, [torch.ones(2), torch.ones(2)]) is None
    assert walk.remember([torch.ones(2)])
    assert read(walk, [None]) is None


def test_inside_a_transform_there_is_no_memory(walk: Addresses) -> None:
    assert walk.remember([torch.ones(4)])
    seen = []

    def inside(value: torch.Tensor) -> torch.Tensor:
        seen.append(read(walk, [value]))
        return value

    torch.vmap(inside)(torch.ones(3, 4))
    assert seen == [None]


OVERLAPS: dict[str, Callable[[torch.Tensor], list[Any]]] = {
    "the same": lambda block: [block[:10], block[20:30], block[:10]],
    "by one element": lambda block: [block[:10], block[9:19], block[30:40]],
    "one in another": lambda block: [block[:10], block[2:4], block[30:40]],
    "behind an empty one": lambda block: [block[:0], block[:10], block[5:15]],
    "two views": lambda block: [block[::2][:10], block[::2][:10], block[30:40]],
}


@pytest.mark.parametrize("case", OVERLAPS)
def test_what_must_lie_apart_is_not_read_where_it_does_not(walk: Addresses, case: str) -> None:
    given = OVERLAPS[case](torch.ones(50))
    fine = [one.clone(memory_format=torch.preserve_format) for one in given]
    fine = [
        torch.ones(50)[::2][:10] if one.stride() == (2,) else two
        for one, two in zip(given, fine, strict=True)
    ]
    assert walk.remember(fine)
    assert read(walk, given) == now(given)
    assert walk.remember(fine, apart=True)
    assert read(walk, fine) == now(fine)
    assert read(walk, given) is None


def test_neighbours_and_interleaved_views_lie_apart(walk: Addresses) -> None:
    assert walk.remember([torch.ones(10), torch.ones(10), torch.ones(40)[::2]], apart=True)
    block = torch.ones(100)
    given = [block[10:20], block[:10], block[21:61][::2]]
    assert read(walk, given) == now(given)


def test_more_and_fewer_tensors(walk: Addresses) -> None:
    one = torch.ones(3)
    for given in ([], [one, one]):
        assert walk.remember([one])
        assert read(walk, list(given)) is None


BUFFERS: dict[str, tuple[Any, Any]] = {
    "out of bytes": (bytearray(8), array("Q", [0])),
    "out of halves": (array("I", [0, 0]), array("Q", [0])),
    "places of bytes": (array("Q", [0]), bytearray(8)),
    "no place": (array("Q", [0]), array("Q")),
    "two places": (array("Q", [0, 0]), array("Q", [0, 1])),
    "a place behind the end": (array("Q", [0]), array("Q", [1])),
    "a place far away": (array("Q", [0]), array("Q", [2**64 - 1])),
    "nowhere": (array("Q"), array("Q", [0])),
}


@pytest.mark.parametrize("case", BUFFERS)
def test_wrong_buffers_are_errors(walk: Addresses, case: str) -> None:
    one = torch.ones(3)
    assert walk.remember([one])
    out, places = BUFFERS[case]
    with pytest.raises(bs.ArgumentError, match=r"^(out|places): "):
        walk.read([one], out, places)
    assert read(walk, [one]) == now([one])


@compiled_only
def test_the_compiled_one_is_used_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert type(reader()) is _core.Addresses
    monkeypatch.setattr(addresses._core.Addresses, "knows", lambda api: False)
    assert type(reader()) is Reader


class Liar:
    __dlpack_c_exchange_api__ = object()


class Copy:
    """Says that torch's functions describe it."""

    __dlpack_c_exchange_api__ = API


@compiled_only
@pytest.mark.parametrize("types", [(int,), (Liar,), (torch.Tensor, 3), ("Tensor",), (torch.ones(1),)])
def test_types_that_do_not_speak_it_are_refused(types: Any) -> None:
    with pytest.raises(bs.ArgumentError, match="types"):
        _core.Addresses(API, types)


@compiled_only
@pytest.mark.parametrize("api", [None, 3, "dlpack_exchange_api", object(), torch.ones(2).__dlpack__()])
def test_what_is_no_exchange_api_is_refused(api: Any) -> None:
    assert not _core.Addresses.knows(api)
    with pytest.raises(bs.ArgumentError, match="api"):
        _core.Addresses(api, (torch.Tensor,))


@compiled_only
def test_an_object_that_only_says_so_is_no_tensor() -> None:
    walk = _core.Addresses(API, (Copy,))
    assert not walk.remember([Copy()])
    assert not walk.remember([torch.ones(2)]), "of exactly the types that were given"


@compiled_only
def test_the_capsule_is_kept() -> None:
    capsule = copy.copy(API) if API is None else API
    walk = _core.Addresses(capsule, (torch.Tensor,))
    del capsule
    gc.collect()
    assert walk.remember([torch.ones(2)])


@compiled_only
def test_without_init_it_is_an_error() -> None:
    bare = _core.Addresses.__new__(_core.Addresses)
    for call in (lambda: bare.remember([]), lambda: bare.read([], array("Q"), array("Q"))):
        with pytest.raises(TypeError):
            call()
    with pytest.raises(TypeError):
        reader().remember((torch.ones(2),))  # type: ignore[arg-type]


class Meddler(torch.overrides.TorchFunctionMode):
    """Changes what is being read, from within torch."""

    def __init__(self, meddle: Callable[[], Any]) -> None:
        super().__init__()
        self.meddle = meddle

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.meddle()
        return function(*args, **(kwargs or {}))


@compiled_only
@pytest.mark.parametrize("meddle", ["remember", "forget", "read", "clear", "nothing", "raise"])
def test_python_code_that_torch_runs_in_between(meddle: str) -> None:
    walk = reader()
    tensors: list[Any] = [torch.ones(3) for _ in range(50)]
    assert walk.remember(tensors)
    moved = [torch.ones(3) for _ in range(50)]

    def act() -> None:
        if meddle == "remember":
            walk.remember([torch.ones(2)] * 1000)
        elif meddle == "forget":
            walk.remember([])
        elif meddle == "read":
            walk.read([], array("Q"), array("Q"))
        elif meddle == "clear":
            moved.clear()
        elif meddle == "raise":
            raise RuntimeError("no")

    with Meddler(act):
        found = walk.read(moved, array("Q", bytes(400)), array("Q", range(50)))
    assert found is (meddle == "nothing")


@pytest.mark.gpu
def test_memory_of_a_device(walk: Addresses) -> None:
    tensors = [torch.randn(3, 5, device="cuda:0"), torch.randn(3, 5)]
    assert walk.remember(tensors)
    assert read(walk, tensors) == now(tensors)
    assert read(walk, [tensors[1], tensors[0]]) is None
