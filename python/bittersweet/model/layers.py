"""What a layer's class says of its parameters: which are weights to prune, and what their axes mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..tensors.geometry import Axes
from .experts import stacked_axes
from .wrappers import is_a

if TYPE_CHECKING:
    import torch

    from .patterns import Place

_PROJECTIONS = ("q_proj_weight", "k_proj_weight", "v_proj_weight")
KINDS = "Linear, Conv, Conv1D, attention or experts"


def is_conv1d(module: torch.nn.Module) -> bool:
    """Whether this is transformers' Conv1D, a linear layer whose weight is (inputs, outputs)."""
    return is_a(module, "transformers.pytorch_utils", "Conv1D")


def known_axes(place: Place, parameter: torch.Tensor) -> Axes | None:
    """The axes of a weight that is pruned by default; None for every other parameter."""
    from torch import nn
    from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
    from torch.nn.parameter import UninitializedParameter

    owner: Any = place.owner
    attribute, lazy = place.attribute, isinstance(parameter, UninitializedParameter)
    shape = () if lazy else tuple(parameter.shape)
    if isinstance(owner, nn.MultiheadAttention):
        if attribute == "in_proj_weight":  # rows of the query, the key and the value, each with its input
            return Axes(groups=3)
        return Axes() if attribute in _PROJECTIONS else None
    if attribute == "weight" and isinstance(owner, nn.Linear) and (lazy or len(shape) == 2):
        return Axes()
    if isinstance(owner, _ConvNd):
        if attribute != "weight" or not (lazy or len(shape) == 2 + len(owner.kernel_size)):
            return None
        groups = None if owner.groups == 1 else owner.groups
        return Axes(0 if isinstance(owner, _ConvTransposeNd) else None, None, groups)
    if is_conv1d(owner):
        return Axes(in_dim=0) if attribute == "weight" and len(shape) == 2 else None
    return stacked_axes(owner, attribute, shape)


def is_embedding(place: Place) -> bool:
    """Whether this is the weight of an embedding, torch's or of a class that calls itself one."""
    from torch import nn
    from torch.nn.modules.conv import _ConvNd

    if "weight" not in place.attribute or isinstance(place.owner, (nn.Linear, _ConvNd)):
        return False
    named = any("embedding" in cls.__name__.lower() for cls in type(place.owner).__mro__)
    return named or isinstance(place.owner, (nn.Embedding, nn.EmbeddingBag))


def is_norm(place: Place) -> bool:
    return any("norm" in cls.__name__.lower() for cls in type(place.owner).__mro__)
