"""What a layer does with its weight, by trial: which outputs an element reaches, which inputs it reads.

An element reaches an output channel if the gradient of that channel alone reaches it. It reads an input
channel if its gradient vanishes once that channel is zero.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from bittersweet.model.targets import PlanEntry

Call = Callable[[torch.Tensor], torch.Tensor]


def units(weight: torch.Tensor, call: Call, x: torch.Tensor, axis: int) -> np.ndarray:
    """For each element, the output channel (along `axis` of the output) that it reaches; -1 for none."""
    found = np.full(weight.numel(), -1)
    for channel in range(call(x).shape[axis]):
        reached = gradient(weight, call(x).select(axis, channel))
        assert (found[reached] == -1).all(), "an element reaches two channels"
        found[reached] = channel
    return found


def features(weight: torch.Tensor, call: Call, x: torch.Tensor, axis: int) -> np.ndarray:
    """For each element, the input channel (along `axis` of the input) that it reads; -1 for those that the
    call does not use."""
    used = gradient(weight, call(x))
    found = np.full(weight.numel(), -1)
    for channel in range(x.shape[axis]):
        without = x.clone()
        without.select(axis, channel).zero_()
        reads = used & ~gradient(weight, call(without))
        assert (found[reads] == -1).all(), "an element reads two channels"
        found[reads] = channel
    assert (found[used] >= 0).all()
    return found


def gradient(weight: torch.Tensor, out: torch.Tensor) -> np.ndarray:
    """Which elements have a gradient, whatever random weights the outputs are summed with."""
    generator = torch.Generator().manual_seed(7)
    (grad,) = torch.autograd.grad((out * torch.rand(out.shape, generator=generator)).sum(), weight)
    return grad.flatten().numpy() != 0


def cells(entry: PlanEntry) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(row, feature, place in the row) of every element, by the definition of the plan's geometry."""
    g = entry.geometry
    row, input, inner = np.meshgrid(np.arange(g.rows), np.arange(g.inputs), np.arange(g.inner), indexing="ij")
    per_block = g.rows // g.blocks
    block = row // per_block
    start = block * per_block * g.inputs * g.inner
    at = start + row % per_block * g.row_stride + input * g.input_stride + inner
    assert sorted(at.flatten()) == list(range(entry.numel))
    order = np.argsort(at.flatten())
    return row.flatten()[order], (block * g.inputs + input).flatten()[order], inner.flatten()[order]
