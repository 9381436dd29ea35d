"""From a path to files of weights: one file, an index of shards, or a folder."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ..errors import ArgumentError, CheckpointError
from .headers import parse_json

__all__ = ["INDEX", "files_of", "kind_of", "natural_order", "weight_map"]

INDEX = ".index.json"
_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"
_IN_A_FOLDER = (
    "model.safetensors.index.json",
    "model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
)


def files_of(path: Path, argument: str = "source") -> tuple[list[Path], Path | None]:
    """The files of weights that `path` means, and the index that names them, if one does.

    Raises:
        ArgumentError: There is no such file or folder, or the folder holds no weights.
        CheckpointError: An index is damaged, or names a file that is not beside it.
    """
    if path.is_dir():
        known = [path / name for name in _IN_A_FOLDER if (path / name).is_file()]
        if known:
            return files_of(known[0], argument)
        indices = sorted(path.glob(f"*{INDEX}"))
        if len(indices) == 1:
            return files_of(indices[0], argument)
        found = sorted(path.glob("*.safetensors"), key=natural_order)
        if not found:
            raise ArgumentError(
                f"{argument}: the folder '{path}' holds none of {', '.join(_IN_A_FOLDER)} and no "
                "*.safetensors. Pass the file"
            )
        return found, None
    if not path.is_file():
        raise ArgumentError(
            f"{argument}: '{path}' is no file or folder here. A model of a hub must be downloaded first"
        )
    if not path.name.endswith(INDEX):
        return [path], None
    names = sorted(set(weight_map(path).values()))
    absent = [name for name in names if not (path.parent / name).is_file()]
    if absent:
        raise CheckpointError(
            f"'{path}' names '{absent[0]}', which is not beside it ({len(absent)} of {len(names)} shards "
            "are missing)"
        )
    return [path.parent / name for name in names], path


def weight_map(index: Path) -> dict[str, str]:
    """What an index says: the file of every tensor, by its plain name beside the index.

    Raises:
        CheckpointError: It says no such thing.
    """
    try:
        text = index.read_bytes()
    except OSError as error:
        raise CheckpointError(f"'{index}' cannot be read ({error.strerror})") from None
    found = parse_json(index, text, "an index of shards").get("weight_map")
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found.values()):
        raise CheckpointError(
            f"'{index}' cannot be read as an index of shards (its weight_map is no object of file names)"
        )
    for name in found.values():
        if name in ("", ".", "..") or "/" in name or "\\" in name or "\0" in name:
            raise CheckpointError(
                f"'{index}' names the file {name!r}; accepted: names of files beside it, without a folder"
            )
    return found


def kind_of(file: Path) -> str:
    """By the first bytes, whatever the name: ``"safetensors"``, ``"torch"``, ``"gguf"`` or what they are."""
    with file.open("rb") as opened:
        head = opened.read(64)
    if head[8:9] == b"{":
        return "safetensors"
    if (head.startswith(_ZIP) and b".npy" not in head) or head.startswith(_PICKLE):
        return "torch"
    return "gguf" if head.startswith(b"GGUF") else repr(head[:8])


def natural_order(name: str | os.PathLike[str]) -> list[tuple[int, int, str]]:
    """A key that puts ``layers.2`` before ``layers.10``."""
    return [
        (0, int(part), "") if part.isdigit() else (1, 0, part)
        for part in re.split(r"(\d+)", os.fspath(name))
        if part
    ]
