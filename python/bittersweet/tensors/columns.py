"""One argument of many tensors, checked in one walk where that can be."""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from typing import Any

from .. import _core
from . import devices
from .arrays import FLOATS, View, inspect
from .orders import ROW_MAJOR

__all__ = ["inspect_all"]


def inspect_all(values: list[Any], argument: str, names: Sequence[str]) -> list[View | None]:
    """`arrays.inspect` of every value, in order; None for None. Plain tensors on the host are described by
    compiled code, where torch offers DLPack's C exchange API.
    """
    walk = None if sys.modules.get("torch") is None else _walk(devices.runtime.exchange_api())
    known = [None] * len(values) if walk is None else walk.host_views(values)
    views: list[View | None] = []
    for value, found, name in zip(values, known, names, strict=True):
        if found is not None:
            pointer, dtype, shape = found
            views.append(View(value, "torch", pointer, dtype, shape, ROW_MAJOR))
        else:
            views.append(None if value is None else inspect(value, argument, name, FLOATS))
    return views


@functools.cache
def _walk(api: Any) -> _core.Addresses | None:
    if api is None or not _core.Addresses.knows(api):
        return None
    torch = sys.modules["torch"]
    return _core.Addresses(api, (torch.Tensor, torch.nn.Parameter))
