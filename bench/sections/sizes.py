"""Growth with the number of weights: a hundredth, a tenth, all and four times the headline's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import bittersweet as bs
import models
from measure import Bench, Rounds
from tables import Table

from sections.headline import THRESHOLD

MASKS = 1.4
CASES = (("bitter7", "threshold", "w, v"), ("bitter7", "masks", "w, v"), ("magnitude", "threshold", "w"))


def run(bench: Bench) -> list[Table]:
    rows: list[dict[str, Any]] = []
    for total in (bench.weights // 100, bench.weights // 10, bench.weights, 4 * bench.weights):
        if total < models.SMALLEST:
            bench.say(f"{total:,} weights: left out, a model here has at least {models.SMALLEST:,}")
            continue
        bench.say(f"{total:,} weights")
        rows += _at(bench, total)
    largest = {
        (row["case"], row["threads"]): row["nanoseconds"]
        for row in rows
        if row["weights"] == rows[-1]["weights"]
    }
    for row in rows:
        row["growth"] = row["nanoseconds"] / largest[row["case"], row["threads"]]
    rows.sort(key=lambda row: (row["case"], row["threads"], row["weights"]))
    notes = [
        "Linear growth is a constant time per weight (1.00 in that column); small models fit into a cache.",
        f"Bounds are judged from {bench.weights:,} weights on.",
    ]
    return [Table("Growth with the number of weights", rows, notes)]


def _at(bench: Bench, total: int) -> list[dict[str, Any]]:
    model = models.empty(total, moments=False)
    models.fill(model)
    inputs = model.inputs()
    small = total < bench.weights
    rows = []
    for threads in bench.threads:
        longer = replace(bench, repeats=3 * bench.repeats) if small else bench
        rounds = Rounds(longer, threads, bench.floor.over(model.w, model.v))
        rounds.add_read_floor("w", model.w)
        rounds.add_read_floor("w, v", model.w, model.v)
        for scorer, work, _ in CASES:
            call = bs.threshold if work == "threshold" else bs.make_masks
            rounds.add(f"{scorer} {work}", lambda c=call, s=scorer: c(inputs, sparsity=0.5, scorer=s))
        rounds.run()
        for scorer, work, floor in CASES:
            bound = MASKS if work == "masks" else THRESHOLD.get(threads, 1.3)
            name = f"{scorer} {work}"
            row = rounds.against(name, name, floor, None if small else bound, weights=total)
            rows.append({**row, "nanoseconds": 1e9 * row["ours_ms"] / total})
    return rows
