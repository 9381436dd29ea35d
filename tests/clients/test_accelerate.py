"""accelerate: prepare, accumulate, checkpoints; attached, or called by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import bittersweet as bs
import pytest
import torch
from client_support import RAMP, STEPS, Forwards, check_report, mlp
from torch import nn

accelerate = pytest.importorskip("accelerate")


@pytest.fixture(autouse=True)
def _fresh_state() -> None:
    accelerate.state.AcceleratorState._reset_state(True)  # one for each process otherwise


def prepared(every: int = 1, **options: Any) -> tuple[Any, nn.Module, Any, Any]:
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=every, **options)
    inner = mlp()
    optimizer = torch.optim.AdamW(inner.parameters(), lr=1e-2)
    return accelerator, inner, *accelerator.prepare(inner, optimizer)


def train(
    accelerator: Any, model: Any, optimizer: Any, batches: int, after: Any = None, first: int = 0
) -> None:
    for i in range(first, first + batches):
        with accelerator.accumulate(model):
            x = torch.randn(8, 16, generator=torch.Generator().manual_seed(i))
            accelerator.backward(model(x).float().square().mean())
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            if after is not None:
                after()
            optimizer.zero_grad()


@pytest.mark.parametrize("hold", ["weights", "grads"])
@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("options", [{}, {"mixed_precision": "bf16"}], ids=str)
def test_attached(every: int, hold: str, options: dict[str, Any]) -> None:
    accelerator, inner, model, optimizer = prepared(every, **options)
    pruner = bs.Pruner(model, optimizer, schedule=RAMP, hold=hold).attach()
    seen = Forwards(inner, pruner)
    train(accelerator, model, optimizer, every * STEPS)
    seen.check(every * (STEPS - 2))
    check_report(pruner.finalize())


@pytest.mark.parametrize("scorer", ["movement", "taylor"])
def test_scorers_that_read_gradients(scorer: str) -> None:
    accelerator, inner, model, optimizer = prepared(2)
    pruner = bs.Pruner(model, optimizer, scorer=scorer, schedule=RAMP).attach()
    seen = Forwards(inner, pruner)
    train(accelerator, model, optimizer, 2 * STEPS)
    seen.check(2 * (STEPS - 2))
    check_report(pruner.finalize())


def test_by_hand_once_for_each_optimizer_step() -> None:
    accelerator, inner, model, optimizer = prepared(2)
    pruner = bs.Pruner(model, optimizer, schedule=RAMP)
    seen = Forwards(inner, pruner)
    train(accelerator, model, optimizer, 2 * STEPS, lambda: accelerator.sync_gradients and pruner.step())
    seen.check(2 * (STEPS - 2))
    check_report(pruner.finalize())


def test_by_hand_for_every_batch_is_warned_of(said: Any) -> None:
    accelerator, _, model, optimizer = prepared(2)
    pruner = bs.Pruner(model, optimizer, scorer="magnitude", schedule=RAMP)
    train(accelerator, model, optimizer, 2 * STEPS, pruner.step)
    said.expect("1 call of pruner.step.. so far and 0 steps of the optimizer .*not once per micro-batch")
    assert pruner.steps == 2 * STEPS


def test_register_for_checkpointing_resumes_bit_for_bit(tmp_path: Path) -> None:
    def begin() -> tuple[Any, ...]:
        torch.manual_seed(0)
        accelerator, inner, model, optimizer = prepared(2)
        pruner = bs.Pruner(model, optimizer, schedule=RAMP).attach()
        accelerator.register_for_checkpointing(pruner)
        return accelerator, inner, model, optimizer, pruner

    accelerator, inner, model, optimizer, pruner = begin()
    train(accelerator, model, optimizer, 10)
    accelerator.save_state(str(tmp_path))
    train(accelerator, model, optimizer, 14, first=10)
    check_report(pruner.finalize())
    accelerator, again, model, optimizer, resumed = begin()
    with torch.no_grad():
        again[0].weight.normal_()
    accelerator.load_state(str(tmp_path))
    assert resumed.steps == 5
    train(accelerator, model, optimizer, 14, first=10)
    check_report(resumed.finalize())
    for one, other in zip(inner.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


def test_unwrapped_and_saved(tmp_path: Path) -> None:
    accelerator, _, model, optimizer = prepared()
    pruner = bs.Pruner(model, optimizer, schedule=RAMP).attach()
    train(accelerator, model, optimizer, STEPS)
    report = pruner.finalize()
    accelerator.save_model(model, str(tmp_path))
    counted = bs.sparsity(tmp_path / "model.safetensors").matrices
    assert (counted.zeros, counted.elements) == (384, 768)
    assert report.sparsity.zero == 0.5
