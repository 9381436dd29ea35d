"""Checkpoints that change sides, copies, and tensors that move between steps."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import bittersweet as bs
import pytest
import torch
from bittersweet import optim
from optim_support import (
    KINDS,
    assert_equal,
    assert_held,
    bits,
    give_gradients,
    parameters,
    same_bits,
    some_mask,
    values,
)
from pruner_support import backward, dead_values, facts, mlp, weights
from torch import nn

SCHEDULE = bs.Linear(0.2, 0.8, begin_step=4, end_step=20, frequency=4)
OPTIONS: dict[str, Any] = {"lr": 3e-2, "weight_decay": 0.1, "betas": (0.8, 0.95)}


class Side:
    """A model trained with our step, or with torch's and hold="weights"."""

    def __init__(self, own: bool, kind: str = "AdamW", scorer: str = "bitter7", **options: Any) -> None:
        self.model = mlp()
        made: Any = getattr(optim if own else torch.optim, kind)
        form = {} if own else {"fused": True, **options}
        self.optimizer: Any = made(self.model.parameters(), **{**OPTIONS, **form})
        self.pruner = bs.Pruner(
            self.model,
            self.optimizer,
            schedule=SCHEDULE,
            scorer=scorer,
            hold="auto" if own else "weights",
        )

    def train(self, first: int, last: int) -> Side:
        for step in range(first, last + 1):
            backward(self.model, step)
            self.optimizer.step()
            self.pruner.step()
            self.optimizer.zero_grad()
        return self

    def saved(self) -> Any:
        file = io.BytesIO()
        torch.save(
            {name: getattr(self, name).state_dict() for name in ("model", "optimizer", "pruner")}, file
        )
        file.seek(0)
        return torch.load(file, weights_only=True)

    def load(self, saved: Any) -> Side:
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.pruner.load_state_dict(saved["pruner"])
        return self


def assert_same(one: Side, other: Side) -> None:
    one.optimizer.state_dict()  # zeros of what the last event pruned may wait for whoever asks
    assert_equal(list(one.model.parameters()), one.optimizer, list(other.model.parameters()), other.optimizer)
    assert [facts(event) for event in one.pruner.history] == [facts(event) for event in other.pruner.history]
    for name, mask in one.pruner.masks.items():
        assert torch.equal(mask, other.pruner.masks[name])


@pytest.mark.parametrize("scorer", ["bitter7", "bitter10", "bitter10s", "movement"])
@pytest.mark.parametrize("kind", KINDS)
def test_checkpoints_are_swapped_in_the_middle(kind: str, scorer: str) -> None:
    through = Side(False, kind, scorer).train(1, 26)
    for first in (True, False):
        side = Side(first, kind, scorer).train(1, 9)
        for i, (start, end) in enumerate(((10, 15), (16, 16), (17, 26))):
            side = Side(first ^ (i % 2 == 0), kind, scorer).load(side.saved()).train(start, end)
        assert_same(side, through)


@pytest.mark.parametrize(
    "form", [{"foreach": True}, {"foreach": False}, {"fused": True}, {"capturable": True}]
)
@pytest.mark.parametrize("kind", KINDS)
def test_states_of_any_of_torchs_forms_are_taken(kind: str, form: dict[str, bool]) -> None:
    other = parameters(((7, 13), (40,)))
    theirs: Any = KINDS[kind][1](other, betas=(0.3, 0.95), **form)
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # the form decides in which dtype steps are counted
    try:
        for step in range(3):
            give_gradients(other, step)
            if not form.get("capturable"):  # for accelerators only
                theirs.step()
    finally:
        torch.set_default_dtype(default)
    own = [nn.Parameter(one.detach().clone()) for one in other]
    optimizer = KINDS[kind][0](own)
    optimizer.load_state_dict(copy.deepcopy(theirs.state_dict()))
    group = optimizer.param_groups[0]
    assert group["fused"] is True and not group["foreach"] and not group["capturable"]
    assert group["betas"] == (0.3, 0.95)
    fused: Any = KINDS[kind][1](other, fused=True)
    state = theirs.state_dict()
    state["param_groups"][0].update(fused=True, foreach=None, capturable=False)
    fused.load_state_dict(copy.deepcopy(state))
    for entry in fused.state.values():
        entry["step"] = entry["step"].float()
    for step in range(3, 6):
        for of, one in ((own, optimizer), (other, fused)):
            give_gradients(of, step)
            one.step()
    assert_equal(own, optimizer, other, fused)


def test_torch_goes_on_from_our_checkpoint_in_any_form() -> None:
    own = parameters(((7, 13), (40,)))
    optimizer = optim.AdamW(own, amsgrad=True)
    optimizer.hold({own[0]: some_mask((7, 13), 0.5)})
    for step in range(3):
        give_gradients(own, step)
        optimizer.step()
    saved = copy.deepcopy(optimizer.state_dict())
    reference = torch.optim.AdamW(own, amsgrad=True, fused=True)
    for form in ({"foreach": True}, {"fused": True}, {"foreach": False}):
        other = torch.optim.AdamW([nn.Parameter(one.detach().clone()) for one in own], amsgrad=True, **form)
        assert saved["param_groups"][0].keys() == other.state_dict()["param_groups"][0].keys()
        other.load_state_dict(saved)
        give_gradients(other.param_groups[0]["params"], 3)
        other.step()
    give_gradients(own, 0)
    reference.step()
    for number, state in saved["state"].items():
        assert state.keys() == reference.state_dict()["state"][number].keys()


def test_a_strict_pruner_takes_what_was_saved_under_another_hold() -> None:
    for saved, loading in (("weights", "auto"), ("auto", "weights"), ("weights", "step"), ("step", "auto")):
        states = []
        for hold in (saved, loading):
            model = mlp()
            optimizer = optim.AdamW(model.parameters())
            pruner = bs.Pruner(model, optimizer, schedule=SCHEDULE, hold=hold)
            if states:
                pruner.load_state_dict(states[0])
            states.append(pruner.state_dict())
    model = mlp()
    pruner = bs.Pruner(model, optim.AdamW(model.parameters()), schedule=SCHEDULE, hold="grads")
    with pytest.raises(bs.CheckpointError, match="hold"):
        pruner.load_state_dict(states[0])


COPIES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda one: pickle.loads(pickle.dumps(one)),
    "a copy of a copy": lambda one: copy.deepcopy(pickle.loads(pickle.dumps(one))),
}


@pytest.mark.parametrize("scorer", ["bitter7", "bitter10", "movement"])
@pytest.mark.parametrize("copies", COPIES)
def test_a_copy_of_all_goes_on_by_itself(copies: str, scorer: str) -> None:
    through = Side(False, scorer=scorer).train(1, 26)
    first = Side(True, scorer=scorer).train(1, 9)
    second = COPIES[copies](first)
    second.train(10, 26)
    assert_same(second, through)
    assert second.optimizer.held.in_step == 3
    assert first.pruner.steps == 9
    first.train(10, 26)
    assert_same(first, through)
    for side in (first, second):
        side.pruner.finalize()
        assert side.optimizer.held == optim.Held(0, 0)


@pytest.mark.parametrize("copies", COPIES)
def test_a_copy_of_the_optimizer_holds_its_own_masks(copies: str) -> None:
    own = parameters(((64, 40), (9,)))
    optimizer = optim.AdamW(own, betas=(0.3, 0.95), state_dtype=torch.float32)
    mask = some_mask((64, 40), 0.9)
    optimizer.hold({own[0]: mask}, state=False)
    for step in range(2):
        give_gradients(own, step)
        optimizer.step()
    second, twins = COPIES[copies]((optimizer, own))
    assert type(second) is optim.AdamW and str(second.held) == str(optimizer.held)
    for step in range(2, 5):
        for of, one in ((own, optimizer), (twins, second)):
            give_gradients(of, step)
            one.step()
    assert_equal(twins, second, own, optimizer)
    assert not bits(twins[0][~mask]).any()
    assert bool((second.state[twins[0]]["exp_avg"][~mask] != 0).all())
    second.hold({})
    give_gradients(own, 5)
    optimizer.step()
    assert not bits(own[0][~mask]).any()


def test_masks_are_no_part_of_the_state() -> None:
    own = parameters(((64, 40), (9,)))
    optimizer, other = optim.AdamW(own), torch.optim.AdamW(own, fused=True)
    give_gradients(own, 0)
    optimizer.hold({own[0]: some_mask((64, 40), 0.9)})
    optimizer.step()
    other.step()
    saved, wanted = optimizer.state_dict(), other.state_dict()
    assert saved.keys() == wanted.keys()
    assert saved["param_groups"] == wanted["param_groups"]
    assert saved["state"][0].keys() == wanted["state"][0].keys()


def test_groups_that_are_added_later() -> None:
    own, other = parameters(((64, 40), (9,), (33, 3))), parameters(((64, 40), (9,), (33, 3)))
    optimizer, theirs = optim.AdamW(own[:2]), torch.optim.AdamW(other[:2], fused=True)
    optimizer.hold({own[0]: torch.ones(64, 40, dtype=torch.bool)})
    for step in range(4):
        if step == 2:
            for of, one in ((own, optimizer), (other, theirs)):
                one.add_param_group({"params": [of[2]], "lr": 0.1, "amsgrad": True})
        for of, one in ((own, optimizer), (other, theirs)):
            give_gradients(of[: 3 if step > 1 else 2], step)
            one.step()
    assert_equal(own, optimizer, other, theirs)
    mask = some_mask((33, 3), 0.5)
    optimizer.hold({own[2]: mask})
    assert_held(optimizer, own[2], mask)


def test_parameters_that_change_groups() -> None:
    own, other = parameters(((64, 40), (9,), (33, 3))), parameters(((64, 40), (9,), (33, 3)))
    made: list[Any] = [
        kind([{"params": of[:2], "lr": 0.1}, {"params": of[2:]}], fused=True)
        for kind, of in ((optim.AdamW, own), (torch.optim.AdamW, other))
    ]
    for step in range(6):
        for of, one in zip((own, other), made, strict=True):
            if step == 2:
                one.param_groups[1]["params"].insert(0, one.param_groups[0]["params"].pop())
            if step == 4:
                one.param_groups.reverse()
            give_gradients(of, step)
            one.step()
    assert_equal(own, made[0], other, made[1])


@pytest.mark.parametrize("pruned", [False, True])
def test_tensors_that_move_between_steps(pruned: bool) -> None:
    own, other = parameters(((64, 40), (9,))), parameters(((64, 40), (9,)))
    optimizer, theirs = optim.AdamW(own), torch.optim.AdamW(other, fused=True)
    mask = some_mask((64, 40), 0.9) if pruned else torch.ones(64, 40, dtype=torch.bool)
    optimizer.hold({own[0]: mask})
    for step in range(12):
        for of, one in ((own, optimizer), (other, theirs)):
            if step == 2:
                of[0].data = of[0].data.clone()
            if step == 3:
                of[0].data = values((64, 40), 3)
            if step == 4:
                one.load_state_dict(copy.deepcopy(one.state_dict()))
            if step == 5:
                del one.state[of[0]]
            if step == 6:
                one.state.clear()
            if step == 7:
                of[0].data = of[0].data.to(torch.bfloat16)
                for key in ("exp_avg", "exp_avg_sq"):
                    one.state[of[0]][key] = one.state[of[0]][key].to(torch.bfloat16)
            if step == 9:
                memory = torch.cat([torch.ones(1, 40, dtype=torch.bfloat16), of[0].data])
                of[0].data = memory[1:]
            give_gradients(of, step)
            one.step()
        with torch.no_grad():
            other[0].mul_(mask).add_(0.0)
            for key in ("exp_avg", "exp_avg_sq"):
                theirs.state[other[0]][key].mul_(mask).add_(0.0)  # -0 is no zero of ours
        assert_equal(own, optimizer, other, theirs)
        assert_held(optimizer, own[0], mask)


def test_a_parameter_of_another_shape_is_refused_before_anything_changes() -> None:
    """A vocabulary that grows under its mask."""
    for size in (40000, 3):
        own = [nn.Parameter(values((64, 40), 0)), nn.Parameter(values((9,), 1))]
        optimizer = optim.AdamW(own)
        optimizer.hold({own[0]: some_mask((64, 40), 0.5)})
        give_gradients(own, 0)
        optimizer.step()
        own[0].grad = None
        own[0].data = values((size, 40), 2)
        optimizer.state.clear()
        give_gradients(own, 1)
        before = [bits(one).copy() for one in own]
        with pytest.raises(bs.ShapeError, match=rf"\({size}, 40\).*\(64, 40\)"):
            optimizer.step()
        assert all((bits(one) == wanted).all() for one, wanted in zip(own, before, strict=True))
        optimizer.hold({})
        optimizer.step()
        assert float(optimizer.state[own[0]]["step"]) == 1.0


def test_a_model_that_becomes_bfloat16_between_steps() -> None:
    side = Side(True).train(1, 9)
    side.model.to(torch.bfloat16)
    for state in side.optimizer.state.values():
        for key in ("exp_avg", "exp_avg_sq"):
            state[key] = state[key].to(torch.bfloat16)
    side.train(10, 22)
    assert side.optimizer.held.in_step == 3
    assert not dead_values(side.pruner, weights(side.model)).any()
    assert side.model[0].weight.dtype == side.optimizer.state[side.model[0].weight]["exp_avg"].dtype


def test_16_bit_weights_keep_float32_states_after_a_model_became_bfloat16() -> None:
    side = Side(True).train(1, 9)
    side.model.to(torch.bfloat16)
    side.train(10, 22)
    assert side.optimizer.held.in_step == 3
    assert side.optimizer.state[side.model[0].weight]["exp_avg"].dtype == torch.float32


@pytest.mark.filterwarnings("ignore:pruned weights were not 0")
@pytest.mark.parametrize("hold", ["auto", "weights"])
def test_a_new_parameter_under_the_same_name(hold: str) -> None:
    model = mlp()
    optimizer = optim.AdamW(model.parameters(), lr=1e-2)
    pruner = bs.Pruner(model, optimizer, schedule=bs.OneShot(0.5, 2), scorer="magnitude", hold=hold)
    for step in range(1, 80):
        backward(model, step)
        optimizer.step()
        pruner.step()
        optimizer.zero_grad()
        if step == 5:
            model[0].weight = nn.Parameter(values((40, 12), 5))
            optimizer.param_groups[0]["params"][0] = model[0].weight
    assert not dead_values(pruner, weights(model)).any()
    report = pruner.finalize()
    assert not report.violations


def test_states_with_precision_of_their_own_survive_a_checkpoint() -> None:
    own = parameters(((64, 40),), torch.bfloat16)
    optimizer = optim.AdamW(own, state_dtype=torch.float32, betas=(0.3, 0.95))
    for step in range(3):
        give_gradients(own, step)
        optimizer.step()
    saved = copy.deepcopy(optimizer.state_dict())
    twins = [nn.Parameter(one.detach().clone()) for one in own]
    second = optim.AdamW(twins, state_dtype=torch.float32)
    second.load_state_dict(saved)
    for step in range(3, 6):
        for of, one in ((own, optimizer), (twins, second)):
            give_gradients(of, step)
            one.step()
    assert_equal(twins, second, own, optimizer)
    assert not same_bits(saved["state"][0]["exp_avg"], second.state[twins[0]]["exp_avg"])
    plain = optim.AdamW(twins)
    plain.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert plain.state[twins[0]]["exp_avg"].dtype == torch.bfloat16  # as torch's
