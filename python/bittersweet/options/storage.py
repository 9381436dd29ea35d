"""The dtype in which trackers keep their arrays."""

from __future__ import annotations

import sys
from typing import Any

from .values import one_of

STORAGES = ("float32", "bfloat16")


def check_storage(storage: Any) -> str:
    """The name of the dtype. Raises ArgumentError if it is none of STORAGES."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(storage, torch.dtype):
        storage = str(storage).removeprefix("torch.")
    return one_of("storage", storage, STORAGES)
