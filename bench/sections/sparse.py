"""Packed linear layers beside torch's dense ones: products, whole blocks, packing."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable, Sequence
from typing import Any

import bittersweet as bs
import torch
from bittersweet.sparse import SparseLinear, layouts, ops, strips
from measure import Bench, Rounds, in_words, kept
from tables import Table
from torch import nn

SIDE = 4096
BF16, F32, F16 = torch.bfloat16, torch.float32, torch.float16
DTYPES, BATCHES = (BF16, F32, F16), (2, 4, 8, 16, 32, 64, 128, 256, 512)
MATRIX_UNIT = bs._core.strips_isa() == "amx"


def _least(dtype: torch.dtype, batch: int) -> float:
    """What the speed over F.linear is to be: more of bfloat16 with AMX up to 16 rows, else never slower."""
    return 1.6 if MATRIX_UNIT and dtype == BF16 and batch <= 16 else 0.97


# dtype, sparsity, batch; bounds: speed over F.linear, over the better of it and mv, share of the packed floor
CASES = (
    (BF16, 0.1, 1, None, None, None),
    (BF16, 0.2, 1, None, 1.05, None),
    (BF16, 0.3, 1, None, None, None),
    (BF16, 0.5, 1, 1.8, 1.5, 0.78),
    (BF16, 0.7, 1, 2.8, 2.3, None),
    (BF16, 0.8, 1, 3.3, 2.8, 0.70),
    (BF16, 0.9, 1, 5.0, 4.2, None),
    (BF16, 0.95, 1, 8.0, 6.5, None),
    (F32, 0.5, 1, 1.6, None, None),
    (F32, 0.8, 1, 3.0, None, None),
    (F16, 0.5, 1, 2.7, None, None),
    (F16, 0.8, 1, 4.0, None, None),
    *((BF16, 0.8, batch, 2.6 if MATRIX_UNIT else 0.97, None, None) for batch in (2, 16)),
    *((dtype, 0.5, batch, _least(dtype, batch), None, None) for dtype in DTYPES for batch in BATCHES),
)  # fmt: skip
LAYOUTS = (0.7, 0.8, 0.9, 0.95, 0.98)  # zeros at which the layouts are compared
BLOCKS = 4
MODULES = {0.5: 1.7, 0.8: 2.6}
PACKING = {"pack": 0.9, "unpack": 1.0}


def sparse_matrix(rows: int, columns: int, dtype: torch.dtype, sparsity: float) -> torch.Tensor:
    random = torch.Generator().manual_seed(int(sparsity * 100))
    made = torch.randn(rows, columns, generator=random)
    made[torch.rand(rows, columns, generator=random) < sparsity] = 0.0
    return made.to(dtype)


def layer_of(weight: torch.Tensor) -> nn.Linear:
    with torch.device("meta"):
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight = nn.Parameter(weight, requires_grad=False)
    return layer


def run(bench: Bench) -> list[Table]:
    side = SIDE if bench.weights >= 2 * SIDE**2 else 512
    copies = max(2, bench.weights // side**2)
    with torch.inference_mode():
        return [
            _products(bench, side, copies),
            _layouts(bench, side, copies),
            _modules(bench, side // 2),
            _packing(bench, side, copies),
        ]


def _products(bench: Bench, side: int, copies: int) -> Table:
    rows: list[dict[str, Any]] = []
    for dtype, sparsity, batch, *bounds in CASES:
        dense = [sparse_matrix(side, side, dtype, sparsity)]
        dense += [dense[0].clone() for _ in range(copies - 1)]
        packed = _packed(dense[0], copies, batch=batch)
        x = torch.randn(batch, side).to(dtype)
        name = f"{str(dtype)[6:]}, {sparsity:.0%}, batch {batch}"
        for threads in bench.threads:
            bench.say(f"{name}, {in_words(threads)}")
            rows.append(
                _product(bench, threads, name, dense, packed, x, bounds) | {"layout": packed[0].layout}
            )
        gc.collect()
    title = f"y = x W^T, {copies} matrices of {side} x {side} in turn, a pass over all of them"
    notes = [
        f"packed products by {bs._core.strips_isa()}, in auto's layout; random weights and masks",
        f"strips: most rows that meet packed weights: {_limits()}; more meet unpacked tiles and torch",
    ]
    return Table(title, rows, notes)


def _packed(weight: torch.Tensor, copies: int, **options: Any) -> list[SparseLinear]:
    first = SparseLinear.from_linear(layer_of(weight), **options)
    return [first, *(copy.deepcopy(first) for _ in range(copies - 1))]


def _layouts(bench: Bench, side: int, copies: int) -> Table:
    rows = []
    for sparsity in LAYOUTS:
        dense = [sparse_matrix(side, side, BF16, sparsity)]
        dense += [dense[0].clone() for _ in range(copies - 1)]
        x = torch.randn(1, side).to(BF16)
        auto = SparseLinear.from_linear(layer_of(dense[0])).layout
        packed = {layout: _packed(dense[0], copies, layout=layout) for layout in layouts.LAYOUTS}
        for threads in bench.threads:
            bench.say(f"layouts, {sparsity:.0%}, {in_words(threads)}")
            rounds = Rounds(bench, threads, bench.floor.over(dense))
            rounds.add("F.linear", _over(dense, lambda w, x=x: nn.functional.linear(x, w)))
            for layout, layers in packed.items():
                rounds.add(layout, _over(layers, lambda layer, x=x: layer(x)))
            rounds.run()
            for layout, layers in packed.items():
                name = f"{layout} (auto)" if layout == auto else layout
                rows.append(
                    {
                        "case": f"bfloat16, {sparsity:.0%}, batch 1",
                        "layout": name,
                        "of_dense": layers[0].nbytes / layers[0].dense_nbytes,
                        "threads": threads,
                        "ours_ms": rounds.ms(layout),
                        "torch_ms": rounds.ms("F.linear"),
                        "over_linear": rounds.ms("F.linear") / rounds.ms(layout),
                        "bound": None,
                        "kept": None,
                    }
                )
        gc.collect()
    return Table(f"The layouts side by side, {copies} matrices of {side} x {side} in turn", rows)


def _limits() -> str:
    named = ((str(dtype)[6:], ops.batch_limit(dtype)) for dtype in (BF16, F32, F16))
    return ", ".join(f"{limit or 'any'} ({name})" for name, limit in named)


def _product(
    bench: Bench,
    threads: int,
    name: str,
    dense: Sequence[torch.Tensor],
    packed: Sequence[SparseLinear],
    x: torch.Tensor,
    bounds: Sequence[float | None],
) -> dict[str, Any]:
    rounds = Rounds(bench, threads, bench.floor.over(dense))
    rounds.add_read_floor("packed", [_words(array) for p in packed for array in p._packed()[:2]])
    rounds.add("F.linear", _over(dense, lambda w: nn.functional.linear(x, w)))
    if len(x) == 1:
        rounds.add("mv", _over(dense, lambda w: torch.mv(w, x[0])))
    rounds.add("packed", _over(packed, lambda layer: layer(x)))
    rounds.run()
    ours, linear = rounds.ms("packed"), rounds.ms("F.linear")
    mv = rounds.ms("mv") if len(x) == 1 else None
    found = rounds.against(name, "packed", "packed", None)
    share = found["floor_ms"] / ours
    figures = (linear / ours, min(linear, mv or linear) / ours, share)
    judged = [kept(bench, value, bound, at_least=True) for value, bound in zip(figures, bounds, strict=True)]
    found.pop("ratio")
    found |= {
        "torch_ms": linear,
        **({} if mv is None else {"mv_ms": mv}),
        "over_linear": figures[0],
        "over_best": figures[1],
        "share_of_floor": share if len(x) == 1 else None,
        "bound": next((bound for bound in bounds if bound is not None), None),
        "best_bound": bounds[1],
        "floor_bound": bounds[2],
        "kept": None if all(k is None for k in judged) else all(k is not False for k in judged),
    }
    return found


def _words(array: torch.Tensor) -> torch.Tensor:
    """As int32, the last part of one left out."""
    even = array.nbytes // 4 * 4 // array.element_size()
    return array[:even].view(torch.int32)


def _over(items: Sequence[Any], work: Callable[[Any], Any]) -> Callable[[], None]:
    def run_all() -> None:
        for item in items:
            work(item)

    return run_all


class Block(nn.Module):
    """The linear layers of a decoder's block, as in models of the LLaMA kind, without its attention."""

    def __init__(self, width: int, sparsity: float) -> None:
        super().__init__()
        wide = width * 43 // 16
        for name, outputs, inputs in (
            *((name, width, width) for name in ("q", "k", "v", "o")),
            ("gate", wide, width),
            ("up", wide, width),
            ("down", width, wide),
        ):
            setattr(self, name, layer_of(sparse_matrix(outputs, inputs, BF16, sparsity) / inputs**0.5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        norm = nn.functional.rms_norm
        h = norm(x, x.shape[-1:])
        x = x + self.o(self.q(h) + self.k(h) + self.v(h))
        h = norm(x, x.shape[-1:])
        return x + self.down(nn.functional.silu(self.gate(h)) * self.up(h))


def _modules(bench: Bench, width: int) -> Table:
    rows = []
    for sparsity, bound in MODULES.items():
        dense = nn.Sequential(*(Block(width, sparsity) for _ in range(BLOCKS))).eval()
        packed = copy.deepcopy(dense)
        report = bs.sparse.pack_(packed)
        x = torch.randn(1, width).to(BF16)
        weights = list(dense.parameters())
        for threads in bench.threads:
            bench.say(f"{BLOCKS} blocks, {sparsity:.0%}, {in_words(threads)}")
            rounds = Rounds(bench, threads, bench.floor.over(weights))
            rounds.add("dense", _over([dense], lambda model, x=x: model(x)))
            rounds.add("packed", _over([packed], lambda model, x=x: model(x)))
            rounds.run()
            ours, torch_ms = rounds.ms("packed"), rounds.ms("dense")
            share = report.bytes / report.dense_bytes
            rows.append(
                {
                    "case": f"bfloat16, {sparsity:.0%}, batch 1, {share:.0%} of the bytes",
                    "threads": threads,
                    "ours_ms": ours,
                    "torch_ms": torch_ms,
                    "over_linear": torch_ms / ours,
                    "bound": bound,
                    "kept": kept(bench, torch_ms / ours, bound, at_least=True),
                }
            )
    return Table(f"{BLOCKS} decoder-like blocks of width {width} as modules", rows)


def _packing(bench: Bench, side: int, copies: int) -> Table:
    dense = [sparse_matrix(side, side, BF16, 0.5) for _ in range(min(copies, 4))]
    packed = [SparseLinear.from_linear(layer_of(w), layout="strips") for w in dense]
    rows = []
    for threads in bench.threads:
        bench.say(f"packing, {in_words(threads)}")
        rounds = Rounds(bench, threads, bench.floor.over(dense))
        rounds.add("copy", _over(dense, torch.clone))
        rounds.add("pack", _over(dense, lambda w: strips.pack(w, strips.measure(w))))
        rounds.add("unpack", _over(packed, SparseLinear.to_dense))
        rounds.run()
        for work, bound in PACKING.items():
            speed = rounds.ms("copy") / rounds.ms(work)
            judged = kept(bench, speed, bound, at_least=True)
            row = {
                "case": work,
                "threads": threads,
                "ours_ms": rounds.ms(work),
                "torch_ms": rounds.ms("copy"),
            }
            rows.append({**row, "over_linear": speed, "bound": bound, "kept": judged})
    return Table(
        f"Packing {len(dense)} matrices of {side} x {side}, bfloat16, 50 %, beside torch.clone", rows
    )
