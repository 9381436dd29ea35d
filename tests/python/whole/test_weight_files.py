"""Zeros in files: safetensors, torch checkpoints, shards and folders, and what is no such file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import bittersweet as bs
import numpy as np
import pytest
import torch
from bittersweet.__main__ import main
from pruner_support import mlp

safetensors = pytest.importorskip("safetensors.torch")


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    model = mlp(dtype=torch.bfloat16)
    bs.prune_(model, sparsity=0.4)
    return {**model.state_dict(), "ids": torch.arange(3)}


def write(path: Path, state: Any) -> Path:
    if path.suffix == ".safetensors":
        safetensors.save_file(state, path)
    else:
        torch.save(state, path)
    return path


def same(found: bs.ZeroCount, state: dict[str, torch.Tensor]) -> None:
    expected = {name: int((value == 0).sum()) for name, value in state.items() if value.is_floating_point()}
    assert {name: row.zeros for name, row in found.per_tensor.items()} == expected
    assert found.skipped == {"ids": "of int64"}


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt", "renamed"])
def test_one_file(name: str, state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    path = write(tmp_path / name, state)
    same(bs.sparsity(path), state)
    same(bs.sparsity(str(path)), state)
    if path.suffix != ".safetensors":
        assert list(bs.sparsity(path).per_tensor) == [n for n in state if n != "ids"]


def test_old_and_larger_checkpoints(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    same(bs.sparsity(tmp_path / "old.pt"), state)
    torch.save({"epoch": 1, "state_dict": state}, tmp_path / "more.ckpt")
    same(bs.sparsity(tmp_path / "more.ckpt"), state)
    torch.save(torch.zeros(3), tmp_path / "one.pt")
    assert bs.sparsity(tmp_path / "one.pt").zeros == 3


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_shards(suffix: str, state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    parts = [dict(list(state.items())[:3]), dict(list(state.items())[3:])]
    where = {}
    for number, part in enumerate(parts, 1):
        name = f"{stem}-{number:05}-of-00002.{suffix}"
        write(tmp_path / name, part)
        where.update(dict.fromkeys(part, name))
    index = tmp_path / f"{stem}.{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": where}))
    for source in (index, tmp_path):
        same(bs.sparsity(source), state)
    (tmp_path / f"{stem}-00002-of-00002.{suffix}").unlink()
    with pytest.raises(bs.CheckpointError, match=r"00002-of-00002.*not beside it \(1 of 2 shards"):
        bs.sparsity(tmp_path)


def test_folders(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    with pytest.raises(bs.ArgumentError, match=r"holds none of model\.safetensors"):
        bs.sparsity(tmp_path)
    write(tmp_path / "b.safetensors", {"b": state["0.weight"]})
    write(tmp_path / "a.safetensors", {"a": state["2.weight"]})
    assert list(bs.sparsity(tmp_path).per_tensor) == ["a", "b"]
    write(tmp_path / "model.safetensors", state)
    same(bs.sparsity(tmp_path), state)


def test_layers_are_sorted_by_number(tmp_path: Path) -> None:
    names = [f"layers.{number}.{part}" for number in (0, 1, 2, 9, 10, 11, 100) for part in ("bias", "weight")]
    path = write(tmp_path / "x.safetensors", {name: torch.zeros(2, 2) for name in reversed(names)})
    assert list(bs.sparsity(path).per_tensor) == names


def test_damaged_and_foreign_files(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    whole = write(tmp_path / "m.safetensors", state).read_bytes()
    zipped = write(tmp_path / "m.pt", state).read_bytes()
    np.savez(tmp_path / "a.npz", a=np.zeros(3))
    torch.save({"w": mlp()}, tmp_path / "module.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    for name, content in {
        "cut.safetensors": whole[: len(whole) // 2],
        "head.safetensors": whole[:40],
        "cut.pt": zipped[: len(zipped) // 2],
        "text": b"hello world",
        "empty": b"",
        "gguf": b"GGUF" + bytes(60),
        "pickle": b"\x80\x04nonsense",
        "x.index.json": b"{",
        "y.index.json": b'{"weight_map": 3}',
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(bs.CheckpointError, match=name):
            bs.sparsity(tmp_path / name)
    for name in ("a.npz", "module.pt", "list.pt"):
        with pytest.raises(bs.CheckpointError, match=name):
            bs.sparsity(tmp_path / name)
    with pytest.raises(bs.ArgumentError, match=r"no file or folder here.*downloaded first"):
        bs.sparsity("some-org/some-model")


def test_a_missing_package_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "m.safetensors", {"w": torch.zeros(2)})
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(
        bs.MissingPackageError, match=r'pip install safetensors \(or "bittersweet\[files\]"\)'
    ) as caught:
        bs.sparsity(path)
    assert isinstance(caught.value, bs.Error)
    assert isinstance(caught.value, ImportError)
    assert caught.value.name == "safetensors"


def test_files_are_read_tensor_by_tensor(tmp_path: Path) -> None:
    """A process that counts 16 tensors of 8 MiB never holds half of them."""
    tensors = {f"t{number}": torch.zeros(1 << 21) for number in range(16)}
    peaks = {}
    for name in ("one.safetensors", "all.safetensors"):
        path = write(tmp_path / name, tensors if name[0] == "a" else {"t": torch.zeros(1 << 21)})
        code = (
            "import bittersweet, sys, threading, torch\n"
            "def anonymous():\n"
            "    lines = open('/proc/self/status')\n"
            "    return int(next(line for line in lines if line.startswith('RssAnon')).split()[1])\n"
            "peak, done = [0], threading.Event()\n"
            "def watch():\n"
            "    while not done.wait(0.001): peak[0] = max(peak[0], anonymous())\n"
            "start = anonymous(); watcher = threading.Thread(target=watch); watcher.start()\n"
            "bittersweet.sparsity(sys.argv[1]); done.set(); watcher.join(); print(peak[0] - start)\n"
        )
        done = subprocess.run([sys.executable, "-c", code, path], check=True, capture_output=True, text=True)
        peaks[name[:3]] = int(done.stdout)
    assert peaks["all"] < peaks["one"] + 60_000  # KiB; all of them are 131,072


@pytest.mark.parametrize("options", [[], ["--all"], ["--json"]])
def test_the_command(
    options: list[str], state: dict[str, torch.Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "m.safetensors", state)
    assert main(["sparsity", str(path), *options]) == 0
    text = capsys.readouterr().out
    found = bs.sparsity(path)
    if options == ["--json"]:
        assert json.loads(text) == found.to_dict()
    else:
        assert text == found.table(every=bool(options)) + "\n"


def test_the_command_says_what_is_wrong_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sparsity", str(tmp_path / "none.safetensors")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("bittersweet: source: '")
    assert error.count("\n") == 1
