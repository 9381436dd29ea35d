"""Data on which a selection could fall off a cliff: heavy duplicates, zeros, masks, order, heavy tails."""

from __future__ import annotations

import bittersweet as bs
import models
from measure import Bench, Rounds
from tables import Table

BOUND, WITH_DUPLICATES = 1.5, 1.65
SPARSITIES = {  # others: 0.5
    "90 % zeros": (0.5, 0.95),
    "90 % dead under a mask": (0.95,),
    "90 % pruned, scales differ": (0.95,),
}
SCORERS = {"bitter7": "w, v", "magnitude": "w"}


def run(bench: Bench) -> list[Table]:
    model = models.empty(bench.weights, moments=False)
    rows = []
    for data in models.DATA:
        bench.say(data)
        models.fill(model, data)
        inputs = model.inputs()
        for threads in bench.threads:
            rounds = Rounds(bench, threads, bench.floor.over(model.w, model.v))
            rounds.add_read_floor("w", model.w)
            rounds.add_read_floor("w, v", model.w, model.v)
            cases = [(x, s) for x in SCORERS for s in SPARSITIES.get(data, (0.5,))]
            for scorer, sparsity in cases:
                _add(rounds, inputs, scorer, sparsity)
            rounds.run()
            for scorer, sparsity in cases:
                for work in ("threshold", "masks"):
                    name = f"{scorer} {sparsity:.0%} {work}"
                    loose = work == "masks" and data in models.HEAVY_DUPLICATES
                    bound = WITH_DUPLICATES if loose else BOUND
                    result = rounds.result(name)
                    passes = (result.event if work == "masks" else result).passes
                    rows.append(rounds.against(name, name, SCORERS[scorer], bound, data=data, passes=passes))
    notes = ["The floor under a mask is that of w and v alone: the mask's own bits are not counted in it."]
    return [Table(f"No cliff ({bench.weights:,} weights)", rows, notes)]


def _add(rounds: Rounds, inputs: list[bs.ScoreInputs], scorer: str, sparsity: float) -> None:
    name = f"{scorer} {sparsity:.0%}"
    rounds.add(f"{name} threshold", lambda: bs.threshold(inputs, sparsity=sparsity, scorer=scorer))
    rounds.add(f"{name} masks", lambda: bs.make_masks(inputs, sparsity=sparsity, scorer=scorer))
