"""The tensors of weight files, one after the other: safetensors, torch checkpoints, and shards of either."""

from __future__ import annotations

import json
import os
import pickle
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import ArgumentError, CheckpointError
from ..extras import require

__all__ = ["read_tensors"]

_INDEX = ".index.json"
_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"
_IN_A_FOLDER = (
    "model.safetensors.index.json",
    "model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
)


def read_tensors(path: str) -> Iterator[Mapping[str, Any] | Iterable[tuple[str, Any]]]:
    """For each file that `path` means: what a torch checkpoint holds, or (name, tensor) pairs of a
    safetensors file, sorted by name with numbers as numbers.

    Raises:
        ArgumentError: There is no such file or folder, or the folder holds no weights.
        CheckpointError: A file is damaged or of another kind, or a shard is missing.
        MissingPackageError: torch or safetensors is not installed.
    """
    for file in _files(Path(path)):
        kind = _kind(file)
        if kind == "safetensors":
            yield _safetensors(file)
        else:
            yield _torch_checkpoint(file)


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        known = [path / name for name in _IN_A_FOLDER if (path / name).is_file()]
        if known:
            return _files(known[0])
        indices = sorted(path.glob(f"*{_INDEX}"))
        if len(indices) == 1:
            return _files(indices[0])
        found = sorted(path.glob("*.safetensors"), key=_numbers_as_numbers)
        if not found:
            raise ArgumentError(
                f"source: the folder '{path}' holds none of {', '.join(_IN_A_FOLDER)} and no *.safetensors. "
                "Pass the file"
            )
        return found
    if not path.is_file():
        raise ArgumentError(
            f"source: '{path}' is no file or folder here. A model of a hub must be downloaded first"
        )
    return _shards(path) if path.name.endswith(_INDEX) else [path]


def _shards(index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        shards = [index.parent / name for name in names]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"'{index}' cannot be read as an index of shards ({error!r})") from None
    absent = [shard.name for shard in shards if not shard.is_file()]
    if absent:
        raise CheckpointError(
            f"'{index}' names '{absent[0]}', which is not beside it ({len(absent)} of {len(shards)} shards "
            "are missing)"
        )
    return shards


def _kind(file: Path) -> str:
    """By the first bytes, whatever the name."""
    with file.open("rb") as opened:
        head = opened.read(64)
    if head[8:9] == b"{":
        return "safetensors"
    if (head.startswith(_ZIP) and b".npy" not in head) or head.startswith(_PICKLE):
        return "torch"
    raise CheckpointError(
        f"'{file}' is neither a safetensors file nor a torch checkpoint (it begins with {head[:8]!r})"
    )


def _safetensors(file: Path) -> Iterator[tuple[str, Any]]:
    library = require("safetensors", "a safetensors file")
    require("torch", "a safetensors file")
    try:
        with library.safe_open(str(file), "pt") as opened:
            for name in sorted(opened.keys(), key=_numbers_as_numbers):
                yield name, opened.get_tensor(name)
    except library.SafetensorError as error:
        raise CheckpointError(f"'{file}' cannot be read as safetensors ({error})") from None


def _torch_checkpoint(file: Path) -> Mapping[str, Any]:
    torch = require("torch", "a torch checkpoint")
    try:
        held = _load(torch, file)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(
            f"'{file}' cannot be read as a torch checkpoint of tensors ({reason}). If you trust it, load it "
            "yourself and pass its state dict"
        ) from None
    if isinstance(held, Mapping):
        return held
    if hasattr(held, "shape"):
        return {"tensor": held}
    raise CheckpointError(f"'{file}' holds a {type(held).__name__}; accepted: a state dict")


def _load(torch: Any, file: Path) -> Any:
    """With tensors left in the file until they are looked at, where its format allows that."""
    with file.open("rb") as opened:
        is_zip = opened.read(4) == _ZIP
    return torch.load(file, map_location="cpu", weights_only=True, mmap=is_zip)


def _numbers_as_numbers(name: str | os.PathLike[str]) -> list[tuple[int, int, str]]:
    """A key that puts ``layers.2`` before ``layers.10``."""
    return [
        (0, int(part), "") if part.isdigit() else (1, 0, part)
        for part in re.split(r"(\d+)", os.fspath(name))
        if part
    ]
