"""What a checkpoint holds: its files of weights with their tensors, and the files beside them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ArgumentError, CheckpointError
from .folders import INDEX, files_of, kind_of, weight_map
from .headers import FileHeader, StoredTensor, mark_of, read_header

__all__ = ["Checkpoint", "open_checkpoint"]

_WEIGHTS = frozenset(
    (
        ".bin",
        ".ckpt",
        ".ggml",
        ".gguf",
        ".h5",
        ".msgpack",
        ".npz",
        ".onnx",
        ".onnx_data",
        ".ot",
        ".pt",
        ".pth",
        ".safetensors",
        ".tflite",
    )
)


@dataclass(frozen=True)
class Checkpoint:
    """A safetensors file, or a folder of them with what lies beside.

    Attributes:
        root: The file or the folder.
        files: Its files of weights in the order of ties: by name, then by the place of the data.
        beside: Other files of the folder, by their path within it, that belong to the model.
        left_out: Files that do not: weights in other files and formats, which nobody prunes here.
        config: What ``config.json`` says, or nothing.
    """

    root: Path
    folder: bool
    files: tuple[FileHeader, ...]
    beside: tuple[Path, ...]
    left_out: tuple[str, ...]
    config: Mapping[str, Any]

    @property
    def tensors(self) -> Iterator[StoredTensor]:
        return (tensor for file in self.files for tensor in file.tensors)

    @property
    def nbytes(self) -> int:
        """Of all that a pruned copy holds."""
        return sum(file.size for file in self.files) + sum(
            (self.root / path).stat().st_size for path in self.beside
        )

    def check_unchanged(self) -> None:
        """Raises CheckpointError if a file was written to since it was looked at."""
        for file in self.files:
            try:
                with file.path.open("rb") as opened:
                    same = mark_of(opened.fileno()) == file.mark
            except OSError:
                same = False
            if not same:
                raise CheckpointError(
                    f"'{file.path}' changed while it was read. Prune it when nobody writes to it"
                )


def open_checkpoint(source: str | os.PathLike[str]) -> Checkpoint:
    """Reads and checks the headers of all files, and nothing else of them.

    Raises:
        ArgumentError: There is no such file or folder, or it holds no safetensors.
        CheckpointError: A file or the index is damaged, or they contradict each other.
    """
    if not isinstance(source, (str, os.PathLike)):
        raise ArgumentError(
            f"source: found {type(source).__name__}; accepted: the path of a safetensors file, or of a "
            "folder of them. A model in memory is pruned by bittersweet.prune_"
        )
    path = Path(source)
    paths, index = files_of(path)
    headers = tuple(_header(file, at) for at, file in enumerate(paths))
    _check_names(headers, index)
    folder = path.is_dir() or index is not None
    root = path if path.is_dir() or not folder else path.parent
    beside, left_out = _others(root, {file.name for file in paths}, index) if folder else ((), ())
    return Checkpoint(root, folder, headers, beside, left_out, _config(root if folder else path.parent))


def _header(file: Path, at: int) -> FileHeader:
    try:
        kind = kind_of(file)
    except OSError as error:
        raise CheckpointError(f"'{file}' cannot be read ({error.strerror})") from None
    if kind == "torch":
        raise ArgumentError(
            f"source: '{file}' is a torch checkpoint (pickle), which cannot be read in parts. Save its "
            "tensors first: safetensors.torch.save_file(torch.load(file, weights_only=True), "
            "'model.safetensors')"
        )
    if kind == "gguf":
        raise ArgumentError(
            f"source: '{file}' is a GGUF file. Prune the safetensors that it is made from, and convert then"
        )
    return read_header(file, at)


def _check_names(headers: tuple[FileHeader, ...], index: Path | None) -> None:
    found: dict[str, str] = {}
    for header in headers:
        for tensor in header.tensors:
            if tensor.name in found:
                raise CheckpointError(
                    f"the tensor '{tensor.name}' is in '{found[tensor.name]}' and in '{header.path.name}'. "
                    "If these are two forms of one model, pass the file of one"
                )
            found[tensor.name] = header.path.name
    if index is None:
        return
    said = weight_map(index)
    for name, file in said.items():
        if found.get(name) != file:
            where = f"it is in '{found[name]}'" if name in found else "no file holds it"
            raise CheckpointError(f"'{index}' says that the tensor '{name}' is in '{file}', and {where}")
    unsaid = next((name for name in found if name not in said), None)
    if unsaid is not None:
        raise CheckpointError(
            f"'{index}' does not name the tensor '{unsaid}', which '{found[unsaid]}' holds. Complete the "
            "index, or pass the file"
        )


def _others(root: Path, weights: set[str], index: Path | None) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    beside, left_out = [], []
    for folder, subfolders, names in os.walk(root):
        where = Path(folder).relative_to(root)
        hidden = [name for name in subfolders if name.startswith(".") or (Path(folder) / name).is_symlink()]
        left_out += [f"{where / name}/" for name in hidden]
        subfolders[:] = sorted(set(subfolders) - set(hidden))
        for name in sorted(names):
            file = where / name
            if where == Path() and (name in weights or (index is not None and name == index.name)):
                if name not in weights:
                    beside.append(file)
            elif file.suffix in _WEIGHTS or name.endswith(INDEX) or not (root / file).is_file():
                left_out.append(str(file))
            else:
                beside.append(file)
    return tuple(beside), tuple(left_out)


def _config(root: Path) -> Mapping[str, Any]:
    try:
        held = json.loads((root / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return held if isinstance(held, dict) else {}
