"""Masks as safetensors files: ``save_masks(path, masks)`` and ``load_masks(path)``.

One int64 tensor per mask, by its name: ceil(elements / 64) words of keep bits, lowest bit first, row-major,
bits after the last element 0. Metadata: ``format`` (``bittersweet.masks``), ``version``, and ``shapes``, a
JSON object from name to shape.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..distributed.shards import is_dtensor
from ..errors import ArgumentError, CheckpointError, LayoutError
from ..extras import require
from ..model.mask_view import MaskView
from ..options.values import one_of
from ..tensors.mask_list import Masks
from ..tensors.masks import Mask
from ..tensors.packing import words_for

__all__ = ["load_masks", "save_masks"]

FORMAT = "bittersweet.masks"
VERSION = "1"


def save_masks(path: str | os.PathLike[str], masks: Any) -> None:
    """Writes masks to a safetensors file, one bit per element. An existing file is replaced.

    Args:
        path: Where to; its folder exists.
        masks: By name: `Mask` objects or bool arrays (True = keep), such as ``pruner.masks`` or what
            `make_masks` returns.

    Raises:
        ArgumentError: `masks` is no mapping and no `Masks`, or is empty, or `path` cannot be written.
        DTypeError, DeviceError, LayoutError: A mask is no bool array, or of a part of a weight.
        MissingPackageError: The package safetensors is not installed.
    """
    packed = _packed(masks)
    for name, mask in packed.items():
        if mask.shard is not None and mask.shard.shape != mask.shape:
            raise _part(name)
    if not packed:
        raise ArgumentError("masks: there are none; nothing has been written")
    tensors = {name: mask.to_host().view(np.int64) for name, mask in packed.items()}
    shapes = json.dumps({name: mask.shape for name, mask in packed.items()})
    metadata = {"format": FORMAT, "version": VERSION, "shapes": shapes}
    library, writer = (require(f"safetensors{part}", "a file of masks") for part in ("", ".numpy"))
    try:
        writer.save_file(tensors, os.fspath(path), metadata)
    except (OSError, library.SafetensorError) as error:
        raise ArgumentError(f"path: '{os.fspath(path)}' cannot be written ({error})") from None


def load_masks(path: str | os.PathLike[str], *, framework: str = "torch") -> dict[str, Mask]:
    """Reads what `save_masks` wrote: masks by name, which `Pruner.load_masks`, `apply_masks_` and the
    `masks` of `prune_` take.

    Args:
        path: The file.
        framework: What ``Mask.bool()`` gives: ``"torch"`` or ``"numpy"``. Torch is not loaded for it.

    Raises:
        ArgumentError: There is no such file.
        CheckpointError: It is no file of masks, of another version, or damaged.
        MissingPackageError: The package safetensors is not installed.
    """
    framework, path = one_of("framework", framework, ("torch", "numpy")), os.fspath(path)
    library = require("safetensors", "a file of masks")
    if not os.path.isfile(path):
        raise ArgumentError(f"path: '{path}' is no file; accepted: a file that save_masks wrote")
    try:
        with library.safe_open(path, "np") as file:
            shapes = _shapes(path, file.metadata() or {})
            if sorted(file.keys()) != sorted(shapes):
                raise CheckpointError(
                    f"'{path}': its masks and its shapes name different tensors; it is damaged"
                )
            return {
                name: _mask(path, name, file.get_tensor(name), shape, framework)
                for name, shape in shapes.items()
            }
    except (library.SafetensorError, OSError) as error:
        raise CheckpointError(f"'{path}' cannot be read as masks ({error})") from None


def _packed(masks: Any) -> dict[str, Mask]:
    if isinstance(masks, Masks):
        return {mask.name: mask for mask in masks}
    if isinstance(masks, MaskView):
        if masks.split:
            raise _part(masks.split[0])
        return masks.all_packed()
    if isinstance(masks, Mapping):
        return {
            str(name): mask if isinstance(mask, Mask) else _whole(mask, str(name))
            for name, mask in masks.items()
        }
    raise ArgumentError(
        f"masks: found {type(masks).__name__}; accepted: a mapping from names to masks, such as pruner.masks"
    )


def _whole(mask: Any, name: str) -> Mask:
    if is_dtensor(mask):
        raise _part(name)
    return Mask.from_bool(mask, name)


def _part(name: str) -> LayoutError:
    return LayoutError(
        f"masks: of '{name}' this rank holds a part only, and a file has whole masks. Save "
        "Pruner.full_state_dict(), or gather them on all ranks: {name: masks[name].full_tensor() for name in "
        "masks}"
    )


def _shapes(path: str, metadata: Mapping[str, str]) -> dict[str, tuple[int, ...]]:
    if metadata.get("format") != FORMAT:
        raise CheckpointError(
            f"'{path}' is no file of masks (format {metadata.get('format')!r}). Pass what save_masks wrote"
        )
    if metadata.get("version") != VERSION:
        raise CheckpointError(
            f"'{path}' has format version {metadata.get('version')}; this release reads version {VERSION}. "
            "Load it with the release that wrote it"
        )
    try:
        shapes = json.loads(metadata["shapes"])
        found = {str(name): tuple(shape) for name, shape in shapes.items()}
        if all(type(size) is int and size >= 0 for shape in found.values() for size in shape):
            return found
    except (KeyError, ValueError, TypeError, AttributeError):
        pass
    raise CheckpointError(f"'{path}': its shapes cannot be read; it is damaged")


def _mask(path: str, name: str, words: Any, shape: tuple[int, ...], framework: str) -> Mask:
    numel = math.prod(shape)
    if words.dtype != np.int64 or words.shape != (words_for(numel),):
        raise CheckpointError(
            f"'{path}': the mask of '{name}' is {words.dtype} {words.shape}; expected {words_for(numel)} "
            "words of int64. It is damaged"
        )
    words = np.ascontiguousarray(words).view(np.uint64)
    if numel % 64 and int(words[-1]) >> (numel % 64):
        raise CheckpointError(
            f"'{path}': the mask of '{name}' has bits beyond its {numel} elements; it is damaged"
        )
    return Mask(words, shape, name, framework)
