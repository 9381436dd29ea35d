"""What torch's own optimizers keep, several optimizers as one, and optimizers that one registers."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Iterator
from typing import Any

import bittersweet as bs
import numpy as np
import pytest
import torch
from bittersweet.model.binding import bind, missing_reads
from bittersweet.model.targets import find_targets
from bittersweet.optimizers.adapters import REGISTERED
from bittersweet.optimizers.optimizers import Optimizers
from optimizer_support import TARGETS, Gradients, double, held_run, net, step

BITTER7 = frozenset(("weight", "exp_avg_sq"))
ONCE = bs.OneShot(0.5, 3)


@pytest.fixture(autouse=True)
def _nothing_registered() -> Iterator[None]:
    yield
    REGISTERED.clear()


def adamw(model: torch.nn.Module, **options: Any) -> torch.optim.AdamW:
    return torch.optim.AdamW(model.parameters(), lr=1e-2, **options)


def matrices(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    return [one for one in model.parameters() if one.ndim == 2]


@pytest.mark.parametrize(
    ("kind", "options", "beta"),
    [
        (torch.optim.AdamW, {"betas": (0.8, 0.9)}, 0.9),
        (torch.optim.RMSprop, {"alpha": 0.7, "momentum": 0.9}, 0.7),
        (torch.optim.Adadelta, {"rho": 0.6}, 0.6),
    ],
)
def test_second_moments_are_running_means_of_squares(kind: Any, options: Any, beta: float) -> None:
    model = net()
    weight = model[0].weight
    gradients, optimizer = Gradients(weight), kind(model.parameters(), lr=1e-3, **options)
    for now in range(5):
        step(model, optimizer, seed=now)
    state = Optimizers.of(optimizer).read(weight, with_step=True)
    assert state.exp_avg_sq is not None
    np.testing.assert_allclose(double(state.exp_avg_sq), gradients.mean(beta, 2), rtol=1e-5)
    assert state.step == 5
    assert state.decoded == frozenset()


@pytest.mark.parametrize("shape", [(128, 64), (7, 5), (4, 3, 2, 2), (6, 3, 5)])
def test_adafactor_is_decoded_from_its_factors(shape: tuple[int, ...]) -> None:
    torch.manual_seed(1)
    weight = torch.nn.Parameter(torch.randn(shape))
    optimizer = torch.optim.Adafactor([weight], lr=1e-2, beta2_decay=-0.6)
    row = np.zeros((*shape[:-1], 1))
    column = np.zeros((*shape[:-2], 1, shape[-1]))
    for now in range(1, 5):
        weight.grad = 1e-4 * torch.randn(shape)  # below the floor that torch puts under the mean
        optimizer.step()
        square, share = double(weight.grad) ** 2, now**-0.6
        row += share * (square.mean(-1, keepdims=True) - row)
        column += share * (square.mean(-2, keepdims=True) - column)
    kept = Optimizers.of(optimizer)
    state = kept.read(weight, decode=True)
    assert state.exp_avg_sq is not None
    np.testing.assert_allclose(
        double(state.exp_avg_sq), row * column / row.mean(-2, keepdims=True), rtol=1e-5
    )
    assert state.decoded == {"exp_avg_sq"}
    assert kept.read(weight).exp_avg_sq is None  # nothing that could be masked in place
    assert set(optimizer.state[weight]) == {"step", "row_var", "col_var"}


def test_adafactor_of_vectors_and_of_zero_gradients() -> None:
    vector, weight = torch.nn.Parameter(torch.randn(9)), torch.nn.Parameter(torch.randn(4, 3))
    optimizer = torch.optim.Adafactor([vector, weight], lr=1e-2)
    vector.grad, weight.grad = torch.randn(9), torch.zeros(4, 3)
    optimizer.step()
    kept = Optimizers.of(optimizer)
    assert kept.read(vector).exp_avg_sq is optimizer.state[vector]["variance"]
    decoded = kept.read(weight, decode=True).exp_avg_sq
    assert decoded is not None
    assert not decoded.any()


def test_adafactor_prunes_by_its_second_moments() -> None:
    model = net()
    optimizer = torch.optim.Adafactor(model.parameters(), lr=1e-2)
    pruner = held_run(model, optimizer)
    assert pruner.history[0].skipped == ()


def test_muon_keeps_a_mean_of_gradients_and_no_squares() -> None:
    model = net()
    weight, gradients = model[0].weight, Gradients(model[0].weight)
    optimizer = torch.optim.Muon(matrices(model), lr=1e-3, momentum=0.8)
    for now in range(4):
        step(model, optimizer, seed=now)
    state = Optimizers.of(optimizer).read(weight, decode=True)
    assert state.exp_avg is optimizer.state[weight]["momentum_buffer"]
    assert state.exp_avg_sq is None
    np.testing.assert_allclose(double(state.exp_avg), gradients.mean(0.8, 1), rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize(
    ("kind", "options", "why"),
    [
        (torch.optim.Adamax, {}, "Adamax keeps no exp_avg_sq, and"),
        (torch.optim.SGD, {"momentum": 0.9}, "SGD keeps no exp_avg_sq, and"),
        (torch.optim.Adagrad, {}, "Adagrad keeps no exp_avg_sq (it keeps the sum of squared gradients"),
        (torch.optim.ASGD, {}, "ASGD keeps no exp_avg_sq, and"),
        (torch.optim.Rprop, {}, "Rprop keeps no exp_avg_sq, and"),
        (torch.optim.LBFGS, {}, "LBFGS keeps no exp_avg_sq (it keeps a history of steps"),
    ],
)
def test_what_keeps_no_second_moment_is_refused_at_once(kind: Any, options: Any, why: str) -> None:
    model = net()
    optimizer = kind(model.parameters(), lr=1e-3, **options)
    with pytest.raises(bs.ArgumentError, match=re.escape(why)) as error:
        bs.Pruner(model, optimizer, schedule=ONCE)
    assert "magnitude" in str(error.value)
    held_run(model, optimizer, closure=kind is torch.optim.LBFGS, scorer="magnitude")


def test_what_is_really_held_is_said() -> None:
    parameters = matrices(net())

    def held(*optimizers: torch.optim.Optimizer, state: bool = True) -> str:
        return Optimizers.of(list(optimizers)).held(state)

    optim = torch.optim
    assert held(optim.AdamW(parameters)) == "weights, exp_avg and exp_avg_sq"
    assert held(optim.AdamW(parameters), state=False) == "weights"
    assert held(optim.Adam(parameters, amsgrad=True)) == "weights, exp_avg, exp_avg_sq and max_exp_avg_sq"
    assert held(optim.SGD(parameters)) == "weights"
    assert held(optim.SGD(parameters, momentum=0.9)) == "weights; momentum_buffer of SGD is left alone"
    assert held(optim.ASGD(parameters)) == "weights and ax"
    assert held(optim.Rprop(parameters)) == "weights; prev and step_size of Rprop are left alone"
    assert held(optim.Adafactor(parameters)) == (
        "weights; row_var and col_var of Adafactor are left alone, having no number per weight"
    )
    assert held(optim.Muon(parameters[:1]), optim.AdamW(parameters[1:])) == (
        "weights, momentum_buffer of Muon and exp_avg and exp_avg_sq of AdamW"
    )


def test_held_is_what_is_zero_and_left_alone_is_what_is_not() -> None:
    for kind, options in ((torch.optim.SGD, {"momentum": 0.9}), (torch.optim.RMSprop, {"momentum": 0.9})):
        model = net()
        optimizer = kind(model.parameters(), lr=1e-3, **options)
        pruner = held_run(model, optimizer, scorer="magnitude")
        dead = ~pruner.masks["0.weight"]
        assert optimizer.state[model[0].weight]["momentum_buffer"][dead].any()
        square = optimizer.state[model[0].weight].get("square_avg")
        assert square is None or not square[dead].any()


def test_averaged_weights_of_asgd_are_masked_too() -> None:
    model = net()
    optimizer = torch.optim.ASGD(model.parameters(), lr=1e-2, t0=1)
    for hold in ("weights", "grads"):
        held_run(model, optimizer, scorer="magnitude", hold=hold, regrow=True)


@pytest.mark.parametrize("scorer", ["bitter3", "magnitude"])
def test_several_optimizers_share_one_threshold(scorer: str) -> None:
    model = net()
    muon = torch.optim.Muon([model[2].weight], lr=1e-2)
    optimizers = [muon, torch.optim.AdamW(model[0].parameters(), lr=1e-2)]
    if scorer == "bitter3":
        kept = Optimizers.of(optimizers)
        with pytest.raises(bs.ArgumentError, match="Muon keeps no exp_avg_sq") as error:
            bs.Pruner(model, optimizers, schedule=ONCE)
        assert "ignore" in str(error.value)
        kept.require_state(BITTER7, "bitter7")  # one of them keeps it
        kept.require_state(BITTER7, "bitter7", model[0].parameters())
        return
    pruner = held_run(model, optimizers, scorer=scorer)
    scores = np.concatenate([np.abs(double(model.get_parameter(name))).ravel() for name in TARGETS])
    assert (scores == 0).sum() == scores.size // 2
    assert len({round(share, 4) for share in pruner.history[0].per_tensor.values()}) == 2


def test_each_parameter_is_read_from_its_own_optimizer() -> None:
    model = net()
    one = torch.optim.AdamW([model[0].weight], lr=1e-2, betas=(0.8, 0.9))
    two = torch.optim.NAdam([model[2].weight], lr=1e-2, betas=(0.7, 0.95))
    kept = Optimizers.of((one, two))
    assert kept
    assert (kept.inner, kept.outer) == ((one, two), (one, two))
    for now in range(3):
        step(model, one, two, seed=now)
    groups = kept.groups()
    for optimizer, weight in ((one, model[0].weight), (two, model[2].weight)):
        state = kept.read(weight, groups[id(weight)], with_step=True)
        assert state.exp_avg is optimizer.state[weight]["exp_avg"]
        assert state.betas == optimizer.param_groups[0]["betas"]
        assert (state.step, state.owner) == (3, type(optimizer).__name__)
    assert id(model[0].bias) not in groups
    two.add_param_group({"params": [model[0].bias]})
    assert id(model[0].bias) in kept.groups()
    held_run(model, [one, two], ignore="*bias")


def test_one_optimizer_per_parameter() -> None:
    model = net()
    optimizers = [torch.optim.AdamW([one], lr=1e-2) for one in model.parameters()]
    held_run(model, optimizers)


def test_what_is_no_optimizer_is_refused_with_what_to_pass() -> None:
    model = net()
    optimizer = adamw(model)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
    cases: list[tuple[Any, str]] = [
        (torch.optim.AdamW, "the class AdamW.*instance"),
        ({"a": optimizer}, "a dict"),
        (model.parameters(), "a generator"),
        ((one for one in [optimizer]), "a generator"),
        (scheduler, "StepLR, a learning rate scheduler.*AdamW"),
        (plateau, "ReduceLROnPlateau, a learning rate scheduler"),
        ([], "an empty list"),
        ([optimizer, optimizer], "the same optimizer twice"),
        ([optimizer, torch.optim.SGD(matrices(model))], r"shape \(128, 64\) is in both the AdamW at 0"),
        ([optimizer, scheduler], "StepLR"),
        ([[optimizer]], "found list"),
        (model, "found Sequential"),
        (3, "found int"),
    ]
    for given, why in cases:
        with pytest.raises(bs.ArgumentError, match=f"optimizer: .*{why}"):
            Optimizers.of(given)
    assert not Optimizers.of(None)
    kept = Optimizers.of(optimizer)
    assert Optimizers.of(kept) is kept


def test_copies_and_pickles_follow_their_optimizers() -> None:
    model = net()
    optimizer = adamw(model)
    step(model, optimizer)
    kept = Optimizers.of(optimizer)
    kept.read(model[0].weight)
    for other, its, its_model in (
        copy.deepcopy((kept, optimizer, model)),
        pickle.loads(pickle.dumps((kept, optimizer, model))),
    ):
        assert its is not optimizer
        assert other.inner == (its,)
        weight = its_model[0].weight
        assert other.read(weight).exp_avg is its.state[weight]["exp_avg"]


def test_which_optimizers_evaluate_their_closure_again() -> None:
    parameters = matrices(net())
    assert Optimizers.of(torch.optim.LBFGS(parameters)).evaluates_again() == "LBFGS"
    assert Optimizers.of(torch.optim.AdamW(parameters)).evaluates_again() is None


class Momentum(torch.optim.Optimizer):
    """Averages gradients under a name of its own, and their squares in one row."""

    def __init__(self, parameters: Any, first: str = "average") -> None:
        super().__init__(parameters, {"lr": 1e-2, "count": 0})
        self.first = first

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            group["count"] += 1
            for one in group["params"]:
                state = self.state[one]
                state.setdefault(self.first, torch.zeros_like(one)).lerp_(one.grad, 0.1)
                row = state.setdefault("row", torch.zeros_like(one[:1]))
                row.lerp_(one.grad.square().mean(0, keepdim=True), 0.1)
                one.sub_(state[self.first], alpha=group["lr"])


def test_an_unknown_optimizer_works_without_its_state_and_warns_with_it(fresh_warnings: None) -> None:
    del fresh_warnings
    model = net()
    optimizer = Momentum(model.parameters())
    assert Optimizers.of(optimizer).unknown() == ("Momentum",)
    held_run(model, optimizer, scorer="magnitude")
    with pytest.raises(bs.MissingStateError, match=r"Momentum keeps average, row for it\. Use .*magnitude"):
        held_run(model, optimizer)
    model = net()
    optimizer = Momentum(model.parameters(), "exp_avg_sq")
    with pytest.warns(UserWarning, match=r"Momentum is not known; what it keeps as exp_avg_sq is scored"):
        held_run(model, optimizer)
    assert not optimizer.state[model[0].weight]["exp_avg_sq"][model[0].weight == 0].any()


def squares_of(state: Any) -> torch.Tensor:
    return state["row"].expand_as(state["average"]).contiguous()


@pytest.mark.parametrize("given", [Momentum, f"{Momentum.__module__}.Momentum"])
def test_a_registered_optimizer_is_read_as_told(given: Any) -> None:
    bs.register_optimizer(given, exp_avg="average", exp_avg_sq=squares_of, step="count")
    model = net()
    optimizer = Momentum(model.parameters())
    kept = Optimizers.of(optimizer)
    assert kept.unknown() == ()
    assert (
        kept.held(True)
        == "weights and average; squares_of of Momentum is left alone, having no number per weight"
    )
    pruner = held_run(model, optimizer)
    weight = model[0].weight
    state = kept.read(weight, kept.groups()[id(weight)], with_step=True, decode=True)
    entry = optimizer.state[weight]
    assert state.exp_avg is entry["average"]
    assert state.exp_avg_sq is not None
    assert torch.equal(state.exp_avg_sq, entry["row"].expand(128, 64))
    assert (state.decoded, state.step) == ({"exp_avg_sq"}, 13)
    assert not entry["average"][~pruner.masks["0.weight"]].any()
    with pytest.raises(bs.ArgumentError, match="Momentum, which is not known to update element by element"):
        bs.Pruner(model, optimizer, scorer="magnitude", schedule=ONCE, hold="grads")


def test_registering_covers_companions_elementwise_and_reasons() -> None:
    class Slow(Momentum):
        def step(self, closure: Any = None) -> None:
            super().step()
            for group in self.param_groups:
                for one in group["params"]:
                    kept = self.state[one].setdefault("anchor", one.detach().clone())
                    one.data.lerp_(kept, 0.5)

    class Same(Slow):
        pass

    bs.register_optimizer(
        Slow, exp_avg="average", companions=["anchor"], elementwise=True, reason="its squares are in rows"
    )
    for kind in (Slow, Same):
        model = net()
        optimizer = kind(model.parameters())
        with pytest.raises(bs.ArgumentError, match=r"keeps no exp_avg_sq \(its squares are in rows\)"):
            bs.Pruner(model, optimizer, schedule=ONCE)
        held_run(model, optimizer, scorer="magnitude", hold="grads")
    bs.register_optimizer(Slow, exp_avg_sq="average")  # the last call counts
    assert Optimizers.of(Slow(net().parameters())).held(True) == "weights and average"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"optimizer": "Momentum"}, "optimizer: 'Momentum'; accepted: a class, or its path"),
        ({"optimizer": 3}, "optimizer: 3"),
        ({"exp_avg": 3}, "exp_avg: 3; accepted: a key, a function, or None"),
        ({"step": 1}, "step: 1"),
        ({"elementwise": 1}, "elementwise: 1; accepted: True, False"),
        ({"companions": [1]}, r"companions: \(1,\)"),
        ({"reason": 1}, "reason: 1"),
    ],
)
def test_a_bad_registration_changes_nothing(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(bs.ArgumentError, match=why):
        bs.register_optimizer(**{"optimizer": Momentum, **changes})
    assert not REGISTERED


def test_messages_say_why_state_is_missing() -> None:
    model = net()
    optimizer = adamw(model)
    targets = find_targets(model, optimizer).targets

    def why(given: Any) -> str:
        error = missing_reads(bind(model, Optimizers.of(given), targets, BITTER7)[0], BITTER7)
        assert error is not None
        return str(error)

    assert "no gradient in any optimizer step yet. Begin the schedule" in why(optimizer)
    assert "there is no optimizer" in why(None)
    assert "not in the optimizer now" in why(torch.optim.AdamW([torch.nn.Parameter(torch.ones(3))]))
    assert "or because Momentum keeps none" in why(Momentum(model.parameters()))
    sgd = torch.optim.Adagrad(model.parameters())
    step(model, sgd)
    assert "Adagrad keeps step, sum for it (it keeps the sum of squared gradients" in why(sgd)
    assert "Begin the schedule" not in why(sgd)
