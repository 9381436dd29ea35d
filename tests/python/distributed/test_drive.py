"""The drive of the rounds: what fails on one rank, in whatever round, ends all of them together and alike."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bittersweet as bs
import numpy as np
import pytest
from bittersweet import _core
from bittersweet.distributed import rounds
from simulated_ranks import SimulatedGroup, on_all

LENGTHS = (len(_core.fault_vector()), 5, 700, 1)
"""Of the vectors of a decision; the first is that of every decision."""


class Scripted:
    """A decision that adds up ones. Where it is told to, it fails: on this rank, which its vector says and it
    raises when the others hear of it, or because of a sum, on all.
    """

    def __init__(self, text: str, fail: tuple[int, BaseException] | None = None) -> None:
        self.fail, self.round, self.agreement = fail, 0, text
        self.sent: np.ndarray[Any, Any] = np.zeros(0, np.int32)

    def next(self, fault: bool = False) -> memoryview | None:
        fails = self.fail is not None and self.fail[0] == self.round
        if self.round:
            if self.sent[0]:
                raise (
                    self.fail[1]
                    if self.fail is not None and self.fail[0] == self.round - 1
                    else bs.RankFailed("")
                )
            if self.round == 1 and int(self.sent[1]) ** 2 != int(self.sent[2]) * int(self.sent[3]):
                raise bs.RanksDisagree("")
            if fails and self.fail is not None and isinstance(self.fail[1], bs.NonFiniteScoreError):
                raise self.fail[1]
        if self.round == len(LENGTHS):
            return None
        self.sent = np.zeros(LENGTHS[self.round], np.int32)
        self.sent[0] = fault or fails
        if self.round == 0:
            word = len(self.agreement)
            self.sent[1:4] = word, word * word, 1
        self.round += 1
        return memoryview(self.sent)

    def report(self) -> str:
        return "done"


def decide(group: SimulatedGroup, agreement: dict[str, str], fail: Any = None) -> Any:
    def start() -> tuple[dict[str, str], Scripted]:
        if fail is not None and fail[0] < 0:
            raise fail[1]
        return agreement, Scripted(rounds.as_text(agreement), fail)

    return rounds.decide(group, start)


ERRORS = [
    bs.MissingStateError("weight of 'x' lacks it"),
    MemoryError("full"),
    OSError(5, "disk"),
    KeyboardInterrupt(),
]


@pytest.mark.parametrize("when", [-1, 0, 1, 2, 3])
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("where", [0, 1, 2])
def test_what_fails_on_one_rank_is_raised_on_all_in_the_same_round(
    where: int, when: int, error: BaseException
) -> None:
    def work(group: SimulatedGroup) -> Any:
        fail = (when, error) if group.rank == where else None
        raised = None
        try:
            decide(group, {"step": "1"}, fail)
        except BaseException as found:
            raised = found
        return raised, decide(group, {"step": "2"})  # the group still works

    found, meeting = on_all(3, work)
    assert found[where][0] is error
    kind = type(error) if isinstance(error, bs.Error) else bs.RankFailed
    for rank, (raised, after) in enumerate(found):
        assert after == "done"
        if rank != where:
            assert type(raised) is kind and f"on rank {where}: " in str(raised) and str(error) in str(raised)
    assert len(meeting.sums) == max(when, 0) + 1 + len(LENGTHS) and meeting.exchanges == 1


def test_several_ranks_fail_and_each_keeps_its_own() -> None:
    def work(group: SimulatedGroup) -> Any:
        return decide(group, {}, (-1, bs.ShapeError(f"own {group.rank}")) if group.rank else None)

    found, meeting = on_all(3, work)
    assert [str(one) for one in found] == ["on rank 1: own 1", "own 1", "own 2"]
    assert {type(one) for one in found} == {bs.ShapeError} and meeting.exchanges == 1


def test_what_sums_say_needs_no_words() -> None:
    error = bs.NonFiniteScoreError("2 NaN", "x", 2, 17)
    found, meeting = on_all(3, lambda group: decide(group, {}, (2, error)))
    assert found == [error] * 3 and meeting.exchanges == 0


def test_errors_keep_what_belongs_to_them() -> None:
    error = bs.NonFiniteScoreError("2 NaN", "x", 2, 17)
    found = on_all(2, lambda group: decide(group, {}, (-1, error) if group.rank else None))[0]
    assert (found[0].parameter, found[0].count, found[0].first_index) == ("x", 2, 17)


SAID = [
    (
        [{"step": "20"}, {"step": "20"}, {"step": "300"}],
        "ranks disagree about step: 20 on ranks 0, 1; 300 on rank 2.",
    ),
    (
        [{"step": "1", "k": "5"}, {"step": "1", "k": "77"}],
        "ranks disagree about k: 5 on rank 0; 77 on rank 1.",
    ),
    (
        [{"step": "1"}, {"step": "1", "glob": "a.*"}],
        "ranks disagree about glob: nothing on rank 0; a.* on rank 1.",
    ),
    (
        [{"names": "x" * 99}, {"names": "y" * 999}],
        r"about names: x{70}\.\.\. \([0-9a-f]{16}\) on rank 0; y{70}\.\.\.",
    ),
    (
        [{"step": "7" * rank} for rank in range(7)],
        "about step:  on rank 0; 7 on rank 1; .* and 3 more. Nothing",
    ),
]


@pytest.mark.parametrize("texts, said", SAID)
def test_a_disagreement_is_put_into_words(texts: list[dict[str, str]], said: str) -> None:
    found, meeting = on_all(len(texts), lambda group: decide(group, texts[group.rank]))
    assert {type(one) for one in found} == {bs.RanksDisagree} and len({str(one) for one in found}) == 1
    with pytest.raises(bs.RanksDisagree, match=said):
        raise found[0]
    assert len(meeting.sums) == 1 and meeting.exchanges == 1
    again = on_all(len(texts), lambda group: rounds.agree(group, texts[group.rank]))[0]
    assert [str(one) for one in again] == [str(one) for one in found]


def test_what_is_wrong_before_a_decision_is_told_to_those_who_decide() -> None:
    def work(group: SimulatedGroup) -> Any:
        if group.rank == 1:
            with rounds.reported(group):
                raise bs.MissingStateError("no state")
        return decide(group, {"step": "3"})

    found, _ = on_all(3, work)
    assert [str(one) for one in found] == ["on rank 1: no state", "no state", "on rank 1: no state"]
    assert {type(one) for one in found} == {bs.MissingStateError}


def test_parts_of_numpy_arrays_need_no_torch() -> None:
    code = (
        "import sys, numpy, bittersweet as bs; bs.Shard((4,), (2,));"
        "item = bs.ScoreInputs(numpy.ones(4, 'f4')); bs.prune_(item, sparsity=0.5, scorer='magnitude');"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    source = Path(rounds.__file__).read_text()
    assert "torch" not in source and "numpy" not in source


class OwnRank(SimulatedGroup):
    """A group of one, in the main thread, that is interrupted while it adds up."""

    def __init__(self, when: int) -> None:
        self.rank, self.size, self.names, self.when, self.calls = 0, 1, range(1), when, 0

    def sum_(self, numbers: Any) -> None:
        if self.calls == self.when:
            os.kill(os.getpid(), signal.SIGINT)
        self.calls += 1

    def gather(self, value: Any) -> list[Any]:
        return [value]


@pytest.fixture
def usual_interrupts() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("when", range(len(LENGTHS)))
def test_an_interrupt_waits_for_the_end_of_the_round(when: int, usual_interrupts: None) -> None:
    group = OwnRank(when)
    with pytest.raises(KeyboardInterrupt):
        decide(group, {})
    assert group.calls == (when + 2 if when < len(LENGTHS) - 1 else len(LENGTHS))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
