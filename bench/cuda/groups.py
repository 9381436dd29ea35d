"""Rows and N:M groups on the device, beside torch's sort and topk of every row, in one process.

    python bench/cuda/groups.py [--dry] [--out FILE]

WANDA's rows and 2:4 of one matrix at a time, through `bittersweet.make_masks` and nothing else, so that a
step's fixed part is in the figures. The floor is torch's sum of the weights and a fill of the words of a
mask: what reading the one and writing the other takes. The goals are 1.5 times it for rows and 1.2 times for
2:4. Times by CUDA events, medians after a warm-up. `--dry` judges every call on the CPU at a small size by a
stable sort, and measures nothing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import records
import torch
from peers import Clock, verdict

sys.path.append(str(Path(__file__).resolve().parents[1]))
import bittersweet as bs

SHAPES = ((4096, 4096), (4096, 11008), (8192, 8192), (8192, 28672))
DRY = ((24, 64), (10, 1100))
DTYPES = (torch.float32, torch.bfloat16)
SPARSITY, ROWS, TWO_FOUR = 0.5, 1.5, 1.2


def pruned_by_sort(scores: torch.Tensor, count: int) -> torch.Tensor:
    """True for the `count` lowest of every row, ties to the lower index: as the published WANDA does it."""
    order = torch.sort(scores, dim=-1, stable=True).indices[..., :count]
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, order, True)


class Run:
    """Measures one call after the other; one that fails is recorded and stops no other."""

    def __init__(self, device: str, out: Path | None, section: str = "groups") -> None:
        self.out, self.device, self.dry, self.failed = out, device, device == "cpu", False
        self.section = section
        self.clock = Clock(device)

    def add(
        self, case: str, call: Callable[[], Any], judge: Callable[[Any], dict[str, Any]], **more: Any
    ) -> float:
        record: dict[str, Any] = {"section": self.section, "case": case}
        floor, bound, ours = more.get("floor", 0.0), more.get("bound"), more.get("ours", 0.0)
        if self.dry:
            record["dry"] = True
        try:
            result, times = self.clock.measure(call)
            record |= times | judge(result)
        except Exception as error:
            record["error"] = f"{type(error).__name__}: {error}"[:500]
        ms: float = record.get("ms", 0.0)
        if ms > 0 and floor > 0:
            record |= {"floor_ms": floor, "ratio": ms / floor}
            if bound is not None:
                record |= {"bound": bound, "kept": ms / floor <= bound}
        if ms > 0 and ours > 0:
            record |= {"ours_ms": ours, "slower": ms / ours}
        self.failed |= "error" in record or record.get("right") is False
        records.write(self.out, record)
        return ms

    def matrix(self, rows: int, columns: int, dtype: torch.dtype) -> None:
        torch.manual_seed(rows + columns)
        weight = torch.empty(rows, columns, device=self.device).normal_(0.0, 0.02).to(dtype)
        norm = torch.empty(columns, device=self.device).normal_(0.0, 1.0).exp_()
        words = torch.empty((rows * columns + 63) // 64, dtype=torch.int64, device=self.device)
        inputs = bs.ScoreInputs(weight, input_norm=norm)
        count = int(SPARSITY * columns + 0.5)
        name = f"{rows} x {columns} {str(dtype).removeprefix('torch.')}"

        def scores() -> torch.Tensor:
            return weight.abs().float().mul_(norm)

        def same(expected: torch.Tensor) -> Callable[[Any], dict[str, Any]]:
            def judge(masks: Any) -> dict[str, Any]:
                keep = masks[0].bool()
                keep = torch.from_numpy(keep) if not isinstance(keep, torch.Tensor) else keep
                wrong = int((keep == expected).sum())
                return verdict(wrong == 0, f"{wrong} bits are not those of a stable sort")

            return judge

        def read_and_fill() -> torch.Tensor:
            words.fill_(-1)
            return weight.sum()

        floor = self.add(f"floor, {name}", read_and_fill, lambda _: {})
        ours = self.add(
            f"rows, {name}",
            lambda: bs.make_masks([inputs], scorer="wanda", scope="row", sparsity=SPARSITY),
            same(pruned_by_sort(scores(), count)),
            floor=floor,
            bound=ROWS,
        )
        self.add(
            f"torch.sort of rows, {name}", lambda: pruned_by_sort(scores(), count), lambda _: {}, ours=ours
        )
        self.add(
            f"torch.topk of rows, {name}",
            lambda: torch.topk(scores(), count, dim=-1, largest=False, sorted=False).indices,
            lambda _: {},
            ours=ours,
        )
        groups = weight.float().abs().view(-1, 4)
        self.add(
            f"2:4, {name}",
            lambda: bs.make_masks([bs.ScoreInputs(weight)], scorer="magnitude", scope="2:4"),
            same(pruned_by_sort(groups, 2).view(rows, columns)),
            floor=floor,
            bound=TWO_FOUR,
        )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Rows and N:M groups beside torch on one device.")
    parser.add_argument("--dry", action="store_true", help="on the CPU, small, against a sort")
    parser.add_argument("--out", type=Path, help="append the figures to this file as JSON lines")
    options = parser.parse_args(arguments)
    if not options.dry and not torch.cuda.is_available():
        parser.error("torch sees no CUDA device; --dry runs without one")
    if options.dry:
        torch.set_num_threads(1)
    run = Run("cpu" if options.dry else "cuda", options.out)
    for rows, columns in DRY if options.dry else SHAPES:
        for dtype in DTYPES:
            run.matrix(rows, columns, dtype)
    return int(run.failed)


if __name__ == "__main__":
    sys.exit(main())
