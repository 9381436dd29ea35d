"""Groups of real ranks that live as long as the test session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from launch import Ranks


@pytest.fixture(scope="session")
def two_ranks() -> Iterator[Ranks]:
    ranks = Ranks(2)
    yield ranks
    ranks.stop()


@pytest.fixture(scope="session")
def four_ranks() -> Iterator[Ranks]:
    ranks = Ranks(4)
    yield ranks
    ranks.stop()


@pytest.fixture(params=[2, 4])
def ranks(request: pytest.FixtureRequest) -> Ranks:
    """Two ranks, then four; a test that asks for this runs on both."""
    found: Ranks = request.getfixturevalue("two_ranks" if request.param == 2 else "four_ranks")
    return found
