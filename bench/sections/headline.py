"""Exact threshold, masks and zeroing against bare passes over the same tensors; and the memory they take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import bittersweet as bs
import memory
import models
from measure import Bench, Rounds, in_words, kept
from tables import Table

THRESHOLD = {1: 1.4}  # by threads; others: 1.3
ZEROED = {1: 2.1}  # others: 1.7
MEMORY = 0.15


def run(bench: Bench) -> list[Table]:
    return [*_work(bench), _memory(bench)]


def _work(bench: Bench) -> list[Table]:
    bench.say("making w, m, v, a bf16 copy of w, and copies to restore from")
    model = models.empty(bench.weights, moments=True)
    models.fill(model)
    narrow = [w.bfloat16() for w in model.w]
    saved = [models.like(column) for column in (model.w, model.m, model.v)]
    tiny = models.one_element_each(len(model.w))

    def restore_all() -> None:
        for column, values in zip((model.w, model.m, model.v), saved, strict=True):
            models.copy(column, values)

    rows, notes, bare = [], [], []
    for threads in bench.threads:
        bench.say(in_words(threads))
        rounds = Rounds(bench, threads, bench.floor.over(model.w, model.m, model.v, narrow))
        rounds.add_read_floor("w", model.w)
        rounds.add_read_floor("w, v", model.w, model.v)
        rounds.add_read_floor("bf16 w", narrow)
        rounds.add_write_floor("w, m, v", model.w, model.m, model.v)
        for scorer in ("bitter7", "magnitude"):
            _add_work(rounds, scorer, scorer, model, lambda: models.copy(model.w, saved[0]), restore_all)
        half = models.Model(narrow, [], model.v)
        _add_work(rounds, "magnitude bf16", "magnitude", half, lambda: models.copy(narrow, saved[0]), None)
        for call in ("threshold", "masks", "prune all"):
            rounds.add(f"packing {call}", _call(call, "bitter7", tiny.inputs()))
        rounds.run()

        of_threshold, of_zeroing = THRESHOLD.get(threads, 1.3), ZEROED.get(threads, 1.7)
        for name, floor, bounds in (
            ("bitter7", "w, v", (of_threshold, 1.4, 2.5, of_zeroing)),
            ("magnitude", "w", (of_threshold, None, None, None)),
            ("magnitude bf16", "bf16 w", (of_threshold, None, None)),
        ):
            steps = ("threshold", "masks", "zero w", "zero w, m, v")[: len(bounds)]
            for step, bound in zip(steps, bounds, strict=True):
                against = "w, m, v written" if step == "zero w, m, v" else floor
                rows.append(rounds.against(f"{name}: {_LABELS[step]}", f"{name} {step}", against, bound))
        bare += rounds.floor_rows()
        notes += rounds.packing_note("packing threshold", "bitter7 threshold")
        notes += rounds.packing_note("packing masks", "bitter7 masks")
        notes += rounds.packing_note("packing prune all", "bitter7 zero w, m, v")
    size = f"{bench.weights:,} weights in {len(model.w)} tensors, 50 % sparsity"
    return [
        Table(f"Whole prune against the floor ({size})", rows, notes),
        Table("Bare loops over the same tensors; the best of the three reads is the floor", bare),
    ]


_LABELS = {
    "threshold": "exact threshold",
    "masks": "+ masks",
    "zero w": "+ masks + zeros in w",
    "zero w, m, v": "+ masks + zeros in w, m, v",
}


def _call(call: str, scorer: str, inputs: list[bs.ScoreInputs]) -> Callable[[], Any]:
    if call == "threshold":
        return lambda: bs.threshold(inputs, sparsity=0.5, scorer=scorer)
    if call == "masks":
        return lambda: bs.make_masks(inputs, sparsity=0.5, scorer=scorer)
    return lambda: bs.prune_(inputs, sparsity=0.5, scorer=scorer, mask_optimizer_state=call == "prune all")


def _add_work(
    rounds: Rounds,
    name: str,
    scorer: str,
    model: models.Model,
    restore_w: Callable[[], None],
    restore_all: Callable[[], None] | None,
) -> None:
    """Threshold, masks, masks and zeros in w, and in w, m, v where `restore_all` can put these back."""
    alone = model.inputs(moments=False)
    rounds.add(f"{name} threshold", _call("threshold", scorer, alone))
    rounds.add(f"{name} masks", _call("masks", scorer, alone))
    rounds.add(f"{name} zero w", _call("prune", scorer, alone), after=restore_w)
    if restore_all is not None:
        rounds.add(f"{name} zero w, m, v", _call("prune all", scorer, model.inputs()), after=restore_all)


def _memory(bench: Bench) -> Table:
    rows = []
    for threads in bench.threads:
        for call in memory.CALLS:
            bench.say(f"memory of '{call}' with {in_words(threads)}, in a process of its own")
            used = memory.in_fresh_process(call, bench.weights, threads)
            beyond = (used["peak_bytes"] - used["mask_bytes"]) / bench.weights
            rows.append(
                {
                    "case": "bitter7: " + _LABELS[call],
                    "threads": threads,
                    "peak": used["peak_bytes"] / bench.weights,
                    "mask": used["mask_bytes"] / bench.weights,
                    "account": used["extra_bytes"] / bench.weights,
                    "bound": MEMORY,
                    "kept": kept(bench, beyond, MEMORY),
                }
            )
    notes = ["Growth of the peak resident size by one cold call. The bound is on the peak less the masks."]
    return Table(f"Memory beyond the inputs ({bench.weights:,} weights)", rows, notes)
