"""Norms of input features for scorer ``"wanda"``, read from a file tensor by tensor."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ArgumentError, CheckpointError, MissingStateError, ShapeError
from .blocks import is_stacked
from .choosing import Choice
from .headers import StoredTensor, read_header

__all__ = ["StoredNorms"]

_CALIBRATION, _VERSION = "bittersweet.calibration", "1"
_READ = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16}


class StoredNorms:
    """The norms in a file that `Calibrator.save` wrote, or in a safetensors file of one-axis tensors by the
    names of the weights. The last ones that were asked for are kept.

    Raises:
        ArgumentError: There is no such file.
        CheckpointError: It is damaged, or of another version.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise ArgumentError(
                f"norms: '{path}' is no file; accepted: what Calibrator.save wrote, or a safetensors file of "
                "one norm per input feature by the names of the weights"
            )
        header = read_header(self.path)
        self._tensors = {tensor.name: tensor for tensor in header.tensors}
        self._positions = _positions(self.path, header.metadata)
        if self._positions is not None and not self._tensors.keys() <= self._positions.keys():
            raise CheckpointError(f"'{path}' cannot be read as a calibration (its positions)")
        self._last: tuple[str, Any] = ("", None)

    def check(self, choices: Sequence[Choice]) -> None:
        """Reads those of all chosen tensors once.

        Raises:
            MissingStateError: A chosen tensor has none.
            ShapeError: There are more or fewer than it has input features.
            CheckpointError: One is negative or no finite number.
        """
        for choice in choices:
            if not choice.pruned:
                continue
            norms, wanted = self.of(choice.tensor), _features(choice)
            if norms.shape != (wanted,):
                hint = (
                    "" if choice.transposed else "; if its inputs are its first axis, name it in transposed"
                )
                raise ShapeError(
                    f"norms: '{choice.tensor.name}' has {norms.shape[0]} in '{self.path}' and {wanted} input "
                    f"features in its shape {choice.tensor.shape}{hint}"
                )
            wrong = np.flatnonzero(~(np.isfinite(norms) & (norms >= 0)))
            if wrong.size:
                raise CheckpointError(
                    f"norms: that of input {wrong[0]} of '{choice.tensor.name}' in '{self.path}' is "
                    f"{norms[wrong[0]]}; finite numbers from 0 are accepted. Calibrate again"
                )

    def of(self, tensor: StoredTensor) -> Any:
        """float32, one per input feature, as `Calibrator.norms` gives them."""
        if self._last[0] != tensor.name:
            self._last = (tensor.name, self._read(tensor.name))
        return self._last[1]

    def _read(self, name: str) -> Any:
        found = self._tensors.get(name)
        if found is None:
            known = ", ".join(list(self._tensors)[:3])
            raise MissingStateError(
                f"norms: '{self.path}' has none of '{name}' (it has those of {known or 'nothing'}). Names "
                "must be those of the checkpoint; leave this tensor out by exclude, or calibrate it"
            )
        if found.dtype not in _READ or len(found.shape) != 1:
            raise CheckpointError(
                f"norms: '{name}' in '{self.path}' is {found.dtype} of shape {found.shape}; accepted: one "
                f"axis of {', '.join(_READ)}"
            )
        with self.path.open("rb") as opened:
            opened.seek(found.begin)
            values: Any = np.frombuffer(opened.read(found.nbytes), _READ[found.dtype])
        if found.dtype == "BF16":
            values = (values.astype(np.uint32) << 16).view(np.float32)
        if self._positions is not None:
            values = np.sqrt(values.astype(np.float64) / max(self._positions[name], 1))
        return np.ascontiguousarray(values.astype(np.float32))


def _positions(path: Path, metadata: Mapping[str, str]) -> Mapping[str, int] | None:
    """The counts that sums of squares are divided by; None where norms are stored as they are."""
    if metadata.get("format") != _CALIBRATION:
        return None
    if metadata.get("version") != _VERSION:
        raise CheckpointError(
            f"'{path}' has format version {metadata.get('version')}; this release reads version {_VERSION}"
        )
    try:
        return {str(name): int(count) for name, count in json.loads(metadata["positions"]).items()}
    except (KeyError, ValueError, TypeError, AttributeError):
        raise CheckpointError(f"'{path}' cannot be read as a calibration (its positions)") from None


def _features(choice: Choice) -> int:
    shape = choice.tensor.shape
    if is_stacked(choice.tensor):
        return shape[0] * shape[1 if choice.transposed else 2]
    return shape[0 if choice.transposed else 1]
