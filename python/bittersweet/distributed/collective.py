"""The ranks that decide together, and what they say to each other: sums of integers, and now and then texts.

This is the only place that asks torch.distributed for anything.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from .. import errors
from ..errors import ArgumentError, NonFiniteScoreError, RankFailed
from ..options.values import shown
from .shards import holds_dtensor

__all__ = ["Failure", "Group", "first_failure", "listed", "on_ranks"]

T = TypeVar("T")


class Group:
    """Some ranks, of which this is one. Every method but the attributes is collective: all ranks call it.

    Attributes:
        rank: This rank's number in the group.
        size: How many ranks there are.
        names: The number of each rank in the whole job, for messages.
    """

    def __init__(self, process_group: Any) -> None:
        import torch.distributed as dist

        self.process_group = process_group
        self.rank, self.size = dist.get_rank(process_group), dist.get_world_size(process_group)
        self.names: Sequence[int] = dist.get_process_group_ranks(process_group)
        self._place = _place_of(process_group)

    @staticmethod
    def of(process_group: Any, tensors: Iterable[Any] = ()) -> Group | None:
        """The group that was given; without one, the default group if a tensor is a DTensor, else None.

        Raises:
            ArgumentError: No process group, one without this rank, or torch.distributed is not initialised.
        """
        if process_group is None and not holds_dtensor(tensors):
            return None
        if isinstance(process_group, Group):
            return process_group
        import torch.distributed as dist

        if not dist.is_available() or not dist.is_initialized():
            raise ArgumentError(
                "process_group: torch.distributed is not initialised in this process, and a decision over "
                "ranks needs it. Call torch.distributed.init_process_group() first"
            )
        if process_group is None:
            return Group(dist.group.WORLD)
        if process_group is dist.GroupMember.NON_GROUP_MEMBER:
            raise ArgumentError(
                f"process_group: rank {dist.get_rank()} is not in it. Give a group of all ranks that hold "
                "tensors, and call this on those alone"
            )
        if not isinstance(process_group, dist.ProcessGroup):
            mesh = hasattr(process_group, "get_group")
            hint = ". Pass its group: mesh.get_group()" if mesh else ""
            raise ArgumentError(
                f"process_group: {shown(process_group)}; accepted: a torch.distributed.ProcessGroup that "
                f"this rank belongs to, or None{hint}"
            )
        return Group(process_group)

    def sum_(self, numbers: Any) -> None:
        """Adds up writable memory of int32 over all ranks, in place; all ranks give equally many."""
        if self.size == 1:
            return
        torch = sys.modules["torch"]
        host = torch.frombuffer(numbers, dtype=torch.int32)
        place = host if self._place is None else host.to(self._place)
        torch.distributed.all_reduce(place, group=self.process_group)
        if place is not host:
            host.copy_(place)

    def gather(self, value: T) -> list[T]:
        """What every rank gave, in order of the ranks; plain values."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        sys.modules["torch"].distributed.all_gather_object(found, value, group=self.process_group)
        return found

    def together(self, work: Callable[[], T]) -> T:
        """Does this on every rank, and returns what it gave on this one; work that makes no collective call.

        Raises:
            What `work` raised on this rank. Where it raised on others alone, the error of the first of them,
            of the same class if that is one of `bittersweet.errors`, else RankFailed.
        """
        return self._attempt(work, lambda _: None)[0]

    def gathered(self, work: Callable[[], T]) -> list[T]:
        """`together`, for what the work gave on each rank: plain values."""
        return self._attempt(work, lambda value: value)[1]

    def _attempt(self, work: Callable[[], T], sent: Callable[[T], Any]) -> tuple[T, list[Any]]:
        mine: T | None = None
        raised: BaseException | None = None
        try:
            mine = work()
            said: Any = (None, sent(mine))
        except BaseException as error:
            raised, said = error, (Failure.of(error), None)
        found = self.gather(said)
        if raised is not None:
            raise raised
        failure = first_failure([failed for failed, _ in found], self.names)
        if failure is not None:
            raise failure
        result: Any = mine
        return result, [value for _, value in found]


class Failure(tuple[str, str, tuple[Any, ...]]):
    """What other ranks are told of an error: its class, its text, and what belongs to it."""

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        beside: tuple[Any, ...] = ()
        if isinstance(error, NonFiniteScoreError):
            beside = error.parameter, error.count, error.first_index
        return cls((type(error).__name__, str(error), beside))

    def error(self, name: int) -> errors.Error:
        """The error that the rank of this name in the job had, as another rank raises it."""
        kind, text, beside = self
        known = getattr(errors, kind, None) if kind in errors.__all__ else None
        if known is None:
            return RankFailed(f"on rank {name}: {kind}{f': {text}' if text else ''}")
        made: errors.Error = known(f"on rank {name}: {text}", *beside)
        return made


def first_failure(failures: Sequence[Failure | None], names: Sequence[int]) -> errors.Error | None:
    """The error of the first rank that failed; None if none did."""
    for failure, name in zip(failures, names, strict=True):
        if failure is not None:
            return failure.error(name)
    return None


def on_ranks(names: Sequence[int]) -> str:
    """``"on rank 3"``, ``"on ranks 0, 1"``."""
    return f"on rank{'s' if len(names) > 1 else ''} {listed(names)}"


def listed(names: Sequence[Any], most: int = 8) -> str:
    """The first of them, with commas."""
    shown_ones = ", ".join(map(str, names[:most]))
    return shown_ones if len(names) <= most else f"{shown_ones} and {len(names) - most} more"


def _place_of(process_group: Any) -> Any:
    """The device on which this group adds up; None for the host."""
    import torch

    kinds = [device.type for device in getattr(process_group, "_device_types", [])]
    if not kinds or "cpu" in kinds:
        return None
    return torch.device(kinds[0], torch.get_device_module(kinds[0]).current_device())
