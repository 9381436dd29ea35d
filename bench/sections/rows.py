"""Masks of rows and of groups of four, by the length of rows and by how they lie in memory, beside a read."""

from __future__ import annotations

import math
from typing import Any

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


def run(bench: Bench) -> list[Table]:
    bench.say(f"making {LAYERS} tensors")
    size = bench.weights // LAYERS
    random = torch.Generator().manual_seed(0)
    memory = [torch.empty(size).normal_(0.0, 0.02, generator=random) for _ in range(LAYERS)]
    side, kernels = _side(size), math.isqrt(size // 9) // 4 * 4
    experts = (8, _side(size // 8), _side(size // 8))
    cases: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
        f"{columns:,} columns": ((size // columns, columns), {}) for columns in COLUMNS if columns <= size
    }
    cases |= {
        f"{columns:,} columns, rows of their own scales": ((size // columns, columns), {})
        for columns in SCALED
        if columns <= size
    }
    cases[f"{side:,} x {side:,}, transposed"] = ((side, side), {"in_dim": 0})
    cases[f"{experts[0]} experts, {experts[1]:,} x {experts[2]:,}"] = (
        experts,
        {"in_dim": 1, "kernel_dims": 0},
    )
    cases[f"{kernels:,} x {kernels:,} x 3 x 3"] = ((kernels, kernels, 3, 3), {})

    rows = []
    for threads in bench.threads:
        bench.say(in_words(threads))
        for case, (shape, axes) in cases.items():
            bench.say(case)
            weights = [one[: math.prod(shape)].view(shape) for one in memory]
            if "scales" in case:
                own = torch.Generator().manual_seed(1)
                scales = torch.empty(shape[0], 1).normal_(0.0, SPREAD, generator=own).exp()
                weights = [one * scales for one in weights]
            inputs = [bs.ScoreInputs(weight, **axes) for weight in weights]
            rounds = Rounds(bench, threads, bench.floor.over(weights))
            rounds.add_read_floor("w", weights)
            scopes = [name for name in SCOPES if name != "2:4" or shape[-1] % 4 == 0 or len(shape) == 4]
            for name in scopes:
                rounds.add(name, lambda i=inputs, n=name: bs.make_masks(i, scorer="magnitude", **SCOPES[n]))
            rounds.run()
            rows += [rounds.against(f"{case}: {name}", name, "w", None) for name in scopes]
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
