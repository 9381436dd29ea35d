"""Trackers of tensors on CUDA: the numbers of the CPU, with host memory in its place and on a GPU where
there is one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import bittersweet as bs
import pytest
import torch
from tracker_support import MAKERS, SHAPES, Scripted

MOVEMENTS = {
    "movement": lambda *a, **k: bs.MovementTracker(*a, hook=False, **k),
    "movement in bfloat16": lambda *a, **k: bs.MovementTracker(*a, hook=False, storage="bfloat16", **k),
}


class Twin:
    """A scripted training, and a copy of it on the device that is brought up to it after every step."""

    def __init__(self, cuda: Any, dtype: torch.dtype = torch.float32) -> None:
        self.cuda = cuda
        self.script, self.there = Scripted(SHAPES), Scripted(SHAPES)
        for parameter in (*self.script.named.values(), *self.there.named.values()):
            parameter.data = parameter.data.to(dtype)
        for parameter in self.there.named.values():
            parameter.data = cuda.put(parameter.data)
            state = self.there.optimizer.state[parameter]
            state.update({key: cuda.put(state[key]) for key in ("exp_avg", "exp_avg_sq")})
        self.follow()

    def advance(self) -> None:
        self.script.advance()
        for parameter in self.script.named.values():
            parameter.grad = self.script.tensor(tuple(parameter.shape), 1e-2).to(parameter.dtype)
        self.follow()

    def follow(self) -> None:
        with torch.no_grad():
            for name, parameter in self.script.named.items():
                twin = self.there.named[name]
                twin.copy_(parameter)
                for key in ("exp_avg", "exp_avg_sq"):
                    self.there.optimizer.state[twin][key].copy_(self.script.optimizer.state[parameter][key])
                if parameter.grad is not None:
                    twin.grad = self.cuda.put(parameter.grad)

    def trackers(self, make: Any) -> tuple[Any, Any]:
        return tuple(make(one.named, one.optimizer) for one in (self.script, self.there))  # type: ignore[return-value]

    def dead(self, step: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """Masks of the first two parameters that lose a few more weights at every step."""
        torch.manual_seed(5)
        here = {name: torch.rand(SHAPES[name]) > 0.1 * step for name in list(SHAPES)[:2]}
        return here, {name: self.cuda.put(mask) for name, mask in here.items()}


def update_both(twin: Twin, here: Any, there: Any, steps: int, masked: bool = False) -> None:
    for step in range(1, steps + 1):
        twin.advance()
        masks = twin.dead(step) if masked else (None, None)
        with twin.cuda.on_cpu():
            here.update(step, masks[0])
        there.update(step, masks[1])


def answers_of(tracker: Any) -> dict[str, Any]:
    found = tracker.scores() if isinstance(tracker, bs.MovementTracker) else tracker.modifiers()
    return {name: value.cpu() if isinstance(value, torch.Tensor) else value for name, value in found.items()}


def assert_same(cuda: Any, here: Any, there: Any) -> None:
    with cuda.on_cpu():
        expected, state = answers_of(here), here.state_dict()
    found = answers_of(there)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        same = torch.equal(value, found[name]) if isinstance(value, torch.Tensor) else value == found[name]
        assert same, name
    assert_same_states(state, there.state_dict())


def assert_same_states(state: Any, saved: Any) -> None:
    assert {**saved, "tensors": 0} == {**state, "tensors": 0}
    for name, tensors in state["tensors"].items():
        for key, tensor in tensors.items():
            other = saved["tensors"][name][key]
            assert other.device.type == "cpu" and torch.equal(tensor, other), (name, key)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", [*MAKERS, *MOVEMENTS])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_numbers_are_those_of_the_cpu(cuda: Any, name: str, masked: bool, dtype: torch.dtype) -> None:
    twin = Twin(cuda, dtype)
    here, there = twin.trackers({**MAKERS, **MOVEMENTS}[name])
    update_both(twin, here, there, 5, masked)
    assert_same(cuda, here, there)


@pytest.mark.parametrize("name", [*MAKERS, *MOVEMENTS])
def test_states_travel_between_the_cpu_and_a_device(cuda: Any, name: str) -> None:
    make = {**MAKERS, **MOVEMENTS}[name]
    twin = Twin(cuda)
    here, there = twin.trackers(make)
    update_both(twin, here, there, 4)
    with cuda.on_cpu():
        state = here.state_dict()
    again = make(twin.there.named, twin.there.optimizer)
    again.load_state_dict(state)
    assert_same(cuda, here, again)
    update_both(twin, here, again, 6)
    assert_same(cuda, here, again)
    with cuda.on_cpu():
        back = make(twin.script.named, twin.script.optimizer)
    saved = again.state_dict()
    with cuda.on_cpu():
        back.load_state_dict(saved)
        assert_same_states(here.state_dict(), back.state_dict())


def test_only_answers_wait(cuda: Any) -> None:
    twin = Twin(cuda)
    for make in (*MAKERS.values(), *MOVEMENTS.values()):
        here, there = twin.trackers(make)
        update_both(twin, here, there, 4, masked=True)
        assert cuda.reads == 0
        answers_of(there)
        assert 1 <= cuda.reads <= 2
        cuda.reads = 0


def test_a_snapshot_goes_to_pinned_memory_beside_the_training(host_cuda: Any) -> None:
    twin = Twin(host_cuda)
    here, there = twin.trackers(MAKERS["bitter10c"])
    update_both(twin, here, there, 1)
    kept = [kept["snapshot"] for kept in there._kept]
    assert host_cuda.copies == len(SHAPES) and all(map(host_cuda.is_pinned, kept))
    assert all(bool((snapshot == -77).all()) for snapshot in kept)  # nobody has waited for them
    state = there.state_dict()
    for name, parameter in twin.script.named.items():
        assert torch.equal(state["tensors"][name]["snapshot"], parameter.detach().reshape(-1)), name
    update_both(twin, here, there, 6)
    assert [kept["snapshot"] for kept in there._kept] == kept or all(
        a.data_ptr() == b["snapshot"].data_ptr() for a, b in zip(kept, there._kept, strict=True)
    )
    assert_same(host_cuda, here, there)


def test_a_snapshot_in_a_file(cuda: Any, tmp_path: Path) -> None:
    twin = Twin(cuda)
    here = bs.SnapshotTracker(twin.script.named, twin.script.optimizer, every=2, path=tmp_path / "here")
    there = bs.SnapshotTracker(twin.there.named, twin.there.optimizer, every=2, path=tmp_path / "there")
    update_both(twin, here, there, 6, masked=True)
    assert (tmp_path / "here").read_bytes() == (tmp_path / "there").read_bytes()
    assert_same(cuda, here, there)


def test_a_model_that_has_moved_is_refused_until_the_state_follows(host_cuda: Any) -> None:
    twin = Twin(host_cuda)
    for name in ("bitter10", "bitter10s", "movement"):
        tracker = {**MAKERS, **MOVEMENTS}[name](twin.there.named, twin.there.optimizer)
        twin.advance()
        tracker.update(1)
        before = tracker.state_dict()
        twin.advance()
        moved = []
        for parameter in twin.there.named.values():
            state = twin.there.optimizer.state[parameter]
            state.update({key: state[key].clone() for key in ("exp_avg", "exp_avg_sq")})
            parameter.data, parameter.grad = parameter.data.clone(), parameter.grad.clone()  # type: ignore[union-attr]
            moved += [parameter, parameter.grad, state["exp_avg"], state["exp_avg_sq"]]
        host_cuda.devices = {tensor.data_ptr(): 1 for tensor in moved}
        with pytest.raises(bs.DeviceError, match="load_state_dict"):
            tracker.update(2)
        host_cuda.devices = {}
        after = tracker.state_dict()
        for key, tensors in before["tensors"].items():
            assert all(torch.equal(tensor, after["tensors"][key][what]) for what, tensor in tensors.items())


def test_masks_of_another_device_are_refused(host_cuda: Any) -> None:
    twin = Twin(host_cuda)
    name = next(iter(SHAPES))
    for make in MAKERS.values():
        tracker = make(twin.there.named, twin.there.optimizer)
        tracker.update(1)
        with host_cuda.on_cpu():
            mask = bs.Mask.from_bool(torch.ones(SHAPES[name], dtype=torch.bool), name)
        with pytest.raises(bs.DeviceError, match=f"mask of '{name}' is on the CPU"):
            tracker.update(2, {name: mask})


def test_positions_beyond_a_tensor_are_refused_when_they_are_loaded() -> None:
    script = Scripted(SHAPES)
    tracker = bs.SketchTracker(script.named, script.optimizer)
    tracker.update()
    for wrong in (-1, 4099, 2**40):
        state = tracker.state_dict()
        state["tensors"]["odd"]["positions"][3] = wrong
        with pytest.raises(bs.CheckpointError, match="'odd'"):
            tracker.load_state_dict(state)
