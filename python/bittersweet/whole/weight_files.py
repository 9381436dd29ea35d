"""The tensors of weight files, one after the other: safetensors, torch checkpoints, and shards of either."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..checkpoint_files.folders import files_of, kind_of, natural_order
from ..errors import CheckpointError
from ..extras import require

__all__ = ["read_tensors"]

_ZIP = b"PK\x03\x04"


def read_tensors(path: str) -> Iterator[Mapping[str, Any] | Iterable[tuple[str, Any]]]:
    """For each file that `path` means: what a torch checkpoint holds, or (name, tensor) pairs of a
    safetensors file, sorted by name with numbers as numbers.

    Raises:
        ArgumentError: There is no such file or folder, or the folder holds no weights.
        CheckpointError: A file is damaged or of another kind, or a shard is missing.
        MissingPackageError: torch or safetensors is not installed.
    """
    files, _ = files_of(Path(path))
    for file in files:
        kind = kind_of(file)
        if kind == "safetensors":
            yield _safetensors(file)
        elif kind == "torch":
            yield _torch_checkpoint(file)
        else:
            raise CheckpointError(
                f"'{file}' is neither a safetensors file nor a torch checkpoint (it begins with {kind})"
            )


def _safetensors(file: Path) -> Iterator[tuple[str, Any]]:
    library = require("safetensors", "a safetensors file")
    require("torch", "a safetensors file")
    try:
        with library.safe_open(str(file), "pt") as opened:
            for name in sorted(opened.keys(), key=natural_order):
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
