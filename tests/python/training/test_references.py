"""What is replaced after the pruner was made: optimizers, frozen and freed parameters, ties, pruners."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import warnings
import weakref
from typing import Any

import bittersweet as bs
import pytest
import torch
from pruner_support import LINEAR, adamw, backward, dead_values, mlp, train, weights
from torch import nn

NEVER = bs.OneShot(0.5, 1000)


@pytest.mark.parametrize("attached", [False, True])
@pytest.mark.parametrize("scorer", ["bitter7", "magnitude"])
def test_an_optimizer_made_anew_is_said_at_its_first_step(attached: bool, scorer: str) -> None:
    model = mlp()
    optimizer = adamw(model)
    pruner = bs.Pruner(model, optimizer, scorer=scorer, schedule=LINEAR)
    if attached:
        pruner.attach()
    train(model, optimizer, None if attached else pruner, 3)
    again = torch.optim.SGD(model.parameters(), lr=0.1)
    backward(model, 4)
    with pytest.warns(UserWarning, match=r"another SGD than the AdamW.*replace_optimizer"):
        again.step()


def test_replace_optimizer_reads_and_hooks_the_new_one() -> None:
    model = mlp()
    optimizer = adamw(model)
    pruner = bs.Pruner(model, optimizer, schedule=LINEAR, hold="grads").attach()
    train(model, optimizer, None, 3)
    again = adamw(model)
    pruner.replace_optimizer(again)
    train(model, again, None, 4, first=4)
    assert pruner.steps == 7 and [event.step for event in pruner.history] == [2, 6]
    assert not dead_values(pruner, weights(model)).any()
    items = [
        bs.ScoreInputs(model.get_parameter(n), exp_avg_sq=again.state[model.get_parameter(n)]["exp_avg_sq"])
        for n in weights(model)
    ]
    assert bs.count_violations(items, pruner.masks.packed, roles=("weight", "exp_avg_sq")) == {
        "tensor0": 0,
        "tensor1": 0,
        "tensor2": 0,
    }
    with pytest.raises(bs.ArgumentError, match="SGD"):
        pruner.replace_optimizer(torch.optim.SGD(model.parameters(), lr=0.1))
    train(model, again, None, 4, first=8)
    assert [event.step for event in pruner.history] == [2, 6, 10]


@pytest.mark.parametrize("scorer", ["bitter7", "magnitude", "bitter10s"])
def test_a_layer_frozen_later_is_left_alone_and_said(scorer: str) -> None:
    model = mlp()
    optimizer = adamw(model)
    pruner = bs.Pruner(model, optimizer, scorer=scorer, schedule=bs.OneShot(0.5, 5))
    train(model, optimizer, pruner, 3)
    model[0].weight.requires_grad_(False)
    with pytest.warns(UserWarning, match=r"left as they are since the plan was made: '0\.weight': frozen"):
        events = train(model, optimizer, pruner, 3, first=4)
    assert int((model[0].weight == 0).sum()) == 0
    assert events[0].total == 40 * 33 + 33 * 5 and events[0].skipped == ("0.weight",)
    assert events[0].pruned == events[0].k == round(0.5 * events[0].total + 1e-9)


def test_what_was_pruned_before_freezing_stays_pruned() -> None:
    model = mlp()
    optimizer = adamw(model)
    pruner = bs.Pruner(model, optimizer, scorer="magnitude", schedule=LINEAR)
    train(model, optimizer, pruner, 3)
    dead = ~pruner.masks["2.weight"]
    model[2].weight.requires_grad_(False)
    with pytest.warns(UserWarning, match="frozen"):
        train(model, optimizer, pruner, 9, first=4)
    assert torch.equal(~pruner.masks["2.weight"], dead) and not model[2].weight[dead].any()


def test_all_frozen_is_an_error() -> None:
    model = mlp()
    optimizer = adamw(model)
    pruner = bs.Pruner(model, optimizer, scorer="magnitude", schedule=bs.OneShot(0.5, 1))
    model.requires_grad_(False)
    with (
        pytest.warns(UserWarning, match="frozen"),
        pytest.raises(bs.MissingStateError, match="not one of the 3"),
    ):
        pruner.step()


@pytest.mark.parametrize("how", ["unfrozen", "added"])
def test_what_could_be_pruned_later_is_said(how: str) -> None:
    model = mlp()
    if how == "unfrozen":
        model[2].weight.requires_grad_(False)
        optimizer = adamw(model)
    else:
        optimizer = torch.optim.AdamW([*model[0].parameters(), *model[4].parameters()], lr=1e-2)
    pruner = bs.Pruner(model, optimizer, scorer="magnitude", schedule=bs.OneShot(0.5, 2))
    train(model, optimizer, pruner, 1)
    if how == "unfrozen":
        model[2].weight.requires_grad_(True)
    else:
        optimizer.add_param_group({"params": [*model[2].parameters()]})
    with pytest.warns(UserWarning, match=r"'2\.weight' could be pruned now"):
        train(model, optimizer, pruner, 1, first=2)


def test_weights_untied_later_are_said() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    model[1].weight = model[0].weight
    pruner = bs.Pruner(model, adamw(model), scorer="magnitude", schedule=bs.OneShot(0.5, 1))
    model[1].weight = nn.Parameter(torch.randn(8, 8))
    with pytest.warns(UserWarning) as found:
        pruner.step()
    assert any("no longer tied, and left dense: '1.weight'" in str(one.message) for one in found)


@pytest.mark.parametrize("hold", ["weights", "grads"])
def test_a_second_pruner_with_hooks_on_the_same_weights_is_said(hold: str) -> None:
    model = mlp()
    optimizer = adamw(model)
    first = bs.Pruner(model, optimizer, schedule=NEVER, hold=hold)
    if hold == "weights":
        first.attach()
    with pytest.warns(UserWarning, match="another Pruner already acts"):
        bs.Pruner(model, optimizer, schedule=NEVER)
    other = mlp(1)
    bs.Pruner(other, adamw(other), schedule=NEVER).attach()


def test_weights_that_bittersweet_prune_holds_are_said() -> None:
    model = mlp()
    bs.prune.l1_unstructured(model[2], "weight", 0.5)
    with pytest.warns(UserWarning, match=r"bittersweet\.prune holds zeros.*remove"):
        bs.Pruner(model, adamw(model), schedule=NEVER)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bs.Pruner(model, adamw(model), schedule=NEVER, ignore="2.*")
        bs.prune.remove(model[2], "weight")
        bs.Pruner(model, adamw(model), schedule=NEVER)


def test_finalized_detached_and_forgotten_pruners_are_no_second_ones(recwarn: Any) -> None:
    model = mlp()
    optimizer = adamw(model)
    pruner = bs.Pruner(model, optimizer, schedule=NEVER).attach()
    pruner.detach()
    one = bs.Pruner(model, optimizer, scorer="magnitude", schedule=bs.OneShot(0.5, 1)).attach()
    train(model, optimizer, None, 1)
    one.finalize()
    forgotten = weakref.ref(bs.Pruner(model, optimizer, schedule=NEVER))
    gc.collect()
    assert forgotten() is None
    bs.Pruner(model, optimizer, schedule=NEVER).attach()
    assert [str(one.message) for one in recwarn] == []


def run_on(model: nn.Module, optimizer: Any, pruner: Any, attached: bool, steps: int, first: int) -> None:
    train(model, optimizer, None if attached else pruner, steps, first=first)


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
@pytest.mark.parametrize("hold", ["weights", "grads"])
@pytest.mark.parametrize("attached", [False, True])
@pytest.mark.parametrize("scorer", ["bitter7", "movement", "bitter10", "bitter10s", "bitter10c"])
def test_a_copy_trains_sparse_on(how: str, hold: str, attached: bool, scorer: str) -> None:
    schedule = bs.Linear(0.2, 0.7, begin_step=4, end_step=12, frequency=4)
    chosen: Any = bs.Bitter10c(every=2) if scorer == "bitter10c" else scorer
    model = mlp()
    optimizer = adamw(model)
    pruner = bs.Pruner(model, optimizer, scorer=chosen, schedule=schedule, hold=hold)
    if attached:
        pruner.attach()
    run_on(model, optimizer, pruner, attached, 6, 1)
    together = (model, optimizer, pruner)
    if how == "deepcopy":
        model2, optimizer2, pruner2 = copy.deepcopy(together)
    else:
        model2, optimizer2, pruner2 = pickle.loads(pickle.dumps(together))
    run_on(model, optimizer, pruner, attached, 8, 7)
    before = {name: weight.clone() for name, weight in weights(model).items()}
    run_on(model2, optimizer2, pruner2, attached, 8, 7)
    assert all(torch.equal(weights(model)[name], weight) for name, weight in before.items())
    assert all(torch.equal(weights(model2)[name], weight) for name, weight in before.items())
    assert pruner2.steps == 14 and [event.step for event in pruner2.history] == [4, 8, 12]
    assert not dead_values(pruner2, weights(model2)).any()
    if attached:
        with pytest.raises(bs.Error, match="attached"):
            pruner2.step()
    del model, optimizer, pruner, together
    gc.collect()
    run_on(model2, optimizer2, pruner2, attached, 2, 15)
    assert not dead_values(pruner2, weights(model2)).any()


def test_a_finalized_pruner_can_be_copied() -> None:
    model = mlp()
    pruner = bs.Pruner(model, adamw(model), scorer="magnitude", schedule=bs.OneShot(0.5, 1))
    pruner.step()
    pruner.finalize()
    again = copy.deepcopy(pruner)
    assert str(again.report()) == str(pruner.report())
    with pytest.raises(bs.Error, match="finalized"):
        again.step()


def test_weights_loaded_after_the_masks_are_noticed_and_set_to_zero_again() -> None:
    model = mlp()
    optimizer = adamw(model)
    pruner = bs.Pruner(model, optimizer, scorer="magnitude", schedule=bs.OneShot(0.5, 1))
    dense = copy.deepcopy(model.state_dict())
    train(model, optimizer, pruner, 2)
    file = io.BytesIO()
    torch.save(pruner.state_dict(), file)
    file.seek(0)
    pruner.load_state_dict(torch.load(file, weights_only=True))
    model.load_state_dict(dense)
    backward(model, 3)
    with pytest.warns(UserWarning, match=r"not 0 when optimizer.step\(\) began \(.*in '0\.weight'"):
        optimizer.step()
    pruner.step()
    assert not dead_values(pruner, weights(model)).any()


class HoldsItsPruner(nn.Module):
    """What keeps its optimizer and pruner as attributes, as a LightningModule may."""

    def __init__(self, scorer: str, hold: str) -> None:
        super().__init__()
        self.net = mlp()
        self.optimizer = adamw(self)
        self.pruner = bs.Pruner(self, self.optimizer, scorer=scorer, schedule=bs.OneShot(0.5, 3), hold=hold)


@pytest.mark.parametrize("how", ["copy", "pickle", "average"])
@pytest.mark.parametrize("hold", ["weights", "grads"])
@pytest.mark.parametrize("scorer", ["magnitude", "movement", "bitter10"])
def test_a_model_that_holds_its_own_pruner_is_copied(how: str, hold: str, scorer: str) -> None:
    model = HoldsItsPruner(scorer, hold)
    copied = {
        "copy": copy.deepcopy,
        "pickle": lambda one: pickle.loads(pickle.dumps(one)),
        "average": lambda one: torch.optim.swa_utils.AveragedModel(one).module,
    }[how](model)
    for step in range(1, 6):
        backward(copied.net, step)
        copied.optimizer.step()
        copied.pruner.step()
    found = copied.pruner.sparsity()
    assert found.zero == found.masked == pytest.approx(0.5, abs=1e-3)
    assert model.pruner.steps == 0


def test_no_optimizer_replaces_one() -> None:
    model = mlp()
    pruner = bs.Pruner(model, adamw(model), scorer="magnitude", schedule=bs.OneShot(0.5, 2)).attach()
    with pytest.raises(bs.ArgumentError, match="optimizer: None; accepted: an optimizer"):
        pruner.replace_optimizer(None)  # type: ignore[arg-type]


@pytest.mark.parametrize("hold", ["weights", "grads"])
def test_an_optimizer_with_a_past_takes_over_without_moving_pruned_weights(hold: str) -> None:
    model = mlp()
    optimizer, other = adamw(model), adamw(model)
    backward(model, 0)
    other.step()
    pruner = bs.Pruner(model, optimizer, scorer="magnitude", schedule=bs.OneShot(0.5, 1), hold=hold)
    train(model, optimizer, pruner, 2)
    pruner.replace_optimizer(other)
    for step in range(3, 6):
        backward(model, step)
        other.step()
        if hold == "grads":
            assert not dead_values(pruner, weights(model)).any()
        pruner.step()
    assert not pruner.finalize().violations
