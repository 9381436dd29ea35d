"""`Pruner.rewind_to`: iterative magnitude pruning against a loop written by hand, and what is refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import bittersweet as bs
import pytest
import torch
from bittersweet import optim
from torch import nn

ROUNDS, STEPS = 3, 12


class Net(nn.Module):
    def __init__(self, tied: bool = False) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(6, 16), nn.BatchNorm1d(16)
        self.second, self.third = nn.Linear(16, 16), nn.Linear(16, 3)
        if tied:
            self.second.weight = nn.Parameter(self.second.weight.detach().clone())
            self.again = nn.Linear(16, 16)
            self.again.weight = self.second.weight
        self.register_buffer("scratch", torch.zeros(2), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.first(x)))
        x = torch.relu(self.second(x))
        if hasattr(self, "again"):
            x = torch.relu(self.again(x))
        return self.third(x)


def made(tied: bool = False, seed: int = 0) -> Net:
    torch.manual_seed(seed)
    return Net(tied)


def batch(step: int) -> torch.Tensor:
    return torch.randn(10, 6, generator=torch.Generator().manual_seed(step))


def train(model: nn.Module, optimizer: Any, step: int, after: Callable[[], Any]) -> None:
    model.train()
    loss = (model(batch(step)) - 1.0).square().mean()
    loss.backward()
    optimizer.step()
    after()
    optimizer.zero_grad()


def copied(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


OPTIMIZERS: dict[str, Callable[[Any], Any]] = {
    "torch Adam": lambda p: torch.optim.Adam(p, lr=1e-2),
    "torch SGD": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9),
    "optim AdamW": lambda p: optim.AdamW(p, lr=1e-2),
}


def by_hand(make: Callable[[Any], Any], state_too: bool) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """Prunes the 30 % of the smallest weights that are left, globally, after each round."""
    model = made()
    optimizer = make(model.parameters())
    weights = {name: p for name, p in model.named_parameters() if p.ndim == 2}
    keep = {name: torch.ones_like(p, dtype=torch.bool) for name, p in weights.items()}

    def hold() -> None:
        with torch.no_grad():
            for name, p in weights.items():
                p[~keep[name]] = 0.0
                for value in optimizer.state.get(p, {}).values():
                    if state_too and torch.is_tensor(value) and value.shape == p.shape:
                        value[~keep[name]] = 0.0

    train(model, optimizer, 0, hold)
    early = copied(model)
    for round_ in range(ROUNDS):
        for step in range(STEPS):
            train(model, optimizer, 1 + step, hold)
        total = sum(p.numel() for p in weights.values())
        k = int((1 - 0.7 ** (round_ + 1)) * total + 0.5)
        flat = torch.cat([p.abs().masked_fill(~keep[n], -1.0).flatten() for n, p in weights.items()])
        chosen = torch.zeros(total, dtype=torch.bool)
        chosen[torch.argsort(flat, stable=True)[:k]] = True
        for (name, p), part in zip(
            weights.items(), chosen.split([p.numel() for p in weights.values()]), strict=True
        ):
            keep[name] = ~part.view_as(p)
        model.load_state_dict(early)
        optimizer = make(model.parameters())
        hold()
    return model, keep


@pytest.mark.parametrize("attached", [False, True])
@pytest.mark.parametrize("hold", ["auto", "grads"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_three_rounds_are_those_of_a_loop_by_hand(name: str, hold: str, attached: bool) -> None:
    model = made()
    optimizer = OPTIMIZERS[name](model.parameters())

    def schedule(step: int) -> tuple[bool, float]:
        done = (step - 1) // STEPS
        return step > 1 and (step - 1) % STEPS == 0, 1 - 0.7**done

    pruner = bs.Pruner(model, optimizer, scorer="magnitude", schedule=schedule, hold=hold)
    if attached:
        pruner.attach()
    after = (lambda: None) if attached else pruner.step
    train(model, optimizer, 0, after)
    early = copied(model)
    for round_ in range(ROUNDS):
        for step in range(STEPS):
            train(model, optimizer, 1 + step, after)
        assert len(pruner.history) == round_ + 1
        pruner.rewind_to(early)
        assert not optimizer.state
        for key, keep in pruner.masks.items():
            weight = dict(model.named_parameters())[key].detach()
            assert torch.equal(weight, torch.where(keep, early[key], 0.0))
    expected, masks = by_hand(OPTIMIZERS[name], state_too=True)
    for key, keep in masks.items():
        assert torch.equal(pruner.masks[key], keep), key
    for key, value in expected.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key
    assert pruner.steps == 1 + ROUNDS * STEPS
    assert pruner.finalize().sparsity.masked == pytest.approx(1 - 0.7**3, abs=2e-3)


def _pruned(model: nn.Module, optimizer: Any = None, **options: Any) -> bs.Pruner:
    options = {"schedule": bs.OneShot(0.5, step=2), "scorer": "magnitude", **options}
    pruner = bs.Pruner(model, optimizer, **options)
    for step in range(3):
        if optimizer is None:
            pruner.step()
        else:
            train(model, optimizer, step, pruner.step)
    return pruner


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod."])
def test_everything_is_rewound_but_what_no_state_has(prefix: str) -> None:
    model = made()
    optimizer = torch.optim.Adam(model.parameters())
    early = copied(model)
    pruner = _pruned(model, optimizer)
    model.scratch += 3.0
    pruner.rewind_to({prefix + name: value for name, value in early.items()})
    for name, value in model.state_dict().items():
        keep = pruner.masks[name] if name in pruner.masks else torch.ones_like(value, dtype=torch.bool)
        assert torch.equal(value, torch.where(keep, early[name], torch.zeros_like(value))), name
        assert not (torch.signbit(value) & ~keep).any() if value.is_floating_point() else True
    assert model.norm.num_batches_tracked == 0 and (model.scratch == 3.0).all()


def test_an_optimizers_state_is_kept_or_restored_under_the_masks() -> None:
    model = made()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    train(model, optimizer, 0, lambda: None)
    early, state = copied(model), copy.deepcopy(optimizer.state_dict())
    pruner = _pruned(model, optimizer)
    keep = pruner.masks["second.weight"]
    now = optimizer.state[model.second.weight]["exp_avg"].clone()
    pruner.rewind_to(early, optimizer="keep")
    assert torch.equal(optimizer.state[model.second.weight]["exp_avg"], now)
    optimizer.param_groups[0]["lr"] = 5.0
    pruner.rewind_to(early, optimizer=state)
    assert optimizer.param_groups[0]["lr"] == 1e-2
    number = [id(p) for p in model.parameters()].index(id(model.second.weight))
    old, new = state["state"][number], optimizer.state[model.second.weight]
    assert torch.equal(new["exp_avg"], torch.where(keep, old["exp_avg"], 0.0))
    assert new["step"] == 1


def test_several_optimizers_take_a_list_of_states_all_or_none() -> None:
    model = made()
    one = torch.optim.Adam(model.first.parameters(), lr=1e-2)
    other = torch.optim.SGD(model.second.parameters(), lr=1e-2, momentum=0.9)
    early, states = copied(model), [copy.deepcopy(x.state_dict()) for x in (one, other)]
    pruner = bs.Pruner(model, [one, other], scorer="magnitude", schedule=bs.OneShot(0.5, step=1))
    (model(batch(1))).square().mean().backward()
    one.step()
    other.step()
    pruner.step()
    before = copied(model), copy.deepcopy(one.state_dict())
    with pytest.raises(bs.ArgumentError, match="cannot be loaded"):
        pruner.rewind_to(early, optimizer=[states[0], {"state": {}, "param_groups": []}])
    with pytest.raises(bs.ArgumentError, match="1 states for 2"):
        pruner.rewind_to(early, optimizer=states[:1])
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before[0].items())
    assert len(one.state) == len(before[1]["state"]) > 0
    pruner.rewind_to(early, optimizer=states)
    assert not one.state and not other.state


@pytest.mark.parametrize("kind", [torch.optim.Adam, bs.optim.AdamW])
def test_a_state_of_other_shapes_is_refused_before_anything_is_written(kind: Any) -> None:
    model = made()
    optimizer = kind(model.parameters(), lr=1e-2)
    early = copied(model)
    pruner = _pruned(model, optimizer)
    before, state = copied(model), copy.deepcopy(optimizer.state_dict())
    other = copy.deepcopy(state)
    other["state"][0]["exp_avg"] = torch.zeros(3, 3)
    with pytest.raises(bs.ArgumentError, match=r"exp_avg of parameter 0 has shape \(3, 3\)"):
        pruner.rewind_to(early, optimizer=other)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    torch.testing.assert_close(optimizer.state_dict(), state, rtol=0, atol=0)


def test_tied_weights_need_one_of_their_names() -> None:
    model = made(tied=True)
    early = copied(model)
    pruner = _pruned(model)
    short = {name: value for name, value in early.items() if name != "again.weight"}
    with torch.no_grad():
        model.first.bias += 1.0
    pruner.rewind_to(short)
    assert torch.equal(model.first.bias.detach(), early["first.bias"])
    assert torch.equal(
        model.again.weight.detach(),
        torch.where(pruner.masks["second.weight"], early["second.weight"], 0.0),
    )
    with pytest.raises(bs.ArgumentError, match=r"'second.weight' and 'again.weight' differ"):
        pruner.rewind_to({**early, "again.weight": early["again.weight"] + 1.0})


def _without(name: str) -> Callable[[Any], Any]:
    return lambda early: {key: value for key, value in early.items() if key != name}


def _with(name: str, value: Any) -> Callable[[Any], Any]:
    return lambda early: {**early, name: value}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (_without("first.bias"), bs.ArgumentError, r"lacks 'first\.bias'.*Near names"),
        (
            lambda state: {"model": state, "optimizer": {}},
            bs.ArgumentError,
            "It begins with 'model', 'optimizer'",
        ),
        (lambda state: {}, bs.ArgumentError, "It is empty"),
        (_without("norm.running_mean"), bs.ArgumentError, r"lacks 'norm\.running_mean'"),
        (_with("fourth.weight", torch.ones(2)), bs.ArgumentError, r"no 'fourth\.weight' \(1 such"),
        (_with("module.first.bias", torch.ones(16)), bs.ArgumentError, r"no 'module\.first\.bias'"),
        (_with("first.bias", torch.ones(15)), bs.ShapeError, r"'first\.bias' has shape \(15,\)"),
        (_with("first.bias", torch.ones(16).double()), bs.DTypeError, "float64"),
        (_with("first.bias", torch.ones(16).bfloat16()), bs.DTypeError, "bfloat16"),
        (_with("first.bias", torch.ones(16, device="meta")), bs.ArgumentError, "dense tensor with values"),
        (_with("first.bias", torch.ones(16).to_sparse()), bs.ArgumentError, "dense tensor with values"),
        (_with("first.bias", [1.0] * 16), bs.ArgumentError, "dense tensor with values"),
        (lambda early: None, bs.ArgumentError, "accepted: a mapping"),
        (lambda early: "early.pt", bs.ArgumentError, "torch.load"),
    ],
)
def test_what_does_not_fit_changes_nothing(change: Any, error: Any, message: str) -> None:
    model = made()
    optimizer = torch.optim.Adam(model.parameters())
    early = copied(model)
    pruner = _pruned(model, optimizer)
    before, state = copied(model), copy.deepcopy(optimizer.state_dict())
    with pytest.raises(error, match=message):
        pruner.rewind_to(change(early))
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    torch.testing.assert_close(optimizer.state_dict(), state, rtol=0, atol=0)


def test_the_models_own_memory_is_no_early_state() -> None:
    model = made()
    early = model.state_dict()  # no copy: training writes it
    pruner = _pruned(model, torch.optim.Adam(model.parameters()))
    with pytest.raises(bs.ArgumentError, match=r"own memory.*value\.clone"):
        pruner.rewind_to(early)


def test_what_a_rewind_does_not_go_with_is_refused() -> None:
    model = made()
    early = copied(model)
    optimizer = torch.optim.Adagrad(model.parameters())
    with pytest.raises(bs.ArgumentError, match="Adagrad, which fills its state"):
        _pruned(model, optimizer).rewind_to(early)
    for bad in ("reset", None, 3, {"state": {}}):
        with pytest.raises(bs.ArgumentError, match=r"optimizer: .*'fresh', 'keep'"):
            _pruned(model).rewind_to(early, optimizer=bad)
    adam = torch.optim.Adam(model.parameters())
    remembering = bs.Pruner(model, adam, scorer="bitter10", schedule=bs.OneShot(0.5, step=9))
    with pytest.raises(bs.Error, match="remembers"):
        remembering.rewind_to(early)
    done = _pruned(model)
    done.finalize()
    with pytest.raises(bs.Error, match="finalized"):
        done.rewind_to(early)


def test_an_optimizer_with_copies_of_the_weights_is_named() -> None:
    schedulefree = pytest.importorskip("schedulefree")
    model = made()
    early = copied(model)
    optimizer = schedulefree.AdamWScheduleFree(model.parameters(), lr=1e-2)
    optimizer.train()
    pruner = _pruned(model, optimizer)
    with pytest.raises(bs.ArgumentError, match=r"ScheduleFree, which keeps the weights a second time \(z"):
        pruner.rewind_to(early)


def test_autograd_hears_of_the_write() -> None:
    model = made()
    early = copied(model)
    pruner = _pruned(model)
    loss = model(batch(0)).square().mean()
    pruner.rewind_to(early)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
