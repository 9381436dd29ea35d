"""GradientProbe and what surrounds it: masks, scorers' inputs, scopes, kinds of models, pruners, and text."""

from __future__ import annotations

import json
import math
from typing import Any

import bittersweet as bs
import numpy as np
import pytest
import torch
from probe_support import (
    NAMES,
    ORDERS,
    assert_as_probed,
    integer_batches,
    integer_net,
    matrices,
    probed,
    square_loss,
)
from pruner_support import adamw, mlp, train
from torch import nn


def test_weights_that_masks_prune_already_are_zeroed_before_the_test() -> None:
    model, batches = integer_net(3), integer_batches()
    weights = matrices(model)
    live = [np.arange(weight.size).reshape(weight.shape) % 3 != 0 for weight in weights]
    given_masks = {name: torch.from_numpy(one) for name, one in zip(NAMES[:2], live, strict=False)}
    live[2][:] = True
    probe = bs.GradientProbe(model, square_loss, batches, reduction=0.5, masks=given_masks)
    expected = probed(weights, live, batches, 0.6)
    result = probe.prune(0.6)
    assert_as_probed(model, probe, *expected)
    assert [layer.dead for layer in result.layers] == [int((~one).sum()) for one in live]


def test_scorers_read_optimizer_gradients_and_norms() -> None:
    model = mlp()
    optimizer = adamw(model)
    train(model, optimizer, None, 2)
    data = [torch.randn(4, 12)]

    def loss_fn(inner: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        return inner(batch).square().mean()

    names = ["0.weight", "2.weight", "4.weight"]
    inputs = [
        bs.ScoreInputs(
            model.get_parameter(name), exp_avg_sq=optimizer.state[model.get_parameter(name)]["exp_avg_sq"]
        )
        for name in names
    ]
    expected = bs.make_masks(inputs, sparsity=0.4, scorer="bitter7").bool()
    options = {"gradient_threshold": math.inf, "prune_zero_gradients": True, "progress": False}
    probe = bs.GradientProbe(model, loss_fn, data, scorer="bitter7", optimizer=optimizer, **options)
    probe.prune(0.4)
    assert all(
        torch.equal(mask.bool(), one) for mask, one in zip(probe.masks.values(), expected, strict=True)
    )

    model = mlp()
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    inputs = [bs.ScoreInputs(p, grad=p.grad) for p in (model.get_parameter(name) for name in names)]
    expected = bs.make_masks(inputs, sparsity=0.4, scorer="taylor").bool()
    probe = bs.GradientProbe(model, loss_fn, data, scorer="taylor", **options)
    probe.prune(0.4)
    assert all(
        torch.equal(mask.bool(), one) for mask, one in zip(probe.masks.values(), expected, strict=True)
    )


def test_input_norms_are_read_once_until_invalidated() -> None:
    model, calls = integer_net(), list[int]()
    norms = {name: torch.arange(1.0, 1 + model.get_parameter(name).shape[1]) for name in NAMES}

    def source() -> dict[str, torch.Tensor]:
        calls.append(1)
        model.eval()
        torch.rand(1)
        return norms

    options = {
        "scorer": "wanda",
        "scope": "row",
        "gradient_threshold": math.inf,
        "prune_zero_gradients": True,
    }
    state = torch.get_rng_state()
    probe = bs.GradientProbe(model, square_loss, integer_batches(), input_norms=source, **options)
    inputs = [bs.ScoreInputs(model.get_parameter(n), input_norm=norms[n].clone()) for n in NAMES]
    expected = bs.make_masks(inputs, sparsity=0.3, scorer="wanda", scope="row").bool()
    probe.prune(0.3)
    assert all(
        torch.equal(mask.bool(), one) for mask, one in zip(probe.masks.values(), expected, strict=True)
    )
    assert model.training and torch.equal(torch.get_rng_state(), state)
    norms["2.weight"].fill_(float("nan"))  # the probe has its own copies
    probe.prune(0.5)
    assert calls == [1]
    probe.invalidate()
    with pytest.raises(bs.NonFiniteScoreError, match=r"2\.weight"):
        probe.prune(0.7)
    assert calls == [1, 1]
    norms.pop("4.weight")
    probe.invalidate()
    with pytest.raises(bs.MissingStateError, match=r"input_norms: there are none for '4\.weight'"):
        probe.prune(0.7)


def test_an_n_of_m_scope_proposes_groups() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 6, bias=False), nn.Tanh(), nn.Linear(6, 4, bias=False))

    def loss_fn(inner: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        return inner(batch).square().sum()

    probe = bs.GradientProbe(model, loss_fn, [torch.randn(5, 8)], scope="2:4", ignore="2.*")
    result = probe.prune()
    assert (result.requested_sparsity, result.candidates, result.scope) == (0.5, 24, "2:4")
    dead = ~probe.masks["0.weight"].bool()
    assert (dead.reshape(-1, 4).sum(1) <= 2).all() and 0 < dead.sum() < 24
    with pytest.raises(bs.ArgumentError, match="sparsity"):
        probe.prune(0.75)


def test_tied_frozen_and_conv_layers() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(2, 6, 3).to(memory_format=torch.contiguous_format)
            self.a, self.b, self.still = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 2)
            self.b.weight = self.a.weight
            self.still.weight.requires_grad_(False)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            output: torch.Tensor = self.still(
                torch.tanh(self.b(torch.tanh(self.a(self.conv(inputs).mean(-1)))))
            )
            return output

    torch.manual_seed(0)
    model = Tied()
    still = model.still.weight.detach().clone()

    def loss_fn(inner: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        return inner(batch).square().sum()

    for order in ORDERS:
        probe = bs.GradientProbe(
            model, loss_fn, [torch.randn(3, 2, 8)], order=order, gradient_threshold=math.inf
        )
        result = probe.prune(0.5)
        assert [layer.name for layer in result.layers] == ["conv.weight", "a.weight"]
        assert result.pruned == 36
        assert int((model.a.weight == 0).sum()) + int((model.conv.weight == 0).sum()) == 36
    assert model.b.weight is model.a.weight and torch.equal(model.still.weight, still)
    assert not model.still.weight.requires_grad


def test_wrapped_models_have_the_names_of_the_model_inside() -> None:
    inner = integer_net()
    wrapped: Any = torch.compile(nn.DataParallel(inner), backend="eager")
    plain = integer_net()
    probes = [
        bs.GradientProbe(model, square_loss, integer_batches(), reduction=0.5) for model in (wrapped, plain)
    ]
    assert probes[0].prune(0.5).to_dict() | {"milliseconds": 0} == probes[1].prune(0.5).to_dict() | {
        "milliseconds": 0
    }
    assert probes[0].masks == probes[1].masks


def test_masks_move_on_to_a_pruner_that_holds_them() -> None:
    model = mlp()
    optimizer = adamw(model)

    def loss_fn(inner: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        return inner(batch).square().mean()

    probe = bs.GradientProbe(model, loss_fn, [torch.randn(4, 12)], gradient_threshold=1.0, ignore="4.*")
    probe.prune(0.5)
    pruner = bs.Pruner(model, optimizer, schedule=bs.OneShot(0.9, 1000))
    pruner.load_masks(probe.masks)
    assert pruner.sparsity().masked == pytest.approx(probe.sparsity().overall.pruned / 1965)
    assert pruner.masks["4.weight"].all()
    train(model, optimizer, pruner, 3)
    for name, mask in probe.masks.items():
        assert not model.get_parameter(name).detach()[~mask.bool()].any()
        assert torch.equal(pruner.masks[name], mask.bool())
    assert all(torch.equal(again, pruner.masks[name]) for name, again in _reloaded(pruner, model).items())
    with pytest.raises(bs.ArgumentError, match=r"masks: '0\.bias' is not among"):
        pruner.load_masks({"0.bias": torch.ones(40, dtype=torch.bool)})
    with pytest.raises(bs.ShapeError, match=r"0\.weight"):
        pruner.load_masks({"0.weight": torch.ones(40, dtype=torch.bool)})


def _reloaded(pruner: bs.Pruner, model: nn.Module) -> dict[str, torch.Tensor]:
    other = bs.Pruner(model, adamw(model), schedule=bs.OneShot(0.9, 1000))
    other.load_state_dict(pruner.state_dict())
    return dict(other.masks)


def test_the_result_prints_and_goes_into_json() -> None:
    model = integer_net()
    probe = bs.GradientProbe(model, square_loss, integer_batches(), gradient_threshold=math.inf, order="size")
    result = probe.prune(0.5)
    text = str(result)
    for part in (
        "requested 0.5000",
        "magnitude, scope global, order size",
        "0.weight",
        f"{result.kept:,} kept",
    ):
        assert part in text
    values = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert values["gradient_threshold"] == "inf"
    assert values["achieved_sparsity"] == result.achieved_sparsity
    assert [layer["name"] for layer in values["layers"]] == list(result.per_tensor) == NAMES
    assert probe.history == (result,)
    assert "order: size" in str(probe.plan())
