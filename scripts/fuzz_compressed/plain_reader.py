"""Compressed files and packed arrays, as docs/sparse.md and the headers of layouts describe them, read once
more, element by element and with nothing of the package: what the package's readers are compared with.
"""

from __future__ import annotations

import json
import math
from typing import Any

Tensors = dict[str, tuple[str, tuple[int, ...], bytes]]
"""By name: element type as safetensors call it, shape, and bytes."""

SIZES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 8),
}
ONE_BYTE = ("F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ")
PACKABLE = {"F32": 4, "F16": 2, "BF16": 2}
LARGE = 1 << 31


class _Damaged(Exception):
    pass


def _need(condition: bool) -> None:
    if not condition:
        raise _Damaged


def read(data: bytes) -> Tensors | None:
    """All tensors, dense; None: the file breaks a rule."""
    try:
        metadata, tensors = _stored(data)
        _need(metadata.get("bittersweet.sparse") == "row-bitmask/1")
        tied = _object(metadata.get("bittersweet.tied", "{}"))
        _need(all(isinstance(other, str) for other in tied.values()))
        "".join((*tied, *tied.values())).encode()
        for name in [name.removesuffix(".compressed") for name in tensors if name.endswith(".compressed")]:
            parts = [
                tensors.pop(f"{name}.{part}") for part in ("shape", "compressed", "bitmask", "row_offsets")
            ]
            _need(name not in tensors)
            tensors[name] = _matrix(*parts)
        for name, other in tied.items():
            _need(name not in tensors and other in tensors)
            tensors[name] = tensors[other]
    except (_Damaged, KeyError, ValueError, RecursionError):
        return None
    return tensors


def may_be_refused(tensors: Tensors) -> bool:
    """Types and lengths that safetensors has rules of its own for."""
    return any(dtype not in SIZES or max(shape, default=0) >= LARGE for dtype, shape, _ in tensors.values())


def _object(text: str) -> dict[str, Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        _need(len({key for key, _ in pairs}) == len(pairs))
        return dict(pairs)

    def refuse(_: str) -> None:
        raise _Damaged

    found = json.loads(text, object_pairs_hook=once, parse_constant=refuse)
    _need(isinstance(found, dict))
    return found  # type: ignore[no-any-return]


def _stored(data: bytes) -> tuple[dict[str, str], Tensors]:
    length = int.from_bytes(data[:8], "little")
    _need(len(data) >= 8 and length <= min(len(data) - 8, 100_000_000))
    text = data[8 : 8 + length].decode()
    _need(text.startswith("{"))
    held, data = _object(text), data[8 + length :]
    metadata = held.pop("__metadata__", {})
    _need(isinstance(metadata, dict) and all(isinstance(value, str) for value in metadata.values()))
    "".join((*held, *metadata, *metadata.values())).encode()
    spans, found = [], {}
    for name, entry in held.items():
        _need(isinstance(entry, dict))
        dtype, shape, offsets = (entry[key] for key in ("dtype", "shape", "data_offsets"))
        _need(isinstance(dtype, str) and isinstance(shape, list) and isinstance(offsets, list))
        _need(len(offsets) == 2 and all(type(count) is int and count >= 0 for count in (*shape, *offsets)))
        begin, end = offsets
        _need(begin <= end <= len(data))
        size = 1 if dtype in ONE_BYTE else SIZES.get(dtype)
        _need(size is None or math.prod(shape) * size == end - begin)
        spans.append((begin, end))
        found[name] = (dtype, tuple(shape), data[begin:end])
    place = 0
    for begin, end in sorted(spans):
        _need(begin == place)
        place = end
    _need(place == len(data))
    return metadata, found


def _matrix(*parts: tuple[str, tuple[int, ...], bytes]) -> tuple[str, tuple[int, ...], bytes]:
    shape, values, bitmask, row_offsets = parts
    _need(shape[:2] == ("I64", (2,)) and values[0] in PACKABLE and len(values[1]) == 1)
    rows, columns = _integers(shape[2])
    _need(0 <= rows <= LARGE and 0 <= columns <= LARGE)
    width, size = -(-columns // 8), PACKABLE[values[0]]
    _need(bitmask[:2] == ("U8", (rows, width)) and row_offsets[:2] == ("I64", (rows,)))
    dense, live = bytearray(rows * columns * size), 0
    for row, offset in enumerate(_integers(row_offsets[2])):
        _need(offset == live)
        for column in range(8 * width):
            if bitmask[2][row * width + column // 8] >> column % 8 & 1:
                _need(column < columns)
                to = (row * columns + column) * size
                dense[to : to + size] = values[2][live * size : (live + 1) * size].ljust(size, b"\0")
                live += 1
    _need(values[1] == (live,))
    return values[0], (rows, columns), bytes(dense)


def _integers(data: bytes) -> list[int]:
    return [int.from_bytes(data[at : at + 8], "little", signed=True) for at in range(0, len(data), 8)]


def unpack_strips(masks: Any, offsets: Any, values: bytes, size: int, rows: int, columns: int) -> bytes:
    """The dense bytes of a packed matrix; `masks` and `offsets` are flat sequences of integers."""
    dense, tiles = bytearray(rows * columns * size), -(-columns // 32)
    for strip in range(-(-rows // 16)):
        live = int(offsets[strip])
        for tile in range(tiles):
            for row in range(16):
                word = int(masks[(strip * tiles + tile) * 16 + row])
                for column in range(32):
                    if word >> column & 1:
                        to = ((strip * 16 + row) * columns + tile * 32 + column) * size
                        dense[to : to + size] = values[live * size : (live + 1) * size]
                        live += 1
    return bytes(dense)


def unpack_delta(codes: Any, offsets: Any, values: bytes, size: int, rows: int, columns: int) -> bytes:
    """The same of `codes` with the places of rows and the columns of values."""
    dense, blocks = bytearray(rows * columns * size), -(-columns // 255)
    group = code = live = 0
    for panel in range(0, rows, 256):
        groups = -(-min(256, rows - panel) // 32)
        for block in range(blocks):
            order = sorted(range(32 * groups), key=codes[code : code + 32 * groups].__getitem__)
            code += 32 * groups
            for place in range(0, 32 * groups, 32):
                for slot in range(32 * (offsets[group + 1] - offsets[group])):
                    if codes[code + slot]:
                        column = block * -(-columns // blocks) + codes[code + slot] - 1
                        to = ((panel + order[place + slot % 32]) * columns + column) * size
                        dense[to : to + size] = values[(live + slot) * size : (live + slot + 1) * size]
                code += 32 * (offsets[group + 1] - offsets[group])
                live += 32 * (offsets[group + 1] - offsets[group])
                group += 1
    return bytes(dense)


LAYOUTS = {"strips": ("masks", unpack_strips), "delta": ("codes", unpack_delta)}
"""By layout: the name of its first array, and who reads it."""
