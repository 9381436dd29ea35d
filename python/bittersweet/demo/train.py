"""Runs the arms. All arms of a seed are one run up to `begin_step`; from there each goes on from a copy."""

from __future__ import annotations

import copy
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

import bittersweet
from bittersweet.demo.model import ByteGPT
from bittersweet.demo.plan import Arm, Plan
from bittersweet.demo.progress import Progress
from bittersweet.demo.text import Corpus
from bittersweet.optim import AdamW

OnStep = Callable[[nn.Module, torch.optim.Optimizer], None]


class Stepper(Protocol):
    """What a training loop needs of a pruner; `bittersweet.Pruner` is one."""

    def step(self) -> bittersweet.MaskEvent | None: ...

    @property
    def masks(self) -> Mapping[str, Tensor]: ...


class CheckFailed(Exception):
    """The pruned model is not what was asked for: a bug in the library, never in the request."""


@dataclass
class ArmResult:
    """What one arm of one seed measured. Times cover the steps after `begin_step`, where the arms differ."""

    arm: Arm
    seed: int
    curve: list[tuple[int, float]] = field(default_factory=list)
    """(training step, held-out loss in nats per byte)"""
    eligible: int = 0
    pruned: int = 0
    per_tensor: dict[str, float] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)
    step_ms: list[float] = field(default_factory=list)
    """Forward, backward, clipping and optimizer, whose step holds the masks, without `pruner.step()` and
    without evaluation."""
    event_ms: list[float] = field(default_factory=list)
    """Wall time of each `pruner.step()` that made a mask event."""
    hold_ms: list[float] = field(default_factory=list)
    """Wall time of each other `pruner.step()`: what it does beside the optimizer's step."""

    @property
    def held_out_loss(self) -> float:
        return self.curve[-1][1]

    @property
    def achieved(self) -> float:
        return self.pruned / self.eligible if self.eligible else 0.0


class Data:
    """The text as tensors, the order in which one seed sees it, and fixed windows of the held-out part."""

    def __init__(self, corpus: Corpus, plan: Plan, seed: int, device: str = "cpu") -> None:
        self.device = torch.device(device)
        self._train = torch.frombuffer(bytearray(corpus.train), dtype=torch.uint8)
        self.steps = plan.steps
        self._span = torch.arange(plan.context + 1, dtype=torch.int64, device="cpu")
        generator = torch.Generator("cpu").manual_seed(seed)
        last = len(corpus.train) - plan.context - 1
        self._offsets = torch.randint(
            last + 1, (plan.steps, plan.batch), generator=generator, dtype=torch.int64, device="cpu"
        )
        windows = spaced_windows(corpus.held_out, plan.held_out_windows, plan.context)
        self.held_out = windows.to(self.device)

    def batch(self, step: int) -> Tensor:
        return self._train[self._offsets[step - 1][:, None] + self._span].long().to(self.device)


def spaced_windows(text: bytes, count: int, context: int) -> Tensor:
    """`count` windows of `context` + 1 bytes each, evenly spaced over `text`: int64, (count, context + 1)."""
    values = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    last = len(text) - context - 1
    starts = torch.linspace(0, last, count, dtype=torch.float32, device="cpu").long()
    return values[starts[:, None] + torch.arange(context + 1, dtype=torch.int64, device="cpu")].long()


class Trainer:
    """A model and its optimizer at some step of a plan."""

    def __init__(self, plan: Plan, data: Data, seed: int) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model = ByteGPT(plan).to(data.device)  # the same start on every device
        self.plan = plan
        self.data = data
        self.optimizer = _adamw(self.model, plan)

    def snapshot(self) -> dict[str, Any]:
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}

    def restore(self, snapshot: dict[str, Any]) -> None:
        self.model.load_state_dict(snapshot["model"])
        self.optimizer.load_state_dict(copy.deepcopy(snapshot["optimizer"]))

    def train_step(self, step: int) -> float:
        """One optimizer update; gradients are left in place for the pruner. Returns the training loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.plan.learning_rate_at(step)
        self.optimizer.zero_grad()
        loss = self.model.loss(self.data.batch(step))
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), self.plan.clip)
        self.optimizer.step()
        return float(loss.detach())

    @torch.no_grad()
    def evaluate(self) -> float:
        return float(self.model.loss(self.data.held_out))


def _adamw(model: nn.Module, plan: Plan) -> AdamW:
    matrices = [parameter for parameter in model.parameters() if parameter.ndim == 2]
    others = [parameter for parameter in model.parameters() if parameter.ndim != 2]
    groups: list[dict[str, Any]] = [{"params": matrices}, {"params": others, "weight_decay": 0.0}]
    return AdamW(groups, lr=plan.learning_rate, betas=plan.betas, weight_decay=plan.weight_decay)


def train_seed(
    plan: Plan,
    arms: Sequence[Arm],
    corpus: Corpus,
    seed: int,
    device: str,
    *,
    adapt: bool,
    say: Callable[[str], None],
) -> tuple[Plan, list[ArmResult]]:
    """Trains every arm for one seed; returns the plan followed and the results in the order of `arms`.

    With `adapt` the plan is shortened when the shared part shows that this machine is slow. Raises
    `CheckFailed` when a pruned weight is not exactly zero or a sparsity was missed.
    """
    data = Data(corpus, plan, seed, device)
    trainer = Trainer(plan, data, seed)
    shared = ArmResult(Arm(None, 0.0), seed)
    with Progress(f"seed {seed} · all arms, dense", plan.begin_step, say) as progress:
        advance(trainer, shared, 1, plan.begin_step, progress)
    step_ms = statistics.median(shared.step_ms)
    if adapt:
        plan = plan.shortened(step_ms)
        if plan.steps < data.steps:
            say(f"This machine takes {step_ms:.0f} ms per step: {plan.steps} steps instead of {data.steps}.")
    remaining = (plan.steps - plan.begin_step) * len(arms) * step_ms / 1e3
    say(f"The {len(arms)} arms of this seed need about {remaining:.0f} s.")
    snapshot = copy.deepcopy(trainer.snapshot())
    results = []
    for arm in arms:
        trainer = Trainer(plan, data, seed)
        trainer.restore(snapshot)
        result = ArmResult(arm, seed, curve=list(shared.curve))
        pruner = _pruner(trainer, arm, seed) if arm.scorer is not None else None
        with Progress(f"seed {seed} · {arm.name}", plan.steps - plan.begin_step, say) as progress:
            advance(trainer, result, plan.begin_step + 1, plan.steps, progress, pruner)
        if pruner is not None:
            check_pruned(pruner, trainer, result)
            pruner.finalize()
        results.append(result)
    return plan, results


def _pruner(trainer: Trainer, arm: Arm, seed: int) -> bittersweet.Pruner:
    """The pruner counts its own steps, so its ramp starts at 0 where the training stands at `begin_step`."""
    plan = trainer.plan
    assert arm.scorer is not None
    schedule = bittersweet.PolynomialDecay(
        initial_sparsity=0.0,
        final_sparsity=arm.sparsity,
        begin_step=0,
        end_step=plan.ramp_end - plan.begin_step,
        power=3,
        frequency=plan.frequency,
    )
    model, optimizer = trainer.model, trainer.optimizer
    return bittersweet.Pruner(model, optimizer, scorer=arm.scorer, schedule=schedule, seed=seed)


def advance(
    trainer: Trainer,
    result: ArmResult,
    first: int,
    last: int,
    progress: Progress,
    pruner: Stepper | None = None,
    on_step: Sequence[OnStep] = (),
) -> None:
    """Steps `first` to `last`.

    Every optimizer step is followed by the calls of `on_step`, and then, with a pruner, by `pruner.step()`.
    Gradients are still in place for both.
    """
    sparsity = 0.0
    for step in range(first, last + 1):
        start = time.perf_counter()
        loss = trainer.train_step(step)
        stepped = time.perf_counter()
        result.step_ms.append(1e3 * (stepped - start))
        for call in on_step:
            call(trainer.model, trainer.optimizer)
        if pruner is not None:
            called = time.perf_counter()
            event = pruner.step()
            _wait_for(trainer.data.device)
            spent = 1e3 * (time.perf_counter() - called)
            (result.hold_ms if event is None else result.event_ms).append(spent)
            if event is not None:
                sparsity = event.achieved_sparsity
                result.events.append({"train_step": step, **event.to_dict()})
        if trainer.plan.evaluates_at(step):
            result.curve.append((step, trainer.evaluate()))
        progress.update(loss, sparsity, result.step_ms[-1])


def _wait_for(device: torch.device) -> None:
    """Until the work enqueued on a GPU is done, so that a clock shows its time."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def check_pruned(pruner: Stepper, trainer: Trainer, result: ArmResult, wanted: int | None = None) -> None:
    """Counts what was pruned into `result`.

    Raises `CheckFailed` for a pruned weight that is not zero, for a number of pruned weights other than
    `wanted` (floor(sparsity * n + 0.5) if None), and for a number of mask events that was not planned.
    """
    parameters = dict(trainer.model.named_parameters())
    for name, mask in pruner.masks.items():
        weight, keep = parameters[name].detach(), mask.bool()
        alive = int(torch.count_nonzero(weight[~keep]))
        _check(alive == 0, f"{result.arm.name}: {alive} pruned weights of {name} are not zero")
        dead = int(torch.count_nonzero(~keep))
        result.eligible += weight.numel()
        result.pruned += dead
        result.per_tensor[name] = dead / weight.numel()
    if wanted is None:
        wanted = math.floor(result.arm.sparsity * result.eligible + 0.5)
    _check(result.pruned == wanted, f"{result.arm.name}: {result.pruned:,} weights pruned, not {wanted:,}")
    events, planned = sum(event["requested_sparsity"] > 0 for event in result.events), trainer.plan.events
    _check(events == planned, f"{result.arm.name}: {events} mask events, {planned} planned")


def _check(holds: bool, otherwise: str) -> None:
    if not holds:
        raise CheckFailed(otherwise)
