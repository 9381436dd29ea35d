"""Arrays of other libraries, borrowed without a copy: from the host as NumPy arrays, from a CUDA device as
torch tensors.
"""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np

from ..errors import DeviceError, DTypeError
from . import devices

_HOST_DLPACK_DEVICES = frozenset((1, 3))  # kDLCPU, kDLCUDAHost
_CUDA_DLPACK_DEVICE = 2  # kDLCUDA


def borrow(value: Any, argument: str, tensor: str) -> tuple[Any, bool]:
    """The array over the same memory, and whether it may be written.

    Raises:
        DeviceError: It is elsewhere, or on a CUDA device without what it takes: an engine, and torch.
        DTypeError: It is no array.
    """
    if isinstance(value, (np.ndarray, np.generic)):
        return (array := np.asarray(value)), bool(array.flags.writeable)
    try:
        kind = int(value.__dlpack_device__()[0]) if hasattr(value, "__dlpack_device__") else None
        if kind == _CUDA_DLPACK_DEVICE or (kind is None and hasattr(value, "__cuda_array_interface__")):
            return _on_cuda(value, argument, tensor)
        array = _on_host(value, kind, argument, tensor)
    except DeviceError:
        raise
    except Exception:
        raise DTypeError(
            f"{argument} of '{tensor}' is a {type(value).__name__}; accepted: a torch tensor, a NumPy array, "
            "or an object with DLPack or the buffer protocol. Convert it first"
        ) from None
    return array, bool(array.flags.writeable)


def _on_host(value: Any, kind: int | None, argument: str, tensor: str) -> np.ndarray[Any, Any]:
    if kind is None:
        return np.asarray(memoryview(value))
    if kind not in _HOST_DLPACK_DEVICES:
        refuse_device(f"DLPack device type {kind}", argument, tensor)
    try:
        return np.from_dlpack(value)
    except Exception:  # bfloat16 has no NumPy type of its own
        return np.asarray(value)


def _on_cuda(value: Any, argument: str, tensor: str) -> tuple[Any, bool]:
    where = f"{type(value).__name__} on a CUDA device"
    try:
        import torch  # noqa: F401
    except ImportError:
        raise DeviceError(
            f"{argument} of '{tensor}' is a {where}, which is reached through torch, and that cannot be "
            "imported. Install torch, or pass an array on the CPU"
        ) from None
    require_cuda(f"a {where}", argument, tensor)
    interface = _interface_of(value)
    try:
        adopted = devices.runtime.adopt(value)
    except Exception as error:
        raise DeviceError(
            f"{argument} of '{tensor}' is a {where}, which torch cannot take ({error}). Pass a torch tensor"
        ) from None
    if interface is not None and adopted.numel() and adopted.data_ptr() != interface["data"][0]:
        raise DeviceError(
            f"{argument} of '{tensor}' is a {where}, of which torch makes a copy (its default device is "
            "another one). Pass a torch tensor"
        )
    if interface is None:  # what could say whether it may be written, and does not, says no
        return adopted, not hasattr(type(value), "__cuda_array_interface__")
    return adopted, not interface["data"][1]


def _interface_of(value: Any) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = value.__cuda_array_interface__
    except Exception:  # libraries refuse it by errors of their own, for types that it has no name for
        return None
    return found


def refuse_device(found: str, argument: str, tensor: str) -> NoReturn:
    if found.startswith("meta"):
        raise DeviceError(
            f"{argument} of '{tensor}' is on the meta device and has no values; tensors with memory are "
            "accepted. Materialise the model first (to_empty() and load its weights)"
        )
    raise DeviceError(
        f"{argument} of '{tensor}' is on {found}, for which Bittersweet has no engine; accepted: arrays "
        "on the CPU or, in a build with CUDA, on a CUDA device. Move it there"
    )


def require_cuda(found: str, argument: str, tensor: str) -> None:
    refusal = devices.refusal()
    if refusal is not None:
        raise DeviceError(f"{argument} of '{tensor}' is {found}, and {refusal}")
