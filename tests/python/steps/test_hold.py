"""Masks between events: on the weights after a step, or on the gradients before it."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import bittersweet as bs
import pytest
import torch
from bittersweet.steps.keeping import Keeper
from bittersweet.tensors.holding import Holder
from pruner_support import LINEAR, backward, dead_values, mlp, train, unchanged, weights
from torch import nn

OPTIMIZERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "SGD": (torch.optim.SGD, {"weight_decay": 0.1}),
    "SGD momentum": (torch.optim.SGD, {"momentum": 0.9, "weight_decay": 0.1}),
    "SGD nesterov": (torch.optim.SGD, {"momentum": 0.9, "nesterov": True, "foreach": True}),
    "RMSprop": (torch.optim.RMSprop, {"momentum": 0.9, "centered": True, "weight_decay": 0.1}),
    "Adagrad": (torch.optim.Adagrad, {"weight_decay": 0.1}),
    "Adamax": (torch.optim.Adamax, {"weight_decay": 0.1}),
    "Adadelta": (torch.optim.Adadelta, {"weight_decay": 0.1}),
    "NAdam": (torch.optim.NAdam, {"weight_decay": 0.1}),
    "RAdam": (torch.optim.RAdam, {"weight_decay": 0.1}),
    "AdamW": (torch.optim.AdamW, {"weight_decay": 0.5, "fused": True}),
}


def make(name: str, model: nn.Module) -> torch.optim.Optimizer:
    kind, options = OPTIMIZERS[name]
    optimizer: torch.optim.Optimizer = kind(model.parameters(), lr=2e-2, **options)
    return optimizer


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_on_gradients_every_elementwise_optimizer_leaves_dead_weights_at_zero(name: str) -> None:
    model = mlp()
    optimizer = make(name, model)
    pruner = bs.Pruner(model, optimizer, schedule=LINEAR, scorer="magnitude", hold="grads")
    for step in range(1, 21):
        backward(model, step)
        optimizer.step()
        if step > 2:  # before the pruner has a chance to write
            assert not dead_values(pruner, weights(model)).any()
        live = torch.cat([weight[pruner.masks[n]] for n, weight in weights(model).items()])
        assert bool(live.isfinite().all())
        pruner.step()
        optimizer.zero_grad()
    assert [event.step for event in pruner.history] == [2, 6, 10]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_on_weights_every_optimizer_is_held_after_its_step(name: str) -> None:
    model = mlp()
    optimizer = make(name, model)
    pruner = bs.Pruner(model, optimizer, schedule=LINEAR, scorer="magnitude")
    moved = 0
    for step in range(1, 15):
        backward(model, step)
        optimizer.step()
        moved += step > 2 and bool(dead_values(pruner, weights(model)).any())
        pruner.step()
        if step >= 2:
            assert not dead_values(pruner, weights(model)).any()
        optimizer.zero_grad()
    assert moved > 10  # the optimizer had moved them: the hold did the work


def test_both_ways_train_the_same_model() -> None:
    finals = []
    for hold in ("weights", "grads"):
        model = mlp()
        optimizer = make("AdamW", model)
        train(model, optimizer, bs.Pruner(model, optimizer, schedule=LINEAR, hold=hold), 14)
        finals.append(weights(model))
    for name, weight in finals[0].items():
        assert torch.equal(weight, finals[1][name]), name


def test_on_gradients_nothing_is_written_between_events() -> None:
    model = mlp()
    optimizer = make("AdamW", model)
    pruner = bs.Pruner(model, optimizer, schedule=bs.OneShot(0.5, 1), hold="grads")
    train(model, optimizer, pruner, 2)
    backward(model, 3)
    versions = [parameter._version for parameter in model.parameters()]
    pruner.step()
    assert [parameter._version for parameter in model.parameters()] == versions


def test_a_weight_written_behind_the_back_is_found_at_the_next_event() -> None:
    model = mlp()
    optimizer = make("AdamW", model)
    pruner = bs.Pruner(model, optimizer, schedule=LINEAR, hold="grads")
    train(model, optimizer, pruner, 5)
    backward(model, 6)
    optimizer.step()
    dead = int((~pruner.masks["2.weight"]).reshape(-1).nonzero()[0])
    with torch.no_grad():
        model[2].weight.view(-1)[dead] = 1e-30
    with unchanged(model, optimizer), pytest.raises(bs.Error, match=r"not 0 \(1 in '2\.weight'\)"):
        pruner.step()
    with torch.no_grad():
        model[2].weight.view(-1)[dead] = 0.0
    assert pruner.step() is not None


def test_finalize_refuses_weights_that_do_not_stay_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    model = mlp()
    pruner = bs.Pruner(model, scorer="magnitude", schedule=bs.OneShot(0.5, 1))
    pruner.step()
    apply = Keeper.apply

    def interfere(self: Keeper, masks: Any) -> None:
        apply(self, masks)
        with torch.no_grad():
            model[0].weight.fill_(1.0)

    monkeypatch.setattr(Keeper, "apply", interfere)
    with pytest.raises(bs.Error, match=r"not 0 \(.*in '0\.weight'\)"):
        pruner.finalize()


class Muon(torch.optim.SGD):
    """Mixes elements: what is not zero moves what is."""

    def step(self, closure: Any = None) -> None:
        with torch.no_grad():
            for group in self.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        parameter.sub_(0.01 * parameter.grad.mean())


def test_on_gradients_other_optimizers_are_refused_and_on_weights_they_work() -> None:
    model = mlp()
    optimizer = Muon(model.parameters(), lr=0.1)
    schedule = bs.OneShot(0.5, 1)
    with pytest.raises(
        bs.ArgumentError, match=r"Muon.*not known to update element by element.*hold='weights'"
    ):
        bs.Pruner(model, optimizer, schedule=schedule, scorer="magnitude", hold="grads")
    for other in (torch.optim.LBFGS(model.parameters()), torch.optim.Adafactor(model.parameters())):
        with pytest.raises(bs.ArgumentError, match="element by element"):
            bs.Pruner(model, other, schedule=schedule, scorer="magnitude", hold="grads")
    pruner = bs.Pruner(model, optimizer, schedule=schedule, scorer="magnitude")
    train(model, optimizer, pruner, 4)
    assert not dead_values(pruner, weights(model)).any()


def test_on_gradients_what_would_move_dead_weights_is_refused() -> None:
    model = mlp()
    schedule = bs.OneShot(0.5, 1)
    with pytest.raises(bs.ArgumentError, match="Pass the optimizer"):
        bs.Pruner(model, schedule=schedule, scorer="magnitude", hold="grads")
    optimizer = torch.optim.AdamW(model.parameters())
    with pytest.raises(bs.ArgumentError, match="mask_optimizer_state=False"):
        bs.Pruner(model, optimizer, schedule=schedule, hold="grads", mask_optimizer_state=False)
    with pytest.raises(bs.ArgumentError, match="eps is 0"):
        bs.Pruner(model, torch.optim.AdamW(model.parameters(), eps=0.0), schedule=schedule, hold="grads")


def test_a_reopened_weight_starts_from_zero_and_moves_again() -> None:
    model = mlp()
    optimizer = make("SGD momentum", model)
    pruner = bs.Pruner(model, optimizer, schedule=bs.OneShot(0.6, 1), scorer="magnitude", hold="grads")
    train(model, optimizer, pruner, 3)
    weight = model[0].weight.detach().view(-1)
    index = int((~pruner.masks["0.weight"]).reshape(-1).nonzero()[0])
    state = pruner.state_dict()
    words = state["masks"]["0.weight"].numpy().view("uint64")
    words[index // 64] |= 1 << (index % 64)
    pruner.load_state_dict(state)
    assert weight[index] == 0.0
    train(model, optimizer, pruner, 1, first=4)
    assert weight[index] != 0.0
    assert not dead_values(pruner, weights(model)).any()


def test_mask_grads_zeroes_what_is_pruned_and_nothing_else() -> None:
    model = mlp()
    optimizer = make("AdamW", model)
    pruner = bs.Pruner(model, optimizer, schedule=bs.OneShot(0.5, 1))
    backward(model, 1)
    before = {name: model.get_parameter(name).grad.clone() for name in weights(model)}
    pruner.mask_grads_()  # no masks yet
    assert all(torch.equal(model.get_parameter(name).grad, grad) for name, grad in before.items())
    optimizer.step()
    pruner.step()
    bias = model[0].bias.grad.clone()
    model[4].weight.grad = None
    for _ in range(2):
        pruner.mask_grads_()
        for name in ("0.weight", "2.weight"):
            expected = torch.where(pruner.masks[name], before[name], 0.0)
            assert torch.equal(model.get_parameter(name).grad, expected)
    assert torch.equal(model[0].bias.grad, bias)
    assert model[4].weight.grad is None
    norm = nn.utils.clip_grad_norm_(model.parameters(), 1e9)
    assert norm > 0


def test_sparse_gradients_are_refused() -> None:
    model = nn.Sequential(nn.Embedding(10, 4, sparse=True), nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pruner = bs.Pruner(
        model, optimizer, scorer="magnitude", schedule=bs.OneShot(0.5, 1), targets=nn.Embedding
    )
    model(torch.tensor([1, 2])).sum().backward()
    optimizer.step()
    pruner.step()
    with pytest.raises(bs.LayoutError, match=r"grad of '0\.weight'.*sparse"):
        pruner.mask_grads_()


def test_the_pass_follows_tensors_that_move() -> None:
    torch.manual_seed(0)
    weight, other = torch.randn(70), torch.randn(5, 7)
    masks = [bs.Mask.from_bool(torch.rand(t.shape) < 0.5) for t in (weight, other)]
    holder = Holder(("weight", "grad"))
    for turn in range(6):
        if turn == 2:
            weight = weight.clone()  # another address
        if turn == 3:
            other = other.to(torch.bfloat16)  # another dtype
        if turn == 4:
            other = other.t().contiguous().t()  # another layout
        grad = torch.ones(70) if turn % 2 else None
        weight.fill_(1.0)
        other.fill_(1.0)
        versions = weight._version, other._version
        holder.apply([bs.ScoreInputs(weight, grad=grad, name="a"), bs.ScoreInputs(other, name="b")], masks)
        assert torch.equal(weight != 0, masks[0].bool())
        assert torch.equal(other != 0, masks[1].bool())
        assert grad is None or torch.equal(grad != 0, masks[0].bool())
        assert weight._version > versions[0]
        assert other._version > versions[1]


def test_the_pass_takes_other_items_and_other_masks() -> None:
    torch.manual_seed(0)
    shapes = [(70,), (5, 7), (70,), (7, 5)]
    sets = [[bs.Mask.from_bool(torch.rand(shape) < 0.5) for shape in shapes] for _ in range(3)]
    holder = Holder(("weight",))
    for chosen in ([0], [0, 1], [0, 1], [0], [2, 1], [2, 1, 0], [3], [1], [0, 1, 2, 3], []):
        for masks in sets:
            tensors = [torch.ones(shapes[i]) for i in chosen]
            items = [bs.ScoreInputs(one, name=str(i)) for i, one in enumerate(tensors)]
            holder.apply(items, [masks[i] for i in chosen])
            for i, one in zip(chosen, tensors, strict=True):
                assert torch.equal(one != 0, masks[i].bool())


def test_the_pass_keeps_no_gradient_alive() -> None:
    model = mlp()
    optimizer = make("AdamW", model)
    pruner = bs.Pruner(model, optimizer, schedule=bs.OneShot(0.5, 1), hold="grads")
    train(model, optimizer, pruner, 3)
    backward(model, 4)
    optimizer.step()
    grad = weakref.ref(model[2].weight.grad)
    optimizer.zero_grad()
    gc.collect()
    assert grad() is None


def test_new_masks_replace_those_of_the_pass() -> None:
    model = mlp()
    optimizer = make("AdamW", model)
    pruner = bs.Pruner(model, optimizer, schedule=bs.Linear(0.1, 0.9, 1, 9, 1))
    for step in range(1, 12):
        train(model, optimizer, pruner, 1, first=step)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(1.0)
        if step >= 9:
            pruner.step()
            assert not dead_values(pruner, weights(model)).any()
    assert pruner.sparsity().masked == pytest.approx(0.9, abs=1e-3)
