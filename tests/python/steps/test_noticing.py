"""Zeros that do not hold are noticed between events, whoever writes: sampled places, second copies."""

from __future__ import annotations

import warnings
from typing import Any

import bittersweet as bs
import pytest
import torch
from bittersweet.steps.sampling import ZeroSample
from bittersweet.tensors.masks import Mask
from pruner_support import adamw, backward, dead_values, mlp, train, weights
from torch import nn


class Lookahead(torch.optim.Optimizer):
    """Keeps slow weights of its own and writes them back every few steps."""

    def __init__(self, inner: torch.optim.Optimizer, every: int = 3) -> None:
        self.optimizer, self.taken, self.every = inner, 0, every
        self.slow = {p: p.detach().clone() for g in inner.param_groups for p in g["params"]}
        super().__init__(inner.param_groups, {})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.optimizer.step()
        self.taken += 1
        if self.taken % self.every == 0:
            for parameter, slow in self.slow.items():
                parameter.data.copy_(slow.lerp_(parameter.detach(), 0.5))


def test_attached_to_the_outermost_optimizer_zeros_hold() -> None:
    model = mlp()
    optimizer = Lookahead(adamw(model))
    pruner = bs.Pruner(model, optimizer, schedule=bs.OneShot(0.5, 2)).attach()
    for step in range(1, 14):
        backward(model, step)
        optimizer.step()
        if step > 1:
            assert not dead_values(pruner, weights(model)).any()
        optimizer.optimizer.zero_grad()
    assert pruner.steps == 13


def test_a_wrapper_is_not_taken_for_what_it_wraps() -> None:
    model = mlp()
    with pytest.raises(bs.ArgumentError, match="hold: 'grads' with Lookahead"):
        bs.Pruner(model, Lookahead(adamw(model)), schedule=bs.OneShot(0.5, 2), hold="grads")


def test_given_the_inner_optimizer_the_outer_one_is_noticed() -> None:
    model = mlp()
    inner = adamw(model)
    outer = Lookahead(inner)
    bs.Pruner(model, inner, schedule=bs.OneShot(0.5, 2)).attach()
    backward(model, 1)
    with pytest.warns(UserWarning, match="another Lookahead than the AdamW.*give the outermost"):
        outer.step()


@pytest.mark.parametrize("hold", ["weights", "grads"])
@pytest.mark.parametrize("writer", ["one", "all", "swap"])
def test_writes_between_steps_are_noticed_within_a_few_steps(hold: str, writer: str) -> None:
    model = mlp()
    optimizer = adamw(model)
    pruner = bs.Pruner(model, optimizer, schedule=bs.OneShot(0.5, 1), hold=hold)
    train(model, optimizer, pruner, 2)
    dense = {name: torch.randn_like(weight) for name, weight in weights(model).items()}
    with torch.no_grad():
        for name, values in dense.items():
            if writer == "one":
                index = int((~pruner.masks[name]).reshape(-1).nonzero()[-1])
                model.get_parameter(name).view(-1)[index] = 1e-30
            elif writer == "all":
                model.get_parameter(name).copy_(values)
            else:
                model.get_parameter(name).data = values
    with pytest.warns(UserWarning, match=r"not 0 when optimizer.step\(\) began") as found:
        train(model, optimizer, pruner, 3, first=3)
    assert len(found) == 1  # once
    assert all(f"'{name}'" in str(found[0].message) for name in dense)
    assert not dead_values(pruner, weights(model)).any()


@pytest.mark.parametrize("sizes", [[64], [1], [130, 7, 64, 1000], [9000, 3, 70001], [200000] * 4])
def test_every_pruned_place_comes_up_within_64_looks(sizes: list[int]) -> None:
    torch.manual_seed(0)
    model = nn.ParameterList([nn.Parameter(torch.randn(size)) for size in sizes])
    masks = [Mask.from_bool(torch.rand(size) < 0.9, str(i)) for i, size in enumerate(sizes)]
    masks[0] = Mask.from_bool(torch.zeros(sizes[0], dtype=torch.bool), "0")
    entries = bs.Pruner(
        model, scorer="magnitude", schedule=bs.OneShot(0.5, 1), targets=[str(i) for i in range(len(sizes))]
    ).plan().targets  # fmt: skip
    with torch.no_grad():
        for parameter, mask in zip(model, masks, strict=True):
            parameter[~mask.bool()] = 0.0
    clean = ZeroSample(model, entries, masks)
    assert not any(clean.look() for _ in range(130))
    for tensor, index in [(0, 0), (0, sizes[0] - 1)] + [
        (i, int((~mask.bool()).nonzero()[-1])) for i, mask in enumerate(masks) if not mask.bool().all()
    ]:
        with torch.no_grad():
            model[tensor][index] = 1e-38
        sample = ZeroSample(model, entries, masks)
        first = next((turn for turn in range(1, 200) if sample.look()), None)
        assert first is not None and first <= 64
        with torch.no_grad():
            model[tensor][index] = 0.0


def test_a_look_reads_little_and_4096_pruned_places_at_least() -> None:
    size = 1_000_000
    model = nn.ParameterList([nn.Parameter(torch.zeros(size))])
    mask = Mask.from_bool(torch.arange(size) % 10 != 0, "0")
    entries = bs.Pruner(model, scorer="magnitude", schedule=bs.OneShot(0.5, 1), targets="0").plan().targets
    turn = ZeroSample(model, entries, [mask])._next(on_device=False)
    assert turn is not None
    (one,) = turn.stretches
    assert one.start == 0 and 0.04 * size < one.end < 0.05 * size
    assert int((~mask.bool()[: one.end]).sum()) >= 4096


def test_looks_follow_weights_that_move_and_change() -> None:
    sizes = [(9000,), (300, 200), (5,), (70001,)]
    torch.manual_seed(0)
    model = nn.ParameterList([nn.Parameter(torch.zeros(size)) for size in sizes])
    names = [str(i) for i in range(len(sizes))]
    pruner = bs.Pruner(model, scorer="magnitude", schedule=bs.OneShot(0.5, 1), targets=names)
    entries = pruner.plan().targets
    masks = [Mask.from_bool(torch.zeros(size, dtype=torch.bool), str(i)) for i, size in enumerate(sizes)]
    sample = ZeroSample(model, entries, masks)
    assert not any(sample.look() for _ in range(130))
    for change in (
        lambda one: setattr(one, "data", one.data.clone()),
        lambda one: setattr(one, "data", one.data.bfloat16()),
        lambda one: setattr(one, "data", torch.zeros_like(one, dtype=torch.float32)),
    ):
        for i in range(len(sizes)):
            change(model[i])
            for place in (0, model[i].numel() - 1):
                model[i].data.view(-1)[place] = 1.0
                assert 0 < sum(sample.look() for _ in range(64)) <= 2
                model[i].data.zero_()
        assert not any(sample.look() for _ in range(64))
        model[3] = nn.Parameter(torch.ones(sizes[3]))
        assert any(sample.look() for _ in range(64))
        model[3].data.zero_()
    model[1].data = torch.ones(200, 300).t()
    assert any(sample.look() for _ in range(64))
    model[1] = nn.Parameter(torch.zeros(200, 300))
    with pytest.raises(bs.ShapeError, match="'1' has shape"):
        [sample.look() for _ in range(64)]


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_other_layouts_are_looked_at_too(layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(8, 16, 3), nn.Conv2d(16, 4, 3)).to(memory_format=layout)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    pruner = bs.Pruner(model, optimizer, scorer="magnitude", schedule=bs.OneShot(0.5, 1))

    def step() -> None:
        model(torch.randn(2, 8, 9, 9)).square().mean().backward()
        optimizer.step()
        pruner.step()
        optimizer.zero_grad()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        step()
        step()
    with torch.no_grad():
        model[1].weight.fill_(1.0)
    with pytest.warns(UserWarning, match=r"'1\.weight'"):
        step()


def test_regrowth_drifts_before_a_due_event_under_both_holds_and_is_no_violation() -> None:
    reopened = []
    for hold in ("weights", "grads"):
        model = mlp()
        optimizer = torch.optim.SGD(model.parameters(), lr=2.0)
        schedule = bs.Linear(0.3, 0.5, begin_step=2, end_step=12, frequency=2)
        pruner = bs.Pruner(model, optimizer, scorer="magnitude", schedule=schedule, hold=hold, regrow=True)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            before = None
            count = 0
            for step in range(1, 13):
                train(model, optimizer, pruner, 1, first=step)
                masks = torch.cat([mask.reshape(-1) for mask in pruner.masks.values()])
                count += 0 if before is None else int((masks & ~before).sum())
                before = masks
                assert not dead_values(pruner, weights(model)).any()
        reopened.append(count)
    assert reopened[0] == reopened[1] > 0


def test_equal_scores_are_said() -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pruner = bs.Pruner(model, optimizer, scorer="taylor", schedule=bs.OneShot(0.5, 1))
    backward(model, 1)
    optimizer.step()
    optimizer.zero_grad(set_to_none=False)
    with pytest.warns(UserWarning, match=r"all 1,965 scores of 'taylor' are equal.*gradients zeroed"):
        pruner.step()


def test_a_budget_that_cannot_be_met_is_said() -> None:
    model = mlp()
    pruner = bs.Pruner(
        model, scorer="magnitude", schedule=bs.OneShot(0.5, 1), nonfinite="keep", targets="0.*"
    )
    with torch.no_grad():
        model[0].weight.fill_(torch.nan)
        model[0].weight[0, 0] = 1.0
    with pytest.warns(
        UserWarning, match="240 of 480 weights were to be pruned, and 1 could be: 479 scores are NaN"
    ):
        pruner.step()


def two_optimizers(model: nn.Module) -> list[torch.optim.Optimizer]:
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    first, rest = layers[0].parameters(), [p for layer in layers[1:] for p in layer.parameters()]
    return [torch.optim.AdamW(first, lr=1e-2), torch.optim.SGD(rest, lr=0.1, momentum=0.9)]


@pytest.mark.parametrize("attached", [False, True])
@pytest.mark.parametrize("regrow", [False, True])
@pytest.mark.parametrize("hold", ["weights", "grads"])
def test_several_optimizers_in_one_step_are_no_violation(hold: str, regrow: bool, attached: bool) -> None:
    model = mlp()
    optimizers = two_optimizers(model)
    schedule = bs.PolynomialDecay(0.2, 0.5, begin_step=2, end_step=10, frequency=2)
    pruner = bs.Pruner(model, optimizers, scorer="magnitude", schedule=schedule, hold=hold, regrow=regrow)
    if attached:
        pruner.attach()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for step in range(1, 13):
            backward(model, step)
            for optimizer in optimizers:
                optimizer.step()
            if not attached:
                pruner.step()
        assert not pruner.finalize().violations


@pytest.mark.parametrize("hold", ["weights", "grads"])
def test_attached_to_several_optimizers_pruned_weights_of_all_drift_before_an_event(hold: str) -> None:
    models = [mlp(), mlp()]
    for model, attached in zip(models, (False, True), strict=True):
        optimizers = two_optimizers(model)
        schedule = bs.PolynomialDecay(0.5, 0.6, begin_step=2, end_step=10, frequency=2)
        pruner = bs.Pruner(model, optimizers, scorer="magnitude", schedule=schedule, hold=hold, regrow=True)
        pruner = pruner.attach() if attached else pruner
        for step in range(1, 11):
            backward(model, step)
            for optimizer in optimizers:
                optimizer.step()
            if not attached:
                pruner.step()
    by_hand, by_hooks = map(weights, models)
    assert all((by_hand[name] == by_hooks[name]).all() for name in by_hand)


def test_a_warning_that_is_made_an_error_leaves_no_step_half_done() -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pruner = bs.Pruner(model, optimizer, scorer="gradient", schedule=bs.OneShot(0.5, 1))
    backward(model, 1)
    optimizer.zero_grad(set_to_none=False)
    optimizer.step()
    with warnings.catch_warnings(), pytest.raises(UserWarning, match="scores of 'gradient' are equal"):
        warnings.simplefilter("error")
        pruner.step()
    assert pruner.steps == len(pruner.history) == 1
    assert pruner.history[0].step == 1
