"""Training with the masks in the step against torch's fused step and hold="weights": the same bits of all."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import bittersweet as bs
import pytest
import torch
from bittersweet import optim
from optim_support import assert_equal
from pruner_support import backward, dead_values, facts, mlp, weights
from torch import nn

SCORERS = [name for name in bs.scorers() if name not in ("identity", "wanda", "bitter10z")]
SCHEDULE = bs.Linear(0.2, 0.8, begin_step=4, end_step=20, frequency=4)
OPTIONS = {"lr": 3e-2, "weight_decay": 0.1, "betas": (0.8, 0.95)}
Loop = Callable[[nn.Module, Any, Any, int], None]


class Run:
    """One model with its optimizer and pruner."""

    def __init__(
        self,
        own: bool,
        kind: str = "AdamW",
        dtype: torch.dtype = torch.float32,
        groups: Callable[[nn.Module], Any] | None = None,
        optimizer: dict[str, Any] | None = None,
        **pruner: Any,
    ) -> None:
        self.model = mlp(dtype=dtype)
        given: Any = self.model.parameters() if groups is None else groups(self.model)
        options = {**OPTIONS, **(optimizer or {})}
        made: Any = getattr(optim if own else torch.optim, kind)
        self.optimizer: Any = made(given, **options) if own else made(given, fused=True, **options)
        given = {"schedule": SCHEDULE, "hold": "auto" if own else "weights", **pruner}
        self.pruner = bs.Pruner(self.model, self.optimizer, **given)

    def train(self, steps: int, first: int = 1, loop: Loop | None = None) -> None:
        for step in range(first, first + steps):
            if loop is not None:
                loop(self.model, self.optimizer, self.pruner, step)
                continue
            backward(self.model, step)
            self.optimizer.step()
            self.pruner.step()
            self.optimizer.zero_grad()


def assert_same(own: Run, theirs: Run) -> None:
    """Weights, all state, masks and events."""
    own.optimizer.state_dict()  # zeros of what the last event pruned may wait for whoever asks
    assert_equal(
        list(own.model.parameters()), own.optimizer, list(theirs.model.parameters()), theirs.optimizer
    )
    assert [facts(event) for event in own.pruner.history] == [facts(event) for event in theirs.pruner.history]
    assert own.pruner.masks.keys() == theirs.pruner.masks.keys()
    for name, mask in own.pruner.masks.items():
        assert torch.equal(mask, theirs.pruner.masks[name]), name
    assert own.pruner.steps == theirs.pruner.steps


@contextmanager
def without_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", ".*below eps")
        yield


def compare(steps: int = 26, loop: Loop | None = None, **options: Any) -> tuple[Run, Run]:
    """Runs both, and sees that dead weights are 0 before pruner.step() has a chance to write."""
    runs = []
    with without_warnings():
        for own in (True, False):
            run = Run(own, **options)
            run.train(steps, loop=loop)
            runs.append(run)
    assert runs[0].optimizer.held.after_step == 0 and runs[0].optimizer.held.in_step == 3
    assert_same(*runs)
    assert len(runs[0].pruner.history) >= 4
    assert not dead_values(runs[0].pruner, weights(runs[0].model)).any()
    return runs[0], runs[1]


@pytest.mark.parametrize("regrow", [False, True])
@pytest.mark.parametrize("scorer", SCORERS)
def test_every_scorer_that_trains(scorer: str, regrow: bool) -> None:
    compare(scorer=scorer, regrow=regrow)


@pytest.mark.parametrize("scorer", ["bitter7", "magnitude", "bitter10", "bitter10s"])
@pytest.mark.parametrize("kind", ["Adam", "AdamW"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_both_optimizers_and_dtypes(dtype: torch.dtype, kind: str, scorer: str) -> None:
    compare(scorer=scorer, kind=kind, dtype=dtype)


SETTINGS: dict[str, dict[str, Any]] = {
    "polynomial": {"schedule": bs.PolynomialDecay(0.0, 0.9, begin_step=2, end_step=22, frequency=3)},
    "every step": {"schedule": bs.Linear(0.1, 0.9, 1, 26, 1)},
    "globs": {"schedule": {"0.*": SCHEDULE, "*": bs.Linear(0.1, 0.5, 3, 21, 6)}},
    "tensor scope": {"scope": "tensor", "distribution": "layer_adaptive"},
    "N:M": {"scope": "1:3", "schedule": bs.Linear(0.1, 2 / 3, 2, 22, 5), "targets": "[04].weight"},
    "states are not held": {"mask_optimizer_state": False},
    "states are not held, regrow": {"mask_optimizer_state": False, "regrow": True},
    "amsgrad": {"optimizer": {"amsgrad": True}},
    "amsgrad, states are not held": {"optimizer": {"amsgrad": True}, "mask_optimizer_state": False},
    "maximize": {"optimizer": {"maximize": True, "lr": 1e-3}},
    "tensor lr": {"optimizer": {"lr": torch.tensor(1e-2)}},
    "eps 0": {"optimizer": {"eps": 0.0}, "scorer": "magnitude"},
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_settings_of_pruner_and_optimizer(setting: str) -> None:
    options = dict(SETTINGS[setting])
    if setting == "N:M":
        runs = [Run(own, **options) for own in (True, False)]
        for run in runs:
            run.train(26)
        assert_same(*runs)
        return
    compare(**options)


CONSTANT = bs.Linear(0.5, 0.5, begin_step=4, end_step=24, frequency=4)


@pytest.mark.parametrize("scorer", ["bitter7", "magnitude", "bitter0", "bitter10", "bitter10s", "movement"])
@pytest.mark.parametrize("attached", [False, True])
def test_at_constant_sparsity_pruned_weights_come_back(attached: bool, scorer: str) -> None:
    runs, churn = [], []
    for own in (True, False):
        run = Run(own, scorer=scorer, regrow=True, schedule=CONSTANT)
        changes, last = [], None
        if attached:
            run.pruner.attach()
        for step in range(1, 27):
            backward(run.model, step)
            run.optimizer.step()
            if not attached:
                run.pruner.step()
            run.optimizer.zero_grad()
            now = torch.cat([mask.reshape(-1) for mask in run.pruner.masks.values()])
            changes.append(0 if last is None else int((now != last).sum()))
            last = now
        runs.append(run)
        churn.append(sum(changes[4:]))
    assert_same(*runs)
    assert churn[0] == churn[1]
    if scorer != "movement":  # its sums go on by weights that are 0
        assert churn[0] > 0


def two_groups(model: Any) -> list[dict[str, Any]]:
    return [
        {"params": [model[0].weight, model[4].weight], "lr": 1e-2, "weight_decay": 0.3},
        {"params": [model[2].weight], "betas": (0.3, 0.9), "amsgrad": True},
        {"params": [model[i].bias for i in (0, 2, 4)], "weight_decay": 0.0, "lr": torch.tensor(2e-3)},
    ]


def test_groups_and_a_learning_rate_schedule() -> None:
    runs = []
    for own in (True, False):
        run = Run(own, groups=two_groups)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(run.optimizer, 0.05, total_steps=30)
        with without_warnings():
            for step in range(1, 27):
                run.train(1, first=step)
                scheduler.step()
        runs.append(run)
    assert_same(*runs)
    assert runs[0].optimizer.held.in_step == 3


def clipped(model: nn.Module, optimizer: Any, pruner: Any, step: int) -> None:
    backward(model, step)
    pruner.mask_grads_()
    nn.utils.clip_grad_norm_(model.parameters(), 0.1)
    optimizer.step()
    pruner.step()
    optimizer.zero_grad(set_to_none=step % 2 == 0)


def accumulated(model: nn.Module, optimizer: Any, pruner: Any, step: int) -> None:
    for micro in range(3):
        backward(model, 3 * step + micro)
    optimizer.step()
    pruner.step()
    optimizer.zero_grad()


def by_closure(model: nn.Module, optimizer: Any, pruner: Any, step: int) -> None:
    def closure() -> float:
        optimizer.zero_grad()
        assert torch.is_grad_enabled()
        backward(model, step)
        return 0.5

    assert optimizer.step(closure) == 0.5
    pruner.step()


def sometimes_without_gradient(model: Any, optimizer: Any, pruner: Any, step: int) -> None:
    backward(model, step)
    if step % 3 == 0:
        model[2].weight.grad = None
    if step % 5 == 0:
        model[0].weight.grad = None
    optimizer.step()
    pruner.step()
    optimizer.zero_grad()


def frozen_for_a_while(model: Any, optimizer: Any, pruner: Any, step: int) -> None:
    model[2].requires_grad_(not 7 < step < 15)
    backward(model, step)
    optimizer.step()
    pruner.step()
    optimizer.zero_grad()


LOOPS: dict[str, Loop] = {
    "clipped": clipped,
    "accumulated": accumulated,
    "closure": by_closure,
    "without a gradient": sometimes_without_gradient,
}


@pytest.mark.parametrize("regrow", [False, True])
@pytest.mark.parametrize("scorer", ["bitter7", "bitter10", "movement"])
@pytest.mark.parametrize("loop", LOOPS)
def test_loops(loop: str, scorer: str, regrow: bool) -> None:
    compare(loop=LOOPS[loop], scorer=scorer, regrow=regrow)


@pytest.mark.parametrize("regrow", [False, True])
def test_a_closure_with_the_pruner_attached(regrow: bool) -> None:
    def loop(model: nn.Module, optimizer: Any, pruner: Any, step: int) -> None:
        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            backward(model, step)
            if step == 7 and not failed:
                failed.append(step)
                raise KeyError("a batch")
            return torch.ones(())

        try:
            optimizer.step(closure)
        except KeyError:
            optimizer.step(closure)

    runs = []
    for own in (True, False):
        failed: list[int] = []
        run = Run(own, regrow=regrow, schedule=CONSTANT if regrow else SCHEDULE)
        run.pruner.attach()
        run.train(26, loop=loop)
        runs.append(run)
    assert_same(*runs)
    assert runs[0].pruner.steps == 26


@pytest.mark.filterwarnings("ignore:.*frozen")
@pytest.mark.parametrize("scorer", ["bitter7", "magnitude"])
def test_a_layer_that_is_frozen_for_a_while(scorer: str) -> None:
    runs = [Run(own, scorer=scorer) for own in (True, False)]
    for run in runs:
        run.train(26, loop=frozen_for_a_while)
    assert_same(*runs)


@pytest.mark.parametrize("regrow", [False, True])
@pytest.mark.parametrize("unscaled", [False, True, None])
@pytest.mark.parametrize("scorer", ["bitter7", "bitter10", "movement"])
@pytest.mark.parametrize("attached", [False, True])
def test_a_loss_scaler_with_skipped_steps(
    attached: bool, scorer: str, unscaled: bool | None, regrow: bool
) -> None:
    """`unscaled`: clips after unscale_; None: in every second step."""
    runs = []
    for own in (True, False):
        run = Run(own, scorer=scorer, regrow=regrow, schedule=CONSTANT if regrow else SCHEDULE)
        if attached:
            run.pruner.attach()
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=4)
        skipped = 0
        with without_warnings():
            for step in range(1, 27):
                generator = torch.Generator().manual_seed(step)
                loss = run.model(torch.randn(16, 12, generator=generator)).square().mean()
                scaler.scale(loss).backward()
                if step in (3, 8, 16, 17):  # 8 and 16 are due
                    run.model[0].weight.grad[0, 0] = torch.inf
                if unscaled or (unscaled is None and step % 2):
                    scaler.unscale_(run.optimizer)
                    nn.utils.clip_grad_norm_(run.model.parameters(), 1.0)
                scale = scaler.get_scale()
                scaler.step(run.optimizer)
                scaler.update()
                skipped += scaler.get_scale() < scale
                if not attached:
                    run.pruner.step(skipped=scaler.get_scale() < scale)
                run.optimizer.zero_grad()
        assert skipped == 4
        runs.append(run)
    assert_same(*runs)
    assert len(runs[0].pruner.history) >= 4


class Both:
    """Two optimizers as one loop steps them."""

    def __init__(self, *optimizers: Any) -> None:
        self.optimizers = optimizers

    def step(self) -> None:
        for one in self.optimizers:
            one.step()

    def zero_grad(self) -> None:
        for one in self.optimizers:
            one.zero_grad()


@pytest.mark.parametrize("regrow", [False, True])
@pytest.mark.parametrize("attached", [False, True])
@pytest.mark.parametrize("second", ["SGD", "AdamW", "Adam"])
def test_beside_another_optimizer(second: str, attached: bool, regrow: bool) -> None:
    found = []
    for own in (True, False):
        model = mlp()
        kind = optim.AdamW if own else torch.optim.AdamW
        first: Any = kind([*model[0].parameters(), *model[2].parameters()], lr=3e-2, fused=True)
        other = getattr(optim if own and second == "Adam" else torch.optim, second)
        last = other(model[4].parameters(), lr=3e-2, **({} if second == "SGD" else {"fused": True}))
        schedule = CONSTANT if regrow else SCHEDULE
        hold = "auto" if own else "weights"
        pruner = bs.Pruner(
            model, [first, last], scorer="magnitude", schedule=schedule, regrow=regrow, hold=hold
        )
        if attached:
            pruner.attach()
        both = Both(first, last)
        with without_warnings():
            for step in range(1, 27):
                backward(model, step)
                both.step()
                if not attached:
                    pruner.step()
                both.zero_grad()
        assert not dead_values(pruner, weights(model)).any()
        found.append((model, first, last, pruner))
    (mine, first, last, pruner), (theirs, its_first, its_last, its_pruner) = found
    assert_equal(list(mine[:4].parameters()), first, list(theirs[:4].parameters()), its_first)
    assert_equal(list(mine[4:].parameters()), last, list(theirs[4:].parameters()), its_last)
    assert [facts(e) for e in pruner.history] == [facts(e) for e in its_pruner.history]
    assert first.held.in_step == 2
    assert str(last.held).startswith("1 tensor in") if second == "Adam" else True
