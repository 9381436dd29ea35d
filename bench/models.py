"""What is measured on: tensors with the shapes of GPT-2 and values that selections find easy and hard."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import bittersweet as bs
import torch

LAYERS = 12
SMALLEST = 100_000
_REFERENCE = (768, 100e6)  # width of GPT-2 small, and the total at which a model here has it
_DECADE = math.log(10.0)


def gpt_shapes(total: int) -> list[tuple[int, ...]]:
    """148 shapes that sum to exactly `total` weights (from SMALLEST).

    The blocks of GPT-2 (matrices, biases and norms) at a width that leaves about 15 % to the embedding, and
    two odd tensors: 7x13 and 1003.
    """
    if total < SMALLEST:
        raise ValueError(f"weights: {total:,}; a model here has at least {SMALLEST:,}")
    width, at = _REFERENCE
    d = max(1, round(width * math.sqrt(total / at)))
    attention = [(d,), (d,), (3 * d, d), (3 * d,), (d, d), (d,)]
    mlp = [(d,), (d,), (4 * d, d), (4 * d,), (d, 4 * d), (d,)]
    shapes: list[tuple[int, ...]] = [(7, 13), (1003,), *(attention + mlp) * LAYERS]
    rest = total - sum(map(math.prod, shapes))
    return [*shapes, (rest // d, d), (rest % d,)] if rest % d else [*shapes, (rest // d - 1, d), (d,)]


@dataclass
class Model:
    """Weights, first and second moments, one list each; `m` may be empty. `masks`: what is dead, if any."""

    w: list[torch.Tensor]
    m: list[torch.Tensor]
    v: list[torch.Tensor]
    masks: list[bs.Mask] | None = None

    @property
    def weights(self) -> int:
        return sum(w.numel() for w in self.w)

    def inputs(self, *, moments: bool = True) -> list[bs.ScoreInputs]:
        """The library's view: w and v, m where there is one and `moments` asks for it, and the masks."""
        m = self.m if self.m and moments else [None] * len(self.w)
        masks = self.masks or [None] * len(self.w)
        return [
            bs.ScoreInputs(w, exp_avg=m, exp_avg_sq=v, mask=mask)
            for w, m, v, mask in zip(self.w, m, self.v, masks, strict=True)
        ]


def empty(total: int, *, moments: bool) -> Model:
    """A model of zeros, its memory touched, each tensor an allocation of its own."""
    shapes = gpt_shapes(total)
    columns = [[torch.empty(shape).zero_() for shape in shapes] for _ in range(3 if moments else 2)]
    return Model(columns[0], columns[1] if moments else [], columns[-1])


def like(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Copies, each in memory of its own."""
    return [x.clone() for x in tensors]


def copy(target: Sequence[torch.Tensor], source: Sequence[torch.Tensor]) -> None:
    for to, values in zip(target, source, strict=True):
        to.copy_(values)


def one_element_each(tensors: int) -> Model:
    """As many tensors of one weight: what a call costs that does not grow with the weights."""
    columns = [[torch.ones(1) for _ in range(tensors)] for _ in range(3)]
    return Model(*columns)


# ---- values ----

DENSE = "dense"
DATA = (
    DENSE,
    "50 % zeros",
    "90 % zeros",
    "90 % dead under a mask",
    "90 % pruned, scales differ",
    "all equal",
    "two values",
    "bf16-rounded",
    "sorted",
    "heavy tail",
)
HEAVY_DUPLICATES = frozenset(("50 % zeros", "90 % zeros", "all equal", "two values", "bf16-rounded"))


def fill(model: Model, data: str = DENSE, seed: int = 0) -> None:
    """Writes one of DATA into a model.

    Dense: w normal, so that |w| is half-normal; v log-normal around 1e-9 with a decade of spread; m normal.
    The others change it: zeros in w, everything pruned already (w, m and v too; at random, or by a global
    magnitude threshold over tensors whose scales differ up to sevenfold), one or two scores only, values that
    bf16 holds, scores ascending through the whole model, w Cauchy and v with three decades.
    """
    if data not in DATA:
        raise ValueError(f"data: {data!r}; known: {', '.join(DATA)}")
    model.masks = None
    random = torch.Generator().manual_seed(seed)
    if data == "sorted":
        _fill_sorted(model)
    elif data in ("all equal", "two values"):
        for w, v in zip(model.w, model.v, strict=True):
            w.fill_(0.02)
            v.fill_(1e-9)
            if data == "two values":
                w.add_(torch.empty_like(w).bernoulli_(0.5, generator=random), alpha=0.01)
    else:
        spread = 3 * _DECADE if data == "heavy tail" else _DECADE
        for w, v in zip(model.w, model.v, strict=True):
            w.normal_(0.0, 0.02, generator=random)
            v.normal_(0.0, spread, generator=random).exp_().mul_(1e-9)
            if data == "heavy tail":
                w.cauchy_(0.0, 0.02, generator=random)
            elif data == "bf16-rounded":
                w.copy_(w.bfloat16())
                v.copy_(v.bfloat16())
    for m in model.m:
        m.normal_(0.0, 1e-5, generator=random)
    if data in ("50 % zeros", "90 % zeros"):
        for w in model.w:
            w.mul_(torch.empty_like(w).bernoulli_(0.5 if data == "50 % zeros" else 0.1, generator=random))
    if data == "90 % dead under a mask":
        _kill(model, [torch.empty_like(w).bernoulli_(0.1, generator=random).bool() for w in model.w])
    if data == "90 % pruned, scales differ":
        for t, w in enumerate(model.w):
            w.mul_(1 + t % 7)
        masks = bs.make_masks(model.inputs(moments=False), sparsity=0.9, scorer="magnitude")
        _kill(model, [mask.bool() for mask in masks])


def _fill_sorted(model: Model) -> None:
    first, total = 0, model.weights
    for w, v in zip(model.w, model.v, strict=True):
        count = w.numel()
        share = torch.arange(first, first + count, dtype=torch.float64).add_(0.5).div_(total)
        w.copy_(torch.erfinv(share).mul_(0.02 * math.sqrt(2)).view_as(w))
        normal = torch.special.ndtri(share)
        v.copy_(normal.mul_(_DECADE).exp_().mul_(1e-9).view_as(v))
        first += count


def _kill(model: Model, keep: Sequence[torch.Tensor]) -> None:
    model.masks = [bs.Mask.from_bool(mask) for mask in keep]
    for t, mask in enumerate(keep):
        for array in (model.w[t], model.v[t], *([model.m[t]] if model.m else [])):
            array.masked_fill_(~mask, 0.0)
