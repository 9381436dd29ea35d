"""The step against torch's under the instruction sets of the environment: `main` prints what they
are, how torch rounds, and each thing that differs."""

from __future__ import annotations

import warnings

import bittersweet as bs
import torch
from bittersweet.optim.rounding import rounding
from optim_support import KINDS, Pair, assert_held, give_gradients, some_mask

OPTIONS: tuple[dict[str, object], ...] = (
    {"betas": (0.3, 0.95), "weight_decay": 0.1},
    {"betas": (0.8, 0.9), "amsgrad": True, "maximize": True},
    {"eps": 0.0},
)
SHAPES = (*((size,) for size in range(1, 71)), (7, 13), (127, 129), (256, 257), (70001,))


def differing(kind: str, dtype: torch.dtype, options: dict[str, object]) -> str | None:
    pair = Pair(kind, SHAPES, dtype, **options)
    masks = [some_mask(shape, 0.6, i) for i, shape in enumerate(SHAPES)]
    masked = Pair(kind, SHAPES, dtype, **options)
    masked.own.hold(dict(zip(masked.own_parameters, masks, strict=True)))
    for step in range(6):
        for one in (pair.own, pair.theirs, masked.own):
            one.grad_scale = torch.tensor(3.0) if step == 3 else None
            one.found_inf = torch.tensor(0.0) if step == 3 else None
        pair.step(step)
        give_gradients(masked.own_parameters, step)
        masked.own.step()
    try:
        pair.assert_equal(gradients=True)
        for parameter, whole, mask in zip(masked.own_parameters, pair.own_parameters, masks, strict=True):
            assert_held(masked.own, parameter, mask)
            assert torch.equal(parameter[mask], whole[mask]), "a live weight of a masked step"
            assert parameter.grad is not None and whole.grad is not None
            assert torch.equal(parameter.grad, whole.grad), "a gradient of a masked step"
    except AssertionError as error:
        return str(error)
    return None


def main() -> None:
    warnings.simplefilter("error")
    print(torch.backends.cpu.get_cpu_capability(), bs.build_info()["isa"], rounding(), sep="; ")
    for kind in KINDS:
        for dtype in (torch.float32, torch.bfloat16):
            for options in OPTIONS:
                if (why := differing(kind, dtype, options)) is not None:
                    print(f"{kind} {dtype} {options}: {why}")
