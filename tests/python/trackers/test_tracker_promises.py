"""What trackers promise beside their numbers: resuming, memory, missing history, layouts, errors."""

from __future__ import annotations

import io
from typing import Any

import bittersweet as bs
import numpy as np
import pytest
import torch
from tracker_support import MAKERS, SHAPES, Scripted


@pytest.mark.parametrize("name", MAKERS)
def test_resume_equals_the_uninterrupted_run(name: str) -> None:
    def run(steps: int, interrupt_at: int) -> dict[str, float]:
        script = Scripted(SHAPES)
        tracker = MAKERS[name](script.named, script.optimizer)
        for step in range(steps):
            if step == interrupt_at:
                file = io.BytesIO()
                torch.save(tracker.state_dict(), file)
                file.seek(0)
                tracker = MAKERS[name](script.named, script.optimizer)
                tracker.load_state_dict(torch.load(file, weights_only=True))
            script.advance()
            tracker.update(step)
        found: dict[str, float] = tracker.modifiers()
        return found

    uninterrupted = run(9, -1)
    assert len({*uninterrupted.values()}) > 2, "floors alone would be equal whatever was forgotten"
    for interrupt_at in (1, 2, 3, 5, 8):
        assert run(9, interrupt_at) == uninterrupted  # bit for bit: equal floats


@pytest.mark.parametrize("name", MAKERS)
def test_a_resumed_tracker_says_the_same_at_once(name: str) -> None:
    script = Scripted({"w": (300,)})
    tracker, resumed = (MAKERS[name](script.named, script.optimizer) for _ in range(2))
    masks = {"w": torch.arange(300) % 2 == 0}
    for step in range(5):
        script.advance()
        script.optimizer.state[script.named["w"]]["exp_avg"][1::2] = 100.0  # dead: nobody may look
        tracker.update(step, masks)
        if step < 4:
            script.set("w", step=-script.named["w"].detach() * ~masks["w"])
    resumed.load_state_dict(tracker.state_dict())
    assert resumed.modifiers() == tracker.modifiers()
    assert tracker.modifiers()["w"] > 0.06


@pytest.mark.parametrize("name", MAKERS)
def test_a_step_counts_once(name: str) -> None:
    script = Scripted(SHAPES)
    once, twice = (MAKERS[name](script.named, script.optimizer) for _ in range(2))
    for step in range(5):
        script.advance()
        once.update(step)
        for _ in range(3):
            twice.update(step)
            if step > 2:
                twice.modifiers()  # looking changes nothing either
    assert once.modifiers() == twice.modifiers()
    for a, b in zip(
        once.state_dict()["tensors"].values(), twice.state_dict()["tensors"].values(), strict=True
    ):
        assert all(torch.equal(a[key], b[key]) for key in a)
    twice.update()
    assert twice.state_dict()["step"] is None


def test_bytes_are_reported() -> None:
    script = Scripted(SHAPES)
    elements = sum(p.numel() for p in script.named.values())
    coherence = bs.CoherenceTracker(script.named, script.optimizer)
    sketch = bs.SketchTracker(script.named, script.optimizer)
    snapshot = bs.SnapshotTracker(script.named, script.optimizer)
    movement = bs.MovementTracker(script.named, script.optimizer)
    assert coherence.nbytes == movement.nbytes == 0
    for parameter in script.named.values():
        parameter.grad = torch.ones_like(parameter)
    for tracker in (coherence, sketch, snapshot, movement):
        tracker.update()
        assert tracker.milliseconds > 0.0
    assert coherence.nbytes == 8 * elements + 56 * len(SHAPES)
    assert sketch.nbytes == sum(12 * min(64, p.numel()) + 56 for p in script.named.values())
    assert max(12 * 64 + 56, 0) <= 1024  # at most 1 KiB a tensor
    words = sum(-(-p.numel() // 64) for p in script.named.values())
    assert snapshot.nbytes == 4 * elements + 8 * words + 56 * len(SHAPES)
    assert movement.nbytes == 4 * elements + 8 * len(SHAPES)


@pytest.mark.parametrize(("name", "needed"), [("bitter10", 3), ("bitter10s", 2), ("bitter10c", 2)])
def test_too_little_history_is_missing_state(name: str, needed: int) -> None:
    script = Scripted(SHAPES)
    del script.optimizer.state[script.named["odd"]]
    tracker = MAKERS[name](script.named, script.optimizer)
    for updates in range(needed):
        with pytest.raises(bs.MissingStateError, match=rf"layers\.0\.weight.*{updates} of the {needed}"):
            tracker.modifiers()
        assert tracker.modifiers(missing="skip") == {}
        for other in ("layers.0.weight", "layers.1.weight", "one"):
            tensor = script.tensor(tuple(script.named[other].shape), 1e-3)
            script.set(other, step=tensor, exp_avg=-tensor, exp_avg_sq=tensor.square())
        tracker.update()
    with pytest.raises(bs.MissingStateError, match="'odd'"):
        tracker.modifiers()
    assert set(tracker.modifiers(missing="skip")) == set(SHAPES) - {"odd"}
    with pytest.raises(bs.ArgumentError, match="missing"):
        tracker.modifiers(missing="guess")


def test_what_never_moved_is_missing_state_and_what_stops_keeps_its_scalars() -> None:
    script = Scripted({"still": (50,), "moving": (50,)})
    tracker = bs.CoherenceTracker(script.named, script.optimizer)
    for _ in range(5):
        move = script.tensor((50,), 1e-3)
        script.set("moving", step=move, exp_avg=-move)
        tracker.update()
    with pytest.raises(bs.MissingStateError, match=r"still.*flip, direction, jitter"):
        tracker.modifiers()
    before = tracker.modifiers(missing="skip")["moving"]
    for _ in range(4):  # zero norms leave their scalars unchanged
        tracker.update()
    assert tracker.modifiers(missing="skip")["moving"] == before
    script.set("moving", exp_avg=torch.zeros(50))
    assert tracker.modifiers(missing="skip")["moving"] == 0.05  # no update to agree with: the floor


def test_nothing_live_leaves_the_scalars() -> None:
    script = Scripted({"w": (300,)})
    trackers = [make(script.named, script.optimizer) for make in MAKERS.values()]
    for step in range(4):
        script.advance()
        for tracker in trackers:
            tracker.update(step)
    before = [tracker.state_dict()["tensors"]["w"]["scalars"][1:] for tracker in trackers[:2]]
    for step in range(4, 7):
        script.advance()
        for tracker in trackers:
            tracker.update(step, {"w": torch.zeros(300, dtype=torch.bool)})
    for tracker, scalars in zip(trackers, before, strict=False):
        assert scalars.count_nonzero() == 6
        assert torch.equal(tracker.state_dict()["tensors"]["w"]["scalars"][1:], scalars)


def test_without_the_momentum_there_is_no_retention() -> None:
    script = Scripted({"a": (50,), "b": (50,)})
    tracker = bs.CoherenceTracker(script.named, script.optimizer)
    for _ in range(4):
        script.advance()
        tracker.update()
    known = tracker.modifiers()
    del script.optimizer.state[script.named["a"]]["exp_avg"]
    with pytest.raises(bs.MissingStateError, match=r"'a'.*exp_avg"):
        tracker.modifiers()
    assert tracker.modifiers(missing="skip") == {"b": known["b"]}


def test_a_nan_passes_and_the_tracker_recovers() -> None:
    script = Scripted({"w": (300,)})
    tracker = bs.CoherenceTracker(script.named, script.optimizer, c=0.0)
    for _ in range(4):
        script.advance()
        tracker.update()
    before = tracker.modifiers()
    kept = float(script.named["w"].detach()[7])
    for value in (np.nan, kept):
        with torch.no_grad():
            script.named["w"][7] = value
        tracker.update()
    assert tracker.modifiers() == before  # neither the step to NaN nor the one back has a meaning
    script.advance()
    tracker.update()
    assert tracker.modifiers() != before
    assert np.isfinite(tracker.modifiers()["w"])


def test_floor() -> None:
    script = Scripted({"w": (500,)})
    tracker = bs.CoherenceTracker(script.named, script.optimizer, floor=0.2)
    move = script.tensor((500,), 1e-3)
    for _ in range(6):
        move = -move
        script.set("w", step=move, exp_avg=script.named["w"].detach())
        tracker.update()
    assert tracker.modifiers() == {"w": 0.2}


def test_denormal_steps_count_in_flush_denormal_mode() -> None:
    def run() -> Any:
        script = Scripted({"w": (700,)})
        script.set("w", step=-script.named["w"].detach())
        trackers = [make(script.named, script.optimizer) for make in MAKERS.values()]
        integers = 4096 * np.random.default_rng(1).integers(-1000, 1000, (6, 700))  # some are bfloat16
        for step in range(6):
            bits = np.where(integers[step] < 0, 2**31 - integers[step], integers[step]).astype(np.uint32)
            tiny = torch.from_numpy(bits.view(np.float32))
            script.named["w"].data.copy_(tiny)
            state = script.optimizer.state[script.named["w"]]
            state["exp_avg"].copy_(tiny)
            state["exp_avg_sq"].copy_(tiny.abs())
            for tracker in trackers:
                tracker.update(step)
        return [tracker.modifiers() for tracker in trackers]

    expected = run()
    torch.set_flush_denormal(True)
    try:
        found = run()
    finally:
        torch.set_flush_denormal(False)
    assert found == expected


@pytest.mark.parametrize("name", MAKERS)
def test_threads_show_in_no_bit(name: str, threads: None) -> None:
    def run(count: int) -> Any:
        bs.set_num_threads(count)
        script = Scripted({"w": (1100, 1000), "v": (70_001,)})
        tracker = MAKERS[name](script.named, script.optimizer)
        for step in range(4):
            script.advance()
            tracker.update(step)
        return tracker.modifiers()

    assert run(1) == run(4)


def test_any_layout_and_dtype() -> None:
    """Elements are paired by their logical index, whatever the strides; halves are widened."""
    plain, strided = (Scripted({"w": (6, 8, 3, 3)}) for _ in range(2))
    state = strided.optimizer.state[strided.named["w"]]
    for key in ("exp_avg", "exp_avg_sq"):
        state[key] = state[key].contiguous(memory_format=torch.channels_last)
    strided.named["w"].data = strided.named["w"].data.contiguous(memory_format=torch.channels_last)
    found = []
    for script in (plain, strided):
        trackers = [make(script.named, script.optimizer) for make in MAKERS.values()]
        for step in range(5):
            script.advance()
            for tracker in trackers:
                tracker.update(step)
        found.append([tracker.modifiers() for tracker in trackers])
    assert found[0] == found[1]

    half = Scripted({"w": (400,)})
    half.named["w"].data = half.named["w"].data.bfloat16()
    tracker = bs.CoherenceTracker(half.named, half.optimizer)
    for _ in range(5):
        half.set("w", step=torch.full((400,), 0.01).bfloat16(), exp_avg=torch.full((400,), -0.01))
        tracker.update()
    assert 0.05 <= tracker.modifiers()["w"] <= 1.0


def test_tensors_that_move_in_memory_are_found_again() -> None:
    one, other = (Scripted({"w": (600,), "v": (70,)}) for _ in range(2))
    trackers = {id(s): [make(s.named, s.optimizer) for make in MAKERS.values()] for s in (one, other)}
    for step in range(6):
        for script in (one, other):
            script.advance()
            if script is other:
                other.optimizer.load_state_dict(other.optimizer.state_dict())  # new tensors
                other.named["w"].data = other.named["w"].data.clone()
            for tracker in trackers[id(script)]:
                tracker.update(step)
    assert [t.modifiers() for t in trackers[id(one)]] == [t.modifiers() for t in trackers[id(other)]]


def test_tied_weights_are_tracked_once() -> None:
    model = torch.nn.ModuleDict({"a": torch.nn.Linear(5, 5), "b": torch.nn.Linear(5, 5)})
    model["b"].weight = model["a"].weight
    optimizer = torch.optim.Adam(model.parameters())
    for parameters in (model, dict(model.named_parameters(remove_duplicate=False))):
        tracker = bs.CoherenceTracker(parameters, optimizer)
        assert [name for name in tracker.names if "weight" in name] == ["a.weight"]
    tracker = bs.CoherenceTracker(model, optimizer)
    tracker.update(masks={"b.weight": torch.ones(5, 5, dtype=torch.bool)})  # any of its names


def test_bad_input() -> None:
    script = Scripted(SHAPES)
    model = torch.nn.Linear(3, 3)
    for bad in ([], {}, [torch.zeros(3)], [("a", 1)], [("a", torch.zeros(1)), ("a", torch.zeros(1))]):
        with pytest.raises(bs.ArgumentError, match="parameters"):
            bs.CoherenceTracker(bad, script.optimizer)
    with pytest.raises(bs.ArgumentError, match="targets"):
        bs.CoherenceTracker(script.named, script.optimizer, targets="*")
    with pytest.raises(bs.ArgumentError, match="nothing to prune"):
        bs.SketchTracker(model, script.optimizer)
    for option in (
        {"a": 0.3},
        {"b": -1.0},
        {"floor": 2.0},
        {"decay": 1.0},
        {"d": float("nan")},
        {"alpha": -1.0},
    ):
        with pytest.raises(bs.ArgumentError, match=next(iter(option))):
            bs.CoherenceTracker(script.named, script.optimizer, **option)
    with pytest.raises(bs.ArgumentError, match="every"):
        bs.SnapshotTracker(script.named, script.optimizer, every=0)
    with pytest.raises(bs.ArgumentError, match="seed"):
        bs.SketchTracker(script.named, script.optimizer, seed=-1)
    tracker = bs.CoherenceTracker(script.named, script.optimizer)
    with pytest.raises(bs.ArgumentError, match="no parameter 'nobody'"):
        tracker.update(masks={"nobody": torch.ones(1, dtype=torch.bool)})
    with pytest.raises(bs.ShapeError, match="odd"):
        tracker.update(masks={"odd": torch.ones(3, dtype=torch.bool)})
    script.named["odd"].data = torch.zeros(5)
    with pytest.raises(bs.ShapeError, match="odd"):
        tracker.update()


def test_other_devices_are_refused_by_name() -> None:
    model = torch.nn.Linear(3, 3)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(3)).sum().backward()
    optimizer.step()
    for tracker in (
        bs.CoherenceTracker(model, optimizer),
        bs.CoherenceTracker(model, optimizer, storage="bfloat16"),
        bs.SketchTracker(model, optimizer),
    ):
        tracker.update()
        optimizer.state[model.weight]["exp_avg"] = torch.zeros(3, 3, device="meta")
        with pytest.raises(bs.DeviceError, match="weight"):
            tracker.update()  # the sketch reads it here, bitter10 when it is asked
            tracker.modifiers()
        optimizer.state[model.weight]["exp_avg"] = torch.zeros(3, 3)


def test_states_that_do_not_fit() -> None:
    script = Scripted(SHAPES)
    tracker = bs.CoherenceTracker(script.named, script.optimizer)
    script.advance()
    tracker.update(4)
    good = tracker.state_dict()
    sketch = bs.SketchTracker(script.named, script.optimizer)
    with pytest.raises(bs.CheckpointError, match="'bitter10' and this one of 'bitter10s'"):
        sketch.load_state_dict(good)
    fewer = bs.CoherenceTracker({"odd": script.named["odd"]}, script.optimizer)
    with pytest.raises(bs.CheckpointError, match=r"layers\.0\.weight"):
        fewer.load_state_dict(good)
    short = {**good["tensors"]["odd"], "previous": torch.zeros(3)}
    bad = [
        ({}, "not the state of a tracker"),
        ({**good, "version": 3}, "version 3"),
        ({key: value for key, value in good.items() if key != "seen"}, "version 2 and keys"),
        ({**good, "step": "four"}, "step 'four'"),
        ({**good, "shapes": {**good["shapes"], "odd": [5]}}, "'odd'.*shape"),
        ({**good, "tensors": {**good["tensors"], "odd": {"previous": torch.zeros(4099)}}}, "'odd'"),
        ({**good, "tensors": {**good["tensors"], "odd": short}}, "previous of 'odd' is not 4099"),
    ]
    for state, message in bad:
        with pytest.raises(bs.CheckpointError, match=message):
            tracker.load_state_dict(state)
    tracker.load_state_dict({**good, "shapes": {f"module.{k}": v for k, v in good["shapes"].items()},
                             "tensors": {f"module.{k}": v for k, v in good["tensors"].items()}})  # fmt: skip
    assert tracker.state_dict()["step"] == 4


def test_an_event_that_failed_and_was_given_up_costs_the_tracker_no_step() -> None:
    model = torch.nn.Linear(8, 8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    pruner = bs.Pruner(model, optimizer, scorer="bitter10", schedule=bs.OneShot(0.5, 4))
    tracker = pruner.tracker
    assert tracker is not None
    seen = []
    for step in range(1, 7):
        model(torch.randn(4, 8)).square().mean().backward()
        optimizer.step()
        if step == 4:
            with torch.no_grad():
                kept = model.weight[0, 0].clone()
                model.weight[0, 0] = torch.nan
            for _ in range(2):  # tried twice: one step of training
                with pytest.raises(bs.NonFiniteScoreError):
                    pruner.step()
            with torch.no_grad():
                model.weight[0, 0] = kept
        else:
            pruner.step()
        seen.append(int(tracker.state_dict()["tensors"]["weight"]["scalars"][0]))
        optimizer.zero_grad()
    assert seen == sorted(set(seen)) and pruner.history[0].step == 4
