"""Input norms and gradients over text that is neither trained on nor evaluated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from bittersweet.demo.model import ByteGPT
from bittersweet.demo.text import Corpus

_SHARE = 0.05
_BATCH = 16


def hold_back(corpus: Corpus) -> tuple[Corpus, bytes]:
    """Splits the last twentieth off the training text, for calibration; the held-out part stays."""
    cut = len(corpus.train) - int(len(corpus.train) * _SHARE)
    return replace(corpus, train=corpus.train[:cut]), corpus.train[cut:]


def input_norms(model: nn.Module, batches: Sequence[Tensor]) -> dict[str, Tensor]:
    """sqrt(mean over tokens of the squared input feature) of each Linear, by the name of its weight.

    Sums are double. The model runs without gradients; its hooks are removed even after an error.
    """
    sums: dict[str, Tensor] = {}
    tokens: dict[str, int] = {}

    def watch(name: str) -> Any:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            features = inputs[0].flatten(0, -2).double()
            sums[name] = sums.get(name, 0.0) + features.square().sum(0)
            tokens[name] = tokens.get(name, 0) + len(features)

        return hook

    linear = {f"{path}.weight": m for path, m in model.named_modules() if isinstance(m, nn.Linear)}
    hooks = [module.register_forward_pre_hook(watch(name)) for name, module in linear.items()]
    try:
        with torch.no_grad():
            for batch in batches:
                model(batch)
    finally:
        for handle in hooks:
            handle.remove()
    return {name: (total / tokens[name]).sqrt().float() for name, total in sums.items()}


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
