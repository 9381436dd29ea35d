"""Packed layers on CUDA: their bits are the CPU's, and torch's ways with a module lead there and back.

Tests with `cuda` run with the CPU engine in the place of the CUDA engine, with the CUDA engine's kernels on
the emulator, and on a GPU where there is one. What is packed on the CPU is packed inside `on_cpu`.
"""

from __future__ import annotations

import copy
import sys
import types
import weakref
from pathlib import Path
from typing import Any

import bittersweet as bs
import pytest
import torch
from bittersweet import sparse
from bittersweet.sparse import layouts, strips, strips_on_cuda
from sparse_support import DTYPES, Conv1D, bits, model_of, nasty_weight, same_bits, sparse_linear
from torch import nn

SHAPES = ((1, 1), (16, 32), (35, 70), (45, 300), (260, 40), (3, 0), (0, 5))
both = pytest.mark.parametrize("layout", layouts.LAYOUTS)


def nasty_layer(rows: int, columns: int, dtype: torch.dtype, bias: bool = True) -> nn.Linear:
    layer = nn.Linear(columns, rows, bias=bias, dtype=dtype)
    layer.weight.data = nasty_weight(rows, columns, dtype)
    return layer


@pytest.mark.filterwarnings("ignore:Initializing zero-element")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@both
def test_packed_and_unpacked_bit_for_bit(
    cuda: Any, layout: str, shape: tuple[int, int], dtype: torch.dtype
) -> None:
    layer = nasty_layer(*shape, dtype)
    with cuda.on_cpu():
        here = sparse.SparseLinear.from_linear(layer, layout=layout)
    there = sparse.SparseLinear.from_linear(cuda.put(copy.deepcopy(layer)), layout=layout)
    assert (there.layout, there.live, there.density) == (layout, here.live, here.density)
    (marks, _, places), (own_marks, _, own_places) = here._packed(), there._packed()
    assert torch.equal(own_marks.cpu(), marks) and torch.equal(own_places.cpu(), places)
    assert same_bits(there.values.cpu(), here.values)
    dense: Any = there.to_linear()
    assert dense.weight.device == there.values.device and same_bits(dense.weight.cpu(), layer.weight)
    assert torch.equal(there.kept().cpu(), bits(layer.weight) != 0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch", [(), (1,), (3,), (2, 5), (0,), (16,), (18,)])
@both
def test_products_have_the_bits_of_the_cpu(
    cuda: Any, layout: str, batch: tuple[int, ...], dtype: torch.dtype
) -> None:
    layer = sparse_linear(300, 45, dtype, 0.9)
    x = torch.randn(*batch, 300, generator=torch.Generator().manual_seed(3)).to(dtype)
    if x.numel():
        x.view(-1)[[3, 7, 11]] = torch.tensor((float("inf"), float("nan"), -0.0), dtype=dtype)
    with cuda.on_cpu(), torch.inference_mode():
        expected = sparse.SparseLinear.from_linear(layer, layout=layout, reproducible=True)(x)
    packed = sparse.SparseLinear.from_linear(cuda.put(layer), layout=layout, reproducible=True)
    assert packed.batch_limit is None
    with torch.inference_mode():
        found = packed(cuda.put(x))
        assert found.device == packed.values.device and same_bits(found.cpu(), expected)
        packed.reproducible = False  # up to the limit that is the order all the same
        assert packed.batch_limit == 16
        if x.numel() <= 16 * 300:
            assert same_bits(packed(cuda.put(x)).cpu(), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("layout", "rows"), [("strips", 77), ("delta", 300)])
def test_more_rows_than_the_limit_meet_dense_tiles(
    cuda: Any, layout: str, rows: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    layouts._on_cuda.cache_clear()
    monkeypatch.setattr(strips_on_cuda, "TILE_BYTES", 20 * 130 * dtype.itemsize)  # 16 of 77, 256 of 300 rows
    dense = cuda.put(sparse_linear(130, rows, dtype))
    packed = sparse.SparseLinear.from_linear(dense, layout=layout)
    assert packed.batch_limit == 16
    x = cuda.put(torch.randn(17, 130, generator=torch.Generator().manual_seed(4)).to(dtype))
    with torch.inference_mode():
        torch.testing.assert_close(packed(x), dense(x))
    layouts._on_cuda.cache_clear()


@both
def test_gradients_reach_inputs_and_bias(cuda: Any, layout: str) -> None:
    layer = sparse_linear(130, 77)
    start = torch.randn(2, 3, 130, generator=torch.Generator().manual_seed(5))
    with cuda.on_cpu():
        here = sparse.SparseLinear.from_linear(copy.deepcopy(layer), layout=layout)
        x = start.clone().requires_grad_()
        here(x).square().sum().backward()
    there = sparse.SparseLinear.from_linear(cuda.put(copy.deepcopy(layer)), layout=layout)
    y = cuda.put(start).requires_grad_()
    there(y).square().sum().backward()
    assert x.grad is not None and y.grad is not None and there.bias is not None and here.bias is not None
    torch.testing.assert_close(y.grad.cpu(), x.grad)
    torch.testing.assert_close(there.bias.grad.cpu(), here.bias.grad)
    assert all(not buffer.requires_grad for buffer in there.buffers())


@both
def test_masks_from_anywhere_decide_what_is_stored(cuda: Any, layout: str) -> None:
    weight = torch.zeros(20, 70)
    weight[3, 5], weight[19, 69] = 1.0, 2.0
    keep = torch.zeros(20, 70, dtype=torch.bool)
    keep[3, 5] = keep[7, 0] = keep[19, 69] = True  # a kept 0
    with cuda.on_cpu():
        of_host = bs.Mask.from_bool(keep)
    for mask in (of_host, cuda.put(keep)):
        layer = cuda.put(nn.Linear(70, 20))
        layer.weight.data = cuda.put(weight)
        model = model_of(layer)
        report = sparse.pack_(model, {"0.weight": mask}, layout=layout)
        assert model[0].live == 3 and torch.equal(model[0].kept().cpu(), keep)
        assert report.layers[0].choice == f"{layout}, as asked"
        assert sparse.unpack_(model) == ["0"] and same_bits(model[0].weight.cpu(), weight)
    keep[3, 5] = False
    model = model_of(layer)
    with pytest.raises(bs.ArgumentError, match=r"masks: '0.weight': keep: 1 elements.*not \+0"):
        sparse.pack_(model, {"0.weight": cuda.put(keep)}, layout=layout)
    assert model[0] is layer


def test_conv1d_and_what_a_report_says(cuda: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("transformers.pytorch_utils")
    module.Conv1D = Conv1D  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "transformers.pytorch_utils", module)
    conv = Conv1D(20, 40)
    conv.weight.data = nasty_weight(40, 20, torch.float32)
    keep = bits(conv.weight) != 0
    model = model_of(cuda.put(copy.deepcopy(conv)), cuda.put(sparse_linear(40, 30, sparsity=0.02)))
    report = sparse.pack_(model, {"0.weight": cuda.put(keep)})
    assert report.packed == ["0"] and "below 0.1" in report.left["1"]
    assert report.layers[0].batch_limit == 16 and report.layers[0].bytes == model[0].nbytes
    sparse.unpack_(model)
    assert type(model[0]) is Conv1D and same_bits(model[0].weight.cpu(), conv.weight)


def test_auto_takes_delta_where_the_cpu_does_for_one_row(cuda: Any) -> None:
    model = model_of(*(cuda.put(sparse_linear(64, 64, sparsity=sparsity)) for sparsity in (0.85, 0.95)))
    report = sparse.pack_(model, batch=16)
    assert [layer.layout for layer in model] == [row.layout for row in report.layers] == ["strips", "delta"]
    for layer, row in zip(model, report.layers, strict=True):
        assert row.choice == f"{layer.layout}, as the CPU does for 1 row: delta from 90% zeros on"
        assert f"{row.choice} (1 layer)" in str(report)
        assert row.bytes == layer.nbytes


@both
@pytest.mark.parametrize("before", layouts.LAYOUTS)
def test_states_are_checked_and_loaded(cuda: Any, before: str, layout: str) -> None:
    layers = [sparse_linear(130, 77, sparsity=sparsity) for sparsity in (0.6, 0.9)]
    with cuda.on_cpu():
        state = sparse.SparseLinear.from_linear(layers[1], layout=layout).state_dict()
    packed = sparse.SparseLinear.from_linear(cuda.put(copy.deepcopy(layers[0])), layout=before)
    marks = layouts.ARRAYS[layout][0]
    damaged = {**state, marks: state[marks].clone()}
    damaged[marks][5] ^= 1
    with pytest.raises(RuntimeError, match=r"offsets are|no permutation"):
        packed.load_state_dict({name: cuda.put(tensor) for name, tensor in damaged.items()})
    assert packed.layout == before and same_bits(packed.to_dense().cpu(), layers[0].weight)
    packed.load_state_dict(state)
    again = copy.deepcopy(packed)
    for one in (packed, again):
        assert one.layout == layout and one.values.device == cuda.put(torch.zeros(1)).device
        assert same_bits(one.to_dense().cpu(), layers[1].weight)


def test_a_state_is_checked_by_copies_that_live(host_cuda: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a device `.cpu()` makes new tensors, which a check by addresses must not outlive."""
    layer = sparse.SparseLinear.from_linear(sparse_linear(130, 77, bias=False))
    marks, values, offsets = (layer.state_dict()[name] for name in ("masks", "values", "offsets"))
    copies: list[weakref.ref[torch.Tensor]] = []

    def cpu(tensor: torch.Tensor) -> torch.Tensor:
        made = tensor.clone()
        copies.append(weakref.ref(made))
        return made

    monkeypatch.setattr(torch.Tensor, "cpu", cpu)
    alive = []
    right = layouts._CHECKS["strips"]
    monkeypatch.setitem(
        layouts._CHECKS, "strips", lambda at: (alive.extend(copy() is not None for copy in copies), right(at))
    )
    layouts.check("strips", marks, values, offsets, 77, 130)
    assert alive == [True, True]


@pytest.mark.parametrize("packed_before", [False, True])
def test_files_load_where_the_model_is(cuda: Any, tmp_path: Path, packed_before: bool) -> None:
    pytest.importorskip("safetensors")
    dense = model_of(sparse_linear(40, 50), nn.GELU(), sparse_linear(50, 20, sparsity=0.95, bias=False))
    path = str(tmp_path / "small.safetensors")
    with cuda.on_cpu():
        source = copy.deepcopy(dense)
        sparse.pack_(source)
        sparse.save_compressed(source, path)
    model = cuda.put(model_of(sparse_linear(40, 50), nn.GELU(), sparse_linear(50, 20, bias=False)))
    if packed_before:
        sparse.pack_(model)
    first = model[0]
    with pytest.raises(bs.ArgumentError, match="layout"):
        sparse.load_compressed(path, model, layout={"absent": "delta"})
    assert model[0] is first
    report = sparse.load_compressed(path, model)
    assert [row.layout for row in report.layers] == ["strips", "delta"]
    assert report.layers[1].choice.startswith("delta, as the CPU does")
    for one, other in ((model[0], dense[0]), (model[2], dense[2])):
        assert isinstance(one, sparse.SparseLinear)
        assert same_bits(one.to_dense().cpu(), other.weight)
    if not packed_before:
        sparse.unpack_(model)
        assert all(
            torch.equal(a.cpu(), b) for a, b in zip(model.parameters(), dense.parameters(), strict=True)
        )


def test_tensors_of_two_devices_are_refused(host_cuda: Any) -> None:
    packed = sparse.SparseLinear.from_linear(sparse_linear(40, 30))
    x = torch.randn(2, 40)
    host_cuda.devices[x.data_ptr()] = 1
    with pytest.raises(bs.DeviceError, match=r"input of a packed layer: on .*all on one device"):
        packed(x)


def test_arrays_that_do_not_fit_together_are_refused(cuda_emulated: Any) -> None:
    packed = sparse.SparseLinear.from_linear(sparse_linear(600, 45), layout="delta")
    codes, length, *rest = strips.arrays(*packed._packed(), 45, 600)
    values, count, *others = rest
    for at, named in (
        ((codes, length - 1, *rest), "codes"),
        ((codes, length, values, count + 1, *others), "values"),
        ((codes, length, values, count + 32, *others), "codes"),
        ((codes, length, values, count, others[0], others[1] - 1, *others[2:]), "offsets"),
    ):
        with pytest.raises(bs.LayoutError, match=f"packed weight: .* {named}"):
            cuda_emulated.cuda_unpack_delta((0, 7), at, 0, 45, 16)


@both
def test_a_layer_is_moved_as_it_is(host_cuda: Any, layout: str) -> None:
    with host_cuda.on_cpu():
        packed = sparse.SparseLinear.from_linear(sparse_linear(40, 30), layout=layout, reproducible=True)
        expected = packed(torch.ones(2, 40))
    assert packed.to("cpu") is packed  # the device, here
    assert same_bits(packed(torch.ones(2, 40)), expected)


def test_a_build_without_cuda_says_so(host_cuda: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    native = types.SimpleNamespace(CUDA_BUILT=False)
    layer = sparse_linear(40, 30)
    with host_cuda.on_cpu():
        packed = sparse.SparseLinear.from_linear(layer)
    monkeypatch.setattr(host_cuda, "native", native)
    model = model_of(layer)
    assert "no CUDA engine" in sparse.pack_(model).left["0"] and model[0] is layer
    for refused in (lambda: packed.to("cpu"), lambda: sparse.SparseLinear.from_linear(layer)):
        with pytest.raises(bs.DeviceError, match="no CUDA engine"):
            refused()


@pytest.mark.gpu
@both
def test_layers_move_to_a_gpu_and_back(layout: str) -> None:
    model = model_of(sparse_linear(40, 50), nn.GELU(), sparse_linear(50, 20))
    sparse.pack_(model, layout=layout, reproducible=True)
    x = torch.randn(20, 40)
    with torch.no_grad():
        expected = model(x)
        there: Any = model.cuda()
        assert all(tensor.is_cuda for tensor in there.state_dict().values())
        torch.testing.assert_close(there(x.cuda()).cpu(), expected)
        assert same_bits(there[0](x.cuda()).cpu(), copy.deepcopy(there[0]).cpu()(x))
        with torch.autocast("cuda", torch.float16):
            torch.testing.assert_close(there.half()(x.cuda()).cpu().float(), expected, rtol=1e-2, atol=1e-2)
        with pytest.raises(bs.DeviceError, match="all on one device"):
            there(x.half())
        torch.testing.assert_close(there.cpu().float()(x), expected, rtol=1e-2, atol=1e-2)


@pytest.mark.gpu
@both
def test_products_are_captured_and_compiled(layout: str) -> None:
    layer = sparse_linear(130, 77).cuda()
    packed = sparse.SparseLinear.from_linear(layer, layout=layout)
    x = torch.randn(40, 130, device="cuda")
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.inference_mode():
        with torch.cuda.stream(side):
            packed(x), packed(x[:3])
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            many, few = packed(x), packed(x[:3])
        x.copy_(torch.randn(40, 130))
        graph.replay()
        assert same_bits(few.cpu(), packed(x[:3]).cpu())
        torch.testing.assert_close(many, layer(x))
    compiled = torch.compile(packed, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x[:3]), packed(x[:3]))


def test_operators_are_there_for_both_devices() -> None:
    for name in ("packed_linear", "packed_linear_no_grad", "unpack_strips"):
        for key in ("CPU", "CUDA"):
            assert torch._C._dispatch_has_kernel_for_dispatch_key(f"bittersweet::{name}", key)
