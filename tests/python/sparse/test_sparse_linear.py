"""`SparseLinear`: products beside float64, and everything that torch does with a module."""

from __future__ import annotations

import copy
import io
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
from typing import Any

import bittersweet as bs
import pytest
import torch
from bittersweet import sparse
from bittersweet.sparse import layouts, ops
from sparse_support import DTYPES, model_of, same_bits, sparse_linear
from torch import nn


@pytest.fixture(params=layouts.LAYOUTS, autouse=True)
def layout(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """That of `packed_and_dense` and `small_model`: every test runs with each."""
    monkeypatch.setitem(ASKED, "layout", request.param)
    return str(request.param)


ASKED = {"layout": "auto"}


def packed_and_dense(
    inputs: int = 130, outputs: int = 77, dtype: torch.dtype = torch.float32, bias: bool = True
) -> tuple[sparse.SparseLinear, nn.Linear]:
    dense = sparse_linear(inputs, outputs, dtype, bias=bias)
    return sparse.SparseLinear.from_linear(dense, **ASKED), dense


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch", [(), (1,), (3,), (2, 5), (0,), (8,), (9,), (64,), (65,), (3, 100)])
def test_products_are_those_of_float64(batch: tuple[int, ...], dtype: torch.dtype, bias: bool) -> None:
    packed, dense = packed_and_dense(dtype=dtype, bias=bias)
    x = torch.randn(*batch, 130).to(dtype)
    with torch.inference_mode():
        y = packed(x)
        exact = dense.double()(x.double())
    assert y.dtype == dtype
    assert y.shape == (*batch, 77)
    tolerance = 1e-5 if dtype == torch.float32 else 0.6 * torch.finfo(dtype).eps
    torch.testing.assert_close(y.double(), exact, rtol=tolerance, atol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_large_batches_go_over_several_tiles(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    for layout, kernels in layouts._KERNELS.items():
        few = kernels._replace(tile_bytes=20 * 130 * dtype.itemsize)  # 16 rows a tile of strips
        monkeypatch.setitem(layouts._KERNELS, layout, few)
    monkeypatch.setattr(ops, "limit_of", lambda *_: 3)
    packed, dense = packed_and_dense(dtype=dtype)
    x = torch.randn(80, 130).to(dtype)
    with torch.inference_mode():
        torch.testing.assert_close(packed(x), dense(x))


@pytest.mark.parametrize("layout", ["strips", "delta"])
def test_rows_do_not_depend_on_the_batch_or_the_threads(layout: str) -> None:
    dense = sparse_linear(600, 700, torch.bfloat16)
    packed = sparse.SparseLinear.from_linear(dense, layout=layout, reproducible=True)
    assert packed.batch_limit is None
    x = torch.randn(70, 600).bfloat16()
    number = torch.get_num_threads()
    with torch.inference_mode():
        whole = packed(x)
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            assert all(same_bits(packed(x[i : i + 1]), whole[i : i + 1]) for i in range(len(x)))
    torch.set_num_threads(number)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_threads_do_not_show_in_any_batch_up_to_the_limit(dtype: torch.dtype) -> None:
    packed, _ = packed_and_dense(600, 700, dtype)
    number = torch.get_num_threads()
    limit = packed.batch_limit or 300
    with torch.inference_mode():
        for rows in sorted({min(rows, limit) for rows in (2, 8, 20, 300)}):
            x = torch.randn(rows, 600).to(dtype)
            found = []
            for threads in (1, 3):
                torch.set_num_threads(threads)
                found.append(packed(x))
            assert same_bits(*found)
    torch.set_num_threads(number)


def test_limits_of_the_portable_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops._core, "strips_isa", lambda: "portable")
    assert [ops.batch_limit(dtype) for dtype in DTYPES] == [32, 8, 16]
    report = sparse.pack_(model_of(sparse_linear(64, 64)))
    assert report.layers[0].batch_limit == 32
    assert "Inputs of up to 32 rows" in str(report)


@pytest.mark.parametrize(("forced", "used"), [("portable", "portable"), ("v3", "v3"), ("v4", "v4")])
def test_a_forced_instruction_set_is_used(forced: str, used: str) -> None:
    if forced != "portable" and bs.build_info()["isa"] not in (forced, "v4"):
        pytest.skip(f"{forced} does not run here")
    code = "from bittersweet import _core; print(_core.strips_isa())"
    environment = {**os.environ, "BITTERSWEET_CPU_ISA": forced}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == used, done.stderr


@pytest.mark.parametrize("reproducible", [True, False])
def test_reproducible_is_handed_on(reproducible: bool) -> None:
    model = model_of(sparse_linear(64, 64, torch.bfloat16))
    report = sparse.pack_(model, reproducible=reproducible)
    assert model[0].reproducible is reproducible
    assert report.layers[0].batch_limit == model[0].batch_limit
    with pytest.raises(bs.ArgumentError, match="reproducible"):
        sparse.pack_(model_of(sparse_linear(8, 8)), reproducible=1)  # type: ignore[arg-type]


def test_inputs_of_any_layout() -> None:
    packed, dense = packed_and_dense()
    x = torch.randn(130, 6).t()
    expanded = torch.randn(1, 130).expand(4, 130)
    with torch.inference_mode():
        torch.testing.assert_close(packed(x), dense(x))
        torch.testing.assert_close(packed(expanded), dense(expanded))


def test_gradients_reach_inputs_and_bias() -> None:
    packed, dense = packed_and_dense()
    x = torch.randn(2, 3, 130, requires_grad=True)
    dense_bias = nn.Parameter(dense.bias.detach().clone())
    packed(x).square().sum().backward()
    found, found_bias = x.grad, packed.bias.grad
    x.grad = None
    nn.functional.linear(x, dense.weight, dense_bias).square().sum().backward()
    torch.testing.assert_close(found, x.grad, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(found_bias, dense_bias.grad, rtol=1e-4, atol=1e-3)
    assert all(not buffer.requires_grad for buffer in packed.buffers())


@pytest.mark.parametrize(
    ("x", "error"),
    [
        (torch.randn(2, 129), bs.ShapeError),
        (torch.tensor(1.0), bs.ShapeError),
        (torch.randn(2, 130).double(), bs.DTypeError),
        (torch.randn(2, 130).bfloat16(), bs.DTypeError),
    ],
)
def test_wrong_inputs_are_named(x: torch.Tensor, error: type[Exception]) -> None:
    packed, _ = packed_and_dense()
    with torch.inference_mode(), pytest.raises(error, match="packed layer"):
        packed(x)


def test_autocast_converts_the_input() -> None:
    packed, dense = packed_and_dense(dtype=torch.bfloat16)
    x = torch.randn(3, 130)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(packed(x), dense(x))


# ---- torch's ways with a module ----


def small_model() -> tuple[nn.Sequential, nn.Sequential]:
    dense = model_of(sparse_linear(40, 50), nn.GELU(), sparse_linear(50, 20, bias=False))
    model = copy.deepcopy(dense)
    sparse.pack_(model, **ASKED)
    return model, dense


@pytest.mark.slow
def test_compile_without_graph_breaks() -> None:
    torch._dynamo.reset()  # what other tests compiled counts towards the limit of compiling again
    model, dense = small_model()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for grad in (torch.no_grad, torch.inference_mode):
        with grad():
            for rows in (1, 7):
                torch.testing.assert_close(
                    compiled(torch.randn(rows, 40) * 0 + 1), dense(torch.ones(rows, 40))
                )
    x = torch.randn(3, 40, requires_grad=True)
    compiled(x).sum().backward()
    assert x.grad is not None


@pytest.mark.slow
def test_export_with_a_dynamic_batch() -> None:
    model, dense = small_model()
    x = torch.randn(4, 40)
    with torch.no_grad():
        program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
        again = torch.export.load(_saved(program))
        wide = torch.randn(100, 40)
        torch.testing.assert_close(program.module()(wide), dense(wide))
        torch.testing.assert_close(again.module()(x), dense(x))


def _saved(program: Any) -> io.BytesIO:
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    return file


def test_operators_keep_torchs_rules() -> None:
    packed, _ = packed_and_dense(40, 24)
    arrays = packed._packed()
    x = torch.randn(3, 40, requires_grad=True)
    tests = ("test_schema", "test_faketensor")
    torch.library.opcheck(
        torch.ops.bittersweet.packed_linear.default, (x, *arrays, packed.bias, 24, 40, True), test_utils=tests
    )
    torch.library.opcheck(torch.ops.bittersweet.unpack_strips.default, (*arrays, 24, 40), test_utils=tests)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_and_pickles(copied: Any) -> None:
    model, _ = small_model()
    again = copied(model)
    x = torch.randn(2, 40)
    with torch.inference_mode():
        assert torch.equal(again(x), model(x))
    sparse.unpack_(again)
    assert same_bits(again[0].weight, model[0].to_dense())


def test_threads_of_python() -> None:
    model, _ = small_model()
    xs = [torch.randn(100 if i % 2 else 2, 40) for i in range(8)]
    with torch.inference_mode():
        expected = [model(x) for x in xs]
    found: dict[int, torch.Tensor] = {}

    def work(i: int) -> None:
        with torch.inference_mode():
            for _ in range(20):
                found[i] = model(xs[i])

    workers = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert all(torch.equal(found[i], expected[i]) for i in range(8))


def _in_a_child(model: nn.Module, x: torch.Tensor, queue: Any) -> None:
    with torch.inference_mode():
        queue.put(model(x).numpy())


def test_after_a_fork() -> None:
    packed, _ = packed_and_dense(1024, 1024)
    x = torch.randn(2, 1024)
    with torch.inference_mode():
        expected = packed(x)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_in_a_child, args=(packed, x, queue))
    child.start()
    found = queue.get(timeout=60)
    child.join()
    assert torch.equal(torch.from_numpy(found), expected)


# ---- state and conversion ----


def test_state_of_another_number_of_weights_loads() -> None:
    packed, _ = packed_and_dense()
    dense = sparse_linear(130, 77, sparsity=0.9)
    other = sparse.SparseLinear.from_linear(dense)
    packed.load_state_dict(other.state_dict())
    assert same_bits(packed.to_dense(), dense.weight)
    assert (packed.layout, packed.live) == (other.layout, other.live)


@pytest.mark.parametrize("name", ["first", "values", "offsets"])
def test_damaged_state_is_refused(name: str) -> None:
    packed, _ = packed_and_dense()
    before = packed.to_dense()
    state = {key: value.clone() for key, value in packed.state_dict().items()}
    if name == "first":
        state[layouts.ARRAYS[packed.layout][0]][5] ^= 1
    elif name == "offsets":
        state["offsets"][1] += 1
    else:
        state["values"] = state["values"][:-1]
    with pytest.raises(RuntimeError, match=r"apart|speak of|permutation|ascend"):
        packed.load_state_dict(state)
    assert same_bits(packed.to_dense(), before)


def test_missing_state_is_named() -> None:
    packed, _ = packed_and_dense()
    state = packed.state_dict()
    del state["values"]
    with pytest.raises(RuntimeError, match="values"):
        packed.load_state_dict(state)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("name", ["masks", "values", "offsets"])
def test_one_array_alone_is_refused(name: str, strict: bool) -> None:
    """Other masks over the old values would be read beyond their end."""
    packed, _ = packed_and_dense()
    other = sparse.SparseLinear.from_linear(sparse_linear(130, 77, sparsity=0.0))
    before = {key: value.clone() for key, value in packed.state_dict().items()}
    with pytest.raises(RuntimeError, match=f"found {name} alone"):
        packed.load_state_dict({name: getattr(other, name)}, strict)
    assert all(torch.equal(before[key], value) for key, value in packed.state_dict().items())


def test_conversion() -> None:
    packed, dense = packed_and_dense()
    packed.bfloat16()
    assert same_bits(packed.to_dense(), dense.weight.bfloat16())
    x = torch.randn(2, 130).bfloat16()
    with torch.inference_mode():
        torch.testing.assert_close(packed(x), dense.bfloat16()(x))
    with pytest.raises(bs.DTypeError, match="float64"):
        packed.double()
    assert packed.values.dtype == torch.bfloat16


def test_repr_says_layout_bytes_and_density(layout: str) -> None:
    packed, _ = packed_and_dense()
    text = repr(packed)
    assert f"layout='{layout}'" in text
    assert f"density={packed.density:.3f}" in text
    assert f"bytes={packed.nbytes:,}" in text
    assert "float32" in text
