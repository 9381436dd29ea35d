"""`hold`: what is pruned stays at +0 in the optimizer's own pass, and nothing else changes."""

from __future__ import annotations

import copy
import gc
import math
import weakref
from typing import Any

import bittersweet as bs
import pytest
import torch
from bittersweet import optim
from optim_support import (
    KINDS,
    MOMENTS,
    ODD,
    Pair,
    assert_held,
    bits,
    dead_tensors,
    give_gradients,
    parameters,
    same_bits,
    some_mask,
)
from torch import nn

SHAPES = (*((size,) for size in (1, 2, 15, 16, 17, 63, 64, 65, 127, 130)), *ODD[:3])
NASTY = (math.nan, math.inf, -math.inf, -0.0, 1e-42, -1e-42, 3e38, 1.0)
FORMS: dict[str, tuple[torch.dtype, dict[str, Any]]] = {
    "float32": (torch.float32, {}),
    "bfloat16": (torch.bfloat16, {}),
    "bfloat16, float32 states": (torch.bfloat16, {"state_dtype": torch.float32}),
    "float16, float32 states": (torch.float16, {"state_dtype": torch.float32}),
    "amsgrad": (torch.float32, {"amsgrad": True}),
    "bfloat16 amsgrad": (torch.bfloat16, {"amsgrad": True}),
    "eps 0": (torch.float32, {"eps": 0.0}),
}


def scatter(tensor: torch.Tensor, where: torch.Tensor, turn: int) -> None:
    """Numbers that are none, or nearly none, at these places."""
    with torch.no_grad():
        count = int(where.sum())
        tensor[where] = torch.tensor(
            [NASTY[(i + turn) % len(NASTY)] for i in range(count)], dtype=tensor.dtype
        )


@pytest.mark.parametrize("sparsity", [0.5, 0.99, 1.0])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_dead_elements_are_zero_and_live_ones_as_without_masks(kind: str, form: str, sparsity: float) -> None:
    dtype, options = FORMS[form]
    masked, free = parameters(SHAPES, dtype), parameters(SHAPES, dtype)
    masks = [some_mask(shape, sparsity, i) for i, shape in enumerate(SHAPES)]
    own = KINDS[kind][0](masked, betas=(0.3, 0.95), weight_decay=0.1, **options)
    whole = KINDS[kind][0](free, betas=(0.3, 0.95), weight_decay=0.1, **options)
    own.hold(dict(zip(masked, masks, strict=True)))
    for step in range(6):
        for of in (masked, free):
            give_gradients(of, step)
        for i, (parameter, other, mask) in enumerate(zip(masked, free, masks, strict=True)):
            assert parameter.grad is not None and other.grad is not None
            scatter(parameter.grad, ~mask, step + i)
            other.grad.copy_(parameter.grad)
            if step > 2:
                for turn, tensor in enumerate(dead_tensors(own, parameter).values()):
                    scatter(tensor, ~mask, step + turn)
        own.step()
        whole.step()
        for parameter, other, mask in zip(masked, free, masks, strict=True):
            assert_held(own, parameter, mask)
            assert same_bits(parameter[mask], other[mask])
            for key in set(MOMENTS) & own.state[parameter].keys():
                assert same_bits(own.state[parameter][key][mask], whole.state[other][key][mask]), key
            assert same_bits(own.state[parameter]["step"], whole.state[other]["step"])
            assert parameter.grad is not None and other.grad is not None
            assert same_bits(parameter.grad, other.grad)


def test_hold_writes_zeros_at_once_before_and_after_there_is_a_state() -> None:
    for steps in (0, 2):
        own = parameters(SHAPES)
        optimizer = optim.AdamW(own, amsgrad=True)
        for step in range(steps):
            give_gradients(own, step)
            optimizer.step()
        masks = {parameter: some_mask(parameter.shape, 0.5) for parameter in own}
        optimizer.hold(masks)
        for parameter, mask in masks.items():
            assert_held(optimizer, parameter, mask)
            assert bool((parameter[mask] != 0).all())


def test_gradients_are_left_as_they_are() -> None:
    own = parameters(SHAPES)
    optimizer = optim.AdamW(own)
    give_gradients(own, 0)
    before = [bits(parameter.grad).copy() for parameter in own if parameter.grad is not None]
    versions = [parameter.grad._version for parameter in own if parameter.grad is not None]
    optimizer.hold({parameter: some_mask(parameter.shape, 0.5) for parameter in own})
    optimizer.step()
    for parameter, wanted, version in zip(own, before, versions, strict=True):
        assert parameter.grad is not None
        assert (bits(parameter.grad) == wanted).all() and parameter.grad._version == version


@pytest.mark.parametrize("kind", KINDS)
def test_scaled_gradients_of_dead_elements_are_unscaled_too(kind: str) -> None:
    pair = Pair(kind, SHAPES, betas=(0.3, 0.95))
    masks = {one: some_mask(one.shape, 0.99, i) for i, one in enumerate(pair.own_parameters)}
    pair.own.hold(masks)
    for step in range(4):
        for one in (pair.own, pair.theirs):
            one.grad_scale, one.found_inf = torch.tensor(3.0), torch.tensor(0.0)
        pair.step(step)
        for mine, other in zip(pair.own_parameters, pair.their_parameters, strict=True):
            assert mine.grad is not None and other.grad is not None
            assert same_bits(mine.grad, other.grad)
            assert same_bits(mine[masks[mine]], other[masks[mine]])


def test_a_skipped_step_writes_nothing() -> None:
    own = parameters(SHAPES)
    optimizer = optim.AdamW(own)
    optimizer.hold({parameter: some_mask(parameter.shape, 0.5) for parameter in own})
    give_gradients(own, 0)
    optimizer.step()
    before = copy.deepcopy((own, optimizer.state_dict()))
    versions = [parameter._version for parameter in own]
    give_gradients(own, 1)
    optimizer.grad_scale, optimizer.found_inf = torch.tensor(2.0), torch.tensor(1.0)
    optimizer.step()
    assert all(same_bits(a, b) for a, b in zip(own, before[0], strict=True))
    after = optimizer.state_dict()["state"]
    for number, state in before[1]["state"].items():
        assert all(same_bits(value, after[number][key]) for key, value in state.items())
    assert [parameter._version for parameter in own] == versions


@pytest.mark.parametrize("masked", [False, True])
def test_autograd_learns_of_the_writes(masked: bool) -> None:
    layer = nn.Linear(8, 8)
    optimizer = optim.AdamW(layer.parameters())
    if masked:
        optimizer.hold({layer.weight: some_mask((8, 8), 0.5)})
    inputs = torch.randn(4, 8, requires_grad=True)
    for _ in range(2):
        layer(inputs).square().sum().backward()
        output = layer(inputs).square().sum()
        versions = {key: t._version for key, t in dead_tensors(optimizer, layer.weight).items()}
        optimizer.step()
        after = {key: t._version for key, t in dead_tensors(optimizer, layer.weight).items()}
        assert all(after[key] > version for key, version in versions.items())
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            output.backward()


def test_hold_of_nothing_lets_go() -> None:
    own = parameters(SHAPES)
    optimizer = optim.AdamW(own)
    masks = {parameter: some_mask(parameter.shape, 0.5) for parameter in own}
    optimizer.hold(masks)
    assert str(optimizer.held) == f"{len(own)} tensors in the step, 0 after it"
    give_gradients(own, 0)
    optimizer.step()
    optimizer.hold({})
    assert optimizer.held == optim.Held(0, 0)
    give_gradients(own, 1)
    optimizer.step()
    for parameter, mask in masks.items():
        assert bool((parameter[~mask] != 0).all())


def test_new_masks_take_the_place_of_the_last() -> None:
    own = parameters(((40, 30), (9,)))
    optimizer = optim.AdamW(own)
    first, second = some_mask((40, 30), 0.5), some_mask((40, 30), 0.5, 1)
    optimizer.hold({own[0]: first, own[1]: some_mask((9,), 0.5)})
    optimizer.hold({own[0]: second})
    give_gradients(own, 0)
    optimizer.step()
    assert_held(optimizer, own[0], second)
    assert bool((own[0][second & ~first] != 0).all())
    assert bool((own[1] != 0).all())


def test_without_the_state_only_weights_are_held() -> None:
    pair = Pair("AdamW", SHAPES, betas=(0.3, 0.95))
    masks = {one: some_mask(one.shape, 0.9, i) for i, one in enumerate(pair.own_parameters)}
    pair.own.hold(masks, state=False)
    for step in range(5):
        pair.step(step)
        with torch.no_grad():
            for mine, other in zip(pair.own_parameters, pair.their_parameters, strict=True):
                other.mul_(masks[mine])
                other.add_(0.0)  # -0 is no zero of ours
        pair.assert_equal()
        for parameter, mask in masks.items():
            assert not bits(parameter[~mask]).any()
            moved = pair.own.state[parameter]["exp_avg"][~mask]
            assert bool((moved != 0).all())


class Owner:
    """Something that can be referred to weakly."""


def test_what_two_owners_prune_is_pruned_until_they_let_go() -> None:
    own = parameters(((64, 40), (7,)))
    optimizer = optim.AdamW(own)
    mine, other = some_mask((64, 40), 0.5), some_mask((64, 40), 0.5, 1)
    owner = Owner()
    optimizer.hold({own[0]: mine})
    optimizer.hold_for(owner, {own[0]: bs.Mask.from_bool(other)})
    give_gradients(own, 0)
    optimizer.step()
    assert_held(optimizer, own[0], mine & other)
    optimizer.hold({})
    give_gradients(own, 1)
    optimizer.step()
    assert_held(optimizer, own[0], other)
    assert bool((own[0][other & ~mine] != 0).all())
    gone = weakref.ref(owner)
    del owner
    gc.collect()
    assert gone() is None
    optimizer.hold({own[0]: mine})
    give_gradients(own, 2)
    optimizer.step()
    assert_held(optimizer, own[0], mine)
    assert bool((own[0][mine & ~other] != 0).all())


def test_another_owner_that_lets_go_leaves_the_choice_of_states_alone() -> None:
    own = parameters(((64, 40),))
    optimizer = optim.AdamW(own)
    mask, owner = some_mask((64, 40), 0.5), Owner()
    optimizer.hold({own[0]: mask}, state=False)
    optimizer.hold_for(owner, {})
    give_gradients(own, 0)
    optimizer.step()
    assert not bits(own[0][~mask]).any()
    assert bool((optimizer.state[own[0]]["exp_avg"][~mask] != 0).all())


def test_masks_of_an_owner_that_has_gone_are_not_held() -> None:
    own = parameters(((64, 40),))
    optimizer = optim.AdamW(own)
    owner = Owner()
    optimizer.hold_for(owner, {own[0]: bs.Mask.from_bool(some_mask((64, 40), 0.5))})
    del owner
    gc.collect()
    give_gradients(own, 0)
    optimizer.step()
    assert bool((own[0] != 0).all())
    assert optimizer.held == optim.Held(0, 0)


@pytest.mark.parametrize("steps", [0, 1])
def test_what_cannot_be_held_is_refused_and_changes_nothing(steps: int) -> None:
    own = parameters(((8, 8), (9,)))
    optimizer = optim.AdamW(own)
    good = {own[0]: some_mask((8, 8), 0.5)}
    optimizer.hold(good)
    for step in range(steps):
        give_gradients(own, step)
        optimizer.step()
    before = [bits(parameter).copy() for parameter in own]
    wrong: list[tuple[Any, type[Exception], str]] = [
        ({"0.weight": good[own[0]]}, bs.ArgumentError, r"key 0 is '0\.weight'.*not their names"),
        ({own[1]: some_mask((9,), 0.5), 3: None}, bs.ArgumentError, "key 1 is 3"),
        ({nn.Parameter(torch.ones(3)): torch.ones(3, dtype=torch.bool)}, bs.ArgumentError, "no parameter of"),
        ({own[0].detach(): good[own[0]]}, bs.ArgumentError, "no parameter of this AdamW"),
        ([own[0]], bs.ArgumentError, "found list; accepted: a mapping"),
        (None, bs.ArgumentError, "found NoneType"),
        (
            {own[1]: some_mask((9,), 0.9), own[0]: torch.ones(8, 9, dtype=torch.bool)},
            bs.ShapeError,
            "parameter 1",
        ),
        ({own[0]: torch.ones(64, dtype=torch.bool)}, bs.ShapeError, "parameter 0"),
        ({own[0]: torch.ones(8, 8)}, bs.DTypeError, "bool"),
        ({own[0]: torch.ones(8, 8, dtype=torch.uint8)}, bs.DTypeError, "uint8"),
        ({own[0]: torch.ones(8, 8, dtype=torch.bool, device="meta")}, bs.DeviceError, "meta"),
        ({own[0]: None}, bs.Error, "parameter 0"),
    ]
    for masks, kind, text in wrong:
        with pytest.raises(kind, match=text):
            optimizer.hold(masks)
        assert all((bits(one) == wanted).all() for one, wanted in zip(own, before, strict=True))
        assert optimizer.held == optim.Held(1, 0)
    give_gradients(own, 9)
    optimizer.step()
    assert_held(optimizer, own[0], good[own[0]])
    assert bool((own[1] != 0).all())


def test_a_step_keeps_no_gradient_alive() -> None:
    own = parameters(((40, 30), (9,)))
    optimizer = optim.AdamW(own)
    optimizer.hold({own[0]: some_mask((40, 30), 0.5)})
    for step in range(2):
        give_gradients(own, step)
        optimizer.step()
        gradients = [weakref.ref(parameter.grad) for parameter in own]
        optimizer.zero_grad()
        gc.collect()
        assert [gradient() for gradient in gradients] == [None, None]


def test_one_owner_lets_drift_and_the_masks_of_another_hold() -> None:
    own = parameters(((64, 40), (9, 9)))
    optimizer = optim.AdamW(own)
    mine, other, owner = some_mask((64, 40), 0.5), some_mask((9, 9), 0.5), Owner()
    optimizer.hold({own[0]: mine})
    optimizer.hold_for(owner, {own[0]: bs.Mask.from_bool(~mine), own[1]: bs.Mask.from_bool(other)})
    for step, drifts in enumerate((False, True, False, True, True, False)):
        optimizer.let_drift(owner, drifts)
        give_gradients(own, step)
        optimizer.step()
        assert_held(optimizer, own[0], mine)
        assert bool(own[0].any()) is drifts
        assert bool(own[1][~other].any()) is drifts
    give_gradients(own, 9)
    optimizer.let_drift(owner, True)
    optimizer.step()
    give_gradients(own, 10)
    optimizer.step()  # it is asked for each step anew
    assert_held(optimizer, own[1], other)


@pytest.mark.parametrize("without", ["a gradient", "any gradient"])
def test_parameters_without_a_gradient_are_held_too(without: str) -> None:
    own = parameters(((64, 40), (9,)))
    optimizer = optim.AdamW(own)
    mask = some_mask((64, 40), 0.5)
    optimizer.hold({own[0]: mask})
    for step in range(6):
        give_gradients(own, step)
        if step >= 2:
            own[0].grad = None
        if without == "any gradient":
            own[1].grad = None
        if step == 3:
            with torch.no_grad():
                own[0].fill_(1.0)
        version = own[0]._version
        optimizer.step()
        assert [one is own[0] for one in optimizer.violated] == [True] * (step == 3)
        assert_held(optimizer, own[0], mask)
        assert step < 4 or own[0]._version == version, "nothing is written where nothing was"
