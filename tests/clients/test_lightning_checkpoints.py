"""The callback's state in Lightning's checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import bittersweet as bs
import pytest
import torch
from client_support import RAMP, check_report
from lightning_support import OFF, Keeps, Module, TwoAdams, Watched, fit, lightning

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*GPU available"),
]


@pytest.mark.parametrize("kind", [Module, TwoAdams])
@pytest.mark.parametrize(
    "options",
    [{}, {"hold": "grads"}, {"scorer": "movement"}, {"scorer": "bitter10s"}],
    ids=str,
)
def test_resume_is_bitwise_equal(tmp_path: Path, options: dict[str, Any], kind: Any) -> None:
    # All batches are alike: a resumed Lightning run repeats one, pruned or not.
    from lightning.pytorch.callbacks import ModelCheckpoint

    each = 2 if kind is TwoAdams else 1

    def run(checkpoint: Any = None) -> tuple[Any, Any, Any]:
        torch.manual_seed(0)
        callback, module, told = Watched(begin=3, end=0.75, events=3, **options), kind(), Keeps()
        saving = ModelCheckpoint(dirpath=tmp_path, filename="{step}", every_n_epochs=1, save_top_k=-1)
        fit(
            tmp_path, module, callback, saving, checkpoint=checkpoint, batches=5, alike=True, logger=told,
            steps=each * 12,
        )  # fmt: skip
        return callback, module, told

    straight, expected, told = run()
    resumed, found, told_again = run(tmp_path / f"step={5 * each}.ckpt")
    check_report(straight.report)
    check_report(resumed.report)
    for name, parameter in expected.named_parameters():
        assert torch.equal(parameter, found.get_parameter(name)), name
    assert [step for step, _ in told.pruning] == [each * step for step in (3, 5, 7, 9)]
    assert [step for step, _ in told_again.pruning] == [each * step for step in (7, 9)]


def test_resume_with_an_average_of_the_weights(tmp_path: Path) -> None:
    from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint

    def run(checkpoint: Any = None) -> tuple[Any, Any]:
        torch.manual_seed(0)
        callback, module = Watched(schedule=RAMP), Module()
        saving = ModelCheckpoint(dirpath=tmp_path, filename="{step}", every_n_epochs=1, save_top_k=-1)
        average = EMAWeightAveraging(decay=0.5)
        fit(tmp_path, module, callback, average, saving, checkpoint=checkpoint, batches=5, alike=True)
        return callback, module

    _, expected = run()
    resumed, found = run(tmp_path / "step=5.ckpt")
    check_report(resumed.report)
    for name, parameter in expected.named_parameters():
        assert torch.equal(parameter, found.get_parameter(name)), name


def test_a_checkpoint_without_the_state_is_refused(tmp_path: Path) -> None:
    trainer = fit(tmp_path, Module(), steps=8, **OFF)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    callback = Watched(schedule=RAMP)
    with pytest.raises(bs.CheckpointError, match=r"half\.ckpt has no state of Watched: it was saved without"):
        fit(tmp_path, Module(), callback, checkpoint=tmp_path / "half.ckpt", **OFF)
    fit(tmp_path, Module(), callback, **OFF)
    check_report(callback.report)


def test_a_state_that_was_loaded_to_test_a_module_is_not_trained_on_from(tmp_path: Path) -> None:
    class Tested(Module):
        def test_step(self, batch: Any, _: int) -> None:
            self.training_step(batch, 0)

    callback, module = Watched(begin=2, end=8, events=3), Tested()
    trainer = fit(tmp_path, module, callback, **OFF)
    trainer.save_checkpoint(tmp_path / "whole.ckpt")
    loader = torch.utils.data.DataLoader(torch.randn(8, 16), batch_size=4)
    trainer.test(module, loader, ckpt_path=tmp_path / "whole.ckpt", verbose=False, weights_only=True)
    fit(tmp_path, Tested(), callback, **OFF)
    check_report(callback.report)


def test_another_length_is_refused_and_the_saved_schedule_goes_on(tmp_path: Path) -> None:
    trainer = fit(tmp_path, Module(), Watched(end=1.0, begin=0.25, events=3), steps=8, **OFF)
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    with pytest.raises(bs.CheckpointError, match=r"end\.ckpt: .*differs in schedule") as error:
        fit(
            tmp_path,
            Module(),
            Watched(end=1.0, begin=0.25, events=3),
            checkpoint=tmp_path / "end.ckpt",
            **OFF,
        )
    saved = str(error.value).partition("give the saved schedule: schedule=")[2]
    callback = Watched(schedule=eval(saved, {"bs": bs}))
    fit(tmp_path, Module(), callback, checkpoint=tmp_path / "end.ckpt", **OFF)
    assert callback.report.finalized and callback.report.unfinished is None


def test_the_best_checkpoint_has_its_zeros(tmp_path: Path) -> None:
    from lightning.pytorch.callbacks import ModelCheckpoint

    class Worse(Module):
        """Its metric gets worse, so that the first checkpoint is the best."""

        def on_train_epoch_end(self) -> None:
            self.log("score", float(self.trainer.current_epoch))

    callback, module = Watched(begin=2, end=10, events=4), Worse()
    saving = ModelCheckpoint(dirpath=tmp_path, monitor="score", mode="min", save_top_k=1)
    fit(tmp_path, module, callback, saving, batches=4)
    state = torch.load(saving.best_model_path, weights_only=True)
    assert state["callbacks"]["Watched"]["step"] == 4
    zeros = [int((value == 0).sum()) for key, value in state["state_dict"].items() if key.endswith("weight")]
    assert sum(zeros) == callback.report.history[1].pruned > 0
    best = Worse()
    best.load_state_dict(state["state_dict"])
    pruner = bs.Pruner.from_zeros(best, scorer="magnitude")
    assert pruner.sparsity().masked == pytest.approx(callback.report.history[1].achieved_sparsity)


@pytest.mark.parametrize("resumed", [True, False])
def test_a_module_in_parts(tmp_path: Path, resumed: bool) -> None:
    """A checkpoint within an epoch holds the state too."""
    from lightning.pytorch.callbacks import ModelCheckpoint

    saving = ModelCheckpoint(dirpath=tmp_path, filename="{step}", every_n_train_steps=3, save_top_k=-1)
    fit(tmp_path, Module(), Watched(schedule=RAMP), saving)
    if not resumed:
        state = torch.load(tmp_path / "step=6.ckpt", weights_only=True)
        assert state["callbacks"]["Watched"]["step"] == 6
        return
    callback = Watched(schedule=RAMP)
    fit(tmp_path, Module(), callback, checkpoint=tmp_path / "step=6.ckpt", **OFF)
    check_report(callback.report)
    assert isinstance(callback, lightning.Callback)
