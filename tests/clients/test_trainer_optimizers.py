"""The names that ``TrainingArguments(optim=...)`` takes, of packages that are installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import bittersweet as bs
import pytest
from client_support import RAMP, check_report

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")
from trainer_support import STEPS, Watched, trainer  # noqa: E402

WORKS = [
    ("adamw_torch", "torch"),
    ("adamw_torch_fused", "torch"),
    ("adafactor", "torch"),
    ("rmsprop", "torch"),
    ("adamw_torch_8bit", "torchao"),
    ("adamw_torch_4bit", "torchao"),
    ("adamw_bnb_8bit", "bitsandbytes"),
    ("paged_adamw_32bit", "bitsandbytes"),
    ("ademamix", "bitsandbytes"),
    ("rmsprop_bnb_8bit", "bitsandbytes"),
    ("schedule_free_adamw", "schedulefree"),
    ("schedule_free_radam", "schedulefree"),
]
WITHOUT_SQUARES = [
    ("sgd", "torch"),
    ("adagrad", "torch"),
    ("lion_32bit", "bitsandbytes"),
    ("lion_8bit", "bitsandbytes"),
    ("schedule_free_sgd", "schedulefree"),
]


def need(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")


def model() -> Any:
    """8,192 elements in some weights: 8-bit optimizers quantise from 4,096 on."""
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=64, hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=32,
        )
    )  # fmt: skip


def run(folder: Path, name: str, **options: Any) -> None:
    callback = Watched(schedule=RAMP, **options)
    trainer(folder, callback, model(), optim=name).train()
    check_report(callback.report)
    callback.forwards.check(STEPS - 2)


@pytest.mark.parametrize(("name", "package"), WORKS)
def test_bitter7(tmp_path: Path, name: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    need(package)
    monkeypatch.setattr("torch.compile", lambda function, **_: function)  # torchao: a step for each shape
    run(tmp_path, name)


@pytest.mark.parametrize(("name", "package"), WITHOUT_SQUARES)
def test_without_second_moments(tmp_path: Path, name: str, package: str) -> None:
    need(package)
    with pytest.raises(bs.ArgumentError, match=r"keeps no exp_avg_sq.*magnitude"):
        run(tmp_path, name)
    run(tmp_path, name, scorer="magnitude")


def test_a_best_checkpoint_of_a_schedule_free_optimizer(tmp_path: Path) -> None:
    """The Trainer takes such an optimizer into eval mode to save; the saved weights have the zeros."""
    need("schedulefree")
    callback = Watched(schedule=RAMP)
    own = trainer(
        tmp_path, callback, model(), optim="schedule_free_adamw", save_strategy="steps", save_steps=10
    )
    own.train()
    check_report(callback.report)
    saved = transformers.LlamaForCausalLM.from_pretrained(str(tmp_path / "checkpoint-10"))
    for key, row in callback.report.sparsity.per_tensor.items():
        assert int((saved.get_parameter(key) == 0).sum()) == row.pruned, key
