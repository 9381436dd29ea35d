"""Packed models as safetensors files: `save_compressed` and `load_compressed`.

A matrix NAME is four tensors, ``NAME.shape``, ``NAME.compressed``, ``NAME.bitmask`` and ``NAME.row_offsets``
(`rows`); everything else is stored as it is. Metadata: ``bittersweet.sparse``, the format and its version,
and ``bittersweet.tied``, a JSON object from names that share another's memory to that name.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..checkpoint_files.headers import parse_json, read_header
from ..errors import ArgumentError, CheckpointError
from ..extras import require
from ..model.wrappers import unwrap
from ..options.values import as_fraction
from ..tensors.masks import Mask
from . import layouts
from .linear import SparseLinear
from .report import PackedLayer, PackReport
from .rows import PARTS, RowMatrix, shape_of, to_dense, to_rows
from .strips import CODES, measure, pack

__all__ = ["is_compressed", "read_compressed", "save_compressed"]

FORMAT, TIED = "bittersweet.sparse", "bittersweet.tied"
VERSION = "row-bitmask/1"
LAYOUT = "row-bitmask"


def save_compressed(
    source: nn.Module | Mapping[str, torch.Tensor], path: str | os.PathLike[str], min_sparsity: float = 0.1
) -> PackReport:
    """Writes a model to one safetensors file, its sparse matrices without their zeros, bit for bit.

    Args:
        source: A model, whose packed layers are compressed and whose other tensors are stored as they are; or
            a state dict, of which every matrix of at least `min_sparsity` is compressed (-0 is stored). What
            lies on a CUDA device is copied from there, a layer or a tensor at a time.
        path: Where to; its folder exists. An existing file is replaced.
        min_sparsity: See above.

    Returns:
        What was compressed, with bytes in the file.

    Raises:
        ArgumentError: Nothing to save, tensors elsewhere than on the CPU or a CUDA device, names that mean
            parts of a compressed matrix (see above), or `path` cannot be written.
        MissingPackageError: The package safetensors is not installed.
    """
    library, writer = (require(f"safetensors{part}", "a compressed file") for part in ("", ".torch"))
    tensors, tied, report = compressed_of(source, as_fraction("min_sparsity", min_sparsity))
    metadata = {"format": "pt", FORMAT: VERSION, TIED: json.dumps(tied)}
    try:
        writer.save_file(tensors, os.fspath(path), metadata)
    except (OSError, library.SafetensorError) as error:
        raise ArgumentError(f"path: '{os.fspath(path)}' cannot be written ({error})") from None
    return report


def compressed_of(
    source: nn.Module | Mapping[str, torch.Tensor], least: float
) -> tuple[dict[str, torch.Tensor], dict[str, str], PackReport]:
    """What the file is to hold: tensors, tied names, and the report."""
    packed: dict[SparseLinear, str] = {}
    tied: dict[str, str] = {}
    state: Mapping[str, Any]
    if isinstance(source, nn.Module):
        source = unwrap(source)
        own = set[str]()
        for name, layer in packed_layers(source).items():
            own |= {f"{name}.{array}".lstrip(".") for array in layouts.ARRAYS[layer.layout]}
            if packed.setdefault(layer, name) != name:
                tied[f"{name}.weight"] = f"{packed[layer]}.weight"
        state = {n: value for n, value in source.state_dict(keep_vars=True).items() if n not in own}
    elif isinstance(source, Mapping):
        state = source
    else:
        raise ArgumentError(f"source: found {type(source).__name__}; accepted: a model or a state dict")
    tensors: dict[str, torch.Tensor] = {}
    layers: list[PackedLayer] = []
    for layer, name in packed.items():
        _require_readable(f"{name}.values".lstrip("."), layer.values)
        layers.append(_add(tensors, f"{name}.weight".lstrip("."), to_rows(*_strips_in_file(layer))))
    seen: dict[tuple[Any, ...], str] = {}
    written = set[int]()  # of whose memory the file takes no second tensor
    for name, value in state.items():
        if not isinstance(value, torch.Tensor):
            raise ArgumentError(f"source: '{name}' is a {type(value).__name__}; accepted: tensors")
        value = value.detach()
        _require_readable(name, value)
        key = (value.device, value.data_ptr(), tuple(value.shape), value.stride(), value.dtype)
        if value.numel() and key in seen:
            tied[name] = seen[key]
            continue
        seen[key] = name
        value = value.contiguous().cpu()
        matrix = not isinstance(source, nn.Module) and value.dim() == 2 and value.dtype in CODES
        if matrix and value.numel():
            measured = measure(value)
            if measured.sparsity >= least:
                rows = to_rows(measured.marks, pack(value, measured), measured.offsets, *measured.shape)
                layers.append(_add(tensors, name, rows))
                continue
            layers.append(
                _left(
                    name, value, measured.sparsity, f"its sparsity {measured.sparsity:.4f} is below {least:g}"
                )
            )
        if name.endswith(".compressed"):
            raise ArgumentError(f"source: '{name}' would be read as the values of a matrix; rename it")
        memory = value.untyped_storage()
        alone = memory.nbytes() == value.nbytes and memory.data_ptr() not in written
        written.add(memory.data_ptr())
        _put(tensors, name, value if alone else value.clone())
    if not tensors:
        raise ArgumentError("source: it holds no tensor; nothing has been written")
    return tensors, tied, PackReport(layers)


def _require_readable(name: str, value: torch.Tensor) -> None:
    if value.device.type not in ("cpu", "cuda") or value.layout != torch.strided:
        raise ArgumentError(
            f"source: '{name}' is on {value.device}, {value.layout}; accepted: torch.strided on the CPU or a "
            "CUDA device. Move it to the CPU"
        )


def packed_layers(model: nn.Module) -> dict[str, SparseLinear]:
    """The packed layers of a model by all of their names."""
    named = model.named_modules(remove_duplicate=False)
    return {name: layer for name, layer in named if isinstance(layer, SparseLinear)}


def _put(tensors: dict[str, torch.Tensor], name: str, value: torch.Tensor) -> None:
    if name in tensors:
        raise ArgumentError(f"source: '{name}' is a tensor and a part of a compressed matrix; rename it")
    tensors[name] = value


def _strips_in_file(layer: SparseLinear) -> tuple[Any, ...]:
    """Masks, values, offsets, rows and columns of the weight as the dense layer has it, on the CPU."""
    if layer.layout == "strips" and not layer.transposed:
        shape = layer.out_features, layer.in_features
        return layer.masks.cpu(), layer.values.cpu(), layer.offsets.cpu(), *shape
    dense, kept = layer.to_dense(), layer.kept()
    if layer.transposed:
        dense, kept = dense.t().contiguous(), kept.t().contiguous()
    measured = layouts.measure("strips", dense, Mask.from_bool(kept, "weight"))  # where the layer lies
    values = layouts.pack(dense, measured)
    return measured.marks.cpu(), values.cpu(), measured.offsets.cpu(), *measured.shape


def _add(tensors: dict[str, torch.Tensor], name: str, rows: RowMatrix) -> PackedLayer:
    for part, tensor in zip(PARTS, rows, strict=True):
        _put(tensors, f"{name}.{part}", tensor)
    height, width = rows.shape.tolist()
    compressed = rows.compressed
    sparsity = 1.0 - compressed.numel() / (height * width) if height * width else 0.0
    return PackedLayer(
        name,
        (height, width),
        str(compressed.dtype)[6:],
        sparsity,
        LAYOUT,
        height * width * compressed.element_size(),
        sum(tensor.nbytes for tensor in rows),
        0,
        choice=f"in memory {layouts.auto(sparsity, compressed.dtype, 1, False)[1]}",
    )


def _left(name: str, dense: torch.Tensor, sparsity: float, reason: str) -> PackedLayer:
    size = dense.nbytes
    return PackedLayer(name, tuple(dense.shape), str(dense.dtype)[6:], sparsity, None, size, size, 0, reason)


def is_compressed(path: str | os.PathLike[str]) -> bool:
    """Whether this is a file that `save_compressed` wrote."""
    library = require("safetensors", "a compressed file")
    try:
        with library.safe_open(os.fspath(path), "pt") as file:
            return FORMAT in (file.metadata() or {})
    except (library.SafetensorError, OSError):
        return False


def read_compressed(path: str | os.PathLike[str]) -> tuple[dict[str, RowMatrix], dict[str, torch.Tensor]]:
    """The matrices and the other tensors of a file, checked; tied names are there with their own names.

    Raises:
        ArgumentError: There is no such file.
        CheckpointError: It is damaged, of another kind, or of another version.
        MissingPackageError: The package safetensors is not installed.
    """
    path = os.fspath(path)
    library = require("safetensors", "a compressed file")
    if not os.path.isfile(path):
        raise ArgumentError(f"path: '{path}' is no file; accepted: a file that save_compressed wrote")
    read_header(Path(path))  # is strict where safetensors takes the last of two tensors of one name
    try:
        with library.safe_open(path, "pt") as file:
            tied = _checked_metadata(path, file.metadata() or {})
            tensors = {name: _aligned(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
    except (library.SafetensorError, OSError) as error:
        raise CheckpointError(f"'{path}' cannot be read as safetensors ({error})") from None
    matrices = _matrices(path, tensors)
    for name, other in tied.items():
        if name in tensors or name in matrices or (other not in tensors and other not in matrices):
            raise CheckpointError(
                f"'{path}': '{name}' is tied to '{other}', which does not fit; it is damaged"
            )
        if other in matrices:
            matrices[name] = matrices[other]
        else:
            tensors[name] = tensors[other]
    return matrices, tensors


def _checked_metadata(path: str, metadata: Mapping[str, str]) -> dict[str, str]:
    version = metadata.get(FORMAT)
    if version is None:
        raise CheckpointError(f"'{path}' is no compressed file. Pass what save_compressed wrote")
    if version != VERSION:
        raise CheckpointError(
            f"'{path}' has the format {version}; this release reads {VERSION}. Load it with the release that "
            "wrote it"
        )
    tied = parse_json(
        Path(path), metadata.get(TIED, "{}").encode(), "a file with sound names of tied tensors"
    )
    if not all(isinstance(other, str) for other in tied.values()) or not _is_text([*tied, *tied.values()]):
        raise CheckpointError(f"'{path}': its tied names cannot be read; it is damaged")
    return tied


def _is_text(names: Iterable[str]) -> bool:
    """JSON can spell halves of a character, which nothing can print or save."""
    try:
        "".join(names).encode()
    except UnicodeEncodeError:
        return False
    return True


def _aligned(tensor: torch.Tensor) -> torch.Tensor:
    """A file may put its data at any byte."""
    return tensor.clone() if tensor.data_ptr() % tensor.element_size() else tensor


def _matrices(path: str, tensors: dict[str, torch.Tensor]) -> dict[str, RowMatrix]:
    """Takes the matrices out of `tensors`."""
    names = [name.removesuffix(".compressed") for name in tensors if name.endswith(".compressed")]
    found: dict[str, RowMatrix] = {}
    for name in names:
        absent = [part for part in PARTS if f"{name}.{part}" not in tensors]
        if absent:
            raise CheckpointError(f"'{path}': '{name}.{absent[0]}' is missing; it is damaged")
        found[name] = RowMatrix(*(tensors.pop(f"{name}.{part}") for part in PARTS))
        if name in tensors:
            raise CheckpointError(f"'{path}': '{name}' is there twice, dense and compressed")
    return found


def dense_state(path: str | os.PathLike[str]) -> dict[str, torch.Tensor]:
    """All tensors of a compressed file, dense."""
    matrices, tensors = read_compressed(path)
    for name, rows in matrices.items():
        shape_of(rows, name)
    made = {name: to_dense(rows) for name, rows in matrices.items()}
    return {**tensors, **made}


def save_dense(tensors: Iterable[tuple[str, torch.Tensor]], path: str | os.PathLike[str]) -> None:
    """A plain safetensors file, which every program reads."""
    library, writer = (require(f"safetensors{part}", "a file of weights") for part in ("", ".torch"))
    try:
        writer.save_file({name: t.clone() for name, t in tensors}, os.fspath(path), {"format": "pt"})
    except (OSError, library.SafetensorError) as error:
        raise ArgumentError(f"path: '{os.fspath(path)}' cannot be written ({error})") from None
