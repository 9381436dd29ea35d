"""Input norms and gradients over text that is neither trained on nor evaluated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from bittersweet.demo.model import ByteGPT
from bittersweet.demo.text import Corpus
from bittersweet.wanda.calibration import Calibrator

_SHARE = 0.05
_BATCH = 16


def hold_back(corpus: Corpus) -> tuple[Corpus, bytes]:
    """Splits the last twentieth off the training text, for calibration; the held-out part stays."""
    cut = len(corpus.train) - int(len(corpus.train) * _SHARE)
    return replace(corpus, train=corpus.train[:cut]), corpus.train[cut:]


def input_norms(model: nn.Module, batches: Sequence[Tensor]) -> dict[str, Tensor]:
    """WANDA's norms of the model's targets, by parameter name."""
    return dict(Calibrator(model).run(batches, show_progress=False).norms)


def gradients(model: ByteGPT, windows: Tensor) -> dict[str, Tensor]:
    """The gradient of the mean loss over `windows`, by parameter name; `.grad` is left empty."""
    model.zero_grad(set_to_none=True)
    for part in torch.split(windows, _BATCH):
        (model.loss(part) * (len(part) / len(windows))).backward()  # type: ignore[no-untyped-call]
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def batches(windows: Tensor) -> list[Tensor]:
    """The model's inputs in `windows` (without the byte to predict), in batches."""
    return [part[:, :-1] for part in torch.split(windows, _BATCH)]
