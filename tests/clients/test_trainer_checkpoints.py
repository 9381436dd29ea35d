"""The callback's state in checkpoints of transformers' Trainer: resumed trainings, the best model, trials."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import bittersweet as bs
import pytest
import torch
from client_support import RAMP, check_report
from trainer_support import (
    Logged,
    Tokens,
    Watched,
    arguments,
    equal_weights,
    tiny_llama,
    trainer,
    transformers,
)

SAVING = {"save_strategy": "steps", "save_steps": 5}
BEST = {
    "load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 4, "save_strategy": "steps",
    "save_steps": 4, "metric_for_best_model": "loss", "greater_is_better": True,
}  # fmt: skip


def scrambled(own: Any) -> Any:
    with torch.no_grad():
        for parameter in own.model.parameters():
            parameter.normal_()
    return own


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"gradient_accumulation_steps": 2},
        {"bf16": True},
        {"lr_scheduler_type": "cosine", "warmup_steps": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize("scorer", ["bitter7", "movement", "bitter10s"])
def test_resume_is_bitwise_equal(tmp_path: Path, scorer: str, options: dict[str, Any]) -> None:
    recipe = {"scorer": scorer, "begin": 3, "end": 0.75, "events": 3}
    straight, told = Watched(**recipe), Logged()
    first = trainer(tmp_path, [straight, told], **SAVING, **options)
    first.train()
    resumed, told_again = Watched(**recipe), Logged()
    second = scrambled(trainer(tmp_path, [resumed, told_again], **SAVING, **options))
    second.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    check_report(resumed.report)
    assert equal_weights(first.model, second.model)
    expected = [(event.step, event.threshold, event.churn) for event in straight.report.history]
    assert [(event.step, event.threshold, event.churn) for event in resumed.report.history] == expected
    assert [step for step, _ in told.pruning] == [3, 5, 7, 9]
    assert [step for step, _ in told_again.pruning] == [7, 9]  # none is told twice


def test_the_last_checkpoint_and_one_in_another_folder(tmp_path: Path) -> None:
    straight = Watched(schedule=RAMP)
    first = trainer(tmp_path / "a", straight, **SAVING)
    first.train()
    shutil.copytree(tmp_path / "a" / "checkpoint-5", tmp_path / "elsewhere" / "copied")
    moved = Watched(schedule=RAMP)
    second = trainer(tmp_path / "b", moved, **SAVING)
    second.train(resume_from_checkpoint=str(tmp_path / "elsewhere" / "copied"))
    assert equal_weights(first.model, second.model)
    shutil.rmtree(tmp_path / "b" / "checkpoint-12")  # a Trainer that resumes there steps once more
    last = Watched(schedule=RAMP)
    third = trainer(tmp_path / "b", last, **SAVING)
    third.train(resume_from_checkpoint=True)
    assert last.pruner.steps == 12
    assert equal_weights(first.model, third.model)
    check_report(last.report)


def test_masks_of_another_run_in_the_same_folder_are_not_taken(tmp_path: Path) -> None:
    """A folder of the same name in output_dir is not the one that is resumed from."""
    for folder, sparsity in (("a", 0.25), ("b", 0.75)):
        trainer(tmp_path / folder, Watched(sparsity=sparsity, begin=1, end=5, events=1), **SAVING).train()
    callback = Watched(sparsity=0.25, begin=1, end=5, events=1)
    own = trainer(tmp_path / "b", callback, **SAVING)
    own.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-5"))
    check_report(callback.report, sparsity=0.25, events=2)


def test_a_checkpoint_without_the_state_is_refused(tmp_path: Path) -> None:
    trainer(tmp_path, None, **SAVING).train()
    callback = Watched(schedule=RAMP)
    own = trainer(tmp_path, callback, **SAVING)
    with pytest.raises(bs.CheckpointError, match=r"checkpoint-5 has no pruner\.pt: it was saved without"):
        own.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    own.train()  # nothing was left behind
    check_report(callback.report)


def test_a_damaged_state_is_refused(tmp_path: Path) -> None:
    trainer(tmp_path, Watched(schedule=RAMP), **SAVING).train()
    torch.save({"format": "something else"}, tmp_path / "checkpoint-12" / "pruner.pt")
    with pytest.raises(bs.CheckpointError, match="checkpoint-12: this is not the state of a Pruner"):
        trainer(tmp_path, Watched(schedule=RAMP), **SAVING).train(resume_from_checkpoint=True)


def test_another_length_is_refused_and_the_saved_schedule_goes_on(tmp_path: Path) -> None:
    trainer(tmp_path, Watched(events=3), **SAVING).train()
    own = trainer(tmp_path, Watched(events=3), max_steps=20, **SAVING)
    with pytest.raises(bs.CheckpointError, match="differs in schedule") as error:
        own.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    saved = str(error.value).partition("give the saved schedule: schedule=")[2]
    callback = Watched(schedule=eval(saved, {"bs": bs}))
    own = trainer(tmp_path, callback, max_steps=20, **SAVING)
    own.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    check_report(callback.report, steps=20)


def test_the_state_is_small_and_safe_to_load(tmp_path: Path) -> None:
    trainer(tmp_path, Watched(schedule=RAMP), save_only_model=True, **SAVING).train()
    path = tmp_path / "checkpoint-5" / "pruner.pt"
    state = torch.load(path, weights_only=True)
    elements = sum(row[0] * row[1] for row in state["shapes"].values())
    assert sum(mask.nbytes for mask in state["masks"].values()) == pytest.approx(elements / 8, rel=0.01)
    assert state["step"] == 5


def test_the_best_model_gets_its_own_masks(tmp_path: Path, said: Any) -> None:
    callback = Watched(schedule=bs.LinearRamp(0.1, 0.6, begin_step=2, end_step=12, frequency=2))
    own = trainer(tmp_path, callback, **BEST)
    own.train()
    assert own.state.best_model_checkpoint.endswith("checkpoint-4")
    said.expect("0.6 was asked for at step 12, and 0.2000 is reached after 4 steps")
    assert callback.report.violations == {}
    assert callback.report.sparsity.masked == pytest.approx(0.2, abs=1e-3)
    assert callback.report.sparsity.zero == callback.report.sparsity.masked
    best = transformers.LlamaForCausalLM.from_pretrained(str(tmp_path / "checkpoint-4"))
    assert equal_weights(best, own.model)


@pytest.mark.parametrize("options", [{}, {"save_only_model": True}, {"save_total_limit": 1}], ids=str)
def test_the_best_of_the_fully_pruned_ones(tmp_path: Path, options: dict[str, Any]) -> None:
    callback = Watched(begin=1, end=7, events=3)
    own = trainer(tmp_path, callback, **{**BEST, "eval_delay": 8}, **options)
    own.train()
    assert own.state.best_model_checkpoint.endswith("checkpoint-8")
    check_report(callback.report, steps=8)


def test_a_best_checkpoint_without_masks_is_said(tmp_path: Path) -> None:
    class Loses(transformers.TrainerCallback):  # type: ignore[name-defined]
        def on_epoch_end(self, args: Any, *_: Any, **__: Any) -> None:
            for path in Path(args.output_dir).glob("*/pruner.pt"):
                path.unlink()

    own = trainer(tmp_path, [Watched(schedule=RAMP), Loses()], **BEST)
    with pytest.raises(bs.CheckpointError, match=r"has no pruner\.pt"):
        own.train()


def test_trials_of_a_hyperparameter_search(tmp_path: Path) -> None:
    """Each trial saves below a folder of its own, and gets a pruner of its own."""
    optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    reports: list[Any] = []

    class Keeps(Watched):
        def on_train_end(self, *given: Any, **named: Any) -> None:
            super().on_train_end(*given, **named)
            reports.append(self.report)

    own = transformers.Trainer(
        model_init=lambda trial: tiny_llama(), args=arguments(tmp_path, **{**BEST, "eval_delay": 8}),
        train_dataset=Tokens(), eval_dataset=Tokens(), callbacks=[Keeps(begin=1, end=7, events=3)],
    )  # fmt: skip
    own.hyperparameter_search(
        lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-3)},
        n_trials=2, backend="optuna", direction="minimize",
    )  # fmt: skip
    assert len(reports) == 2
    for number, report in enumerate(reports):
        check_report(report, steps=8)
        assert (tmp_path / f"run-{number}" / "checkpoint-8" / "pruner.pt").is_file()
