"""The functions over real ranks; see `cases_functional`."""

from __future__ import annotations

import pytest
from launch import Ranks, cases

pytestmark = pytest.mark.distributed


@pytest.mark.parametrize("case", cases("cases_functional"))
def test_as_the_gathered_model(ranks: Ranks, case: str) -> None:
    ranks.run("cases_functional", case)
