"""Tiny modules, a logger that keeps what it gets, and the library's callback with eyes on forward passes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from client_support import Forwards, mlp

lightning = pytest.importorskip("lightning")
from bittersweet.integrations.lightning import BittersweetPruning  # noqa: E402
from lightning.pytorch.loggers import Logger  # noqa: E402

STEPS = 12
OFF = {"enable_checkpointing": False}


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


class Watched(BittersweetPruning):
    """The library's callback; `forwards` sees what is trained."""

    forwards: Any = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        super().on_train_start(trainer, pl_module)
        self.forwards = Forwards(pl_module.net)
        self.forwards.pruner = Inside(self.pruner)


class Inside:
    """A pruner of the LightningModule, by the names of its net."""

    def __init__(self, pruner: Any) -> None:
        self._pruner = pruner

    @property
    def masks(self) -> dict[str, torch.Tensor]:
        return {name.removeprefix("net."): mask for name, mask in self._pruner.masks.items()}

    @property
    def history(self) -> Any:
        return self._pruner.history


class Keeps(Logger):  # type: ignore[misc]
    """A logger as TensorBoard's and W&B's are: on the main process alone."""

    name, version = "keeps", 0

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int, dict[str, Any]]] = []

    @lightning.pytorch.utilities.rank_zero_only
    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        self.rows.append((step or 0, dict(metrics)))

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        pass

    @property
    def pruning(self) -> list[tuple[int, dict[str, Any]]]:
        return [(step, row) for step, row in self.rows if any(key.startswith("pruning/") for key in row)]


def fit(
    folder: Path,
    module: Any,
    *callbacks: Any,
    steps: int = STEPS,
    batches: int = 15,
    checkpoint: Any = None,
    alike: bool = False,
    package: Any = lightning,
    **options: Any,
) -> Any:
    """A Trainer that has fitted. Data that are `alike` go on equally after a resumed start, where Lightning
    itself repeats a batch."""
    torch.manual_seed(5)
    data = torch.randn(1, 16).repeat(4 * batches, 1) if alike else torch.randn(4 * batches, 16)
    given = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "max_steps": steps}
    trainer = package.Trainer(
        accelerator="cpu", default_root_dir=folder, callbacks=list(callbacks), **{**given, **options}
    )
    loader = torch.utils.data.DataLoader(data, batch_size=4)
    trainer.fit(module, loader, ckpt_path=checkpoint, **({"weights_only": True} if checkpoint else {}))
    return trainer
