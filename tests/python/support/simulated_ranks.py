"""Ranks as threads of one process: a group whose sums and exchanges go through a barrier."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from bittersweet.distributed.collective import Group

LIMIT = 20.0
"""Seconds that a rank waits for the others."""


class Meeting:
    """What simulated ranks share. Counts sums and exchanges, and the bytes of the sums."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.barrier = threading.Barrier(size)
        self.places: list[Any] = [None] * size
        self.sums: list[int] = []
        self.exchanges = 0

    def exchange(self, rank: int, value: Any) -> list[Any]:
        """What every rank gives at the same call."""
        self.places[rank] = value
        self.barrier.wait(LIMIT)
        found = list(self.places)
        self.barrier.wait(LIMIT)
        return found


class SimulatedGroup(Group):
    """A rank's view of a meeting."""

    def __init__(self, meeting: Meeting, rank: int) -> None:
        self.meeting, self.rank, self.size = meeting, rank, meeting.size
        self.names: Sequence[int] = range(meeting.size)

    def sum_(self, numbers: Any) -> None:
        own = np.frombuffer(numbers, np.int32)
        found = self.meeting.exchange(self.rank, ("sum", own.copy()))
        assert {kind for kind, _ in found} == {"sum"}, "ranks make different calls"
        assert len({len(one) for _, one in found}) == 1, "ranks give vectors of different lengths"
        with np.errstate(over="ignore"):
            own[:] = np.sum([one for _, one in found], axis=0, dtype=np.int32)
        if self.rank == 0:
            self.meeting.sums.append(own.nbytes)

    def gather(self, value: Any) -> list[Any]:
        found = self.meeting.exchange(self.rank, ("gather", value))
        assert {kind for kind, _ in found} == {"gather"}, "ranks make different calls"
        if self.rank == 0:
            self.meeting.exchanges += 1
        return [one for _, one in found]


def on_all(size: int, work: Callable[[SimulatedGroup], Any]) -> tuple[list[Any], Meeting]:
    """What every rank returned, or the exception that it raised; and the meeting."""
    meeting, results = Meeting(size), [None] * size

    def run(rank: int) -> None:
        try:
            results[rank] = work(SimulatedGroup(meeting, rank))
        except threading.BrokenBarrierError as error:
            results[rank] = AssertionError(f"rank {rank} waited in vain: {error!r}")
        except BaseException as error:
            results[rank] = error

    threads = [threading.Thread(target=run, args=(rank,), daemon=True) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results, meeting
