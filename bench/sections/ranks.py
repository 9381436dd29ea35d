"""Exact thresholds over ranks: rounds, bytes and time, beside what people do without a library for it."""

from __future__ import annotations

from typing import Any

import ranks
from measure import Bench, kept
from tables import Table

SIZES = (1, 2, 4)
PARTS = (100, 10, 1)  # of the headline's weights
MOST = 1.15  # a step with a group, over one without


def run(bench: Bench) -> list[Table]:
    rows: list[dict[str, Any]] = []
    steps: list[dict[str, Any]] = []
    for part in PARTS:
        weights = bench.weights // part
        if weights < 100_000:
            continue
        for size in SIZES:
            bench.say(f"{weights:,} weights over {size} rank{'s' if size > 1 else ''}")
            found = ranks.in_fresh_processes(size, weights, bench.repeats)
            steps += _of_pruners(bench, weights, found.pop("pruner", {}))
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
                rows.append(row)
    notes = [
        "bitter7, half of the weights, f32; every rank holds its rows of all 148 tensors, with one thread. "
        "The ranks are processes of this machine that meet by gloo.",
        "Time: from a barrier to a barrier; masks are made, nothing is zeroed. Peak: what a rank's memory "
        "grows by beyond its part, by weight of a rank. Rounds and KiB: sums over the ranks, as one rank "
        "sends them.",
        "Ours names its tensors, and gathers who holds what, at every call; a Pruner does that once.",
    ]
    more = [
        "pruner.step() after a step of torch.optim.AdamW, w, m and v zeroed; an event every "
        f"{ranks.EVERY} steps. One rank, one thread.",
    ]
    return [
        Table("One event over ranks", rows, notes),
        Table("Steps of a Pruner with a group of one rank", steps, more),
    ]


def _of_pruners(bench: Bench, weights: int, found: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    rows = []
    for name, taken in found.items():
        for kind, what in (("event", "an event"), ("hold", "between events")):
            ratio = taken[kind] / found["no group"][kind]
            row = {"case": f"{what}, {name}", "weights": weights, "rank_ms": taken[kind]}
            if name != "no group":
                row |= {"time_without": ratio, "bound": MOST, "kept": kept(bench, ratio, MOST)}
            rows.append(row)
    return rows
