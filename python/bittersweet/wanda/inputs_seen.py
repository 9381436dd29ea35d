"""What a layer's input adds to its sums: one observer per kind of layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import ArgumentError, ShapeError
from ..model.layers import is_conv1d
from .experts_seen import expert_squares
from .sums import RunningSum

if TYPE_CHECKING:
    import torch


def refused(module: torch.nn.Module) -> str | None:
    """Why no weight in this module has norms: the windows of a transposed convolution are not measured here,
    and torch's attention uses its projections without calling them.
    """
    from torch import nn
    from torch.nn.modules.conv import _ConvTransposeNd

    if isinstance(module, _ConvTransposeNd):
        return "transposed convolution"
    return "in a MultiheadAttention" if isinstance(module, nn.MultiheadAttention) else None


def observer(module: torch.nn.Module, attribute: str, name: str) -> Callable[..., None] | None:
    """The function ``(args, kwargs, token_mask, running)`` that adds a call of `module`, whose parameter
    `attribute` is measured, to a `RunningSum`; None for other kinds of layer than Linear, Conv, Conv1D and
    transformers' experts.
    """
    from torch import nn
    from torch.nn.modules.conv import _ConvNd

    if (squares := expert_squares(module, attribute, name)) is not None:
        return squares
    if attribute != "weight":
        return None
    if isinstance(module, _ConvNd):
        return lambda args, kwargs, mask, running: _of_windows(
            module, _input(args, kwargs, name), name, running
        )
    conv1d = is_conv1d(module)
    if not (isinstance(module, nn.Linear) or conv1d):
        return None
    weight: Any = module.weight
    features = weight.shape[0 if conv1d else 1]
    return lambda args, kwargs, mask, running: _of_features(
        _input(args, kwargs, name), features, mask, name, running
    )


def _input(args: Sequence[Any], kwargs: Mapping[str, Any], name: str) -> torch.Tensor:
    import torch

    found = next((value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)), None)
    if found is None or not found.is_floating_point():
        what = "no tensor" if found is None else f"a tensor of {found.dtype}"
        raise ArgumentError(
            f"the layer of '{name}' was called with {what}; a floating-point tensor is accepted"
        )
    return found.detach()


def _of_features(
    x: torch.Tensor, features: int, mask: torch.Tensor | None, name: str, running: RunningSum
) -> None:
    """Linear: the last axis holds the features, the others are positions."""
    _check_size(x.shape[-1] if x.dim() else 0, features, name)
    leading = tuple(x.shape[:-1])
    fits = mask is not None and (leading[: mask.dim()] == tuple(mask.shape) or leading == (mask.numel(),))
    running.add(x.reshape(-1, features), counted=mask if fits else None)


def _of_windows(module: Any, x: torch.Tensor, name: str, running: RunningSum) -> None:
    """Convolution: the sum over the unfolded input, without unfolding it: each value counts once per window
    that holds it."""
    import torch
    from torch.nn.functional import pad

    axes = len(module.kernel_size)
    if x.dim() == axes + 1:
        x = x.unsqueeze(0)
    _check_size(x.shape[1], module.in_channels, name)
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    x = pad(x, module._reversed_padding_repeated_twice, mode=mode)
    positions, weights = x.shape[0], None
    for axis in range(axes):
        size, kernel = x.shape[2 + axis], module.kernel_size[axis]
        stride, dilation = module.stride[axis], module.dilation[axis]
        windows = (size - dilation * (kernel - 1) - 1) // stride + 1
        times = torch.zeros(size, dtype=torch.float64, device=x.device)
        for tap in range(kernel):
            times[tap * dilation : tap * dilation + stride * (windows - 1) + 1 : stride] += 1.0
        positions *= windows * kernel
        times = times.reshape([-1 if at == 2 + axis else 1 for at in range(2 + axes)])
        weights = times if weights is None else weights * times
    assert weights is not None
    running.add(
        x.movedim(1, -1).reshape(-1, module.in_channels), times=weights.flatten(), positions=positions
    )


def _check_size(found: int, features: int, name: str) -> None:
    if found != features:
        raise ShapeError(
            f"the layer of '{name}' was called with {found} input features, and its weight has {features}"
        )
