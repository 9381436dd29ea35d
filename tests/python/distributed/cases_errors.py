"""Faults on real ranks, on each in turn."""

from __future__ import annotations

import os
import signal
from typing import Any

import bittersweet as bs
import numpy as np
import torch.distributed as dist
from bittersweet.distributed.collective import Group
from ranks_errors import FAULTS, OPTIONS, expected, inputs, require_raised, rows


def one_after_another(rank: int, size: int, fault: str) -> None:
    chosen = next(one for one in FAULTS if one.name == fault)
    for where in range(size):
        items = inputs(rank, size)
        given = chosen.items(items) if rank == where else items
        options = chosen.options(OPTIONS) if rank == where else OPTIONS
        before = [item.weight.tobytes() for item in items]
        raised: BaseException | None = None
        try:
            bs.prune_(given, process_group=dist.group.WORLD, **options)
        except bs.Error as error:
            raised = error
        assert [item.weight.tobytes() for item in items] == before, "something was written"
        found: list[Any] = [None] * size
        dist.all_gather_object(found, raised)
        require_raised(chosen, found, where)
        _require_working(rank, size)


def interrupted(rank: int, size: int) -> None:
    """Ctrl-C while a round is on its way, on each rank in turn, in each round."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    usual = Group.sum_
    for where in range(size):
        for when in range(3):
            calls = 0

            def sum_(self: Group, numbers: Any, where: int = where, when: int = when) -> None:
                nonlocal calls
                if rank == where and calls == when:
                    os.kill(os.getpid(), signal.SIGINT)
                calls += 1
                usual(self, numbers)

            Group.sum_ = sum_  # type: ignore[method-assign]
            raised: BaseException | None = None
            try:
                bs.make_masks(inputs(rank, size), process_group=dist.group.WORLD, **OPTIONS)
            except (KeyboardInterrupt, bs.Error) as error:
                raised = error
            finally:
                Group.sum_ = usual  # type: ignore[method-assign]
            kind = KeyboardInterrupt if rank == where else bs.RankFailed
            assert type(raised) is kind, (where, when, raised)
            assert rank == where or str(raised) == f"on rank {where}: KeyboardInterrupt"
            _require_working(rank, size)


def _require_working(rank: int, size: int) -> None:
    found = bs.make_masks(inputs(rank, size), process_group=dist.group.WORLD, **OPTIONS)
    good = expected(**OPTIONS)
    assert np.array_equal(found["split"].bool(), good["split"].bool()[slice(*rows(rank, size))])
    assert np.array_equal(found["copied"].bool(), good["copied"].bool())
