"""Trackers that keep bfloat16: half the memory, the same in the mean, and the same bits again.

That they are computed in float32, rounded once and without bias, and that engines agree, is tested in C++.
"""

from __future__ import annotations

import copy
import io
import os
from pathlib import Path
from typing import Any

import bittersweet as bs
import numpy as np
import pytest
import torch
from pruner_support import adamw, mlp, train
from tracker_support import SHAPES, Scripted

KINDS: dict[str, Any] = {
    "bitter10": bs.CoherenceTracker,
    "bitter10c": lambda *a, **k: bs.SnapshotTracker(*a, every=3, **k),
    "movement": lambda *a, **k: bs.MovementTracker(*a, hook=False, **k),
}
SCORERS: dict[str, Any] = {"bitter10": bs.Bitter10, "bitter10c": bs.Bitter10c, "movement": bs.Movement}
RAMP = bs.Linear(0.2, 0.6, begin_step=4, end_step=12, frequency=4)


def advance(script: Scripted) -> None:
    script.advance()
    for parameter in script.named.values():
        parameter.grad = script.tensor(tuple(parameter.shape), 1.0).to(parameter.dtype)


def kept(tracker: Any) -> dict[str, dict[str, torch.Tensor]]:
    found: dict[str, dict[str, torch.Tensor]] = tracker.state_dict()["tensors"]
    return found


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else bool(a == b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_kept_of_a_weight_is_half(kind: str, dtype: torch.dtype) -> None:
    """All but the weights that bitter10 remembers, where they are not bfloat16."""
    script = Scripted(SHAPES)
    for parameter in script.named.values():
        parameter.data = parameter.data.to(dtype)
    wide, narrow = (KINDS[kind](script.named, script.optimizer, storage=s) for s in ("float32", "bfloat16"))
    for step in range(4):
        advance(script)
        for tracker in (wide, narrow):
            tracker.update(step)
    elements = sum(parameter.numel() for parameter in script.named.values())
    arrays = 2 if kind == "bitter10" else 1
    rest = wide.nbytes - 4 * arrays * elements  # a few numbers a tensor, and bitter10c's bits
    assert 0 < rest <= 80 * len(SHAPES) + elements // 8
    halved = arrays if dtype is torch.bfloat16 else 1
    assert narrow.nbytes == (4 * arrays - 2 * halved) * elements + rest
    assert (wide.storage, narrow.storage) == ("float32", "bfloat16")
    for a, b in zip(kept(wide).values(), kept(narrow).values(), strict=True):
        for key in a:
            exact = a[key].dtype is not torch.float32 or (key == "previous" and dtype is not torch.bfloat16)
            assert b[key].dtype is (a[key].dtype if exact else torch.bfloat16)
            if exact and key != "scalars":
                assert torch.equal(a[key], b[key])
            elif not exact:  # about the same
                assert (a[key] - b[key].float()).norm() < 0.01 * a[key].norm()


def test_ways_to_say_it() -> None:
    script = Scripted({"w": (3,)})
    for kind in KINDS.values():
        for storage in ("bfloat16", torch.bfloat16, np.str_("bfloat16")):
            assert kind(script.named, script.optimizer, storage=storage).storage == "bfloat16"
        assert kind(script.named, script.optimizer, storage=torch.float32).storage == "float32"
        assert kind(script.named, script.optimizer).storage == "float32"
        for bad in ("float16", "bf16", torch.float16, torch.float64, None, 16, True, torch.zeros(2)):
            with pytest.raises(bs.ArgumentError, match=r"storage: .*accepted: 'float32', 'bfloat16'"):
                kind(script.named, script.optimizer, storage=bad)
        for bad in (-1, 2**63, 0.5, "a"):
            with pytest.raises(bs.ArgumentError, match="seed"):
                kind(script.named, script.optimizer, storage="bfloat16", seed=bad)
    for scorer in SCORERS.values():
        assert scorer(storage=torch.bfloat16) == scorer(storage="bfloat16") != scorer()
        assert "bfloat16" in repr(scorer(storage="bfloat16"))
        with pytest.raises(bs.ArgumentError, match=r"storage: 'half'; accepted"):
            scorer(storage="half")
    for sketch in (bs.Bitter10s, lambda **k: bs.SketchTracker(script.named, script.optimizer, **k)):
        with pytest.raises(TypeError, match="storage"):
            sketch(storage="bfloat16")  # 64 numbers a tensor: nothing to halve


@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_decides_the_bits(kind: str) -> None:
    def run(seed: int, interrupt_at: int = -1, seed_after: int = 0) -> Any:
        script = Scripted(SHAPES)
        tracker = KINDS[kind](script.named, script.optimizer, storage="bfloat16", seed=seed)
        for step in range(7):
            if step == interrupt_at:
                file = io.BytesIO()
                torch.save(tracker.state_dict(), file)
                file.seek(0)
                tracker = KINDS[kind](script.named, script.optimizer, storage="bfloat16", seed=seed_after)
                tracker.load_state_dict(torch.load(file, weights_only=True))
            advance(script)
            tracker.update(step)
        return kept(tracker)

    whole = run(3)
    assert equal(run(3), whole) and not equal(run(4), whole)
    for at in (1, 3, 4, 6):
        assert equal(run(3, at, seed_after=3), whole)
        assert equal(run(3, at, seed_after=8), whole), "the state has its seed"


@pytest.mark.parametrize("kind", KINDS)
def test_layout_and_threads_show_in_no_bit(kind: str, threads: None) -> None:
    def run(count: int, channels_last: bool) -> Any:
        bs.set_num_threads(count)
        script = Scripted({"w": (64, 33, 8, 8), "v": (1100, 1000)})
        w = script.named["w"]
        if channels_last:
            w.data = w.data.contiguous(memory_format=torch.channels_last)
        tracker = KINDS[kind](script.named, script.optimizer, storage="bfloat16")
        for step in range(4):
            advance(script)
            tracker.update(step, {"w": torch.arange(w.numel()).view(w.shape) % 3 > 0})
        return kept(tracker)

    expected = run(1, False)
    assert equal(run(4, False), expected)
    assert equal(run(3, True), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_another_storage_is_refused_by_name(kind: str) -> None:
    script = Scripted(SHAPES)
    trackers = [KINDS[kind](script.named, script.optimizer, storage=s) for s in ("float32", "bfloat16")]
    for step in range(4):
        advance(script)
        for tracker in trackers:
            tracker.update(step)
    for one, other, found in ((*trackers, "bfloat16"), (*trackers[::-1], "float32")):
        before = copy.deepcopy(one.state_dict())
        with pytest.raises(bs.CheckpointError, match=rf"is {found}, and this .*the storage that was saved"):
            one.load_state_dict(other.state_dict())
        assert equal(one.state_dict(), before)
    state = trackers[1].state_dict()
    assert state["seed"] == 0 and "seed" not in trackers[0].state_dict()
    for seed in (-1, 2**63, "3", 1.0, True):
        with pytest.raises(bs.CheckpointError, match="seed"):
            trackers[1].load_state_dict({**state, "seed": seed})


@pytest.mark.parametrize("kind", SCORERS)
def test_a_pruner_goes_on_with_another_storage_if_it_is_told_to(kind: str) -> None:
    def make(storage: str) -> Any:
        model = mlp()
        optimizer = adamw(model)
        scorer = SCORERS[kind](storage=storage)
        return model, optimizer, bs.Pruner(model, optimizer, scorer=scorer, schedule=RAMP, seed=11)

    for here, there in (("bfloat16", "float32"), ("float32", "bfloat16")):
        model, optimizer, pruner = make(there)
        train(model, optimizer, pruner, 6)
        state = pruner.state_dict()
        saved = state["config"]["scorer"]
        assert saved.get("storage") == (None if there == "float32" else "bfloat16")
        assert state["tracker"].get("seed") == (None if there == "float32" else 11)
        other, another, resumed = make(here)
        other.load_state_dict(model.state_dict())
        another.load_state_dict(optimizer.state_dict())
        with pytest.raises(bs.CheckpointError, match="storage"):
            resumed.load_state_dict(state)
        resumed.load_state_dict(state, strict=False)
        for name, tensors in resumed.state_dict()["tracker"]["tensors"].items():
            for key, tensor in state["tracker"]["tensors"][name].items():
                assert torch.equal(tensors[key], tensor.to(tensors[key].dtype))
                if key in ("average", "snapshot", "sums"):
                    assert tensors[key].dtype is getattr(torch, here)
        train(other, another, resumed, 6, first=7)
        assert [event.step for event in resumed.history] == [4, 8, 12]


def test_the_report_names_the_storage() -> None:
    model = mlp()
    optimizer = adamw(model)
    pruner = bs.Pruner(model, optimizer, scorer=bs.Movement(storage="bfloat16"), schedule=RAMP)
    train(model, optimizer, pruner, 4)
    assert pruner.tracker is not None
    assert f"movement keeps {pruner.tracker.nbytes:,} bytes of 3 tensors, in bfloat16" in str(pruner.report())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("in_file", [False, True])
def test_a_snapshot_of_any_weights(dtype: torch.dtype, in_file: bool, tmp_path: Path) -> None:
    script = Scripted({"w": (300, 7), "empty": (0,), "v": (129,)})
    for parameter in script.named.values():
        parameter.data = parameter.data.to(dtype)
    path = tmp_path / "snapshot.bf16" if in_file else None
    tracker = bs.SnapshotTracker(script.named, script.optimizer, storage="bfloat16", seed=5, path=path)
    tracker.update()
    for name, parameter in script.named.items():
        w, found = parameter.detach().reshape(-1).double(), kept(tracker)[name]["snapshot"].double()
        off = (found - w).abs()
        assert (off <= w.abs() * 2.0**-7).all()
        assert torch.equal(found, w) is (dtype is torch.bfloat16 or not w.numel())
    if path is not None:
        elements = sum(parameter.numel() for parameter in script.named.values())
        assert os.path.getsize(path) == tracker.file_bytes == 2 * elements
        memory = bs.SnapshotTracker(script.named, script.optimizer, storage="bfloat16", seed=5)
        memory.update()
        assert equal(kept(memory), kept(tracker))
        loaded = bs.SnapshotTracker(
            script.named, script.optimizer, storage="bfloat16", path=tmp_path / "other"
        )
        loaded.load_state_dict(tracker.state_dict())
        assert equal(kept(loaded), kept(tracker)) and os.path.getsize(tmp_path / "other") == 2 * elements


def test_bfloat16_weights_are_remembered_exactly() -> None:
    script = Scripted({"w": (700,)})
    script.named["w"].data = script.named["w"].data.bfloat16()
    trackers = [
        bs.CoherenceTracker(script.named, script.optimizer, storage=s) for s in ("float32", "bfloat16")
    ]
    masks = {"w": torch.arange(700) % 4 > 0}
    for step in range(5):
        script.set("w", step=script.tensor((700,), 2e-3).bfloat16(), exp_avg=script.tensor((700,), 1e-3))
        for tracker in trackers:
            tracker.update(step, masks)
    wide, narrow = (kept(tracker)["w"] for tracker in trackers)
    assert torch.equal(narrow["previous"].float(), wide["previous"])
    assert torch.equal(narrow["previous"], script.named["w"].detach() * masks["w"])
    assert not narrow["average"][~masks["w"]].any()


def test_sums_and_masks_follow_those_of_float32() -> None:
    """A small training: the sums are right in the mean, and few weights change sides."""
    torch.manual_seed(0)
    teacher, model = (
        torch.nn.Sequential(torch.nn.Linear(24, 96), torch.nn.Tanh(), torch.nn.Linear(96, 8)) for _ in "ab"
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    wide, narrow = (bs.MovementTracker(model, optimizer, storage=s) for s in ("float32", "bfloat16"))
    nearest = {name: torch.zeros(p.shape, dtype=torch.bfloat16) for name, p in model.named_parameters()}
    for _ in range(1500):
        x = torch.randn(32, 24)
        optimizer.zero_grad()
        (model(x) - teacher(x).detach()).square().mean().backward()
        for name, p in model.named_parameters():
            assert p.grad is not None
            nearest[name] = (nearest[name].float() - 1e-3 * p.grad * p.detach()).bfloat16()
        optimizer.step()
    exact, found = wide.scores(), narrow.scores()
    assert all(tensor.dtype is torch.bfloat16 for tensor in found.values())

    def off(values: dict[str, torch.Tensor]) -> float:
        """How far the sums are from the exact ones, relative to those."""
        gaps = [(values[name].float() - exact[name]).norm() / exact[name].norm() for name in exact]
        return float(max(gaps))

    assert off(found) < 0.1 < off(nearest)
    weights = {name: p.detach() for name, p in model.named_parameters() if name in exact}
    for sparsity, most in ((0.5, 0.02), (0.9, 0.02)):
        masks = [
            bs.make_masks(
                [bs.ScoreInputs(weights[name], scores=scores[name], name=name) for name in exact],
                sparsity=sparsity,
                scorer="movement",
            )
            for scores in (exact, found)
        ]
        other = sum(int((a.bool() != b.bool()).sum()) for a, b in zip(*masks, strict=True))
        assert 0 < other < most * sum(w.numel() for w in weights.values())
