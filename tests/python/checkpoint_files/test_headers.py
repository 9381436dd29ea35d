"""Headers that break a rule of the format: one clear error each, and nothing is written or read beyond."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import bittersweet as bs
import pytest
from bittersweet.checkpoint_files.headers import LONGEST, read_header
from checkpoint_support import header_of, stored, values, write_file, write_folder

TENSORS = {
    "a.weight": stored(values("normal", 48).reshape(6, 8), "BF16"),
    "b.weight": stored(values("normal", 32).reshape(8, 4), "F32"),
    "c.bias": stored(values("normal", 5), "F16"),
}
DATA = b"".join(data for _, _, data in TENSORS.values())


def with_header(path: Path, text: bytes, data: bytes = DATA, length: int | None = None) -> Path:
    count = len(text) if length is None else length
    path.write_bytes(count.to_bytes(8, "little") + text + data)
    return path


def changed(name: str = "b.weight", **entries: Any) -> bytes:
    held = header_of(TENSORS)
    held[name] = {key: value for key, value in (held[name] | entries).items() if value is not None}
    return json.dumps(held).encode()


def entry(dtype: str = "F32", shape: Any = (1,), offsets: Any = (0, 4)) -> str:
    return json.dumps({"dtype": dtype, "shape": shape, "data_offsets": offsets})


SOUND = json.dumps(header_of(TENSORS)).encode()
BROKEN: dict[str, tuple[bytes, str]] = {
    "no object": (b"{ ", "JSON cannot be read"),
    "a list": (b"[1, 2]", "neither|begins with|not a sound"),
    "cut off": (SOUND[:-20], "JSON cannot be read"),
    "rubbish behind": (SOUND + b"x", "JSON cannot be read"),
    "not utf-8": (SOUND.replace(b"a.weight", b"\xff.weight"), "not UTF-8"),
    "half a surrogate": (SOUND.replace(b"a.weight", b"\xed\xa0\x80eight"), "not UTF-8"),
    "deep lists": (b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}", "nested too deeply"),
    "deep objects": (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nested too deeply"),
    "a name twice": (b"{" + f'"a": {entry()}, "a": {entry()}'.encode() + b"}", "name 'a' twice"),
    "a key twice": (SOUND.replace(b'"shape"', b'"dtype"', 1), "name 'dtype' twice"),
    "no number": (changed(shape=[float("nan"), 4]), "its shape is"),
    "endless": (changed(shape=[float("inf"), 4]), "its shape is"),
    "an entry is a number": (b'{"a": 5}', "three entries"),
    "an entry is null": (b'{"a": null}', "three entries"),
    "an entry is text": (b'{"a": "dtype shape data_offsets"}', "three entries"),
    "no dtype": (changed(dtype=None), "three entries"),
    "no shape": (changed(shape=None), "three entries"),
    "no offsets": (changed(data_offsets=None), "three entries"),
    "dtype is no name": (changed(dtype="F32 "), "its dtype is 'F32 '"),
    "dtype is a number": (changed(dtype=5), "its dtype is 5"),
    "shape is a number": (changed(shape=32), "its shape is 32"),
    "shape is text": (changed(shape="8,4"), "its shape is '8,4'"),
    "a size below zero": (changed(shape=[-8, -4]), r"its shape is \[-8, -4\]"),
    "a size that is a fraction": (changed(shape=[8.0, 4]), r"its shape is \[8.0, 4\]"),
    "a size that is true": (changed(shape=[True, 32]), r"its shape is \[True, 32\]"),
    "a size that is text": (changed(shape=["8", 4]), "its shape is"),
    "a huge count": (changed(shape=[2**62, 2**62]), "does not fill its 128 bytes"),
    "a count that wraps to the right one": (changed(shape=[2**59 + 8, 4]), "does not fill"),
    "a count of thousands of digits": (
        SOUND.replace(b"[8, 4]", b"[" + b"9" * 4000 + b", 4]"),
        "does not fill|JSON cannot be read",
    ),
    "a count of more digits than Python reads": (
        SOUND.replace(b"[8, 4]", b"[" + b"9" * 6000 + b", 4]"),
        "JSON cannot be read",
    ),
    "many axes": (changed(shape=[2] * 5 + [1] * 100_000 + [3]), "does not fill"),
    "too few elements": (changed(shape=[8, 3]), "does not fill its 128 bytes"),
    "a wider type": (changed(dtype="F64"), "does not fill its 128 bytes"),
    "offsets are one": (changed(data_offsets=[96]), "a begin and an end"),
    "offsets are three": (changed(data_offsets=[96, 224, 300]), "a begin and an end"),
    "offsets are an object": (changed(data_offsets={"0": 96, "1": 224}), "a begin and an end"),
    "offsets below zero": (changed(data_offsets=[-32, 96]), "a begin and an end"),
    "offsets turned round": (changed(data_offsets=[224, 96]), "a begin and an end"),
    "offsets beyond the end": (changed(data_offsets=[1 << 40, (1 << 40) + 128]), "of 234 bytes of data"),
    "offsets that wrap": (changed(data_offsets=[2**64 - 64, 2**64 + 64]), "of 234 bytes of data"),
    "overlapping": (changed(data_offsets=[95, 223]), "'a.weight' and 'b.weight' overlap"),
    "within another": (changed("c.bias", data_offsets=[100, 110]), "'b.weight' and 'c.bias' overlap"),
    "the same bytes": (changed("a.weight", data_offsets=[96, 192]), "belong to no tensor|overlap"),
    "a hole": (
        SOUND.replace(b"[224, 234]", b"[226, 234]").replace(b'"shape": [5]', b'"shape": [4]'),
        "2 bytes before tensor 'c.bias' belong to no tensor",
    ),
    "less than the file": (
        json.dumps({key: value for key, value in header_of(TENSORS).items() if key != "c.bias"}).encode(),
        "10 bytes at its end belong to no tensor",
    ),
    "no tensors but data": (b"{}", "234 bytes at its end"),
    "metadata is a list": (b'{"__metadata__": [], ' + SOUND[1:], "no object of strings"),
    "metadata holds a number": (b'{"__metadata__": {"a": 1}, ' + SOUND[1:], "no object of strings"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_header(name: str, tmp_path: Path) -> None:
    text, message = BROKEN[name]
    source = with_header(tmp_path / "a.safetensors", text)
    with pytest.raises(bs.CheckpointError, match=message) as raised:
        bs.prune_checkpoint(source, tmp_path / "out", sparsity=0.5)
    assert str(source) in str(raised.value)
    assert len(str(raised.value)) < 500
    assert sorted(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize(
    ("whole", "message"),
    [
        (b"", "it has 0 bytes"),
        (b"\x10\0\0\0", "it has 4 bytes"),
        (b"\x10\0\0\0\0\0\0\0", "announce a header of 16 bytes in a file of 8"),
        ((1 << 63).to_bytes(8, "little") + b"{}", "announce a header"),
        ((2**64 - 1).to_bytes(8, "little") + b"{}", "announce a header of 18,446,744,073,709,551,615"),
        ((0).to_bytes(8, "little") + b"{}", "begins with b''"),
        ((2).to_bytes(8, "big") + b"{}", "announce a header"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS .*git lfs pull"),
        (b"<!DOCTYPE html><html>404</html>", "announce a header"),
    ],
)
def test_a_broken_length(whole: bytes, message: str, tmp_path: Path) -> None:
    source = tmp_path / "a.safetensors"
    source.write_bytes(whole)
    with pytest.raises(bs.CheckpointError, match=message):
        bs.prune_checkpoint(source, tmp_path / "out", sparsity=0.5)


def test_a_header_longer_than_readers_accept(tmp_path: Path) -> None:
    source = tmp_path / "a.safetensors"
    with source.open("wb") as opened:
        opened.write((LONGEST + 1).to_bytes(8, "little") + b"{")
        opened.truncate(LONGEST + 100)
    with pytest.raises(bs.CheckpointError, match="longer than the 100,000,000"):
        read_header(source)


def test_a_truncated_download(tmp_path: Path) -> None:
    whole = write_file(tmp_path / "whole", TENSORS).read_bytes()
    for length in (*range(40), len(whole) - 235, len(whole) - 234, len(whole) - 1):
        source = tmp_path / "a.safetensors"
        source.write_bytes(whole[:length])
        with pytest.raises(bs.CheckpointError):
            bs.prune_checkpoint(source, tmp_path / "out", sparsity=0.5)


def test_what_is_sound(tmp_path: Path) -> None:
    """Orders, empty tensors, new types and metadata that other writers use."""
    tensors: dict[str, Any] = {"": stored([1.0]), "z.weight": TENSORS["a.weight"], "0": stored([])}
    tensors |= {
        "scalar": ("F32", (), b"\0" * 4),
        "new": ("F2_E1M0", (7,), b"abc"),
        "f4": ("F4", (3, 2), b"abc"),
    }
    source = write_file(tmp_path / "a", tensors, 3, {"format": "pt", "": "ü"})
    header = read_header(source)
    assert [tensor.name for tensor in header.tensors] == list(tensors)
    report = bs.prune_checkpoint(source, tmp_path / "out", sparsity=0.5, verify=True)
    assert report.pruned == 24
    reordered = dict(sorted(header_of(TENSORS).items(), reverse=True))
    with_header(tmp_path / "b", json.dumps(reordered).encode())
    assert [tensor.name for tensor in read_header(tmp_path / "b").tensors] == list(TENSORS)


def mutated(choice: random.Random) -> bytes:
    """A sound file with a few faults: of bytes, of lengths, or of what its JSON says."""
    whole = len(SOUND).to_bytes(8, "little") + SOUND + DATA
    if choice.random() < 0.5:
        raw = bytearray(whole)
        for _ in range(choice.choice([1, 1, 2, 4])):
            at = choice.randrange(8 + len(SOUND) if choice.random() < 0.6 else len(raw))
            match choice.choice([0, 0, 1, 1, 2, 3]):
                case 0:
                    raw[at] = choice.randrange(256)
                case 1:
                    raw[at] ^= 1 << choice.randrange(8)
                case 2:
                    del raw[at : at + choice.randint(1, 30)]
                case 3:
                    raw[at:at] = raw[at : at + choice.randint(1, 30)]
        return bytes(raw)
    held: Any = header_of(TENSORS)
    odd: list[Any] = [0, 1, -1, 2**31, 2**63, 2**64, 1e300, None, True, "", "F32", "U8", [], {}, [0, 0], [[]]]
    for _ in range(choice.randint(1, 3)):
        one = choice.choice(list(held.values()))
        if not isinstance(one, dict) or not one:
            continue
        key = choice.choice(list(one))
        if isinstance(one[key], list) and one[key] and choice.random() < 0.7:
            one[key][choice.randrange(len(one[key]))] = choice.choice([*odd, *range(90, 240, 7)])
        else:
            one[key] = choice.choice(odd)
    text = json.dumps(held).encode()
    length = len(text) + choice.choice([0, 0, 0, 1, -1, 1 << choice.randrange(64)])
    return (length % 2**64).to_bytes(8, "little") + text + DATA


def test_seeded_mutations(tmp_path: Path) -> None:
    """An error of this package or a sound copy, never another exception; and what is accepted here, other
    readers accept too, but for new types of elements, and the reverse, but for names that come twice.
    """
    library = pytest.importorskip("safetensors")
    accepted = 0
    for seed in range(1000):
        choice = random.Random(seed)
        source = tmp_path / "a.safetensors"
        source.write_bytes(mutated(choice))
        try:
            read_header(source)
            sound = True
        except bs.CheckpointError as error:
            sound = False
            twice = "twice" in str(error)
        try:
            with library.safe_open(source, "np"):
                known = True
        except library.SafetensorError as error:
            known = sound and "unknown variant" in str(error)
        if sound:
            accepted += 1
            out = tmp_path / f"out{seed}"
            try:
                bs.prune_checkpoint(source, out, sparsity=0.5)
                assert out.stat().st_size == source.stat().st_size
                out.unlink()
            except bs.Error:
                pass
        assert sound == known or (known and twice), (seed, sound, known)
    assert 20 < accepted < 800


def index_of(folder: Path) -> Any:
    return json.loads((folder / "model.safetensors.index.json").read_text())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shards = {
        "model-1.safetensors": {"a.weight": TENSORS["a.weight"]},
        "model-2.safetensors": {"b.weight": TENSORS["b.weight"], "c.bias": TENSORS["c.bias"]},
    }
    return write_folder(tmp_path / "in", shards)


def refused(folder: Path, weight_map: Any, message: str, text: str | None = None) -> None:
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}) if text is None else text)
    with pytest.raises(bs.CheckpointError, match=message):
        bs.prune_checkpoint(folder, folder.parent / "out", sparsity=0.5)
    assert sorted(path.name for path in folder.parent.iterdir()) == ["in"]


def test_an_index_that_is_wrong(folder: Path) -> None:
    names: Mapping[str, str] = index_of(folder)["weight_map"]
    refused(folder, {**names, "d.weight": "model-1.safetensors"}, "'d.weight' .* no file holds it")
    turned = {**names, "a.weight": "model-2.safetensors", "c.bias": "model-1.safetensors"}
    refused(folder, turned, "and it is in 'model-1.safetensors'")
    refused(folder, {**names, "d": "model-3.safetensors"}, "'model-3.safetensors', which is not beside it")
    kept = {name: file for name, file in names.items() if name != "c.bias"}
    refused(folder, kept, "does not name the tensor 'c.bias'")
    for name in ("../secret", "/etc/passwd", "sub/a.safetensors", "..", "", "a\\b", "a\0b"):
        refused(folder, {**names, "d": name}, "names of files beside it")
    refused(folder, ["a"], "weight_map is no object")
    refused(folder, {"a.weight": 5}, "weight_map is no object")
    refused(folder, None, "weight_map is no object", "{}")
    refused(folder, None, "JSON cannot be read", "{")
    refused(folder, None, "an object is needed", "[]")
    refused(folder, None, "nested too deeply", "[" * 100_000)
    refused(folder, None, "name 'weight_map' twice", '{"weight_map": {}, "weight_map": {}}')


def test_a_tensor_in_two_files(folder: Path) -> None:
    write_file(folder / "model-2.safetensors", TENSORS)
    with pytest.raises(bs.CheckpointError, match=r"'a\.weight' is in 'model-1.* and in 'model-2"):
        bs.prune_checkpoint(folder, folder.parent / "out", sparsity=0.5)
    (folder / "model.safetensors.index.json").unlink()
    with pytest.raises(bs.CheckpointError, match="two forms of one model"):
        bs.prune_checkpoint(folder, folder.parent / "out", sparsity=0.5)
