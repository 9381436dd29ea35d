"""What is done to files and arrays."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

POWERS = [2**power for power in (0, 1, 3, 5, 16, 31, 32, 59, 62, 63, 64)]
EDGES = [-1, 0, 7, 31, *POWERS, *(power - 1 for power in POWERS[5:])]
DTYPES: list[Any] = [
    *("BOOL", "U8", "I8", "I16", "U16", "F16", "BF16", "I32", "U32", "F32", "I64", "U64", "F64", "C64", "F4"),
    *("F6_E2M3", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F3", "", "f32", None, 3),
]
PARTS = ["shape", "compressed", "bitmask", "row_offsets"]
JUNK: list[Any] = [None, True, 1.0, 1e400, "0", [], {}, [[1]], "\ud800", "\u0000", 10**400]


class File:
    """A file in parts. `names` may come twice."""

    def __init__(self, data: bytes) -> None:
        end = 8 + int.from_bytes(data[:8], "little")
        held = json.loads(data[8:end])
        self.metadata: Any = held.pop("__metadata__")
        self.entries: list[tuple[Any, Any]] = list(held.items())
        self.data = bytearray(data[end:])

    def encode(self) -> bytes:
        pairs = [("__metadata__", self.metadata), *self.entries]
        text = ",".join(f"{json.dumps(str(name))}:{json.dumps(value)}" for name, value in pairs)
        head = f"{{{text}}}".encode()
        return len(head).to_bytes(8, "little") + head + self.data


def damaged_file(good: bytes, draw: random.Random) -> bytes:
    """A valid file with up to three changes, now and then with none."""
    file = File(good)
    for _ in range(draw.randrange(4)):
        draw.choice(
            (_shape, _dtype, _offsets, _name, _entry, _metadata, _number, _number, _bits, _swap, _wide)
        )(file, draw)
    data = file.encode()
    if draw.random() < 0.3:
        data = draw.choice((_flip, _cut, _grow, _length, _text))(data, draw)
    return data


def _any(file: File, draw: random.Random, part: str = "") -> Any:
    found = [entry for name, entry in file.entries if name.endswith(part) and isinstance(entry, dict)]
    return draw.choice(found) if found else {"shape": [], "data_offsets": [0, 0]}


def _number_like(value: int, draw: random.Random) -> Any:
    near = [value + 1, value - 1, 2 * value, -value]
    return draw.choice([*near, draw.choice(EDGES), draw.choice(EDGES), draw.choice(JUNK)])


def _shape(file: File, draw: random.Random) -> None:
    shape = _any(file, draw).get("shape")
    if isinstance(shape, list) and shape and draw.random() < 0.8:
        place = draw.randrange(len(shape))
        shape[place] = _number_like(shape[place] if type(shape[place]) is int else 0, draw)
    elif isinstance(shape, list):
        shape.append(draw.choice([0, 1, 2, *JUNK]))


def _dtype(file: File, draw: random.Random) -> None:
    _any(file, draw)["dtype"] = draw.choice(DTYPES)


def _offsets(file: File, draw: random.Random) -> None:
    one, other = _any(file, draw), _any(file, draw)
    offsets = one.get("data_offsets")
    if draw.random() < 0.3:
        one["data_offsets"], other["data_offsets"] = other.get("data_offsets"), offsets
    elif isinstance(offsets, list) and offsets and draw.random() < 0.8:
        place = draw.randrange(len(offsets))
        offsets[place] = _number_like(offsets[place] if type(offsets[place]) is int else 0, draw)
    elif isinstance(offsets, list):
        offsets.reverse()


def _name(file: File, draw: random.Random) -> None:
    """Twice, dropped, or another's."""
    place = draw.randrange(len(file.entries))
    name, entry = file.entries[place]
    kind = draw.randrange(4)
    if kind == 0:
        file.entries.insert(draw.randrange(len(file.entries)), (name, json.loads(json.dumps(entry))))
    elif kind == 1 and len(file.entries) > 1:
        del file.entries[place]
    elif kind == 2:
        file.entries[place] = (draw.choice(file.entries)[0], entry)
    else:
        file.entries[place] = (
            draw.choice([str(name).rpartition(".")[0], f"{name}x", "", "\ud800", "a\u0000"]),
            entry,
        )


def _entry(file: File, draw: random.Random) -> None:
    place = draw.randrange(len(file.entries))
    name, entry = file.entries[place]
    if isinstance(entry, dict) and entry and draw.random() < 0.7:
        key = draw.choice(list(entry))
        if draw.random() < 0.5:
            del entry[key]
        else:
            entry[key] = draw.choice(JUNK)
    else:
        file.entries[place] = (name, draw.choice(JUNK))


def _metadata(file: File, draw: random.Random) -> None:
    names = [str(name) for name, _ in file.entries] + ["new", "3.weight", "w0", "w1"]
    one, other = draw.choice(names), draw.choice(names)
    tied = [
        *(json.dumps({one: other}), json.dumps({one: other, "n2": one}), f'{{"{one}":"b","{one}":"b"}}'),
        *("null", "{", '{"a":1}', '{"\\ud800":"b"}', '{"\\ud800":"3.weight"}', '{"z":"b"}'),
        *("[" * 9999, "1" * 5000),
    ]
    if not isinstance(metadata := file.metadata, dict) or draw.random() < 0.1:
        file.metadata = draw.choice([*JUNK, {}])
    elif draw.random() < 0.8:
        metadata["bittersweet.tied"] = draw.choice(tied)
    else:
        metadata["bittersweet.sparse"] = draw.choice(["row-bitmask/2", "", "row-bitmask/1 ", 1, None])


def _span(entry: Any, file: File) -> tuple[int, int] | None:
    offsets = entry.get("data_offsets")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(type(count) is int for count in offsets):
        return None
    begin, end = offsets
    return (begin, end) if 0 <= begin < end <= len(file.data) else None


def _number(file: File, draw: random.Random) -> None:
    """In a matrix's lengths or the places of its rows."""
    if span := _span(_any(file, draw, draw.choice((".shape", ".row_offsets"))), file):
        at = draw.randrange(span[0], max(span[0] + 1, span[1] - 7), 8)
        value = int.from_bytes(file.data[at : at + 8], "little", signed=True)
        wanted = draw.choice([value + 1, value - 1, 2 * value, -value, *EDGES]) % 2**64
        file.data[at : at + 8] = wanted.to_bytes(8, "little")


def _bits(file: File, draw: random.Random) -> None:
    if span := _span(_any(file, draw, draw.choice(("", ".bitmask", ".compressed"))), file):
        for _ in range(draw.choice((1, 1, 2, 8))):
            file.data[draw.randrange(*span)] ^= draw.choice((1, 16, 128, 255))


def _swap(file: File, draw: random.Random) -> None:
    """A part of one matrix for that of another."""
    part = f".{draw.choice(PARTS)}"
    places = [place for place, (name, _) in enumerate(file.entries) if str(name).endswith(part)]
    if len(places) > 1:
        one, other = draw.sample(places, 2)
        (first, a), (second, b) = file.entries[one], file.entries[other]
        file.entries[one], file.entries[other] = (first, b), (second, a)


def _wide(file: File, draw: random.Random) -> None:
    """A matrix without rows or columns that is long all the same, its parts agreeing."""
    at = len(file.data)
    long = draw.choice([2**20, 2**31, 2**31 + 1, 2**40, 2**62, 2**63 - 1])
    rows, columns = draw.choice([(0, long), (long, 0)])
    file.data += b"".join(value.to_bytes(8, "little") for value in (rows, columns))
    for part, dtype, shape in (
        ("shape", "I64", [2]),
        ("compressed", "BF16", [0]),
        ("bitmask", "U8", [rows, -(-columns // 8)]),
        ("row_offsets", "I64", [rows]),
    ):
        entry = {"dtype": dtype, "shape": shape, "data_offsets": [at + 16 * (part != "shape"), at + 16]}
        file.entries.append((f"long.{part}", entry))


def _flip(data: bytes, draw: random.Random) -> bytes:
    bad = bytearray(data)
    header = int.from_bytes(data[:8], "little") + 8
    for _ in range(draw.choice((1, 1, 2, 8))):
        bad[draw.randrange(draw.choice((8, header, len(bad))))] ^= 1 << draw.randrange(8)
    return bytes(bad)


def _cut(data: bytes, draw: random.Random) -> bytes:
    return data[: draw.choice((draw.randrange(len(data)), draw.randrange(20), len(data) - 1))]


def _grow(data: bytes, draw: random.Random) -> bytes:
    return data + bytes(draw.choice((1, 8, 4096)))


def _length(data: bytes, draw: random.Random) -> bytes:
    length = int.from_bytes(data[:8], "little")
    wanted = draw.choice([length + 1, length - 1, len(data), len(data) - 8, 100_000_001, *EDGES]) % 2**64
    return wanted.to_bytes(8, "little") + data[8:]


def _text(data: bytes, draw: random.Random) -> bytes:
    """Another header altogether, or one with something before, in or behind it."""
    end = 8 + int.from_bytes(data[:8], "little")
    text = data[8:end]
    changed = [
        *(b"\xef\xbb\xbf" + text, b" " + text, text + b"  ", text + b"}"),
        *(b"", b"{}", b"null", b"[" * 20_000, b'{"a":' * 5000),
        text.replace(b'"F32"', b'"F32\xff"', 1),
        text.replace(b":[", b":[NaN,", 1),
        text.replace(b"{", b'{"__metadata__":{},', 1),
    ]
    text = draw.choice(changed)
    return len(text).to_bytes(8, "little") + text + data[end:]


def damaged_arrays(state: dict[str, Any], draw: random.Random) -> dict[str, Any]:
    """The state of a packed layer with up to three changes of its arrays."""
    for _ in range(draw.randrange(4)):
        if names := [name for name in state if hasattr(state[name], "numel")]:
            name = draw.choice(names)
            changes: list[Callable[..., Any]] = [_element, _element, _element, _resize, _form, _gone]
            draw.choice(changes)(state, name, draw)
    return state


def _element(state: dict[str, Any], name: str, draw: random.Random) -> None:
    array = state[name]
    if array.numel() and array.dim() == 1 and array.device.type == "cpu" and not array.is_floating_point():
        bits = 8 * array.element_size()
        value = int(array[place := draw.randrange(len(array))])
        near = [value ^ 1 << draw.randrange(bits), value + 1, value - 1, 0, *EDGES]
        wanted = draw.choice(near) % 2**bits
        array[place] = wanted - 2**bits if wanted >= 2 ** (bits - 1) and array.is_signed() else wanted
    elif array.numel() and array.dim() == 1 and array.device.type == "cpu":
        array[draw.randrange(len(array))] = draw.choice((0.0, -0.0, 1.0, float("nan"), float("inf")))


def _resize(state: dict[str, Any], name: str, draw: random.Random) -> None:
    array = state[name].reshape(-1)
    count = draw.choice(
        [0, 1, len(array) - 1, len(array) + 1, 2 * len(array), draw.randrange(len(array) + 1)]
    )
    longer = array.new_zeros(max(0, count))
    longer[: len(array)] = array[: len(longer)]
    state[name] = longer


def _form(state: dict[str, Any], name: str, draw: random.Random) -> None:
    array = state[name]
    kind = draw.randrange(5)
    if kind == 0:
        state[name] = array.to("meta")
    elif kind == 1:
        state[name] = array.reshape(1, -1)
    elif kind == 2:
        state[name] = array.reshape(-1).repeat_interleave(2)[::2]
    elif kind == 3 and array.device.type == "cpu":
        state[name] = array.double() if array.is_floating_point() else array.short()
    else:
        other = draw.choice(list(state))
        state[name], state[other] = state[other], state[name]


def _gone(state: dict[str, Any], name: str, draw: random.Random) -> None:
    del state[name]
