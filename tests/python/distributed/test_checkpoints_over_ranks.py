"""Saved states of pruners over real ranks, and on other numbers of ranks than they were saved on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from launch import Ranks, cases

pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module")
def one_rank() -> Iterator[Ranks]:
    ranks = Ranks(1)
    yield ranks
    ranks.stop()


@pytest.mark.parametrize("kind", ["torch", "masked"])
def test_a_run_goes_on_on_other_numbers_of_ranks(
    one_rank: Ranks, two_ranks: Ranks, four_ranks: Ranks, kind: str, tmp_path: Path
) -> None:
    two_ranks.run("cases_checkpoints", "saved_in_the_middle", folder=str(tmp_path), kind=kind)
    for ranks in (one_rank, two_ranks, four_ranks):
        ranks.run("cases_checkpoints", "resumed", folder=str(tmp_path), kind=kind)


@pytest.mark.parametrize("case", cases("cases_checkpoints"))
def test_states(two_ranks: Ranks, case: str) -> None:
    two_ranks.run("cases_checkpoints", case)


def test_replicas_keep_words(two_ranks: Ranks, tmp_path: Path) -> None:
    two_ranks.run("cases_checkpoints", "replicas_keep_words", folder=str(tmp_path))


def test_boxes_and_copies(four_ranks: Ranks, tmp_path: Path) -> None:
    four_ranks.run("cases_checkpoints", "boxes_and_copies", folder=str(tmp_path))


def test_memories_of_parts(ranks: Ranks, tmp_path: Path) -> None:
    ranks.run("cases_checkpoints", "memories_of_parts", folder=str(tmp_path))
