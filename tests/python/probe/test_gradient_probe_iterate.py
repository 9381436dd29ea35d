"""GradientProbe.iterate: rounds within a budget, and what is left when it stops."""

from __future__ import annotations

import io
import json
import math
import sys
from collections.abc import Callable
from typing import Any

import bittersweet as bs
import numpy as np
import pytest
import torch
from probe_support import (
    TOTAL,
    all_live,
    cross_entropy,
    integer_batches,
    integer_net,
    matrices,
    noisy,
    noisy_batches,
    probed,
    square_loss,
    surroundings,
    values,
)
from torch import nn

BATCHES = integer_batches()


def zeros(model: nn.Module) -> float:
    """The share of dead weights; of `integer_net` itself too, where some are 0 from the start."""
    return sum(int((p == 0).sum()) for p in model.parameters()) / TOTAL


def net(seed: int = 0) -> nn.Sequential:
    """`integer_net` without zeros, so that zeros are what was pruned."""
    model = integer_net(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter[parameter == 0] = 4
    return model


def probe_of(model: nn.Module, **options: Any) -> bs.GradientProbe:
    defaults: dict[str, Any] = {"reduction": 0.5, "gradient_threshold": 0.5, "progress": False}
    return bs.GradientProbe(model, square_loss, BATCHES, **defaults | options)


@pytest.mark.parametrize("order", ["global", "reverse"])
def test_rounds_are_the_oracle_s_and_stop_within_the_budget(order: str) -> None:
    model = net(1)
    weights, live = matrices(model), all_live(matrices(model))
    expected = []
    for number in range(1, 11):
        weights, live = probed(weights, live, BATCHES, min(number / 10, 1.0), order=order, threshold=0.5)
        expected.append((weights, live))
    dead = [sum(int((~one).sum()) for one in live) / TOTAL for _, live in expected]
    for budget in (0.05, 0.3, 0.45, 2.0):
        model = net(1)
        probe = probe_of(model, order=order)
        outcome = probe.iterate(0.1, budget, zeros)
        good = [i for i in range(10) if dead[i] <= budget]
        assert outcome.reference == 0 and outcome.initial_sparsity == 0
        assert len(outcome.accepted) == len(good)
        assert [one.result.achieved_sparsity for one in outcome.accepted] == [dead[i] for i in good]
        assert [one.metric for one in outcome.rounds] == pytest.approx(dead[: len(outcome.rounds)])
        assert outcome.stopped == ("limit" if len(good) == 10 else "budget")
        assert outcome.achieved_sparsity == (dead[good[-1]] if good else 0.0) == probe.sparsity().masked
        assert outcome.requested_sparsity == pytest.approx(len(good) / 10)
        assert outcome.achieved_sparsity <= outcome.requested_sparsity + 1e-12
        if good:
            for found, wanted in zip(matrices(model), expected[good[-1]][0], strict=True):
                np.testing.assert_array_equal(found, wanted)
        assert [one.result for one in outcome.accepted] == list(probe.history)


@pytest.mark.parametrize("fails", [math.inf, math.nan, 10.0])
def test_a_failing_first_round_leaves_the_dense_model(fails: float) -> None:
    model = noisy()
    around, before = surroundings(model), values(model)
    probe = bs.GradientProbe(model, cross_entropy, noisy_batches(), gradient_threshold=1.0, progress=False)
    masks, results = probe.masks, iter((1.0, fails))
    outcome = probe.iterate(0.3, 0.5, lambda _: next(results))
    assert outcome.stopped == "budget" and not outcome.accepted
    assert outcome.rounds[0].result.pruned > 0 and not outcome.rounds[0].accepted
    assert (outcome.metric, outcome.achieved_sparsity, outcome.requested_sparsity) == (1.0, 0.0, 0.0)
    assert surroundings(model) == around and values(model) == before
    assert probe.masks == masks and probe.history == ()
    saved = json.loads(json.dumps(outcome.to_dict(), allow_nan=False))["rounds"][0]["metric"]
    assert saved == (fails if math.isfinite(fails) else str(fails))


def test_the_budget_is_absolute_and_has_a_direction() -> None:
    def scripted(*numbers: float) -> Callable[[Any], float]:
        script = iter(numbers)
        return lambda _: next(script)

    cases: list[tuple[float, bool, tuple[float, ...], int]] = [
        (1.0, True, (5.0, 6.0, 6.0001), 1),  # just on the budget, then over it
        (1.0, True, (5.0, 1.0, 5.5, 6.5), 2),  # better is fine, and does not move the reference
        (1.0, False, (5.0, 4.0, 3.9999), 1),
        (1.0, False, (5.0, 9.0, 4.5, 3.5), 2),
        (0.0, True, (5.0, 5.0, 5.0000001), 1),
        (0.0, False, (-2.0, -2.0, -2.5), 1),
    ]
    for budget, lower, numbers, accepted in cases:
        outcome = probe_of(net()).iterate(0.2, budget, scripted(*numbers), lower_is_better=lower)
        assert (len(outcome.accepted), outcome.stopped) == (accepted, "budget")
        assert [one.metric for one in outcome.rounds] == list(numbers[1:])
    outcome = probe_of(net()).iterate(0.2, math.inf, scripted(1.0, *[1e30] * 5))
    assert (len(outcome.accepted), outcome.stopped) == (5, "limit")


def test_it_ends_when_everything_has_been_asked_for() -> None:
    requests = []
    for step in (0.1, 0.3, 1 / 3, 0.7, 1.0):
        outcome = probe_of(net()).iterate(step, math.inf, zeros)
        asked = [one.result.requested_sparsity for one in outcome.rounds]
        assert asked[-1] == 1.0 and outcome.stopped == "limit"
        assert asked == sorted(set(asked))
        requests.append(len(asked))
    assert requests == [10, 4, 3, 2, 1]


def test_it_ends_early_when_everything_is_dead() -> None:
    probe = probe_of(net(), gradient_threshold=math.inf, prune_zero_gradients=True)
    probe.prune(1.0)
    outcome = probe.iterate(0.5, math.inf, zeros)
    assert (outcome.rounds, outcome.stopped, outcome.achieved_sparsity) == ((), "limit", 1.0)
    probe = probe_of(
        net(), scope="1:2", targets="0.*", gradient_threshold=math.inf, prune_zero_gradients=True
    )
    outcome = probe.iterate(0.5, math.inf, zeros)
    assert [one.result.requested_sparsity for one in outcome.rounds] == [0.5]
    assert outcome.achieved_sparsity == 0.5


def test_it_goes_on_from_what_is_pruned() -> None:
    probe = probe_of(net(), gradient_threshold=math.inf, prune_zero_gradients=True)
    probe.prune(0.5)
    outcome = probe.iterate(0.2, 0.3, zeros)
    assert outcome.initial_sparsity == outcome.reference == 0.5
    assert [one.result.requested_sparsity for one in outcome.rounds] == pytest.approx([0.7, 0.9])
    assert (len(outcome.accepted), outcome.stopped) == (1, "budget")
    assert [result.requested_sparsity for result in probe.history] == pytest.approx([0.5, 0.7])


def test_a_callback_sees_every_accepted_round_and_can_stop() -> None:
    seen: list[bs.ProbeRound] = []

    def on_round(one: bs.ProbeRound) -> bool:
        seen.append(one)
        return len(seen) == 2

    probe = probe_of(net())
    outcome = probe.iterate(0.1, math.inf, zeros, on_round=on_round)
    assert outcome.rounds == tuple(seen) and len(seen) == 2 and outcome.stopped == "on_round"
    assert probe.sparsity().masked == seen[-1].result.achieved_sparsity


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()], ids=["error", "interrupt"])
@pytest.mark.parametrize("where", ["metric", "loss", "callback"])
def test_an_error_undoes_its_round_and_keeps_those_before(where: str, error: BaseException) -> None:
    reference_model = net()
    reference = probe_of(reference_model)
    reference.prune(0.2)
    if where == "callback":
        reference.prune(0.4)  # the second round was accepted before the callback failed
    model, calls = net(), {"metric": 0, "loss": 0, "callback": 0}
    limits = {"metric": 3, "loss": 2 * 2 * len(BATCHES), "callback": 2}

    def counted(name: str, value: Any) -> Any:
        calls[name] += 1
        if name == where and calls[name] == limits[name]:
            raise error
        return value

    probe = bs.GradientProbe(
        model, lambda inner, batch: counted("loss", square_loss(inner, batch)), BATCHES, reduction=0.5,
        gradient_threshold=0.5, progress=False,
    )  # fmt: skip
    with pytest.raises(type(error)):
        probe.iterate(
            0.2,
            math.inf,
            lambda inner: counted("metric", 1.0),
            on_round=lambda one: counted("callback", None),
        )
    assert calls[where] == limits[where]
    assert values(model) == values(reference_model)
    assert probe.masks == reference.masks
    assert [one.layers for one in probe.history] == [one.layers for one in reference.history]


def test_what_the_metric_does_to_the_model_is_undone() -> None:
    model = noisy()
    around = surroundings(model)

    def metric(inner: nn.Module) -> torch.Tensor:
        assert not torch.is_grad_enabled()
        inner.train()
        torch.rand(3)
        return cross_entropy(inner, noisy_batches()[0])

    probe = bs.GradientProbe(model, cross_entropy, noisy_batches(), gradient_threshold=1.0, progress=False)
    outcome = probe.iterate(0.25, 5.0, metric)
    assert len(outcome.rounds) > 1
    assert surroundings(model) == around


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ((0.0, 1.0, zeros), "step: 0.0; accepted"),
        ((1.5, 1.0, zeros), "step: 1.5; accepted"),
        ((0.1, -1.0, zeros), "budget: -1.0; accepted: a number from 0 to inf"),
        ((0.1, math.nan, zeros), "budget: nan"),
        ((0.1, 1.0, lambda model: "good"), "metric: it returned str; accepted: a number"),
        ((0.1, 1.0, lambda model: torch.ones(2)), "metric: it returned Tensor"),
        ((0.1, 1.0, lambda model: math.nan), "metric: nan for the model before the first round"),
        ((0.1, 1.0, zeros, "lower"), "lower_is_better: 'lower'"),
    ],
)
def test_bad_arguments_change_nothing(arguments: Any, match: str) -> None:
    model = net()
    before = values(model)
    with pytest.raises(bs.ArgumentError, match=match):
        probe_of(model).iterate(*arguments)
    assert values(model) == before


def test_the_outcome_prints_and_goes_into_json() -> None:
    outcome = probe_of(net(1)).iterate(0.2, 0.3, zeros)
    text = str(outcome)
    assert "undone" in text and "accepted" in text and "stopped by budget" in text and "budget +0.3" in text
    found = json.loads(json.dumps(outcome.to_dict(), allow_nan=False))
    assert found["stopped"] == "budget" and len(found["rounds"]) == len(outcome.rounds)
    assert found["rounds"][0]["result"]["candidates"] == outcome.rounds[0].result.candidates


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("progress", [True, False])
def test_a_bar_on_a_terminal_counts_every_loss(progress: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tqdm")
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    probe = probe_of(net(), order="forward", progress=progress)
    probe.prune(0.5)
    probe_of(net(), progress=progress).iterate(0.5, math.inf, zeros)
    bs.GradientProbe(net(), square_loss, lambda: iter(BATCHES), progress=progress).prune(0.5)
    text = screen.getvalue()
    if not progress:
        assert text == ""
        return
    for part in ("gradient probe 100 %", "gradient probe 1/2 100 %", "gradient probe 2/2 100 %"):
        assert part in text
