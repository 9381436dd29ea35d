"""Trackers alone: against NumPy in float64, and on layers whose training is known."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import bittersweet as bs
import numpy as np
import pytest
import torch
from bittersweet import _core
from tracker_support import SHAPES, Array, Ema, Scripted, cosine, jitter, modifier


def coherence_oracle(history: list[tuple[Array, Array]], live: Array, s: bs.Bitter10) -> float:
    """bitter10 from the (w, m) after each step."""
    flip, direction, noise = (Ema(s.decay) for _ in range(3))
    average = np.zeros(int(live.sum()))
    for (before, _), (w, _) in itertools.pairwise(history):
        # The differences and their average are float32, as kept; every statistic is float64.
        x = (w.astype(np.float32) - before.astype(np.float32))[live].astype(np.float64)
        now = cosine(x, average)
        direction(now)
        flip(None if now is None else float(np.mean(np.sign(x) != np.sign(average))))
        noise(jitter(x))
        decay, narrow = np.float32(s.decay), np.float32
        average = (decay * narrow(average) + (narrow(1) - decay) * narrow(x)).astype(np.float64)
    w, m = history[-1]
    return modifier(s, flip.mean, direction.mean, cosine(-m[live], w[live]) or 0.0, noise.mean)


SETTINGS = [
    bs.Bitter10(),
    bs.Bitter10(alpha=3.0, a=0.25, b=1.75, c=0.5, d=0.1, floor=0.01, decay=0.5),
    bs.Bitter10(a=2.0, b=0.0, c=0.0, d=0.0, decay=0.0),
]


def options(scorer: Any) -> dict[str, Any]:
    names = ("alpha", "a", "b", "c", "d", "floor", "decay")
    return {name: getattr(scorer, name) for name in names if hasattr(scorer, name)}


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("dead", [0.0, 0.5, 0.9])
def test_coherence_equals_the_oracle(settings: bs.Bitter10, dead: float) -> None:
    script = Scripted({name: SHAPES[name] for name in SHAPES if name != "one"})
    masks = {name: torch.from_numpy(script.random.random(SHAPES[name]) >= dead) for name in script.named}
    tracker = bs.CoherenceTracker(script.named, script.optimizer, **options(settings))
    history: dict[str, list[Any]] = {name: [] for name in script.named}
    for _ in range(7):
        script.advance()
        tracker.update(masks=masks if dead else None)
        for name in script.named:
            history[name].append(script.arrays(name)[:2])
    found = tracker.modifiers()
    for name in script.named:
        expected = coherence_oracle(history[name], masks[name].numpy().reshape(-1), settings)
        assert found[name] == pytest.approx(expected, rel=1e-9), name


@pytest.mark.parametrize("dead", [0.0, 0.5])
def test_sketch_equals_the_oracle(dead: float) -> None:
    script = Scripted({**SHAPES, "few": (7, 9)})
    masks = {n: torch.from_numpy(script.random.random(p.shape) >= dead) for n, p in script.named.items()}
    masks["one"].fill_(True)
    s = bs.Bitter10(alpha=2.0, a=0.5, b=1.5, c=0.0, d=0.7, floor=0.02, decay=0.8)
    tracker = bs.SketchTracker(
        script.named, script.optimizer, alpha=2.0, a=0.5, b=1.5, d=0.7, floor=0.02, decay=0.8, seed=11
    )
    emas = {name: [Ema(0.8) for _ in range(3)] for name in script.named}
    past: dict[str, Array] = {}
    for step in range(6):
        script.advance()
        tracker.update(step, masks)
        for name, parameter in script.named.items():
            places = np.array(_core.sketch_positions(name, parameter.numel(), 11))
            live = masks[name].numpy().reshape(-1)[places]
            _, m, v = (array[places][live] for array in script.arrays(name))
            if name in past:
                now = cosine(m, past[name])
                emas[name][0](None if now is None else float(np.mean(np.sign(m) != np.sign(past[name]))))
                emas[name][1](now)
                emas[name][2](jitter(np.sqrt(v)))
            past[name] = m
    found = tracker.modifiers()
    for name, (flip, direction, noise) in emas.items():
        expected = modifier(s, flip.mean, direction.mean, 0.0, noise.mean)
        assert found[name] == pytest.approx(expected, rel=1e-6), name


def snapshot_oracle(script: Scripted, name: str, snapshot: Array, live: Array, floor: float) -> float:
    w, m, v = (array[live] for array in script.arrays(name))
    direction, noise = cosine(-m, w - snapshot[live]), jitter(np.sqrt(v))
    assert direction is not None
    assert noise is not None
    return max(direction, floor) / (1 + noise)


@pytest.mark.parametrize("on_file", [False, True])
@pytest.mark.parametrize("dead", [0.0, 0.9])
def test_snapshot_equals_the_oracle(dead: float, on_file: bool, tmp_path: Any) -> None:
    script = Scripted({name: SHAPES[name] for name in SHAPES if name != "one"})
    masks = {name: torch.from_numpy(script.random.random(SHAPES[name]) >= dead) for name in script.named}
    path = tmp_path / "snapshot.f32" if on_file else None
    tracker = bs.SnapshotTracker(script.named, script.optimizer, every=4, floor=0.1, path=path)
    snapshots: dict[str, Array] = {}
    for step in range(11):
        script.advance()
        tracker.update(step, masks)
        for name in script.named:
            live = masks[name].numpy().reshape(-1)
            if step > 0:  # on the step of a new snapshot: what was found against the old one
                expected = snapshot_oracle(script, name, snapshots[name], live, 0.1)
                assert tracker.modifiers()[name] == pytest.approx(expected, rel=1e-5), (name, step)
            if step % 4 == 0:
                snapshots[name] = script.arrays(name)[0]
    assert (tracker.file_bytes > 0) is on_file
    if path is not None:
        kept = np.fromfile(path, np.float32)
        assert np.array_equal(kept, np.concatenate([snapshots[name] for name in script.named]).astype("f4"))
        assert [file.name for file in tmp_path.iterdir()] == [path.name]


# ---- layers whose training is known ----


def train(
    layers: dict[str, Callable[[int], float]], dead: float, tracker: Any, steps: int = 40
) -> dict[str, float]:
    """Layers whose Adam momentum points as `layers` say, step by step; weights move along -m."""
    size = 20_000
    script = Scripted(dict.fromkeys(layers, (size,)), seed=3)
    masks = {name: torch.from_numpy(script.random.random(size) >= dead) for name in layers}
    if dead:
        for name, mask in masks.items():
            script.set(name, step=-script.named[name].detach() * ~mask)
    tracked = tracker(script.named, script.optimizer)
    directions = {name: torch.sign(script.named[name].detach()) for name in layers}  # growing where large
    for step in range(steps):
        for name, factor in layers.items():
            noise = script.tensor((size,), 0.1)
            move = 1e-3 * (factor(step) * directions[name] + noise)
            spread = 1e-8 * (1 + noise.square())
            script.set(name, step=move * masks[name], exp_avg=-move, exp_avg_sq=spread)
        tracked.update(step, masks)
        for name, mask in masks.items():  # what a pruner does after the tracker has looked
            script.set(name, step=-script.named[name].detach() * ~mask)
    found: dict[str, float] = tracked.modifiers()
    return found


KNOWN = {
    "steady": lambda step: 1.0,
    "drifting": lambda step: 1.0 if step % 4 else -0.4,
    "oscillating": lambda step: 1.0 if step % 2 else -1.0,
}


@pytest.mark.parametrize("dead", [0.0, 0.9])
@pytest.mark.parametrize("tracker", [bs.CoherenceTracker, bs.SketchTracker])
def test_steady_before_drifting_before_oscillating(tracker: Any, dead: float) -> None:
    found = train(KNOWN, dead, tracker)
    assert found["steady"] > 1.3 * found["drifting"] > 1.3 * found["oscillating"] > 0.0, found
    assert found["steady"] > 0.8, found
    assert found["oscillating"] < 0.1, found


@pytest.mark.parametrize("dead", [0.0, 0.9])
def test_a_snapshot_tells_going_on_from_turning_back(dead: float) -> None:
    layers = {
        "steady": lambda step: 1.0,
        "drifting": lambda step: 1.0 if step % 5 else -2.0,
        "turned": lambda step: 1.0 if step < 35 else -1.0,
    }
    found = train(layers, dead, bs.SnapshotTracker)
    assert found["steady"] > 0.9, found
    assert found["steady"] > 1.1 * found["turned"], found
    assert found["turned"] == pytest.approx(0.05, rel=0.05), found


def test_the_published_sign_would_floor_steady_learning() -> None:
    """cos(m, dw) and cos(m, w) as published are negative for a layer that learns steadily, and clamp to 0."""
    script = Scripted({"w": (1000,)})
    start = script.arrays("w")[0]
    coherence = bs.CoherenceTracker(script.named, script.optimizer)
    snapshot = bs.SnapshotTracker(script.named, script.optimizer)
    for _ in range(6):
        grow = 0.01 * script.named["w"].detach()
        script.set("w", step=grow, exp_avg=-grow, exp_avg_sq=torch.full((1000,), 1e-8))
        coherence.update()
        snapshot.update()
    w, m, _ = script.arrays("w")
    assert max(0.0, cosine(m, w - start) or 0.0) == 0.0  # the published factors
    assert max(0.0, cosine(m, w) or 0.0) == 0.0
    assert snapshot.modifiers()["w"] > 0.99
    retention = bs.CoherenceTracker(script.named, script.optimizer, a=0.0, b=0.0, d=0.0)
    retention.load_state_dict(coherence.state_dict())
    assert retention.modifiers()["w"] > 0.99


def test_the_published_alias_would_hide_oscillation() -> None:
    """A past that already contains the present agrees with it: at decay 0 it is the present itself."""
    script = Scripted({"w": (1000,)})
    tracker = bs.CoherenceTracker(script.named, script.optimizer, c=0.0, d=0.0, decay=0.0)
    move = script.tensor((1000,), 1e-3)
    for step in range(6):
        move = -move
        script.set("w", step=move, exp_avg=-move)
        tracker.update(step)
    assert tracker.modifiers()["w"] == 0.05  # aliased: flip 0 and cosine 1, so 1
    script.set("w", step=move)
    tracker.update()
    script.set("w", step=move)
    tracker.update()
    assert tracker.modifiers()["w"] == pytest.approx(1.0)
