"""What the library should compute, written apart from it: NumPy float32 op by op, selection by sorting."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

Array = np.ndarray[Any, Any]
BF16 = np.dtype(ml_dtypes.bfloat16)
SIZES = (1, 2, 15, 16, 17, 63, 64, 65, 1000, 65535, 65536, 65537, 200003)


class Inputs:
    """The arrays of one tensor as float32, whatever they were stored as."""

    def __init__(
        self,
        w: Array,
        m: Array | None = None,
        v: Array | None = None,
        g: Array | None = None,
        norm: Array | None = None,
        step: int | None = None,
        beta1: float = 0.9,
    ) -> None:
        none = np.zeros(0, np.float32)
        self.w, self.m, self.v, self.g, self.norm = (
            none if x is None else np.asarray(x).astype(np.float32) for x in (w, m, v, g, norm)
        )
        self.correction = np.float32(1.0 if step is None else 1.0 - beta1**step)


def sign(x: Array) -> Array:
    one = np.float32(1)
    return np.where(x > 0, one, np.where(x < 0, -one, np.float32(0)))


def half(x: Any) -> Any:
    """One rounding to float16, back in float32."""
    return np.asarray(x, np.float32).astype(np.float16).astype(np.float32)


def _bitter0(x: Inputs, eps: np.float32) -> Array:
    return np.abs(x.w * x.m) * np.abs(x.w) / (np.sqrt(x.v) + eps)


def _bitter3(x: Inputs, eps: np.float32) -> Array:
    return np.abs(x.w) * np.sqrt(np.abs(x.m) + eps)


def _bitter5(x: Inputs, eps: np.float32) -> Array:
    return np.float32(0.1) * np.abs(x.w) - sign(x.w) * x.m / (np.sqrt(x.v) + eps)


def _bitter5_published(x: Inputs, eps: np.float32) -> Array:
    movement = -(sign(x.w) * x.m) / (np.sqrt(x.v) + eps)
    return -movement + np.float32(0.1) * np.abs(x.w)


def _bitter6(x: Inputs, eps: np.float32) -> Array:
    return np.abs(x.w) * np.sqrt(np.abs(x.m) + eps) * np.sqrt(x.m * x.m / (x.v + eps))


def _bitter7(x: Inputs, eps: np.float32) -> Array:
    return np.abs(x.w) * np.sqrt(np.sqrt(np.abs(x.v) + eps))


def _rsqrt(x: Array) -> Array:
    return np.float32(1) / np.sqrt(x)


def _bitter8(x: Inputs, eps: np.float32) -> Array:
    return np.abs(x.w) * _rsqrt(_rsqrt(np.abs(x.v) + eps))


def _bitter8_published(x: Inputs, eps: np.float32) -> Array:
    v = half(np.abs(half(x.v)) + half(eps))
    return half(np.abs(half(x.w)) * half(_rsqrt(half(_rsqrt(v)))))


def _bitter8_bias_corrected(x: Inputs, eps: np.float32) -> Array:
    return np.abs(x.w) * np.sqrt(np.abs(x.m / x.correction) + eps)


def _bitter9_hybrid(x: Inputs, eps: np.float32) -> Array:
    movement = np.float32(0.1) * sign(x.w) * x.m / (np.sqrt(x.v) + eps)
    return np.abs(x.w) * np.sqrt(np.abs(x.m) + eps) - movement


def _bitter9_hybrid_published(x: Inputs, eps: np.float32) -> Array:
    movement = -(sign(x.w) * x.m) / (np.sqrt(x.v) + eps)
    return np.abs(x.w) * np.sqrt(np.abs(x.m) + eps) - np.float32(0.1) * movement


def _bitter10z(x: Inputs, eps: np.float32) -> Array:
    return np.abs(x.w) * np.sqrt(np.abs(x.m) + eps) * np.abs(x.m) / (np.sqrt(x.v) + eps)


def _adam_variance(x: Inputs, eps: np.float32, q: float = 0.25) -> Array:
    power = np.abs(x.v) + eps
    for _ in range({0.5: 1, 0.25: 2, 0.125: 3}[q]):
        power = np.sqrt(power)
    return np.abs(x.w) * power


MODIFIER = 0.7


def _modified(x: Inputs, eps: np.float32) -> Array:
    return _bitter3(x, eps) * np.float32(MODIFIER)


Formula = Callable[[Inputs, np.float32], Array]

FORMULAS: dict[str, tuple[Formula, str, float | None]] = {  # formula, what it reads, default eps
    "magnitude": (lambda x, eps: np.abs(x.w), "w", None),
    "bitter0": (_bitter0, "wmv", 1e-8),
    "bitter1": (lambda x, eps: np.abs(x.w), "w", None),
    "bitter2": (lambda x, eps: np.abs(x.w), "w", None),
    "bitter3": (_bitter3, "wm", 1e-8),
    "bitter4": (_bitter3, "wm", 1e-8),
    "bitter5": (_bitter5, "wmv", 1e-8),
    "bitter6": (_bitter6, "wmv", 1e-8),
    "bitter7": (_bitter7, "wv", 1e-8),
    "bitter8": (_bitter8, "wv", 1e-8),
    "bitter9": (_bitter8, "wv", 1e-8),
    "bitter8_bias_corrected": (_bitter8_bias_corrected, "wmt", 1e-8),
    "bitter9_hybrid": (_bitter9_hybrid, "wmv", 1e-8),
    "bitter10z": (_bitter10z, "wmv", 1e-12),
    "bitter5_published": (_bitter5_published, "wmv", 1e-8),
    "bitter8_published": (_bitter8_published, "wv", 1e-8),
    "bitter9_hybrid_published": (_bitter9_hybrid_published, "wmv", 1e-8),
    "adam_variance": (_adam_variance, "wv", 0.0),
    "wanda": (lambda x, eps: np.abs(x.w) * x.norm, "wn", None),
    "gradient": (lambda x, eps: np.abs(x.g), "g", None),
    "taylor": (lambda x, eps: np.abs(x.w * x.g), "wg", None),
    "identity": (lambda x, eps: x.w, "s", None),
    "bitter10": (_modified, "wmk", 1e-12),
    "bitter10s": (_modified, "wmk", 1e-12),
    "bitter10c": (_modified, "wmk", 1e-12),
    "movement": (lambda x, eps: x.w, "S", None),
}


def scores(name: str, x: Inputs, eps: float | None = None, **parameters: Any) -> Array:
    """The scores of `name`, float32, NumPy's warnings about 0/0 and overflow aside."""
    formula, _, default = FORMULAS[name]
    used = np.float32(0.0 if default is None else default) if eps is None else np.float32(eps)
    with np.errstate(all="ignore"):
        result: Array = formula(x, used, **parameters)
    assert result.dtype == np.float32, name
    return result


def uniforms(seed: int, purpose: int, count: int) -> Array:
    """Philox4x32-10 (Salmon et al. 2011): key (seed), counter (block, purpose), 24 bits a number."""
    blocks = np.arange((count + 3) // 4, dtype=np.uint64)
    low = np.uint64(0xFFFFFFFF)
    shift = np.uint64(32)
    c = [blocks & low, blocks >> shift, np.full_like(blocks, purpose), np.zeros_like(blocks)]
    key = [np.uint64(seed & 0xFFFFFFFF), np.uint64(seed >> 32)]
    for _ in range(10):
        p0, p1 = np.uint64(0xD2511F53) * c[0], np.uint64(0xCD9E8D57) * c[2]
        c = [(p1 >> shift) ^ c[1] ^ key[0], p1 & low, (p0 >> shift) ^ c[3] ^ key[1], p0 & low]
        key = [(key[0] + np.uint64(0x9E3779B9)) & low, (key[1] + np.uint64(0xBB67AE85)) & low]
    words = np.stack(c, axis=1).reshape(-1)[:count]
    return ((words >> np.uint64(8)).astype(np.float64) * 2.0**-24).astype(np.float32)


def budget(sparsity: float, n: int) -> int:
    return math.floor(sparsity * n + 0.5)


def keep_exact(values: Array, k: int, live: Array | None = None) -> Array:
    """Keep flags of a flat array: k pruned in all, dead ones included, equal scores by lowest index first."""
    live = np.ones(values.shape, bool) if live is None else live
    order = np.argsort(np.where(live, values, np.inf), kind="stable")
    order = order[live[order]]
    keep = live.copy()
    keep[order[: max(0, k - int((~live).sum()))]] = False
    return keep


def kth(values: Array, k: int) -> np.float32:
    return np.float32(np.sort(values, kind="stable")[k - 1])


def grouped(values: Array, in_dim: int | None = None) -> Array:
    """The array as (rows, inputs, inner): see ScoreInputs.in_dim. A view or a copy in that order."""
    if values.ndim < 2:
        return values.reshape(1, -1, 1)
    if in_dim == 0:
        moved = np.moveaxis(values, 0, 1)
        return moved.reshape(moved.shape[0], moved.shape[1], -1)
    axis = 1 if in_dim is None else in_dim
    rows = math.prod(values.shape[:axis])
    return values.reshape(rows, values.shape[axis], -1)


def ungrouped(values: Array, shape: tuple[int, ...], in_dim: int | None = None) -> Array:
    """The inverse of `grouped`."""
    if len(shape) >= 2 and in_dim == 0:
        return np.moveaxis(values.reshape(shape[1], shape[0], *shape[2:]), 0, 1).reshape(shape)
    return values.reshape(shape)


def keep_rows(values: Array, k: int, in_dim: int | None = None, live: Array | None = None) -> Array:
    """Every row prunes k of its (input, inner) elements, ties to the lower column."""
    flat = grouped(values, in_dim)
    alive = np.ones(values.shape, bool) if live is None else live
    flags = grouped(alive, in_dim)
    rows, inputs, inner = flat.shape
    keep = np.stack(
        [keep_exact(flat[r].reshape(-1), k, flags[r].reshape(-1)).reshape(inputs, inner) for r in range(rows)]
    )
    return ungrouped(keep, values.shape, in_dim)


def keep_groups(values: Array, m: int, k: int, in_dim: int | None = None, live: Array | None = None) -> Array:
    """Every M consecutive inputs of a row, at a fixed inner position, prune k; an incomplete rest stays."""
    flat = grouped(values, in_dim)
    alive = np.ones(values.shape, bool) if live is None else live
    keep = grouped(alive, in_dim).copy()
    rows, inputs, inner = flat.shape
    for r in range(rows):
        for c in range(inner):
            for start in range(0, inputs - m + 1, m):
                group = slice(start, start + m)
                keep[r, group, c] = keep_exact(flat[r, group, c], k, keep[r, group, c])
    return ungrouped(keep, values.shape, in_dim)


def bits(values: Array) -> Array:
    """float32 as integers, to compare exactly: the sign of zero counts, the payload of NaN does not."""
    single = np.ascontiguousarray(values, np.float32)
    return np.where(np.isnan(single), np.uint32(0x7FC00000), single.view(np.uint32))


def spread(n: int, seed: int, low: float = -9.0, high: float = 0.0) -> Array:
    """Numbers of both signs whose magnitudes spread over 10^low .. 10^high."""
    rng = np.random.default_rng(seed)
    return (rng.choice((-1.0, 1.0), n) * 10.0 ** rng.uniform(low, high, n)).astype(np.float32)


def awkward(n: int, seed: int) -> Array:
    """Normals with repeated values, zeros of both signs, denormals and infinities mixed in."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(n).astype(np.float32)
    special = np.array([0.0, -0.0, 1e-45, -1e-45, 1e-40, 0.5, 0.5, -0.5, np.inf, -np.inf], np.float32)
    chosen = rng.random(n) < 0.3
    values[chosen] = rng.choice(special, int(chosen.sum()))
    return values
