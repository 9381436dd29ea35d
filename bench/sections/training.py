"""Training with masks beside training without: one step, events, tiny tensors, small models end to end."""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import bittersweet as bs
import memory
import models
import torch
from arms import ARMS, BATCH, EVERY, OWN, TORCH, Arm, Training, ramp
from measure import Bench, Rounds, in_words, set_threads
from tables import Table
from torch import nn

from sections.hold import Net

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
RARE = 100  # steps from event to event, where events are rare
SMALL = 1_000_000
TINY = ((16, 16), (26, 148), 100)  # shape, numbers of tensors, calls a round
SIZES = ((100, 4.0), (10, 1.5), (2, 0.6))  # a part of the headline's weights, and periods for each repetition


def run(bench: Bench) -> list[Table]:
    return [_one_step(bench), _events(bench), _tiny(bench), _end_to_end(bench)]


def _net(
    shapes: Sequence[tuple[int, ...]], dtype: torch.dtype = torch.float32, like: nn.Module | None = None
) -> Net:
    """Random weights, with gradients of their own or those of another net."""
    random = torch.Generator().manual_seed(0)
    weights = [torch.empty(shape, dtype=dtype).normal_(0.0, 0.02, generator=random) for shape in shapes]
    return Net(weights, None if like is None else [parameter.grad for parameter in like.parameters()])


def _arm(
    name: str,
    shapes: Sequence[tuple[int, ...]],
    schedule: bs.Schedule,
    dtype: torch.dtype = torch.float32,
    like: nn.Module | None = None,
) -> Arm:
    """Every tensor is pruned. hold="grads" writes gradients, and has its own."""
    net = _net(shapes, dtype, None if "grads" in name else like)
    return Arm(name, net, schedule, [key for key, _ in net.named_parameters()])


def _versus(ours: float, torchs: float, unit: str = "ms") -> dict[str, float]:
    return {f"ours_{unit}": ours, f"torch_{unit}": torchs, "torch_ratio": ours / torchs}


@contextmanager
def _uncollected() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


# ---- one step ----


def _one_step(bench: Bench) -> Table:
    shapes = models.gpt_shapes(bench.weights)
    rows = [row for name, dtype in DTYPES.items() for row in _of_dtype(bench, shapes, name, dtype)]
    notes = [
        "torch: one step of torch.optim.AdamW(fused=True) without pruning. ours: what the row says; its step "
        "and pruner.step() where it names a hold.",
        "Half of the rows: of every matrix, at random. Words of 64 dead ones are left unread.",
        "Gradients are given, and all weights, gradients and states were written before.",
    ]
    title = f"One optimizer step with masks ({bench.weights:,} weights in {len(shapes)} tensors)"
    return Table(title, rows, notes)


def _of_dtype(
    bench: Bench, shapes: Sequence[tuple[int, ...]], name: str, dtype: torch.dtype
) -> list[dict[str, Any]]:
    bench.say(f"{name}: making six models with optimizers and masks")
    dense = _net(shapes, dtype)
    plain = torch.optim.AdamW(dense.parameters(), lr=1e-5, fused=True)
    plain.step()
    bare = bs.optim.AdamW(dense.parameters(), lr=1e-5)
    bare.state = plain.state
    cases: dict[str, Callable[[], Any]] = {"own step, no masks": bare.step}
    # Weights and states of their own: dead rows are left unread only while nobody else writes them.
    random = torch.Generator().manual_seed(2)
    for label, mask in (
        ("50 % dead", lambda shape: torch.empty(shape).bernoulli_(0.5, generator=random).bool()),
        ("90 % dead", lambda shape: torch.empty(shape).bernoulli_(0.1, generator=random).bool()),
        ("half of the rows dead", lambda shape: _half_of_rows(shape, random)),
    ):
        net = _net(shapes, dtype, dense)
        optimizer = bs.optim.AdamW(net.parameters(), lr=1e-5)
        optimizer.hold({parameter: mask(parameter.shape) for parameter in net.parameters()})
        cases[f"own step, {label}"] = optimizer.step
    for hold in ("weights", "grads"):
        arm = f'{TORCH}, hold="{hold}"'
        cases[f"{arm}, 50 % dead"] = _arm(arm, shapes, bs.OneShot(0.5, 1), dtype, dense).step
    for call in cases.values():
        call()
    swept = [[p.detach() for p in dense.parameters()], [p.grad for p in dense.parameters()]]
    swept += [[plain.state[p][key] for p in dense.parameters()] for key in ("exp_avg", "exp_avg_sq")]
    rows = []
    for threads in bench.threads:
        bench.say(f"{name}, {in_words(threads)}")
        rounds = Rounds(bench, threads, bench.floor.over(*swept))
        rounds.add(TORCH, plain.step)
        for label, call in cases.items():
            rounds.add(label, call)
        rounds.run()
        for label in cases:
            row = {"data": name, "case": label, "threads": threads}
            rows.append({**row, **_versus(rounds.ms(label), rounds.ms(TORCH))})
    return rows


def _half_of_rows(shape: torch.Size, random: torch.Generator) -> torch.Tensor:
    """Of a matrix; all of a vector is kept."""
    keep = torch.ones(shape, dtype=torch.bool)
    if len(shape) > 1:
        keep[torch.randperm(shape[0], generator=random)[: shape[0] // 2]] = False
    return keep


# ---- events ----


def _events(bench: Bench) -> Table:
    threads = max(bench.threads)
    rows: list[dict[str, Any]] = []
    for weights in sorted({min(SMALL, bench.weights), bench.weights}):
        bench.say(f"events, {weights:,} weights, {in_words(threads)}")
        periods = _periods(bench, weights, threads, bench.repeats * (5 if weights < bench.weights else 1))
        for arm in ARMS:
            own = [(sum(period), statistics.median(period[2:-1])) for period in periods[arm]]
            cost = statistics.median(whole - EVERY * step for whole, step in own)
            for every in (EVERY, RARE):
                ours, torchs = (_per_step(periods[name], every) for name in (arm, TORCH))
                row = {"case": arm, "weights": weights, "threads": threads}
                row = {**row, **_versus(ours, torchs)}
                if arm == TORCH:
                    rows += [row] if every == EVERY else []
                else:
                    rows.append({**row, "case": f"{arm}, every {every} steps", "event": cost})
    notes = [
        f"ours: optimizer.step() and pruner.step(), the mean of a period of {EVERY} steps with one event "
        f"(the median of all periods). Every {RARE} steps: with {RARE - EVERY} more, each like the median of "
        "those that neither make an event nor follow one.",
        "One event more: what a period takes beyond as many steps like that, so with what the event leaves "
        "to the next step.",
        "bitter7, one threshold for all, from half of the weights on 0.4 % more at each event. Gradients are "
        "given.",
    ]
    return Table("Optimizer steps with events", rows, notes)


def _per_step(periods: Sequence[Sequence[float]], every: int) -> float:
    """Milliseconds a step when there is an event every `every` steps."""
    return statistics.median(
        (sum(period) + (every - EVERY) * statistics.median(period[2:-1])) / every for period in periods
    )


def _periods(bench: Bench, weights: int, threads: int, repeats: int) -> Mapping[str, list[list[float]]]:
    """By arm: the milliseconds of the steps of each period; the last of them makes an event."""
    set_threads(threads)
    shapes = models.gpt_shapes(weights)
    first = _arm(ARMS[0], shapes, ramp())
    arms = [first, *(_arm(name, shapes, ramp(), like=first.model) for name in ARMS[1:])]
    periods: dict[str, list[list[float]]] = {name: [] for name in ARMS}
    with _uncollected():
        for number in range(repeats + 1):
            for arm in arms:
                times = []
                for _ in range(EVERY):
                    begin = time.perf_counter_ns()
                    arm.step()
                    times.append((time.perf_counter_ns() - begin) / 1e6)
                if number:
                    periods[arm.name].append(times)
            gc.collect()
    _check_events(arms, repeats + 1)
    return periods


def _check_events(arms: Sequence[Arm], wanted: int) -> None:
    for arm in arms:
        if arm.pruner is not None and arm.events != wanted:
            raise RuntimeError(f"{arm.name}: {arm.events} events, not {wanted}: the figures would be others'")


# ---- tiny tensors ----


def _tiny(bench: Bench) -> Table:
    shape, counts, calls = TINY
    threads = max(bench.threads)
    set_threads(threads)
    rows: list[dict[str, Any]] = []
    for count in counts:
        bench.say(f"{count} tiny tensors")
        arms = [_arm(name, [shape] * count, bs.OneShot(0.5, 1)) for name in ARMS]
        unmasked = _arm(TORCH, [shape] * count, bs.OneShot(0.5, 1))
        unmasked.optimizer = bs.optim.AdamW(unmasked.model.parameters(), lr=1e-5)
        arms.append(unmasked)
        for arm in arms:
            arm.step()
        stepping, pruning = _alternate(arms, bench.repeats, calls)
        more = {"weights": count * math.prod(shape), "threads": threads}
        for label, arm in (("own step, no masks", unmasked), ("own step, 50 % dead", arms[ARMS.index(OWN)])):
            times = _versus(stepping[arms.index(arm)], stepping[0], "us")
            rows.append({"case": f"{count} tensors: {label}", **more, **times})
        pruned = [(i, arm) for i, arm in enumerate(arms) if arm.pruner is not None]
        for i, arm in pruned:
            if arm.name != OWN:  # its row is above
                times = _versus(stepping[i], stepping[0], "us")
                rows.append({"case": f"{count} tensors: step, {arm.name}", **more, **times})
        for i, arm in pruned:
            case = f"{count} tensors: pruner.step(), {arm.name}"
            rows.append({"case": case, **more, "ours_us": pruning[i]})
    notes = [
        "torch: its fused step of the same tensors. Steps with masks: with what a pruner does before and in "
        'them, for hold="grads" the gradients. pruner.step(): between events, by itself.'
    ]
    size = "x".join(map(str, shape))
    return Table(f"What does not depend on the number of weights ({size} tensors)", rows, notes)


def _alternate(arms: Sequence[Arm], rounds: int, calls: int) -> tuple[list[float], list[float]]:
    """By arm: the median microseconds of its optimizer's step, and of its pruner's."""
    stepping: list[list[int]] = [[] for _ in arms]
    pruning: list[list[int]] = [[] for _ in arms]
    with _uncollected():
        for _ in range(rounds):
            for i, arm in enumerate(arms):
                prune = (lambda: None) if arm.pruner is None else arm.pruner.step
                for _ in range(calls):
                    begin = time.perf_counter_ns()
                    arm.optimizer.step()
                    stepped = time.perf_counter_ns()
                    prune()
                    pruning[i].append(time.perf_counter_ns() - stepped)
                    stepping[i].append(stepped - begin)
            gc.collect()
    return _medians(stepping), _medians(pruning)


def _medians(nanoseconds: Sequence[Sequence[int]]) -> list[float]:
    return [statistics.median(times) / 1e3 for times in nanoseconds]


# ---- end to end ----


def _end_to_end(bench: Bench) -> Table:
    threads = max(bench.threads)
    set_threads(threads)
    rows: list[dict[str, Any]] = []
    lengths = []
    for part, share in SIZES:
        lengths.append(max(2, round(share * bench.repeats)))
        rows += _trained(bench, bench.weights // part, lengths[-1], threads)
    notes = [
        "Forward, backward, optimizer and pruner. Stacks of 8 feed-forward blocks (norm, d x 4d, GELU, "
        f"4d x d, residual), {BATCH} rows a batch; the scorer and the ramp of the events above.",
        f"The arms take turns of {EVERY} steps with one event each; the median of "
        f"{', '.join(map(str, lengths))} turns, by size, after one that is not counted.",
        "Peak: growth of the resident size beyond the model, through the first event, in a process of its "
        "own: gradients, optimizer states, activations, and what pruning takes.",
    ]
    return Table("Small models trained end to end", rows, notes)


def _trained(bench: Bench, total: int, turns: int, threads: int) -> list[dict[str, Any]]:
    runs = []
    for arm in ARMS:
        training = Training(total)
        training.begin(arm)
        runs.append(training)
    weights = runs[0].weights
    bench.say(f"training {weights:,} weights in {len(ARMS)} arms, {turns + 1} turns")
    blocks: dict[str, list[float]] = {name: [] for name in ARMS}
    with _uncollected():
        for number in range(turns + 1):
            for training in runs:
                begin = time.perf_counter_ns()
                for _ in range(EVERY):
                    training.step()
                if number:
                    blocks[training.arm.name].append((time.perf_counter_ns() - begin) / 1e6 / EVERY)
            gc.collect()
    _check_events([training.arm for training in runs], turns + 1)
    for training in runs:
        if training.arm.pruner is not None:
            found = training.arm.pruner.sparsity()
            if found.zero < found.masked:
                raise RuntimeError(f"{training.arm.name}: {found.masked} are pruned, {found.zero} are 0")
    ms = {name: statistics.median(times) for name, times in blocks.items()}
    del runs, training
    rows = []
    for arm in ARMS:
        bench.say(f"memory of {arm}, in a process of its own")
        peak = memory.in_fresh_process(arm, total, threads)["peak_bytes"] / weights
        rows.append(
            {"case": arm, "weights": weights, "threads": threads, **_versus(ms[arm], ms[TORCH]), "peak": peak}
        )
    return rows
