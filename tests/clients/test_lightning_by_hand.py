"""Lightning with a Pruner of one's own, without the library's callback; and Fabric."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import bittersweet as bs
import pytest
from client_support import RAMP, Forwards, check_report, loss_of, mlp
from lightning_support import OFF, STEPS, Inside, Module, fit, lightning
from torch import nn, optim

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*GPU available"),
]


class ByHand(lightning.Callback):  # type: ignore[name-defined]
    def __init__(self, **options: Any) -> None:
        self.options, self.pruner, self.report = options, None, None
        self.forwards: Any = None

    def on_fit_start(self, trainer: Any, module: Any) -> None:
        self.pruner = bs.Pruner(module, trainer.optimizers, **self.options)
        self.forwards = Forwards(module.net)
        self.forwards.pruner = Inside(self.pruner)

    def on_fit_end(self, trainer: Any, module: Any) -> None:
        self.report = self.pruner.finalize()


def test_a_step_between_forward_and_backward_is_an_error_of_torch(tmp_path: Path) -> None:
    """Lightning calls on_before_zero_grad after the forward pass: the pruner would change what it used."""

    class TooEarly(ByHand):
        def on_before_zero_grad(self, *_: Any) -> None:
            self.pruner.step(skipped=self.pruner.steps == 0)

    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        fit(tmp_path, Module(), TooEarly(schedule=RAMP), **OFF)


def test_in_on_train_batch_end(tmp_path: Path) -> None:
    class AfterBatches(ByHand):
        def on_train_batch_end(self, *_: Any) -> None:
            self.pruner.step()

    callback = AfterBatches(schedule=RAMP)
    fit(tmp_path, Module(), callback, **OFF)
    check_report(callback.report)
    callback.forwards.check(STEPS - 2)


@pytest.mark.parametrize("hold", ["weights", "grads"])
@pytest.mark.parametrize("attached", [True, False])
def test_fabric(hold: str, attached: bool) -> None:
    fabric = lightning.Fabric(accelerator="cpu", devices=1)
    inner = mlp()
    model, optimizer = fabric.setup(inner, optim.AdamW(inner.parameters(), lr=1e-2))
    pruner = bs.Pruner(model, optimizer, schedule=RAMP, hold=hold)
    assert [entry.name for entry in pruner.plan().targets] == ["0.weight", "2.weight"]
    if attached:
        pruner.attach()
    seen = Forwards(inner, pruner)
    for _ in range(STEPS):
        fabric.backward(loss_of(model))
        optimizer.step()
        if not attached:
            pruner.step()
        optimizer.zero_grad()
    seen.check(STEPS - 2)
    check_report(pruner.finalize())
    plain = bs.Pruner(mlp(), None, scorer="magnitude", schedule=RAMP)
    plain.load_masks(dict(pruner.masks.items()))
    other: nn.Module = mlp()
    assert pruner.apply_to(other).zero == pytest.approx(0.5, abs=1e-3)
