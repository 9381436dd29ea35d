"""The copy appears whole or not at all, the source is never written to, and what is in the way is refused."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bittersweet as bs
import numpy as np
import pytest
from bittersweet.checkpoint_files import moving, pruning
from checkpoint_support import Stored, expected_files, other, stored, values, write_file, write_folder

KILLS = int(os.environ.get("BITTERSWEET_KILLS", "4"))


def shards(size: int = 40, dtype: str = "BF16") -> dict[str, dict[str, Stored]]:
    found: dict[str, dict[str, Stored]] = {}
    for at in range(4):
        data = values("normal", size * size, at).reshape(size, size)
        found[f"model-{at + 1:05}-of-00004.safetensors"] = {
            f"layers.{at}.a.weight": stored(data, dtype),
            f"layers.{at}.bias": other("U8", 1000),
            f"layers.{at}.b.weight": stored(data[:7], dtype),
        }
    return found


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_file(tmp_path / "in.safetensors", shards()["model-00001-of-00004.safetensors"], 1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "in", shards(), 1)


def bytes_in(path: Path) -> dict[str, bytes]:
    if path.is_file():
        return {"": path.read_bytes()}
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def prune(source: Path, out: Path, **options: Any) -> bs.CheckpointReport:
    return bs.prune_checkpoint(source, out, **{"sparsity": 0.5, **options})


def expected(source: Path, **options: Any) -> dict[str, bytes]:
    paths = sorted(source.glob("*.safetensors")) if source.is_dir() else [source]
    files, _ = expected_files(paths, **{"sparsity": 0.5, **options})
    changed = {path.name if source.is_dir() else "": whole for path, whole in zip(paths, files, strict=True)}
    return bytes_in(source) | changed


def test_what_is_in_the_way(file: Path, folder: Path, tmp_path: Path) -> None:
    before = bytes_in(tmp_path)
    (tmp_path / "link").symlink_to(file)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "hard").hardlink_to(file)
    (tmp_path / "there").write_bytes(b"mine")
    (tmp_path / "empty").mkdir()
    relative = Path(os.path.relpath(file))
    for source, out, message in (
        (file, file, "is the source itself"),
        (file, relative, "is the source itself"),
        (file, tmp_path / "in" / ".." / file.name, "is the source itself"),
        (tmp_path / "link", file, "is the source itself"),
        (file, tmp_path / "hard", "is the source itself"),
        (file, tmp_path / "link", "is a link"),
        (file, tmp_path / "dangling", "is a link"),
        (file, tmp_path / "there", "exists. Pass another path, or overwrite"),
        (file, tmp_path / "no" / "out", "the folder .* does not exist"),
        (file, tmp_path, "is a folder around the source"),
        (folder, folder, "is the source itself"),
        (folder / "model.safetensors.index.json", folder, "is the source itself"),
        (folder, folder / "out", "lies within the source"),
        (folder, folder / "config.json", "lies within the source"),
        (folder, tmp_path, "is a folder around the source"),
        (folder / "model-00001-of-00004.safetensors", folder, "is a folder around the source"),
    ):
        for overwrite in (False, True):
            if not (overwrite and "overwrite" in message):
                with pytest.raises(bs.ArgumentError, match=f"out: .*{message}"):
                    prune(source, out, overwrite=overwrite)
    for source, out, message in (
        (file, tmp_path / "empty", "is a folder; accepted for this source: the path of a file"),
        (folder, tmp_path / "there", "is a file; accepted for this source: the path of a folder"),
    ):
        for overwrite in (False, True):
            with pytest.raises(bs.ArgumentError, match=message):
                prune(source, out, overwrite=overwrite)
    for path in ("link", "dangling", "hard", "there", "empty"):
        (tmp_path / path).rmdir() if path == "empty" else (tmp_path / path).unlink()
    assert bytes_in(tmp_path) == before


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_overwriting(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    source: Path = request.getfixturevalue(kind)
    out = tmp_path / "out"
    prune(source, out, sparsity=0.1)
    first = bytes_in(out)
    prune(source, out, overwrite=True)
    assert bytes_in(out) == expected(source) != first
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([source.name, "out"])
    if kind == "folder":
        (out / "notes").mkdir()
        (out / "notes" / "mine.txt").write_text("precious")
        with pytest.raises(bs.ArgumentError, match=r"mine\.txt' is not a part of the new checkpoint"):
            prune(source, out, overwrite=True)
        assert (out / "notes" / "mine.txt").exists()


def test_a_folder_as_hubs_lay_it_out(folder: Path, tmp_path: Path) -> None:
    """A snapshot of links to blobs, with files that do not belong to the copy."""
    snapshot, blobs = tmp_path / "snapshot", tmp_path / "blobs"
    snapshot.mkdir()
    blobs.mkdir()
    for at, path in enumerate(sorted(folder.iterdir())):
        path.rename(blobs / str(at))
        (snapshot / path.name).symlink_to(Path("..") / "blobs" / str(at))
    (snapshot / "1_Pooling").mkdir()
    (snapshot / "1_Pooling" / "config.json").write_text("{}")
    (snapshot / "1_Pooling" / "part.bin").write_bytes(b"1")
    (snapshot / ".cache").mkdir()
    (snapshot / ".cache" / "lock").write_bytes(b"")
    (snapshot / "pytorch_model.bin").write_bytes(b"dense")
    (snapshot / "consolidated.safetensors").write_bytes(b"dense")
    (snapshot / "gone").symlink_to("nowhere")
    before = bytes_in(blobs)
    report = prune(snapshot, tmp_path / "out", verify=True)
    left_out = {".cache/", "1_Pooling/part.bin", "consolidated.safetensors", "gone", "pytorch_model.bin"}
    assert set(report.left_out) == left_out
    assert "not in the copy: .cache/" in str(report)
    found = bytes_in(tmp_path / "out")
    assert found["1_Pooling/config.json"] == b"{}"
    assert not any((tmp_path / "out" / name).is_symlink() for name in found)
    (snapshot / "consolidated.safetensors").unlink()
    assert {name: found[name] for name in expected(snapshot) if name in found} == found
    assert bytes_in(blobs) == before


def test_the_source_is_only_read(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in folder.iterdir():
        path.chmod(0o444)
    folder.chmod(0o555)
    before = {path: path.stat() for path in folder.iterdir()}
    opened: list[tuple[str, int]] = []
    honest = os.open

    def watched(path: Any, flags: int, *rest: Any, **named: Any) -> int:
        opened.append((os.fspath(path), flags))
        return honest(path, flags, *rest, **named)

    monkeypatch.setattr(os, "open", watched)
    prune(folder, tmp_path / "out", verify=True)
    folder.chmod(0o755)
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
    assert any(str(folder) in path for path, _ in opened)
    assert not [path for path, flags in opened if path.startswith(f"{folder}/") and flags & writing]
    for path, stat in before.items():
        assert (path.stat().st_mtime_ns, path.stat().st_size) == (stat.st_mtime_ns, stat.st_size)


@pytest.mark.parametrize("kind", ["file", "folder"])
@pytest.mark.parametrize("call", ["pwrite", "copy_file_range", "fsync", "rename", "preadv"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_full_or_broken_disk(
    code: int,
    call: str,
    kind: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The n-th call fails, for every n that happens."""
    source: Path = request.getfixturevalue(kind)
    honest: Callable[..., Any] = getattr(os, call)
    before = bytes_in(source)
    out = tmp_path / "out"
    prune(source, out, sparsity=0.25)
    old = bytes_in(out)
    for wanted in range(100):
        counted = iter(range(10**6))

        def failing(*given: Any, counted: Any = counted, wanted: int = wanted, **named: Any) -> Any:
            if next(counted) == wanted:
                raise OSError(code, os.strerror(code))
            return honest(*given, **named)

        monkeypatch.setattr(os, call, failing)
        try:
            prune(source, out, overwrite=True)
            monkeypatch.undo()
            break
        except bs.CheckpointError as error:
            assert os.strerror(code) in str(error)
        finally:
            monkeypatch.undo()
        assert bytes_in(out) == old
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted([source.name, "out"])
    assert wanted >= 1
    assert bytes_in(out) == expected(source)
    assert bytes_in(source) == before


def test_no_room(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = sum(map(len, bytes_in(folder).values()))
    (tmp_path / "out.partial-1").write_bytes(b"left")

    def usage(path: Any) -> Any:
        return type("Usage", (), {"free": size - 1})

    monkeypatch.setattr(pruning.shutil, "disk_usage", usage)
    with pytest.raises(
        bs.CheckpointError, match=f"has {size - 1:,} bytes free, .* needs {size:,}.*partial-1"
    ):
        prune(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_without_calls_that_some_file_systems_lack(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacking(*given: Any) -> int:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "copy_file_range", lacking)
    prune(file, tmp_path / "out")
    assert bytes_in(tmp_path / "out") == expected(file)


def test_reads_and_writes_that_are_cut_short(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads, writes, copies = os.preadv, os.pwrite, os.copy_file_range
    monkeypatch.setattr(os, "preadv", lambda fd, parts, at: reads(fd, [parts[0][:100]], at))
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: writes(fd, data[:77], at))
    monkeypatch.setattr(os, "copy_file_range", lambda a, b, n, i, j: copies(a, b, min(n, 13), i, j))
    prune(file, tmp_path / "out", verify=True)
    assert bytes_in(tmp_path / "out") == expected(file)


def test_names_of_partials_that_are_taken(file: Path, tmp_path: Path) -> None:
    """Containers number their processes alike."""
    taken = tmp_path / f"out.partial-{os.getpid()}"
    taken.write_bytes(b"of another container")
    prune(file, tmp_path / "out")
    assert bytes_in(tmp_path / "out") == expected(file)
    assert taken.read_bytes() == b"of another container"
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("when", ["reading", "writing"])
def test_a_source_that_changes(
    when: str, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def then_change(honest: Callable[..., Any]) -> Callable[..., Any]:
        def changed(*given: Any) -> Any:
            found = honest(*given)
            raw = bytearray(file.read_bytes())
            raw[-500:] = b"1" * 500
            file.write_bytes(raw)
            return found

        return changed

    if when == "reading":
        monkeypatch.setattr(pruning, "strategy_for", then_change(pruning.strategy_for))
    else:
        monkeypatch.setattr(moving, "write", then_change(moving.write))
    with pytest.raises(bs.CheckpointError, match="changed while it was read"):
        prune(file, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


@pytest.mark.parametrize("damage", ["header", "copied", "zero", "kept", "last", "short", "long", "beside"])
def test_verify_finds_damage(
    damage: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = moving.verify

    def damaged(checkpoint: Any, chosen: Any, strategy: Any, partial: Any, moved: Any) -> None:
        path = partial.path / checkpoint.files[1].path.name
        raw = bytearray(path.read_bytes())
        tensors = {tensor.name: tensor for tensor in checkpoint.files[1].tensors}
        weight = tensors["layers.1.a.weight"]
        whole = np.frombuffer(raw, np.uint16, 1600, weight.begin)
        places = {
            "header": 12,
            "copied": tensors["layers.1.bias"].begin + 500,
            "zero": weight.begin + 2 * int(np.flatnonzero(whole == 0)[-1]),
            "kept": weight.begin + 2 * int(np.flatnonzero(whole)[0]),
            "last": len(raw) - 1,
            "beside": 77,
        }
        del whole
        if damage == "beside":
            path = partial.path / "tokenizer.json"
            raw = bytearray(path.read_bytes())
        if damage in places:
            raw[places[damage]] ^= 1
        elif damage == "short":
            del raw[-5:]
        else:
            raw += b"more"
        path.write_bytes(raw)
        honest(checkpoint, chosen, strategy, partial, moved)

    monkeypatch.setattr(moving, "verify", damaged)
    message = "of tensor 'layers.1.[ab].weight'" if damage in ("zero", "kept", "last") else "byte"
    with pytest.raises(bs.CheckpointError, match=f"verify: .*{message}"):
        prune(folder, tmp_path / "out", verify=True)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    prune(folder, tmp_path / "unseen")
    assert bytes_in(tmp_path / "unseen") == expected(folder)


def start(source: Path, out: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "bittersweet", "prune-checkpoint", str(source), str(out)]
    return subprocess.Popen(
        [*command, "--sparsity", "0.5", *more], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_killed_at_any_moment(kind: str, tmp_path: Path) -> None:
    """Afterwards there is the source, and no copy or a whole one. BITTERSWEET_KILLS=50 kills a hundred."""
    parts = shards(1200)
    source = tmp_path / "in"
    if kind == "file":
        write_file(source, {name: held for part in parts.values() for name, held in part.items()}, 3)
    else:
        write_folder(source, parts, 3)
    before, wanted = bytes_in(source), expected(source)
    out = tmp_path / "out"
    lasts = prune(source, out).seconds
    assert bytes_in(out) == wanted
    left: list[int] = []
    for seed in range(KILLS):
        choice = random.Random(f"{kind} {seed}")
        fresh = seed % 2 == 0
        if fresh:
            _remove(out)
        was_there = out.exists()
        process = start(source, out, *([] if fresh else ["--overwrite"]))
        if choice.random() < 0.8:  # most of a short run is the start of Python
            while not list(tmp_path.glob("out.partial-*")) and process.poll() is None:
                time.sleep(0.0005)
        time.sleep(choice.uniform(0, 1) * lasts)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert bytes_in(source) == before
        assert not out.exists() or bytes_in(out) == wanted
        others = [path for path in tmp_path.iterdir() if path not in (source, out)]
        assert all(path.name.startswith("out.partial-") for path in others)
        assert not was_there or out.exists() or len(others) == 2
        left.append(len(others))
        for path in others:
            _remove(path)
    prune(source, out, overwrite=True)
    assert bytes_in(out) == wanted
    print(f"killed {KILLS} times; a partial was left {sum(map(bool, left))} times")
    assert KILLS < 10 or any(left)


def _remove(path: Path) -> None:
    if path.is_dir():
        for file in path.rglob("*"):
            file.unlink()
        path.rmdir()
    else:
        path.unlink(missing_ok=True)


@pytest.mark.parametrize("call", ["pwrite", "fsync"])
def test_interrupted(call: str, folder: Path, tmp_path: Path) -> None:
    """By a signal, while the process waits within a call."""
    waiting = tmp_path / "waiting"
    code = (
        "import os, runpy, signal, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # jobs in the background ignore it
        f"def wait(*_): open({str(waiting)!r}, 'w').close(); time.sleep(600)\n"
        f"os.{call} = wait\n"
        "runpy.run_module('bittersweet', run_name='__main__')"
    )
    command = [sys.executable, "-c", code, "prune-checkpoint", str(folder), str(tmp_path / "out")]
    process = subprocess.Popen([*command, "--sparsity", "0.5"], stderr=subprocess.PIPE, text=True)
    while not waiting.exists() and process.poll() is None:
        time.sleep(0.01)
    waiting.unlink()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "bittersweet: interrupted; no part of a copy is left\n")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_interrupted_anywhere(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C at every call that matters, without the chance of a signal."""
    for call in ("pwrite", "copy_file_range", "fsync", "open"):
        honest: Callable[..., Any] = getattr(os, call)
        for wanted in (0, 1, 5, 11):
            counted = iter(range(10**6))

            def pressed(
                *given: Any, at: Any = counted, wanted: int = wanted, honest: Any = honest, **named: Any
            ) -> Any:
                if next(at) == wanted:
                    raise KeyboardInterrupt
                return honest(*given, **named)

            monkeypatch.setattr(os, call, pressed)
            try:
                prune(folder, tmp_path / "out")
                finished = True
            except KeyboardInterrupt:
                finished = False
            monkeypatch.undo()
            if finished:
                assert wanted > 4
                _remove(tmp_path / "out")
            assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_json_of_a_copy(folder: Path, tmp_path: Path) -> None:
    process = start(folder, tmp_path / "out", "--json", "--verify")
    text, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (0, "")
    held = json.loads(text)
    assert held["verified"] is True
    assert held["pruned"] == held["k"]
    assert held["per_tensor"]["layers.0.bias"]["reason"] == "fewer than two axes"
