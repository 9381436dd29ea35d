"""Optimizers of five packages, attached: what bitter7 can read it prunes, what it cannot is refused with the
the reason before training, and magnitude works with all. The zeros hold in every forward pass."""

from __future__ import annotations

import importlib
import re
from typing import Any

import bittersweet as bs
import pytest
import torch
from client_support import Forwards, check_report
from torch import nn

RAMP = bs.LinearRamp(0.2, 0.5, begin_step=3, end_step=9, frequency=2)
STEPS = 14
WORKS = ""
ELEMENT_WISE = {
    "torch.optim": "Adam AdamW NAdam RAdam RMSprop Adadelta Adamax SGD Adagrad ASGD Rprop",
    "torchao.optim": "_AdamW",
    "schedulefree": "AdamWScheduleFree RAdamScheduleFree SGDScheduleFree",
    "pytorch_optimizer": "Lion",
}  # these alone take hold="grads"
NO_SQUARES = "keeps no exp_avg_sq"

# module, class, options, what bitter7 gives
ROWS: list[tuple[str, str, dict[str, Any], str]] = [
    ("torch.optim", "Adam", {}, WORKS),
    ("torch.optim", "Adam", {"amsgrad": True}, WORKS),
    ("torch.optim", "AdamW", {"fused": True}, WORKS),
    ("torch.optim", "AdamW", {"foreach": True}, WORKS),
    ("torch.optim", "NAdam", {}, WORKS),
    ("torch.optim", "RAdam", {}, WORKS),
    ("torch.optim", "RMSprop", {}, WORKS),
    ("torch.optim", "Adadelta", {}, WORKS),
    ("torch.optim", "Adafactor", {}, WORKS),
    ("torch.optim", "Adamax", {}, NO_SQUARES),
    ("torch.optim", "SGD", {"momentum": 0.9}, NO_SQUARES),
    ("torch.optim", "SGD", {}, NO_SQUARES),
    ("torch.optim", "Adagrad", {}, "sum of squared gradients"),
    ("torch.optim", "ASGD", {}, NO_SQUARES),
    ("torch.optim", "Rprop", {}, NO_SQUARES),
    ("torch.optim", "Muon", {}, NO_SQUARES),
    ("torch.optim", "LBFGS", {"max_iter": 1}, NO_SQUARES),
    ("transformers.optimization", "Adafactor", {"relative_step": False}, WORKS),
    ("torchao.optim", "AdamW8bit", {}, WORKS),
    ("torchao.optim", "AdamW4bit", {}, WORKS),
    ("torchao.optim", "AdamWFp8", {}, WORKS),
    ("torchao.optim", "_AdamW", {}, WORKS),
    ("bitsandbytes.optim", "AdamW", {}, WORKS),
    ("bitsandbytes.optim", "AdamW8bit", {}, WORKS),
    ("bitsandbytes.optim", "Adam8bit", {}, WORKS),
    ("bitsandbytes.optim", "AdEMAMix", {}, WORKS),
    ("bitsandbytes.optim", "RMSprop8bit", {}, WORKS),
    ("bitsandbytes.optim", "Lion8bit", {}, NO_SQUARES),
    ("bitsandbytes.optim", "SGD8bit", {"momentum": 0.9}, NO_SQUARES),
    ("schedulefree", "AdamWScheduleFree", {}, WORKS),
    ("schedulefree", "RAdamScheduleFree", {}, WORKS),
    ("schedulefree", "SGDScheduleFree", {}, NO_SQUARES),
    *(
        ("pytorch_optimizer", name, {}, WORKS)
        for name in (
            "AdamP", "Lamb", "Prodigy", "ADOPT", "AdEMAMix", "Adan", "RAdam", "StableAdamW", "GaLore", "Adai",
            "Grams", "APOLLO", "MARS", "AdaBelief", "CAME", "AdaFactor", "ScheduleFreeAdamW", "Ranger",
        )
    ),
    ("pytorch_optimizer", "SOAP", {}, "rotated basis"),
    ("pytorch_optimizer", "Shampoo", {}, "matrices that precondition"),
    ("pytorch_optimizer", "Lion", {}, NO_SQUARES),
    ("pytorch_optimizer", "Adalite", {}, "one second moment for many weights"),
    ("pytorch_optimizer", "Muon", {}, NO_SQUARES),
]  # fmt: skip
IDS = [
    f"{module.partition('.')[0]}-{name}{'-' + ','.join(options) if options else ''}"
    for module, name, options, _ in ROWS
]


def net() -> nn.Sequential:
    """8,192 elements a weight: from 4,096 on 8-bit optimizers quantise."""
    return nn.Sequential(nn.Linear(64, 128), nn.Tanh(), nn.Linear(128, 64))


def made(module: str, name: str, options: dict[str, Any], model: nn.Module) -> Any:
    package = pytest.importorskip(module.partition(".")[0])
    del package
    kind = getattr(importlib.import_module(module), name)
    matrices = [p for p in model.parameters() if p.ndim == 2]
    parameters = matrices if (name, module) == ("Muon", "torch.optim") else model.parameters()
    if (name, module) == ("Muon", "pytorch_optimizer"):
        parameters = [{"params": matrices, "use_muon": True}]
    return kind(parameters, lr=1e-3, **options)


def train(model: nn.Module, optimizer: Any, pruner: bs.Pruner, steps: int = STEPS) -> None:
    seen = Forwards(model, pruner)
    modes = hasattr(optimizer, "train") and hasattr(optimizer, "eval")
    if modes:
        optimizer.train()
    for _ in range(steps):

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            loss = (model(torch.randn(8, 64)) - 1).square().mean()
            loss.backward()
            return loss

        if type(optimizer).__module__.startswith("transformers"):  # it calls a closure without gradients
            closure()
            optimizer.step()
        else:
            optimizer.step(closure)
    if modes:
        optimizer.eval()
        model(torch.randn(8, 64))
    assert seen.violations == 0
    assert seen.zeros[-1] == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize(("module", "name", "options", "bitter7"), ROWS, ids=IDS)
def test_bitter7(module: str, name: str, options: dict[str, Any], bitter7: str) -> None:
    model = net()
    optimizer = made(module, name, options, model)
    if bitter7 is WORKS:
        pruner = bs.Pruner(model, optimizer, schedule=RAMP).attach()
        train(model, optimizer, pruner)
        check_report(pruner.finalize(), steps=STEPS)
        return
    with pytest.raises(bs.ArgumentError, match=re.escape(bitter7)) as error:
        bs.Pruner(model, optimizer, schedule=RAMP)
    assert "magnitude" in str(error.value)


@pytest.mark.parametrize("hold", ["weights", "grads"])
@pytest.mark.parametrize(("module", "name", "options", "bitter7"), ROWS, ids=IDS)
def test_magnitude(module: str, name: str, options: dict[str, Any], bitter7: str, hold: str) -> None:
    del bitter7
    model = net()
    optimizer = made(module, name, options, model)
    if hold == "grads" and name not in ELEMENT_WISE.get(module, "").split():
        with pytest.raises(bs.ArgumentError, match="not known to update element by element"):
            bs.Pruner(model, optimizer, scorer="magnitude", schedule=RAMP, hold=hold)
        return
    pruner = bs.Pruner(model, optimizer, scorer="magnitude", schedule=RAMP, hold=hold).attach()
    train(model, optimizer, pruner)
    check_report(pruner.finalize(), steps=STEPS)


def test_lookahead_has_zeros_in_its_slow_weights() -> None:
    package = pytest.importorskip("pytorch_optimizer")
    model = net()
    optimizer = package.Lookahead(torch.optim.AdamW(model.parameters(), lr=1e-3), k=3)
    pruner = bs.Pruner(model, optimizer, schedule=RAMP).attach()
    seen = Forwards(model, pruner)
    for _ in range(STEPS):
        optimizer.zero_grad()
        (model(torch.randn(8, 64)) - 1).square().mean().backward()
        optimizer.step()
    assert seen.violations == 0
    check_report(pruner.finalize(), steps=STEPS)
    with pytest.raises(bs.ArgumentError, match="Lookahead, which is not known to update element by element"):
        bs.Pruner(model, optimizer, schedule=RAMP, hold="grads")


def test_lbfgs_holds_the_zeros_from_step_to_step() -> None:
    model = net()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=1e-2, max_iter=4)
    pruner = bs.Pruner(model, optimizer, scorer="magnitude", schedule=RAMP)
    x, evaluations = torch.randn(8, 64), 0

    def closure() -> torch.Tensor:
        nonlocal evaluations
        evaluations += 1
        optimizer.zero_grad()
        loss = (model(x) - 1).square().mean()
        loss.backward()
        return loss

    for _ in range(STEPS):
        optimizer.step(closure)
        pruner.step()
        assert pruner.sparsity().zero == pruner.sparsity().masked
    assert evaluations > 2 * STEPS
    check_report(pruner.finalize(), steps=STEPS)


def test_sam_steps_twice_and_counts_once() -> None:
    package = pytest.importorskip("pytorch_optimizer")
    model = net()
    optimizer = package.SAM(model.parameters(), base_optimizer=torch.optim.AdamW, lr=1e-3)
    pruner = bs.Pruner(model, optimizer, schedule=RAMP).attach()
    for _ in range(STEPS):
        x = torch.randn(8, 64)
        (model(x) - 1).square().mean().backward()
        optimizer.first_step(zero_grad=True)
        (model(x) - 1).square().mean().backward()
        optimizer.second_step(zero_grad=True)
    check_report(pruner.finalize(), steps=STEPS)


@pytest.mark.parametrize("hold", ["weights", "grads"])
def test_schedule_free_in_both_modes(hold: str) -> None:
    package = pytest.importorskip("schedulefree")
    model = net()
    optimizer = package.AdamWScheduleFree(model.parameters(), lr=1e-2)
    optimizer.train()
    pruner = bs.Pruner(model, optimizer, scorer="magnitude", schedule=RAMP, hold=hold)
    for _ in range(STEPS):
        optimizer.zero_grad()
        (model(torch.randn(8, 64)) - 1).square().mean().backward()
        optimizer.step()
        pruner.step()
    for mode in (optimizer.eval, optimizer.train, optimizer.eval):
        mode()
        assert pruner.sparsity().zero == pytest.approx(0.5, abs=1e-3)
    check_report(pruner.finalize(), steps=STEPS)
    optimizer.train()
    optimizer.eval()
    weights = torch.cat([model[0].weight.flatten(), model[2].weight.flatten()])
    assert float((weights == 0).float().mean()) == pytest.approx(0.5, abs=1e-3)
