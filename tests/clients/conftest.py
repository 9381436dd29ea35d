"""Bittersweet under the packages that people train with. Every test fails if Bittersweet warns of something
that the test does not expect."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch
from bittersweet import notices


class Said(list[str]):
    """What Bittersweet has warned of and no test has asked for yet."""

    def expect(self, pattern: str, times: int = 1) -> None:
        """Takes out the warnings that match; there must be that many of them."""
        found = [message for message in self if re.search(pattern, message)]
        assert len(found) == times, f"{len(found)} warnings match {pattern!r}; all: {list(self)}"
        for message in found:
            self.remove(message)


@pytest.fixture(autouse=True)
def said(monkeypatch: pytest.MonkeyPatch) -> Iterator[Said]:
    found, warn = Said(), notices.warn

    def record(message: str, category: type[Warning] = UserWarning) -> None:
        if "live exp_avg_sq values" not in message:  # true of untrained models
            found.append(message)
        warn(message, category)

    monkeypatch.setattr(notices, "warn", record)
    monkeypatch.setattr(notices, "_warned", set())
    yield found
    assert not found, f"Bittersweet warned: {list(found)}"


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    count = len(terminalreporter.stats.get("skipped", []))
    terminalreporter.write_line(f"{count} tests were skipped" + (", for the reasons above" if count else ""))
