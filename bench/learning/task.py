"""What a task hands to the training loop, and the loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import bittersweet as bs
import torch
from bittersweet.demo.plan import percent
from torch import nn

DENSE, METHODS, SPARSITIES = "dense", ("magnitude", "bitter7", "RigL"), (0.5, 0.8, 0.9)
EVENTS = 12


@dataclass(frozen=True)
class Arm:
    """One training: `method` is DENSE or one of METHODS."""

    method: str
    sparsity: float

    @property
    def name(self) -> str:
        return self.method if self.method == DENSE else f"{self.method} {percent(self.sparsity)}"


ARMS = (Arm(DENSE, 0.0), *(Arm(method, sparsity) for sparsity in SPARSITIES for method in METHODS))


@dataclass
class Start:
    """A model before its first step, and what is done with it."""

    model: nn.Module
    loss: Callable[[int], torch.Tensor]
    """Of the batch of a step, from 1."""
    evaluate: Callable[[], float]


@dataclass(frozen=True)
class Task:
    """`measure` names what `Start.evaluate` returns; `pretrained`: training goes on from good weights."""

    name: str
    title: str
    measure: str
    higher_is_better: bool
    steps: int
    learning_rate: float
    data: str
    begin: Callable[[int], Start]
    pretrained: bool = False

    def facts(self) -> dict[str, Any]:
        """What makes two results comparable."""
        facts = {**vars(self)}
        del facts["begin"]
        return facts


@dataclass(frozen=True)
class Result:
    task: str
    method: str
    sparsity: float
    seed: int
    value: float
    pruned: int
    prunable: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def train(task: Task, arm: Arm, seed: int) -> Result:
    """The same start, batches and steps for every arm of a seed.

    Raises RuntimeError when pruned weights are not zero, or their number is not what was asked for.
    """
    begin = time.perf_counter()
    torch.manual_seed(seed)
    start = task.begin(seed)
    model, peak = start.model, task.learning_rate
    optimizer = bs.optim.AdamW(model.parameters(), lr=peak, betas=(0.9, 0.99), weight_decay=0.01)
    pruner = None if arm.method == DENSE else _pruner(task, arm, seed, model, optimizer)
    model.train()
    for step in range(1, task.steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = _learning_rate(task, step)
        start.loss(step).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if pruner is not None:
            pruner.step()
        optimizer.zero_grad()
    pruned = prunable = 0
    if pruner is not None:
        report = pruner.finalize()
        prunable = sum(mask.numel for mask in pruner.masks.all_packed().values())
        pruned = prunable - sum(mask.kept() for mask in pruner.masks.all_packed().values())
        if report.violations or pruned != math.floor(arm.sparsity * prunable + 0.5):
            raise RuntimeError(f"{task.name}, {arm.name}: {pruned:,} of {prunable:,} pruned; {report}")
    model.eval()
    with torch.no_grad():
        value = start.evaluate()
    spent = round(time.perf_counter() - begin, 2)
    return Result(task.name, arm.method, arm.sparsity, seed, value, pruned, prunable, spent)


def _learning_rate(task: Task, step: int) -> float:
    """A tenth of the steps up, then a cosine to a tenth of the peak."""
    warm = max(1, task.steps // 10)
    if step <= warm:
        return task.learning_rate * step / warm
    done = (step - warm) / (task.steps - warm)
    return task.learning_rate * (0.1 + 0.45 * (1.0 + math.cos(math.pi * done)))


def _pruner(task: Task, arm: Arm, seed: int, model: nn.Module, optimizer: Any) -> bs.Pruner:
    """Magnitude and bitter7 go from dense to sparse over the middle half. RigL is sparse from the first step
    (ERK; random places, or the large weights of a pretrained model) and moves places until the same step."""
    first, last = task.steps // 4, task.steps * 3 // 4
    every = max(1, (last - first) // EVENTS)
    if arm.method != "RigL":
        ramp = bs.PolynomialDecay(0.0, arm.sparsity, begin_step=first, end_step=last, frequency=every)
        scorer = bs.Bitter7(eps=0.0) if arm.method == "bitter7" else arm.method  # v is small in short runs
        return bs.Pruner(model, optimizer, scorer=scorer, schedule=ramp, seed=seed)
    pruner = bs.Pruner(
        model,
        optimizer,
        scorer="magnitude",
        schedule=bs.ConstantSparsity(arm.sparsity, every, last, every),
        scope="tensor",
        distribution="erk",
        regrow=bs.RigL(),
        seed=seed,
    )
    pruner.start(scorer="magnitude" if task.pretrained else "random")
    return pruner
