"""Headers of safetensors files, checked before anything is read or written by them.

A file is 8 bytes of length (little-endian), that many bytes of JSON, and the data. Nothing here trusts it:
each rule of the format that a header breaks is a `CheckpointError` that says where.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from ..errors import CheckpointError

__all__ = ["FileHeader", "StoredTensor", "parse_json", "read_header"]

LONGEST = 100_000_000
"""Bytes of JSON that other readers of safetensors accept."""

_FILE = "a sound safetensors file"

_BITS = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
}
"""By element type. Types that are not listed are new: their tensors can be copied, not measured."""

_TYPE_NAME = re.compile(r"[A-Z][A-Z0-9_]{1,20}")


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a file: `begin` and `end` are places in the file, not in its data."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int
    file: int = 0

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.end - self.begin


@dataclass(frozen=True)
class FileHeader:
    """A checked file: its size, where its data begins, and its tensors in the order of their data.

    `mark` differs if the file was written to since.
    """

    path: Path
    size: int
    data: int
    tensors: tuple[StoredTensor, ...]
    mark: tuple[int, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)


def read_header(path: Path, file: int = 0) -> FileHeader:
    """Reads and checks the header; `file` is the file's place among those of its checkpoint.

    Raises:
        CheckpointError: It is no safetensors file, or its header breaks a rule of the format.
    """
    try:
        with path.open("rb") as opened:
            size = os.fstat(opened.fileno()).st_size
            mark = mark_of(opened.fileno())
            head = opened.read(8)
            if len(head) < 8:
                _refuse(path, f"it has {size} bytes; a safetensors file begins with 8 bytes of length")
            length = int.from_bytes(head, "little")
            if length > min(LONGEST, size - 8):
                _refuse(path, _too_long(head, length, size))
            text = opened.read(length)
    except OSError as error:
        raise CheckpointError(f"'{path}' cannot be read ({error.strerror})") from None
    if len(text) < length:
        _refuse(path, f"it ended after {len(text)} of the {length} bytes of its header")
    if not text.startswith(b"{"):
        _refuse(path, f"its header begins with {text[:8]!r}; safetensors begin with '{{'")
    held = parse_json(path, text)
    metadata = _metadata(path, held.pop("__metadata__", {}))
    data = 8 + length
    tensors = [_tensor(path, name, value, data, size, file) for name, value in held.items()]
    tensors.sort(key=lambda tensor: (tensor.begin, tensor.end))
    _check_dense(path, tensors, data, size)
    return FileHeader(path, size, data, tuple(tensors), mark, metadata)


def mark_of(descriptor: int) -> tuple[int, ...]:
    """What tells a file that was written to from the one that was looked at."""
    found = os.fstat(descriptor)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def parse_json(path: Path, text: bytes, what: str = _FILE) -> dict[str, Any]:
    """An object of JSON in which no key comes twice; `what` says in messages what `path` should be.

    Raises:
        CheckpointError: It is no such object.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                _refuse(path, f"its JSON holds the name {_short(key)} twice", what)
            found[key] = value
        return found

    try:
        held = json.loads(text.decode("utf-8"), object_pairs_hook=once)
    except UnicodeDecodeError as error:
        _refuse(path, f"its JSON is not UTF-8 (at byte {error.start})", what)
    except RecursionError:
        _refuse(path, "its JSON is nested too deeply", what)
    except CheckpointError:
        raise
    except ValueError as error:
        _refuse(path, f"its JSON cannot be read ({error})", what)
    if not isinstance(held, dict):
        _refuse(path, f"its JSON is a {type(held).__name__}; an object is needed", what)
    return held


def _too_long(head: bytes, length: int, size: int) -> str:
    if head == b"version ":
        return "it begins as a pointer of Git LFS does, and the file itself was not fetched (git lfs pull)"
    if length > size - 8:
        return f"its first 8 bytes ({head!r}) announce a header of {length:,} bytes in a file of {size:,}"
    return f"its header of {length:,} bytes is longer than the {LONGEST:,} that readers of safetensors accept"


def _metadata(path: Path, value: Any) -> Mapping[str, str]:
    if not isinstance(value, dict) or not all(isinstance(held, str) for held in value.values()):
        _refuse(path, "its __metadata__ is no object of strings")
    return value


def _tensor(path: Path, name: str, value: Any, data: int, size: int, file: int) -> StoredTensor:
    where = f"tensor {_short(name)}"
    if not isinstance(value, dict) or not {"dtype", "shape", "data_offsets"} <= value.keys():
        _refuse(path, f"{where} has not the three entries dtype, shape and data_offsets")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or not _TYPE_NAME.fullmatch(dtype):
        _refuse(path, f"{where}: its dtype is {_short(dtype)}; a name is needed")
    if not _counts(shape):
        _refuse(path, f"{where}: its shape is {_short(shape)}; a list of counts is needed")
    if not _counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        _refuse(path, f"{where}: its data_offsets are {_short(offsets)}; a begin and an end are needed")
    if offsets[1] > size - data:
        _refuse(path, f"{where} ends at byte {_short(offsets[1])} of {size - data:,} bytes of data")
    nbytes, numel = offsets[1] - offsets[0], math.prod(shape)
    bits = _BITS.get(dtype)
    if bits is not None and nbytes * 8 != numel * bits:
        _refuse(path, f"{where}: {_short(shape)} of {dtype} does not fill its {nbytes:,} bytes")
    return StoredTensor(name, dtype, tuple(shape), data + offsets[0], data + offsets[1], file)


def _check_dense(path: Path, tensors: list[StoredTensor], data: int, size: int) -> None:
    end, before = data, None
    for tensor in tensors:
        if tensor.begin < end:
            _refuse(
                path,
                f"tensors {_short(before)} and {_short(tensor.name)} overlap; tied tensors are stored once",
            )
        if tensor.begin > end:
            _refuse(
                path, f"{tensor.begin - end:,} bytes before tensor {_short(tensor.name)} belong to no tensor"
            )
        end, before = tensor.end, tensor.name
    if end < size:
        _refuse(path, f"{size - end:,} bytes at its end belong to no tensor")


def _counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(count) is int and count >= 0 for count in value)


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # an integer of more digits than Python prints
        text = "a number of thousands of digits"
    return text if len(text) <= 100 else f"{text[:90]}..."


def _refuse(path: Path, why: str, what: str = _FILE) -> NoReturn:
    raise CheckpointError(f"'{path}' is not {what}: {why}. Download it or save it again")
