"""scripts/gpu_check.sh: time limits, failures that stop nothing, whole results, no figure from a dry run."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
BENCH = ROOT / "bench" / "cuda"
SCRIPTS = ("scripts/gpu_check.sh", "scripts/gpu_carry.sh")


@pytest.fixture(scope="module")
def load() -> Iterator[Any]:
    """Imports a module of bench/cuda/ as its scripts do."""
    sys.path.insert(0, str(BENCH))
    before = set(sys.modules)
    yield importlib.import_module
    sys.path.remove(str(BENCH))
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(BENCH)):
            del sys.modules[name]


class Runner:
    """A Check in a folder of its own, and the steps to give it."""

    def __init__(self, load: Any, folder: Path, budget_s: float = 60) -> None:
        self.module = load("check")
        self.lines: list[str] = []
        self.folder = folder
        about = {"date": "2026-11-21 00:00 UTC", "mode": "quick", "dry": True, "device": "none"}
        self.check = self.module.Check(folder / "out", about, budget_s, folder, self.lines.append)

    def run(self, name: str, code: str, **more: Any) -> dict[str, Any]:
        command = [sys.executable, "-c", code]
        more.setdefault("limit_s", 20)
        self.check.run(self.module.Step(name, command, **more))
        saved = json.loads((self.folder / "out" / "results.json").read_text(encoding="utf-8"))
        last: dict[str, Any] = saved["steps"][-1]
        assert last["name"] == name
        return last


@pytest.fixture
def runner(load: Any, tmp_path: Path) -> Runner:
    return Runner(load, tmp_path)


WRITE = "import sys; open(sys.argv[-1], 'a').write({line!r} + chr(10))"


def writing(**record: Any) -> str:
    return WRITE.format(line=json.dumps({"section": "s", "case": "c", **record}))


def test_a_failing_step_stops_no_later_one(runner: Runner) -> None:
    failed = runner.run("broken", "print('what went wrong'); raise SystemExit(7)")
    assert failed["status"] == "failed"
    assert failed["why"] == "exit status 7"
    assert "what went wrong" in failed["tail"]
    assert runner.run("fine", "print(1)")["status"] == "passed"
    assert runner.check.status() == 1
    assert runner.check.bad() == ["broken"]
    assert "what went wrong" in (runner.folder / "out" / "log.txt").read_text(encoding="utf-8")


def test_a_step_past_its_limit_ends_with_its_children_and_keeps_its_figures(runner: Runner) -> None:
    child = runner.folder / "child"
    code = (
        f"import subprocess, sys, time\n{writing(dry=True)}\n"
        f"p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"open({str(child)!r}, 'w').write(str(p.pid))\ntime.sleep(600)"
    )
    begin = time.monotonic()
    stopped = runner.run("endless", code, limit_s=8, records=True)
    assert time.monotonic() - begin < 300
    assert stopped["status"] == "timed out"
    assert [record["case"] for record in stopped["records"]] == ["c"]
    pid = int(child.read_text(encoding="ascii"))
    for _ in range(100):
        if not alive(pid):
            break
        time.sleep(0.05)
    assert not alive(pid)


def alive(pid: int) -> bool:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
    except OSError:
        return False
    return text.rsplit(")", 1)[1].split()[0] != "Z"


def test_a_step_whose_build_failed_is_not_run(runner: Runner) -> None:
    runner.run("build", "raise SystemExit(1)")
    after = runner.run("measure", "print(1)", after=["build"])
    assert (after["status"], after["why"]) == ("not run", "it needs build")


def test_a_spent_budget_runs_nothing_more_and_does_not_pass(load: Any, tmp_path: Path) -> None:
    runner = Runner(load, tmp_path, budget_s=0.5)
    late = runner.run("late", "print(1)")
    assert late["status"] == "not run"
    assert runner.check.status() == 1


def test_a_missing_tool_is_absent_not_failed(runner: Runner) -> None:
    absent = runner.run("counters", "print(1)", needs=["no-such-profiler"])
    assert absent["status"] == "absent"
    assert "no-such-profiler" in absent["why"]
    forbidden = runner.run("profiler", "print('ERR_NO'); raise SystemExit(1)", unavailable=["ERR_NO"])
    assert forbidden["status"] == "absent"
    assert runner.check.status() == 0


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("pass", "it wrote no record"),
        (writing(right=False, found="3 bits"), "s, c: 3 bits"),
        (writing(error="out of memory"), "s, c: out of memory"),
        (writing(speed=3), "nobody knows the key 'speed'"),
        (writing(ms="fast"), "'ms' is 'fast'"),
        (writing(kept=True), "'kept' without a bound"),
        (writing(dry=True, ms=1.0), "a dry run measures no 'ms'"),
        (WRITE.format(line='{"section": "s", "ca'), "line 1 is not JSON"),
    ],
)
def test_wrong_or_malformed_figures_fail_a_step_that_exits_with_0(
    runner: Runner, code: str, why: str
) -> None:
    step = runner.run("figures", code, records=True)
    assert step["status"] == "failed"
    assert why in step["why"]


def test_tests_that_were_all_skipped_have_not_passed(runner: Runner) -> None:
    skipped = runner.run("tests", "print('3 skipped')", wants=r"[1-9]\d* passed")
    assert skipped["status"] == "failed"
    assert "passed" in skipped["why"]
    assert (
        runner.run("more tests", "print('2 passed, 1 skipped')", wants=r"[1-9]\d* passed")["status"]
        == "passed"
    )


def test_goals_missed_have_an_exit_status_of_their_own(runner: Runner) -> None:
    assert runner.run("goals", writing(ms=2.0, bound_ms=1.5, kept=False), records=True)["status"] == "passed"
    assert runner.check.status() == 3
    assert runner.check.missed() == ["s, c: 2 ms, the goal 1.5 ms"]
    runner.run("broken", "raise SystemExit(1)")
    assert runner.check.status() == 1


def test_results_are_few_and_small(runner: Runner) -> None:
    runner.run("loud", "print('x' * 100 * 1000 * 1000)")
    files = list((runner.folder / "out").iterdir())
    assert len(files) <= 8
    assert all(file.stat().st_size < 16 << 20 for file in files)


@pytest.mark.parametrize("mode", ["quick", "full"])
@pytest.mark.parametrize("dry", [False, True])
def test_the_steps_fit_together(load: Any, mode: str, dry: bool) -> None:
    steps = load("steps")
    found = steps.steps(mode, dry)
    names = [step.name for step in found]
    assert len(set(names)) == len(names)
    for place, step in enumerate(found):
        assert set(step.after) <= set(names[:place]), f"{step.name} needs a step that comes later"
        assert step.limit_s < steps.BUDGET_S[mode] or dry
    assert steps.BUDGET_S == {"quick": 150, "full": 480}
    # What touches the device does not in a dry run.
    programs = [step for step in found if step.records and "--tool" not in step.command]
    assert all(("--dry" in step.command) == dry for step in programs if "emulated" not in step.name)
    if mode == "full":
        assert {step.name for step in steps.steps("quick", dry)} <= set(names)


def test_the_sanitizer_is_not_asked_for_in_a_dry_run(load: Any) -> None:
    dry = [step.name for step in load("steps").steps("full", True)]
    real = [step.name for step in load("steps").steps("full", False)]
    assert not [name for name in dry if "sanitizer" in name]
    tested = len([name for name in real if name.startswith("C++ tests on the device")])
    assert tested == len(list((ROOT / "tests" / "cuda").glob("device*_test.cpp")))
    assert len([name for name in real if "sanitizer" in name]) == 4 * (
        1 + tested
    )  # over `equal_bits` and the tests


def test_a_dry_run_names_no_device(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = load("steps")
    about = steps.facts("quick", True, "scripts/gpu_check.sh quick --dry")
    assert about["dry"]
    assert "device" not in about
    monkeypatch.delenv("OUT", raising=False)
    assert steps.folder(about).name.startswith("gpu-dry-")
    monkeypatch.setenv("OUT", "/somewhere")
    assert steps.folder(about) == Path("/somewhere")


def test_the_command_reports_a_failing_step_and_goes_on(tmp_path: Path) -> None:
    """The whole script in a tree where nothing has been built."""
    for folder in ("scripts", "bench/cuda"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    command = ["bash", "scripts/gpu_check.sh", "full", "--dry", "--out", str(tmp_path / "out")]
    environment = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run(
        [*command, "--only", "measure first", "Nsight counters"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    results = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert [(step["name"], step["status"]) for step in results["steps"]] == [
        ("measure first", "failed"),
        ("Nsight counters", "passed"),
    ]
    assert "did not pass: measure first" in done.stdout.splitlines()[-1]
    about = results["about"]
    assert about["command"] == 'scripts/gpu_check.sh full --dry --only "measure first" "Nsight counters"'
    assert all(about[key] for key in ("date", "commit", "python", "cpus"))
    assert (tmp_path / "out" / "report.md").exists()


@pytest.mark.parametrize("arguments", [[], ["slow"], ["quick", "--only", "everything"]])
def test_bad_arguments_end_with_2(arguments: list[str]) -> None:
    command = ["bash", str(ROOT / SCRIPTS[0]), *arguments]
    environment = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "usage" in done.stderr


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_scripts_are_sound(script: str) -> None:
    path = ROOT / script
    assert os.access(path, os.X_OK)
    assert subprocess.run(["bash", "-n", path], check=False).returncode == 0
    assert "set -euo pipefail" in path.read_text(encoding="utf-8")
    if shutil.which("shellcheck"):
        done = subprocess.run(["shellcheck", path], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


def test_the_counters_of_all_kernels_are_added(load: Any) -> None:
    counters = load("counters")
    read, written = counters.READ, counters.WRITTEN
    answer = '==PROF== Connected\n"ID","Kernel Name","Metric Name","Metric Unit","Metric Value"\n'
    answer += f'"0","a(int, float)","{read}","Gbyte","1.5"\n"0","a","{written}","byte","12"\n'
    answer += f'"1","b","{read}","Mbyte","1,000"\n"1","b","{written}","Kbyte","1"\n'
    assert counters.total(answer, read) == 2_500_000_000
    assert counters.total(answer, written) == 1012
    record = counters.counted(answer, {"case": "c", "weights": 1, "input_bytes": 2_450_000_000})
    assert record["kept"] and load("records").problems(record) == []
    with pytest.raises(ValueError, match="no table"):
        counters.total("==ERROR== ERR_NVGPUCTRPERM", read)


def results(**about: Any) -> dict[str, Any]:
    met = {"section": "headline", "case": "f32, threshold", "ms": 1.1, "floor_ms": 1.0, "ratio": 1.1,
           "bound_ms": 1.2, "kept": True, "right": True}  # fmt: skip
    missed = {**met, "case": "f32, masks", "ms": 1.3, "kept": False}
    peer = {"section": "peers", "case": "a | peer", "ms": 5.0, "ours_ms": 1.0, "slower": 5.0, "right": True}
    steps = [
        {"name": "headline", "status": "passed", "records": [met, missed, peer]},
        {"name": "tests", "status": "failed", "why": "exit status 1"},
        {"name": "Nsight counters", "status": "absent", "why": "ncu is not installed here"},
    ]
    facts = {
        "date": "2026-11-21 10:00 UTC",
        "mode": "full",
        "dry": False,
        "device": "Some GPU",
        "commit": "abc",
    }
    return {"about": facts | about, "steps": steps}


def test_the_page_says_what_was_met_missed_failed_and_absent(load: Any, tmp_path: Path) -> None:
    report = load("report")
    page = report.document([results()])
    assert "## Some GPU, 2026-11-21" in page
    assert "- 1 of 2 goals met" in page
    assert "- missed: headline, f32, masks: 1.3 ms, the goal 1.2 ms" in page
    assert "- did not pass: tests: exit status 1" in page
    assert "- not available there: Nsight counters: ncu is not installed here" in page
    assert "| f32, threshold | 1.1 |  | 1.1 | 1.2 ms | met |" in page
    assert "| a \\| peer | 5 |" in page and "5.0 times ours" in page
    assert "Not measured" not in page
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results(dry=True)), encoding="utf-8")
    with pytest.raises(ValueError, match="dry run"):
        report.load([path])


def test_the_page_in_the_docs_is_what_the_results_say(load: Any) -> None:
    report = load("report")
    assert report.main(["--check"]) == 0
    page = report.PAGE.read_text(encoding="utf-8")
    measured = list((ROOT / "bench" / "results").glob("gpu-*/results.json"))
    assert ("Not measured on a device yet" in page) == (not measured)


def test_the_peers_agree_with_a_sort_and_a_dry_run_has_no_times(load: Any, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    out = tmp_path / "peers.jsonl"
    command = [sys.executable, BENCH / "peers.py", "--dry", "--out", out]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    found, problems = load("records").read(out)
    assert problems == []
    exact = [record["case"] for record in found if record.get("right")]
    assert len(exact) == 8
    assert len(found) == 12
    assert all(record["dry"] for record in found)


@pytest.mark.parametrize("engine", ["the CPU's", "on the host", "emulated"])
def test_the_optimizers_step_is_judged_and_a_dry_run_has_no_times(
    load: Any, tmp_path: Path, engine: str, request: pytest.FixtureRequest
) -> None:
    pytest.importorskip("torch")
    fixture = {"on the host": "cuda_on_host", "emulated": "cuda_emulated"}.get(engine)
    native = request.getfixturevalue(fixture) if fixture else None
    adam, out = load("adam"), tmp_path / "adam.jsonl"
    threads = adam.torch.get_num_threads()
    try:
        assert adam.main(["--dry", "--out", str(out)], native) == 0
    finally:
        adam.torch.set_num_threads(threads)
    found, problems = load("records").read(out)
    assert problems == []
    assert all(record["dry"] for record in found)
    judged = [record["case"] for record in found if record.get("right")]
    assert len(judged) == 9, "eight cases of bits and a model in double"
    counted = [record for record in found if "differing" in record]
    assert len(counted) == 8
    assert any(record["differing"] for record in counted), "the roundings are not told"
    assert len(found) - len(judged) - len(counted) == 20, "five cases of four models are timed on a device"


@pytest.mark.parametrize("engine", ["the CPU's", "on the host", "emulated"])
def test_packed_matrices_and_rounding_are_judged(
    load: Any, tmp_path: Path, engine: str, request: pytest.FixtureRequest
) -> None:
    pytest.importorskip("torch")
    fixture = {"on the host": "cuda_on_host", "emulated": "cuda_emulated"}.get(engine)
    native = request.getfixturevalue(fixture) if fixture else None
    packed, out = load("packed"), tmp_path / "packed.jsonl"
    threads = packed.torch.get_num_threads()
    try:
        assert packed.main(["--dry", "--out", str(out)], native) == 0
    finally:
        packed.torch.set_num_threads(threads)
    found, problems = load("records").read(out)
    assert problems == []
    assert all(record["dry"] for record in found)
    assert len([record for record in found if record.get("right")]) == 19, (
        "three shapes of three dtypes in two layouts, rounding"
    )
    assert len(found) == 19 + 6 * (2 + 2 * 5) + 1


@pytest.mark.parametrize("layout", ["strips", "delta"])
def test_a_wrong_product_fails(
    load: Any, tmp_path: Path, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    packed, out = load("packed"), tmp_path / "packed.jsonl"
    threads = packed.torch.get_num_threads()

    multiply = getattr(packed._core, f"multiply_{layout}")

    def wrong(queue: Any, arrays: Any, x: int, batch: int, bias: int, y: int, dtype: int, *room: int) -> None:
        multiply(arrays, x, max(1, batch - 1), bias, y, dtype)

    monkeypatch.setattr(packed.OnCpu, f"cuda_multiply_{layout}", staticmethod(wrong))
    try:
        assert packed.main(["--dry", "--out", str(out)]) == 1
    finally:
        packed.torch.set_num_threads(threads)
    found, _ = load("records").read(out)
    wrongs = [record["case"] for record in found if record.get("right") is False]
    assert wrongs
    assert all(("delta" in case) == (layout == "delta") for case in wrongs)


def test_a_wrong_optimizers_step_fails(load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    adam, out = load("adam"), tmp_path / "adam.jsonl"
    threads = adam.torch.get_num_threads()
    right = adam._core.step_adam
    calls = []

    def wrong(table: Any, groups: Any, *arguments: Any) -> Any:
        calls.append(table)
        groups = groups[:]
        groups[0] *= 1.0 if len(calls) % 2 else 1.01
        return right(table, groups, *arguments)

    monkeypatch.setattr(adam._core, "step_adam", wrong)
    try:
        assert adam.main(["--dry", "--out", str(out)]) == 1
    finally:
        adam.torch.set_num_threads(threads)
    found, _ = load("records").read(out)
    assert [record["case"] for record in found if record.get("right") is False]
