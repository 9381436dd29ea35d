"""`prune_`, `make_masks` and `threshold` of a whole model, against NumPy."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterable
from typing import Any

import bittersweet as bs
import numpy as np
import pytest
import torch
from pruner_support import adamw, backward, mlp, weights
from torch import nn


def zeros(model: nn.Module) -> dict[str, int]:
    return {name: int((weight == 0).sum()) for name, weight in weights(model).items()}


def flat(model: nn.Module) -> np.ndarray[Any, Any]:
    return joined(weights(model).values())


def joined(tensors: Iterable[torch.Tensor]) -> np.ndarray[Any, Any]:
    return np.concatenate([tensor.detach().double().numpy().ravel() for tensor in tensors])


def lowest(scores: np.ndarray[Any, Any], share: float) -> np.ndarray[Any, Any]:
    """Which elements go, ties to the lower index."""
    gone = np.zeros(scores.size, bool)
    gone[np.argsort(scores, kind="stable")[: math.floor(share * scores.size + 0.5)]] = True
    return gone


class Convs(nn.Module):
    """Other layers, awkward sizes, a tied weight and a norm."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.stem = nn.Conv2d(3, 7, 3)
        self.norm = nn.BatchNorm2d(7)
        self.up = nn.ConvTranspose1d(5, 6, 3, bias=False)
        self.left = nn.Linear(65, 11)
        self.right = nn.Linear(65, 11)
        self.right.weight = self.left.weight
        self.embed = nn.Embedding(9, 4)


@pytest.mark.parametrize("make", [mlp, Convs], ids=["mlp", "convs"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("share", [0.0, 0.37, 0.5, 1.0])
def test_a_model_is_pruned_by_magnitude(make: Any, dtype: torch.dtype, share: float) -> None:
    model = make().to(dtype)
    before, others = (
        flat(model),
        {n: p.clone() for n, p in model.named_parameters() if n not in weights(model)},
    )
    names = dict.fromkeys(weights(model))
    if make is Convs:  # the tied weight counts once
        del names["right.weight"]
        before = joined(weights(model)[name] for name in names)
    event = bs.prune_(model, sparsity=share)
    after = joined(weights(model)[name] for name in names)
    gone = lowest(np.abs(before), share)
    assert np.array_equal(after, np.where(gone, 0.0, before))
    assert event.pruned == event.k == gone.sum()
    assert event.total == before.size
    assert event.scorer == "magnitude"
    assert list(event.per_tensor) == list(names)
    for name, parameter in others.items():
        assert torch.equal(model.get_parameter(name), parameter), name


def test_the_state_of_the_optimizer_is_read() -> None:
    model = mlp()
    optimizer = adamw(model)
    for step in range(3):
        backward(model, step)
        optimizer.step()
        optimizer.zero_grad()
    w = flat(model)
    v = joined(optimizer.state[model.get_parameter(name)]["exp_avg_sq"] for name in weights(model))
    m = [optimizer.state[model.get_parameter(n)]["exp_avg"] for n in weights(model)]
    event = bs.prune_(model, sparsity=0.4, optimizer=optimizer)
    expected = lowest(np.abs(w) * (v + 1e-8) ** 0.25, 0.4)
    assert event.scorer == "bitter7"
    assert ((flat(model) == 0) ^ expected).sum() <= 2  # float32 rounds a score at the threshold
    assert all(bool((moment != 0).all()) for moment in m)
    bs.prune_(model, sparsity=0.4, optimizer=optimizer, scorer="magnitude", mask_optimizer_state=True)
    for name in weights(model):
        parameter = model.get_parameter(name)
        dead = parameter == 0
        assert dead.any()
        for key in ("exp_avg", "exp_avg_sq"):
            assert not optimizer.state[parameter][key][dead].any()


def test_copies_that_the_optimizer_writes_back_are_zeroed_too() -> None:
    schedulefree = pytest.importorskip("schedulefree")
    model = mlp()
    optimizer = schedulefree.AdamWScheduleFree(model.parameters(), lr=1e-2)
    optimizer.train()
    for step in range(3):
        backward(model, step)
        optimizer.step()
        optimizer.zero_grad()
    event = bs.prune_(model, sparsity=0.5, optimizer=optimizer, scorer="magnitude")
    before = zeros(model)
    optimizer.eval()
    assert zeros(model) == before
    assert sum(before.values()) == event.pruned


def test_a_state_of_another_kind_is_named() -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    backward(model, 0)
    optimizer.step()
    with pytest.raises(bs.Error, match=r"SGD keeps"):
        bs.prune_(model, sparsity=0.5, optimizer=optimizer)
    assert bs.prune_(model, sparsity=0.5, optimizer=optimizer, scorer="magnitude").pruned > 0


def test_several_optimizers_make_one_scope() -> None:
    torch.manual_seed(0)
    model = mlp()
    one = torch.optim.AdamW(list(model[0].parameters()) + list(model[2].parameters()), lr=1e-2)
    two = torch.optim.AdamW(model[4].parameters(), lr=1e-2)
    both = adamw(twin := copy.deepcopy(model))
    both.defaults["weight_decay"] = 0.01
    for group in both.param_groups:
        group["weight_decay"] = 0.01
    for step in range(2):
        backward(model, step), backward(twin, step)
        one.step(), two.step(), both.step()
        model.zero_grad(), twin.zero_grad()
    split = bs.make_masks(model, sparsity=0.5, optimizer=[one, two])
    whole = bs.make_masks(twin, sparsity=0.5, optimizer=both)
    assert all(torch.equal(split[name], whole[name]) for name in whole)
    partly = bs.make_masks(model, sparsity=0.5, optimizer=two)
    assert list(partly) == ["4.weight"]


def test_frozen_weights_are_pruned_where_nothing_trains_them() -> None:
    model = mlp().requires_grad_(False)
    bs.prune_(model, sparsity=0.5)
    assert sum(zeros(model).values()) == math.floor(flat(model).size / 2 + 0.5)
    model = mlp()
    model[0].requires_grad_(False)
    optimizer = adamw(model)
    bs.prune_(model, sparsity=0.5, optimizer=optimizer, scorer="magnitude")
    assert zeros(model)["0.weight"] == 0
    assert zeros(model)["2.weight"] > 0


def test_scopes_targets_and_wrappers() -> None:
    model = mlp()
    event = bs.prune_(nn.DataParallel(model), scope="2:4", ignore="4", targets=nn.Linear)
    assert list(event.per_tensor) == ["0.weight", "2.weight"]
    assert zeros(model)["4.weight"] == 0
    assert torch.equal((model[0].weight.reshape(40, 3, 4) == 0).sum(2), torch.full((40, 3), 2))


def test_gradients_and_input_norms() -> None:
    model = mlp()
    backward(model, 0)
    gradients = joined(model.get_parameter(name).grad for name in weights(model))
    masks = bs.make_masks(model, sparsity=0.5, scorer="gradient")
    assert np.array_equal(joined(masks.values()) == 0, lowest(np.abs(gradients), 0.5))
    norms = {name: torch.rand(weight.shape[1]) + 0.1 for name, weight in weights(model).items()}
    bs.prune_(model, sparsity=0.5, scorer="wanda", scope="row", input_norms=norms)
    reference = mlp()
    for name, weight in weights(reference).items():
        score = weight.abs() * norms[name]
        count = math.floor(0.5 * weight.shape[1] + 0.5)
        columns = score.argsort(dim=1, stable=True)[:, :count]
        gone = torch.zeros_like(weight, dtype=torch.bool).scatter_(1, columns, True)
        assert torch.equal(model.get_parameter(name) == 0, gone), name


def test_shares_by_glob_have_thresholds_of_their_own() -> None:
    model = mlp()
    before = weights(model)
    event = bs.prune_(model, sparsity={"4.*": 0.25, "0": 0.9})
    for name, share in {"4.weight": 0.25, "0.weight": 0.9}.items():
        scores = before[name].abs().double().numpy().ravel()
        gone = lowest(scores, share)
        assert np.array_equal(model.get_parameter(name).detach().numpy().ravel() == 0, gone)
        group = event.groups[{"4.weight": "4.*", "0.weight": "0"}[name]]
        assert group["pruned"] == gone.sum()
        assert group["threshold"] == np.float32(scores[gone].max())
    assert torch.equal(model[2].weight, before["2.weight"])
    assert event.dense == ("2.weight",)
    assert event.threshold is None
    total = sum(zeros(model).values())
    assert event.pruned == total
    assert event.achieved_sparsity == pytest.approx(total / (12 * 40 + 33 * 5))
    assert event.achieved_sparsity_all == pytest.approx(total / flat(model).size)


def test_masks_of_a_model_are_a_mapping_that_prints() -> None:
    model = mlp()
    masks = bs.make_masks(model, sparsity=0.5)
    assert list(masks) == list(weights(model))
    assert masks.event is not None
    assert masks.event.pruned == sum(int((~mask).sum()) for mask in masks.values())
    assert masks.sparsity() == masks.event.achieved_sparsity
    assert repr(masks).startswith("MaskView(3 targets, sparsity=0.5")
    for name, mask in masks.items():
        assert mask.dtype == torch.bool
        line = next(line for line in str(masks).splitlines() if name in line)
        assert f"{int((~mask).sum()):,} pruned" in line
    assert sum(zeros(model).values()) == 0


def test_what_is_dead_stays_dead() -> None:
    model = mlp()
    first = bs.make_masks(model, sparsity=0.3)
    with torch.no_grad():
        for weight in (model.get_parameter(name) for name in weights(model)):
            weight.copy_(torch.randn_like(weight))
    for given in (first, dict(first), first.packed):
        second = bs.make_masks(model, sparsity=0.6, masks=given)
        assert second.event is not None
        assert second.event.pruned == math.floor(0.6 * flat(model).size + 0.5)
        for name, mask in first.items():
            assert not (second[name] & ~mask).any()
    event = bs.prune_(model, sparsity={"4.*": 0.9}, masks=first)
    assert zeros(model)["0.weight"] == int((~first["0.weight"]).sum())
    assert event.achieved_sparsity_all == pytest.approx(sum(zeros(model).values()) / flat(model).size)
    found = bs.threshold(model, sparsity=0.6, masks=first)
    assert found.dead == sum(int((~mask).sum()) for mask in first.values())


def test_missing_state_is_an_error_or_is_skipped_and_listed() -> None:
    model = mlp()
    optimizer = adamw(model)
    backward(model, 0)
    model[2].weight.grad = None
    optimizer.step()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(bs.MissingStateError, match=r"'2\.weight' has no exp_avg_sq.*scorer='magnitude'"):
        bs.prune_(model, sparsity=0.5, optimizer=optimizer)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    event = bs.prune_(model, sparsity=0.5, optimizer=optimizer, missing="skip")
    assert event.skipped == ("2.weight",)
    assert event.total == 12 * 40 + 33 * 5
    assert event.achieved_sparsity_all == pytest.approx(event.pruned / flat(model).size)
    with pytest.raises(bs.MissingStateError, match=r"every target lacks.*no gradient"):
        bs.prune_(mlp(), sparsity=0.5, scorer="taylor", missing="skip")


def test_a_decision_without_a_reason_is_said(fresh_warnings: None) -> None:
    model = mlp()
    backward(model, 0)
    model.zero_grad(set_to_none=False)
    with pytest.warns(
        UserWarning, match=r"all 1,965 scores of 'taylor' are equal \(0\).*gradients zeroed"
    ) as caught:
        bs.prune_(model, sparsity=0.5, scorer="taylor")
    assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match="983 of 1,965 weights were to be pruned, and 393 could be"):
        bs.prune_(mlp(), sparsity=0.5, max_tensor_sparsity=0.2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bs.prune_(mlp(), sparsity={"0": 0.5, "*": 0.1})


def test_the_threshold_of_a_model() -> None:
    model = mlp()
    scores = np.sort(np.abs(flat(model)).astype(np.float32))
    found = bs.threshold(model, sparsity=0.25)
    k = math.floor(0.25 * scores.size + 0.5)
    assert (found.value, found.k, found.total) == (scores[k - 1], k, scores.size)
    assert bs.threshold(model, k=7).value == scores[6]


def test_a_failure_changes_nothing() -> None:
    model = mlp()
    with torch.no_grad():
        model[4].weight[1, 2] = math.nan
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(bs.NonFiniteScoreError, match=r"4\.weight"):
        bs.prune_(model, sparsity={"0": 0.5, "4": 0.5})
    for name, value in model.state_dict().items():
        assert torch.equal(before[name].nan_to_num(), value.nan_to_num())
    with pytest.raises(bs.ArgumentError, match=r"sparsity: 50; .*50 % is 0\.5"):
        bs.prune_(model, sparsity=50)
    with pytest.raises(bs.ArgumentError, match="k: given beside sparsity by glob"):
        bs.make_masks(model, sparsity={"*": 0.5}, k=3)


def test_a_write_between_forward_and_backward_is_noticed() -> None:
    model = mlp()
    loss = model(torch.randn(4, 12)).square().sum()
    bs.prune_(model, sparsity=0.5)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    model(torch.randn(4, 12)).square().sum().backward()
    assert model[0].weight.is_leaf


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (lambda m: m.state_dict(), "a mapping .*Load a state dict into its model"),
        (lambda m: m.parameters(), "an iterator .*Pass the model itself"),
        (lambda m: m[0].weight, r"a bare tensor .*ScoreInputs\(weight\)"),
        (lambda m: np.ones(3, np.float32), r"a bare tensor .*ScoreInputs\(weight\)"),
        (lambda m: adamw(m), "an optimizer .*optimizer= beside it"),
        (lambda m: "org/model", "a path or a name .*Load the model"),
        (lambda m: list(m.parameters()), r"found Parameter; .*ScoreInputs\(weight"),
        (lambda m: None, "found NoneType"),
    ],
)
@pytest.mark.parametrize("function", [bs.prune_, bs.make_masks, bs.threshold])
def test_what_is_no_model_gets_advice(function: Any, found: Any, message: str) -> None:
    with pytest.raises(bs.ArgumentError, match=f"inputs: {message}"):
        function(found(mlp()), sparsity=0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scorer": "bitter7"}, "optimizer: None, and scorer 'bitter7' reads exp_avg_sq"),
        ({"scorer": "bitter10"}, "follows a whole training"),
        ({"scorer": "identity"}, "scores of your own"),
        ({"scorer": "wanda"}, "Calibrator"),
        ({"input_norms": {}}, "'magnitude' does not read them"),
        ({"missing": "ignore"}, "missing: 'ignore'"),
        ({"optimizer": torch.optim.AdamW}, "optimizer: "),
        ({"optimizer": []}, "optimizer: found an empty list"),
        ({"masks": [1]}, "masks: found list"),
        ({"masks": {"7.weight": torch.ones(1, dtype=torch.bool)}}, r"'7\.weight' is not among"),
        ({"targets": "nothing"}, "targets names 'nothing'"),
    ],
    ids=str,
)
def test_bad_options_of_a_model(options: dict[str, Any], message: str) -> None:
    with pytest.raises(bs.Error, match=message):
        bs.prune_(mlp(), sparsity=0.5, **options)


def test_options_of_a_model_are_refused_beside_tensors() -> None:
    item = bs.ScoreInputs(np.ones(8, np.float32))
    for options in ({"optimizer": 1}, {"targets": "a"}, {"ignore": "a"}, {"masks": {}}, {"input_norms": {}}):
        with pytest.raises(bs.ArgumentError, match=f"{next(iter(options))}: given beside ScoreInputs"):
            bs.make_masks(item, sparsity=0.5, scorer="magnitude", **options)
    with pytest.raises(bs.ArgumentError, match="missing"):
        bs.threshold(item, sparsity=0.5, scorer="magnitude", missing="skip")
    with pytest.raises(bs.ArgumentError, match="shares by glob"):
        bs.prune_(item, sparsity={"*": 0.5}, scorer="magnitude")


def test_copies_of_a_registered_optimizer_are_zeroed_too() -> None:
    bs.register_optimizer(Averaging, companions=["slow"])
    model = torch.nn.Linear(16, 8)
    optimizer = Averaging(model.parameters(), lr=0.1)
    model(torch.ones(1, 16)).sum().backward()
    optimizer.step()
    bs.prune_(model, sparsity=0.5, optimizer=optimizer, scorer="magnitude")
    dead = model.weight == 0
    optimizer.recall()
    assert dead.sum() == 64 and not model.weight[dead].any()


class Averaging(torch.optim.SGD):
    """Keeps slow weights, which `recall` writes back."""

    def step(self, closure: Any = None) -> Any:
        for parameter in self.param_groups[0]["params"]:
            self.state[parameter].setdefault("slow", parameter.detach().clone())
        return super().step(closure)

    @torch.no_grad()
    def recall(self) -> None:
        for parameter in self.param_groups[0]["params"]:
            parameter.copy_(self.state[parameter]["slow"])
