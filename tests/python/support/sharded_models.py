"""Random models, cut up among simulated ranks in every way, for comparison with the model in one piece."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import bittersweet as bs
import ml_dtypes
import numpy as np

BF16 = np.dtype(ml_dtypes.bfloat16)
DTYPES = [np.dtype(np.float32), np.dtype(np.float16), BF16]

Box = tuple[slice, ...]
Array = np.ndarray[Any, Any]

KINDS = ("rows", "columns", "boxes", "interleaved", "copies", "copied rows", "one rank", "mixed")
"""How a tensor is spread: by its first axis as torch.chunk cuts, by its last, both, rows in an order of their
own, whole on all ranks, rows on pairs of ranks, whole on one rank, or each tensor otherwise."""

DATA = (
    "normal", "equal", "zeros", "mostly zeros", "narrow", "three values", "heavy", "denormals", "sorted",
    "infinite", "negative zeros",
)  # fmt: skip


@dataclass
class Model:
    """Whole tensors as `ScoreInputs`, and the box of each that each rank holds (None: no part at all)."""

    items: list[bs.ScoreInputs]
    boxes: list[list[Box | None]]  # by tensor, by rank

    def of(self, rank: int) -> list[bs.ScoreInputs]:
        """What a rank gives: copies of its parts, with shards."""
        found = []
        ordered = any(box is None for boxes in self.boxes for box in boxes)
        for place, (item, boxes) in enumerate(zip(self.items, self.boxes, strict=True)):
            box = boxes[rank]
            if box is None:
                continue
            shard = bs.Shard(item.weight.shape, tuple(one.start for one in box), place if ordered else None)
            part = replace(item, shard=shard)
            for name in ("weight", "exp_avg", "exp_avg_sq", "grad", "mask"):
                value = getattr(item, name)
                if value is not None:
                    setattr(part, name, value[box].copy())
            found.append(part)
        return found


def numbers(kind: str, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Weights of a kind."""
    size = math.prod(shape)
    x = rng.standard_normal(size)
    if kind == "equal":
        x = np.full(size, 0.25)
    elif kind == "zeros":
        x = np.zeros(size)
    elif kind == "mostly zeros":
        x = np.where(rng.random(size) < 0.7, 0.0, x)
    elif kind == "narrow":
        x = 1.0 + 1e-3 * rng.random(size)
    elif kind == "three values":
        x = rng.choice([-1.0, 0.5, 2.0], size)
    elif kind == "heavy":
        x = np.sign(x) * np.abs(x) ** 9
    elif kind == "denormals":
        x = x * 2.0**-130 if rng.random() < 0.5 else np.where(rng.random(size) < 0.5, x, x * 1e-44)
    elif kind == "sorted":
        x = np.sort(x)
    elif kind == "infinite":
        x = np.where(rng.random(size) < 0.3, np.inf, x)
    elif kind == "negative zeros":
        x = np.where(rng.random(size) < 0.5, -0.0, np.where(rng.random(size) < 0.5, 0.0, x))
    return x.astype(np.float32).reshape(shape)


def _chunks(length: int, ranks: int, cuts: str, rng: np.random.Generator) -> list[tuple[int, int]]:
    if cuts == "chunk":
        size = -(-length // ranks)
        return [(min(rank * size, length), min((rank + 1) * size, length)) for rank in range(ranks)]
    places = np.sort(rng.integers(0, length + 1, ranks - 1)).tolist()
    return list(zip([0, *places], [*places, length], strict=True))


def _boxes(shape: tuple[int, ...], kind: str, ranks: int, rng: np.random.Generator) -> list[Box | None]:
    whole = tuple(slice(0, size) for size in shape)
    if not shape or kind == "copies":
        return [whole] * ranks
    if kind == "one rank":
        chosen = int(rng.integers(ranks))
        return [whole if rank == chosen else None for rank in range(ranks)]
    cuts = rng.choice(["chunk", "anywhere"])
    if kind == "columns":
        parts = _chunks(shape[-1], ranks, cuts, rng)
        return [(*whole[:-1], slice(*part)) for part in parts]
    if kind == "boxes" and len(shape) > 1 and ranks % 2 == 0:
        rows, columns = _chunks(shape[0], ranks // 2, cuts, rng), _chunks(shape[-1], 2, cuts, rng)
        return [(slice(*rows[r // 2]), *whole[1:-1], slice(*columns[r % 2])) for r in range(ranks)]
    if kind == "copied rows":
        parts = _chunks(shape[0], -(-ranks // 2), cuts, rng)
        return [(slice(*parts[rank // 2]), *whole[1:]) for rank in range(ranks)]
    parts = _chunks(shape[0], ranks, cuts, rng)
    if kind == "interleaved":
        parts = [parts[place] for place in rng.permutation(ranks)]
    return [(slice(*part), *whole[1:]) for part in parts]


def pieces(shape: tuple[int, ...], ranks: int, rng: np.random.Generator) -> list[Box | None]:
    """Boxes that form no grid: pieces of pieces, each cut in two along any axis, some without elements."""
    found: list[Box] = [tuple(slice(0, size) for size in shape)]
    while len(found) < ranks:
        box, axis = found.pop(int(rng.integers(len(found)))), int(rng.integers(len(shape)))
        at = int(rng.integers(box[axis].start, box[axis].stop + 1))
        for half in (slice(box[axis].start, at), slice(at, box[axis].stop)):
            found.append((*box[:axis], half, *box[axis + 1 :]))
    return [found[place] for place in rng.permutation(ranks)]


def random_model(rng: np.random.Generator, ranks: int, reads: frozenset[str], **fixed: Any) -> Model:
    """Up to five tensors of up to three axes, sizes down to one element or none."""
    kind, data = (fixed.get(key) or rng.choice(every) for key, every in (("kind", KINDS), ("data", DATA)))
    dtype = fixed.get("dtype") or DTYPES[rng.integers(3)]
    dead = float(rng.choice([0.0, 0.0, 0.3, 0.9]))
    items, boxes = [], []
    for place in range(int(rng.integers(1, 6))):
        axes = int(rng.integers(1, 4))
        shape = tuple(int(size) for size in rng.integers(1, (400, 40, 12)[axes - 1], axes))
        if rng.random() < 0.1:
            shape = (1, *shape[1:])
        if rng.random() < 0.04:
            shape = (0, *shape[1:])
        item = bs.ScoreInputs(numbers(data, shape, rng).astype(dtype), name=f"layer{place}")
        if "exp_avg" in reads:
            item.exp_avg = (0.1 * rng.standard_normal(shape)).astype(dtype)
        if "exp_avg_sq" in reads:
            item.exp_avg_sq = np.abs(numbers(data, shape, rng)).astype(np.float32)
        if "input_norm" in reads:
            item.input_norm = rng.random(shape[min(1, axes - 1)] if axes > 1 else shape[0]).astype(np.float32)
        if dead:
            item.mask = rng.random(shape) >= dead
        items.append(item)
        boxes.append(_boxes(shape, rng.choice(KINDS[:-1]) if kind == "mixed" else kind, ranks, rng))
    return Model(items, boxes)
