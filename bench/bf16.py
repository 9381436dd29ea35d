"""What rounding does to training in bfloat16: one small problem, trained with each way of storing it.

    python bench/bf16.py [--lr 1e-3] [--steps 3000] [--seeds 3] [--trackers]

A student learns a teacher of its own shape from random inputs. Everything is computed in float32; how weights
and moments are stored between the steps differs. One thread, and the same batches for all. With --trackers
the weights stay float32, and what scorers with a memory keep of one training is stored in several ways: how
many weights their masks decide otherwise than with float32.
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
SPARSITIES = (0.5, 0.9)
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


class Nearest:
    """movement's sums in bfloat16, rounded to nearest: what the library does not do."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.sums = {
            name: torch.zeros_like(p, dtype=BF16) for name, p in model.named_parameters() if p.dim() > 1
        }
        optimizer.register_step_pre_hook(self.update)
        self.named = dict(model.named_parameters())

    @torch.no_grad()
    def update(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        rate = optimizer.param_groups[0]["lr"]
        for name, sums in self.sums.items():
            p = self.named[name]
            assert p.grad is not None
            sums.copy_(sums.float() - rate * p.grad * p)


def masks_by_storage(seed: int, steps: int, lr: float) -> dict[tuple[str, str], list[list[Any]]]:
    """By scorer and storage, what it prunes at each of SPARSITIES after one training."""
    teacher, student = network(100 + seed), network(seed)
    optimizer = torch.optim.AdamW(student.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    trackers: dict[tuple[str, str], Any] = {}
    for storage in ("float32", "bfloat16"):
        kept = {"storage": storage, "seed": seed} if storage == "bfloat16" else {}
        trackers["bitter10", storage] = bs.CoherenceTracker(student, optimizer, c=0.0, **kept)
        trackers["bitter10c", storage] = bs.SnapshotTracker(student, optimizer, **kept)
        trackers["movement", storage] = bs.MovementTracker(student, optimizer, **kept)
    nearest = Nearest(student, optimizer)
    draw = torch.Generator().manual_seed(seed)
    for step in range(steps):
        x = torch.randn(64, 32, generator=draw)
        optimizer.zero_grad()
        (student(x) - teacher(x).detach()).square().mean().backward()
        optimizer.step()
        for tracker in trackers.values():
            if tracker.follows_step:
                tracker.update(step)
        schedule.step()
    answers = {key: tracker.answers() for key, tracker in trackers.items()}
    answers["movement", "bfloat16, to nearest"] = nearest.sums
    return {
        key: [_masks(student, optimizer, key[0], found, s) for s in SPARSITIES]
        for key, found in answers.items()
    }


def _masks(
    model: nn.Module, optimizer: torch.optim.Optimizer, scorer: str, found: dict[str, Any], sparsity: float
) -> list[Any]:
    items = []
    for name, value in found.items():
        p = model.get_parameter(name)
        said = {"scores": value} if scorer == "movement" else {"modifier": value}
        m = optimizer.state[p]["exp_avg"]
        items.append(bs.ScoreInputs(p.detach(), exp_avg=m, name=name, **said))
    return [mask.bool() for mask in bs.make_masks(items, sparsity=sparsity, scorer=scorer)]


def compare_trackers(steps: int, lr: float, seeds: int) -> None:
    runs = [masks_by_storage(seed, steps, lr) for seed in range(seeds)]
    heads = " | ".join(f"{100 * s:.0f} %" for s in SPARSITIES)
    print(f"| decided otherwise than with float32, of all weights | {heads} |\n| --- | --- | --- |")
    for scorer, storage in runs[0]:
        if storage == "float32":
            continue
        cells = []
        for i in range(len(SPARSITIES)):
            shares = []
            for run in runs:
                pairs = list(zip(run[scorer, storage][i], run[scorer, "float32"][i], strict=True))
                other = sum(int((a != b).sum()) for a, b in pairs)
                shares.append(100 * other / sum(a.numel() for a, _ in pairs))
            cells.append(f"{statistics.mean(shares):.2f} % ({min(shares):.2f}, {max(shares):.2f})")
        print(f"| {scorer}, {storage} | {' | '.join(cells)} |", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Training in bfloat16 with each way of rounding.")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--trackers", action="store_true")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if options.trackers:
        compare_trackers(options.steps, options.lr, options.seeds)
        return
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
