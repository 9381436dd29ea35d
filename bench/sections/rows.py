"""Masks of rows and of groups of four, by the length of rows and by how they lie in memory, beside a read."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import bittersweet as bs
import torch
from measure import Bench, Rounds, in_words
from tables import Table

LAYERS = 6
COLUMNS = (2, 4, 9, 16, 64, 128, 256, 512, 1024, 4096, 65536)
SCALED = (512, 1024, 4096)  # columns of rows that each have a scale of their own
SPREAD = 0.2  # of the logarithm of those scales
SCOPES: dict[str, dict[str, Any]] = {
    "row, 50 %": {"scope": "row", "sparsity": 0.5, "rounding": "floor"},
    "2:4": {"scope": "2:4"},
}


class Shape(NamedTuple):
    """Of each of the weights, and what makes a ScoreInputs of them."""

    sizes: tuple[int, ...]
    axes: dict[str, Any]


def shapes(size: int) -> dict[str, Shape]:
    """The cases, of about `size` elements."""
    side, kernels = _side(size), math.isqrt(size // 9) // 4 * 4
    experts = (8, _side(size // 8), _side(size // 8))
    found = {
        f"{columns:,} columns": Shape((size // columns, columns), {})
        for columns in COLUMNS
        if columns <= size
    }
    found |= {
        f"{columns:,} columns, rows of their own scales": Shape((size // columns, columns), {})
        for columns in SCALED
        if columns <= size
    }
    found[f"{side:,} x {side:,}, transposed"] = Shape((side, side), {"in_dim": 0})
    found[f"{experts[0]} experts, {experts[1]:,} x {experts[2]:,}"] = Shape(
        experts, {"in_dim": 1, "kernel_dims": 0}
    )
    found[f"{kernels:,} x {kernels:,} x 3 x 3"] = Shape((kernels, kernels, 3, 3), {})
    return found


def memory_of(weights: int) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    return [torch.empty(weights // LAYERS).normal_(0.0, 0.02, generator=random) for _ in range(LAYERS)]


def weights_of(case: str, shape: Shape, memory: list[torch.Tensor]) -> list[torch.Tensor]:
    weights = [one[: math.prod(shape.sizes)].view(shape.sizes) for one in memory]
    if "scales" not in case:
        return weights
    own = torch.Generator().manual_seed(1)
    scales = torch.empty(shape.sizes[0], 1).normal_(0.0, SPREAD, generator=own).exp()
    return [one * scales for one in weights]


def scopes_of(shape: Shape) -> list[str]:
    return [name for name in SCOPES if name != "2:4" or shape.sizes[-1] % 4 == 0 or len(shape.sizes) == 4]


def make(inputs: list[bs.ScoreInputs], scope: str) -> Any:
    return bs.make_masks(inputs, scorer="magnitude", **SCOPES[scope])


def run(bench: Bench) -> list[Table]:
    bench.say(f"making {LAYERS} tensors")
    memory = memory_of(bench.weights)
    rows = []
    for threads in bench.threads:
        bench.say(in_words(threads))
        for case, shape in shapes(bench.weights // LAYERS).items():
            bench.say(case)
            weights = weights_of(case, shape, memory)
            inputs = [bs.ScoreInputs(weight, **shape.axes) for weight in weights]
            rounds = Rounds(bench, threads, bench.floor.over(weights))
            rounds.add_read_floor("w", weights)
            for name in scopes_of(shape):
                rounds.add(name, lambda i=inputs, n=name: make(i, n))
            rounds.run()
            rows += [rounds.against(f"{case}: {name}", name, "w", None) for name in scopes_of(shape)]
    notes = [
        "Magnitude. Rows under 384 columns and those that interleave are cut 64 at a time, a lane each; "
        "groups of 2, 4, 8 and 16 of short rows are ranked in registers.",
        f"Rows of their own scales: each multiplied by e^x, x normal with a standard deviation of {SPREAD}, "
        "as rows of trained layers differ. The others are all alike.",
    ]
    return [Table(f"Rows by length and place (about {bench.weights:,} weights)", rows, notes)]


def _side(area: int) -> int:
    """Of a square of whole mask words, or at least of whole groups."""
    side = math.isqrt(area)
    return side // 64 * 64 or side // 4 * 4
