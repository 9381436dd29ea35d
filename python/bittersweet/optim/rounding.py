"""How the fused step of the installed torch rounds, found by running it.

The source of torch's kernel leaves open which products are joined with the sum after them into one rounding:
the compiler that built it decides. So torch's step is run here on a few small tensors, with options that tell
the possibilities apart, and the rule that gives its bits is the one that our step follows.
"""

from __future__ import annotations

import functools
from array import array
from typing import TYPE_CHECKING, Any, NamedTuple

from .. import _core

if TYPE_CHECKING:
    import torch

__all__ = ["Rounding", "equals_torch", "rounding"]


class Rounding(NamedTuple):
    """A rule: whether products and sums are joined, and the vector lengths behind whose last multiple torch's
    scalar loop begins, which joins them otherwise."""

    contracted: bool
    lanes_f32: int = 8
    lanes_16bit: int = 16


_RULES = (Rounding(True), Rounding(False), Rounding(True, 16, 32), Rounding(True, 4, 8), Rounding(True, 1, 1))
_SIZES = (61, 127)  # odd ends for every vector length
_STEPS = 5
_OPTIONS = {"lr": 1e-2, "beta1": 0.3, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1}


def equals_torch() -> bool:
    """Whether the step of `Adam` and `AdamW` on the CPU gives the bits of torch's with ``fused=True``, if it
    rounds to nearest.

    Found at the first call, or the first step, by running both: float32 and bfloat16, several steps, odd
    sizes. It holds for weights, ``exp_avg``, ``exp_avg_sq``, ``max_exp_avg_sq`` and a gradient that is
    unscaled on the way, whatever the options, as long as no NaN occurs. False, and the steps
    differ in the last bits, where torch was built by a compiler that rounds in none of the ways known here.
    """
    return rounding() is not None


@functools.cache
def rounding() -> Rounding | None:
    """The rule of the installed torch; None if it is none of those known."""
    import torch

    dtypes = (torch.float32, torch.bfloat16)
    try:
        wanted = [_torchs(dtype, decoupled) for dtype in dtypes for decoupled in (True, False)]
    except (AttributeError, RuntimeError, TypeError):  # no fused step for the CPU in this torch
        return None
    for rule in _RULES:
        found = [_own(dtype, decoupled, rule) for dtype in dtypes for decoupled in (True, False)]
        if found == wanted:
            return rule
    return None


def _tensors(dtype: torch.dtype) -> tuple[list[list[torch.Tensor]], list[list[torch.Tensor]]]:
    """Weights and two states for each size, and the gradients of every step. The same numbers every time."""
    import numpy as np
    import torch

    draw = np.random.default_rng(7)

    def some(size: int, low: float, high: float) -> torch.Tensor:
        values = draw.standard_normal(size) * 10.0 ** draw.uniform(low, high, size)
        return torch.from_numpy(values).to(device="cpu", dtype=dtype)

    places = [
        [some(size, -1, 0), *(torch.zeros(size, dtype=dtype, device="cpu") for _ in range(2))]
        for size in _SIZES
    ]
    return places, [[some(size, -6, 1) for size in _SIZES] for _ in range(_STEPS)]


def _bits(places: list[list[torch.Tensor]]) -> list[bytes]:
    import torch

    return [tensor.view(torch.uint8).numpy().tobytes() for place in places for tensor in place]


def _torchs(dtype: torch.dtype, decoupled: bool) -> list[bytes]:
    import torch

    places, gradients = _tensors(dtype)
    steps = [torch.zeros((), dtype=torch.float32, device="cpu") for _ in _SIZES]
    call: Any = torch._fused_adamw_ if decoupled else torch._fused_adam_
    for of_step in gradients:
        for step in steps:
            step += 1
        w, m, v = ([place[role] for place in places] for role in range(3))
        call(w, of_step, m, v, [], steps, amsgrad=False, maximize=False, **_OPTIONS)
    return _bits(places)


def _own(dtype: torch.dtype, decoupled: bool, rule: Rounding) -> list[bytes]:
    import torch

    places, gradients = _tensors(dtype)
    steps = [torch.zeros((), dtype=torch.float32, device="cpu") for _ in _SIZES]
    code = 1 if dtype == torch.float32 else 3
    groups = array("d", (*_OPTIONS.values(), decoupled, 0, 0, 0, 0, 0))
    for of_step in gradients:
        rows = array("Q")
        for (w, m, v), g, step in zip(places, of_step, steps, strict=True):
            addresses = (w.data_ptr(), g.data_ptr(), m.data_ptr(), v.data_ptr(), 0, 0, step.data_ptr())
            rows.extend((*addresses, code, code, w.numel(), 0, 0, 0))
        _core.step_adam(rows, groups, *rule, 0.0, False)
    return _bits(places)
