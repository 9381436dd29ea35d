"""What is wrong on one rank: raised on all, in the same round; nothing is written, and the group works on."""

from __future__ import annotations

from typing import Any

import bittersweet as bs
import numpy as np
import pytest
from bittersweet import _core
from launch import Ranks
from ranks_errors import FAULTS, OPTIONS, Fault, expected, inputs, require_raised, rows
from simulated_ranks import on_all

RANKS = 3


@pytest.mark.parametrize("where", range(RANKS))
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_of_simulated_ranks(fault: Fault, where: int) -> None:
    def work(group: Any) -> Any:
        here = group.rank == where
        items = inputs(group.rank, RANKS)
        given = fault.items(items) if here else items
        options = fault.options(OPTIONS) if here else OPTIONS
        before = [item.weight.tobytes() for item in items]
        raised = None
        try:
            bs.prune_(given, process_group=group, **options)
        except BaseException as error:
            raised = error
        assert [item.weight.tobytes() for item in items] == before, "something was written"
        return raised, bs.make_masks(inputs(group.rank, RANKS), process_group=group, **OPTIONS)

    found, _ = on_all(RANKS, work)
    for one in found:
        if isinstance(one, BaseException):
            raise one
    require_raised(fault, [raised for raised, _ in found], where)
    good = expected(**OPTIONS)
    for rank, (_, masks) in enumerate(found):
        assert np.array_equal(masks["split"].bool(), good["split"].bool()[slice(*rows(rank, RANKS))])
        assert np.array_equal(masks["copied"].bool(), good["copied"].bool())


def _failing(when: int, error: BaseException) -> Any:
    """The compiled decision of a rank on which a round fails: its vector says so, the error comes after."""
    made = _core.ShardedPrune

    class Failing:
        def __init__(self, *given: Any, **named: Any) -> None:
            self.prune, self.calls = made(*given, **named), 0
            self.agreement = self.prune.agreement

        def next(self, fault: bool = False) -> Any:
            self.calls += 1
            try:
                return self.prune.next(fault or self.calls == when + 1)
            except bs.RankFailed:
                raise error from None

        def report(self) -> Any:
            return self.prune.report()

    return Failing


@pytest.mark.parametrize("error", [MemoryError("full"), KeyboardInterrupt(), RuntimeError("lost")], ids=repr)
@pytest.mark.parametrize("when", [0, 1, 2, 3])
@pytest.mark.parametrize("where", range(RANKS))
def test_in_every_round(when: int, where: int, error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the compiled decision: a rank that fails in a round leaves the others in step."""
    made, failing = _core.ShardedPrune, _failing(when, error)
    monkeypatch.setattr(
        _core,
        "ShardedPrune",
        lambda *given, **named: (failing if given[1] == where else made)(*given, **named),
    )

    def work(group: Any) -> Any:
        try:
            return bs.make_masks(inputs(group.rank, RANKS), process_group=group, **OPTIONS)
        except BaseException as raised:
            return raised

    found, meeting = on_all(RANKS, work)
    if any(isinstance(one, bs.Masks) for one in found):
        assert all(isinstance(one, bs.Masks) for one in found) and len(meeting.sums) <= when, (
            "it took fewer rounds"
        )
        return
    assert found[where] is error
    others = [one for rank, one in enumerate(found) if rank != where]
    assert {type(one) for one in others} == {bs.RankFailed}
    assert all(f"on rank {where}: {type(error).__name__}" in str(one) for one in others)
    assert meeting.exchanges == 2 and len(meeting.sums) == when + 1


@pytest.mark.distributed
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_of_real_ranks(ranks: Ranks, fault: Fault) -> None:
    ranks.run("cases_errors", "one_after_another", fault=fault.name)


@pytest.mark.distributed
def test_ctrl_c_on_a_real_rank(ranks: Ranks) -> None:
    ranks.run("cases_errors", "interrupted")
