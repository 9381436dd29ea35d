"""Layers of other libraries: transformers' Conv1D, or a stand-in where transformers is not installed."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

import torch
from torch import nn

if importlib.util.find_spec("transformers") is not None:
    from transformers.pytorch_utils import Conv1D
else:

    class Conv1D(nn.Module):  # type: ignore[no-redef]
        def __init__(self, nf: int, nx: int) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(nx, nf))
            self.bias = nn.Parameter(torch.zeros(nf))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ self.weight + self.bias

    sys.modules["transformers.pytorch_utils"] = ModuleType("transformers.pytorch_utils")
    sys.modules["transformers.pytorch_utils"].Conv1D = Conv1D  # type: ignore[attr-defined]

__all__ = ["Conv1D"]
