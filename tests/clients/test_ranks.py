"""The callbacks under DDP: two processes (gloo) of transformers' Trainer and of Lightning's."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import multiprocessing


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def start(worker: Any, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What both ranks have saved in the end."""
    multiprocessing.spawn(_begin, (worker, str(folder), free_port()), nprocs=2)
    one, other = (torch.load(folder / f"rank-{rank}.pt", weights_only=True) for rank in range(2))
    return one, other


def _begin(rank: int, worker: Any, folder: str, port: int) -> None:
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    torch.set_num_threads(1)
    torch.save(worker(rank, Path(folder)), Path(folder) / f"rank-{rank}.pt")


def result(callback: Any, model: torch.nn.Module, told: list[Any]) -> dict[str, Any]:
    report = callback.report
    assert report.violations == {} and report.unfinished is None
    assert report.sparsity.zero == report.sparsity.masked == pytest.approx(0.5, abs=1e-3)
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
    return {"weights": weights, "masks": dict(callback.pruner.masks.items()), "told": told}


def check_equal(one: dict[str, Any], other: dict[str, Any]) -> None:
    for kind in ("weights", "masks"):
        assert all(torch.equal(value, other[kind][name]) for name, value in one[kind].items())


def _transformers(rank: int, folder: Path, resumed: str | None = None) -> dict[str, Any]:
    from trainer_support import Logged, Watched, trainer

    class OnTheMainOne(Logged):
        """As TensorBoard's and W&B's callbacks do."""

        def on_log(self, args: Any, state: Any, control: Any, logs: Any, **_: Any) -> None:
            if state.is_world_process_zero:
                super().on_log(args, state, control, logs)

    told, callback = OnTheMainOne(), Watched(begin=2, end=6, events=2)
    options = {"save_strategy": "steps", "save_steps": 4, "ddp_backend": "gloo", "max_steps": 8}
    best = {
        "load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 4, "eval_delay": 8,
        "gradient_accumulation_steps": 2,
    }  # fmt: skip
    own = trainer(folder, [told, callback], **options, **best)
    assert own.args.world_size == 2
    own.train(resume_from_checkpoint=resumed)
    return result(callback, own.model, told.pruning)


def _transformers_resumed(rank: int, folder: Path) -> dict[str, Any]:
    return _transformers(rank, folder, str(folder / "checkpoint-4"))


def _lightning(rank: int, folder: Path, checkpoint: Any = None) -> dict[str, Any]:
    from lightning.pytorch.callbacks import ModelCheckpoint
    from lightning.pytorch.strategies import DDPStrategy
    from lightning_support import Keeps, Module, Watched, fit

    told, callback, module = Keeps(), Watched(begin=2, end=6, events=2), Module()
    saving = ModelCheckpoint(dirpath=folder, filename="{step}", every_n_epochs=1, save_top_k=-1)
    fit(
        folder, module, callback, saving, steps=8, batches=8, logger=told, checkpoint=checkpoint, alike=True,
        devices=2, strategy=DDPStrategy(process_group_backend="gloo"),
    )  # fmt: skip
    return result(callback, module, told.pruning)


def _lightning_resumed(rank: int, folder: Path) -> dict[str, Any]:
    return _lightning(rank, folder, folder / "step=4.ckpt")


@pytest.mark.parametrize(
    ("package", "straight", "resumed"),
    [
        ("transformers", _transformers, _transformers_resumed),
        ("lightning", _lightning, _lightning_resumed),
    ],
    ids=["transformers", "lightning"],
)
def test_two_processes(tmp_path: Path, package: str, straight: Any, resumed: Any) -> None:
    pytest.importorskip(package)
    one, other = start(straight, tmp_path)
    check_equal(one, other)
    assert [step for step, _ in one["told"]] == [2, 4, 6]
    assert other["told"] == []
    again, _ = start(resumed, tmp_path)
    check_equal(one, again)
