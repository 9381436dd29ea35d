"""Sparse layers for the tests of `bittersweet.sparse`, and comparison by bits."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """Its bits as integers: NaN are equal where their payloads are, and -0 is not 0."""
    return tensor.detach().contiguous().view(torch.int16 if tensor.element_size() == 2 else torch.int32)


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(bits(a), bits(b))


def sparse_linear(
    inputs: int, outputs: int, dtype: torch.dtype = torch.float32, sparsity: float = 0.6, bias: bool = True
) -> nn.Linear:
    random = torch.Generator().manual_seed(inputs * 1000 + outputs)
    layer = nn.Linear(inputs, outputs, bias=bias)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(outputs, inputs, generator=random))
        layer.weight[torch.rand(outputs, inputs, generator=random) < sparsity] = 0.0
    return layer.to(dtype)


def nasty_weight(rows: int, columns: int, dtype: torch.dtype) -> torch.Tensor:
    """Any bits: NaN of all payloads, infinities, denormals, -0, and zeros."""
    random = torch.Generator().manual_seed(5)
    size = torch.int16 if dtype.itemsize == 2 else torch.int32
    limit = 1 << (8 * dtype.itemsize - 1)
    raw = torch.randint(-limit, limit, (rows, columns), generator=random, dtype=torch.int64)
    raw[torch.rand(rows, columns, generator=random) < 0.5] = 0
    raw[torch.rand(rows, columns, generator=random) < 0.1] = -limit  # -0
    return raw.to(size).view(dtype)


def model_of(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(*layers).eval()


class Conv1D(nn.Module):
    """Transformers' layer of this name: a linear layer whose weight is (inputs, outputs)."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf, self.nx = nf, nx
        self.weight = nn.Parameter(torch.empty(nx, nf))
        self.bias = nn.Parameter(torch.zeros(nf))

    def forward(self, x: torch.Tensor) -> Any:
        return torch.addmm(self.bias, x.view(-1, self.nx), self.weight).view(*x.shape[:-1], self.nf)
