"""What is missing, not a number, or not an option: refused with everything as it was."""

from __future__ import annotations

import math
from typing import Any

import bittersweet as bs
import pytest
import torch
from pruner_support import (
    LINEAR,
    ONCE,
    SIZE,
    adamw,
    backward,
    dead_values,
    mlp,
    train,
    unchanged,
    weights,
)
from torch import nn


def with_unused() -> nn.Sequential:
    model = mlp()
    model.add_module("unused", nn.Linear(6, 6, bias=False))
    model.forward = lambda x: nn.Sequential.forward(model[:5], x)
    return model


def test_missing_state_is_an_error_that_changes_nothing() -> None:
    model = with_unused()
    optimizer = adamw(model)
    pruner = bs.Pruner(model, optimizer, schedule=bs.OneShot(0.5, 2))
    with pytest.raises(bs.MissingStateError):
        bs.Pruner(model, optimizer, schedule=ONCE).step()
    assert not optimizer.state
    train(model, optimizer, pruner, 1)
    backward(model, 2)
    optimizer.step()
    for _ in range(2):  # a step that raised has not been counted, so that it raises again
        with (
            unchanged(model, optimizer),
            pytest.raises(bs.MissingStateError, match=r"'unused\.weight'.*no gradient in any"),
        ):
            pruner.step()
    assert pruner.state_dict()["step"] == 1
    assert len(optimizer.state) == 6
    optimizer.zero_grad(set_to_none=False)
    model.unused.weight.grad = torch.ones(6, 6)
    optimizer.step()
    event = pruner.step()
    assert event is not None
    assert event.step == 2


def test_missing_state_can_be_left_dense_and_is_listed() -> None:
    model = with_unused()
    optimizer = adamw(model)
    pruner = bs.Pruner(model, optimizer, schedule=bs.OneShot(0.5, 2), missing="skip")
    (event,) = train(model, optimizer, pruner, 3)
    assert event.skipped == ("unused.weight",)
    assert event.total == SIZE
    assert event.achieved_sparsity == event.pruned / SIZE
    assert event.achieved_sparsity_all == event.pruned / (SIZE + 36)
    assert "unused.weight" not in event.per_tensor
    assert bool(pruner.masks["unused.weight"].all())
    assert model.unused.weight.count_nonzero() == 36
    assert len(optimizer.state) == 6
    assert "unused.weight" in str(event)


def test_a_parameter_that_the_optimizer_no_longer_holds_is_missing_state() -> None:
    model = mlp()
    optimizer = adamw(model)
    pruner = bs.Pruner(model, optimizer, schedule=bs.OneShot(0.5, 2))
    train(model, optimizer, pruner, 1)
    model[2].weight = nn.Parameter(model[2].weight.detach().clone())
    with pytest.raises(bs.MissingStateError, match=r"'2\.weight'.*not in the optimizer now"):
        pruner.step()


def test_an_unknown_optimizer_without_the_moments_is_named_with_its_keys() -> None:
    class Momentum(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:
            super().step(closure)

    model = mlp()
    optimizer = Momentum(model.parameters(), lr=0.1, momentum=0.9)
    pruner = bs.Pruner(model, optimizer, schedule=ONCE)
    with pytest.raises(bs.MissingStateError, match=r"no exp_avg_sq.*keeps momentum_buffer"):
        train(model, optimizer, pruner, 1)


def test_nan_scores_are_an_error_that_changes_nothing() -> None:
    model = mlp()
    optimizer = adamw(model)
    pruner = bs.Pruner(model, optimizer, schedule=LINEAR)
    train(model, optimizer, pruner, 5)
    backward(model, 6)
    optimizer.step()
    masks = dict(pruner.masks)
    alive = int(pruner.masks["2.weight"].reshape(-1).nonzero()[-1])
    with torch.no_grad():
        model[2].weight.view(-1)[alive] = math.nan
    with unchanged(model, optimizer), pytest.raises(bs.NonFiniteScoreError) as raised:
        pruner.step()
    assert (raised.value.parameter, raised.value.count, raised.value.first_index) == ("2.weight", 1, alive)
    assert pruner.state_dict()["step"] == 5
    assert len(pruner.history) == 1
    assert all(torch.equal(masks[name], mask) for name, mask in pruner.masks.items())


def test_nan_scores_can_be_kept_and_counted() -> None:
    model = mlp()
    with torch.no_grad():
        model[2].weight[3, :2] = math.nan
    pruner = bs.Pruner(model, scorer="magnitude", schedule=bs.OneShot(1.0, 1), nonfinite="keep")
    event = pruner.step()
    assert event is not None
    assert event.nonfinite == 2
    assert event.pruned == SIZE - 2
    assert pruner.masks["2.weight"].nonzero().tolist() == [[3, 0], [3, 1]]


def test_nan_and_infinity_under_a_mask_are_written_over_with_zero() -> None:
    model = mlp()
    pruner = bs.Pruner(model, scorer="magnitude", schedule=bs.Linear(0.5, 0.6, 1, 3, 1))
    pruner.step()
    with torch.no_grad():
        model[2].weight[~pruner.masks["2.weight"]] = math.nan
        model[4].weight[~pruner.masks["4.weight"]] = -math.inf
    assert pruner.step() is not None
    assert not dead_values(pruner, weights(model)).any()


def test_a_write_between_forward_and_backward_raises() -> None:
    model = mlp()
    optimizer = adamw(model)
    pruner = bs.Pruner(model, optimizer, schedule=bs.OneShot(0.5, 2))
    train(model, optimizer, pruner, 1)
    for _ in range(2):  # the event itself, then the pass that holds its masks
        loss = model(torch.randn(3, 12)).sum()
        pruner.step()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


def test_every_written_tensor_has_its_version_raised() -> None:
    model = mlp()
    optimizer = adamw(model, amsgrad=True)
    pruner = bs.Pruner(model, optimizer, schedule=bs.OneShot(0.5, 2))
    train(model, optimizer, pruner, 1)
    held = [model.get_parameter(name) for name in weights(model)]
    held += [optimizer.state[p][key] for p in held for key in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")]
    others = [module.bias for module in model if isinstance(module, nn.Linear)]
    for _ in range(4):  # the event, a pass that builds its table, and passes that reuse it
        versions = [tensor._version for tensor in held]
        untouched = [tensor._version for tensor in others]
        pruner.step()
        assert all(tensor._version > version for tensor, version in zip(held, versions, strict=True))
        assert [tensor._version for tensor in others] == untouched


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scorer": "bitter77"}, "bitter77.*known names"),
        ({"scorer": "Magnitude"}, r"'Magnitude' \(did you mean 'magnitude'\?\); known names"),
        ({"scorer": "L1Unstructured"}, r"\(did you mean 'magnitude'\?\)"),
        ({"scorer": "random_unstructured"}, r"\(did you mean 'random'\?\)"),
        ({"scorer": "Bitter7"}, r"\(did you mean 'bitter7'\?\)"),
        ({"scorer": "bitter11"}, "no scorer is called 'bitter11'; known names"),
        ({"scorer": "obs"}, "no scorer is called 'obs'; known names"),
        ({"frequency": 10}, r"frequency: Pruner .*schedule, which says when: schedule=PolynomialDecay\("),
        ({"begin_step": 10}, "begin_step: Pruner .*schedule, which says when"),
        ({"scorer": "wanda"}, "reads input_norm"),
        ({"scorer": "identity"}, "reads scores"),
        ({"selector": "guess"}, "guess"),
        ({"selector": "sampling", "ties": "exact"}, "ties"),
        ({"scope": "colour"}, "colour"),
        ({"scope": "global", "distribution": "erk"}, "distribution"),
        ({"scope": "tensor", "distribution": "unfair"}, "unfair"),
        ({"scope": "2:4"}, "at most 0.5"),
        ({"nonfinite": "ignore"}, "nonfinite"),
        ({"ties": "some"}, "ties"),
        ({"hold": "both"}, "hold.*'weights', 'grads'"),
        ({"missing": "fill"}, "missing"),
        ({"regrow": "yes"}, "regrow"),
        ({"mask_optimizer_state": None}, "mask_optimizer_state"),
        ({"max_tensor_sparsity": 1.5}, "max_tensor_sparsity"),
        ({"sync": "later"}, "sync"),
        ({"seed": -1}, "seed"),
        ({"schedule": 0.5}, "schedule.*PolynomialDecay"),
        ({"schedule": "cubic"}, "schedule.*'cubic' is PolynomialDecay"),
        ({"schedule": lambda step: 0.5}, "schedule"),
        ({"schedule": {"nothing*": LINEAR}}, "schedule names 'nothing"),
    ],
)
def test_bad_options_are_refused_when_the_pruner_is_made(options: dict[str, Any], message: str) -> None:
    model = mlp()
    with pytest.raises(bs.ArgumentError, match=message):
        bs.Pruner(model, adamw(model), **{"schedule": LINEAR, **options})


@pytest.mark.parametrize(
    ("keyword", "hint"),
    [
        ("amount", r"amount: Pruner has no such argument; the argument is schedule.*OneShot"),
        ("sparsity", "schedule, which says how much"),
        ("optimizers", "optimizer"),
        ("exclude", "the argument is ignore"),
        ("scorerr", "the argument is scorer"),
    ],
)
def test_keywords_of_others_are_refused_with_ours(keyword: str, hint: str) -> None:
    model = mlp()
    with pytest.raises(bs.ArgumentError, match=hint):
        bs.Pruner(model, adamw(model), **{keyword: 0.5})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"scorer": bs.Magnitude},
            r"scorer: the class Magnitude; pass an object, Magnitude\(...\); acc",
        ),
        ({"selector": bs.Exact}, r"selector: the class Exact; pass an object, Exact\(...\); accepted"),
        ({"scope": bs.Row}, r"scope: the class Row; pass an object, Row\(...\); accepted"),
        ({"scorer": 7}, "scorer: 7; accepted: a scorer object, or one of the names magnitude"),
    ],
)
def test_a_class_in_place_of_an_object_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(bs.ArgumentError, match=message):
        bs.Pruner(mlp(), None, schedule=ONCE, **{"scorer": "magnitude", **options})


@pytest.mark.parametrize("given", [None, [torch.ones(2, 2, dtype=torch.bool)], nn.Linear(2, 2), "masks.pt"])
def test_masks_that_have_no_names_are_refused(given: Any) -> None:
    pruner = bs.Pruner(mlp(), None, scorer="magnitude", schedule=ONCE)
    with pytest.raises(bs.ArgumentError, match=f"masks: found {type(given).__name__}; accepted: a mapping"):
        pruner.load_masks(given)


@pytest.mark.parametrize("name", ["loss", "skip", "metrics"])
def test_step_takes_no_other_keyword(name: str) -> None:
    pruner = bs.Pruner(mlp(), None, scorer="magnitude", schedule=ONCE)
    with pytest.raises(bs.ArgumentError, match=f"step: found '{name}'; accepted: skipped=True"):
        pruner.step(**{name: True})
    assert pruner.steps == 0


def test_scorers_that_read_moments_need_an_optimizer_that_keeps_them() -> None:
    model = mlp()
    with pytest.raises(bs.ArgumentError, match="'bitter7' reads exp_avg_sq of the optimizer"):
        bs.Pruner(model, schedule=ONCE)
    with pytest.raises(bs.ArgumentError, match="SGD keeps no exp_avg_sq"):
        bs.Pruner(model, torch.optim.SGD(model.parameters(), lr=0.1), schedule=ONCE)
    with pytest.raises(bs.ArgumentError, match="optimizer: found"):
        bs.Pruner(model, model.parameters(), schedule=ONCE)


def test_input_lengths_that_a_group_does_not_divide_are_refused_at_once() -> None:
    with pytest.raises(bs.ShapeError, match=r"4\.weight"):
        bs.Pruner(mlp(), scorer="magnitude", schedule=ONCE, scope="2:4")
    model = mlp()
    pruner = bs.Pruner(model, scorer="magnitude", schedule=ONCE, scope=bs.NofM(2, 4, remainder="keep"))
    pruner.step()
    assert bool(pruner.masks["4.weight"][:, 32].all())
