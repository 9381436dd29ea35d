"""transformers' Trainer with a Pruner of one's own, without the library's callback."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import bittersweet as bs
import pytest
import torch
from client_support import RAMP, Forwards, check_report
from trainer_support import STEPS, Tokens, arguments, tiny_llama, trainer, transformers


class ByHand(transformers.TrainerCallback):  # type: ignore[name-defined]
    """Calls step() in the hooks that are named."""

    def __init__(self, *hooks: str, **options: Any) -> None:
        self.options, self.report, self.forwards = options, None, None
        self.pruner: Any = None
        for hook in hooks:
            setattr(self, hook, self.step)

    def step(self, *_: Any, **__: Any) -> None:
        self.pruner.step()

    def on_train_begin(self, *_: Any, **given: Any) -> None:
        self.pruner = bs.Pruner(given["model"], given["optimizer"], **self.options)
        self.forwards = Forwards(given["model"], self.pruner)

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self.report = self.pruner.finalize()


@pytest.mark.parametrize("hook", ["on_step_end", "on_optimizer_step"])
def test_once_for_each_optimizer_step(tmp_path: Path, hook: str) -> None:
    callback = ByHand(hook, schedule=RAMP)
    trainer(tmp_path, callback, gradient_accumulation_steps=2).train()
    check_report(callback.report)
    callback.forwards.check(2 * (STEPS - 2))


def test_for_every_micro_batch_is_warned_of(tmp_path: Path, said: Any) -> None:
    callback = ByHand("on_substep_end", "on_step_end", schedule=RAMP, scorer="magnitude")
    trainer(tmp_path, callback, gradient_accumulation_steps=2).train()
    said.expect("the optimizer has not stepped since.*not once per micro-batch")
    assert callback.report.step == 2 * STEPS


def test_made_after_create_optimizer_and_given_optimizers(tmp_path: Path) -> None:
    own = trainer(tmp_path, None)
    own.create_optimizer()
    pruner = bs.Pruner(own.model, own.optimizer, schedule=RAMP).attach()
    seen = Forwards(own.model, pruner)
    own.train()
    seen.check(STEPS - 2)
    check_report(pruner.finalize())
    model = tiny_llama()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer)
    pruner = bs.Pruner(model, optimizer, schedule=RAMP).attach()
    transformers.Trainer(
        model, arguments(tmp_path), train_dataset=Tokens(), optimizers=(optimizer, scheduler)
    ).train()
    check_report(pruner.finalize())


def test_before_create_optimizer_is_refused(tmp_path: Path) -> None:
    own = trainer(tmp_path, None)
    with pytest.raises(bs.ArgumentError, match="optimizer: None, and scorer 'bitter7' reads exp_avg_sq"):
        bs.Pruner(own.model, own.optimizer, schedule=RAMP)


def test_a_second_pruner_after_a_first_run_is_warned_of(tmp_path: Path, said: Any) -> None:
    model, pruners = tiny_llama(), []
    for folder in ("a", "b"):
        own = trainer(tmp_path / folder, None, model)
        own.create_optimizer()
        pruners.append(bs.Pruner(own.model, own.optimizer, schedule=RAMP).attach())
        own.train()
    for pruner in pruners:
        pruner.finalize()
    said.expect("another Pruner already acts on some of these weights")
    said.expect("have been stepped by another AdamW")
    said.expect(r"finalize\(\) found pruned weights that were not 0")
