"""Bool tensors to mask words and back by torch's own operations, where the tensors are: on a CUDA device."""

from __future__ import annotations

from typing import Any


def words_for(numel: int) -> int:
    return (numel + 63) // 64


def pack(keep: Any) -> Any:
    """int64 words of a contiguous bool tensor, where it is."""
    import torch

    numel = keep.numel()
    octets = torch.zeros(8 * words_for(numel), 8, dtype=torch.uint8, device=keep.device)
    octets.view(-1)[:numel] = keep.reshape(-1)
    octets <<= torch.arange(8, dtype=torch.uint8, device=keep.device)
    return octets.sum(dim=1, dtype=torch.uint8).view(torch.int64)


def unpack(words: Any, numel: int) -> Any:
    """A flat bool tensor of the first `numel` bits, where the words are."""
    import torch

    bits = torch.arange(8, dtype=torch.uint8, device=words.device)
    return ((words.view(torch.uint8)[:, None] >> bits) & 1).reshape(-1)[:numel].bool()
