"""Lightning: the Trainer steps with a closure, whatever the module does; and Fabric."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import bittersweet as bs
import pytest
import torch
from client_support import RAMP, Forwards, check_report, loss_of, mlp
from torch import nn

lightning = pytest.importorskip("lightning")
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*GPU available"),
]
STEPS = 12


class Module(lightning.LightningModule):  # type: ignore[name-defined]
    def __init__(self) -> None:
        super().__init__()
        self.net = mlp()

    def training_step(self, batch: torch.Tensor, _: int) -> torch.Tensor:
        return self.net(batch).float().square().mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


class Manual(Module):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: torch.Tensor, i: int) -> None:
        loss = super().training_step(batch, i)
        for optimizer in self._optimizers():
            optimizer.zero_grad()
        self.manual_backward(loss)
        for optimizer in self._optimizers():
            optimizer.step()

    def _optimizers(self) -> list[Any]:
        found = self.optimizers()
        return found if isinstance(found, list) else [found]


class Two(Manual):
    def configure_optimizers(self) -> Any:
        weights = [self.net[0].weight, self.net[2].weight]
        others = [p for p in self.parameters() if p.ndim < 2]
        return [torch.optim.Muon(weights, lr=1e-2), torch.optim.AdamW(others, lr=1e-2)]


class TwoAdams(Manual):
    def configure_optimizers(self) -> Any:
        return [torch.optim.AdamW(self.net[0].parameters()), torch.optim.NAdam(self.net[2].parameters())]


class Prune(lightning.Callback):  # type: ignore[name-defined]
    """What the documents recommend."""

    def __init__(self, **options: Any) -> None:
        self.options, self.pruner, self.saved, self.report = options, None, None, None
        self.forwards: Any = None

    def on_fit_start(self, trainer: Any, module: Any) -> None:
        self.pruner = bs.Pruner(module, trainer.optimizers, **self.options).attach()
        if self.saved is not None:
            self.pruner.load_state_dict(self.saved)
        self.forwards = Forwards(module.net, None)
        self.forwards.pruner = _Inside(self.pruner)

    def on_fit_end(self, trainer: Any, module: Any) -> None:
        if trainer.global_step >= STEPS:
            self.report = self.pruner.finalize()
        else:
            self.pruner.detach()

    def state_dict(self) -> dict[str, Any]:
        return self.pruner.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.saved = state


class _Inside:
    """A pruner of the LightningModule, by the names of its net."""

    def __init__(self, pruner: bs.Pruner) -> None:
        self._pruner = pruner

    @property
    def masks(self) -> dict[str, torch.Tensor]:
        return {name.removeprefix("net."): mask for name, mask in self._pruner.masks.items()}

    @property
    def history(self) -> Any:
        return self._pruner.history


def fit(
    folder: Path,
    module: Any,
    *callbacks: Any,
    steps: int = STEPS,
    batches: int = 15,
    checkpoint: Any = None,
    alike: bool = False,
    **options: Any,
) -> Any:
    torch.manual_seed(5)
    data = torch.randn(4, 16).repeat(batches, 1) if alike else torch.randn(4 * batches, 16)
    trainer = lightning.Trainer(
        max_steps=steps, logger=False, enable_progress_bar=False, enable_model_summary=False,
        accelerator="cpu", default_root_dir=folder, callbacks=list(callbacks), **options,
    )  # fmt: skip
    loader = torch.utils.data.DataLoader(data, batch_size=4)
    trainer.fit(module, loader, ckpt_path=checkpoint, **({"weights_only": True} if checkpoint else {}))
    return trainer


OFF = {"enable_checkpointing": False}


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize(
    "options",
    [{}, {"hold": "grads"}, {"scorer": "movement"}, {"scorer": "movement", "hold": "grads"},
     {"scorer": "gradient"}, {"scorer": "bitter10s"}],
    ids=str,
)  # fmt: skip
def test_automatic_optimisation(tmp_path: Path, options: dict[str, Any], accumulate: int) -> None:
    callback = Prune(schedule=RAMP, **options)
    fit(tmp_path, Module(), callback, accumulate_grad_batches=accumulate, **OFF)
    check_report(callback.report)
    callback.forwards.check(accumulate * (STEPS - 2))


def test_a_step_between_forward_and_backward_is_an_error_of_torch(tmp_path: Path) -> None:
    """Lightning calls on_before_zero_grad after the forward pass: the pruner would change what it used."""

    class TooEarly(Prune):
        def on_fit_start(self, trainer: Any, module: Any) -> None:
            super().on_fit_start(trainer, module)
            self.pruner.detach()

        def on_before_zero_grad(self, *_: Any) -> None:
            self.pruner.step(skipped=self.pruner.steps == 0)

    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        fit(tmp_path, Module(), TooEarly(schedule=RAMP), **OFF)


def test_by_hand_in_on_train_batch_end(tmp_path: Path) -> None:
    class ByHand(Prune):
        def on_fit_start(self, trainer: Any, module: Any) -> None:
            super().on_fit_start(trainer, module)
            self.pruner.detach()

        def on_train_batch_end(self, *_: Any) -> None:
            self.pruner.step()

    callback = ByHand(schedule=RAMP)
    fit(tmp_path, Module(), callback, **OFF)
    check_report(callback.report)
    callback.forwards.check(STEPS - 2)


@pytest.mark.parametrize("hold", ["weights", "grads"])
@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "16-mixed"])
def test_precisions(tmp_path: Path, precision: str, hold: str) -> None:
    callback = Prune(schedule=RAMP, hold=hold)
    fit(tmp_path, Module(), callback, precision=precision, gradient_clip_val=1.0, **OFF)
    assert callback.report.step >= 8
    assert callback.report.violations == {}
    assert callback.report.unfinished is None
    assert callback.forwards.violations == 0


def test_double_precision_is_refused(tmp_path: Path) -> None:
    with pytest.raises(bs.DTypeError, match="float64"):
        fit(tmp_path, Module(), Prune(schedule=RAMP), precision="64-true", **OFF)


@pytest.mark.parametrize("hold", ["weights", "grads"])
@pytest.mark.parametrize(
    ("kind", "scorer"),
    [(Manual, "bitter7"), (TwoAdams, "bitter7"), (TwoAdams, "movement"), (Two, "magnitude")],
)
def test_manual_optimisation_and_several_optimizers(
    tmp_path: Path, kind: Any, scorer: str, hold: str
) -> None:
    if (kind, hold) == (Two, "grads"):
        with pytest.raises(bs.ArgumentError, match="hold: 'grads' with Muon"):
            fit(tmp_path, kind(), Prune(schedule=RAMP, scorer=scorer, hold=hold), **OFF)
        return
    callback = Prune(schedule=RAMP, scorer=scorer, hold=hold)
    # Each optimizer's step counts as one of Lightning's steps.
    fit(tmp_path, kind(), callback, steps=STEPS * (1 if kind is Manual else 2), **OFF)
    check_report(callback.report)
    callback.forwards.check(STEPS - 2)


def test_muon_keeps_no_second_moment(tmp_path: Path) -> None:
    with pytest.raises(bs.ArgumentError, match="Muon keeps no exp_avg_sq"):
        fit(tmp_path, Two(), Prune(schedule=RAMP), **OFF)


@pytest.mark.parametrize("hold", ["weights", "grads"])
def test_resume_is_bitwise_equal(tmp_path: Path, hold: str) -> None:
    # All batches are alike: a resumed Lightning run repeats one, pruned or not.
    from lightning.pytorch.callbacks import ModelCheckpoint

    def run(checkpoint: Any = None) -> tuple[Any, Any]:
        torch.manual_seed(0)
        callback, module = Prune(schedule=RAMP, hold=hold), Module()
        saving = ModelCheckpoint(dirpath=tmp_path, filename="{step}", every_n_epochs=1, save_top_k=-1)
        fit(tmp_path, module, callback, saving, checkpoint=checkpoint, batches=5, alike=True)
        return callback, module

    straight, expected = run()
    resumed, found = run(tmp_path / "step=5.ckpt")
    check_report(straight.report)
    check_report(resumed.report)
    for name, parameter in expected.named_parameters():
        assert torch.equal(parameter, found.get_parameter(name)), name


def test_resume_without_the_pruner_state_is_said(tmp_path: Path, said: Any) -> None:
    early = Prune(schedule=RAMP)
    trainer = fit(tmp_path, Module(), early, steps=8, **OFF)
    trainer.save_checkpoint(tmp_path / "half.ckpt")

    class Forgets(Prune):  # Lightning keeps the states of callbacks by the names of their classes
        pass

    callback = Forgets(schedule=RAMP)
    fit(tmp_path, Module(), callback, checkpoint=tmp_path / "half.ckpt", **OFF)
    said.expect("the schedule was not finished")


class _Ema(Prune):
    """Finalizes in on_fit_end, after EMAWeightAveraging has put its average into the module."""

    def on_fit_end(self, trainer: Any, module: Any) -> None:
        self.before = self.pruner.sparsity()
        self.after = self.pruner.apply_to(module)
        super().on_fit_end(trainer, module)


@pytest.mark.parametrize("first", [True, False])
def test_ema_weights_get_the_zeros(tmp_path: Path, first: bool) -> None:
    from lightning.pytorch.callbacks import EMAWeightAveraging

    callback, module = _Ema(schedule=RAMP), Module()
    callbacks = [callback, EMAWeightAveraging(decay=0.9)]
    fit(tmp_path, module, *(callbacks if first else callbacks[::-1]), **OFF)
    assert callback.before.zero < 0.4  # the average has few zeros
    assert callback.after.zero == callback.after.masked
    check_report(callback.report)
    for name in ("net.0.weight", "net.2.weight"):
        assert torch.equal(module.get_parameter(name) != 0, callback.pruner.masks[name])


def test_ema_weights_without_the_zeros_are_reported(tmp_path: Path, said: Any) -> None:
    from lightning.pytorch.callbacks import EMAWeightAveraging

    callback = Prune(schedule=RAMP)
    fit(tmp_path, Module(), callback, EMAWeightAveraging(decay=0.9), **OFF)
    said.expect(r"finalize\(\) found pruned weights that were not 0")
    assert callback.report.sparsity.zero == callback.report.sparsity.masked


@pytest.mark.parametrize("hold", ["weights", "grads"])
@pytest.mark.parametrize("attached", [True, False])
def test_fabric(hold: str, attached: bool) -> None:
    fabric = lightning.Fabric(accelerator="cpu", devices=1)
    inner = mlp()
    model, optimizer = fabric.setup(inner, torch.optim.AdamW(inner.parameters(), lr=1e-2))
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
