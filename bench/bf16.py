"""What rounding does to training in bfloat16: one small problem, trained with each way of storing it.

    python bench/bf16.py [--lr 1e-3] [--steps 3000] [--seeds 3]

A student learns a teacher of its own shape from random inputs. Everything is computed in float32; how weights
and moments are stored between the steps differs. One thread, and the same batches for all.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from typing import Any

import bittersweet as bs
import torch
from torch import nn

BF16 = torch.bfloat16
ARMS: dict[str, dict[str, Any]] = {
    "float32": {"dtype": torch.float32},
    "bfloat16, to nearest": {"dtype": BF16},
    "bfloat16, stochastic": {"dtype": BF16, "rounding": "stochastic"},
    "bfloat16 weights, float32 moments, to nearest": {"dtype": BF16, "state_dtype": torch.float32},
    "bfloat16 weights, float32 moments, stochastic": {
        "dtype": BF16,
        "state_dtype": torch.float32,
        "rounding": "stochastic",
    },
}


def network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(32, 128), nn.Tanh(), nn.Linear(128, 128), nn.Tanh(), nn.Linear(128, 8))


def trained(seed: int, steps: int, lr: float, dtype: torch.dtype, **options: Any) -> float:
    """The loss on inputs that were never trained on."""
    teacher, student = network(100 + seed), network(seed)
    held = [nn.Parameter(one.detach().to(dtype)) for one in student.parameters()]
    optimizer = bs.optim.AdamW(held, lr=lr, rounding_seed=seed, **options)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    draw = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        with torch.no_grad():
            for wide, stored in zip(student.parameters(), held, strict=True):
                wide.copy_(stored)
        x = torch.randn(64, 32, generator=draw)
        student.zero_grad()
        (student(x) - teacher(x).detach()).square().mean().backward()
        for wide, stored in zip(student.parameters(), held, strict=True):
            assert wide.grad is not None
            stored.grad = wide.grad.to(dtype)
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        for wide, stored in zip(student.parameters(), held, strict=True):
            wide.copy_(stored)
        x = torch.randn(4096, 32, generator=torch.Generator().manual_seed(1000))
        return float((student(x) - teacher(x)).square().mean())


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Training in bfloat16 with each way of rounding.")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    print("| stored as | loss: mean (least, most) | times float32 |\n| --- | --- | --- |")
    base = None
    for name, arm in ARMS.items():
        losses = [trained(seed, options.steps, options.lr, **arm) for seed in range(options.seeds)]
        mean = statistics.mean(losses)
        base = mean if base is None else base
        print(
            f"| {name} | {mean:.2e} ({min(losses):.2e}, {max(losses):.2e}) | {mean / base:.2f} |", flush=True
        )


if __name__ == "__main__":
    main()
