"""Where tensors are now, for tables that are used again: one walk over what has been checked in full before.

`reader` gives what does it: the compiled `_core.Addresses` where torch offers DLPack's C exchange API, and
`Reader`, which asks every tensor in Python and means the same, elsewhere.
"""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from .. import _core
from ..errors import ArgumentError
from . import devices
from .arrays import extent, first_address

if TYPE_CHECKING:
    import torch

__all__ = ["Addresses", "Reader", "reader"]


class Addresses(Protocol):
    """What tensors were at one time, and the addresses of those that still are that."""

    def remember(self, tensors: list[torch.Tensor | None], apart: bool = False) -> bool:
        """Notes the exact type, dtype, device, shape, strides and address of each; None is noted as that.
        With `apart` they must not come to overlap: see `arrays.require_disjoint`.

        To be called after the full checks have passed on these tensors. False, and nothing is remembered, if
        one of them cannot be read again this way (a subclass, no strided memory).
        """

    def read(self, tensors: list[torch.Tensor | None], out: array[int], places: array[int]) -> bool:
        """Writes the address of ``tensors[i]`` to ``out[places[i]]``; nothing for None.

        False, and nothing is written and no longer anything remembered, if a tensor is not what was
        remembered in everything but its address, or has moved to memory that is too small, misaligned, seen
        through a lazily negated view, or another's (see `apart`). The caller then checks in full and
        remembers anew.

        Raises:
            ArgumentError: No buffers of 64-bit words, another number of places than tensors, or a place
                beyond the end.
        """


class Reader:
    """`Addresses` without the help of compiled code."""

    def __init__(self) -> None:
        self._kinds: list[Any] = []
        self._addresses: list[int] = []
        self._apart = False

    def remember(self, tensors: list[torch.Tensor | None], apart: bool = False) -> bool:
        self._kinds, self._addresses = [], []
        kinds = [_kind(tensor) for tensor in tensors]
        if _UNREADABLE in kinds:
            return False
        self._kinds, self._apart = kinds, apart
        self._addresses = [0 if tensor is None else tensor.data_ptr() for tensor in tensors]
        return True

    def read(self, tensors: list[torch.Tensor | None], out: array[int], places: array[int]) -> bool:
        _require_words("out", out)
        _require_words("places", places)
        if len(places) != len(tensors):
            raise ArgumentError("places: one place a tensor is needed")
        if any(place >= len(out) for place in places):
            raise ArgumentError("places: a place beyond the end of out")
        found = self._found(tensors)
        if found is None:
            self._kinds, self._addresses = [], []
            return False
        self._addresses = found
        for tensor, place, address in zip(tensors, places, found, strict=True):
            if tensor is not None:
                out[place] = address
        return True

    def _found(self, tensors: Sequence[torch.Tensor | None]) -> list[int] | None:
        if len(tensors) != len(self._kinds):
            return None
        found = []
        for tensor, kind, former in zip(tensors, self._kinds, self._addresses, strict=True):
            if _kind(tensor) != kind:
                return None
            address = 0 if tensor is None else tensor.data_ptr()
            if address != former and tensor is not None and not _has_memory(tensor, address):
                return None
            found.append(address)
        if self._apart and found != self._addresses and _overlap(tensors):
            return None
        return found


def reader() -> Addresses:
    """A new one, that remembers nothing."""
    import torch

    api = devices.runtime.exchange_api()
    if api is not None and _core.Addresses.knows(api):
        return _core.Addresses(api, (torch.Tensor, torch.nn.Parameter))
    return Reader()


_UNREADABLE = "unreadable"


def _kind(tensor: torch.Tensor | None) -> Any:
    """All but the address. Strides count for axes longer than 1 only, as for torch's is_contiguous."""
    import torch

    if tensor is None:
        return None
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter) or tensor.is_nested or tensor.is_meta:
        return _UNREADABLE
    if (
        tensor.layout is not torch.strided
        or tensor.is_quantized
        or (tensor.numel() and not first_address(tensor))
    ):
        return _UNREADABLE
    shape, place = tensor.shape, (tensor.device, devices.runtime.index_of(tensor))
    strides = [stride for size, stride in zip(shape, tensor.stride(), strict=True) if size > 1]
    return type(tensor), tensor.dtype, shape, strides, place


def _has_memory(tensor: torch.Tensor, address: int) -> bool:
    if tensor.numel() == 0:
        return True
    if not address or address % tensor.element_size() or tensor.is_neg():
        return False
    end = (tensor.storage_offset() + extent(tensor.shape, tensor.stride())) * tensor.element_size()
    return tensor.untyped_storage().nbytes() >= end


def _overlap(tensors: Sequence[torch.Tensor | None]) -> bool:
    ranges = []
    for tensor in tensors:
        if tensor is not None and tensor.numel():
            dense = extent(tensor.shape, tensor.stride()) == tensor.numel()
            size = (tensor.numel() if dense else 1) * tensor.element_size()
            ranges.append((tensor.data_ptr(), tensor.data_ptr() + size))
    ranges.sort()
    return any(start < end for (_, end), (start, _) in itertools.pairwise(ranges))


def _require_words(argument: str, words: Any) -> None:
    view = memoryview(words)
    if view.itemsize != 8 or view.ndim != 1:
        raise ArgumentError(f"{argument}: a one-dimensional buffer of 64-bit words is needed (array('Q'))")
