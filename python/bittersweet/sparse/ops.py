"""The operators of packed matrices, ``torch.ops.bittersweet.*``: eager, in torch.compile and torch.export.

On the CPU any number of rows of x is multiplied as strips, and some as delta. Only where that is slower do
more than `batch_limit` rows meet dense tiles: some hundred rows of the weight at a time are unpacked into a
scratch that stays in the cache, for torch's own product. On CUDA devices everything is enqueued on torch's
current stream, and more rows than one launch takes, of either layout, meet dense tiles likewise.

The tensor `masks` of an operator is the first of either layout: masks of strips, or codes of delta.
"""

from __future__ import annotations

import threading
from typing import Any, cast

import torch

from .. import _core
from ..errors import DeviceError, DTypeError, ShapeError
from ..tensors import devices, threads
from ..tensors.devices import HOST
from . import delta, layouts, strips, strips_on_cuda

_scratch = threading.local()

_ARRAYS = "Tensor masks, Tensor values, Tensor offsets"
_LINEAR = f"(Tensor x, {_ARRAYS}, Tensor? bias, SymInt rows, SymInt columns, bool reproducible) -> Tensor"
_library: Any = cast(Any, torch.library).Library("bittersweet", "DEF")
_library.define(f"packed_linear{_LINEAR}")
_library.define(f"packed_linear_no_grad{_LINEAR}")
_library.define(f"unpack_strips({_ARRAYS}, SymInt rows, SymInt columns) -> Tensor")


def batch_limit(dtype: torch.dtype) -> int | None:
    """The largest batch that is multiplied as strips, where that is faster; None: every one.

    Only the portable loop has one: beyond, torch's own product of unpacked tiles is faster, in another order.
    """
    if _core.strips_isa() != "portable":
        return None
    return {torch.bfloat16: 8, torch.float16: 16}.get(dtype, 32)


def limit_of(
    marks: torch.Tensor, values: int, elements: int, dtype: torch.dtype, reproducible: bool
) -> int | None:
    """The limit of a packed matrix of `elements`, which holds `values`; torch's order is not reproducible."""
    if reproducible:
        return None
    if devices.runtime.index_of(marks) != HOST:
        return strips_on_cuda.BATCH_LIMIT
    if layouts.layout_of(marks) == "delta":
        return delta.batch_limit(dtype, values / max(1, elements))
    return batch_limit(dtype)


def packed_linear(
    x: torch.Tensor,
    masks: torch.Tensor,
    values: torch.Tensor,
    offsets: torch.Tensor,
    bias: torch.Tensor | None,
    rows: int,
    columns: int,
    reproducible: bool,
) -> torch.Tensor:
    """``x @ weight.T + bias`` for the packed weight of `rows` by `columns`; differentiable in x and bias."""
    graded = torch.is_grad_enabled() and (x.requires_grad or (bias is not None and bias.requires_grad))
    # Without gradients, the operator that has none: the other one takes 15 us longer to find that out.
    run = torch.ops.bittersweet.packed_linear if graded else torch.ops.bittersweet.packed_linear_no_grad
    made: torch.Tensor = run.default(x, masks, values, offsets, bias, rows, columns, reproducible)
    return made


def unpack_strips(
    masks: torch.Tensor, values: torch.Tensor, offsets: torch.Tensor, rows: int, columns: int
) -> torch.Tensor:
    """The dense matrix, bit for bit."""
    made: torch.Tensor = torch.ops.bittersweet.unpack_strips(masks, values, offsets, rows, columns)
    return made


def _packed_linear(
    x: torch.Tensor,
    masks: torch.Tensor,
    values: torch.Tensor,
    offsets: torch.Tensor,
    bias: torch.Tensor | None,
    rows: int,
    columns: int,
    reproducible: bool,
) -> torch.Tensor:
    dtype, shape = values.dtype, x.shape
    if x.dtype != dtype or (bias is not None and bias.dtype != dtype):
        name, found = ("input", x.dtype) if bias is None or x.dtype != dtype else ("bias", bias.dtype)
        raise DTypeError(f"{name} of a packed layer: {found}; its values are {dtype}. Convert one of them")
    if not shape or shape[-1] != columns:
        raise ShapeError(
            f"input of a packed layer: shape {tuple(shape)}; accepted: any whose last axis is {columns}"
        )
    if bias is not None and (bias.numel() != rows or not bias.is_contiguous()):
        raise ShapeError(f"bias of a packed layer: shape {tuple(bias.shape)}; accepted: ({rows},)")
    device = devices.runtime.index_of(x)
    _require_together(device, x, masks, values, offsets, bias)
    x = x.contiguous()
    batch = x.numel() // columns if columns else shape[:-1].numel()
    y = x.new_empty((*shape[:-1], rows))
    at = strips.arrays(masks, values, offsets, rows, columns)
    kernels = layouts.kernels(masks)
    if device == HOST:
        threads.follow_torch()
    limit = limit_of(masks, values.numel(), rows * columns, dtype, reproducible)
    if limit is not None and batch > limit and columns:
        _by_dense_tiles(x.view(batch, columns), at, kernels, bias, y.view(batch, rows), device)
    else:
        address = 0 if bias is None else bias.data_ptr()
        kernels.multiply(at, x.data_ptr(), batch, address, y.data_ptr(), at[6], reproducible)
    return y


def _require_together(device: int, x: torch.Tensor, *others: torch.Tensor | None) -> None:
    """Raises DeviceError where a CUDA tensor meets one from elsewhere."""
    for other in others:
        if other is not None and devices.runtime.index_of(other) != device:
            raise DeviceError(
                f"input of a packed layer: on {x.device}, and its weight or bias on {other.device}; "
                "accepted: all on one device. Move one of them"
            )


def _by_dense_tiles(
    x: torch.Tensor,
    at: strips.Arrays,
    kernels: layouts.Kernels,
    bias: torch.Tensor | None,
    y: torch.Tensor,
    device: int,
) -> None:
    rows, columns = at[-2:]
    step = kernels.tile_bytes // (columns * x.element_size()) // kernels.height * kernels.height
    step = min(max(step, kernels.height), -(-rows // kernels.height) * kernels.height)
    # On a device torch's allocator keeps memory for the stream, and for a graph that is being captured.
    size = step * columns
    scratch = _scratch_of(x.dtype, size) if device == HOST else x.new_empty(size)
    for first in range(0, rows, step):
        last = min(first + step, rows)
        tile = scratch[: (last - first) * columns].view(last - first, columns)
        kernels.unpack(at, first, last - first, tile.data_ptr())
        y[:, first:last] = torch.nn.functional.linear(x, tile, None if bias is None else bias[first:last])


def _scratch_of(dtype: torch.dtype, size: int) -> torch.Tensor:
    """This thread's scratch, which it keeps: fresh pages cost more than the unpacking."""
    kept: dict[torch.dtype, torch.Tensor] = _scratch.__dict__.setdefault("by_dtype", {})
    held = kept.get(dtype)
    if held is None or held.numel() < size:
        with torch.inference_mode(False):
            held = kept[dtype] = torch.empty(size, dtype=dtype, device="cpu")
    return held


def _unpack_strips(
    masks: torch.Tensor, values: torch.Tensor, offsets: torch.Tensor, rows: int, columns: int
) -> torch.Tensor:
    dense = values.new_empty((rows, columns))
    _require_together(devices.runtime.index_of(values), values, masks, offsets)
    threads.follow_torch()
    at = strips.arrays(masks, values, offsets, rows, columns)
    layouts.kernels(masks).unpack(at, 0, rows, dense.data_ptr())
    return dense


def _fake_linear(
    x: torch.Tensor,
    masks: Any,
    values: Any,
    offsets: Any,
    bias: Any,
    rows: Any,
    columns: Any,
    reproducible: bool,
) -> Any:
    return x.new_empty((*x.shape[:-1], rows))


def _fake_unpack(masks: Any, values: torch.Tensor, offsets: Any, rows: Any, columns: Any) -> Any:
    return values.new_empty((rows, columns))


def _save_weight(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    _, masks, values, offsets, bias, rows, columns, _ = inputs
    ctx.save_for_backward(masks, values, offsets)
    ctx.shape, ctx.has_bias = (rows, columns), bias is not None


def _gradients(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    for_x = for_bias = None
    if ctx.needs_input_grad[0]:
        for_x = gradient @ unpack_strips(*ctx.saved_tensors, *ctx.shape)
    if ctx.has_bias and ctx.needs_input_grad[4]:
        for_bias = gradient.reshape(-1, gradient.shape[-1]).sum(0)
    return for_x, None, None, None, for_bias, None, None, None


for _name in ("packed_linear", "packed_linear_no_grad"):
    for _key in ("CPU", "CUDA"):
        _library.impl(_name, _packed_linear, _key)
    torch.library.register_fake(f"bittersweet::{_name}", _fake_linear, lib=_library)
for _key in ("CPU", "CUDA"):
    _library.impl("unpack_strips", _unpack_strips, _key)
torch.library.register_fake("bittersweet::unpack_strips", _fake_unpack, lib=_library)
torch.library.register_autograd(
    "bittersweet::packed_linear", _gradients, setup_context=_save_weight, lib=_library
)
