"""Exact thresholds over ranks: rounds, bytes and time, beside what people do without a library for it."""

from __future__ import annotations

from typing import Any

import ranks
from measure import Bench, kept
from tables import Table

SIZES = (1, 2, 4)
PARTS = (100, 10, 1)  # of the headline's weights
MOST = 1.15  # an event of one rank with a group, over one without


def run(bench: Bench) -> list[Table]:
    rows: list[dict[str, Any]] = []
    between: dict[str, float] = {}
    for part in PARTS:
        weights = bench.weights // part
        if weights < 100_000:
            continue
        for size in SIZES:
            bench.say(f"{weights:,} weights over {size} rank{'s' if size > 1 else ''}")
            found = ranks.in_fresh_processes(size, weights, bench.repeats)
            between = found.pop("between", between)
            ours = found[ranks.OURS]["ms"]
            for case, values in found.items():
                row = {
                    "case": case,
                    "weights": weights,
                    "ranks": size,
                    "rank_ms": values["ms"],
                    "time_of_ours": values["ms"] / ours,
                    "peak": values["peak_bytes"] * size / weights,
                    "error": values["error"],
                    "rounds": values.get("rounds"),
                    "kib": values["bytes_sent"] / 1024 if values.get("bytes_sent") else None,
                }
                if case == ranks.OURS and size == 1:
                    alone = ours / found["without a group"]["ms"]
                    row |= {"bound": MOST, "kept": kept(bench, alone, MOST)}
                rows.append(row)
    notes = [
        "bitter7, half of the weights, f32; every rank holds its rows of all 148 tensors, and has one thread. "
        "The ranks are processes of this machine that meet by gloo.",
        "Time: from a barrier to a barrier; masks are made, nothing is zeroed. Peak: what a rank's memory "
        "grows by beyond its part, by weight of a rank. Rounds and KiB: sums over the ranks, as one rank "
        "sends them.",
        "The bound: of one rank with a group over one without.",
    ]
    steps = [{"case": f"pruner.step(), {name}", "ours_us": taken} for name, taken in between.items()]
    return [
        Table("One event over ranks", rows, notes),
        Table(
            "Steps between events (26 layers of 64 x 64, one rank)",
            steps,
            ['hold="weights" under torch.optim.AdamW; no collective is made.'],
        ),
    ]
