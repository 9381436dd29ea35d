"""Pruners over real ranks. What is tested is in the cases, which run on every rank."""

from __future__ import annotations

import pytest
from launch import Ranks, cases

pytestmark = pytest.mark.distributed


@pytest.mark.parametrize("case", cases("cases_pruner"))
def test_strategies(ranks: Ranks, case: str) -> None:
    ranks.run("cases_pruner", case)


@pytest.mark.parametrize("case", cases("cases_pruner_four"))
def test_strategies_in_squares(four_ranks: Ranks, case: str) -> None:
    four_ranks.run("cases_pruner_four", case)


@pytest.mark.parametrize("case", cases("cases_pruner_loops"))
def test_loops(two_ranks: Ranks, case: str) -> None:
    skipped = two_ranks.run("cases_pruner_loops", case)[0]
    if skipped:
        pytest.skip(f"torch.compile does not take this here: {skipped}")


@pytest.mark.parametrize("case", cases("cases_pruner_errors"))
def test_errors(ranks: Ranks, case: str) -> None:
    ranks.run("cases_pruner_errors", case)
