"""Stochastic rounding beside rounding to nearest: bare copies to bfloat16, and optimizer steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import bittersweet as bs
import models
import torch
from measure import Bench, Rounds, in_words, kept
from tables import Table

COPY = 1.05
"""Bound of the copy, over torch's."""


def run(bench: Bench) -> list[Table]:
    return [_copies(bench), _steps(bench)]


def _made(shapes: Any, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    return [torch.empty(shape, dtype=dtype).normal_(0.0, 0.02, generator=random) for shape in shapes]


def _compare(
    bench: Bench, cases: dict[str, Callable[[], Any]], swept: list[list[torch.Tensor]], bound: float | None
) -> list[dict[str, Any]]:
    """All cases beside the first one, which is torch's; the bound is the second one's."""
    rows = []
    torchs, judged, *_ = cases
    for threads in bench.threads:
        bench.say(f"{judged}, {in_words(threads)}")
        rounds = Rounds(bench, threads, bench.floor.over(*swept))
        for name, call in cases.items():
            rounds.add(name, call)
        rounds.run()
        for name in list(cases)[1:]:
            ratio = rounds.ms(name) / rounds.ms(torchs)
            own = bound if name == judged else None
            row = {
                "case": name,
                "threads": threads,
                "ours_ms": rounds.ms(name),
                "torch_ms": rounds.ms(torchs),
            }
            rows.append({**row, "torch_ratio": ratio, "bound": own, "kept": kept(bench, ratio, own)})
    return rows


def _copies(bench: Bench) -> Table:
    src = _made(models.gpt_shapes(bench.weights))
    dst = [torch.zeros_like(one, dtype=torch.bfloat16) for one in src]

    def copy() -> None:
        for to, of in zip(dst, src, strict=True):
            to.copy_(of)

    calls = {
        "copy_ to bfloat16": copy,
        "stochastic_round_": lambda: bs.stochastic_round_(dst, src, seed=1, step=2),
    }
    rows = _compare(bench, calls, [src], COPY)
    return Table(
        f"float32 to bfloat16 ({bench.weights:,} elements in {len(src)} tensors), beside copy_", rows
    )


def _steps(bench: Bench) -> Table:
    shapes = models.gpt_shapes(bench.weights)
    weights = [torch.nn.Parameter(one) for one in _made(shapes, torch.bfloat16)]
    for one in weights:
        one.grad = torch.full_like(one, 0.01)
    plain = torch.optim.AdamW(weights, lr=1e-5, fused=True)
    plain.step()
    own = {
        rounding: bs.optim.AdamW(weights, lr=1e-5, rounding=rounding)
        for rounding in ("nearest", "stochastic")
    }
    for optimizer in own.values():
        optimizer.state = plain.state
    calls = {
        "torch": plain.step,
        "step, stochastic": own["stochastic"].step,
        "step, to nearest": own["nearest"].step,
    }
    states = [[plain.state[one][key] for one in weights] for key in ("exp_avg", "exp_avg_sq")]
    rows = _compare(bench, calls, [[one.detach() for one in weights], *states], None)
    title = f"One AdamW step, all in bfloat16 ({bench.weights:,} weights in {len(weights)} tensors)"
    return Table(title, rows, ["torch: its fused step, which rounds to nearest."])
