"""Memory that the package keeps for itself in torch tensors: the same whatever torch's defaults are.

`zeros` and `flat_copy` depend on no default dtype, default device, inference mode or deterministic fill, and
`address_of` lets an address out only after the tensor behind it has been looked at.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import DeviceError, LayoutError
from . import devices
from .arrays import pointer_within
from .devices import HOST

if TYPE_CHECKING:
    import torch

__all__ = ["address_of", "flat_copy", "is_plain", "pinned", "zeros"]


def zeros(count: int, dtype: str, device: int = HOST) -> torch.Tensor:
    """A flat tensor of zeros in memory of the host or of a CUDA device; `dtype` is a name such as ``float32``
    or ``bfloat16``.

    Raises:
        DeviceError: Inside torch's fake-tensor mode, in which nothing has memory.
    """
    import torch

    with torch.inference_mode(False):
        if device != HOST:
            place = devices.runtime.place(device)
            return torch.empty(count, dtype=getattr(torch, dtype), device=place).zero_()
        bfloat16 = dtype == "bfloat16"  # which NumPy has no name for
        made = torch.from_numpy(np.zeros(count, np.int16 if bfloat16 else np.dtype(dtype)))
        made = made.view(torch.bfloat16) if bfloat16 else made
    address_of(made, dtype, count, "new memory")
    return made


def is_plain(value: Any) -> bool:
    """Whether this is a dense torch tensor, no subclass, with memory for its elements, on whatever device."""
    import torch

    if type(value) not in (torch.Tensor, torch.nn.Parameter):
        return False
    if value.layout is not torch.strided or value.is_nested or value.is_meta:
        return False
    return value.numel() == 0 or bool(pointer_within(value))


def flat_copy(tensor: torch.Tensor, dtype: str, into: torch.Tensor | None = None) -> torch.Tensor:
    """The elements of a tensor, row-major, in memory of their own: new on the CPU, or `into`."""
    import torch

    copy = zeros(tensor.numel(), dtype) if into is None else into
    with torch.no_grad():
        copy.copy_(tensor.detach().reshape(-1))
    return copy


def pinned(count: int, dtype: str) -> torch.Tensor:
    """An uninitialised flat tensor in memory of the host that CUDA devices read where it is."""
    import torch

    with torch.inference_mode(False):
        return devices.runtime.pinned(count, getattr(torch, dtype))


def address_of(tensor: torch.Tensor, dtype: str, count: int, what: str, device: int = HOST) -> int:
    """The address of a row-major tensor of `count` elements in memory of the host, or of a CUDA device; 0
    where it has none.

    Raises:
        DeviceError: It has no memory that the CPU can read, or lies on another device.
        LayoutError: Another dtype, size or layout, or less memory than elements.
    """
    import torch

    if device != HOST and devices.runtime.index_of(tensor) != device:
        raise DeviceError(
            f"{what} is on {tensor.device} and its weight on {devices.name_of(device)}. What a tracker keeps "
            "follows its model by tracker.load_state_dict(tracker.state_dict()), that of a Pruner by "
            "pruner.load_state_dict(pruner.state_dict())"
        )
    if type(tensor) is not torch.Tensor or not (device != HOST or tensor.is_cpu):
        raise DeviceError(
            f"{what} is a {type(tensor).__name__} on {tensor.device}; it must be plain memory of the host. "
            "Call this outside fake-tensor mode and tracing, and move the model to the CPU"
        )
    found = f"{str(tensor.dtype).removeprefix('torch.')}, shape {tuple(tensor.shape)}, {tensor.layout}"
    fits = tensor.layout is torch.strided and tensor.is_contiguous()
    if not fits or tensor.dtype is not getattr(torch, dtype) or math.prod(tensor.shape) != count:
        raise LayoutError(f"{what} is {found}; it must be {count} elements of {dtype} in a row")
    address = tensor.data_ptr()
    end = (tensor.storage_offset() + count) * tensor.element_size()
    if count and (not address or tensor.untyped_storage().nbytes() < end):
        raise LayoutError(f"{what} has less memory than its {count} elements; something has freed it")
    return address
