"""The exact threshold beside what torch and NumPy offer for the same job, in one run."""

from __future__ import annotations

from typing import Any

import bittersweet as bs
import models
import peers
from measure import Bench, Rounds, in_words, kept
from tables import Table

SPARSITY = 0.5
AT_TWO_THREADS = {  # least times faster
    "score + torch.kthvalue": 50,
    "score + numpy partition in place": 12,
    "2 % sample, gathered before scoring": 2,
    "2 % sample as published, scoring everything": 8,
}
OURS, OURS_PRUNE, THEIRS_PRUNE = "bittersweet threshold", "bittersweet prune_", "prune.global_unstructured"


def run(bench: Bench) -> list[Table]:
    bench.say("making w, v and the peers' outputs")
    model = models.empty(bench.weights, moments=False)
    models.fill(model)
    saved = models.like(model.w)
    inputs = model.inputs()
    k = int(SPARSITY * bench.weights + 0.5)
    others = peers.Peers(model, k)

    def restore() -> None:
        models.copy(model.w, saved)

    rows: list[dict[str, Any]] = []
    for threads in bench.threads:
        bench.say(f"{in_words(threads)} (a sort of everything takes long)")
        globally = peers.GloballyUnstructured(others, models.like(saved), SPARSITY)
        rounds = Rounds(bench, threads, bench.floor.over(model.w, model.v))
        rounds.add(OURS, lambda: bs.threshold(inputs, sparsity=SPARSITY))
        rounds.add(OURS_PRUNE, lambda: bs.prune_(inputs, sparsity=SPARSITY), after=restore)
        for name, call in peers.CALLS.items():
            rounds.add(name, lambda c=call: c(others), once=name in peers.SLOW)
        rounds.add(THEIRS_PRUNE, globally, once=True)
        rounds.run()

        others.score()
        ours = rounds.result(OURS).value
        rows.append(
            {"case": OURS, "threads": threads, "ours_ms": rounds.ms(OURS), "error": _error(others, ours)}
        )
        for name in peers.CALLS:
            value = rounds.result(name)
            bound = AT_TWO_THREADS.get(name) if threads == 2 else None
            rows.append(_row(bench, rounds, threads, name, OURS, bound, _error(others, value)))
        rows.append(_row(bench, rounds, threads, THEIRS_PRUNE, OURS_PRUNE, None, None))
    notes = [
        "bitter7, scoring included; ours is the exact threshold, and for global_unstructured prune_ (masks "
        "and zeros in w).",
        "The error is that of the share of scores at or below the threshold; one score in a model is the "
        f"resolution ({1 / bench.weights:.0e}).",
        "The bound is on how many times faster ours is, at two threads. A peer with one repetition had no "
        "warm-up.",
    ]
    title = f"Peers ({bench.weights:,} weights in {len(model.w)} tensors, {SPARSITY:.0%} sparsity)"
    return [Table(title, rows, notes)]


def _row(
    bench: Bench, rounds: Rounds, threads: int, name: str, ours: str, bound: int | None, error: float | None
) -> dict[str, Any]:
    mine, theirs = rounds.ms(ours), rounds.ms(name)
    return {
        "case": name,
        "threads": threads,
        "peer_ms": theirs,
        "ours_ms": mine,
        "peer_ratio": mine / theirs,
        "faster": theirs / mine,
        "error": error,
        "repetitions": rounds.repetitions(name),
        "bound": bound,
        "kept": kept(bench, theirs / mine, bound, at_least=True),
    }


def _error(others: peers.Peers, value: float) -> float:
    """How far the share of scores at or below `value` is from the share asked for."""
    return float((others.scores <= value).double().mean()) - SPARSITY
