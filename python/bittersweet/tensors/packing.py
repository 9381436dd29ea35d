"""Bool tensors to mask words and back by torch's own operations, where the tensors are: on a CUDA device."""

from __future__ import annotations

from typing import Any

from .orders import ROW_MAJOR, Order


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


def unpack(words: Any, numel: int, order: Order = ROW_MAJOR) -> Any:
    """A flat, row-major bool tensor of the first `numel` bits, which are in `order`, where the words are."""
    import torch

    bits = torch.arange(8, dtype=torch.uint8, device=words.device)
    found = ((words.view(torch.uint8)[:, None] >> bits) & 1).reshape(-1)[:numel].bool()
    return found if order == ROW_MAJOR else _turn(found, order.q, order.p)


def reorder(words: Any, numel: int, by: Order, to_memory: bool) -> Any:
    """Row-major words as memory in the order `by` has their bits, or the reverse."""
    return pack(_turn(unpack(words, numel), by.p, by.q) if to_memory else unpack(words, numel, by))


def _turn(bits: Any, rows: int, columns: int) -> Any:
    """A batch of matrices, each of them transposed."""
    return bits.view(-1, rows, columns).transpose(1, 2).reshape(-1)
