"""Settings of all Python tests: derandomised properties, and warnings that are allowed to come again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "bittersweet",
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("bittersweet")


@pytest.fixture
def fresh_warnings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets warnings that come once per process come again."""
    from bittersweet import events

    monkeypatch.setattr(events, "_warned", set())


@pytest.fixture
def threads() -> Iterator[None]:
    """Restores the number of threads afterwards."""
    import bittersweet

    before = bittersweet.get_num_threads()
    yield
    bittersweet.set_num_threads(before)
