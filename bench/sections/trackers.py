"""Scorers with a memory: what one update costs, beside the optimizer's own step of the same model."""

from __future__ import annotations

from functools import partial
from typing import Any

import bittersweet as bs
import models
import torch
from measure import Bench, Rounds, in_words, kept
from tables import Table

from sections.hold import Net

SKETCH_SHARE = 0.01  # of one AdamW step
ONE_STATE = 1.0  # times one bare read and write of one array of the model's size
NARROW = ", bfloat16"
KEPT: dict[str, Any] = {
    "bitter10": bs.CoherenceTracker,
    "bitter10c": partial(bs.SnapshotTracker, every=1_000_000),
    "movement": partial(bs.MovementTracker, hook=False),
}
"""Trackers that keep a number or two for each weight, in float32 and in bfloat16."""

MOVED = {"bitter10": 20, f"bitter10{NARROW}": 16, "movement": 16, f"movement{NARROW}": 12}
"""Bytes that an update reads and writes of a float32 weight."""


def run(bench: Bench) -> list[Table]:
    bench.say("making a model with gradients, AdamW fused and foreach on one state, and the trackers")
    w = [torch.empty(shape) for shape in models.gpt_shapes(bench.weights)]
    random = torch.Generator().manual_seed(0)
    for tensor in w:
        tensor.normal_(0.0, 0.02, generator=random)
    net = Net(w)
    fused = torch.optim.AdamW(net.parameters(), lr=1e-5, fused=True)
    fused.step()
    foreach = torch.optim.AdamW(net.parameters(), lr=1e-5, foreach=True)
    foreach.state = fused.state
    parameters = [p.detach() for p in net.parameters()]
    grads = [p.grad for p in net.parameters()]
    m, v = ([fused.state[p][key] for p in net.parameters()] for key in ("exp_avg", "exp_avg_sq"))

    named = dict(net.named_parameters())
    trackers = {
        "bitter10s": bs.SketchTracker(named, fused),
        "bitter10s, matrices": bs.SketchTracker({n: p for n, p in named.items() if p.dim() > 1}, fused),
        **{name: make(named, fused) for name, make in KEPT.items()},
        **{name + NARROW: make(named, fused, storage="bfloat16") for name, make in KEPT.items()},
    }
    for _ in range(3):
        fused.step()
        for tracker in trackers.values():
            tracker.update()
    rows = []
    for threads in bench.threads:
        bench.say(in_words(threads))
        rounds = Rounds(bench, threads, bench.floor.over(parameters, m, v, grads))
        rounds.add_write_floor("one optimizer state", m)
        rounds.add_write_floor("both optimizer states", m, v)
        rounds.add("AdamW, fused", fused.step)
        rounds.add("AdamW, foreach", foreach.step)
        for name, tracker in trackers.items():
            rounds.add(name, tracker.update)
        for kind in ("", NARROW):
            rounds.add(f"bitter10{kind}, scored", trackers[f"bitter10{kind}"].modifiers)
            rounds.add(f"bitter10c{kind}, compared", trackers[f"bitter10c{kind}"].modifiers)
        rounds.run()

        step = rounds.ms("AdamW, fused")
        for sketch in ("bitter10s", "bitter10s, matrices"):
            for name in ("AdamW, fused", "AdamW, foreach"):
                ours, peer = rounds.ms(sketch), rounds.ms(name)
                row = {"case": f"{sketch}; {name}", "threads": threads, "ours_ms": ours, "peer_ms": peer}
                judged = {"bound": SKETCH_SHARE, "kept": kept(bench, ours / peer, SKETCH_SHARE)}
                rows.append({**row, "share_of_step": ours / peer, **judged})
        for name, floor, bound in (
            ("bitter10", "one optimizer state", ONE_STATE),
            ("bitter10", "both optimizer states", None),
            (f"bitter10{NARROW}", "one optimizer state", None),
            ("bitter10, scored", "one optimizer state", None),
            (f"bitter10{NARROW}, scored", "one optimizer state", None),
            ("movement", "one optimizer state", None),
            (f"movement{NARROW}", "one optimizer state", None),
            ("bitter10c, compared", "one optimizer state", None),
            (f"bitter10c{NARROW}, compared", "one optimizer state", None),
        ):
            ours = rounds.ms(name)
            speed = {"ours_gbs": MOVED[name] * bench.weights / ours / 1e6} if name in MOVED else {}
            more = {"share_of_step": ours / step, **speed}
            rows.append(rounds.against(name, name, f"{floor} written", bound, **more))
        counting = rounds.ms("bitter10c")
        rows.append({"case": "bitter10c, counting a step", "threads": threads, "ours_ms": counting,
                     "share_of_step": counting / step})  # fmt: skip
    for row in rows:
        name = row["case"].partition(";")[0]
        while name not in trackers:
            name = name.rpartition(",")[0]
        row["extra_bytes"] = trackers[name].nbytes / bench.weights
    notes = [
        "matrices: the tracker follows the weights of two or more dimensions, as a Pruner does by default.",
        "of an AdamW step: the fused one, unless the row names another. Bytes are what the tracker keeps.",
        "bitter10 moves 20 bytes a weight (reads w and its two copies, writes the copies), a read and write "
        "of one state 8, of both 16. Scored: at events it also reads w and m. movement moves 16.",
        "bfloat16: bitter10 still remembers float32 weights as they are, and moves 16 bytes; movement 12. "
        "Each also makes 16 random bits a weight.",
        "bitter10c is compared at events and at each new snapshot; on other steps it only counts.",
    ]
    title = f"Updates of scorers with a memory ({bench.weights:,} weights in {len(w)} tensors)"
    return [Table(title, rows, notes)]
