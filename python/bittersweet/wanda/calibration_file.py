"""Calibrations as safetensors files.

One float64 tensor per parameter, by its name: the sums of squares per input feature. Metadata: ``format``
(``bittersweet.calibration``), ``version``, ``samples``, and ``positions``, a JSON object from name to count.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from ..errors import CheckpointError
from ..extras import require
from .sums import InputSum

FORMAT = "bittersweet.calibration"
VERSION = 1


def save(path: str | os.PathLike[str], sums: Mapping[str, InputSum], samples: int) -> None:
    tensors = {name: found.squares.cpu().contiguous() for name, found in sums.items()}
    metadata = {
        "format": FORMAT,
        "version": str(VERSION),
        "samples": str(samples),
        "positions": json.dumps({name: found.positions for name, found in sums.items()}),
    }
    _safetensors().torch.save_file(tensors, os.fspath(path), metadata)


def load(path: str | os.PathLike[str], sizes: Mapping[str, int]) -> tuple[dict[str, InputSum], int]:
    """The sums by name and the samples, checked against the number of input features of every target."""
    library, path = _safetensors(), os.fspath(path)
    try:
        with library.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise CheckpointError(f"'{path}' is not a calibration (format {metadata.get('format')!r})")
            if metadata.get("version") != str(VERSION):
                raise CheckpointError(
                    f"'{path}' has format version {metadata.get('version')}; this release reads version "
                    f"{VERSION}"
                )
            positions, samples = json.loads(metadata["positions"]), int(metadata["samples"])
            sums = {name: InputSum(file.get_tensor(name), int(count)) for name, count in positions.items()}
    except (library.SafetensorError, KeyError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"'{path}' cannot be read as a calibration ({error})") from None
    for name, found in sums.items():
        if name not in sizes:
            raise CheckpointError(
                f"'{path}' holds norms of '{name}', which is not a target here. Use the same model, targets "
                "and ignore"
            )
        if tuple(found.squares.shape) != (sizes[name],) or str(found.squares.dtype) != "torch.float64":
            raise CheckpointError(
                f"'{name}' in '{path}' is {found.squares.dtype} of shape {tuple(found.squares.shape)}; this "
                f"model needs torch.float64 of ({sizes[name]},). Use the file with the model it was made for"
            )
    if not sums:
        raise CheckpointError(f"'{path}' holds no norms")
    return sums, samples


def _safetensors() -> Any:
    require("safetensors.torch", "a saved calibration")
    return require("safetensors", "a saved calibration")
