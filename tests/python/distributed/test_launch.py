"""The launcher of real ranks reports what went wrong, on which rank, and does not wait for ever."""

from __future__ import annotations

import re
from collections.abc import Iterator

import launch
import pytest
from launch import CaseFailed, Ranks

pytestmark = pytest.mark.distributed


def test_every_rank_answers_and_the_processes_stay(ranks: Ranks) -> None:
    assert ranks.run("cases_launch", "adds_up") == list(range(ranks.size))
    first = [process.pid for process in ranks._processes]
    assert ranks.run("cases_launch", "adds_up") == list(range(ranks.size))
    assert [process.pid for process in ranks._processes] == first


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> Iterator[Ranks]:
    monkeypatch.setattr(launch, "GRACE", 1.0)
    ranks = Ranks(2, limit=30.0)
    yield ranks
    ranks.stop()


@pytest.mark.parametrize(
    "case, said",
    [
        (
            "fails_on_one",
            r"rank 0 did not end; its log:[\s\S]*barrier[\s\S]*rank 1:\n[\s\S]*what this rank says",
        ),
        ("fails_on_all", r"rank 0:\n[\s\S]*rank 0 says this[\s\S]*rank 1:\n[\s\S]*rank 1 says this"),
        ("hangs_on_one", r"rank 1 did not end; its log:[\s\S]*hangs_on_one"),
        ("dies_on_one", r"rank 1 died with code 7"),
    ],
)
def test_a_failure_names_the_rank_and_the_next_case_runs(short: Ranks, case: str, said: str) -> None:
    assert short.run("cases_launch", "adds_up") == [0, 1]
    if case == "hangs_on_one":
        short.limit = 3.0
    with pytest.raises(CaseFailed) as failed:
        short.run("cases_launch", case)
    assert re.search(said, str(failed.value)), str(failed.value)
    short.limit = 30.0
    assert short.run("cases_launch", "adds_up") == [0, 1]


def test_cases_are_found_by_their_arguments() -> None:
    assert launch.cases("cases_launch")[:2] == ["adds_up", "fails_on_one"]
