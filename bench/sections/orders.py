"""Weights in channels_last beside the same weights in row-major order: events, and holding their masks."""

from __future__ import annotations

import math
from typing import Any

import bittersweet as bs
import torch
from measure import Bench, Rounds, in_words, kept
from tables import Table

LAYERS = 8  # of 3 x 3 kernels
BOUND = 1.2
ROLES = ("weight", "exp_avg", "exp_avg_sq")
EVENTS: dict[str, dict[str, Any]] = {
    "bitter7": {"sparsity": 0.5},
    "magnitude": {"sparsity": 0.5, "scorer": "magnitude"},
    "bitter7 by rows": {"sparsity": 0.5, "scope": "row"},
    "bitter7, 2:4": {"scope": "2:4"},
}


def run(bench: Bench) -> list[Table]:
    width = 4 * max(2, round(math.sqrt(bench.weights / LAYERS / 9) / 4))
    bench.say(f"making {LAYERS} convolutions of {width} x {width} x 3 x 3 in two orders of memory")
    random = torch.Generator().manual_seed(0)
    shape = (width, width, 3, 3)
    plain = [
        {role: torch.empty(shape).normal_(generator=random).abs_() for role in ROLES} for _ in range(LAYERS)
    ]
    last = [
        {role: tensor.contiguous(memory_format=torch.channels_last) for role, tensor in one.items()}
        for one in plain
    ]
    neither = [torch.ones(shape) for _ in range(LAYERS)]  # swept, so that no side finds its own cached
    inputs = {
        kind: [bs.ScoreInputs(**one, name=f"layer{i}") for i, one in enumerate(each)]
        for kind, each in (("row-major", plain), ("channels_last", last))
    }
    masks = {kind: bs.make_masks(items, sparsity=0.5) for kind, items in inputs.items()}
    held = {  # events should not find the zeros that holding writes
        kind: [
            bs.ScoreInputs(**{role: x.clone() for role, x in one.items()}, name=f"layer{i}")
            for i, one in enumerate(each)
        ]
        for kind, each in (("row-major", plain), ("channels_last", last))
    }

    rows = []
    for threads in bench.threads:
        bench.say(in_words(threads))
        rounds = Rounds(bench, threads, bench.floor.over(neither))
        for kind, items in inputs.items():
            for name, options in EVENTS.items():
                rounds.add(f"{name}, {kind}", lambda i=items, o=options: bs.make_masks(i, **o))
            for name, roles in (("w", ROLES[:1]), ("w, m, v", ROLES)):
                rounds.add(
                    f"hold {name}, {kind}",
                    lambda k=kind, r=roles: bs.apply_masks_(held[k], masks[k], roles=r),
                )
        rounds.run()
        for name in (*EVENTS, "hold w", "hold w, m, v"):
            ours, theirs = (f"{name}, {kind}" for kind in ("channels_last", "row-major"))
            if name in EVENTS and rounds.result(ours) != rounds.result(theirs):
                raise RuntimeError(f"orders, {name}: the masks differ")
            ratio = rounds.ms(ours) / rounds.ms(theirs)
            times = {"ours_ms": rounds.ms(ours), "peer_ms": rounds.ms(theirs), "peer_ratio": ratio}
            judged = {"bound": BOUND, "kept": kept(bench, ratio, BOUND)}
            rows.append({"case": name, "threads": threads, **times, **judged})
    notes = ["Ours: channels_last; peer: the same weights in row-major order. All masks are equal."]
    size = f"{LAYERS} convolutions of {width} x {width} x 3 x 3"
    return [Table(f"Orders of memory ({size})", rows, notes)]
