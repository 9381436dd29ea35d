"""`sparsity`: how many elements are exactly 0, tensor by tensor, in a model, a state dict or a file."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ArgumentError, DeviceError
from ..model.targets import unwrap
from ..training.report import text_table
from .weight_files import read_tensors

if TYPE_CHECKING:
    import torch

__all__ = ["TensorZeros", "ZeroCount", "sparsity"]

_CHUNK = 1 << 20  # elements that are widened at a time, where a type cannot be counted as it is


@dataclass(frozen=True)
class TensorZeros:
    """One tensor: its shape and element type, how many elements it has, and how many are exactly 0."""

    shape: tuple[int, ...]
    dtype: str
    elements: int
    zeros: int

    @property
    def zero(self) -> float:
        """Share of the elements that are exactly 0, 0 to 1."""
        return self.zeros / self.elements if self.elements else 0.0

    def to_dict(self) -> dict[str, Any]:
        return {
            "shape": list(self.shape),
            "dtype": self.dtype,
            "elements": self.elements,
            "zeros": self.zeros,
            "zero": self.zero,
        }


@dataclass(frozen=True)
class ZeroCount:
    """Exact zeros per tensor. Prints as a table of what has two or more axes; `table` shows all.

    Attributes:
        per_tensor: By name, in the order of the model.
        skipped: What was not counted, with the reason: tensors that are no floating-point numbers, and
            values that are no tensors.
    """

    per_tensor: Mapping[str, TensorZeros]
    skipped: Mapping[str, str]

    @property
    def elements(self) -> int:
        return sum(row.elements for row in self.per_tensor.values())

    @property
    def zeros(self) -> int:
        return sum(row.zeros for row in self.per_tensor.values())

    @property
    def zero(self) -> float:
        """Share of all elements that are exactly 0, 0 to 1."""
        return self.zeros / self.elements if self.elements else 0.0

    @property
    def matrices(self) -> ZeroCount:
        """The same of the tensors with two or more axes: not of biases and norms."""
        rows = {name: row for name, row in self.per_tensor.items() if len(row.shape) > 1}
        return ZeroCount(rows, {})

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "elements": self.elements,
            "zeros": self.zeros,
            "zero": self.zero,
            "matrices": {key: getattr(self.matrices, key) for key in ("elements", "zeros", "zero")},
            "per_tensor": {name: row.to_dict() for name, row in self.per_tensor.items()},
            "skipped": dict(self.skipped),
        }

    def table(self, *, every: bool = True) -> str:
        """The table; with `every` False, tensors of fewer than two axes are summed up in one line."""
        matrices = self.matrices
        shown = self.per_tensor if every or not matrices.per_tensor else matrices.per_tensor
        rows: list[tuple[str, ...]] = [("tensor", "shape", "dtype", "elements", "zeros", "share")]
        rows += [_row(name, row) for name, row in shown.items()]
        if len(shown) < len(self.per_tensor):
            rest = [row for name, row in self.per_tensor.items() if name not in shown]
            rows.append(_total(f"{len(rest)} of fewer than two axes", rest))
            rows.append(_total("all of two or more axes", shown.values()))
        rows.append(_total("all", self.per_tensor.values()))
        lines = [text_table(rows)]
        if self.skipped:
            reasons = sorted(set(self.skipped.values()))
            listed = "; ".join(
                f"{sum(found == reason for found in self.skipped.values())} {reason}" for reason in reasons
            )
            lines.append(f"not counted: {listed}")
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.table(every=False)

    def __repr__(self) -> str:
        return (
            f"ZeroCount({len(self.per_tensor)} tensors, {self.zeros:,} of {self.elements:,} elements are 0: "
            f"{self.zero:.4f})"
        )


def _row(name: str, row: TensorZeros) -> tuple[str, ...]:
    shape = "x".join(map(str, row.shape)) or "scalar"
    return name, shape, row.dtype, f"{row.elements:,}", f"{row.zeros:,}", f"{row.zero:.4f}"


def _total(title: str, rows: Iterable[TensorZeros]) -> tuple[str, ...]:
    elements, zeros = 0, 0
    for row in rows:
        elements, zeros = elements + row.elements, zeros + row.zeros
    share = zeros / elements if elements else 0.0
    return title, "", "", f"{elements:,}", f"{zeros:,}", f"{share:.4f}"


def sparsity(source: torch.nn.Module | Mapping[str, Any] | str | os.PathLike[str]) -> ZeroCount:
    """Counts exact zeros (+0 and -0; NaN is none) in every floating-point tensor. Nothing is changed.

    Args:
        source: A torch module (parameters and persistent buffers, tied ones once); a state dict of torch
            tensors or NumPy arrays, also as the ``"state_dict"`` or ``"model"`` of a larger checkpoint; or a
            path: a safetensors file, a torch checkpoint (read with ``weights_only=True``), an index of
            shards (``*.index.json``), or a folder that holds one of these. Files are read tensor by tensor.

    Returns:
        The counts, which print as a table; `ZeroCount.to_dict` for JSON.

    Raises:
        ArgumentError: Another kind of source, nothing to count, or no such file.
        CheckpointError: A file that is damaged or of another kind.
        DeviceError: A tensor has no values (meta device).
        MissingPackageError: A file needs a package that is not installed.
    """
    counted: dict[str, TensorZeros] = {}
    skipped: dict[str, str] = {}
    for name, value in _entries(source):
        found = _count(name, value)
        if isinstance(found, str):
            skipped[name] = found
        else:
            counted[name] = found
    if not counted:
        listed = ", ".join(f"{name} ({reason})" for name, reason in list(skipped.items())[:8])
        raise ArgumentError(f"source: it holds no floating-point tensor ({listed or 'nothing at all'})")
    return ZeroCount(counted, skipped)


def _entries(source: Any) -> Iterator[tuple[str, Any]]:
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(source, torch.nn.Module):
        return _of_module(source)
    if isinstance(source, Mapping):
        return iter(_state_dict(source).items())
    if isinstance(source, (str, os.PathLike)):
        return ((name, value) for part in read_tensors(os.fspath(source)) for name, value in _part(part))
    if _is_array(source):
        return iter([("tensor", source)])
    hint = ". Use its own sparsity()" if hasattr(source, "sparsity") else ""
    raise ArgumentError(
        f"source: found {type(source).__name__}; accepted: a torch module, a state dict, a tensor, or a "
        f"path{hint}"
    )


def _part(part: Any) -> Iterable[tuple[str, Any]]:
    return _state_dict(part).items() if isinstance(part, Mapping) else part


def _of_module(module: torch.nn.Module) -> Iterator[tuple[str, Any]]:
    seen: set[int] = set()
    for name, value in unwrap(module).state_dict(keep_vars=True).items():
        if id(value) not in seen:
            seen.add(id(value))
            yield name, value


def _state_dict(source: Mapping[Any, Any]) -> Mapping[str, Any]:
    """The mapping itself if it holds tensors, or the one in it that does."""
    if any(_is_array(value) for value in source.values()):
        return {str(name): value for name, value in source.items()}
    for key in ("state_dict", "model_state_dict", "model", "module"):
        inner = source.get(key)
        if isinstance(inner, Mapping) and any(_is_array(value) for value in inner.values()):
            return {str(name): value for name, value in inner.items()}
    listed = ", ".join(map(repr, list(source)[:8]))
    raise ArgumentError(
        f"source: a mapping without tensors (keys: {listed or 'none'}). Pass the state dict that lies in it"
    )


def _is_array(value: Any) -> bool:
    return hasattr(value, "dtype") and hasattr(type(value), "shape")


def _count(name: str, value: Any) -> TensorZeros | str:
    """The counts of one tensor, or why there are none."""
    if not _is_array(value):
        return f"{type(value).__name__}, no tensor"
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        return _count_torch(name, value)
    array = np.asarray(value)
    dtype = array.dtype.name
    if array.dtype.kind not in "fc" and not dtype.startswith(("bfloat16", "float")):
        return f"of {dtype}"
    return TensorZeros(array.shape, dtype, array.size, array.size - int(np.count_nonzero(array)))


def _count_torch(name: str, tensor: torch.Tensor) -> TensorZeros | str:
    import torch

    if torch.nn.parameter.is_lazy(tensor):
        return "not initialised yet"
    dtype = str(tensor.dtype).removeprefix("torch.")
    kinds = {cls.__name__ for cls in type(tensor).__mro__}
    if "DTensor" in kinds:
        return "DTensor, of which this process has a part"
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return f"of {dtype}"
    if tensor.device.type == "meta":
        raise DeviceError(
            f"source: '{name}' is on the meta device and has no values. Load the weights first (to_empty() "
            "and load_state_dict)"
        )
    values = tensor.detach()
    if tensor.layout == torch.sparse_coo:
        values = values.coalesce().values()
    elif tensor.layout != torch.strided:
        values = values.values()
    try:
        nonzero = _nonzero(values)
    except (NotImplementedError, RuntimeError, TypeError):
        return f"{type(tensor).__name__} of {dtype}, which torch does not count"
    return TensorZeros(tuple(tensor.shape), dtype, tensor.numel(), tensor.numel() - nonzero)


def _nonzero(values: torch.Tensor) -> int:
    import torch

    if values.element_size() > 1:
        return int(values.count_nonzero())
    chunks: Any = torch.split(values.reshape(-1), _CHUNK)  # eight bits, for which torch has no comparison
    return sum(int(chunk.float().count_nonzero()) for chunk in chunks)
