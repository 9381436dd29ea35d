"""A tiny model, data and a Trainer for it; and the library's callback with eyes on every forward pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from client_support import Forwards

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")
from bittersweet.integrations.transformers import BittersweetCallback  # noqa: E402

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


class Watched(BittersweetCallback):
    """The library's callback; `forwards` sees what is trained."""

    forwards: Any = None

    def on_train_begin(self, *given: Any, **named: Any) -> None:
        super().on_train_begin(*given, **named)
        self.forwards = Forwards(named["model"], self.pruner)


class Logged(transformers.TrainerCallback):
    """What a Trainer reports, as TensorBoard or W&B would get it: by step."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, dict[str, Any]]] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **_: Any) -> None:
        self.rows.append((state.global_step, dict(logs)))

    @property
    def pruning(self) -> list[tuple[int, dict[str, Any]]]:
        found = [
            (step, {key: row[key] for key in row if key.startswith("pruning/")}) for step, row in self.rows
        ]
        return [(step, row) for step, row in found if row]


def arguments(folder: Path, **options: Any) -> Any:
    given = {
        "output_dir": str(folder), "max_steps": STEPS, "per_device_train_batch_size": 4,
        "learning_rate": 1e-3, "save_strategy": "no", "report_to": "none", "use_cpu": True,
        "disable_tqdm": True, "logging_steps": 1000, "seed": 3,
    }  # fmt: skip
    return transformers.TrainingArguments(**{**given, **options})


def trainer(folder: Path, callback: Any, model: Any = None, kind: Any = None, **options: Any) -> Any:
    data = Tokens()
    callbacks = callback if isinstance(callback, list) else [callback]
    return (kind or transformers.Trainer)(
        tiny_llama() if model is None else model,
        arguments(folder, **options),
        train_dataset=data,
        eval_dataset=data,
        callbacks=[one for one in callbacks if one is not None],
    )


def equal_weights(one: Any, other: Any) -> bool:
    """Bit for bit."""
    return all(torch.equal(p, other.get_parameter(name)) for name, p in one.named_parameters())
