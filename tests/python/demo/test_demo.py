"""The demo, run as users run it, with settings that take seconds."""

from __future__ import annotations

import argparse
import builtins
import importlib.util
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bittersweet.demo import cli
from bittersweet.demo.plan import MIN_EVENTS, MIN_STEPS, DemoError, Plan
from bittersweet.demo.text import MIN_BYTES, load_corpus

STEPS = 24


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small text that a model of bytes can learn something from."""
    file = tmp_path_factory.mktemp("text") / "text.txt"
    words = ["prune", "keep", "weight", "mask", "score", "layer"]
    lines = (f"{words[i % 6]} {words[i * i % 5]} {i % 17}\n" for i in range(3000))
    file.write_text("".join(lines), encoding="ascii")
    return file


def demo(*arguments: object) -> tuple[int, str, str]:
    """Runs `python -m bittersweet demo` in a new process; returns its exit status and what it printed."""
    command = [sys.executable, "-m", "bittersweet", "demo", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=600, check=False)
    return done.returncode, done.stdout, done.stderr


def options(*arguments: object) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    cli.add_arguments(parser)
    return parser.parse_args([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def finished(text: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """One run over two seeds: its folder and what it printed."""
    out = tmp_path_factory.mktemp("out") / "results"
    status, printed, complaints = demo(
        *("--steps", STEPS, "--text", text, "--out", out, "--seeds", 2, "--threads", 1),
        *("--sparsity", 0.5, 0.8, "--scorer", "magnitude", "bitter7"),
    )
    assert status == 0, complaints
    return out, printed


@pytest.fixture(scope="module")
def document(finished: tuple[Path, str]) -> Any:
    return json.loads((finished[0] / "results.json").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_table_has_every_arm(finished: tuple[Path, str], document: Any) -> None:
    lines = finished[1].splitlines()
    head = next(i for i, line in enumerate(lines) if line.startswith("arm ") and "held-out loss" in line)
    rows = lines[head + 2 : head + 7]
    found = [(row.split()[0], " ".join(row.split()[1:3])) for row in rows]
    assert found[0][0] == "dense"
    assert found[1:] == [(s, level) for level in ("50 %", "80 %") for s in ("magnitude", "bitter7")]
    for row, arm in zip(rows, document["arms"], strict=True):
        assert f"{arm['held_out_loss']['mean']:.4f} ± {arm['held_out_loss']['deviation']:.4f}" in row
    for row, arm in zip(rows[1:], document["arms"][1:], strict=True):
        assert f"{arm['ms_per_event']:.2f}" in row
        assert f"{100 * arm['overhead']:.2f} %" in row
    assert "2 seeds" in finished[1]


@pytest.mark.slow
def test_sparsity_is_what_was_asked_for(document: Any) -> None:
    pruned = [run for run in document["runs"] if run["scorer"] is not None]
    assert len(pruned) == 8
    for run in pruned:
        assert run["pruned_weights"] == math.floor(run["sparsity"] * run["eligible_weights"] + 0.5)
        assert len(run["sparsity_ramp"]) == document["plan"]["mask_events"] >= MIN_EVENTS
        shares = [share for _, share in run["sparsity_ramp"]]
        assert shares == sorted(shares)
        assert shares[-1] == pytest.approx(run["sparsity"], abs=1e-6)


@pytest.mark.slow
def test_arms_share_the_dense_part_and_differ_afterwards(document: Any) -> None:
    begin = document["plan"]["begin_step"]
    for seed in (0, 1):
        curves = [run["held_out_curve"] for run in document["runs"] if run["seed"] == seed]
        shared = [[point for point in curve if point[0] <= begin] for curve in curves]
        assert shared[0]
        assert all(part == shared[0] for part in shared)
        assert len({curve[-1][1] for curve in curves}) == len(curves)
    first, second = (next(r for r in document["runs"] if r["seed"] == seed) for seed in (0, 1))
    assert first["held_out_curve"][0] != second["held_out_curve"][0]


@pytest.mark.slow
def test_the_model_learns(document: Any) -> None:
    dense = document["arms"][0]
    assert dense["arm"]["scorer"] is None
    assert dense["held_out_loss"]["mean"] < document["text"]["unigram_loss"]


@pytest.mark.slow
def test_files(finished: tuple[Path, str], document: Any) -> None:
    out, printed = finished
    for name in ("results.json", "events.jsonl", "loss.png", "layers.png"):
        assert str(out / name) in printed
        assert (out / name).stat().st_size > 0
    for name in ("loss.png", "layers.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")
    events = [json.loads(line) for line in (out / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(events) == 8 * document["plan"]["mask_events"]
    for event in events:
        assert event["train_step"] == event["step"] + document["plan"]["begin_step"]
        assert event["pruned"] == event["k"]
        assert event["milliseconds"] > 0


@pytest.mark.slow
def test_lines_without_a_terminal(finished: tuple[Path, str]) -> None:
    progress = [line for line in finished[1].splitlines() if line.startswith("seed 1 · magnitude 80 %")]
    assert len(progress) == 10
    assert "sparsity 80.0 %" in progress[-1]
    assert "loss" in progress[-1] and " ms " in progress[-1]


@pytest.mark.slow
def test_two_runs_agree(text: Path, tmp_path: Path) -> None:
    losses = []
    for name in ("first", "second"):
        arguments = ("--steps", STEPS, "--text", text, "--out", tmp_path / name, "--threads", 1)
        status, _, complaints = demo(*arguments, "--sparsity", 0.6, "--scorer", "bitter3")
        assert status == 0, complaints
        written = json.loads((tmp_path / name / "results.json").read_text(encoding="utf-8"))
        losses.append([run["held_out_curve"] for run in written["runs"]])
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--text", "no/such/file.txt"), ("--text no/such/file.txt", "cannot be read")),
        (("--sparsity", "1.5"), ("--sparsity 1.5", "between 0 and 1")),
        (("--sparsity", "0.5", "nan"), ("--sparsity nan", "between 0 and 1")),
        (
            ("--scorer", "magnitude", "bitter77"),
            ("--scorer bitter77", "choose from", "magnitude", "bitter7,"),
        ),
        (("--scorer", "wanda"), ("--scorer wanda", "norms of the input features")),
        (("--steps", "19"), ("--steps 19", f"{MIN_STEPS} or more")),
        (("--steps", "-1"), ("--steps -1", "or more")),
        (("--seeds", "0"), ("--seeds 0", "1 or more")),
        (("--threads", "0"), ("--threads 0", "1 or more")),
    ],
)
def test_wrong_requests(
    arguments: tuple[str, ...], words: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(options("--out", tmp_path / "out", *arguments)) == 2
    printed, complaint = capsys.readouterr()
    assert printed == ""
    assert complaint.count("\n") == 1
    assert all(word in complaint for word in words)


@pytest.mark.parametrize(
    ("device", "devices", "built", "words"),
    [
        ("tpu", 1, True, ("--device tpu is unknown", "cuda:1")),
        ("cuda:x", 1, True, ("--device cuda:x is unknown",)),
        ("cuda", 0, True, ("finds no CUDA device",)),
        ("cuda:3", 2, True, ("there are 2 CUDA devices",)),
        ("cuda", 1, False, ("no CUDA engine", "BITTERSWEET_CUDA=on")),
        ("cuda", 1, True, ("--scorer bitter4", "CUDA engine")),
    ],
)
def test_devices_that_cannot_be_used(
    device: str,
    devices: int,
    built: bool,
    words: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import torch
    from bittersweet import _core

    monkeypatch.setattr(torch.cuda, "is_available", lambda: devices > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: devices)
    monkeypatch.setattr(_core, "CUDA_BUILT", built)
    arguments = ("--out", tmp_path / "out", "--device", device, "--scorer", "bitter4")
    assert cli.run(options(*arguments)) == 2
    complaint = capsys.readouterr().err
    assert complaint.count("\n") == 1 and all(word in complaint for word in words)


@pytest.mark.usefixtures("host_cuda", "threads")
def test_arms_train_on_the_cuda_engine(text: Path) -> None:
    from bittersweet.demo.plan import Arm
    from bittersweet.demo.train import train_seed

    plan = Plan.for_steps(MIN_STEPS)
    arms = [Arm(None, 0.0), Arm("bitter7", 0.5)]
    _, (dense, pruned) = train_seed(
        plan, arms, load_corpus(str(text)), 0, "cpu", adapt=False, say=lambda _: None
    )
    assert dense.pruned == 0 and pruned.achieved == pytest.approx(0.5, abs=1e-6)
    assert len(pruned.events) == plan.events and all(event["selector"] == "exact" for event in pruned.events)


def test_wrong_request_in_a_process(tmp_path: Path) -> None:
    status, printed, complaint = demo("--sparsity", "80", "--out", tmp_path)
    assert (status, printed) == (2, "")
    assert complaint.startswith("bittersweet demo: error: --sparsity 80") and complaint.count("\n") == 1


def test_text_too_small(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = tmp_path / "small.txt"
    small.write_bytes(b"x" * (MIN_BYTES - 1))
    assert cli.run(options("--text", small, "--out", tmp_path)) == 2
    assert f"{MIN_BYTES:,} are needed" in capsys.readouterr().err


def test_out_is_a_file(text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(options("--text", text, "--out", text)) == 2
    assert f"--out {text}" in capsys.readouterr().err


def _without(module: str) -> Callable[..., Any]:
    found = importlib.util.find_spec

    def find_spec(name: str, package: str | None = None) -> Any:
        return None if name == module else found(name, package)

    return find_spec


def test_without_torch(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", _without("torch"))
    assert cli.run(options("--text", text, "--out", tmp_path)) == 1
    assert "python -m pip install torch" in capsys.readouterr().err


@pytest.mark.usefixtures("threads")
def test_without_matplotlib(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    real_import = builtins.__import__

    def refuse(name: str, *rest: Any, **named: Any) -> Any:
        if name.split(".")[0] == "matplotlib":
            raise ImportError(name)
        return real_import(name, *rest, **named)

    monkeypatch.setattr(importlib.util, "find_spec", _without("matplotlib"))
    monkeypatch.setattr(builtins, "__import__", refuse)
    arguments = options(
        *("--text", text, "--out", tmp_path, "--steps", 20, "--threads", 1),
        *("--sparsity", 0.5, "--scorer", "magnitude"),
    )
    assert cli.run(arguments) == 0
    torch.set_num_threads(before)
    assert "python -m pip install matplotlib" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["events.jsonl", "results.json"]


def test_every_plan_has_ten_events_and_ends_dense_to_done() -> None:
    for steps in range(MIN_STEPS, 400):
        plan = Plan.for_steps(steps)
        due = [s for s in range(1, plan.ramp_end - plan.begin_step + 1) if s % plan.frequency == 0]
        last_is_extra = due[-1] != plan.ramp_end - plan.begin_step
        assert plan.events == len(due) + last_is_extra >= MIN_EVENTS
        assert 1 <= plan.begin_step < plan.ramp_end < plan.steps
        assert plan.evaluates_at(plan.begin_step) and plan.evaluates_at(plan.steps)
    with pytest.raises(DemoError, match="too small"):
        Plan.for_steps(MIN_STEPS - 1)


def test_slow_machine_gets_fewer_steps_after_the_same_dense_part() -> None:
    plan = Plan.for_steps(640)
    assert plan.shortened(10.0) is plan
    slow = plan.shortened(100.0)
    assert slow.begin_step == plan.begin_step
    assert plan.begin_step < slow.steps < 0.6 * plan.steps
    assert [slow.learning_rate_at(s) for s in range(1, plan.begin_step + 1)] == [
        plan.learning_rate_at(s) for s in range(1, plan.begin_step + 1)
    ]
    assert plan.shortened(1e9).events >= MIN_EVENTS


def test_standard_library_text_is_reproducible() -> None:
    first, second = load_corpus(None), load_corpus(None)
    assert first == second
    assert len(first.train) == 9 * len(first.held_out)
    assert os.fsencode("import ") in first.train
    assert 2.5 < first.unigram_loss < 4.0
