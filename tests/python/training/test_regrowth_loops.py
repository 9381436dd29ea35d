"""RigL and SET in the loops people write, under every hold, and from a checkpoint."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from typing import Any

import bittersweet as bs
import numpy as np
import pytest
import torch
from optim_support import assert_equal
from pruner_support import backward, facts, mlp
from regrow_support import Recorder, cosine, expected, flags, require_afresh
from torch import nn

SCHEDULE = bs.ConstantSparsity(0.8, begin_step=3, end_step=12, frequency=3)
Optimizer = Callable[[nn.Module], torch.optim.Optimizer]

OPTIMIZERS: dict[str, Optimizer] = {
    "AdamW": lambda model: torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1),
    "amsgrad": lambda model: torch.optim.AdamW(model.parameters(), lr=1e-2, amsgrad=True),
    "bs.optim.AdamW": lambda model: bs.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1),
    "SGD": lambda model: torch.optim.SGD(model.parameters(), lr=1e-2, momentum=0.9),
    "RMSprop": lambda model: torch.optim.RMSprop(model.parameters(), lr=1e-3, momentum=0.5, centered=True),
    "Adagrad": lambda model: torch.optim.Adagrad(model.parameters(), lr=1e-2),
}


def plain(model: nn.Module, optimizer: Any, pruner: bs.Pruner, step: int) -> None:
    backward(model, step)
    optimizer.step()
    pruner.step()
    optimizer.zero_grad()


def clipped(model: nn.Module, optimizer: Any, pruner: bs.Pruner, step: int) -> None:
    backward(model, step)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
    optimizer.step()
    pruner.step()
    optimizer.zero_grad(set_to_none=False)


def accumulated(model: nn.Module, optimizer: Any, pruner: bs.Pruner, step: int) -> None:
    for part in range(3):
        backward(model, 10 * step + part)
    optimizer.step()
    pruner.step()
    optimizer.zero_grad()


def with_a_closure(model: nn.Module, optimizer: Any, pruner: bs.Pruner, step: int) -> None:
    def closure() -> float:
        optimizer.zero_grad()
        backward(model, step)
        return 0.0

    optimizer.step(closure)
    pruner.step()


def scaled(model: nn.Module, optimizer: Any, pruner: bs.Pruner, step: int) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    inputs = torch.randn(8, 12, generator=torch.Generator().manual_seed(step))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(inputs).square().mean()
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    pruner.step()
    optimizer.zero_grad()


def attached(model: nn.Module, optimizer: Any, pruner: bs.Pruner, step: int) -> None:
    pruner.attach()
    backward(model, step)
    optimizer.step()
    optimizer.zero_grad()


LOOPS = [plain, clipped, accumulated, with_a_closure, scaled, attached]


@pytest.mark.parametrize("loop", LOOPS, ids=lambda loop: loop.__name__)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_loop_drops_and_grows_as_the_paper(name: str, loop: Any) -> None:
    """With each optimizer: masks, values and state, from what the optimizer's step left."""
    model = mlp()
    optimizer = OPTIMIZERS[name](model)
    recorder = Recorder(model, optimizer)
    pruner = bs.Pruner(
        model, optimizer, scorer="magnitude", scope="tensor", distribution="erk", schedule=SCHEDULE,
        regrow=bs.RigL(0.5),
    )  # fmt: skip
    pruner.start()
    opened = 0
    for step in range(1, 14):
        before = flags(pruner)
        loop(model, optimizer, pruner, step)
        after, seen = flags(pruner), recorder.last
        if name.startswith("bs.optim"):  # its own step holds dead weights, before an event too
            assert not any(seen.weights[key][~keep].any() for key, keep in before.items())
        if pruner.history[-1].step == step:
            fraction = cosine(0.5, step, 12)
            wanted = expected(seen.weights, seen.grads, before, 0.8, fraction, "tensor", "erk")
            assert all(np.array_equal(after[key], wanted[key]) for key in wanted), step
            optimizer.state_dict()
            opened += require_afresh(recorder, before, after)
        else:
            assert all(np.array_equal(after[key], before[key]) for key in before)
        for key, keep in after.items():
            assert not model.get_parameter(key).detach().numpy()[~keep].any()
    assert [event.step for event in pruner.history] == [0, 3, 6, 9, 12] and opened > 0


@pytest.mark.parametrize("regrow", [bs.RigL(0.5), bs.SET(0.5)], ids=["RigL", "SET"])
def test_state_is_fresh_even_where_it_is_not_masked(regrow: Any) -> None:
    model = mlp()
    optimizer = OPTIMIZERS["AdamW"](model)
    recorder = Recorder(model, optimizer)
    pruner = bs.Pruner(model, optimizer, schedule=SCHEDULE, regrow=regrow, mask_optimizer_state=False)
    pruner.start()
    opened = 0
    for step in range(1, 10):
        before = flags(pruner)
        plain(model, optimizer, pruner, step)
        if pruner.history[-1].step == step:
            opened += require_afresh(recorder, before, flags(pruner), moments=False)
    assert opened
    moving = optimizer.state[model[2].weight]["exp_avg"][~pruner.masks["2.weight"]]
    assert moving.any()


def run(
    regrow: Any, optimizer: Optimizer, first: int = 1, last: int = 13, state: Any = None, **options: Any
) -> tuple[nn.Module, Any, bs.Pruner]:
    model = mlp()
    made = optimizer(model)
    given = {"scorer": "magnitude", "schedule": SCHEDULE, "regrow": regrow, **options}
    pruner = bs.Pruner(model, made, **given)
    pruner.start()
    if state is not None:
        for one, saved in zip((model, made, pruner), state, strict=True):
            one.load_state_dict(saved)
    for step in range(first, last + 1):
        plain(model, made, pruner, step)
    return model, made, pruner


def require_same(one: tuple[nn.Module, Any, bs.Pruner], other: tuple[nn.Module, Any, bs.Pruner]) -> None:
    for _, optimizer, _ in (one, other):
        optimizer.state_dict()
    assert_equal(list(one[0].parameters()), one[1], list(other[0].parameters()), other[1])
    assert [facts(event) for event in one[2].history] == [facts(event) for event in other[2].history]
    assert all(torch.equal(mask, other[2].masks[name]) for name, mask in one[2].masks.items())


@pytest.mark.parametrize("scorer", ["magnitude", "bitter7"])
@pytest.mark.parametrize("regrow", [bs.RigL(0.5), bs.SET(0.5)], ids=["RigL", "SET"])
def test_every_hold_gives_the_same_bits(regrow: Any, scorer: str) -> None:
    for name in ("AdamW", "bs.optim.AdamW"):
        runs = [run(regrow, OPTIMIZERS[name], hold=hold, scorer=scorer) for hold in ("auto", "weights")]
        require_same(*runs)


def test_set_goes_with_masked_gradients() -> None:
    runs = [run(bs.SET(0.5), OPTIMIZERS["AdamW"], hold=hold) for hold in ("weights", "grads")]
    require_same(*runs)


@pytest.mark.parametrize("stop", [2, 3, 7, 11])
@pytest.mark.parametrize(("scope", "distribution"), [("global", None), ("tensor", "erk")])
@pytest.mark.parametrize("regrow", [bs.RigL(0.5), bs.SET(0.5), bs.SET(0.2, seed=9)], ids=repr)
def test_a_resumed_run_is_the_uninterrupted_one(
    regrow: Any, scope: str, distribution: str | None, stop: int
) -> None:
    options = {"scope": scope, "distribution": distribution}
    whole = run(regrow, OPTIMIZERS["AdamW"], **options)
    file = io.BytesIO()
    torch.save([one.state_dict() for one in run(regrow, OPTIMIZERS["AdamW"], last=stop, **options)], file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    require_same(run(regrow, OPTIMIZERS["AdamW"], stop + 1, state=state, **options), whole)


@pytest.mark.parametrize("other", [False, True, bs.RigL(0.4), bs.SET(0.5)], ids=repr)
def test_a_state_of_other_regrowth_is_refused_by_name(other: Any) -> None:
    model, optimizer, pruner = run(bs.RigL(0.5), OPTIMIZERS["AdamW"], last=4)
    resumed = bs.Pruner(model, optimizer, scorer="magnitude", schedule=SCHEDULE, regrow=other)
    with pytest.raises(bs.CheckpointError, match="configuration differs in regrow"):
        resumed.load_state_dict(pruner.state_dict())
    resumed.load_state_dict(pruner.state_dict(), strict=False)
    assert resumed.steps == 4


def test_events_from_before_there_was_growth_are_read() -> None:
    _, _, pruner = run(bs.RigL(0.5), OPTIMIZERS["AdamW"], last=4)
    values = pruner.history[-1].to_dict()
    assert bs.MaskEvent.from_dict(values) == pruner.history[-1]
    old = {k: v for k, v in values.items() if k not in ("drop_fraction", "dropped", "grown")}
    assert bs.MaskEvent.from_dict(old).grown is None
    scalars = pruner.history[-1].scalars("pruning/")
    assert {type(scalars[f"pruning/{key}"]) for key in ("dropped", "grown", "drop_fraction")} == {int, float}
    assert "dropped" in str(pruner.history[-1]) and "RigL" in str(pruner.report())


def test_no_selection_is_made_in_the_step_that_would_not_be_used() -> None:
    model, optimizer, pruner = run(bs.RigL(0.5), OPTIMIZERS["bs.optim.AdamW"], last=2)
    shown: list[Any] = []
    optimizer.let_select = shown.append
    plain(model, optimizer, pruner, 3)
    assert pruner.history[-1].grown and not shown


def test_a_skipped_step_leaves_the_event_to_the_next() -> None:
    model = mlp()
    optimizer = OPTIMIZERS["AdamW"](model)
    pruner = bs.Pruner(model, optimizer, scorer="magnitude", schedule=SCHEDULE, regrow=bs.RigL())
    pruner.start()
    for step in range(1, 4):
        backward(model, step)
        if step < 3:
            optimizer.step()
        pruner.step(skipped=step == 3)
        optimizer.zero_grad()
    assert len(pruner.history) == 1
    plain(model, optimizer, pruner, 4)
    assert pruner.history[-1].step == 4 and pruner.history[-1].grown


def test_masked_gradients_before_an_event_are_warned_of() -> None:
    for regrow, warned in ((bs.RigL(), True), (bs.SET(), False), (False, False)):
        model = mlp()
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
        pruner = bs.Pruner(model, optimizer, scorer="magnitude", schedule=SCHEDULE, regrow=regrow)
        pruner.start()
        said = []
        for step in range(1, 7):
            backward(model, step)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                pruner.mask_grads_()
                optimizer.step()
                pruner.step()
            said += [(step, str(one.message)) for one in caught if "mask_grads_: " in str(one.message)]
            optimizer.zero_grad()
        assert [step for step, _ in said] == [3] * warned  # at the first event, once
        assert all(
            "mask_grads_: a mask event follows" in message and "RigL" in message for _, message in said
        )


@pytest.mark.parametrize("scope", ["global", "tensor"])
@pytest.mark.parametrize("growth", [bs.RigL(0.3), bs.SET(0.3)], ids=str)
def test_a_group_of_which_nothing_can_be_scored_stays_as_it_is(growth: Any, scope: str) -> None:
    model = mlp()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    pruner = bs.Pruner(
        model,
        optimizer,
        scorer="taylor",
        schedule={"0.*": SCHEDULE, "2.*": SCHEDULE, "4.*": SCHEDULE},
        scope=scope,
        regrow=growth,
        missing="skip",
    )
    pruner.start(0.8)
    before, event = flags(pruner), None
    for step in range(1, 4):
        backward(model, step)
        optimizer.step()
        model[4].weight.grad = None
        event = pruner.step()
    assert event is not None and event.skipped == ("4.weight",) and event.grown
    assert event.groups["4.*"]["total"] == 0
    after = flags(pruner)
    assert (after["4.weight"] == before["4.weight"]).all()
    assert all((after[name] != before[name]).any() for name in ("0.weight", "2.weight"))
