"""GradientProbe: which weights go, against an oracle in float64. Integers make both arithmetics exact."""

from __future__ import annotations

import math
from typing import Any

import bittersweet as bs
import numpy as np
import pytest
import torch
from bittersweet.probe.gradient_check import Rule
from hypothesis import given
from hypothesis import strategies as st
from probe_support import (
    NAMES,
    ORDERS,
    TOTAL,
    all_live,
    assert_as_probed,
    candidates,
    integer_batches,
    integer_net,
    kept,
    matrices,
    noting,
    peaks,
    probed,
    square_loss,
)
from torch import nn

THRESHOLDS = (-1.0, -0.5, 0.0, 0.5, math.inf)


@pytest.mark.parametrize("threshold", THRESHOLDS)
@pytest.mark.parametrize("order", ORDERS)
def test_every_order_and_threshold_prunes_what_the_oracle_prunes(order: str, threshold: float) -> None:
    batches = integer_batches()
    decided = set()
    for seed in range(4):
        for prune_zero in (False, True):
            model = integer_net(seed)
            weights, live = matrices(model), all_live(matrices(model))
            probe = bs.GradientProbe(
                model, square_loss, batches, reduction=0.5, gradient_threshold=threshold, order=order,
                prune_zero_gradients=prune_zero, progress=False,
            )  # fmt: skip
            for sparsity in (0.2, 0.5, 0.5, 0.9):
                result = probe.prune(sparsity)
                proposed = sum(int(c.sum()) for c in candidates(weights, live, sparsity, "global"))
                weights, live = probed(
                    weights, live, batches, sparsity, order=order, threshold=threshold, prune_zero=prune_zero
                )
                assert_as_probed(model, probe, weights, live)
                dead = sum(int((~alive).sum()) for alive in live)
                assert result.candidates == proposed
                assert result.achieved_sparsity == dead / TOTAL == probe.sparsity().masked
                assert result.requested_sparsity == sparsity
                assert result.pruned + result.kept == result.candidates
                decided |= {result.pruned > 0, result.kept > 0}
    if -1 < threshold < math.inf:
        assert decided == {True} or decided == {True, False}


def test_orders_differ_where_layers_depend_on_each_other() -> None:
    found = {}
    for order in ORDERS:
        model = integer_net(1)
        probe = bs.GradientProbe(model, square_loss, integer_batches(), reduction=0.5, order=order)
        probe.prune(0.5)
        found[order] = np.concatenate([one.ravel() for one in kept(probe)]).tobytes()
    assert len(set(found.values())) > 1


@pytest.mark.parametrize("order", ORDERS)
def test_scope_tensor_gives_every_layer_its_own_threshold(order: str) -> None:
    model, batches = integer_net(2), integer_batches()
    probe = bs.GradientProbe(model, square_loss, batches, reduction=0.5, order=order, scope="tensor")
    weights, live = probed(
        matrices(model), all_live(matrices(model)), batches, 0.5, order=order, scope="tensor"
    )
    result = probe.prune(0.5)
    assert_as_probed(model, probe, weights, live)
    assert [layer.candidates for layer in result.layers] == [21, 18, 8]
    assert result.threshold is None


@given(
    seed=st.integers(0, 30),
    steps=st.lists(st.floats(0, 1), min_size=1, max_size=3),
    threshold=st.sampled_from(THRESHOLDS),
    order=st.sampled_from(ORDERS),
)
def test_dead_stays_dead_and_the_request_is_an_upper_bound(
    seed: int, steps: list[float], threshold: float, order: str
) -> None:
    model = integer_net(seed)
    original = matrices(model)
    probe = bs.GradientProbe(
        model,
        square_loss,
        integer_batches(2, seed),
        gradient_threshold=threshold,
        order=order,
        progress=False,
    )
    live, asked = all_live(original), 0
    for sparsity in steps:
        result = probe.prune(sparsity)
        asked = max(asked, math.floor(sparsity * TOTAL + 0.5))
        now = kept(probe)
        for before, after in zip(live, now, strict=True):
            assert not (after & ~before).any()
        assert sum(int((~one).sum()) for one in now) <= asked
        assert result.achieved_sparsity <= asked / TOTAL
        live = now
        for weight, alive, start in zip(matrices(model), live, original, strict=True):
            np.testing.assert_array_equal(weight, np.where(alive, start, 0))


def test_infinity_takes_all_candidates_that_have_a_gradient() -> None:
    batches = integer_batches()
    for inputs, _ in batches:
        inputs[:, 2] = 0  # no gradient ever reaches the weights of this input
    weights = matrices(integer_net())
    silent = [
        (before == 0) & (after == 0)
        for before, after in zip(
            peaks(weights, batches), peaks([w / 2 for w in weights], batches), strict=True
        )
    ]
    assert silent[0][:, 2].all()
    zeros = sum(int(one.sum()) for one in silent)
    for prune_zero in (False, True):
        probe = bs.GradientProbe(
            integer_net(), square_loss, batches, reduction=0.5, gradient_threshold=math.inf,
            prune_zero_gradients=prune_zero,
        )  # fmt: skip
        result = probe.prune(1.0)
        assert (result.candidates, result.zero_gradients) == (TOTAL, zeros)
        assert result.pruned == TOTAL - (0 if prune_zero else zeros)
        for found, expected in zip(kept(probe), silent, strict=True):
            np.testing.assert_array_equal(found, expected & (not prune_zero))


def test_the_rule_in_float32() -> None:
    before = torch.tensor([0.0, 0.0, 1.0, 1.0, 1.0, 2.0, 1e-42, 3.0e38])
    after = torch.tensor([0.0, 1e-45, 0.0, 1.0, 1.0 + 2.0**-23, 3.0, 1e-42, 3.4e38])

    def goes(threshold: float, zero: bool = False) -> list[bool]:
        found: list[bool] = Rule(0.1, threshold, zero).lets_go(before, after).tolist()
        return found

    assert goes(0.0) == [False, False, True, True, False, False, True, False]
    assert goes(0.0, zero=True) == [True, False, True, True, False, False, True, False]
    assert goes(-1.0) == [False, False, True, False, False, False, False, False]
    assert goes(0.5) == [False, False, True, True, True, True, True, True]
    assert goes(math.inf) == [False, True, True, True, True, True, True, True]
    assert goes(1e300) == goes(math.inf)  # beyond float32, where 0 * inf would be NaN


def test_a_weight_that_no_loss_uses_is_kept_unless_asked_for() -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(6, 3, bias=False), nn.Linear(6, 3, bias=False)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            output: torch.Tensor = self.used(inputs)
            return output

    for order in ORDERS:
        for prune_zero, pruned in ((False, 0), (True, 9)):
            torch.manual_seed(0)
            probe = bs.GradientProbe(
                Half(), square_loss, integer_batches(), order=order, scope="tensor",
                prune_zero_gradients=prune_zero,
            )  # fmt: skip
            used, unused = probe.prune(0.5).layers
            assert (unused.candidates, unused.zero_gradients, unused.pruned) == (9, 9, pruned), order
            assert used.zero_gradients == 0


@pytest.mark.parametrize(
    ("dtype", "before", "after"), [(torch.bfloat16, 256.0, 258.0), (torch.float16, 1024.0, 1025.0)]
)
def test_half_precision_gradients_are_compared_in_float32(
    dtype: torch.dtype, before: float, after: float
) -> None:
    """The two are neighbours, so that in half precision three quarters of the way would round to `after`."""
    for share, pruned in ((0.75, 0), (1.0, 2)):
        model = nn.Linear(2, 1, bias=False, dtype=dtype)
        slopes = [before, after]

        def loss_fn(inner: nn.Linear, batch: float, slopes: list[float] = slopes) -> torch.Tensor:
            return (inner.weight.float() * (batch * slopes.pop(0))).sum()

        threshold = share * (after - before) / before
        probe = bs.GradientProbe(model, loss_fn, [1.0], gradient_threshold=threshold, progress=False)
        assert probe.prune(1.0).pruned == pruned


def test_the_gradient_maximum_of_a_bfloat16_model_is_kept_in_float32() -> None:
    from bittersweet.probe.gradient_check import ProbedLayer

    weight = nn.Parameter(torch.ones(2, 3, dtype=torch.bfloat16))
    mask = bs.Mask.from_bool(torch.tensor([[True, False, True], [False, True, False]]), "w")
    layer = ProbedLayer("w", weight, mask)
    peak = layer.no_gradient()
    assert peak.dtype == torch.float32 and peak.shape == (3,)
    layer.raise_to_(peak, torch.tensor([[1.5, 9, -2.5], [9, 0, 9]], dtype=torch.bfloat16), 0)
    layer.raise_to_(peak, torch.tensor([[-2.0, 9, 1.0], [9, -0.0, 9]], dtype=torch.bfloat16), 1)
    assert peak.tolist() == [2.0, 2.5, 0.0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_kept_candidates_of_half_models_have_their_original_bits(dtype: torch.dtype) -> None:
    model, batches = integer_net(5, dtype), integer_batches()
    original = [p.detach().clone() for p in model.parameters()]
    probe = bs.GradientProbe(model, square_loss, batches, reduction=0.1)
    result = probe.prune(0.7)
    assert result.kept and result.pruned
    for parameter, start, mask in zip(model.parameters(), original, probe.masks.values(), strict=True):
        expected = torch.where(mask.bool(), start, torch.zeros((), dtype=dtype))
        assert torch.equal(parameter.view(torch.int16), expected.view(torch.int16))


@pytest.mark.parametrize("order", ORDERS)
def test_only_the_weights_under_test_require_and_hold_gradients(order: str) -> None:
    model, seen = integer_net(), list[Any]()

    def note(inner: nn.Module) -> Any:
        assert all(parameter.grad is None for parameter in inner.parameters())
        return [name for name, parameter in inner.named_parameters() if parameter.requires_grad]

    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    probe = bs.GradientProbe(model, noting(square_loss, seen, note), integer_batches(2), order=order)
    result = probe.prune(0.5)
    turns = {"forward": NAMES, "reverse": NAMES[::-1], "size": NAMES}.get(order)
    expected = [NAMES] * 4 if turns is None else [[name] for name in turns for _ in range(4)]
    assert seen == expected
    assert (result.batches, result.evaluations) == (2, len(expected))
    assert all(torch.equal(parameter.grad, torch.ones_like(parameter)) for parameter in model.parameters())


def test_size_goes_from_the_largest_and_equals_in_the_order_of_the_model() -> None:
    model, seen = (
        nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 3), nn.Linear(3, 2), nn.Linear(2, 4)),
        list[Any](),
    )
    names = ["3.weight", "1.weight", "2.weight", "0.weight"]

    def loss_fn(inner: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        seen.extend(name for name, parameter in inner.named_parameters() if parameter.requires_grad)
        return inner(batch).square().sum()

    bs.GradientProbe(model, loss_fn, [torch.ones(1, 2)], order="size", scope="tensor").prune(0.5)
    assert seen == [name for name in names for _ in range(2)]


def test_nothing_to_propose_means_no_pass() -> None:
    model = integer_net()
    before = matrices(model)

    def loss_fn(*_: Any) -> torch.Tensor:
        raise AssertionError("called")

    result = bs.GradientProbe(model, loss_fn, integer_batches()).prune(0.0)
    assert (result.candidates, result.pruned, result.batches, result.evaluations) == (0, 0, 0, 0)
    for found, expected in zip(matrices(model), before, strict=True):
        np.testing.assert_array_equal(found, expected)
