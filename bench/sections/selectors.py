"""Every selector against the exact one: error of the sparsity, time, reads of the inputs, extra memory."""

from __future__ import annotations

import itertools
from typing import Any

import bittersweet as bs
import models
import torch
from measure import Bench, Rounds, in_words
from tables import Table

SELECTORS: dict[str, bs.Exact | bs.Histogram | bs.KthValue | bs.Sampling | bs.Streaming] = {
    "exact": bs.Exact(),
    "sampling, 0.1 %": bs.Sampling(fraction=0.001),
    "sampling, 2 %": bs.Sampling(fraction=0.02),
    "streaming, 1e-3": bs.Streaming(tolerance=1e-3),
    "streaming, exact": bs.Streaming(tolerance=0),
    "histogram": bs.Histogram(),
    "kthvalue": bs.KthValue(),
}
DATA = (  # what it stands for, scorer, data of models.py, sparsity
    ("half-normal, 50 %", "magnitude", models.DENSE, 0.5),
    ("bitter7, 50 %", "bitter7", models.DENSE, 0.5),
    ("bitter7, half zeros, 50 %", "bitter7", "50 % zeros", 0.5),
    ("bitter7, half zeros, 75 %", "bitter7", "50 % zeros", 0.75),
)


def run(bench: Bench) -> list[Table]:
    threads = max(bench.threads)
    model = models.empty(bench.weights, moments=False)
    scores = [torch.empty(shape).zero_() for shape in models.gpt_shapes(bench.weights)]
    rows, filled = [], None
    for label, scorer, data, sparsity in DATA:
        bench.say(f"{label}, {in_words(threads)}")
        if data != filled:
            models.fill(model, data)
            filled = data
        inputs = model.inputs()
        rounds = Rounds(bench, threads, bench.floor.over(model.w, model.v))
        found: dict[str, list[bs.Threshold]] = {name: [] for name in SELECTORS}
        for name in SELECTORS:
            _add(rounds, inputs, scorer, name, sparsity, found[name])
        rounds.run()
        for w, v, out in zip(model.w, model.v, scores, strict=True):
            bs.score(w, scorer, exp_avg_sq=v, out=out)
        for name in SELECTORS:
            answers = {answer.value for answer in found[name]}
            rows.append(
                {
                    "data": label,
                    "case": name,
                    "ours_ms": rounds.ms(name),
                    "exact_ratio": rounds.ms(name) / rounds.ms("exact"),
                    "error": max(abs(_share(scores, value) - sparsity) for value in answers),
                    "passes": found[name][-1].passes,
                    "extra_bytes": found[name][-1].extra_bytes / bench.weights,
                }
            )
    notes = [
        "The error is that of the share of scores at or below the threshold, the largest over the "
        "repetitions, each of which has a seed of its own.",
        "At a value shared by many weights (half zeros, 50 %) exact selectors still prune exactly the number "
        "asked for, by the rule of ties.",
    ]
    return [Table(f"Selectors ({bench.weights:,} weights, {in_words(threads)})", rows, notes)]


def _add(
    rounds: Rounds,
    inputs: list[bs.ScoreInputs],
    scorer: str,
    name: str,
    sparsity: float,
    found: list[bs.Threshold],
) -> None:
    seeds = itertools.count()

    def call() -> Any:
        answer = bs.threshold(
            inputs, sparsity=sparsity, scorer=scorer, selector=SELECTORS[name], seed=next(seeds)
        )
        found.append(answer)
        return answer

    rounds.add(name, call)


def _share(scores: list[torch.Tensor], value: float) -> float:
    at_or_below = sum(int((x <= value).sum()) for x in scores)
    return at_or_below / sum(x.numel() for x in scores)
