"""`stochastic_round_`: float32 written as bfloat16 without a loss in the mean."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

from .. import _core
from ..errors import DeviceError, LayoutError, ShapeError
from ..options.values import as_int
from . import devices
from .arrays import BFLOAT16, FLOAT32, ArrayT, View, inspect, require_writable, write_back
from .threads import follow_torch

__all__ = ["stochastic_round_"]


def stochastic_round_(
    dst: ArrayT | Sequence[ArrayT],
    src: ArrayT | Sequence[ArrayT],
    *,
    seed: int,
    step: int,
    stream: int = 0,
) -> None:
    """Writes float32 arrays to bfloat16 ones, each element to one of its two neighbours, in place.

    The nearer neighbour is the likelier: a value at the fraction f of the way from the one to the other
    becomes the other with probability f, in steps of 2**-16. So the mean of what is written is the value, and
    a sum that is kept in bfloat16 loses no small update. The variance is f (1 - f) of the squared distance of
    the neighbours: 1/6 over all f, where rounding to nearest has 1/12.

    What bfloat16 holds exactly is written as it is: 0 stays 0 and keeps its sign. Denormals are rounded like
    all else. Infinities, NaN (which becomes 0x7fc0), and values from the largest finite bfloat16 on, which
    have no finite neighbour above, are rounded to nearest.

    The random bits come from Philox 4x32-10. Key: `seed`. Counter: element / 8 (the row-major index, whatever
    the strides), `stream` and `step`. So the same arguments give the same bits on every device, instruction
    set and number of threads and in every memory layout, and nothing has to be saved to draw them again.
    On a CUDA device the work is enqueued on torch's current stream.

    Args:
        dst: bfloat16, or a list of such arrays: torch tensors of any strides, all on the CPU or on one
            CUDA device, or NumPy arrays with the type of ml_dtypes. Torch tensors have their autograd version
            raised.
        src: float32, of the shapes of `dst`; never changed.
        seed: 0 to 2**63 - 1.
        step: 0 to 2**32 - 1. Another one for every time that something is rounded again.
        stream: Array i draws from `stream` + i, below 2**24. Arrays that are rounded with one seed at one
            step in several calls need streams that differ, or they draw the same bits.

    Raises:
        ShapeError: Lists of different lengths, or arrays of different shapes.
        DTypeError: Another dtype, float16 too.
        DeviceError: Two devices or two frameworks, or CUDA tensors that this build has no engine for.
        LayoutError: A read-only `dst`, or one that shares memory with another array.
        ArgumentError: `seed`, `step` or `stream` out of range. Nothing has been changed.
    """
    targets, sources = _listed(dst), _listed(src)
    if len(targets) != len(sources):
        raise ShapeError(f"src: {len(sources)} arrays for {len(targets)} in dst; give one for each")
    seed = as_int("seed", seed, 0, 2**63 - 1, "an integer from 0 to 2**63 - 1")
    step = as_int("step", step, 0, 2**32 - 1, "an integer from 0 to 2**32 - 1")
    stream = as_int("stream", stream, 0, _core.ROUNDING_STREAMS - len(targets))
    pairs = [_pair(*both, f"tensor{i}") for i, both in enumerate(zip(targets, sources, strict=True))]
    device = _device_of(pairs)
    _require_apart(pairs)
    rows = array("Q")
    for to, of in pairs:
        to.relay()
        of.relay()
        rows.extend((of.pointer, to.pointer, to.numel))
    if device == devices.HOST:
        follow_torch()
        _core.stochastic_round(rows, seed, step, stream)
    else:
        with devices.runtime.guard(device):
            queue = devices.runtime.queue(device)
            devices.runtime.native.cuda_stochastic_round(queue, rows, seed, step, stream)
    write_back([to for to, _ in pairs])


def _listed(arrays: Any) -> list[Any]:
    return list(arrays) if isinstance(arrays, (list, tuple)) else [arrays]


def _pair(dst: Any, src: Any, name: str) -> tuple[View, View]:
    to = inspect(dst, "dst", name, frozenset((BFLOAT16,)))
    of = inspect(src, "src", name, frozenset((FLOAT32,)))
    require_writable(to, "dst", name)
    if to.shape != of.shape:
        raise ShapeError(
            f"src of '{name}' has shape {tuple(of.shape)} and dst {tuple(to.shape)}; they must be equal"
        )
    if to.framework != of.framework:
        raise DeviceError(
            f"src of '{name}' is a {of.framework} array and dst a {to.framework} one; give both in "
            "one framework"
        )
    return to, of


def _device_of(pairs: Sequence[tuple[View, View]]) -> int:
    """Where all of them lie."""
    device = pairs[0][0].device if pairs else devices.HOST
    for i, pair in enumerate(pairs):
        for argument, view in zip(("dst", "src"), pair, strict=True):
            if view.device != device:
                raise DeviceError(
                    f"{argument} of 'tensor{i}' is on {devices.name_of(view.device)} and dst of 'tensor0' on "
                    f"{devices.name_of(device)}; give all on one device"
                )
    return device


def _require_apart(pairs: Sequence[tuple[View, View]]) -> None:
    """No array that is written shares memory with another one. Those that are read may."""
    ranges = sorted(
        (*view.memory(), view is to, f"{argument} of 'tensor{i}'")
        for i, (to, of) in enumerate(pairs)
        for argument, view in (("dst", to), ("src", of))
        if view.numel
    )
    farthest = {True: (0, ""), False: (0, "")}  # the end of what is written, and of what is read
    for start, end, written, label in ranges:
        for other, (reached, which) in farthest.items():
            if (written or other) and start < reached:
                raise LayoutError(
                    f"{which} and {label} overlap in memory. What is written must have memory of its own"
                )
        farthest[written] = max(farthest[written], (end, label))
