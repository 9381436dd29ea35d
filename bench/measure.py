"""Side-by-side timing: every round runs every case once, so that all of them meet the same machine."""

from __future__ import annotations

import gc
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import bittersweet as bs
import torch
from floor import READS, Floor, Passes


@dataclass
class Bench:
    """What all sections share.

    Attributes:
        weights: Weights of the headline model.
        threads: Thread counts to measure with.
        repeats: Rounds behind each median.
        judge: Whether bounds are judged; they speak of 100 million weights, measured in full.
        floor: The bare passes.
        say: Prints a line of progress.
    """

    weights: int
    threads: Sequence[int]
    repeats: int
    judge: bool
    floor: Floor
    say: Callable[[str], None]


@dataclass
class Case:
    run: Callable[[], Any]
    after: Callable[[], Any] | None
    once: bool
    samples: list[float] = field(default_factory=list)
    result: Any = None


@dataclass(frozen=True)
class Loops:
    """The bare loops of one floor, the best of which counts, and the bytes that each moves."""

    what: str
    moved: int
    cases: list[str]


class Rounds:
    """Cases that are timed in turn, round after round, in this process and with these threads.

    Every timed call comes after one untimed bare read of `sweep`, so that all of them find the same things in
    the caches. The first round warms up and is not counted.
    """

    def __init__(self, bench: Bench, threads: int, sweep: Passes) -> None:
        self._bench, self._threads, self._sweep = bench, threads, sweep
        self._cases: dict[str, Case] = {}
        self._loops: dict[str, Loops] = {}

    def add(
        self, name: str, run: Callable[[], Any], *, after: Callable[[], Any] | None = None, once: bool = False
    ) -> None:
        """`after` puts back what the call changed, untimed. `once`: one repetition without warm-up."""
        self._cases[name] = Case(run, after, once)

    def add_read_floor(self, name: str, *arrays: Sequence[torch.Tensor]) -> None:
        """The best of three bare reads of these arrays, to be asked for by `name`."""
        passes = self._bench.floor.over(*arrays)
        loops = [f"read {name}, {kind}" for kind in READS]
        self._loops[name] = Loops(f"read {name}", passes.bytes, loops)
        for variant, loop in enumerate(loops):
            self.add(loop, lambda v=variant: passes.read(v, self._threads))

    def add_write_floor(self, name: str, *arrays: Sequence[torch.Tensor]) -> None:
        """A bare read-and-write pass over these arrays, to be asked for by ``f"{name} written"``."""
        passes = self._bench.floor.over(*arrays)
        loop = f"read and write {name}"
        self._loops[f"{name} written"] = Loops(loop, 2 * passes.bytes, [loop])
        self.add(loop, lambda: passes.write(self._threads))

    def run(self) -> Rounds:
        set_threads(self._threads)
        enabled = gc.isenabled()
        gc.disable()
        try:
            for counted in range(self._bench.repeats + 1):
                for case in self._cases.values():
                    if case.once and counted != 1:
                        continue
                    self._sweep.read(0, self._threads)
                    case.result = None
                    begin = time.perf_counter_ns()
                    case.result = case.run()
                    elapsed = time.perf_counter_ns() - begin
                    if counted:
                        case.samples.append(elapsed / 1e6)
                    if case.after is not None:
                        case.after()
                gc.collect()
        finally:
            if enabled:
                gc.enable()
        return self

    def ms(self, name: str) -> float:
        """Median of the counted repetitions."""
        return statistics.median(self._cases[name].samples)

    def repetitions(self, name: str) -> int:
        return len(self._cases[name].samples)

    def result(self, name: str) -> Any:
        """What the last call returned."""
        return self._cases[name].result

    def floor_rows(self) -> list[dict[str, Any]]:
        """Every bare loop by itself."""
        return [
            {
                "case": loop,
                "threads": self._threads,
                "floor_ms": self.ms(loop),
                "floor_gbs": loops.moved / self.ms(loop) / 1e6,
            }
            for loops in self._loops.values()
            for loop in loops.cases
        ]

    def against(self, case: str, name: str, floor: str, bound: float | None, **more: Any) -> dict[str, Any]:
        """A row: the case `name` beside a floor, and whether it keeps its bound."""
        loops, ours = self._loops[floor], self.ms(name)
        least = min(map(self.ms, loops.cases))
        ratio = ours / least
        return {
            "case": case,
            "threads": self._threads,
            "ours_ms": ours,
            "floor": loops.what,
            "floor_ms": least,
            "floor_gbs": loops.moved / least / 1e6,
            "ratio": ratio,
            "bound": bound,
            "kept": kept(self._bench, ratio, bound),
            **more,
        }

    def packing_note(self, name: str, work: str) -> list[str]:
        """A note when the case `name`, a call over as many one-weight tensors, is more than 2 % of `work`."""
        fixed, whole = self.ms(name), self.ms(work)
        if fixed <= 0.02 * whole:
            return []
        return [
            f"{in_words(self._threads)}, {work}: {fixed:.2f} of {whole:.2f} ms do not depend on the number "
            "of weights (checking and packing the list of tensors; measured on as many of one weight each)."
        ]


def kept(bench: Bench, value: float, bound: float | None, *, at_least: bool = False) -> bool | None:
    """Whether a bound holds; None where nothing is judged."""
    if bound is None or not bench.judge:
        return None
    return value >= bound if at_least else value <= bound


def in_words(threads: int) -> str:
    return "1 thread" if threads == 1 else f"{threads} threads"


def set_threads(threads: int) -> None:
    bs.set_num_threads(threads)
    torch.set_num_threads(threads)


class Neighbours:
    """How busy other processes kept this machine's processors: a run beside others is not to be trusted."""

    def __init__(self) -> None:
        self._begin = self._now()

    def share(self) -> float | None:
        """Of all processor time since the start, from 0 to 1; None where /proc/stat does not say."""
        if self._begin is None or (now := self._now()) is None:
            return None
        passed = now[1] - self._begin[1]
        return max(0.0, (now[0] - self._begin[0]) / passed) if passed > 0 else 0.0

    @staticmethod
    def _now() -> tuple[float, float] | None:
        try:
            with open("/proc/stat", encoding="ascii") as file:
                ticks = [int(field) for field in file.readline().split()[1:9]]
        except (OSError, ValueError):
            return None
        second, times = os.sysconf("SC_CLK_TCK"), os.times()
        busy = (sum(ticks) - ticks[3] - ticks[4]) / second  # all but idle and waiting for disks
        own = times.user + times.system + times.children_user + times.children_system
        return busy - own, sum(ticks) / second
