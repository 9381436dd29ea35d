"""Weights without their zeros: packed linear layers that run faster and take less memory than dense ones.

`pack_` replaces the pruned linear layers of a model by `SparseLinear`, `unpack_` brings them back bit for
bit. For inference where few rows (tokens) pass at a time; docs/sparse.md says when it pays.
"""

from __future__ import annotations

from ..extras import require

require("torch", "bittersweet.sparse")

from .files import save_compressed  # noqa: E402
from .linear import SparseLinear  # noqa: E402
from .loading import load_compressed  # noqa: E402
from .packing import pack_, unpack_  # noqa: E402
from .report import PackedLayer, PackReport  # noqa: E402

__all__ = [
    "PackReport",
    "PackedLayer",
    "SparseLinear",
    "load_compressed",
    "pack_",
    "save_compressed",
    "unpack_",
]
