"""Scorers with a memory: what one update costs, beside the optimizer's own step of the same model."""

from __future__ import annotations

import bittersweet as bs
import models
import torch
from measure import Bench, Rounds, in_words, kept
from tables import Table

from sections.hold import Net

SKETCH_SHARE = 0.01  # of one AdamW step
ONE_STATE = 1.0  # times one bare read and write of one array of the model's size


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

    every = 1_000_000
    trackers: dict[str, bs.CoherenceTracker | bs.SketchTracker | bs.SnapshotTracker | bs.MovementTracker] = {
        "bitter10": bs.CoherenceTracker(dict(net.named_parameters()), fused),
        "bitter10s": bs.SketchTracker(dict(net.named_parameters()), fused),
        "bitter10s, matrices": bs.SketchTracker(
            {n: p for n, p in net.named_parameters() if p.dim() > 1}, fused
        ),
        "bitter10c": bs.SnapshotTracker(dict(net.named_parameters()), fused, every=every),
        "movement": bs.MovementTracker(dict(net.named_parameters()), fused, hook=False),
    }
    for _ in range(3):
        fused.step()
        for tracker in trackers.values():
            tracker.update()
    coherence, snapshot = trackers["bitter10"], trackers["bitter10c"]
    assert isinstance(coherence, bs.CoherenceTracker) and isinstance(snapshot, bs.SnapshotTracker)

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
        rounds.add("bitter10, scored", coherence.modifiers)
        rounds.add("bitter10c, compared", snapshot.modifiers)
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
            ("bitter10, scored", "one optimizer state", None),
            ("movement", "one optimizer state", None),
            ("bitter10c, compared", "one optimizer state", None),
        ):
            share = rounds.ms(name) / step
            rows.append(rounds.against(name, name, f"{floor} written", bound, share_of_step=share))
        counting = rounds.ms("bitter10c")
        rows.append({"case": "bitter10c, counting a step", "threads": threads, "ours_ms": counting,
                     "share_of_step": counting / step})  # fmt: skip
    for row in rows:
        name = row["case"].partition(";")[0]
        tracker = trackers.get(name) or trackers[name.partition(",")[0]]
        row["extra_bytes"] = tracker.nbytes / bench.weights
    notes = [
        "matrices: the tracker follows the weights of two or more dimensions, as a Pruner does by default.",
        "of an AdamW step: the fused one, unless the row names another. Bytes are what the tracker keeps.",
        "bitter10 moves 20 bytes a weight (reads w and its two copies, writes the copies), a read and write "
        "of one state 8, of both 16. Scored: at events it also reads w and m.",
        "bitter10c is compared at events and at each new snapshot; on other steps it only counts.",
    ]
    title = f"Updates of scorers with a memory ({bench.weights:,} weights in {len(w)} tensors)"
    return [Table(title, rows, notes)]
