"""torch.nn.utils.prune's names over real ranks; see `cases_prune`."""

from __future__ import annotations

import pytest
from launch import Ranks

pytestmark = pytest.mark.distributed


def test_replicas_stay_equal_under_ddp(two_ranks: Ranks) -> None:
    first, second = two_ranks.run("cases_prune", "trains_replicas_that_stay_equal")
    assert first == second
