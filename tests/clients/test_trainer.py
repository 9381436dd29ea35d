"""transformers' Trainer with the library's callback."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import bittersweet as bs
import pytest
import torch
from client_support import RAMP, check_report
from trainer_support import STEPS, Logged, Tokens, Watched, arguments, tiny_llama, trainer, transformers


def test_two_lines(tmp_path: Path) -> None:
    from bittersweet.integrations.transformers import BittersweetCallback

    callback = BittersweetCallback(sparsity=0.5)
    own = trainer(tmp_path, callback, max_steps=-1, num_train_epochs=2)  # 32 steps
    own.train()
    assert callback.pruner.history[0].step == 3  # 0.1 of 32
    assert callback.pruner.history[-1].step == 26  # 0.8 of 32
    check_report(callback.report, steps=32, events=13)  # the first, and every second step
    for name, row in callback.report.sparsity.per_tensor.items():
        assert int((own.model.get_parameter(name) == 0).sum()) == row.pruned


@pytest.mark.parametrize(
    ("options", "passes"),
    [
        ({}, 1),
        ({"gradient_accumulation_steps": 2}, 2),
        ({"bf16": True}, 1),
        ({"gradient_checkpointing": True, "bf16": True, "gradient_accumulation_steps": 2}, 2),
        ({"max_grad_norm": 0.0}, 1),
        ({"torch_compile": True, "torch_compile_backend": "aot_eager"}, 1),
        ({"torch_compile": True, "torch_compile_backend": "aot_eager", "bf16": True}, 1),
        ({"auto_find_batch_size": True}, 1),
        ({"eval_strategy": "steps", "eval_steps": 3, "eval_on_start": True}, 1),
    ],
    ids=str,
)
@pytest.mark.parametrize("hold", ["weights", "grads", "auto"])
def test_options_of_the_trainer(tmp_path: Path, hold: str, options: dict[str, Any], passes: int) -> None:
    torch._dynamo.reset()
    callback = Watched(schedule=RAMP, hold=hold)
    own = trainer(tmp_path, callback, **options)
    own.train()
    check_report(callback.report)
    assert callback.forwards.violations == 0
    if not {"torch_compile", "eval_steps"} & set(options):
        callback.forwards.check(passes * (STEPS - 2))
    own.save_model(str(tmp_path / "out"))
    again = transformers.LlamaForCausalLM.from_pretrained(str(tmp_path / "out"))
    for name, row in callback.report.sparsity.per_tensor.items():
        assert int((again.get_parameter(name) == 0).sum()) == row.pruned, name


@pytest.mark.parametrize("scorer", ["movement", "taylor", bs.Bitter10s(), "magnitude"], ids=str)
def test_scorers(tmp_path: Path, scorer: Any) -> None:
    callback = Watched(scorer, schedule=RAMP)
    trainer(tmp_path, callback, gradient_accumulation_steps=2).train()
    check_report(callback.report)


@pytest.mark.parametrize(
    ("when", "first", "last"),
    [
        ({"begin": 2, "end": 8}, 2, 8),
        ({"begin": 0.25, "end": 1.0}, 3, 12),
        ({"begin": "0.25 epochs", "end": "0.5 epochs"}, 4, 8),  # an epoch is 16 steps
        ({"begin": 0, "end": "0.75 epoch"}, 1, 12),  # no event on step 0: steps count from 1
    ],
    ids=str,
)
def test_when(tmp_path: Path, when: dict[str, Any], first: int, last: int) -> None:
    callback = Watched(sparsity=0.75, **when)
    trainer(tmp_path, callback).train()
    events = callback.pruner.history
    assert (events[0].step, events[-1].step) == (first, last)
    assert callback.report.sparsity.masked == pytest.approx(0.75, abs=1e-3)


def test_epochs_count_optimizer_steps_under_accumulation(tmp_path: Path) -> None:
    callback = Watched(begin="1 epoch", end="2 epochs", events=2)
    trainer(tmp_path, callback, max_steps=-1, num_train_epochs=3, gradient_accumulation_steps=3).train()
    # 16 batches, 5 steps of three and one of what is left
    assert [event.step for event in callback.pruner.history] == [6, 9, 12]


def test_epochs_of_a_stream_are_refused(tmp_path: Path) -> None:
    class Stream(torch.utils.data.IterableDataset[Any]):
        def __iter__(self) -> Any:
            return iter([Tokens()[i] for i in range(64)])

    own = transformers.Trainer(
        tiny_llama(), arguments(tmp_path), train_dataset=Stream(), callbacks=[Watched(begin="1 epoch")]
    )
    with pytest.raises(bs.ArgumentError, match="begin: '1 epoch', and nobody knows how long an epoch is"):
        own.train()
    callback = Watched(begin=0.25, end=0.75)
    transformers.Trainer(
        tiny_llama(), arguments(tmp_path), train_dataset=Stream(), callbacks=[callback]
    ).train()
    check_report(callback.report, events=7)


def test_a_time_after_the_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(bs.ArgumentError, match="end: 13 is step 13, and the training ends at step 12"):
        trainer(tmp_path, Watched(end=13)).train()
    with pytest.raises(bs.ArgumentError, match=r"begin, end: 0.5 \(step 6\) and 0.52 \(step 6\)"):
        trainer(tmp_path, Watched(begin=0.5, end=0.52)).train()


def test_shares_by_glob_and_further_options(tmp_path: Path) -> None:
    callback = Watched(sparsity={"*mlp*": 0.75, "*self_attn*": 0.25}, begin=2, end=8, ignore="*o_proj*")
    trainer(tmp_path, callback).train()
    rows = callback.report.sparsity.per_tensor
    for part, share in (("mlp", 0.75), ("self_attn", 0.25)):
        of = [row for name, row in rows.items() if part in name]
        assert sum(row.pruned for row in of) / sum(row.elements for row in of) == pytest.approx(
            share, abs=1e-3
        )
    assert not any("o_proj" in name for name in rows)


def test_two_to_four(tmp_path: Path) -> None:
    callback = Watched(scope="2:4", begin=2, end=8)
    own = trainer(tmp_path, callback)
    own.train()
    weight = own.model.get_parameter("model.layers.0.mlp.up_proj.weight")
    assert torch.all((weight.reshape(-1, 4) != 0).sum(1) == 2)


def test_zeros_of_a_sparse_model_are_kept(tmp_path: Path) -> None:
    model = tiny_llama()
    bs.prune_(model, sparsity=0.5)
    before = {name: p != 0 for name, p in model.named_parameters() if p.ndim == 2 and "proj" in name}
    callback = Watched(sparsity=None, keep_zeros=True)
    trainer(tmp_path, callback, model).train()
    assert callback.report.sparsity.zero == pytest.approx(0.5, abs=1e-3)
    assert all(torch.equal(model.get_parameter(name) != 0, kept) for name, kept in before.items())


@pytest.mark.parametrize("regrow", [bs.RigL(0.3), bs.SET(0.3), True], ids=repr)
def test_a_sparse_start_and_regrowth(tmp_path: Path, regrow: Any) -> None:
    given = {"sparsity": 0.75, "initial_sparsity": 0.75, "start": "random", "begin": 2, "end": 8, "events": 3}
    callback = Watched(**given, regrow=regrow)
    trainer(tmp_path, callback, save_strategy="steps", save_steps=5).train()
    assert [event.step for event in callback.report.history] == [0, 2, 4, 6, 8]
    assert callback.report.history[1].churn > 0  # some have grown
    assert callback.report.sparsity.masked == pytest.approx(0.75, abs=1e-3)
    assert callback.report.violations == {}
    resumed = Watched(**given, regrow=regrow)
    trainer(tmp_path, resumed, save_strategy="steps", save_steps=5).train(
        resume_from_checkpoint=str(tmp_path / "checkpoint-5")
    )
    for name, mask in callback.pruner.masks.items():
        assert torch.equal(mask, resumed.pruner.masks[name]), name


def test_numbers_reach_whatever_the_trainer_reports_to(tmp_path: Path) -> None:
    """The reporter comes before the callback, as TensorBoard's and W&B's do."""
    seen, callback = Logged(), Watched(begin=2, end=8, events=3)
    own = trainer(tmp_path, [seen, callback], logging_steps=2)
    own.train()
    events = callback.pruner.history
    assert [step for step, _ in seen.pruning] == [event.step for event in events] == [2, 4, 6, 8]
    for event, (_, row) in zip(events, seen.pruning, strict=True):
        assert row["pruning/sparsity"] == event.achieved_sparsity
        assert row["pruning/churn"] == event.churn
        assert all(isinstance(value, (int, float)) for value in row.values())
    assert "pruning/threshold" not in seen.pruning[0][1]  # -inf, where nothing is pruned yet
    assert seen.pruning[-1][1]["pruning/threshold"] == events[-1].threshold
    # Nothing of the Trainer's own is lost where an event falls on a logging step.
    assert [step for step, row in seen.rows if "loss" in row] == [2, 4, 6, 8, 10, 12]
    assert [row["step"] for row in own.state.log_history if "pruning/sparsity" in row] == [2, 4, 6, 8]


def test_a_trainer_of_ones_own_logs_its_own_way(tmp_path: Path) -> None:
    class Own(transformers.Trainer):  # type: ignore[name-defined]
        def log(self, logs: dict[str, float], *given: Any) -> None:
            super().log({f"own_{key}": value for key, value in logs.items()}, *given)

    callback = Watched(begin=2, end=8)
    own = trainer(tmp_path, callback, kind=Own)
    own.train()
    assert any("own_pruning/sparsity" in row for row in own.state.log_history)
    check_report(callback.report, events=7)


def test_tensorboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    callback = Watched(begin=2, end=8, events=3)
    trainer(tmp_path, callback, report_to="tensorboard").train()
    found = EventAccumulator(str(tmp_path / "board")).Reload()
    read = [(one.step, one.value) for one in found.Scalars("train/pruning/sparsity")]
    assert read == [(e.step, pytest.approx(e.achieved_sparsity)) for e in callback.pruner.history]


@pytest.mark.parametrize(("optim", "counted"), [("adamw_torch", STEPS - 2), ("adamw_torch_fused", STEPS)])
def test_steps_that_a_scaler_skips(tmp_path: Path, optim: str, counted: int) -> None:
    """They are not counted; a fused optimizer, which is called all the same, counts them as skipped."""

    class Scaled(transformers.Trainer):  # type: ignore[name-defined]
        """float16 as on a GPU: losses are scaled, and two batches overflow."""

        def create_accelerator_and_postprocess(self) -> None:
            super().create_accelerator_and_postprocess()
            self.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)

        def compute_loss(self, *given: Any, **named: Any) -> Any:
            loss = super().compute_loss(*given, **named)
            return loss * float("inf") if self.state.global_step in (2, 5) else loss

    callback = Watched(schedule=RAMP)
    trainer(tmp_path, callback, kind=Scaled, optim=optim).train()
    check_report(callback.report, steps=counted)
    assert callback.forwards.violations == 0


def test_one_callback_for_one_training_after_the_other(tmp_path: Path) -> None:
    callback = Watched(begin=2, end=8, events=3)
    first = trainer(tmp_path, callback)
    first.train()
    before, report = callback.pruner, callback.report
    second = trainer(tmp_path, callback, max_steps=16)
    second.train()
    assert callback.pruner is not before
    check_report(report)
    check_report(callback.report, steps=16)
    second.train()  # and of the same Trainer and model
    check_report(callback.report, steps=16)


def test_after_a_training_that_broke_off(tmp_path: Path) -> None:
    class Breaks(transformers.TrainerCallback):  # type: ignore[name-defined]
        done = False

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 5 and not self.done:
                self.done = True
                raise KeyboardInterrupt

    callback = Watched(begin=2, end=8, events=3)
    own = trainer(tmp_path, [callback, Breaks()])
    with pytest.raises(KeyboardInterrupt):
        own.train()
    assert callback.report is None
    own.train()
    check_report(callback.report)


def test_a_training_that_ends_early_is_said(tmp_path: Path, said: Any) -> None:
    class Stops(transformers.TrainerCallback):  # type: ignore[name-defined]
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            control.should_training_stop = state.global_step == 5

    callback = Watched(begin=2, end=8, events=3)
    trainer(tmp_path, [callback, Stops()]).train()
    said.expect("the schedule was not finished")
    assert callback.report.violations == {}


def test_two_that_would_write_one_file_are_refused(tmp_path: Path) -> None:
    model, callbacks = tiny_llama(), [Watched(targets=["*mlp*"]), Watched(targets=["*attn*"])]
    with pytest.raises(bs.ArgumentError, match=r"callbacks: 2 of \w+, .*pruner\.pt.*Give one"):
        trainer(tmp_path, callbacks, model).train()
    assert all(callback.pruner is None for callback in callbacks)
    bs.strip(model)


def test_what_does_not_go_with_the_optimizer_is_refused_when_training_begins(tmp_path: Path) -> None:
    with pytest.raises(bs.ArgumentError, match=r"keeps no exp_avg_sq.*magnitude"):
        trainer(tmp_path, Watched(), optim="sgd").train()


def test_under_another_trainer_it_says_so(tmp_path: Path) -> None:
    model = tiny_llama()
    optimizer = torch.optim.AdamW(model.parameters())
    state = transformers.TrainerState(max_steps=12)
    with pytest.raises(bs.Error, match="no Trainer of transformers is calling"):
        Watched().on_train_begin(arguments(tmp_path), state, None, model=model, optimizer=optimizer)
