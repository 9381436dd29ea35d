"""What is remembered between two holds is never stale: a change gives what looking everything up gives."""

from __future__ import annotations

import copy
import gc
import weakref
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import bittersweet as bs
import pytest
import torch
from bittersweet.steps.competing import Competition
from bittersweet.steps.keeping import Keeper
from bittersweet.tensors.holding import Holder
from bittersweet.tensors.owned import is_plain
from pruner_support import ONCE, backward, mlp, train
from torch import nn
from torch.nn.utils import parametrize

Change = Callable[[nn.Sequential, torch.optim.Optimizer], Any]


class Sub(torch.Tensor):
    pass


class Halved(nn.Module):
    def forward(self, value: torch.Tensor) -> torch.Tensor:
        return value * 0.5


class Odd(nn.Linear):
    """Answers for its parameters by itself."""

    @property
    def _parameters(self) -> dict[str, Any]:  # type: ignore[override]
        return {"weight": nn.Parameter(torch.ones(33, 40)), "bias": None}


def odd() -> nn.Module:
    made = nn.Linear(40, 33)
    made.__class__ = Odd
    return made


def entry(model: nn.Sequential, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    found: dict[str, Any] = optimizer.state[model[2].weight]
    return found


def ones(model: nn.Sequential) -> torch.Tensor:
    return torch.ones_like(model[2].weight.data)


def assign(owner: Any, name: str, value: Any) -> None:
    setattr(owner, name, value)


def set_data(model: nn.Sequential, value: torch.Tensor) -> None:
    model[2].weight.data = value


def shrink(tensor: torch.Tensor, left: int) -> None:
    tensor.untyped_storage().resize_(left)


def put(dictionary: Any, key: Any, value: Any) -> None:
    dictionary[key] = value


def reload(model: nn.Sequential, optimizer: torch.optim.Optimizer) -> None:
    state = copy.deepcopy(optimizer.state_dict())
    for one in state["state"].values():
        one["exp_avg"].fill_(2.0)
    optimizer.load_state_dict(state)


def replaced(model: nn.Sequential, optimizer: torch.optim.Optimizer) -> None:
    """Another parameter, that the optimizer trains with the state of the former."""
    former, model[2].weight = model[2].weight, nn.Parameter(ones(model))
    optimizer.state[model[2].weight] = {k: v.clone() for k, v in optimizer.state.pop(former).items()}


CHANGES: dict[str, Change] = {
    "nothing": lambda m, o: None,
    "the parameter, by attribute": lambda m, o: assign(m[2], "weight", nn.Parameter(ones(m))),
    "the parameter and its state": replaced,
    "the parameter, in its dictionary": lambda m, o: put(m[2]._parameters, "weight", nn.Parameter(ones(m))),
    "the dictionary of parameters": lambda m, o: assign(
        m[2], "_parameters", {"weight": nn.Parameter(ones(m)), "bias": m[2].bias}
    ),
    "the dictionary of the module": lambda m, o: assign(
        m[2], "__dict__", {**vars(m[2]), "_parameters": {"weight": nn.Parameter(ones(m)), "bias": None}}
    ),
    "its data": lambda m, o: set_data(m, ones(m)),
    "its data, of another dtype": lambda m, o: set_data(m, ones(m).bfloat16()),
    "its data, of a dtype without an engine": lambda m, o: set_data(m, ones(m).double()),
    "its data, of another shape": lambda m, o: set_data(m, torch.ones(40, 33)),
    "its data, transposed in memory": lambda m, o: set_data(m, torch.ones(40, 33).t()),
    "its data, expanded": lambda m, o: set_data(m, torch.ones(1, 1).expand(33, 40)),
    "its data, negated": lambda m, o: set_data(m, torch._neg_view(ones(m))),
    "the parameter, without a value": lambda m, o: assign(m[2], "weight", nn.Parameter(ones(m).to("meta"))),
    "the model, without values": lambda m, o: m.to_empty(device="meta"),
    "its data, nothing": lambda m, o: set_data(m, torch.empty(0)),
    "its memory, freed": lambda m, o: shrink(m[2].weight, 0),
    "its memory, shrunk to a byte": lambda m, o: shrink(m[2].weight, 1),
    "its memory, a byte too small": lambda m, o: shrink(m[2].weight, 33 * 40 * 4 - 1),
    "the module": lambda m, o: put(m, 2, nn.Linear(40, 33)),
    "the module, by one of another shape": lambda m, o: put(m, 2, nn.Linear(33, 40)),
    "the module, by one without parameters": lambda m, o: put(m, 2, nn.Tanh()),
    "the module, by one that answers for itself": lambda m, o: put(m._modules, "2", odd()),
    "the module, removed": lambda m, o: m._modules.pop("2"),
    "the order of the modules": lambda m, o: put(m._modules, "0", m._modules.pop("0")),
    "all modules": lambda m, o: assign(m, "_modules", copy.deepcopy(m._modules)),
    "the parameter, removed": lambda m, o: delattr(m[2], "weight"),
    "the parameter, parametrized": lambda m, o: parametrize.register_parametrization(
        m[2], "weight", Halved()
    ),
    "the model in bfloat16": lambda m, o: m.bfloat16(),
    "the model in float64": lambda m, o: m.double(),
    "the model, swapped for its values": lambda m, o: m.load_state_dict(
        {k: torch.ones_like(v) for k, v in m.state_dict().items()}, assign=True
    ),
    "the optimizer, loaded": reload,
    "all state": lambda m, o: assign(o, "state", defaultdict(dict)),
    "all state, cleared": lambda m, o: o.state.clear(),
    "all state, copied": lambda m, o: assign(o, "state", defaultdict(dict, o.state)),
    "the entry, deleted": lambda m, o: o.state.pop(m[2].weight),
    "the entry, emptied": lambda m, o: entry(m, o).clear(),
    "the entry, copied": lambda m, o: put(o.state, m[2].weight, copy.deepcopy(entry(m, o))),
    "a moment, deleted": lambda m, o: entry(m, o).pop("exp_avg"),
    "a moment, None": lambda m, o: put(entry(m, o), "exp_avg", None),
    "a moment, replaced": lambda m, o: put(entry(m, o), "exp_avg", ones(m)),
    "a moment more": lambda m, o: put(entry(m, o), "max_exp_avg_sq", ones(m)),
    "a moment more in the place of the count": lambda m, o: (
        entry(m, o).pop("step"),
        put(entry(m, o), "max_exp_avg_sq", ones(m)),
    ),
    "a moment, of another dtype": lambda m, o: put(entry(m, o), "exp_avg", ones(m).bfloat16()),
    "a moment, of a dtype without an engine": lambda m, o: put(entry(m, o), "exp_avg", ones(m).double()),
    "a moment, of another shape": lambda m, o: put(entry(m, o), "exp_avg", torch.ones(33, 1)),
    "a moment, its data of another shape": lambda m, o: assign(
        entry(m, o)["exp_avg"], "data", torch.ones(33, 1)
    ),
    "a moment, sparse": lambda m, o: put(entry(m, o), "exp_avg", ones(m).to_sparse()),
    "a moment, of a subclass": lambda m, o: put(entry(m, o), "exp_avg", ones(m).as_subclass(Sub)),
    "a moment, without a value": lambda m, o: put(entry(m, o), "exp_avg", ones(m).to("meta")),
    "a moment, shrunk to a byte": lambda m, o: shrink(entry(m, o)["exp_avg"], 1),
    "a moment, no tensor": lambda m, o: put(entry(m, o), "exp_avg", [1.0]),
    "the count, a number": lambda m, o: put(entry(m, o), "step", 7),
    "a moment that is the weight": lambda m, o: put(entry(m, o), "exp_avg", m[2].weight.data),
}


def held_again(keeper: Keeper) -> bool:
    return keeper._write_again(keeper._holder, keeper.ordered, tuple(keeper.masks))


def outcome(call: Callable[[], Any], model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Any]:
    """What a call does to all tensors there are, or its error."""
    found: list[Any] = []
    try:
        found.append(str(call()))
    except Exception as error:
        found.append((type(error), str(error)))
    tensors = [*model.parameters(), *(one.grad for one in model.parameters())]
    tensors += [value for kept in optimizer.state.values() for value in kept.values()]
    for tensor in tensors:
        if not isinstance(tensor, torch.Tensor) or not is_plain(tensor):
            found.append(type(tensor))
        else:
            bits = tensor.detach().to(torch.float64).reshape(-1).nan_to_num(nan=-1e9)
            version = None if tensor.is_inference() else tensor._version
            found.append((tensor.dtype, tuple(tensor.shape), version, bits.tolist()))
    return found


def trained(hold: str) -> tuple[nn.Sequential, torch.optim.Optimizer, bs.Pruner]:
    model = mlp()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    pruner = bs.Pruner(model, optimizer, schedule=ONCE, scorer="magnitude", hold=hold)
    train(model, optimizer, pruner, 4)
    backward(model, 5)
    with torch.no_grad():  # so that a hold shows
        for parameter in model.parameters():
            parameter.add_(1.0)
            for value in optimizer.state[parameter].values():
                value.add_(1.0)
    return model, optimizer, pruner


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("change", CHANGES)
def test_a_hold_sees_every_change(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for remembers in (True, False):
        model, optimizer, pruner = trained("weights")
        keeper = pruner._loop.keeper
        assert held_again(keeper)
        for parameter in model.parameters():
            parameter.data.add_(1.0)
        CHANGES[change](model, optimizer)
        if not remembers:
            monkeypatch.setattr(Keeper, "_write_again", lambda *_: False)
            monkeypatch.setattr(Holder, "_again", lambda *_: None)
        found.append([outcome(keeper.hold, model, optimizer) for _ in range(3)])
    assert found[0] == found[1]
    before = outcome(lambda: None, *trained("weights")[:2])
    assert change != "nothing" or found[0][0] != before


GRADIENTS: dict[str, Callable[[torch.Tensor], Any]] = {
    "nothing": lambda w: None,
    "none": lambda w: assign(w, "grad", None),
    "another": lambda w: assign(w, "grad", torch.ones_like(w)),
    "none and another": lambda w: (assign(w, "grad", None), assign(w, "grad", torch.ones_like(w))),
    "its data": lambda w: assign(w.grad, "data", torch.ones_like(w)),
    "its data, of another dtype": lambda w: assign(w.grad, "data", torch.ones(33, 40).bfloat16()),
    "its data, of a dtype without an engine": lambda w: assign(w.grad, "data", torch.ones(33, 40).double()),
    "its data, of another shape": lambda w: assign(w.grad, "data", torch.ones(40, 33)),
    "its data, transposed in memory": lambda w: assign(w.grad, "data", torch.ones(40, 33).t()),
    "its data, negated": lambda w: assign(w.grad, "data", torch._neg_view(torch.ones(33, 40))),
    "its data, expanded": lambda w: assign(w.grad, "data", torch.ones(1, 1).expand(33, 40)),
    "sparse": lambda w: assign(w, "grad", torch.ones_like(w).to_sparse()),
    "of a subclass": lambda w: assign(w, "grad", torch.ones_like(w).as_subclass(Sub)),
    "shrunk to a byte": lambda w: shrink(w.grad, 1),  # type: ignore[arg-type]
    "freed": lambda w: shrink(w.grad, 0),  # type: ignore[arg-type]
    "the weight itself": lambda w: assign(w, "grad", w.data),
    "one of inference mode": lambda w: inference(w),
}


def inference(weight: torch.Tensor) -> None:
    with torch.inference_mode():
        made = torch.ones(33, 40)
    weight.grad = made


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("change", GRADIENTS)
def test_masking_gradients_sees_every_change(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for remembers in (True, False):
        model, optimizer, pruner = trained("grads")
        keeper = pruner._loop.keeper
        keeper.mask_grads()
        assert keeper._weights_again()
        backward(model, 6)
        GRADIENTS[change](model[2].weight)
        if not remembers:
            monkeypatch.setattr(Keeper, "_weights_again", lambda self: [])
            monkeypatch.setattr(Holder, "_again", lambda *_: None)
        found.append([outcome(keeper.mask_grads, model, optimizer) for _ in range(3)])
    assert found[0] == found[1]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("what", ["mask_grads", "violations"])
@pytest.mark.parametrize("change", CHANGES)
def test_gradients_and_counts_are_those_of_the_weights_there_are(
    change: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[Any] = []
    for remembers in (True, False):
        model, optimizer, pruner = trained("grads")
        keeper = pruner._loop.keeper
        getattr(keeper, what)()
        assert keeper._weights_again()
        torch.manual_seed(3)
        CHANGES[change](model, optimizer)
        if not remembers:
            monkeypatch.setattr(Keeper, "_weights_again", lambda self: [])
            monkeypatch.setattr(Holder, "_again", lambda *_: None)
        call = getattr(keeper, what)
        found.append([outcome(call, model, optimizer) for _ in range(3)])
    assert found[0] == found[1]


def drop(model: nn.Sequential, optimizer: torch.optim.Optimizer) -> None:
    group = optimizer.param_groups[0]
    group["params"] = [one for one in group["params"] if one is not model[2].weight]


EVENT_CHANGES: dict[str, Change] = {
    **CHANGES,
    "frozen": lambda m, o: m[2].weight.requires_grad_(False),
    "left out of the optimizer": drop,
    "no gradient": lambda m, o: assign(m[2].weight, "grad", None),
    "another gradient": lambda m, o: assign(m[2].weight, "grad", ones(m)),
    "a sparse gradient": lambda m, o: assign(m[2].weight, "grad", ones(m).to_sparse()),
    "NaN": lambda m, o: m[2].weight.data.view(-1)[:7].fill_(float("nan")),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("scorer", ["magnitude", "bitter7", "taylor"])
@pytest.mark.parametrize("change", EVENT_CHANGES)
def test_an_event_sees_every_change(change: str, scorer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Any] = []
    for remembers in (True, False):
        model = mlp()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        schedule = bs.Linear(0.1, 0.8, 1, 20, 1)
        pruner = bs.Pruner(model, optimizer, schedule=schedule, scorer=scorer, missing="skip")
        train(model, optimizer, pruner, 4)
        backward(model, 5)
        optimizer.step()
        assert pruner._loop._competition._again() is not None
        torch.manual_seed(3)
        EVENT_CHANGES[change](model, optimizer)
        if not remembers:
            monkeypatch.setattr(Competition, "_again", lambda self: None)
            monkeypatch.setattr(Keeper, "_write_again", lambda *_: False)
            monkeypatch.setattr(Holder, "_again", lambda *_: None)
        for _ in range(3):
            found.append(outcome(lambda p=pruner: p.step() and None, model, optimizer))
            found.append([str(event).split(" passes")[0] for event in pruner.history])
            found.append({name: mask.tolist() for name, mask in pruner.masks.items()})
    assert found[:9] == found[9:]


def test_a_change_that_stays_is_remembered_anew() -> None:
    model, optimizer, pruner = trained("weights")
    keeper = pruner._loop.keeper
    for change in (reload, replaced, CHANGES["its data, of another dtype"], CHANGES["a moment more"]):
        change(model, optimizer)
        assert not held_again(keeper)
        keeper.hold()
        assert held_again(keeper)


def test_new_masks_and_optimizers_are_those_that_are_held() -> None:
    model, _, pruner = trained("weights")
    keeper = pruner._loop.keeper
    assert held_again(keeper)
    pruner.load_masks({name: torch.zeros_like(mask) for name, mask in pruner.masks.items()})
    assert not any(model[i].weight.any() for i in (0, 2, 4))
    other = torch.optim.AdamW(model.parameters())
    for parameter in model.parameters():
        parameter.data.add_(1.0)
        ones = torch.ones_like(parameter.data)
        other.state[parameter] = {"step": torch.tensor(1.0), "exp_avg": ones, "exp_avg_sq": ones.clone()}
    pruner.replace_optimizer(other)
    for _ in range(2):
        for i in (0, 2, 4):
            for tensor in (model[i].weight.data, *other.state[model[i].weight].values()):
                assert tensor.ndim == 0 or not tensor.any()
                tensor.add_(1.0)
        assert held_again(keeper)


def test_nothing_is_kept_alive_behind_the_end() -> None:
    model, optimizer, pruner = trained("weights")
    pruner.finalize()
    kept = weakref.ref(optimizer.state[model[2].weight]["exp_avg"])
    optimizer.state.clear()
    gc.collect()
    assert kept() is None


def test_copies_have_tensors_of_their_own() -> None:
    model, optimizer, pruner = trained("weights")
    twin_model, twin_optimizer, twin = copy.deepcopy((model, optimizer, pruner))
    assert not held_again(twin._loop.keeper)
    before = [parameter.clone() for parameter in model.parameters()]
    twin._loop.keeper.hold()
    assert held_again(twin._loop.keeper)
    for parameter, kept in zip(model.parameters(), before, strict=True):
        assert torch.equal(parameter, kept)
    assert not torch.equal(model[2].weight, twin_model[2].weight)
    assert twin_optimizer is not optimizer
