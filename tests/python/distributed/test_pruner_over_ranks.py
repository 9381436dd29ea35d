"""Pruners over real ranks. What is tested is in the cases, which run on every rank."""

from __future__ import annotations

import pytest
from launch import Ranks, cases

pytestmark = pytest.mark.distributed


@pytest.mark.parametrize("case", cases("cases_pruner"))
def test_strategies(ranks: Ranks, case: str) -> None:
    ranks.run("cases_pruner", case)
