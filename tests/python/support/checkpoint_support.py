"""Safetensors files written by hand, at any alignment, and what pruning should make of them.

The oracle loads all tensors, makes masks by `make_masks`, and zeroes their bytes in a copy of the file's.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import bittersweet as bs
import numpy as np
import torch

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_OTHER = {"F64": 8, "I64": 8, "I32": 4, "U8": 1, "BOOL": 1, "F8_E4M3": 1}

Stored = tuple[str, tuple[int, ...], bytes]


def stored(values: Any, dtype: str = "F32") -> Stored:
    """A tensor as its file holds it."""
    tensor = torch.as_tensor(np.asarray(values, np.float32)).to(DTYPES[dtype])
    data = tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
    return dtype, tuple(tensor.shape), data


def other(dtype: str, *shape: int) -> Stored:
    """A tensor of another type, of bytes that count up."""
    return dtype, shape, (np.arange(math.prod(shape) * _OTHER[dtype]) % 251).astype(np.uint8).tobytes()


def header_of(tensors: Mapping[str, Stored]) -> dict[str, Any]:
    entries: dict[str, Any] = {}
    end = 0
    for name, (dtype, shape, data) in tensors.items():
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [end, end + len(data)]}
        end += len(data)
    return entries


def write_file(
    path: Path, tensors: Mapping[str, Stored], align: int = 0, metadata: Mapping[str, str] | None = None
) -> Path:
    """A file whose data begins `align` bytes behind a multiple of 8, padded with spaces as others do."""
    held: dict[str, Any] = {} if metadata is None else {"__metadata__": dict(metadata)}
    text = json.dumps(held | header_of(tensors)).encode()
    text += b" " * ((align - len(text)) % 8)
    data = b"".join(data for _, _, data in tensors.values())
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def write_folder(folder: Path, shards: Mapping[str, Mapping[str, Stored]], align: int = 0) -> Path:
    """Shards with their index, a configuration and a tokenizer."""
    folder.mkdir()
    names = {}
    for file, tensors in shards.items():
        write_file(folder / file, tensors, align)
        names |= dict.fromkeys(tensors, file)
    index = {"metadata": {"total_size": 1}, "weight_map": names}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": 50257}))
    (folder / "tokenizer.json").write_bytes(bytes(range(256)))
    return folder


def load(path: Path) -> dict[str, torch.Tensor]:
    """The float tensors of one file, in the order of their data."""
    raw = path.read_bytes()
    data = 8 + int.from_bytes(raw[:8], "little")
    entries = json.loads(raw[8:data])
    entries.pop("__metadata__", None)
    found = {}
    for name, entry in sorted(entries.items(), key=lambda item: item[1]["data_offsets"]):
        begin, end = (data + at for at in entry["data_offsets"])
        if entry["dtype"] in DTYPES:
            flat = torch.frombuffer(bytearray(raw[begin:end] or b"0000"), dtype=DTYPES[entry["dtype"]])
            found[name] = flat[: math.prod(entry["shape"])].reshape(entry["shape"])
    return found


def expected_files(
    paths: Sequence[Path],
    chosen: Callable[[str], bool] = lambda name: True,
    inputs: Callable[[str, torch.Tensor], Mapping[str, Any]] = lambda name, tensor: {},
    **options: Any,
) -> tuple[list[bytes], bs.MaskEvent]:
    """The files as they should become, and the event of the masks that `make_masks` makes of them loaded."""
    tensors = {
        (path, name): tensor
        for path in paths
        for name, tensor in load(path).items()
        if tensor.dim() > 1 and tensor.numel() and chosen(name)
    }
    items = [
        bs.ScoreInputs(tensor, name=name, **inputs(name, tensor)) for (_, name), tensor in tensors.items()
    ]
    masks = bs.make_masks(items, **{"scorer": "magnitude", **options})
    files = []
    for path in paths:
        raw = bytearray(path.read_bytes())
        data = 8 + int.from_bytes(raw[:8], "little")
        entries = json.loads(raw[8:data])
        for (where, name), mask in zip(tensors, masks, strict=True):
            if where == path:
                begin, end = (data + at for at in entries[name]["data_offsets"])
                view = np.frombuffer(raw, np.uint8)[begin:end].reshape(mask.numel, -1)
                view[~np.asarray(mask.bool().reshape(-1))] = 0
        files.append(bytes(raw))
    assert masks.event is not None
    return files, masks.event


def values(kind: str, count: int, seed: int = 0) -> Any:
    """Named nasty weights; nothing here is NaN."""
    random = np.random.default_rng(seed)
    normal = (random.standard_normal(count) * 0.02).astype(np.float32)
    match kind:
        case "normal":
            return normal
        case "zeros":
            return np.where(random.random(count) < 0.7, 0, normal).astype(np.float32)
        case "signed zeros":
            return random.choice(np.array([0.0, -0.0, 1e-45, -1e-45, 1.0], np.float32), count)
        case "denormals":
            return random.integers(0, 1 << 23, count).astype(np.uint32).view(np.float32)
        case "all equal":
            return np.full(count, 0.125, np.float32)
        case "three values":
            return random.choice(np.array([0.25, -0.5, 0.75], np.float32), count)
        case "infinite":
            return np.where(random.random(count) < 0.3, np.inf, normal).astype(np.float32)
        case "wide":
            return (np.exp(random.standard_normal(count) * 8) * np.sign(normal)).astype(np.float32)
    raise ValueError(kind)


KINDS = ("normal", "zeros", "signed zeros", "denormals", "all equal", "three values", "infinite", "wide")
