"""What a program that expects torch's classes meets: options, hooks, closures, modes, compiled models."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import bittersweet as bs
import pytest
import torch
from bittersweet import optim
from bittersweet.optim import rounding as rules
from optim_support import (
    KINDS,
    Pair,
    assert_equal,
    assert_held,
    give_gradients,
    parameters,
    same_bits,
    some_mask,
)
from process_wide import SETTINGS
from pruner_support import ONCE, backward, dead_values, mlp, weights
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

SHAPES = ((64, 40), (9,), (7, 13))


@pytest.mark.parametrize("kind", KINDS)
def test_the_classes_are_torchs(kind: str) -> None:
    own, theirs = KINDS[kind]
    assert issubclass(own, theirs) and own.__name__ == theirs.__name__
    wanted, found = (inspect.signature(one).parameters for one in (theirs, own))
    more = ["state_dtype", "rounding", "rounding_seed"]
    assert [*wanted, *more] == list(found)
    for name, parameter in wanted.items():
        assert (parameter.default, parameter.kind) == (found[name].default, found[name].kind), name
    assert {found[name].kind for name in more} == {inspect.Parameter.KEYWORD_ONLY}
    optimizer = own([nn.Parameter(torch.ones(3))])
    its = theirs([nn.Parameter(torch.ones(3))], fused=True)
    assert optimizer.defaults == its.defaults
    assert repr(optimizer) == repr(its)


REFUSED = ({"foreach": True}, {"fused": False}, {"capturable": True}, {"differentiable": True})
ACCEPTED = (
    {"foreach": False},
    {"fused": True},
    {"fused": None, "foreach": None, "capturable": False, "differentiable": False},
)


@pytest.mark.parametrize("option", REFUSED)
@pytest.mark.parametrize("kind", KINDS)
def test_forms_of_the_step_that_it_is_not_are_refused(kind: str, option: dict[str, Any]) -> None:
    own, (name, value) = KINDS[kind][0], next(iter(option.items()))
    parameter = nn.Parameter(torch.ones(3))
    text = rf"^{name}: {value} with bittersweet\.optim\.{kind}: .*use torch\.optim\.{kind}"
    with pytest.raises(bs.ArgumentError, match=text):
        own([parameter], **option)
    with pytest.raises(bs.ArgumentError, match=text):
        own([{"params": [parameter], **option}])
    optimizer = own([parameter])
    with pytest.raises(bs.ArgumentError, match=text):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))], **option})
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize("option", ACCEPTED)
@pytest.mark.parametrize("kind", KINDS)
def test_forms_of_the_step_that_it_is_are_taken(kind: str, option: dict[str, Any]) -> None:
    optimizer = KINDS[kind][0]([{"params": [nn.Parameter(torch.ones(3))], **option}], **option)
    assert optimizer.param_groups[0]["fused"] is True


@pytest.mark.parametrize(
    "options",
    [{"lr": -1.0}, {"eps": -1.0}, {"betas": (1.0, 0.9)}, {"betas": (0.9, -0.1)}, {"weight_decay": -1.0}],
)
@pytest.mark.parametrize("kind", KINDS)
def test_bad_numbers_are_refused_in_torchs_words(kind: str, options: dict[str, Any]) -> None:
    said = []
    for one in KINDS[kind]:
        with pytest.raises(ValueError) as caught:
            one([nn.Parameter(torch.ones(3))], **options)
        said.append(str(caught.value))
    assert said[0] == said[1]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.int32, "float32"])
def test_other_dtypes_of_states_are_refused(dtype: Any) -> None:
    with pytest.raises(bs.ArgumentError, match=r"state_dtype: .*accepted: torch\.float32, or None"):
        optim.AdamW([nn.Parameter(torch.ones(3))], state_dtype=dtype)


@pytest.mark.parametrize(
    "changed", [{"lr": -1e-3}, {"lr": float("nan")}, {"betas": (0.9, 1.0)}, {"eps": -1.0}]
)
def test_numbers_that_go_bad_in_a_group_change_nothing(changed: dict[str, Any]) -> None:
    own = parameters(SHAPES)
    optimizer = optim.AdamW(own)
    give_gradients(own, 0)
    optimizer.step()
    before = [one.detach().clone() for one in own]
    optimizer.param_groups[0].update(changed)
    give_gradients(own, 1)
    with pytest.raises(bs.ArgumentError, match=next(iter(changed)).rstrip("s")):
        optimizer.step()
    assert all(same_bits(a, b) for a, b in zip(own, before, strict=True))
    assert {float(state["step"]) for state in optimizer.state.values()} == {1.0}


@pytest.mark.parametrize(
    "others",
    [
        lambda p: torch.optim.AdamW(p),
        lambda p: torch.optim.SGD(p, lr=0.1),
        lambda p: [optim.AdamW(p[:2]), torch.optim.SGD(p[2:], lr=0.1)],
        lambda p: None,
    ],
)
def test_a_pruner_that_must_hold_in_the_step_needs_an_optimizer_that_can(
    others: Callable[[Any], Any],
) -> None:
    model = mlp()
    given = others(list(model.parameters()))
    with pytest.raises(bs.ArgumentError, match=r"hold: 'step' with .*bittersweet\.optim\.AdamW or Adam"):
        bs.Pruner(model, given, schedule=ONCE, scorer="magnitude", hold="step")


def test_a_pruner_that_holds_in_the_step_says_so_and_cannot_be_given_another_optimizer() -> None:
    model = mlp()
    optimizer = optim.AdamW(model.parameters())
    pruner = bs.Pruner(model, optimizer, schedule=ONCE, scorer="magnitude", hold="step")
    assert "within the step of AdamW" in str(pruner.report())
    with pytest.raises(bs.ArgumentError, match="'step' with SGD"):
        pruner.replace_optimizer(torch.optim.SGD(model.parameters(), lr=0.1))
    pruner.replace_optimizer(optim.Adam(model.parameters()))


def test_a_pruner_whose_optimizer_is_replaced_holds_in_the_new_one_only() -> None:
    model = mlp()
    first, second = optim.AdamW(model.parameters()), optim.Adam(model.parameters())
    pruner = bs.Pruner(model, first, schedule=ONCE, scorer="magnitude")
    for optimizer in (first, second, torch.optim.SGD(model.parameters(), lr=0.1), first):
        if optimizer is not first or pruner.steps:
            pruner.replace_optimizer(optimizer)
        for step in range(2):
            backward(model, step)
            optimizer.step()
            if isinstance(optimizer, optim.MaskedStep) and pruner.steps:
                assert not dead_values(pruner, weights(model)).any()
            pruner.step()
            optimizer.zero_grad()
        assert [one.held.in_step for one in (first, second)] == [
            3 * (optimizer is one) for one in (first, second)
        ]
        assert not dead_values(pruner, weights(model)).any()


def test_hooks_run_once() -> None:
    own = parameters(SHAPES)
    optimizer = optim.AdamW(own)
    calls: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    for everywhere in (
        register_optimizer_step_pre_hook(lambda *_: calls.append("pre")),
        register_optimizer_step_post_hook(lambda *_: calls.append("post")),
    ):
        give_gradients(own, 0)
        optimizer.step()
        everywhere.remove()
    assert sorted(calls) == ["after", "after", "before", "before", "post", "post", "pre"]
    optimizer.register_load_state_dict_post_hook(lambda _: calls.append("loaded"))
    optimizer.load_state_dict(optimizer.state_dict())
    assert calls.count("loaded") == 1


def test_a_load_hook_that_changes_the_state_is_heeded() -> None:
    own = parameters(((64,),), torch.bfloat16)
    optimizer = optim.AdamW(own, state_dtype=torch.float32)
    give_gradients(own, 0)
    optimizer.step()

    def emptied(_: Any, state: dict[str, Any]) -> dict[str, Any]:
        zeroed = {
            number: {key: torch.zeros_like(value) for key, value in kept.items()}
            for number, kept in state["state"].items()
        }
        return {**state, "state": zeroed}

    optimizer.register_load_state_dict_pre_hook(emptied)
    optimizer.load_state_dict(optimizer.state_dict())
    assert not optimizer.state[own[0]]["exp_avg"].any()
    assert optimizer.state[own[0]]["exp_avg"].dtype == torch.float32


MODES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    **SETTINGS,
    "enable_grad": torch.enable_grad,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
}


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
@pytest.mark.parametrize("first", [0, 2])
@pytest.mark.parametrize("mode", MODES)
def test_modes_of_torch_change_nothing(mode: str, first: int) -> None:
    """From the first step, with the states made in it, or later."""
    pair, mask = Pair("AdamW", SHAPES, betas=(0.3, 0.95)), some_mask((9,), 0.5)
    for step in range(6):
        for of in (pair.own_parameters, pair.their_parameters):
            give_gradients(of, step)
        with MODES[mode]() if first <= step < 4 else torch.no_grad():
            pair.own.step()
        pair.theirs.step()
    for mine, other in zip(pair.own_parameters, pair.their_parameters, strict=True):
        assert same_bits(mine, other)
        assert mine.requires_grad
        states = pair.own.state[mine], pair.theirs.state[other]
        assert all(same_bits(value, states[1][key]) for key, value in states[0].items())
    pair.own.hold({pair.own_parameters[1]: mask})
    with MODES[mode]():
        pair.own.step()
    assert_held(pair.own, pair.own_parameters[1], mask)


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
@pytest.mark.parametrize("mode", MODES)
def test_the_probe_is_not_misled_by_modes(mode: str) -> None:
    expected = rules.rounding()
    rules.rounding.cache_clear()
    try:
        with MODES[mode]():
            assert rules.rounding() == expected
    finally:
        rules.rounding.cache_clear()


@pytest.mark.usefixtures("fresh_warnings")
@pytest.mark.parametrize("fooled", ["another rounding", "no such step", "nothing at all"])
def test_a_torch_that_rounds_otherwise_is_said_once(fooled: str, monkeypatch: pytest.MonkeyPatch) -> None:
    true = torch._fused_adamw_

    def other(w: Any, *arguments: Any, **options: Any) -> None:
        true(w, *arguments, **options)
        w[0].view(-1)[3].mul_(1.0 + 2.0**-7)

    def none(*_: Any, **__: Any) -> None:
        raise NotImplementedError("fused on the CPU")

    if fooled == "nothing at all":
        monkeypatch.delattr(torch, "_fused_adamw_")
    else:
        monkeypatch.setattr(torch, "_fused_adamw_", other if fooled == "another rounding" else none)
    rules.rounding.cache_clear()
    try:
        assert optim.equals_torch() is False
        own, mask = parameters(SHAPES), some_mask((64, 40), 0.5)
        optimizer = optim.AdamW(own)
        optimizer.hold({own[0]: mask})
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            for step in range(3):
                give_gradients(own, step)
                optimizer.step()
        assert len(found) == 1 and "equals_torch() is False" in str(found[0].message)
        assert found[0].filename == __file__
        assert_held(optimizer, own[0], mask)
    finally:
        monkeypatch.undo()
        rules.rounding.cache_clear()
    assert optim.equals_torch() is True


def test_a_wrong_rule_is_told_from_the_right_one() -> None:
    right = rules.rounding()
    given = [rules._own(dtype, True, right) for dtype in (torch.float32, torch.bfloat16)]
    for rule in rules._RULES:
        if rule != right:
            assert [rules._own(dtype, True, rule) for dtype in (torch.float32, torch.bfloat16)] != given, rule


@pytest.mark.parametrize("what", ["model", "step"])
def test_compiled(what: str) -> None:
    """By a backend that needs no compiler."""
    pairs = []
    for own in (True, False):
        torch._dynamo.reset()
        model = mlp()
        optimizer: Any = (optim if own else torch.optim).AdamW(model.parameters(), fused=True)
        pruner = bs.Pruner(model, optimizer, schedule=bs.OneShot(0.5, 2), hold="auto" if own else "weights")
        compiled = torch.compile(model, backend="eager") if what == "model" else model
        step = torch.compile(optimizer.step, backend="eager") if what == "step" and own else optimizer.step
        for turn in range(5):
            backward(compiled, turn)
            step()
            pruner.step()
            optimizer.zero_grad()
        pairs.append((list(model.parameters()), optimizer))
    assert_equal(*pairs[0], *pairs[1])
    torch._dynamo.reset()


def test_schedulers_of_torch_take_it() -> None:
    pair = Pair("AdamW", SHAPES, lr=0.1)
    made: list[Callable[[Any], Any]] = [
        lambda one: torch.optim.lr_scheduler.OneCycleLR(one, 0.1, total_steps=20),
        lambda one: torch.optim.lr_scheduler.LambdaLR(one, lambda step: 0.5**step),
    ]
    for make in made:
        schedulers = [make(one) for one in (pair.own, pair.theirs)]
        for step in range(10):
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # "lr_scheduler.step() before optimizer.step()" is one
                pair.step(step)
                for scheduler in schedulers:
                    scheduler.step()
    pair.assert_equal()


class Noisy(optim.AdamW):
    """Writes the weights after the pass."""

    def step(self, closure: Any = None) -> Any:
        result = super().step(closure)
        with torch.no_grad():
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter.add_(0.1)
        return result


class Named(optim.AdamW):
    """Adds nothing to the step."""


def test_a_subclass_with_a_step_of_its_own_is_held_on_its_weights() -> None:
    optim.AdamW([nn.Parameter(torch.ones(1))])  # torch wraps the step of a class with its first instance
    for kind, in_step in ((Noisy, 0), (Named, 3), (optim.AdamW, 3)):
        model = mlp()
        optimizer = kind(model.parameters(), lr=1e-2)
        pruner = bs.Pruner(model, optimizer, schedule=bs.OneShot(0.5, 2), scorer="magnitude")
        for step in range(5):
            backward(model, step)
            optimizer.step()
            pruner.step()
            optimizer.zero_grad()
            assert step < 2 or not dead_values(pruner, weights(model)).any()
        assert optimizer.held.in_step == in_step
    with pytest.raises(bs.ArgumentError, match="'step' with Noisy"):
        bs.Pruner(mlp(), Noisy(mlp().parameters()), schedule=ONCE, scorer="magnitude", hold="step")
