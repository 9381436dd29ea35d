"""Stochastic rounding to bfloat16 in NumPy, from the contract alone."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

BF16 = torch.bfloat16
MOST = float(torch.finfo(BF16).max)


def philox(counter: NDArray[np.uint64], key: int) -> NDArray[np.uint64]:
    """Philox 4x32-10 of rows of four 32-bit words, after Salmon et al. (2011)."""
    words = [counter[:, i].astype(np.uint64) for i in range(4)]
    low, k0, k1 = np.uint64(2**32 - 1), key % 2**32, key >> 32
    for _ in range(10):
        first, second = words[0] * np.uint64(0xD2511F53), words[2] * np.uint64(0xCD9E8D57)
        words = [
            (second >> np.uint64(32)) ^ words[1] ^ np.uint64(k0), second & low,
            (first >> np.uint64(32)) ^ words[3] ^ np.uint64(k1), first & low,
        ]  # fmt: skip
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return np.stack(words, axis=1)


def draws(numel: int, seed: int, step: int, stream: int) -> NDArray[np.int64]:
    """The 16 bits of every element."""
    blocks = np.arange((numel + 7) // 8, dtype=np.uint64)
    others = (np.full_like(blocks, word) for word in (0, 6 + 256 * stream, step))
    counter = np.stack((blocks, *others), axis=1)
    words = philox(counter, seed)
    halves = np.stack((words & np.uint64(0xFFFF), words >> np.uint64(16)), axis=2)
    return halves.reshape(-1)[:numel].astype(np.int64)


def expected(src: torch.Tensor, seed: int, step: int, stream: int = 0) -> torch.Tensor:
    """The contract, with torch's own rounding to nearest where that is asked for."""
    bits = src.reshape(-1).contiguous().view(torch.int32).numpy().astype(np.int64) & 0xFFFFFFFF
    up = ((bits + draws(bits.size, seed, step, stream)) & 0xFFFFFFFF) >> 16
    drawn = torch.from_numpy(up.astype(np.uint16).view(np.int16)).view(BF16).reshape(src.shape)
    nearest = src.isnan() | (src.abs() >= MOST)
    found = torch.where(nearest, src.to(BF16), drawn)
    found.view(torch.int16)[src.isnan()] = 0x7FC0
    return found
