"""Real optimizers in every flavour, and the adapter that finds their state."""

from __future__ import annotations

from typing import Any

import bittersweet as bs
import pytest
import torch
from bittersweet.optimizers.known import adapter_of
from bittersweet.optimizers.optimizers import Optimizers
from bittersweet.optimizers.parameter_state import ParameterState
from pruner_support import LINEAR, backward, dead_values, facts, mlp, named_state, train, weights

FLAVOURS: dict[str, dict[str, Any]] = {
    "plain": {"foreach": False},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
    "amsgrad": {"amsgrad": True},
    "amsgrad foreach": {"amsgrad": True, "foreach": True},
    "amsgrad fused": {"amsgrad": True, "fused": True},
    "maximize": {"maximize": True},
    "weight decay": {"weight_decay": 0.5},
    "tensor lr": {"lr": torch.tensor(1e-2), "foreach": False},
}


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("hold", ["weights", "grads"])
def test_adam_in_every_flavour(kind: type[torch.optim.Optimizer], flavour: str, hold: str) -> None:
    model = mlp()
    optimizer = kind(model.parameters(), **{"lr": 1e-2, **FLAVOURS[flavour]})
    pruner = bs.Pruner(model, optimizer, schedule=LINEAR, hold=hold)
    keys = ["exp_avg", "exp_avg_sq"] + ["max_exp_avg_sq"] * ("amsgrad" in flavour)

    def check(step: int) -> None:
        if step >= 2:
            assert not dead_values(pruner, weights(model)).any()
            for key in keys:
                assert not dead_values(pruner, named_state(model, optimizer, key)).any(), key

    events = train(model, optimizer, pruner, 13, after=check)
    assert [event.step for event in events] == [2, 6, 10]
    assert events[-1].achieved_sparsity == pytest.approx(0.7, abs=1e-3)
    report = pruner.finalize()
    assert report.sparsity.zero == report.sparsity.masked


def test_capturable_where_torch_allows_it() -> None:
    model = mlp()
    optimizer = torch.optim.AdamW(model.parameters(), capturable=True)
    backward(model, 1)
    try:
        optimizer.step()
    except (AssertionError, RuntimeError) as refusal:
        pytest.skip(f"this torch has no capturable Adam on the CPU: {refusal}")
    pruner = bs.Pruner(model, optimizer, schedule=LINEAR, scorer="bitter8_bias_corrected")
    assert len(train(model, optimizer, pruner, 12)) == 3
    assert not dead_values(pruner, weights(model)).any()


def test_a_capturable_state_is_read_as_it_is() -> None:
    # torch steps capturable optimizers on accelerators only; the state that such a step leaves is built here.
    model = mlp()
    optimizer = torch.optim.AdamW(model.parameters(), capturable=True)
    for parameter in model.parameters():
        optimizer.state[parameter] = {
            "step": torch.tensor(3.0),
            "exp_avg": torch.randn_like(parameter),
            "exp_avg_sq": torch.rand_like(parameter),
        }
    pruner = bs.Pruner(model, optimizer, schedule=bs.OneShot(0.5, 1), scorer="bitter8_bias_corrected")
    assert pruner.step() is not None
    assert not dead_values(pruner, named_state(model, optimizer, "exp_avg_sq")).any()


@pytest.mark.parametrize("options", [{"foreach": True}, {"fused": True}, {"foreach": False}])
def test_the_flavour_does_not_change_what_equal_state_gives(options: dict[str, Any]) -> None:
    torch.manual_seed(5)
    reference = mlp()
    optimizer = torch.optim.AdamW(reference.parameters(), foreach=False)
    train(reference, optimizer, None, 3)
    expected = bs.Pruner(
        reference, optimizer, schedule=bs.OneShot(0.6, 1), scorer="bitter8_bias_corrected"
    ).step()
    model = mlp()
    other = torch.optim.AdamW(model.parameters(), **options)
    train(model, other, None, 1)
    fresh = mlp()
    plain = torch.optim.AdamW(fresh.parameters(), foreach=False)
    train(fresh, plain, None, 3)
    model.load_state_dict(fresh.state_dict())
    state = plain.state_dict()
    state["param_groups"] = other.state_dict()["param_groups"]
    other.load_state_dict(state)
    event = bs.Pruner(model, other, schedule=bs.OneShot(0.6, 1), scorer="bitter8_bias_corrected").step()
    assert event is not None
    assert expected is not None
    assert facts(event) == facts(expected)


@pytest.mark.parametrize("kind", [torch.optim.NAdam, torch.optim.RAdam])
def test_relatives_of_adam_keep_the_same_moments(kind: type[torch.optim.Optimizer]) -> None:
    model = mlp()
    optimizer = kind(model.parameters(), lr=1e-2)
    pruner = bs.Pruner(model, optimizer, schedule=LINEAR)
    assert len(train(model, optimizer, pruner, 12)) == 3
    assert not dead_values(pruner, named_state(model, optimizer, "exp_avg")).any()


def test_reading_state_creates_no_entry() -> None:
    model = mlp()
    optimizer = torch.optim.AdamW(model.parameters())
    optimizers = Optimizers.of(optimizer)
    state = optimizers.read(model[0].weight)
    assert state == ParameterState()
    assert optimizers.element_state(model[0].weight) == {}
    assert optimizers.companions(model[0].weight) == {}
    assert Optimizers.of(None).read(model[0].weight) == state
    assert not optimizer.state
    pruner = bs.Pruner(model, optimizer, schedule=LINEAR)
    pruner.step()
    pruner.mask_grads_()
    assert pruner.plan()
    assert pruner.sparsity()
    assert pruner.state_dict()
    assert not optimizer.state


@pytest.mark.parametrize("options", [{}, {"fused": True}, {"amsgrad": True}])
def test_the_adapter_finds_tensors_step_and_betas(options: dict[str, Any]) -> None:
    model = mlp()
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.8, 0.95), **options)
    train(model, optimizer, None, 3)
    weight = model[0].weight
    optimizers = Optimizers.of(optimizer)
    found = optimizers.read(weight, optimizers.groups()[id(weight)], with_step=True)
    entry = optimizer.state[weight]
    assert found.exp_avg is entry["exp_avg"]
    assert found.exp_avg_sq is entry["exp_avg_sq"]
    assert found.max_exp_avg_sq is entry.get("max_exp_avg_sq")
    assert (found.step, found.betas) == (3, (0.8, 0.95))
    assert type(found.step) is int
    assert set(found.keys) == set(entry)
    assert optimizers.element_state(weight) == {}


def test_further_state_per_element_is_found() -> None:
    for optimizer_kind, options, keys in (
        (torch.optim.SGD, {"momentum": 0.9}, {"momentum_buffer"}),
        (
            torch.optim.RMSprop,
            {"momentum": 0.9, "centered": True},
            {"momentum_buffer", "grad_avg"},
        ),
        (torch.optim.Adagrad, {}, {"sum"}),
        (torch.optim.Adamax, {}, {"exp_inf"}),
        (torch.optim.Adadelta, {}, {"acc_delta"}),
        (torch.optim.Rprop, {}, {"prev", "step_size"}),
    ):
        model = mlp()
        optimizer = optimizer_kind(model.parameters(), lr=1e-2, **options)
        train(model, optimizer, None, 1)
        assert set(Optimizers.of(optimizer).element_state(model[0].weight)) == keys


def test_the_family_of_an_optimizer_is_the_rule_it_runs() -> None:
    class Renamed(torch.optim.AdamW):
        pass

    class Changed(torch.optim.AdamW):
        def step(self, closure: Any = None) -> None:
            super().step(closure)

    class Adam(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:
            return None

    parameters = [torch.nn.Parameter(torch.ones(3))]
    known = adapter_of(torch.optim.AdamW(parameters))
    assert adapter_of(Renamed(parameters)) is known
    assert known.elementwise
    for other in (Changed(parameters), Adam(parameters, lr=0.1)):
        assert Optimizers.of(other).unknown() == (type(other).__name__,)
    assert set(adapter_of(torch.optim.Adamax(parameters)).moments) == {"exp_avg"}
    assert not adapter_of(torch.optim.LBFGS(parameters)).elementwise


def test_wrappers_of_an_optimizer_are_seen_through() -> None:
    class Wrapper(torch.optim.Optimizer):
        def __init__(self, optimizer: torch.optim.Optimizer) -> None:
            self.optimizer = optimizer

        def step(self, closure: Any = None) -> None:
            self.optimizer.step()

        def zero_grad(self, set_to_none: bool = True) -> None:
            self.optimizer.zero_grad(set_to_none)

    model = mlp()
    inner = torch.optim.AdamW(model.parameters(), lr=1e-2)
    wrapped = Wrapper(inner)
    found = Optimizers.of(wrapped)
    assert (found.inner, found.outer) == ((inner,), (inner,))
    pruner = bs.Pruner(model, wrapped, schedule=LINEAR).attach()
    train(model, wrapped, None, 12)
    assert [event.step for event in pruner.history] == [2, 6, 10]


def test_a_group_added_later_does_not_disturb() -> None:
    model = mlp()
    optimizer = torch.optim.AdamW([*model[0].parameters(), *model[2].parameters()], lr=1e-2)
    pruner = bs.Pruner(model, optimizer, schedule=LINEAR)
    train(model, optimizer, pruner, 4)
    optimizer.add_param_group({"params": list(model[4].parameters())})
    train(model, optimizer, pruner, 8, first=5)
    assert set(pruner.masks) == {"0.weight", "2.weight"}
    assert pruner.sparsity().masked == pytest.approx(0.7, abs=1e-3)
    assert bool(model[4].weight.all())
