"""`load_compressed`: a file of `save_compressed` into a model, or as dense tensors."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NamedTuple, overload

import torch
from torch import nn

from ..errors import ArgumentError, CheckpointError
from ..model.layers import is_conv1d
from ..model.wrappers import unwrap
from ..options.values import as_int
from ..tensors.masks import Mask
from . import layouts
from .files import dense_state, packed_layers, read_compressed
from .linear import SparseLinear
from .packing import put, shared_memory, why_not
from .report import PackedLayer, PackReport
from .rows import RowMatrix, dense_and_kept, shape_of, to_dense, to_strips

__all__ = ["load_compressed"]


class _Place(NamedTuple):
    layer: nn.Module  # which becomes, or is, packed
    transposed: bool


@overload
def load_compressed(path: str | os.PathLike[str]) -> dict[str, torch.Tensor]: ...
@overload
def load_compressed(
    path: str | os.PathLike[str],
    model: nn.Module,
    *,
    layout: str | Mapping[str, str] = "auto",
    batch: int = 1,
) -> PackReport: ...
def load_compressed(
    path: str | os.PathLike[str],
    model: nn.Module | None = None,
    *,
    layout: str | Mapping[str, str] = "auto",
    batch: int = 1,
) -> PackReport | dict[str, torch.Tensor]:
    """Reads what `save_compressed` wrote, and checks everything in it.

    Args:
        path: The file.
        model: Where to: its linear layers become packed where the file has their weight compressed, and all
            else is loaded as by ``load_state_dict``. Weights take the dtype that they have in the model.
            None: nowhere.
        layout, batch: How the packed layers lie in memory, as for `pack_`; the file knows no layout.

    Returns:
        The report of the packed layers; without a model, all tensors by name, dense, bit for bit.

    Raises:
        ArgumentError: There is no such file, an unknown layout, a glob that meets no packed layer, or a
            layout or batch without a model; the model has not been changed.
        CheckpointError: It is damaged, of another kind or version, or does not fit the model; the model has
            not been changed.
        MissingPackageError: The package safetensors is not installed.
    """
    if model is None:
        if layout != "auto" or batch != 1:
            raise ArgumentError(
                "layout, batch: of packed layers, and no model is given; pass one, or leave them out"
            )
        return dense_state(path)
    model = unwrap(model)
    matrices, tensors = read_compressed(path)
    compressed = {name: shape_of(rows, name) for name, rows in matrices.items()}
    places = _places(model, list(matrices))
    expected = _expected(model)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    shapes |= compressed
    _compare(os.fspath(path), expected, shapes)
    tensors = {name: _cast(os.fspath(path), name, t, expected[name].dtype) for name, t in tensors.items()}
    now_dense = {  # packed, and dense in the file
        weight: layer
        for name, layer in packed_layers(model).items()
        if (weight := f"{name}.weight".lstrip(".")) in tensors
    }
    asked, batch = layouts.by_layer(layout, [*places, *now_dense]), as_int("batch", batch, 1)
    rest = {name: to_dense(matrices[name]) for name in matrices if name not in places}
    layers = [_load(model, name, place, matrices[name], asked[name], batch) for name, place in places.items()]
    for name, layer in now_dense.items():
        _load_dense(layer, tensors.pop(name), asked[name], batch)
    model.load_state_dict({**tensors, **rest}, strict=False)
    return PackReport(layers)


def _weight_of(layer: Any) -> torch.Tensor:
    """A tensor of the dtype of a layer's weight, packed or not, where that is."""
    weight: torch.Tensor = layer.values if isinstance(layer, SparseLinear) else layer.weight
    return weight


def _places(model: nn.Module, names: list[str]) -> dict[str, _Place]:
    """Which matrices go into packed layers."""
    modules, shared = dict(model.named_modules(remove_duplicate=False)), shared_memory(model)
    found: dict[str, _Place] = {}
    for name in names:
        owner, _, attribute = name.rpartition(".")
        layer = modules.get(owner)
        if layer is None or attribute != "weight" or any(place.layer is layer for place in found.values()):
            continue
        if isinstance(layer, SparseLinear):
            found[name] = _Place(layer, layer.transposed)
        elif (
            owner
            and (isinstance(layer, nn.Linear) or is_conv1d(layer))
            and not why_not(layer, modules.get(owner.rpartition(".")[0]), shared)
        ):
            found[name] = _Place(layer, is_conv1d(layer))
    return found


class _Expected(NamedTuple):
    shape: tuple[int, ...]
    dtype: torch.dtype


def _expected(model: nn.Module) -> dict[str, _Expected]:
    """The model's state as if no layer were packed."""
    packed = packed_layers(model)
    own = {
        f"{n}.{array}".lstrip(".") for n, layer in packed.items() for array in layouts.ARRAYS[layer.layout]
    }
    state = {
        name: _Expected(tuple(tensor.shape), tensor.dtype)
        for name, tensor in model.state_dict().items()
        if name not in own and isinstance(tensor, torch.Tensor)
    }
    for name, layer in packed.items():
        shape = (layer.out_features, layer.in_features)
        state[f"{name}.weight".lstrip(".")] = _Expected(
            shape[::-1] if layer.transposed else shape, layer.values.dtype
        )
    return state


def _compare(path: str, expected: dict[str, _Expected], found: dict[str, Any]) -> None:
    for names, what in (
        (expected.keys() - found.keys(), "is in the model and not in the file"),
        (found.keys() - expected.keys(), "is in the file and not in the model"),
    ):
        if names:
            raise CheckpointError(f"'{path}': '{min(names)}' {what} ({len(names)} such names)")
    for name, shape in found.items():
        if tuple(shape) != expected[name].shape:
            raise CheckpointError(
                f"'{path}': '{name}' is {tuple(shape)}; the model has {expected[name].shape}"
            )


def _cast(path: str, name: str, tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Before anything is written, since torch cannot convert every type to every other."""
    try:
        if tensor.is_complex() and not dtype.is_complex:
            raise TypeError("its imaginary parts would be lost")
        return tensor.to(dtype)
    except (RuntimeError, TypeError) as error:
        raise CheckpointError(
            f"'{path}': '{name}' is {str(tensor.dtype)[6:]}, the model's {str(dtype)[6:]} ({error})"
        ) from None


def _load(model: nn.Module, name: str, place: _Place, rows: RowMatrix, asked: str, batch: int) -> PackedLayer:
    layer: Any = place.layer
    packed = layer if isinstance(layer, SparseLinear) else None
    dtype = _weight_of(layer).dtype
    reproducible = packed is not None and packed.reproducible
    there = _weight_of(layer)
    measured, values = to_strips(rows._replace(compressed=rows.compressed.to(dtype)))
    layout, choice = layouts.decide(asked, measured.sparsity, there, batch, reproducible)
    if place.transposed or layout != "strips":
        dense, kept = dense_and_kept(measured, values)
        if place.transposed:
            dense, kept = dense.t().contiguous(), kept.t().contiguous()
        dense, kept = dense.to(there.device), kept.to(there.device)
        measured = layouts.measure(layout, dense, Mask.from_bool(kept, name))
        values = layouts.pack(dense, measured)
    else:
        measured, values = layouts.moved(measured, values, there)
    if packed is None:
        packed = SparseLinear(measured, values, layer)
        put(model, layer, packed)
    else:
        packed.hold(measured, values)
    return PackedLayer(
        name.removesuffix(".weight"),
        measured.shape,
        str(dtype)[6:],
        measured.sparsity,
        packed.layout,
        packed.dense_nbytes,
        packed.nbytes,
        packed.batch_limit,
        choice=choice,
    )


def _load_dense(layer: SparseLinear, weight: torch.Tensor, layout: str, batch: int) -> None:
    dense = (weight.t() if layer.transposed else weight).contiguous().to(layer.values)
    measured, _ = layouts.choose(layout, dense, None, batch, layer.reproducible)
    layer.hold(measured, layouts.pack(dense, measured))
