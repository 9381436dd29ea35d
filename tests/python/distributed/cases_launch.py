"""Cases about the launcher itself."""

from __future__ import annotations

import os
import time

import torch
import torch.distributed as dist


def adds_up(rank: int, size: int) -> int:
    total = torch.tensor([rank + 1])
    dist.all_reduce(total)
    assert int(total) == size * (size + 1) // 2
    return rank


def fails_on_one(rank: int, size: int) -> None:
    assert rank != 1, "what this rank says"
    dist.barrier()


def fails_on_all(rank: int, size: int) -> None:
    raise ValueError(f"rank {rank} says this")


def hangs_on_one(rank: int, size: int) -> None:
    if rank == 1:
        time.sleep(600)


def dies_on_one(rank: int, size: int) -> None:
    if rank == 1:
        os._exit(7)
    dist.barrier()
