"""The tables of docs/clients.md: the tests that hold their rows exist, the versions are the pinned ones."""

from __future__ import annotations

import re
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (REPOSITORY / "docs/clients.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("| ") and not line.startswith(("| client |", "| optimizer |", "| ---"))
]
OWN = {"bitsandbytes": "bitsandbytes", "schedulefree": "schedulefree", "torchao": "torchao"}
OWN |= {"accelerate,": "accelerate", "peft": "peft", "timm": "timm", "pytorch_optimizer": "pytorch-optimizer"}


def pinned() -> dict[str, str]:
    settings = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    extra = settings[settings.index("\nclients = [") :].partition("\n]")[0]
    script = (REPOSITORY / "scripts/test_clients.sh").read_text(encoding="utf-8")
    return dict(re.findall(r'"([\w-]+)==([\d.]+)"', extra + script))


def test_every_row_names_tests_that_exist_or_is_a_row_on_optimizers() -> None:
    assert len(ROWS) > 40
    clients = [row for row in ROWS if len(row) == 4]
    assert len(clients) > 25
    for row in clients:
        named = re.findall(r"`(test_\w+\.py|tests/[\w/]+)`", row[2])
        assert named, row
        for name in named:
            assert (Path(__file__).parent / name).is_file() or (REPOSITORY / name).is_dir(), row
    assert all(len(row) == 5 for row in ROWS if row not in clients)


def test_versions_are_those_that_the_script_installs() -> None:
    versions = pinned()
    assert len(versions) == 11
    assert {row[-1] for row in ROWS} == set(versions.values())
    for row in ROWS:
        package = OWN.get(row[0].split()[0])
        assert package is None or row[-1] == versions[package], row
