"""bench/cuda/scopes.py: every answer is judged, and a wrong one fails the step."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
BENCH = Path(__file__).resolve().parents[3] / "bench" / "cuda"


@pytest.fixture
def scopes() -> Iterator[Any]:
    sys.path.insert(0, str(BENCH))
    before, threads = set(sys.modules), torch.get_num_threads()
    yield importlib.import_module("scopes")
    torch.set_num_threads(threads)
    sys.path.remove(str(BENCH))
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(BENCH)):
            del sys.modules[name]


def records(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]


def test_a_dry_run_judges_every_case(scopes: Any, tmp_path: Path) -> None:
    out = tmp_path / "scopes.jsonl"
    assert scopes.main(["--dry", "--out", str(out)]) == 0
    found = records(out)
    assert all(record["dry"] and record["section"] == "scopes" and "ms" not in record for record in found)
    judged = [record["case"] for record in found if record.get("right")]
    assert len(judged) == len(scopes.SCOPES) + 2 * len(scopes.DRY_INPUTS)


@pytest.mark.parametrize("off", [0.02, -0.02])
def test_other_counts_than_asked_for_fail(
    scopes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, off: float
) -> None:
    right, out = scopes.bs.make_masks, tmp_path / "scopes.jsonl"

    def wrong(inputs: Any, *, sparsity: float, **options: Any) -> Any:
        return right(inputs, sparsity=sparsity + off, **options)

    monkeypatch.setattr(scopes.bs, "make_masks", wrong)
    assert scopes.main(["--dry", "--out", str(out)]) == 1
    wrong_cases = {record["case"] for record in records(out) if record.get("right") is False}
    assert wrong_cases >= set(scopes.SCOPES) - {"max_tensor_sparsity, ties below"}


def test_masks_that_keep_the_lower_weight_fail(scopes: Any) -> None:
    weight = torch.tensor([1.0, -2.0, 3.0, -4.0])
    masks = [scopes.bs.Mask.from_bool(torch.tensor([True, False, False, True]), "layer")]
    assert "3.0 was pruned, 1.0 stays" in scopes.contradiction(masks, [weight], {})


def test_other_sums_fail(scopes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right, out = scopes.RunningSum.add, tmp_path / "scopes.jsonl"
    monkeypatch.setattr(scopes.RunningSum, "add", lambda self, x: right(self, x * 1.01))
    assert scopes.main(["--dry", "--out", str(out)]) == 1
    wrong = [record["case"] for record in records(out) if record.get("right") is False]
    assert len(wrong) == 2 * len(scopes.DRY_INPUTS)
