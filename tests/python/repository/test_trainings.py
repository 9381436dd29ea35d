"""bench/trainings.py: the command in full but short, going on where it was stopped, and its arithmetic."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")

REPOSITORY = Path(__file__).resolve().parents[3]
BENCH = REPOSITORY / "bench"
KEPT = REPOSITORY / "bench/results/2026-11-28-xeon-avx512-trainings.json"


@pytest.fixture
def load() -> Iterator[Any]:
    """Imports a module of bench/ as the command does."""
    sys.path.insert(0, str(BENCH))
    before = set(sys.modules)
    yield importlib.import_module
    sys.path.remove(str(BENCH))
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(BENCH)):
            del sys.modules[name]


def run(*arguments: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, BENCH / "trainings.py", "--quick", "--seeds", 1, *arguments]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=600, check=False)


@pytest.mark.slow
def test_everything_is_trained_once(tmp_path: Path) -> None:
    out, plot, table = tmp_path / "runs.json", tmp_path / "runs.png", tmp_path / "runs.md"
    first = run("--out", out, "--tasks", "digits")
    assert first.returncode == 0, first.stderr
    assert "10 trainings to do, 0 done before" in first.stdout
    before = json.loads(out.read_text())["runs"]

    done = run("--out", out, "--plot", plot, "--markdown", table)
    assert done.returncode == 0, done.stderr
    assert "20 trainings to do, 10 done before" in done.stdout
    runs = json.loads(out.read_text())["runs"]
    assert runs[:10] == before
    arms = {(one["task"], one["method"], one["sparsity"]) for one in runs}
    assert len(runs) == len(arms) == 30 and {task for task, _, _ in arms} == {"digits", "gpt", "sentences"}
    for one in runs:
        assert one["pruned"] == int(one["sparsity"] * one["prunable"] + 0.5)
        assert (one["prunable"] > 20_000) == (one["method"] != "dense")
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert table.read_text().count("\n") == 12

    refused = subprocess.run(
        [sys.executable, BENCH / "trainings.py", "--tasks", "digits", "--out", out],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert refused.returncode == 2 and "other steps or data" in refused.stderr
    assert json.loads(out.read_text())["runs"] == runs


def test_same_seed_same_value_and_another_seed_another(load: Any) -> None:
    task = load("learning.digits").task(True)
    learning = load("learning.task")
    arm = learning.Arm("RigL", 0.8)
    first, again, other = (learning.train(task, arm, seed) for seed in (3, 3, 4))
    assert first.value == again.value
    assert first.pruned == other.pruned == int(0.8 * first.prunable + 0.5)


def test_the_table_has_means_lowest_and_highest(load: Any, tmp_path: Path) -> None:
    learning, results = load("learning.task"), load("learning.results")
    task = learning.Task("t", "T", "loss", False, 3, 0.1, "none", lambda seed: None)
    path = tmp_path / "runs.json"
    found = results.Results(path, "a command", [task])
    for seed, value in enumerate((1.0, 2.0, 6.0)):
        found.add(learning.Result("t", "bitter7", 0.8, seed, value, 8, 10, 0.1))
    again = results.Results(path, "a command", [task])
    assert again.has(task, learning.Arm("bitter7", 0.8), 2) and not again.has(
        task, learning.Arm("RigL", 0.8), 2
    )
    assert "| bitter7 80 % | 3.000 (1.000 to 6.000) |" in again.table()
    for broken in ("{}", "no JSON", '{"tasks": {}, "runs": [3]}'):
        path.write_text(broken)
        with pytest.raises(ValueError, match="holds no"):
            results.Results(path, "a command", [task])


def test_wrong_arguments(load: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    main = load("trainings").main
    for arguments, text in (
        (["--seeds", "0"], "at least 1"),
        (["--tasks", "mnist"], "invalid choice"),
        (["--out", str(tmp_path / "none" / "x.json")], "no such folder"),
    ):
        with pytest.raises(SystemExit):
            main(arguments)
        assert text in capsys.readouterr().err


def test_the_page_has_the_figures_of_the_file(load: Any) -> None:
    results, learning = load("learning.results"), load("learning.task")
    document = json.loads(KEPT.read_text())
    assert len(document["runs"]) == 90 and not document["about"]["command"].count("quick")
    tasks = [learning.Task(begin=lambda seed: None, **facts) for facts in document["tasks"].values()]
    found = results.Results(KEPT, "", tasks)
    page = (REPOSITORY / "docs/trainings.md").read_text(encoding="utf-8")
    for line in found.table().splitlines()[2:]:
        assert line in page, line
