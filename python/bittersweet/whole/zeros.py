"""`sparsity`: how many elements are exactly 0, tensor by tensor, in a model, a state dict or a file."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..distributed.collective import Group
from ..distributed.shards import Shard, local, shard_of
from ..errors import ArgumentError, DeviceError
from ..model.gathering import reshard
from ..model.targets import unwrap
from ..model.wrappers import refuse_sharded
from .weight_files import read_tensors
from .zero_count import PartZeros, TensorZeros, ZeroCount, counted_over_ranks

if TYPE_CHECKING:
    import torch

__all__ = ["TensorZeros", "ZeroCount", "sparsity"]

_CHUNK = 1 << 20  # elements that are widened at a time, where a type cannot be counted as it is


def sparsity(
    source: torch.nn.Module | Mapping[str, Any] | str | os.PathLike[str], *, process_group: Any = None
) -> ZeroCount:
    """Counts exact zeros (+0 and -0; NaN is none) in every floating-point tensor. Nothing is changed.

    Of DTensors (fully_shard, tensor parallelism) and with a process group the parts of all ranks are counted,
    copies once, and every rank gets the counts of the whole: all ranks call this.

    Args:
        source: A torch module (parameters and persistent buffers, tied ones once); a state dict of torch
            tensors or NumPy arrays, also as the ``"state_dict"`` or ``"model"`` of a larger checkpoint; or a
            path: a safetensors file, a torch checkpoint (read with ``weights_only=True``), an index of
            shards (``*.index.json``), or a folder that holds one of these. Files are read tensor by tensor.
        process_group: The ranks that count together, for a module or a state dict. None: the default group if
            there is a DTensor, else this process alone.

    Returns:
        The counts, which print as a table; `ZeroCount.to_dict` for JSON.

    Raises:
        ArgumentError: Another kind of source, nothing to count, or no such file.
        CheckpointError: A file that is damaged or of another kind.
        DeviceError: A tensor has no values (meta device).
        LayoutError: A model that FSDP1 or DeepSpeed ZeRO-3 has taken apart, of which nothing here says where
            its elements are.
        MissingPackageError: A file needs a package that is not installed.
    """
    is_file = isinstance(source, (str, os.PathLike))
    if is_file and process_group is not None:
        raise ArgumentError("process_group: given beside a file, which one process counts. Leave it out")
    entries: Iterable[tuple[str, Any]] = _entries(source)
    if not is_file:
        entries = list(entries)
    group = None if is_file else Group.of(process_group, (value for _, value in entries))
    if group is None:
        counted, skipped = _counted(entries)
    else:
        counted, skipped = counted_over_ranks(group, lambda: _parts(entries))
    if not counted:
        listed = ", ".join(f"{name} ({reason})" for name, reason in list(skipped.items())[:8])
        raise ArgumentError(f"source: it holds no floating-point tensor ({listed or 'nothing at all'})")
    return ZeroCount(counted, skipped)


def _counted(entries: Iterable[tuple[str, Any]]) -> tuple[dict[str, TensorZeros], dict[str, str]]:
    """The counts by name, and why others were not counted."""
    counted: dict[str, TensorZeros] = {}
    skipped: dict[str, str] = {}
    for name, value in entries:
        found = _count(name, value)
        if isinstance(found, str):
            skipped[name] = found
        else:
            counted[name] = found
    return counted, skipped


def _parts(entries: Iterable[tuple[str, Any]]) -> tuple[list[PartZeros], dict[str, str]]:
    """The counts of what this rank holds, and why others were not counted."""
    shards = {name: shard_of(value, name) for name, value in entries}
    counted, skipped = _counted((name, local(value)) for name, value in entries)
    parts = []
    for name, row in counted.items():
        shard = shards[name] or Shard(row.shape, (0,) * len(row.shape))
        parts.append(PartZeros(name, shard.shape, shard.offset, row))
    return parts, skipped


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
    refuse_sharded(module)
    reshard(module)
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
