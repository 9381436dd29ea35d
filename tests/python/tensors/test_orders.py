"""Tensors in other orders of memory: read, masked and written where they are, as row-major ones."""

from __future__ import annotations

import copy
import itertools
import math
import pickle
from collections.abc import Callable
from typing import Any

import bittersweet as bs
import numpy as np
import pytest
import torch
from bittersweet.tensors.arrays import in_memory
from bittersweet.tensors.orders import ROW_MAJOR, Order, order_of
from bittersweet.tensors.table import Table

ROLES = ("weight", "exp_avg", "exp_avg_sq", "grad", "max_exp_avg_sq")

Lay = Callable[[torch.Tensor], torch.Tensor]


def transposed(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.t().contiguous().t()


def permuted(*axes: int) -> Lay:
    """Lays a tensor so that `axes` follow one another in memory."""

    def lay(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.permute(axes).contiguous().permute([axes.index(i) for i in range(len(axes))])

    return lay


def last(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous(memory_format=torch.channels_last)


def last_3d(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous(memory_format=torch.channels_last_3d)


LAYOUTS: dict[str, tuple[tuple[int, ...], Lay, dict[str, Any]]] = {
    "conv2d": ((24, 12, 3, 3), last, {}),
    "conv3d": ((6, 8, 3, 2, 5), last_3d, {}),
    "conv in groups": (
        (12, 4, 3, 3),
        last,
        {"groups": 3},
    ),
    "conv, kernel first": ((12, 8, 3, 3), permuted(2, 3, 0, 1), {}),
    "linear": ((65, 44), transposed, {}),
    "linear of (in, out)": ((44, 65), transposed, {"in_dim": 0}),
    "transposed conv": (
        (12, 10, 3, 3),
        last,
        {"in_dim": 0},
    ),
    "experts": ((4, 8, 20), permuted(0, 2, 1), {"in_dim": 1, "kernel_dims": 0}),
    "experts, experts last": ((4, 20, 8), permuted(1, 2, 0), {}),
}
layouts = pytest.mark.parametrize("layout", LAYOUTS)


def arrays_of(layout: str, seed: int, few: bool = False, dtype: torch.dtype = torch.float32) -> Any:
    """Row-major tensors by role, and the same ones laid otherwise."""
    shape, lay, axes = LAYOUTS[layout]
    generator = torch.Generator().manual_seed(seed)
    plain = {}
    for role in ROLES:
        values = torch.randn(shape, generator=generator)
        values = values.sign() * values.abs().mul(2).round() if few else values
        plain[role] = (values.abs() if "sq" in role else values).to(dtype)
    laid = {role: lay(tensor.clone()) for role, tensor in plain.items()}
    assert not any(tensor.is_contiguous() for tensor in laid.values())
    return plain, laid, axes


def equal(found: Any, expected: Any) -> None:
    """The same masks and events, but for time and passes."""
    assert list(found) == list(expected)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.bool(), other.bool())
        assert np.array_equal(one.words, other.words)
    a, b = (event.to_dict() for event in (found.event, expected.event))
    for key in a.keys() - {"milliseconds", "passes", "extra_bytes"}:
        assert a[key] == b[key], key


# ---- which order an array is in ----


@pytest.mark.parametrize(
    "shape", [(2, 3), (4, 1, 3), (2, 3, 4), (3, 2, 1, 2), (2, 2, 2, 2), (1, 5, 1), (6,), ()]
)
def test_the_order_of_every_permutation(shape: tuple[int, ...]) -> None:
    """Against a search of all orders for the one that the addresses show."""
    numel, met = math.prod(shape), set()
    factors = [(p, q) for p in range(1, numel + 1) for q in range(1, numel + 1) if numel % (p * q) == 0]
    for axes in itertools.permutations(range(len(shape))):
        laid = np.empty([shape[axis] for axis in axes], np.float32).transpose(np.argsort(axes))
        assert laid.shape == shape
        logical = np.empty(numel, np.int64)  # by memory
        strides = tuple(stride // 4 for stride in laid.strides)
        for index, at in enumerate(np.ndindex(shape)):
            logical[sum(a * b for a, b in zip(at, strides, strict=True))] = index
        expected = [
            (p, q)
            for p, q in factors
            if np.array_equal(np.arange(numel).reshape(-1, p, q).transpose(0, 2, 1).reshape(-1), logical)
        ]
        found = order_of(shape, strides)
        assert (found is None) == (not expected), axes
        assert found is None or tuple(found) in expected
        met.add(found)
    assert ROW_MAJOR in met


def test_what_has_gaps_or_shares_memory_has_no_order() -> None:
    for shape, strides in [
        ((4, 5), (10, 2)),
        ((4, 5), (6, 1)),
        ((4, 5), (0, 1)),
        ((4, 5), (1, 5)),
        ((3,), (2,)),
    ]:
        assert order_of(shape, strides) is None
    assert order_of((4, 5), (1, 4)) == Order(4, 5)
    assert order_of((4, 1, 5), (1, 77, 4)) == Order(4, 5)
    assert order_of((4, 1), (1, 0)) == ROW_MAJOR


def test_elements_in_memory() -> None:
    tensor = transposed(torch.arange(12.0).reshape(3, 4))
    found = in_memory(tensor[:, :])
    assert found is not None and found[1] == Order(3, 4)
    assert found[0].tolist() == [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]
    behind = transposed(torch.arange(24.0).reshape(3, 8))[:, 4:]  # not at the beginning of its storage
    found = in_memory(behind)
    assert found is not None and found[0].data_ptr() == behind.data_ptr()
    assert found[0].tolist() == behind.t().reshape(-1).tolist()
    assert in_memory(torch.zeros(4, 6)[:, ::2]) is None


# ---- masks ----


@pytest.mark.parametrize(
    ("shape", "order"),
    [((3, 4), (3, 4)), ((65, 64), (65, 64)), ((130, 9), (130, 9)), ((5, 7, 9), (7, 9)), ((24, 100), (20, 6))],
)
def test_bits_come_and_go_between_orders(shape: tuple[int, ...], order: tuple[int, int]) -> None:
    keep = np.random.default_rng(1).random(shape) < 0.5
    mask = bs.Mask.from_bool(keep, "w")
    p, q = order
    moved = mask.ordered(Order(p, q))
    memory = keep.reshape(-1, p, q).transpose(0, 2, 1).reshape(-1)
    assert np.array_equal(moved.held, bs.Mask.from_bool(np.ascontiguousarray(memory), "w").words)
    assert moved.order == order and mask.ordered(ROW_MAJOR) is mask and moved.ordered(Order(p, q)) is moved
    assert np.array_equal(moved.words, mask.words) and np.array_equal(moved.to_host(), mask.words)
    assert moved.words is moved.words and not moved.words.flags.writeable
    assert np.array_equal(moved.bool(), keep) and moved.kept() == np.count_nonzero(keep)
    assert moved == mask and mask == moved and moved == mask.ordered(Order(p, q))
    assert moved.sparsity() == mask.sparsity() and moved.nbytes == mask.nbytes and repr(moved) == repr(mask)
    other = moved.ordered(Order(q, p))
    assert other == mask and not np.array_equal(other.held, moved.held)
    for made in (copy.copy(moved), copy.deepcopy(moved), pickle.loads(pickle.dumps(moved))):
        assert made == mask and made.order == ROW_MAJOR and np.array_equal(made.bool(), keep)
    assert bs.Masks([moved]).words[0] is moved.words


def test_an_order_that_does_not_fit_is_refused() -> None:
    mask = bs.Mask.full((4, 6), "w", "numpy")
    for order in ((5, 2), (0, 4), (-2, -3), (24, 2), (2**62, 8)):
        with pytest.raises(bs.LayoutError, match="order"):
            mask.ordered(Order(*order))


# ---- functions ----


@layouts
@pytest.mark.parametrize("few", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_masks_are_those_of_row_major_copies(layout: str, few: bool, dtype: torch.dtype) -> None:
    plain, laid, axes = arrays_of(layout, 1, few, dtype)
    keep = torch.rand(LAYOUTS[layout][0], generator=torch.Generator().manual_seed(2)) < 0.8
    mask = bs.Mask.from_bool(keep)
    own = in_memory(laid["weight"])
    assert own is not None
    masks = [None, keep, mask, mask.ordered(own[1]), mask.ordered(Order(2, 2))]
    for scope, scorer in itertools.product(
        ("global", "tensor", "row", "2:4"), ("bitter7", "magnitude", "taylor")
    ):
        for regrow, at in itertools.product((False, True), range(len(masks))):
            options = {"scope": scope, "scorer": scorer, "regrow": regrow}
            if scope != "2:4":
                options["sparsity"] = 0.6
            expected = bs.make_masks(bs.ScoreInputs(**plain, mask=masks[at and 1], **axes), **options)
            found = bs.make_masks(bs.ScoreInputs(**laid, mask=masks[at], **axes), **options)
            equal(found, expected)
            assert found[0].order == own[1]


@layouts
@pytest.mark.parametrize(
    "selector", ["exact", "histogram", "kthvalue", bs.Sampling(0.5, by="element"), bs.Streaming(tolerance=0)]
)
def test_every_selector(layout: str, selector: Any) -> None:
    plain, laid, axes = arrays_of(layout, 3)
    found = [
        bs.threshold(bs.ScoreInputs(**arrays, **axes), sparsity=0.37, selector=selector).value
        for arrays in (plain, laid)
    ]
    assert found[0] == found[1]


@layouts
def test_wanda_and_random_go_by_the_logical_index(layout: str) -> None:
    plain, laid, axes = arrays_of(layout, 4)
    features = Table([bs.ScoreInputs(plain["weight"], **axes)]).data
    norm = torch.rand(_features(features))
    for scorer, scope in itertools.product(("wanda", "random"), ("global", "row")):
        expected, found = (
            bs.make_masks(
                bs.ScoreInputs(**arrays, input_norm=norm, **axes), sparsity=0.5, scorer=scorer, scope=scope
            )
            for arrays in (plain, laid)
        )
        equal(found, expected)


def _features(data: Any) -> int:
    from bittersweet.tensors.masks import COLUMN

    return int(data[COLUMN["blocks"]] * data[COLUMN["inputs"]])


@layouts
@pytest.mark.parametrize("few", [False, True])
def test_writes_go_where_the_tensors_are(layout: str, few: bool) -> None:
    plain, laid, axes = arrays_of(layout, 5, few)
    places = {role: (tensor.data_ptr(), tensor.stride(), tensor._version) for role, tensor in laid.items()}
    for arrays in (plain, laid):
        bs.prune_(
            bs.ScoreInputs(**arrays, **axes), sparsity=0.5, mask_optimizer_state=True, scorer="magnitude"
        )
    for role, tensor in laid.items():
        assert torch.equal(tensor, plain[role]), role
        pointer, strides, version = places[role]
        assert (tensor.data_ptr(), tensor.stride()) == (pointer, strides)
        assert (tensor._version > version) == (role != "grad")
    mask = bs.make_masks(bs.ScoreInputs(**laid, **axes), sparsity=0.8, scorer="gradient")[0]
    assert bs.count_violations(bs.ScoreInputs(**laid, **axes), mask) != {"tensor0": 0}
    for arrays in (plain, laid):
        bs.apply_masks_(bs.ScoreInputs(**arrays, **axes), mask, roles=ROLES)
        assert bs.count_violations(bs.ScoreInputs(**arrays, **axes), mask, roles=ROLES) == {"tensor0": 0}
    assert all(torch.equal(laid[role], plain[role]) for role in ROLES)


@layouts
def test_nothing_is_copied(layout: str) -> None:
    _, laid, axes = arrays_of(layout, 6)
    table = Table([bs.ScoreInputs(**laid, **axes)], writes=ROLES)
    assert not table.relaid and table.copied_bytes == 0 and table.orders[0] != ROW_MAJOR
    assert Table([bs.ScoreInputs(**laid, **axes)], writes=ROLES, row_major=True).copied_bytes == sum(
        tensor.nbytes for tensor in laid.values()
    )


@layouts
@pytest.mark.parametrize("odd", ["weight", "exp_avg_sq", "grad"])
def test_only_the_odd_one_is_copied(layout: str, odd: str) -> None:
    plain, laid, axes = arrays_of(layout, 7, True)
    mixed = {**laid, odd: plain[odd].clone()}
    table = Table([bs.ScoreInputs(**mixed, **axes)], writes=ROLES)
    others = sum(tensor.nbytes for role, tensor in laid.items() if role != odd)
    assert table.relaid and table.copied_bytes == (others if odd == "weight" else laid[odd].nbytes)
    for arrays in (plain, mixed):
        mask = bs.make_masks(bs.ScoreInputs(**arrays, **axes), sparsity=0.5, scorer="taylor")[0]
        bs.apply_masks_(bs.ScoreInputs(**arrays, **axes), mask, roles=ROLES)
    assert all(torch.equal(mixed[role], plain[role]) for role in ROLES)
    assert mixed[odd].is_contiguous()


def test_orders_that_no_engine_knows_are_copied() -> None:
    plain = torch.randn(4, 6, 5)
    for lay in (permuted(2, 1, 0), permuted(1, 0, 2)):
        laid = lay(plain.clone())
        table = Table([bs.ScoreInputs(laid)], writes=("weight",))
        assert table.relaid and table.orders == [ROW_MAJOR]
        expected = plain.clone()
        for weight in (expected, laid):
            bs.prune_(bs.ScoreInputs(weight), sparsity=0.5, scorer="magnitude")
        assert torch.equal(laid, expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_numpy_arrays(dtype: Any) -> None:
    random = np.random.default_rng(0)
    plain = random.standard_normal((30, 44)).astype(dtype)
    fortran, state = np.asfortranarray(plain), np.asfortranarray(random.random((30, 44), np.float32))
    odd = np.ascontiguousarray(state)
    table = Table([bs.ScoreInputs(fortran, exp_avg_sq=state)], writes=("weight", "exp_avg_sq"))
    assert table.orders == [(30, 44)] and not table.relaid
    for v in (state, odd):
        found = bs.make_masks(bs.ScoreInputs(fortran, exp_avg_sq=v), sparsity=0.5)
        expected = bs.make_masks(bs.ScoreInputs(plain, exp_avg_sq=odd), sparsity=0.5)
        assert np.array_equal(found[0].bool(), expected[0].bool()) and found == expected
    shifted = np.frombuffer(b"\0" + fortran.tobytes("F"), np.uint8)[1:].view(dtype).reshape(44, 30).T
    assert not shifted.flags.aligned and not shifted.flags.c_contiguous
    assert bs.make_masks(bs.ScoreInputs(shifted, exp_avg_sq=state), sparsity=0.5) == expected


def test_one_sequence_of_several_layouts() -> None:
    """Ties go by (tensor, logical index) across tensors in different orders."""
    plain, laid = [], []
    for at, layout in enumerate((*LAYOUTS, *LAYOUTS)):
        one, other, axes = arrays_of(layout, 8 + at, few=True)
        plain.append(bs.ScoreInputs(one["weight"], **axes))
        laid.append(bs.ScoreInputs(other["weight"] if at % 3 else one["weight"], **axes))
    total = sum(item.weight.numel() for item in plain)
    for k in (*range(0, total, total // 23), total):
        equal(bs.make_masks(laid, k=k, scorer="magnitude"), bs.make_masks(plain, k=k, scorer="magnitude"))
        for scope in ("tensor", "row"):
            sparsity = k / total
            equal(
                bs.make_masks(laid, sparsity=sparsity, scope=scope, scorer="magnitude"),
                bs.make_masks(plain, sparsity=sparsity, scope=scope, scorer="magnitude"),
            )


def test_a_nan_is_named_by_its_logical_index() -> None:
    weight = torch.randn(9, 7)
    weight[2, 5] = weight[6, 1] = math.nan
    messages = []
    for one in (weight, transposed(weight)):
        with pytest.raises(bs.NonFiniteScoreError, match="flat index 19") as caught:
            bs.make_masks(bs.ScoreInputs(one), sparsity=0.5, scorer="magnitude")
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
