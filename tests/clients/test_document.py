"""docs/clients.md keeps its word: examples run, the tests it names exist, versions are the pinned ones."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
DOCUMENT = (REPOSITORY / "docs/clients.md").read_text(encoding="utf-8")
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in DOCUMENT.splitlines()
    if line.startswith("| ") and not line.startswith(("| client |", "| --- |"))
]


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("transformers", "accelerate", "lightning", "peft"):
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 6
    namespace: dict[str, object] = {"__name__": "__main__"}
    for number, block in enumerate(blocks, 1):
        exec(compile(block, f"docs/clients.md, block {number}", "exec"), namespace)


def test_every_row_is_held_by_tests_that_exist() -> None:
    tests = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py"))
    exist = set(re.findall(r"^def (test_\w+)", tests, re.MULTILINE))
    assert len(ROWS) > 15
    for row in ROWS:
        named = re.findall(r"`(test_\w+)`", row[3])
        assert len(row) == 5, row
        assert named, row
        assert set(named) <= exist, set(named) - exist


def test_versions_are_those_that_the_script_installs() -> None:
    settings = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    extra = settings[settings.index("\nclients = [") :].partition("\n]")[0]
    script = (REPOSITORY / "scripts/test_clients.sh").read_text(encoding="utf-8")
    pinned = set(re.findall(r'"([\w-]+)==([\d.]+)"', extra + script))
    assert len(pinned) == 10
    assert {tuple(item.split()) for row in ROWS for item in row[4].split(", ")} == pinned
