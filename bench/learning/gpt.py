"""The demo's byte-level GPT on the source of Python's standard library, a tenth held out."""

from __future__ import annotations

import platform

from bittersweet.demo.model import ByteGPT
from bittersweet.demo.plan import Plan
from bittersweet.demo.text import load_corpus
from bittersweet.demo.train import Data

from .task import Start, Task


def task(quick: bool) -> Task:
    steps = 24 if quick else 400
    plan = Plan(steps, 0, steps, 1, width=64, heads=4, layers=2, context=32, batch=24, held_out_windows=96)
    corpus = load_corpus(None)

    def begin(seed: int) -> Start:
        model, data = ByteGPT(plan), Data(corpus, plan, seed)
        return Start(
            model, lambda step: model.loss(data.batch(step)), lambda: float(model.loss(data.held_out))
        )

    return Task(
        "gpt",
        "byte-level GPT",
        "held-out loss, nats per byte",
        False,
        steps,
        6e-3,
        f"{corpus.source}, {platform.python_version()}, {corpus.sha256[:12]}",
        begin,
    )
