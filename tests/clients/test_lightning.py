"""Lightning with the library's callback: its Trainer steps with a closure, whatever the module does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import bittersweet as bs
import pytest
import torch
from bittersweet.integrations.lightning import BittersweetPruning
from client_support import RAMP, check_report
from lightning_support import OFF, STEPS, Keeps, Manual, Module, Two, TwoAdams, Watched, fit, lightning

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*GPU available"),
]


def test_two_lines(tmp_path: Path) -> None:
    module, callback = Module(), BittersweetPruning(sparsity=0.5)
    trainer = fit(tmp_path, module, callback, steps=-1, max_epochs=2, **OFF)  # 30 steps
    assert trainer.global_step == 30
    events = callback.report.history
    assert (events[0].step, events[-1].step) == (3, 24)
    check_report(callback.report, steps=30, events=12)
    for name, row in callback.report.sparsity.per_tensor.items():
        assert int((module.get_parameter(name) == 0).sum()) == row.pruned


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize(
    "options",
    [{}, {"hold": "grads"}, {"scorer": "movement"}, {"scorer": "movement", "hold": "grads"},
     {"scorer": "gradient"}, {"scorer": "bitter10s"}],
    ids=str,
)  # fmt: skip
def test_automatic_optimisation(tmp_path: Path, options: dict[str, Any], accumulate: int) -> None:
    callback = Watched(schedule=RAMP, **options)
    fit(tmp_path, Module(), callback, accumulate_grad_batches=accumulate, **OFF)
    check_report(callback.report)
    callback.forwards.check(accumulate * (STEPS - 2))


@pytest.mark.parametrize(
    ("when", "options", "first", "last"),
    [
        ({"begin": 2, "end": 8}, {}, 2, 8),
        ({"begin": 0.25, "end": 1.0}, {}, 3, 12),
        ({"begin": "1 epoch", "end": "2 epochs"}, {"batches": 4}, 4, 8),
        ({"begin": "1 epoch", "end": "2 epochs"}, {"batches": 7, "accumulate_grad_batches": 2}, 4, 8),
        ({"begin": 0.25, "end": 0.75}, {"steps": -1, "max_epochs": 4, "batches": 5}, 5, 15),
        ({"begin": 0.25, "end": 0.75}, {"steps": 12, "max_epochs": 4, "batches": 5}, 3, 9),
        (
            {"begin": 0.25, "end": 0.75},
            {"steps": -1, "max_epochs": 4, "batches": 5, "accumulate_grad_batches": 2},
            3,
            9,
        ),
    ],
    ids=str,
)
def test_when(tmp_path: Path, when: dict[str, Any], options: dict[str, Any], first: int, last: int) -> None:
    callback = Watched(events=2, **when)
    fit(tmp_path, Module(), callback, **options, **OFF)
    events = callback.report.history
    assert (events[0].step, events[-1].step) == (first, last)
    assert callback.report.unfinished is None


def test_a_training_of_no_steps_writes_nothing(tmp_path: Path) -> None:
    from lightning.pytorch.callbacks import EMAWeightAveraging

    callback = BittersweetPruning(sparsity=0.5)
    trainer = fit(tmp_path, Module(), callback, EMAWeightAveraging(decay=0.9), **OFF)
    report, other = callback.report, Module()
    before = [parameter.detach().clone() for parameter in other.parameters()]
    trainer.fit(other, torch.utils.data.DataLoader(torch.randn(8, 16), batch_size=4))  # max_steps is reached
    assert all(map(torch.equal, before, other.parameters()))
    assert callback.report is report


def test_a_training_without_an_end_needs_steps(tmp_path: Path) -> None:
    class Stops(lightning.Callback):  # type: ignore[name-defined]
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            trainer.should_stop = trainer.global_step >= 12

    endless = {"steps": -1, "max_epochs": -1, **OFF}
    with pytest.raises(bs.ArgumentError, match=r"begin: 0\.1, and nobody knows how long the training is"):
        fit(tmp_path, Module(), Watched(), Stops(), **endless)
    callback = Watched(begin=2, end=8)
    fit(tmp_path, Module(), callback, Stops(), **endless)
    assert callback.report.unfinished is None


def test_accumulation_that_changes_needs_steps(tmp_path: Path) -> None:
    from lightning.pytorch.callbacks import GradientAccumulationScheduler

    def changing() -> Any:
        return GradientAccumulationScheduler({0: 1, 1: 2})

    with pytest.raises(bs.ArgumentError, match=r"begin: 0\.1, and nobody knows how long the training is"):
        fit(tmp_path, Module(), Watched(), changing(), steps=-1, max_epochs=2, **OFF)
    callback = Watched(begin=2, end=8)
    fit(tmp_path, Module(), callback, changing(), steps=-1, max_epochs=2, **OFF)
    assert callback.report.unfinished is None


@pytest.mark.parametrize("hold", ["weights", "grads"])
@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "16-mixed"])
def test_precisions(tmp_path: Path, precision: str, hold: str) -> None:
    callback = Watched(schedule=RAMP, hold=hold)
    fit(tmp_path, Module(), callback, precision=precision, gradient_clip_val=1.0, **OFF)
    assert callback.report.step >= 8
    assert callback.report.violations == {}
    assert callback.report.unfinished is None
    assert callback.forwards.violations == 0


def test_double_precision_is_refused(tmp_path: Path) -> None:
    with pytest.raises(bs.DTypeError, match="float64"):
        fit(tmp_path, Module(), Watched(schedule=RAMP), precision="64-true", **OFF)


@pytest.mark.parametrize("hold", ["weights", "grads"])
def test_compiled(tmp_path: Path, hold: str) -> None:
    torch._dynamo.reset()
    callback, module = Watched(schedule=RAMP, hold=hold), Module()
    fit(tmp_path, torch.compile(module, backend="aot_eager"), callback, **OFF)
    check_report(callback.report)
    assert [*callback.pruner.masks] == ["net.0.weight", "net.2.weight"]


@pytest.mark.parametrize("hold", ["weights", "grads"])
@pytest.mark.parametrize(
    ("kind", "scorer"),
    [(Manual, "bitter7"), (TwoAdams, "bitter7"), (TwoAdams, "movement"), (Two, "magnitude")],
)
def test_manual_optimisation_and_several_optimizers(
    tmp_path: Path, kind: Any, scorer: str, hold: str
) -> None:
    callback = Watched(scorer, begin=1 / 6, end=2 / 3, events=3, hold=hold)
    # Each optimizer's step counts as one of Lightning's steps.
    steps = STEPS * (1 if kind is Manual else 2)
    if (kind, hold) == (Two, "grads"):
        with pytest.raises(bs.ArgumentError, match="hold: 'grads' with Muon"):
            fit(tmp_path, kind(), callback, steps=steps, **OFF)
        return
    fit(tmp_path, kind(), callback, steps=steps, **OFF)
    check_report(callback.report)
    assert [event.step for event in callback.report.history] == [2, 4, 6, 8]
    callback.forwards.check(STEPS - 2)


def test_a_module_without_an_optimizer_is_refused(tmp_path: Path) -> None:
    class NoOptimizer(Module):
        def configure_optimizers(self) -> None:
            return None

    with pytest.raises(bs.ArgumentError, match=r"nothing to prune .*not in the optimizer"):
        fit(tmp_path, NoOptimizer(), Watched(schedule=RAMP), **OFF)


def test_muon_keeps_no_second_moment(tmp_path: Path) -> None:
    with pytest.raises(bs.ArgumentError, match="Muon keeps no exp_avg_sq"):
        fit(tmp_path, Two(), Watched(schedule=RAMP), **OFF)


@pytest.mark.parametrize("regrow", [bs.RigL(0.3), bs.SET(0.3)], ids=repr)
def test_a_sparse_start_and_regrowth(tmp_path: Path, regrow: Any) -> None:
    given = {"sparsity": 0.75, "initial_sparsity": 0.75, "start": "random", "begin": 2, "end": 8, "events": 3}
    callback = Watched(**given, regrow=regrow)
    fit(tmp_path, Module(), callback, **OFF)
    assert [event.step for event in callback.report.history] == [0, 2, 4, 6, 8]
    assert callback.report.history[1].churn > 0  # some have grown
    assert callback.report.sparsity.masked == pytest.approx(0.75, abs=1e-3)
    assert callback.report.violations == {}


@pytest.mark.parametrize("scorer", ["bitter7", "movement", "bitter10"])
def test_masks_follow_a_module_that_was_moved_in_the_end(tmp_path: Path, scorer: str) -> None:
    """As Lightning does from a GPU to the host; here only the note of where it was says so."""

    class Moved(Watched):
        def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
            self._device = torch.device("cuda")
            super().on_fit_end(trainer, pl_module)

    plain, moved, module, again = Watched(scorer, begin=3), Moved(scorer, begin=3), Module(), Module()
    again.load_state_dict(module.state_dict())
    fit(tmp_path, module, plain, **OFF)
    fit(tmp_path, again, moved, **OFF)
    assert moved.report.violations == {} and moved.report.unfinished is None
    assert torch.equal(module.net[0].weight, again.net[0].weight)
    assert len(moved.report.history) == len(plain.report.history)


@pytest.mark.parametrize("first", [True, False])
def test_ema_weights_get_the_zeros(tmp_path: Path, first: bool) -> None:
    from lightning.pytorch.callbacks import EMAWeightAveraging

    callback, module = Watched(schedule=RAMP), Module()
    callbacks = [callback, EMAWeightAveraging(decay=0.9)]
    trained: list[torch.Tensor] = []

    class Looks(lightning.Callback):  # type: ignore[name-defined]
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            trained[:] = [pl_module.net[0].weight.detach().clone()]

    fit(tmp_path, module, Looks(), *(callbacks if first else callbacks[::-1]), **OFF)
    check_report(callback.report)
    for name in ("net.0.weight", "net.2.weight"):
        assert torch.equal(module.get_parameter(name) != 0, callback.pruner.masks[name])
    assert not torch.equal(module.net[0].weight, trained[0])  # it is the average


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("norm", [True, False])
def test_swa_weights_get_the_zeros(tmp_path: Path, norm: bool, first: bool) -> None:
    from lightning.pytorch.callbacks import StochasticWeightAveraging

    callback, module = Watched(begin=1, end=9, events=2), Module()
    if norm:  # SWA then makes one more pass over the data, without steps
        module.net.insert(1, torch.nn.BatchNorm1d(32))
    callbacks = [callback, StochasticWeightAveraging(swa_lrs=1e-2, swa_epoch_start=1, annealing_epochs=1)]
    fit(
        tmp_path, module, *(callbacks if first else callbacks[::-1]), steps=-1, max_epochs=4, batches=3, **OFF
    )
    report = callback.report
    assert report.violations == {} and report.unfinished is None
    assert report.sparsity.zero == report.sparsity.masked == pytest.approx(0.5, abs=1e-3)


def test_numbers_reach_every_logger_and_the_progress_bar(tmp_path: Path) -> None:
    loggers, callback = [Keeps(), Keeps()], Watched(begin=2, end=8, events=3)
    trainer = fit(tmp_path, Module(), callback, logger=loggers, log_every_n_steps=5, **OFF)
    events = callback.report.history
    for logger in loggers:
        assert [step for step, _ in logger.pruning] == [event.step for event in events] == [2, 4, 6, 8]
        for event, (_, row) in zip(events, logger.pruning, strict=True):
            assert row["pruning/sparsity"] == event.achieved_sparsity
            assert row["pruning/churn"] == event.churn
            assert all(isinstance(value, (int, float)) for value in row.values())
        assert "pruning/threshold" not in logger.pruning[0][1]  # -inf, where nothing is pruned yet
    assert float(trainer.progress_bar_metrics["pruning/sparsity"]) == pytest.approx(0.5, abs=1e-3)
    assert float(trainer.callback_metrics["pruning/sparsity"]) == pytest.approx(0.5, abs=1e-3)


def test_the_last_number_stays_in_the_progress_bar_and_a_resumed_one_has_it(tmp_path: Path) -> None:
    shown: list[tuple[int, float, float]] = []

    class Looks(lightning.Callback):  # type: ignore[name-defined]
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            found = [metrics.get("pruning/sparsity") for metrics in
                     (trainer.progress_bar_metrics, trainer.callback_metrics)]  # fmt: skip
            if None not in found:
                shown.append((trainer.global_step, *map(float, found)))

    callback = Watched(begin=2, end=6, events=2)
    fit(tmp_path, Module(), callback, Looks(), batches=3, **OFF)
    history = {event.step: event.achieved_sparsity for event in callback.report.history}
    assert [step for step, *_ in shown] == list(range(2, 13))  # over four epochs
    for step, *found in shown:
        last = history[max(known for known in history if known <= step)]
        assert found == [pytest.approx(last)] * 2
    trainer = fit(tmp_path, Module(), Watched(schedule=bs.OneShot(0.5, 2)), steps=6, batches=3, **OFF)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    shown.clear()
    callback = Watched(schedule=bs.OneShot(0.5, 2))
    fit(tmp_path, Module(), callback, Looks(), batches=3, checkpoint=tmp_path / "half.ckpt", **OFF)
    assert [step for step, *_ in shown] == list(range(7, 13))


def test_one_callback_for_one_training_after_the_other(tmp_path: Path) -> None:
    callback = Watched(begin=0.25, end=0.75, events=3)
    fit(tmp_path, Module(), callback, **OFF)
    before = callback.report
    trainer = fit(tmp_path, Module(), callback, steps=16, **OFF)
    check_report(before)
    check_report(callback.report, steps=16)
    trainer.fit_loop.epoch_loop.max_steps = 24
    trainer.fit(trainer.lightning_module, torch.utils.data.DataLoader(torch.randn(60, 16), batch_size=4))
    assert callback.pruner.steps == 8
    assert callback.report.unfinished is None


def test_after_a_training_that_broke_off(tmp_path: Path) -> None:
    class Breaks(lightning.Callback):  # type: ignore[name-defined]
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            if trainer.global_step == 5:
                raise ValueError("broken off")

    callback, module = Watched(begin=2, end=8, events=3), Module()
    with pytest.raises(ValueError, match="broken off"):
        fit(tmp_path, module, callback, Breaks(), **OFF)
    assert callback.report is None
    fit(tmp_path, module, callback, **OFF)
    check_report(callback.report)


def test_a_module_configures_the_callback_itself(tmp_path: Path) -> None:
    class Own(Module):
        def configure_callbacks(self) -> list[Any]:
            self.own = Watched(begin=2, end=8, events=3)
            return [self.own]

    module = Own()
    fit(tmp_path, module, **OFF)
    check_report(module.own.report)


def test_under_the_other_name_of_the_package(tmp_path: Path) -> None:
    other = pytest.importorskip("pytorch_lightning")

    class Plain(other.LightningModule):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.Linear(32, 8))

        def training_step(self, batch: torch.Tensor, _: int) -> torch.Tensor:
            return self.net(batch).square().mean()

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), lr=1e-2)

    callback = Watched(begin=2, end=8, events=3)
    fit(tmp_path, Plain(), callback, package=other, **OFF)
    check_report(callback.report)


@pytest.mark.parametrize(
    ("argument", "counterpart"),
    [
        ("amount", "sparsity"),
        ("pruning_fn", "scorer is 'magnitude' for l1_unstructured"),
        ("parameters_to_prune", "targets"),
        ("apply_pruning", "begin and end"),
        ("make_pruning_permanent", "nothing to make permanent"),
        ("use_lottery_ticket_hypothesis", "callback.pruner.rewind_to"),
        ("verbose", "logger 'bittersweet"),
        ("prune_on_train_epoch_end", "after optimizer steps"),
    ],
)
def test_arguments_of_model_pruning_name_their_counterpart(argument: str, counterpart: str) -> None:
    with pytest.raises(bs.ArgumentError, match=rf"^{argument}: .*ModelPruning.*{counterpart}"):
        BittersweetPruning(**{argument: True})


def test_every_argument_of_model_pruning_has_a_counterpart() -> None:
    import inspect

    from lightning.pytorch.callbacks import ModelPruning

    for argument in list(inspect.signature(ModelPruning.__init__).parameters)[1:]:
        with pytest.raises(bs.ArgumentError, match=f"^{argument}: an argument of Lightning's ModelPruning"):
            BittersweetPruning(**{argument: 1})
