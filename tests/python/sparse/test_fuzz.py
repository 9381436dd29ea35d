"""scripts/fuzz_compressed with a small budget, and that it sees what it is made to see."""

from __future__ import annotations

import importlib
import importlib.util
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from bittersweet import sparse

FUZZ = Path(__file__).resolve().parents[3] / "scripts/fuzz_compressed"


@pytest.fixture
def fuzz() -> Iterator[ModuleType]:
    sys.path.insert(0, str(FUZZ))
    spec = importlib.util.spec_from_file_location("fuzz_compressed", FUZZ / "__main__.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(FUZZ))
    for name in ("damage", "plain_reader"):
        sys.modules.pop(name, None)


def test_damaged_files_and_states_are_refused_or_read_exactly() -> None:
    command = [sys.executable, FUZZ, "--trials", 600, "--seed", 7]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for what in ("files loaded", "files read", "files refused", "states loaded", "states refused"):
        assert f" {what}" in done.stdout


def test_states_of_both_layouts_are_damaged(fuzz: ModuleType, monkeypatch: Any) -> None:
    states, reader = fuzz.States(), importlib.import_module("plain_reader")
    assert {layer.layout for layer in states.good} == {"strips", "delta"}
    states.good = [layer for layer in states.good if layer.layout == "delta" and layer.live]
    first, unpack = reader.LAYOUTS["delta"]
    monkeypatch.setitem(reader.LAYOUTS, "delta", (first, lambda *arrays: unpack(*arrays)[::-1]))
    with pytest.raises(fuzz.Fault, match="it unpacks to other bits"):
        for number in range(60):
            states.trial(random.Random(f"0 {number}"))


def test_trials_repeat(fuzz: ModuleType, tmp_path: Path) -> None:
    files = fuzz.Files(tmp_path)
    good = files.good[0][0]
    found = [fuzz.damaged_file(good, random.Random(f"0 {number}")) for number in range(40)]
    assert found == [fuzz.damaged_file(good, random.Random(f"0 {number}")) for number in range(40)]
    assert len(set(found)) > 25 and good not in [data for data in found if len(data) < 100]


def test_a_reader_that_errs_is_caught(fuzz: ModuleType, tmp_path: Path, monkeypatch: Any) -> None:
    files, right = fuzz.Files(tmp_path), sparse.load_compressed

    def faults(wrong: Any) -> set[str]:
        monkeypatch.setattr(sparse, "load_compressed", wrong)
        found = set()
        for number in range(60):
            try:
                files.trial(random.Random(f"0 {number}"))
            except fuzz.Fault as fault:
                found.add(str(fault).split("'")[0].split(":")[0].strip())
        return found

    def swallows(path: Any, *model: Any, **options: Any) -> Any:
        try:
            return right(path, *model, **options)
        except Exception:
            return {}

    def flips(path: Any, *model: Any, **options: Any) -> Any:
        found = right(path, *model, **options)
        for tensor in [] if model else found.values():
            if tensor.numel():
                tensor.view(-1).view(torch.uint8)[0] ^= 1
        return found

    assert faults(right) == set()
    assert "a damaged file was read" in faults(swallows)
    assert faults(flips)


def test_an_exception_of_another_kind_is_a_fault(
    fuzz: ModuleType, monkeypatch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    def breaks(path: Any, model: Any = None) -> Any:
        raise KeyError("an inner one")

    monkeypatch.setattr(sparse, "load_compressed", breaks)
    monkeypatch.setattr(fuzz.resource, "setrlimit", lambda *_: None)
    monkeypatch.setattr(fuzz.faulthandler, "dump_traceback_later", lambda *_, **__: None)
    assert fuzz.main(["--trials", "2"]) == 1
    assert "trial 0 of seed 0" in capsys.readouterr().out


def test_the_second_reader_knows_the_format(fuzz: ModuleType, tmp_path: Path) -> None:
    reader = importlib.import_module("plain_reader")
    state = {"w": torch.tensor([[0.0, 1.5, -0.0], [0.0, 0.0, 0.0]]), "b": torch.arange(3)}
    sparse.save_compressed(state, tmp_path / "f", min_sparsity=0.0)
    data = (tmp_path / "f").read_bytes()
    found = reader.read(data)
    assert found == {
        "w": ("F32", (2, 3), bytes(state["w"].view(torch.uint8).flatten().numpy())),
        "b": ("I64", (3,), bytes(state["b"].view(torch.uint8).numpy())),
    }
    assert reader.read(data + b"\0") is None
    assert reader.read(data.replace(b"row-bitmask/1", b"row-bitmask/2")) is None
    assert reader.read(b"") is None
