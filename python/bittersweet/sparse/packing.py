"""`pack_` and `unpack_`: linear layers of a model to packed ones and back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from ..errors import ArgumentError
from ..model.layers import is_conv1d
from ..model.mask_view import MaskView
from ..model.names import counterparts
from ..model.wrappers import is_a, unwrap
from ..options.values import as_bool, as_fraction, as_int
from ..tensors import devices
from ..tensors.mask_list import Masks
from ..tensors.masks import Mask
from ..tensors.table import as_mask
from . import layouts, ops, strips
from .linear import SparseLinear, matrix_of
from .report import PackedLayer, PackReport

__all__ = ["pack_", "unpack_"]

_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)


@dataclass
class _Planned:
    row: PackedLayer
    layer: nn.Module
    measured: strips.Measured | None = None


@dataclass(frozen=True)
class _Options:
    least: float
    batch: int
    reproducible: bool


def pack_(
    model: nn.Module,
    masks: Any = None,
    min_sparsity: float = 0.1,
    *,
    layout: str | Mapping[str, str] = "auto",
    batch: int = 1,
    reproducible: bool = False,
) -> PackReport:
    """Replaces the pruned linear layers of a model by `SparseLinear`, in place, for inference where they are.

    Layers are torch.nn.Linear and transformers' Conv1D. Left dense, with the reason in the report: layers
    below `min_sparsity`; subclasses of Linear; weights that are tied, parametrized, elsewhere than on the CPU
    or a CUDA device that this build has an engine for, or not float32, float16 or bfloat16; layers with
    hooks, and those whose parent reads their weight.

    Args:
        model: The model, or a wrapper around it (torch.compile, DDP).
        masks: Which weights to store, by the name of the weight, such as ``pruner.masks`` or what
            `load_masks` returns, wherever they are; a kept weight that is 0 is stored. Layers that are not
            named store what has any bit set, -0 too. None: all do.
        min_sparsity: Layers with a smaller share of zeros are left dense.
        layout: ``"strips"``, ``"delta"``, or ``"auto"``, the faster one by the share of zeros, the dtype and
            `batch`; docs/sparse.md says which is the smaller. On a CUDA device "auto" is the CPU's choice for
            one row. Or a mapping from globs of names to these, of which a layer takes the first that meets
            it, and "auto" where none does.
        batch: With "auto" on the CPU: how many rows (tokens) an input is expected to have.
        reproducible: Whether the batch and the processor may not show in the bits of an output; see
            `SparseLinear`. With False, several rows are multiplied in the order that is fastest.

    Returns:
        What was packed and what was left, with bytes and how layouts were chosen; prints as a table.

    Raises:
        ArgumentError: A mask drops weights that are not +0, or names no parameter; an unknown layout, or a
            glob that meets no layer; nothing has been changed.
        ShapeError: A mask does not have its weight's shape; nothing has been changed.
    """
    model = unwrap(model)
    options = _Options(
        as_fraction("min_sparsity", min_sparsity),
        as_int("batch", batch, 1),
        as_bool("reproducible", reproducible),
    )
    keep = _masks_by_weight(model, masks)
    shared = shared_memory(model)
    layers = {f"{name}.weight" if name else "weight": at for name, *at in _linear_layers(model)}
    asked = layouts.by_layer(layout, list(layers))
    plan = [
        _plan(weight, layer, parent, keep.get(weight), asked[weight], shared, options)
        for weight, (layer, parent) in layers.items()
    ]
    for planned in plan:
        if planned.measured is not None:
            if planned.layer is model:
                raise ArgumentError("model: is one layer itself; use SparseLinear.from_linear(layer)")
            matrix, _ = matrix_of(planned.layer, None)
            values = layouts.pack(matrix, planned.measured)
            packed = SparseLinear(planned.measured, values, planned.layer, options.reproducible)
            put(model, planned.layer, packed)
    return PackReport([planned.row for planned in plan])


def unpack_(model: nn.Module) -> list[str]:
    """Replaces every `SparseLinear` of a model by the dense layer that it was, bit for bit, in place.

    Returns:
        The names of the layers.
    """
    model = unwrap(model)
    found = {name: layer for name, layer in model.named_modules() if isinstance(layer, SparseLinear)}
    if "" in found:
        raise ArgumentError("model: is a packed layer itself; use its to_linear()")
    for layer in found.values():
        put(model, layer, layer.to_linear())
    return list(found)


def put(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child is old:
                parent._modules[name] = new


def _linear_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module, nn.Module | None]]:
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear) or is_conv1d(layer):
            parent = name.rpartition(".")[0]
            yield name, layer, model.get_submodule(parent) if name else None


def _plan(
    weight_name: str,
    layer: Any,
    parent: nn.Module | None,
    mask: Mask | None,
    layout: str,
    shared: set[int],
    options: _Options,
) -> _Planned:
    name = weight_name.removesuffix("weight").removesuffix(".")
    reason = why_not(layer, parent, shared)
    if isinstance(layer, nn.Linear):
        shape = (int(layer.out_features), int(layer.in_features))
    else:
        shape = tuple(layer.weight.shape)[::-1]
    weight = None if parametrize.is_parametrized(layer) else layer._parameters.get("weight")
    dtype = "" if weight is None else str(weight.dtype)[6:]
    dense = 0 if weight is None else weight.numel() * weight.element_size()
    row = PackedLayer(name, shape, dtype, 0.0, None, dense, dense, 0, reason)
    if reason:
        return _Planned(row, layer)
    matrix, keep = matrix_of(layer, mask)
    try:
        measured, choice = layouts.choose(layout, matrix, keep, options.batch, options.reproducible)
    except ArgumentError as error:
        raise ArgumentError(f"masks: '{weight_name}': {error}") from None
    sparsity = measured.sparsity
    row = replace(row, sparsity=sparsity)
    if sparsity < options.least or not matrix.numel():
        return _Planned(replace(row, reason=f"its sparsity {sparsity:.4f} is below {options.least:g}"), layer)
    return _Planned(
        replace(
            row,
            layout=layouts.layout_of(measured.marks),
            bytes=measured.nbytes(matrix.element_size()),
            batch_limit=ops.limit_of(
                measured.marks, measured.length, matrix.numel(), matrix.dtype, options.reproducible
            ),
            choice=choice,
        ),
        layer,
        measured,
    )


def why_not(layer: Any, parent: nn.Module | None, shared: set[int]) -> str:
    """Why a layer cannot be packed; empty if it can."""
    if reason := no_plain_layer(layer, parent):
        return reason
    if type(layer) is not nn.Linear and not is_a(layer, "transformers.pytorch_utils", "Conv1D"):
        return f"a {type(layer).__name__} may do more than a Linear does"
    weight = layer.weight
    if any(getattr(layer, hooks, None) for hooks in _HOOKS):
        return "it has hooks, which would be lost"
    if why := layouts.why_not_there(weight.device, devices.runtime.index_of(weight)):
        return f"its weight is on {why}"
    if weight.dtype not in strips.CODES:
        return f"its weight is {str(weight.dtype)[6:]}"
    if layer.bias is not None and layer.bias.dtype != weight.dtype:
        return f"its bias is {str(layer.bias.dtype)[6:]} and its weight {str(weight.dtype)[6:]}"
    if layer.bias is not None and layer.bias.device != weight.device:
        return f"its bias is on {layer.bias.device} and its weight on {weight.device}"
    if weight.data_ptr() in shared:
        return "its weight is tied to another parameter"
    return ""


def no_plain_layer(layer: Any, parent: nn.Module | None) -> str:
    """Why the weight of a layer cannot be replaced; empty if it can."""
    if parametrize.is_parametrized(layer):
        return "it is parametrized; parametrize.remove_parametrizations first"
    weight = layer._parameters.get("weight")
    if weight is None:
        return "its weight is no parameter (torch.nn.utils.prune makes such; call prune.remove first)"
    if isinstance(parent, nn.TransformerEncoderLayer):
        return "its parent, a TransformerEncoderLayer, reads the weight itself"
    if type(weight) is not nn.Parameter or type(weight.data) is not torch.Tensor:
        return f"its weight is a {type(weight.data).__name__}"
    return ""


def shared_memory(model: nn.Module) -> set[int]:
    """Addresses of the tensors of a model's state whose memory another of its names means too."""
    spans = sorted(
        (tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes)
        for module in model.modules()
        for tensor in (*module._parameters.values(), *module._buffers.values())
        if tensor is not None
        and type(tensor) in (nn.Parameter, torch.Tensor)
        and tensor.device.type in ("cpu", "cuda")
        and tensor.numel()
    )
    shared: set[int] = set()
    last_start = last_end = 0
    for start, end in spans:
        if start < last_end:
            shared |= {start, last_start}
        if end > last_end:
            last_start, last_end = start, end
    return shared


def _masks_by_weight(model: nn.Module, masks: Any) -> dict[str, Mask]:
    if masks is None:
        return {}
    if isinstance(masks, Masks):
        masks = {mask.name: mask for mask in masks}
    if isinstance(masks, MaskView):
        masks = masks.all_packed()
    if not isinstance(masks, Mapping):
        raise ArgumentError(
            f"masks: found {type(masks).__name__}; accepted: a mapping from parameter names to masks, such "
            "as pruner.masks or what load_masks returns"
        )
    parameters = dict(model.named_parameters(remove_duplicate=False))
    names = counterparts("masks", dict.fromkeys(masks, ()), list(parameters))
    return {own: as_mask(masks[name], tuple(parameters[own].shape), own) for name, own in names.items()}
