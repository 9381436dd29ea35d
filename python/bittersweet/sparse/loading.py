"""`load_compressed`: a file of `save_compressed` into a model, or as dense tensors."""

from __future__ import annotations

import os
from typing import Any, NamedTuple, overload

import torch
from torch import nn

from ..errors import CheckpointError
from ..model.layers import is_conv1d
from ..model.wrappers import unwrap
from . import strips
from .files import dense_state, read_compressed
from .linear import SparseLinear
from .packing import put, shared_memory, why_not
from .report import PackedLayer, PackReport
from .rows import RowMatrix, shape_of, to_dense, to_strips, transposed

__all__ = ["load_compressed"]


class _Place(NamedTuple):
    layer: nn.Module  # which becomes, or is, packed
    transposed: bool


@overload
def load_compressed(path: str | os.PathLike[str]) -> dict[str, torch.Tensor]: ...
@overload
def load_compressed(path: str | os.PathLike[str], model: nn.Module) -> PackReport: ...
def load_compressed(
    path: str | os.PathLike[str], model: nn.Module | None = None
) -> PackReport | dict[str, torch.Tensor]:
    """Reads what `save_compressed` wrote, and checks everything in it.

    Args:
        path: The file.
        model: Where to: its linear layers become packed where the file has their weight compressed, and all
            else is loaded as by ``load_state_dict``. Weights take the dtype that they have in the model.
            None: nowhere.

    Returns:
        The report of the packed layers; without a model, all tensors by name, dense, bit for bit.

    Raises:
        ArgumentError: There is no such file.
        CheckpointError: It is damaged, of another kind or version, or does not fit the model; the model has
            not been changed.
        MissingPackageError: The package safetensors is not installed.
    """
    if model is None:
        return dense_state(path)
    model = unwrap(model)
    matrices, tensors = read_compressed(path)
    compressed = {name: shape_of(rows, name) for name, rows in matrices.items()}
    places = _places(model, list(matrices))
    expected = _expected(model)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    shapes |= compressed
    _compare(os.fspath(path), expected, shapes)
    rest = {name: to_dense(matrices[name]) for name in matrices if name not in places}
    layers = [_load(model, name, place, matrices[name]) for name, place in places.items()]
    for name, layer in model.named_modules():  # packed, and dense in the file
        weight = f"{name}.weight"
        if isinstance(layer, SparseLinear) and weight in tensors:
            _load_dense(layer, tensors.pop(weight))
    model.load_state_dict({**tensors, **rest}, strict=False)
    return PackReport(layers)


def _places(model: nn.Module, names: list[str]) -> dict[str, _Place]:
    """Which matrices go into packed layers."""
    modules, shared = dict(model.named_modules()), shared_memory(model)
    found: dict[str, _Place] = {}
    for name in names:
        owner, _, attribute = name.rpartition(".")
        layer = modules.get(owner)
        if layer is None or attribute != "weight" or not owner:
            continue
        if isinstance(layer, SparseLinear):
            found[name] = _Place(layer, layer.transposed)
        elif (isinstance(layer, nn.Linear) or is_conv1d(layer)) and not why_not(
            layer, modules.get(owner.rpartition(".")[0]), shared
        ):
            found[name] = _Place(layer, is_conv1d(layer))
    return found


def _expected(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """The shapes of the model's state as if no layer were packed."""
    packed = {n: layer for n, layer in model.named_modules() if isinstance(layer, SparseLinear)}
    own = {f"{name}.{array}" for name in packed for array in ("masks", "values", "offsets")}
    state = {n: tuple(t.shape) for n, t in model.state_dict().items() if n not in own and hasattr(t, "shape")}
    for name, layer in packed.items():
        shape = (layer.out_features, layer.in_features)
        state[f"{name}.weight"] = shape[::-1] if layer.transposed else shape
    return state


def _compare(path: str, expected: dict[str, Any], found: dict[str, Any]) -> None:
    for names, what in (
        (expected.keys() - found.keys(), "is in the model and not in the file"),
        (found.keys() - expected.keys(), "is in the file and not in the model"),
    ):
        if names:
            raise CheckpointError(f"'{path}': '{min(names)}' {what} ({len(names)} such names)")
    for name, shape in found.items():
        if tuple(shape) != expected[name]:
            raise CheckpointError(f"'{path}': '{name}' is {tuple(shape)}; the model has {expected[name]}")


def _load(model: nn.Module, name: str, place: _Place, rows: RowMatrix) -> PackedLayer:
    layer: Any = place.layer
    dtype = layer.values.dtype if isinstance(layer, SparseLinear) else layer.weight.dtype
    measured, values = to_strips(rows._replace(compressed=rows.compressed.to(dtype)))
    if place.transposed:
        measured, values = transposed(measured.masks, values, measured.offsets, *measured.shape)
    if isinstance(layer, SparseLinear):
        layer.masks, layer.values, layer.offsets = measured.masks, values, measured.offsets
        packed = layer
    else:
        packed = SparseLinear(measured, values, layer)
        put(model, layer, packed)
    sparsity = 1.0 - packed.density
    return PackedLayer(
        name.removesuffix(".weight"),
        measured.shape,
        str(dtype)[6:],
        sparsity,
        packed.layout,
        packed.dense_nbytes,
        packed.nbytes,
        packed.batch_limit,
    )


def _load_dense(layer: SparseLinear, weight: torch.Tensor) -> None:
    dense = (weight.t() if layer.transposed else weight).contiguous().to(layer.values.dtype)
    measured = strips.measure(dense)
    layer.masks, layer.offsets = measured.masks, measured.offsets
    layer.values = strips.pack(dense, measured)
