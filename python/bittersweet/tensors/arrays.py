"""Arrays as pointers: torch tensors on the host or a CUDA device, NumPy arrays, and those of other libraries,
as `foreign` borrows them.

Nothing here copies unless an array lies in memory in another order than the call works in; such an array is
re-laid by `relay`, and `write_back` puts the result where it came from.
"""

from __future__ import annotations

import functools
import itertools
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ..errors import DeviceError, DTypeError, LayoutError
from . import devices
from .devices import HOST
from .foreign import borrow, refuse_device, require_cuda
from .orders import ROW_MAJOR, Order, order_of

if TYPE_CHECKING:
    import torch

ArrayT = TypeVar("ArrayT", "torch.Tensor", "np.ndarray[Any, Any]")
"""A torch tensor or a NumPy array: what goes in decides what comes out."""

FLOAT32, FLOAT16, BFLOAT16, BOOL = 1, 2, 3, 4
FLOATS = frozenset((FLOAT32, FLOAT16, BFLOAT16))
BOOLS = frozenset((BOOL,))
ITEM_SIZE = {FLOAT32: 4, FLOAT16: 2, BFLOAT16: 2, BOOL: 1}
_NAMES = {FLOAT32: "float32", FLOAT16: "float16", BFLOAT16: "bfloat16", BOOL: "bool"}
_NUMPY_CODES = {np.dtype(np.float32): FLOAT32, np.dtype(np.float16): FLOAT16, np.dtype(np.bool_): BOOL}


class View:
    """One array as the engine sees it: `source` keeps the memory alive, `copy` is a re-lay.

    `device` is the number of a CUDA device, or HOST; `order` that of the source's memory, or None if it has
    none that an engine works in. `writable`: whether its library lets others write to it.
    """

    __slots__ = (
        "copy",
        "device",
        "dtype",
        "framework",
        "numel",
        "order",
        "pointer",
        "shape",
        "source",
        "writable",
    )

    def __init__(
        self,
        source: Any,
        framework: str,
        pointer: int,
        dtype: int,
        shape: tuple[int, ...],
        order: Order | None,
        device: int = HOST,
    ) -> None:
        self.source = source
        self.framework = framework
        self.pointer = pointer
        self.dtype = dtype
        self.shape = shape
        self.numel = math.prod(shape)
        self.order = order
        self.device = device
        self.copy: Any = None
        self.writable = True

    @property
    def nbytes(self) -> int:
        return self.numel * ITEM_SIZE[self.dtype]

    def relay(self, like: View | None = None) -> int:
        """Makes `pointer` address memory in the order of `like`, which has one (None: row-major); returns the
        bytes copied for it.
        """
        if self.copy is not None or self.order == (ROW_MAJOR if like is None else like.order):
            return 0
        if self.framework == "torch":
            torch = sys.modules["torch"]
            source = self.source.detach()
            if like is None:
                self.copy = source.clone(memory_format=torch.contiguous_format)
            else:
                strides = like.source.stride()
                self.copy = torch.empty_strided(self.shape, strides, dtype=source.dtype, device=source.device)
                self.copy.copy_(source)
            self.pointer = _pointer_of(self.copy, "the re-laid copy", "an input")
        else:
            if like is None:
                self.copy = np.empty(self.shape, self.source.dtype)
            else:
                self.copy = np.empty_like(like.source, self.source.dtype, subok=False)
            np.copyto(self.copy, self.source)
            self.pointer = self.copy.ctypes.data
        return self.nbytes

    def memory(self) -> tuple[int, int]:
        """The addresses that are this array's alone: all of them when it is dense, else its first element."""
        if self.order == ROW_MAJOR and self.copy is None:
            return self.pointer, self.pointer + self.nbytes
        if self.framework == "torch":
            start, strides = self.source.data_ptr(), self.source.stride()
        else:
            start, strides = self.source.ctypes.data, self.source.strides
            strides = tuple(stride // ITEM_SIZE[self.dtype] for stride in strides)
        dense = min(strides, default=1) >= 0 and extent(self.shape, strides) == self.numel
        return start, start + (self.nbytes if dense else ITEM_SIZE[self.dtype])


def inspect(value: Any, argument: str, tensor: str, accept: frozenset[int] = FLOATS) -> View:
    """Checks one array and borrows it. Raises the error that fits, naming `argument` and `tensor`."""
    if is_torch(value):
        return _inspect_torch(value, argument, tensor, accept)
    array, writable = borrow(value, argument, tensor)
    look = _inspect_torch if is_torch(array) else _inspect_numpy
    view = look(array, argument, tensor, accept)
    view.writable = writable
    return view


def name_of_dtype(code: int) -> str:
    """What an element type is called."""
    return _NAMES[code]


def is_torch(value: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def require_writable(view: View, argument: str, tensor: str) -> None:
    if not view.writable:
        raise LayoutError(
            f"{argument} of '{tensor}' is read-only memory, and this call writes it in place. Pass a "
            "writable array"
        )


def require_disjoint(views: Iterable[tuple[str, View]], remedy: str) -> None:
    """Raises LayoutError if two of the (label, view) pairs share memory."""
    ranges = sorted((*view.memory(), label) for label, view in views if view.numel)
    for (_, end, first), (start, _, second) in itertools.pairwise(ranges):
        if start < end:
            raise LayoutError(f"{first} and {second} overlap in memory. {remedy}")


def write_back(views: Iterable[View]) -> None:
    """After the engine wrote: re-laid copies go back, and torch learns that these tensors changed."""
    changed = []
    for view in views:
        if view.copy is not None:
            if view.framework == "torch":
                with sys.modules["torch"].inference_mode(view.source.is_inference()):
                    view.source.detach().copy_(view.copy)
            else:
                np.copyto(view.source, view.copy)
        elif view.framework == "torch":
            changed.append(view.source)
    if changed:
        raise_versions(changed)


def raise_versions(written: list[torch.Tensor]) -> None:
    """Tells autograd that these tensors were written; those of inference mode have no version."""
    try:
        _increment_version()(written)
    except RuntimeError:  # torch before it left these out by itself
        _increment_version()([one for one in written if not one.is_inference()])


def empty(framework: str, shape: Sequence[int], dtype: int, device: int = HOST) -> Any:
    """An uninitialised row-major float32 or bool array."""
    if framework == "torch":
        import torch

        kind = torch.float32 if dtype == FLOAT32 else torch.bool
        place = torch.device("cpu") if device == HOST else devices.runtime.place(device)
        return torch.empty(tuple(shape), dtype=kind, device=place)
    return np.empty(shape, dtype=np.float32 if dtype == FLOAT32 else np.bool_)


def float32_scalar(value: float) -> np.ndarray[Any, Any]:
    """A float32 value as a 0-d array; denormals by integers, since conversions may flush them."""
    if 0.0 < abs(value) < 2.0**-126:
        sign = 2**31 if value < 0.0 else 0
        return np.array(sign + int(abs(value) * 2.0**149), dtype=np.uint32).view(np.float32)
    return np.asarray(value, dtype=np.float32)


@functools.cache
def _torch_codes() -> dict[Any, int]:
    import torch

    return {torch.float32: FLOAT32, torch.float16: FLOAT16, torch.bfloat16: BFLOAT16, torch.bool: BOOL}


@functools.cache
def _increment_version() -> Callable[[list[torch.Tensor]], None]:
    from torch.autograd.graph import increment_version

    return increment_version


@functools.cache
def _plain_torch_types() -> frozenset[type]:
    import torch

    return frozenset((torch.Tensor, torch.nn.Parameter))


def _inspect_torch(value: Any, argument: str, tensor: str, accept: frozenset[int]) -> View:
    dtype = _torch_codes().get(value.dtype, 0)
    strided = value.layout is sys.modules["torch"].strided and not value.is_nested
    device = devices.runtime.index_of(value)
    if (
        strided
        and type(value) in _plain_torch_types()
        and value.is_cpu
        and device == HOST
        and dtype in accept
    ):
        pointer = pointer_within(value)  # the usual case, without the questions that only an error would need
        aligned = pointer % ITEM_SIZE[dtype] == 0
        if pointer and aligned and value.is_contiguous() and not value.is_neg():
            return View(value, "torch", pointer, dtype, tuple(value.shape), ROW_MAJOR)
    if type(value) not in _plain_torch_types():
        _refuse_special_tensor(value, argument, tensor)
    if not strided:
        layout = "nested" if value.is_nested else str(value.layout)
        raise LayoutError(
            f"{argument} of '{tensor}' is a {layout} tensor; dense strided tensors are accepted. Convert it "
            "(to_dense())"
        )
    if device != HOST:
        require_cuda(f"on {value.device}", argument, tensor)
    elif value.device.type != "cpu":
        refuse_device(str(value.device), argument, tensor)
    if dtype not in accept:
        _refuse_dtype(str(value.dtype), argument, tensor, accept)
    shape = tuple(value.shape)
    pointer = _pointer_of(value, argument, tensor)
    row_major = value.is_contiguous()
    if not row_major and _overlaps_itself(shape, value.stride()):
        _refuse_overlap(argument, tensor, "clone()")
    if value.is_neg():
        raise LayoutError(f"{argument} of '{tensor}' is a lazily negated view. Pass tensor.resolve_neg()")
    order = ROW_MAJOR if row_major else order_of(shape, value.stride())
    return View(value, "torch", pointer, dtype, shape, None if pointer % ITEM_SIZE[dtype] else order, device)


def pointer_within(tensor: torch.Tensor) -> int:
    """The address of a dense tensor; 0 where it has none, or less of it than its elements take."""
    pointer = first_address(tensor)
    if pointer == 0:
        return 0
    end = (tensor.storage_offset() + tensor.numel()) * tensor.element_size()
    return pointer if tensor.untyped_storage().nbytes() >= end else 0


def in_memory(tensor: torch.Tensor) -> tuple[torch.Tensor, Order] | None:
    """The elements of a torch tensor one after the other as they lie in memory, and their order; None where
    no engine works in that order.
    """
    if tensor.is_contiguous():
        return tensor.view(-1), ROW_MAJOR
    order = order_of(tuple(tensor.shape), tensor.stride())
    return None if order is None else (tensor.as_strided((tensor.numel(),), (1,)), order)


def first_address(tensor: torch.Tensor) -> int:
    """Where a tensor's memory begins; 0 where it has none. What lies behind is not looked at."""
    try:
        return tensor.data_ptr()
    except RuntimeError:  # no storage of its own: sparse, or inside vmap and other transforms
        return 0


def _pointer_of(value: torch.Tensor, argument: str, tensor: str) -> int:
    """The address of a strided tensor of any layout. Raises LayoutError if not all elements have memory."""
    numel, pointer = value.numel(), first_address(value)
    if numel == 0:
        return pointer
    if pointer:
        last = value.storage_offset() + extent(value.shape, value.stride())
        if value.untyped_storage().nbytes() >= last * value.element_size():
            return pointer
    plain = type(value) in _plain_torch_types()
    why = (
        "freed by sharding or offloading, or inside vmap or another transform"
        if plain
        else f"a {type(value).__name__} keeps its values elsewhere, quantised or in pieces"
    )
    raise LayoutError(
        f"{argument} of '{tensor}' has {numel} elements and no memory for them ({why}). Pass a plain tensor "
        "that holds them: gather, restore or dequantize() it before the call"
    )


def _refuse_special_tensor(value: Any, argument: str, tensor: str) -> None:
    names = {cls.__name__ for cls in type(value).__mro__}
    if "DTensor" in names:
        raise LayoutError(
            f"{argument} of '{tensor}' is a DTensor, of which this process holds a part; plain tensors are "
            "accepted here. What decides over all ranks takes it as it is: make_masks, prune_, threshold, "
            "Pruner. Its part here (to_local()) would be compared with itself alone"
        )
    if "FakeTensor" in names or "FunctionalTensor" in names:
        raise DeviceError(
            f"{argument} of '{tensor}' is a fake tensor without memory; tensors with memory are accepted. "
            "Call this outside fake-tensor mode and tracing"
        )
    if hasattr(type(value), "dequantize") and type(value).dequantize is not _torch_dequantize():
        raise LayoutError(
            f"{argument} of '{tensor}' is quantised ({type(value).__name__}): it does not hold the numbers "
            "that it stands for; plain tensors are accepted. Pass tensor.dequantize()"
        )
    if names & {"UninitializedParameter", "UninitializedBuffer"}:
        raise LayoutError(
            f"{argument} of '{tensor}' is not initialised yet. Run one forward pass through its lazy "
            "module first"
        )


@functools.cache
def _torch_dequantize() -> Any:
    import torch

    return torch.Tensor.dequantize


def _inspect_numpy(value: np.ndarray[Any, Any], argument: str, tensor: str, accept: frozenset[int]) -> View:
    dtype = _NUMPY_CODES.get(value.dtype, 0) or (BFLOAT16 if value.dtype.name == "bfloat16" else 0)
    if dtype not in accept:
        _refuse_dtype(str(value.dtype), argument, tensor, accept)
    if not value.flags.c_contiguous:
        item = value.itemsize
        if any(stride % item for stride in value.strides) or _overlaps_itself(
            value.shape, [abs(stride) // item for stride in value.strides]
        ):
            _refuse_overlap(argument, tensor, "numpy.array(x)")
    order: Order | None = ROW_MAJOR
    if not value.flags.c_contiguous:
        order = order_of(value.shape, tuple(stride // value.itemsize for stride in value.strides))
    order = order if value.flags.aligned else None
    return View(value, "numpy", value.ctypes.data, dtype, value.shape, order)


def _refuse_dtype(found: str, argument: str, tensor: str, accept: frozenset[int]) -> None:
    names = ", ".join(_NAMES[code] for code in sorted(accept))
    raise DTypeError(
        f"{argument} of '{tensor}' has dtype {found.removeprefix('torch.')}; accepted: {names}. "
        "Convert it first"
    )


def _refuse_overlap(argument: str, tensor: str, remedy: str) -> None:
    raise LayoutError(
        f"{argument} of '{tensor}' is expanded or overlaps itself (two indices share one address); arrays "
        f"whose elements have memory of their own are accepted. Pass a copy ({remedy})"
    )


def extent(shape: Sequence[int], strides: Iterable[int]) -> int:
    """Elements from the first to the last address, both included, of a non-empty array."""
    return 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))


def _overlaps_itself(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether strides do not nest, so that two indices may share an address. Strides in elements, from 0."""
    extent = 1
    for stride, size in sorted(zip(strides, shape, strict=True)):
        if size > 1:
            if stride < extent:
                return True
            extent += stride * (size - 1)
    return False
