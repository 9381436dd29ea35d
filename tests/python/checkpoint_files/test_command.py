"""The command as a person runs it: what it prints, its exit status, its memory, and what it never loads."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import bittersweet as bs
import numpy as np
import pytest
from bittersweet.__main__ import main
from bittersweet.checkpoint_files import pruning
from checkpoint_support import other, stored, values, write_file, write_folder


@pytest.fixture
def source(tmp_path: Path) -> Path:
    tensors = {
        "model.layers.0.mlp.up_proj.weight": stored(values("normal", 1200).reshape(30, 40), "BF16"),
        "model.embed_tokens.weight": stored(values("normal", 400).reshape(10, 40), "BF16"),
        "model.norm.weight": stored(np.ones(40), "BF16"),
    }
    return write_file(tmp_path / "model.safetensors", tensors)


def run(*arguments: object) -> int:
    return main(["prune-checkpoint", *map(str, arguments)])


def test_a_copy(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.safetensors"
    assert run(source, out, "--sparsity", 0.5, "--verify") == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    for line in (
        "model.layers.0.mlp.up_proj.weight  30x40   BF16     1,200     600  0.5000",
        "copied as they are, embedding: 1 tensors of 400 elements (model.embed_tokens.weight)",
        "copied as they are, fewer than two axes: 1 tensors of 40 elements (model.norm.weight)",
        "600 of 1,200 elements are 0 (magnitude, scope global) at threshold",
        "as large as the source, since zeros are stored as other numbers are",
        "verified: every byte",
        "read 3 times and written once",
    ):
        assert line in printed.out
    assert bs.sparsity(out).per_tensor["model.layers.0.mlp.up_proj.weight"].zeros == 600
    assert run(source, out, "--sparsity", 0.5) == 2
    assert "exists. Pass another path, or overwrite=True (--overwrite)" in capsys.readouterr().err
    assert run(source, out, "--sparsity", 0.5, "--overwrite", "--json") == 0
    assert json.loads(capsys.readouterr().out)["pruned"] == 600


def test_a_plan(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(source, "--sparsity", 0.3, "--dry-run") == 0
    text = capsys.readouterr().out
    assert "1,200       ?      ?" in text
    assert "would prune 0.3 of 1,200 elements (magnitude, scope global); nothing is written" in text
    assert run(source, "--dry-run", "--scope", "2:4", "--json") == 0
    held = json.loads(capsys.readouterr().out)
    assert (held["dry_run"], held["k"], held["pruned"], held["reads"]) == (True, 600, 0, 0)
    assert held["per_tensor"]["model.layers.0.mlp.up_proj.weight"]["pruned"] == 600
    assert run(source, tmp_path / "out", "--dry-run", "--scope", "row", "--sparsity", "0.25") == 0
    assert "1,200     300  0.2500" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == [source]


def test_globs(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    both = ("--include", "*proj*", "--include", "*embed*")
    assert run(source, tmp_path / "a", "--sparsity", 0.5, *both, "--json") == 0
    assert json.loads(capsys.readouterr().out)["total"] == 1600
    arguments = ("--sparsity", 0.5, "--exclude", "*embed*", "--transposed", "*up_proj*", "--scope", "row")
    assert run(source, tmp_path / "b", *arguments) == 0
    assert "30x40 (transposed)" in capsys.readouterr().out


def test_what_a_new_user_tries(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One clear line and status 2 each; never a traceback."""
    out = tmp_path / "out"
    pickled, gguf, zipped = tmp_path / "model.pt", tmp_path / "model.gguf", tmp_path / "pytorch_model.bin"
    pickled.write_bytes(b"\x80\x02}q\x00.")
    gguf.write_bytes(b"GGUF\x03\0\0\0" + bytes(40))
    zipped.write_bytes(b"PK\x03\x04" + bytes(100))
    fp8 = write_file(tmp_path / "fp8", {"layers.0.weight": other("F8_E4M3", 8, 8)})
    gptq = write_file(tmp_path / "gptq", {"layers.0.qweight": other("I32", 8, 8)})
    (tmp_path / "empty").mkdir()
    (tmp_path / "bins").mkdir()
    (tmp_path / "bins" / "pytorch_model.bin").write_bytes(zipped.read_bytes())
    for given, message in (
        (tmp_path / "nowhere", "is no file or folder here. A model of a hub must be downloaded first"),
        ("meta-llama/Llama-3-8B", "is no file or folder here. A model of a hub must be downloaded first"),
        (tmp_path / "empty", "holds none of model.safetensors.index.json"),
        (pickled, "is a torch checkpoint (pickle), which cannot be read in parts. Save its tensors first"),
        (zipped, "is a torch checkpoint (pickle)"),
        (tmp_path / "bins", "is a torch checkpoint (pickle)"),
        (gguf, "is a GGUF file. Prune the safetensors that it is made from"),
        (fp8, "'layers.0.weight' in 'fp8' is F8_E4M3; accepted: F32, F16 and BF16. Prune before quantizing"),
        (gptq, "nothing to prune in"),
    ):
        assert run(given, out, "--sparsity", 0.5) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err.startswith("bittersweet: ") and printed.err.count("\n") == 1
        assert message in printed.err
        assert not out.exists()
    with pytest.raises(bs.ArgumentError, match=r"found dict; .*pruned by bittersweet\.prune_"):
        bs.prune_checkpoint({}, out, sparsity=0.5)  # type: ignore[arg-type]


def test_arguments_that_are_missing(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(source, "out") == 2
    assert "sparsity: it is missing" in capsys.readouterr().err
    assert run(source, "--sparsity", 0.5) == 2
    assert "out: it is missing; accepted: a path for the copy, or dry_run=True" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run(source, "out", "--sparsity", "half")


def test_one_file_of_a_model_heeds_the_configuration_beside_it(tmp_path: Path) -> None:
    tensors = {"a.weight": stored(np.ones((6, 4))), "head.weight": stored(np.ones((9, 4)))}
    folder = write_folder(tmp_path / "in", {"model.safetensors": tensors})
    (folder / "config.json").write_text('{"vocab_size": 9}')
    report = bs.prune_checkpoint(folder / "model.safetensors", sparsity=0.5, dry_run=True)
    assert (report.total, report.left_out) == (24, ())
    for text in ("{", "[]", "[" * 10**5, "\ufffd"):
        (folder / "config.json").write_text(text)
        assert bs.prune_checkpoint(folder, sparsity=0.5, dry_run=True).total == 60


def test_the_bar_says_how_fast(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Bar:
        n, said = 0, ""

        def __init__(self, title: str, total: int) -> None:
            self.title, self.total = title, total

        def __enter__(self) -> Bar:
            return self

        def __exit__(self, *error: object) -> None:
            pass

        def update(self, count: int) -> None:
            self.n += count

        def set_description_str(self, text: str, refresh: bool) -> None:
            self.said = text
            seen.append(text.split()[0])

    bars: list[Bar] = []
    seen: list[str] = []

    def bar(title: str, total: int) -> Bar:
        bars.append(Bar(title, total))
        return bars[-1]

    monkeypatch.setattr(pruning, "progress_bar", bar)
    bs.prune_checkpoint(source, tmp_path / "out", sparsity=0.5, verify=True)
    assert list(dict.fromkeys(seen)) == ["reading", "writing", "verifying"]
    assert bars[0].n == bars[0].total and bars[0].said.endswith("GB/s")
    bs.prune_checkpoint(source, tmp_path / "again", sparsity=0.5, show_progress=False)
    assert len(bars) == 1


CHILD = """
import json, sys
import bittersweet as bs
bs.prune_checkpoint  # imports what it needs

def resident(key):  # not getrusage, which knows the peak of the parent too
    return int(open("/proc/self/status").read().partition(key + ":")[2].split()[0]) / 1024

before = resident("VmRSS")
options = json.loads(sys.argv[3])
report = bs.prune_checkpoint(sys.argv[1], sys.argv[2], sparsity=0.5, verify=True, **options)
loaded = [name for name in ("torch", "safetensors", "tqdm", "matplotlib") if name in sys.modules]
print(json.dumps({"mib": resident("VmHWM") - before, "loaded": loaded, "pruned": report.pruned}))
"""


@pytest.mark.parametrize(
    ("megabytes", "dtype", "scope"),
    [(300, "BF16", "global"), (90, "F32", "global"), (90, "F32", "tensor"), (90, "BF16", "2:4")],
)
def test_memory(megabytes: int, dtype: str, scope: str, tmp_path: Path) -> None:
    """Two blocks of 8 MiB, and a third to compare; at most 150 MB above the start whatever the size."""
    rows = (megabytes << 20) // (4096 * (2 if dtype == "BF16" else 4)) // 3
    part = stored(np.resize(values("normal", 1 << 20), (rows, 4096)), dtype)
    source = write_file(tmp_path / "in", {f"layers.{at}.weight": part for at in range(3)}, 5)
    del part
    child = subprocess.run(
        [sys.executable, "-c", CHILD, source, tmp_path / "out", json.dumps({"scope": scope})],
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(child.stdout)
    print(found)
    assert found["mib"] <= 80
    assert found["loaded"] == []
    assert found["pruned"] == rows * 4096 * 3 // 2
