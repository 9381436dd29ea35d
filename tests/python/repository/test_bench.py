"""The benchmark command, run on a model that takes seconds; and the parts whose mistakes would flatter."""

from __future__ import annotations

import importlib
import json
import math
import mmap
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import bittersweet as bs  # noqa: E402

BENCH = Path(__file__).resolve().parents[3] / "bench"
SECTIONS = [
    "headline",
    "hold",
    "orders",
    "cliffs",
    "sizes",
    "peers",
    "ranks",
    "rounding",
    "rows",
    "selectors",
    "sparse",
    "torch_prune",
    "trackers",
    "training",
    "wanda",
]
WEIGHTS = 120_000


@pytest.fixture(scope="module")
def load() -> Iterator[Any]:
    """Imports a module of bench/ as run.py does."""
    sys.path.insert(0, str(BENCH))
    before = set(sys.modules)
    yield importlib.import_module
    sys.path.remove(str(BENCH))
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(BENCH)):
            del sys.modules[name]


@pytest.fixture(scope="module")
def library(load: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    floor = load("floor")
    if floor.compiler() is None:
        pytest.skip("the floor is C++ and no compiler was found (CXX, or c++)")
    built: Path = floor.build(tmp_path_factory.mktemp("floor"))
    return built


@pytest.fixture(scope="module")
def finished(library: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str, str]:
    """One quick run of everything: the JSON, the Markdown, and what it printed."""
    out = tmp_path_factory.mktemp("bench")
    files = ("--out", out / "results.json", "--markdown", out / "results.md", "--floor-library", library)
    command = [sys.executable, BENCH / "run.py", "--quick", "--weights", WEIGHTS, "--threads", 2, *files]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    return results, (out / "results.md").read_text(encoding="utf-8"), done.stdout


def rows(results: dict[str, Any], section: str) -> list[dict[str, Any]]:
    return [row for table in results["sections"][section] for row in table["rows"]]


@pytest.mark.slow
def test_every_section_is_measured_and_nothing_is_judged(finished: tuple[dict[str, Any], str, str]) -> None:
    results, markdown, printed = finished
    assert list(results["sections"]) == SECTIONS
    for section in SECTIONS:
        found = rows(results, section)
        assert found
        for row in found:
            times = [value for key, value in row.items() if key.endswith("_ms")]
            assert all(math.isfinite(value) and value > 0 for value in times), row
            assert row.get("kept") is None, row
        for table in results["sections"][section]:
            assert f"### {table['title']}" in markdown
            assert table["title"] in printed
    about = results["about"]
    assert all(about[key] for key in ("date", "cpu", "isa", "isa_of_the_floor", "torch", "threads"))
    assert about["command"].startswith("python bench/run.py --weights 120000 --threads 2 ")
    assert str(BENCH) not in markdown


@pytest.mark.slow
def test_rows_that_stand_beside_a_floor_have_the_ratio(finished: tuple[dict[str, Any], str, str]) -> None:
    for section in ("headline", "hold", "cliffs", "sizes", "rows"):
        beside = [row for row in rows(finished[0], section) if "ratio" in row]
        assert beside
        for row in beside:
            assert row["ratio"] == pytest.approx(row["ours_ms"] / row["floor_ms"])


@pytest.mark.slow
def test_exact_peers_agree_with_the_library(finished: tuple[dict[str, Any], str, str]) -> None:
    errors = {row["case"]: row["error"] for row in rows(finished[0], "peers") if row.get("error") is not None}
    exact = {case: error for case, error in errors.items() if "sample" not in case}
    assert len(exact) == 5
    assert len(set(exact.values())) == 1
    assert abs(exact["bittersweet threshold"]) <= 1 / WEIGHTS
    assert all(abs(error) < 0.1 for error in errors.values())


@pytest.mark.slow
def test_memory_is_that_of_the_call(finished: tuple[dict[str, Any], str, str]) -> None:
    measured = [row for row in rows(finished[0], "headline") if "peak" in row]
    assert [row["mask"] > 0 for row in measured] == [False, True]
    for row in measured:
        assert 0 < row["peak"] < 100
        assert row["account"] > 0


@pytest.mark.slow
def test_the_checkpoint_benchmark_runs(tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    out = tmp_path / "results.json"
    options = ("--gigabytes", 0.01, "--peer-gigabytes", 0.002, "--rounds", 1, "--folder", tmp_path)
    command = [sys.executable, BENCH / "checkpoint.py", *options, "--out", out]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    results = json.loads(out.read_text(encoding="utf-8"))
    assert results["checkpoint"]["pruned"] == 2_500_000 // 4096 * 4096
    assert all(seconds > 0 for seconds in results["checkpoint"]["seconds"].values())
    assert 0 < results["checkpoint"]["peak_mib"] < 150
    assert len(results["peers"]) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def versions(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        BENCH / "versions.py",
        *arguments,
        "--weights",
        WEIGHTS,
        "--rounds",
        3,
        "--threads",
        1,
    ]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.slow
def test_versions_are_compared_by_turns(tmp_path: Path) -> None:
    out, package = tmp_path / "versions.json", Path(bs.__file__).parents[1]
    done = versions(package, package, "--case", "transposed", "16 columns: row", "--out", out)
    assert done.returncode == 0, done.stderr
    cases = json.loads(out.read_text(encoding="utf-8"))["cases"]
    assert [case["case"].partition(",")[0] for case in cases] == ["16 columns: row", "128 x 128", "128 x 128"]
    for case in cases:
        assert case["ratio"][0] == 1.0 and len(case["ms"]) == len(case["ratio"]) == 2 and min(case["ms"]) > 0
    assert done.stdout.count("ratio") == len(cases)


def test_versions_that_are_not_there_are_refused(tmp_path: Path) -> None:
    alone, missing = versions(tmp_path), versions(tmp_path, tmp_path)
    assert alone.returncode == 2 and "DIRECTORY: 1 given; name two versions or more" in alone.stderr
    assert missing.returncode == 1 and f"there is no 'bittersweet' in {tmp_path}" in missing.stderr


@pytest.mark.skipif(not hasattr(mmap, "MADV_NOHUGEPAGE"), reason="page faults are counted in small pages")
def test_bare_passes_touch_every_page_and_change_nothing(load: Any, library: Path) -> None:
    floor: ModuleType = load("floor")
    bare = floor.Floor(library)
    count = 100_003
    for kind in range(floor.WRITE + 1):
        arrays, pages = [], 0
        for dtype in (torch.float32, torch.bfloat16):
            size = count * torch.empty((), dtype=dtype).element_size()
            memory = mmap.mmap(-1, size)
            memory.madvise(mmap.MADV_NOHUGEPAGE)
            arrays.append(torch.frombuffer(memory, dtype=dtype))
            pages += math.ceil(size / mmap.PAGESIZE)
        passes = bare.over(*[[array] for array in arrays])
        assert passes.bytes == 6 * count
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        passes.write(1) if kind == floor.WRITE else passes.read(kind, 1)
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
        assert faults >= pages, floor.READS[kind] if kind < floor.WRITE else "write"

    tensors = [torch.randn(n) for n in (1, 63, 64, 65, 91, 1003, 70_001)]
    saved = [x.clone() for x in tensors]
    bare.over(tensors).write(2)
    assert all(map(torch.equal, tensors, saved))
    with pytest.raises(ValueError, match="0 threads"):
        bare.over(tensors).write(0)


def test_the_model_has_the_shapes_and_the_data_it_promises(load: Any) -> None:
    models = load("models")
    for total in (models.SMALLEST, 1_000_000, 99_999_999, 100_000_000):
        shapes = models.gpt_shapes(total)
        assert sum(map(math.prod, shapes)) == total
        assert len(shapes) >= 100
        assert (7, 13) in shapes and (1003,) in shapes
    assert (768,) in models.gpt_shapes(100_000_000)

    model = models.empty(models.SMALLEST, moments=True)
    dead = ("90 % dead under a mask", "90 % pruned, scales differ")
    zeros = {"50 % zeros": 0.5, "90 % zeros": 0.9, **dict.fromkeys(dead, 0.9)}
    for data in models.DATA:
        models.fill(model, data)
        w = torch.cat([x.view(-1) for x in model.w])
        v = torch.cat([x.view(-1) for x in model.v])
        assert w.isfinite().all() and v.isfinite().all() and (v >= 0).all()
        assert float((w == 0).double().mean()) == pytest.approx(zeros.get(data, 0.0), abs=0.01)
        assert (model.masks is not None) == (data in dead)
        score = w.abs() * (v + 1e-8).sqrt().sqrt()
        assert bool((score.diff() >= 0).all()) == (data in ("sorted", "all equal"))
        distinct = {"all equal": 1, "two values": 2}
        if data in distinct:
            assert score.unique().numel() == distinct[data]
        assert torch.equal(w, w.bfloat16().float()) == (data == "bf16-rounded")
    with pytest.raises(ValueError, match="at least"):
        models.gpt_shapes(1000)


def test_arms_train_one_model_and_hold_one_mask(load: Any) -> None:
    arms = load("arms")
    weights, masks = {}, {}
    for name in arms.ARMS:
        training = arms.Training(arms.BATCH * 1_000)
        training.begin(name)
        for _ in range(3 * arms.EVERY + 1):
            training.step()
        pruner = training.arm.pruner
        weights[name] = [parameter.detach() for parameter in training.model.parameters()]
        assert training.arm.events == (0 if pruner is None else 3)
        assert training.weights == sum(weight.numel() for weight in weights[name])
        if pruner is not None:
            masks[name] = pruner.masks
            assert pruner.sparsity().zero >= pruner.sparsity().masked == pytest.approx(0.508, abs=1e-3)
    dense, reference, *others = arms.ARMS
    assert not all(map(torch.equal, weights[dense], weights[reference]))
    for name in others:
        assert all(map(torch.equal, weights[name], weights[reference])), name
        assert all(torch.equal(masks[name][key], mask) for key, mask in masks[reference].items()), name


def test_a_period_is_averaged_over_the_steps_between_events(load: Any) -> None:
    training = load("sections.training")
    period = [3.0, *[1.0] * 8, 9.0]  # what the event left, steps like any other, the event
    assert training._per_step([period], 10) == pytest.approx(2.0)
    assert training._per_step([period], 100) == pytest.approx((20.0 + 90.0) / 100)
    assert training._per_step([period, [2 * x for x in period], [0.0] * 10], 10) == pytest.approx(2.0)


def test_half_of_the_rows_are_whole_rows(load: Any) -> None:
    training = load("sections.training")
    random = torch.Generator().manual_seed(0)
    keep = training._half_of_rows(torch.Size((7, 13)), random)
    assert keep.all(1).sum() == 4 and (~keep).all(1).sum() == 3
    assert training._half_of_rows(torch.Size((5,)), random).all()


def test_a_bound_that_is_missed_is_shown(load: Any) -> None:
    measure, tables = load("measure"), load("tables")
    bench = measure.Bench(100_000_000, [2], 5, True, None, print)
    assert measure.kept(bench, 1.31, 1.3) is False
    assert measure.kept(bench, 1.3, 1.3) is True
    assert measure.kept(bench, 49.0, 50, at_least=True) is False
    assert measure.kept(bench, 9.0, None) is None
    bench.judge = False
    assert measure.kept(bench, 1.31, 1.3) is None

    row = {"case": "slow | steady", "threads": 2, "ratio": 1.31, "bound": 1.3, "kept": False}
    table = tables.Table("A title", [row, {**row, "kept": True}], ["a note"])
    assert tables.verdict({"s": [table]}).splitlines() == [
        "1 of 2 judged bounds kept.",
        "missed: s, A title: slow | steady, 2 (bound 1.3)",
    ]
    assert "| slow \\| steady | 2 | 1.31 | 1.3 | NO |" in table.markdown().splitlines()
    assert table.text().count("NO") == 1 and "a note" in table.text()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--repeats", "4"], "--repeats 4: at least 5"),
        (["--weights", "10"], "--weights 10: at least"),
        (["--threads", "0"], "--threads 0: at least 1"),
        (["--out", "no/such/x.json"], "there is no such folder"),
        (["--section", "everything"], "headline"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    load: Any, capsys: pytest.CaptureFixture[str], arguments: list[str], complaint: str
) -> None:
    with pytest.raises(SystemExit):
        load("run").parse(arguments)
    assert complaint in capsys.readouterr().err


def test_a_floor_that_cannot_be_loaded_ends_the_run(
    load: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert load("run").main(["--quick", "--floor-library", str(tmp_path / "none.so")]) == 2
    assert "none.so" in capsys.readouterr().err
