"""transformers' Trainer, with a callback as a user would write it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import bittersweet as bs
import pytest
import torch
from client_support import RAMP, Forwards, check_report

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")
STEPS = 12


def tiny_llama() -> Any:
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=32,
    )  # fmt: skip
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(config)


class Tokens(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    def __len__(self) -> int:
        return 64

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        tokens = torch.randint(0, 64, (16,), generator=torch.Generator().manual_seed(i))
        return {"input_ids": tokens, "labels": tokens}


class Prune(transformers.TrainerCallback):
    """What the documents recommend."""

    def __init__(self, **options: Any) -> None:
        self.options, self.pruner, self.report = options, None, None
        self.forwards: Any = None

    def on_train_begin(
        self, args: Any, state: Any, control: Any, model: Any, optimizer: Any, **_: Any
    ) -> None:
        self.pruner = bs.Pruner(model, optimizer, **self.options).attach()
        if state.global_step:
            self._load(Path(args.output_dir) / f"checkpoint-{state.global_step}")
        self.forwards = Forwards(model, self.pruner)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        torch.save(self.pruner.state_dict(), folder / "pruner.pt")

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if args.load_best_model_at_end and state.best_model_checkpoint:
            self._load(Path(state.best_model_checkpoint))
        self.report = self.pruner.finalize()

    def _load(self, folder: Path) -> None:
        self.pruner.load_state_dict(torch.load(folder / "pruner.pt", weights_only=True))


def arguments(folder: Path, **options: Any) -> Any:
    given = {
        "output_dir": str(folder), "max_steps": STEPS, "per_device_train_batch_size": 4,
        "learning_rate": 1e-3, "save_strategy": "no", "report_to": "none", "use_cpu": True,
        "disable_tqdm": True, "logging_steps": 1000, "seed": 3,
    }  # fmt: skip
    return transformers.TrainingArguments(**{**given, **options})


def trainer(folder: Path, callback: Any, model: Any = None, **options: Any) -> Any:
    data = Tokens()
    return transformers.Trainer(
        tiny_llama() if model is None else model,
        arguments(folder, **options),
        train_dataset=data,
        eval_dataset=data,
        callbacks=[] if callback is None else [callback],
    )


@pytest.mark.parametrize(
    ("options", "passes"),
    [
        ({}, 1),
        ({"gradient_accumulation_steps": 2}, 2),
        ({"bf16": True}, 1),
        ({"gradient_checkpointing": True, "bf16": True, "gradient_accumulation_steps": 2}, 2),
        ({"max_grad_norm": 0.0}, 1),
    ],
)
@pytest.mark.parametrize("hold", ["weights", "grads"])
def test_attached_in_on_train_begin(tmp_path: Path, hold: str, options: dict[str, Any], passes: int) -> None:
    callback = Prune(schedule=RAMP, hold=hold)
    own = trainer(tmp_path, callback, **options)
    own.train()
    check_report(callback.report)
    callback.forwards.check(passes * (STEPS - 2))
    own.save_model(str(tmp_path / "out"))
    again = transformers.LlamaForCausalLM.from_pretrained(str(tmp_path / "out"))
    for name, row in callback.report.sparsity.per_tensor.items():
        assert int((again.get_parameter(name) == 0).sum()) == row.pruned, name


def test_scorer_movement(tmp_path: Path) -> None:
    callback = Prune(schedule=RAMP, scorer="movement")
    trainer(tmp_path, callback, gradient_accumulation_steps=2).train()
    check_report(callback.report)


def test_step_by_hand_in_on_step_end(tmp_path: Path) -> None:
    class ByHand(Prune):
        def on_train_begin(self, *given: Any, **named: Any) -> None:
            super().on_train_begin(*given, **named)
            self.pruner.detach()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.pruner.step()

    for hook in ("on_step_end", "on_optimizer_step"):
        callback = ByHand(schedule=RAMP)
        if hook == "on_optimizer_step":
            callback.on_optimizer_step, callback.on_step_end = callback.on_step_end, lambda *_, **__: None
        trainer(tmp_path, callback, gradient_accumulation_steps=2).train()
        check_report(callback.report)
        callback.forwards.check(2 * (STEPS - 2))


def test_step_by_hand_for_every_micro_batch_is_warned_of(tmp_path: Path, said: Any) -> None:
    class PerBatch(Prune):
        def on_train_begin(self, *given: Any, **named: Any) -> None:
            super().on_train_begin(*given, **named)
            self.pruner.detach()

        def on_substep_end(self, *_: Any, **__: Any) -> None:
            self.pruner.step()

        on_step_end = on_substep_end

    callback = PerBatch(schedule=RAMP, scorer="magnitude")
    trainer(tmp_path, callback, gradient_accumulation_steps=2).train()
    said.expect("the optimizer has not stepped since.*not once per micro-batch")
    assert callback.report.step == 2 * STEPS


def test_resume_is_bitwise_equal(tmp_path: Path) -> None:
    saving = {"save_strategy": "steps", "save_steps": 5, "gradient_accumulation_steps": 2}
    straight = Prune(schedule=RAMP)
    first = trainer(tmp_path / "a", straight, **saving)
    first.train()
    resumed = Prune(schedule=RAMP)
    second = trainer(tmp_path / "a", resumed, **saving)
    with torch.no_grad():
        for parameter in second.model.parameters():
            parameter.normal_()
    second.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-5"))
    check_report(resumed.report)
    for name, parameter in first.model.named_parameters():
        assert torch.equal(parameter, second.model.get_parameter(name)), name
    expected = [event.threshold for event in straight.report.history]
    assert [event.threshold for event in resumed.report.history] == expected


def test_resume_without_the_pruner_state_says_that_the_schedule_was_not_finished(
    tmp_path: Path, said: Any
) -> None:
    class Forgets(Prune):
        def _load(self, folder: Path) -> None:
            pass

    saving = {"save_strategy": "steps", "save_steps": 9}
    trainer(tmp_path, Forgets(schedule=RAMP), **saving).train()
    callback = Forgets(schedule=RAMP)
    trainer(tmp_path, callback, **saving).train(resume_from_checkpoint=str(tmp_path / "checkpoint-9"))
    said.expect("the schedule was not finished")
    assert callback.report.unfinished is not None


def test_the_best_model_gets_its_own_masks(tmp_path: Path, said: Any) -> None:
    callback = Prune(schedule=bs.LinearRamp(0.1, 0.6, begin_step=2, end_step=12, frequency=2))
    own = trainer(
        tmp_path, callback, load_best_model_at_end=True, eval_strategy="steps", eval_steps=4, save_steps=4,
        save_strategy="steps", metric_for_best_model="loss", greater_is_better=True,
    )  # fmt: skip
    own.train()
    best = int(own.state.best_model_checkpoint.rpartition("-")[2])
    assert best == 4
    state = torch.load(tmp_path / "checkpoint-4" / "pruner.pt", weights_only=True)
    assert state["step"] == 4
    said.expect("0.6 was asked for at step 12, and 0.2000 is reached after 4 steps")
    assert callback.report.violations == {}
    assert callback.report.sparsity.masked == pytest.approx(0.2, abs=1e-3)
    assert callback.report.sparsity.zero == callback.report.sparsity.masked


def test_the_best_model_with_the_last_masks_is_warned_of(tmp_path: Path, said: Any) -> None:
    class LastMasks(Prune):
        def on_train_end(self, *_: Any, **__: Any) -> None:
            self.report = self.pruner.finalize()

    callback = LastMasks(schedule=bs.LinearRamp(0.1, 0.6, begin_step=2, end_step=12, frequency=2))
    trainer(
        tmp_path, callback, load_best_model_at_end=True, eval_strategy="steps", eval_steps=4, save_steps=4,
        save_strategy="steps", metric_for_best_model="loss", greater_is_better=True,
    ).train()  # fmt: skip
    said.expect(r"finalize\(\) found pruned weights that were not 0")
    assert sum(callback.report.violations.values()) > 0


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
    model = tiny_llama()

    class NoEnd(Prune):
        def on_train_end(self, *_: Any, **__: Any) -> None:
            pass

    first = NoEnd(schedule=RAMP)
    trainer(tmp_path, first, model).train()
    second = NoEnd(schedule=RAMP)
    trainer(tmp_path, second, model).train()
    first.pruner.finalize()
    second.pruner.finalize()
    said.expect("another Pruner already acts on some of these weights")
    said.expect("have been stepped by another AdamW")
    said.expect(r"finalize\(\) found pruned weights that were not 0")
