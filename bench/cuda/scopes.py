"""Thresholds by tensor, bounds of tensors, and calibration on the device, beside torch, in one process.

    python bench/cuda/scopes.py [--dry] [--out FILE] [--weights 402653184]

Masks of magnitudes, through `bittersweet.make_masks` and nothing else, so that a step's fixed part is in
the figures. Their floor is torch's sum of the weights and a fill of the words of the masks; what they are
measured beside is one threshold over all tensors, and `torch.kthvalue` of each. Calibration adds up the
squares of a layer's input; its floor is torch's sum of the same. Times by CUDA events, medians after a
warm-up. Every answer is judged by its definition. `--dry` runs it all on the CPU at a small size, and
measures nothing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from groups import Run
from peers import DRY, HEADLINE, SPARSITY, model, verdict

sys.path.append(str(Path(__file__).resolve().parents[1]))
import bittersweet as bs
from bittersweet.wanda.sums import RunningSum

BOUNDS = {"*": (0.3, 0.6)}
CAP = 0.6
CALIBRATION = 1.3
INPUTS = ((8192, 4096), (8192, 11008), (256, 4096))
DRY_INPUTS = ((300, 65), (17, 128))
SCOPES: dict[str, dict[str, Any]] = {
    "one threshold over all": {},
    "by tensor, uniform": {"scope": "tensor"},
    "by tensor, erk": {"scope": "tensor", "distribution": "erk"},
    "by tensor, layer_adaptive": {"scope": "tensor", "distribution": "layer_adaptive"},
    "by tensor, histogram": {"scope": "tensor", "selector": "histogram"},
    "max_tensor_sparsity": {"max_tensor_sparsity": CAP},
    "tensor_sparsity": {"tensor_sparsity": BOUNDS},
    "max_tensor_sparsity, ties below": {"max_tensor_sparsity": CAP, "ties": "below"},
}


def contradiction(masks: Any, weights: Sequence[torch.Tensor], options: dict[str, Any]) -> str:
    """What is wrong with masks, or nothing: scores that were pruned lie above none that stay, tensor by
    tensor, and counts are those asked for."""
    each = options.get("scope") == "tensor" and "distribution" not in options
    total = sum(weight.numel() for weight in weights)
    pruned = 0
    for weight, mask in zip(weights, masks, strict=True):
        keep = mask.bool().view(weight.shape)
        kept, gone = weight.abs()[keep], weight.abs()[~keep]
        pruned += gone.numel()
        share, grain = gone.numel() / max(1, weight.numel()), 1.0 / max(1, weight.numel())
        if kept.numel() and gone.numel() and gone.max() > kept.min():
            return f"{mask.name}: {float(gone.max())} was pruned, {float(kept.min())} stays"
        if "max_tensor_sparsity" in options and share > CAP + grain:
            return f"{mask.name}: {share} is pruned, at most {CAP} may be"
        low, high = options.get("tensor_sparsity", {"*": (0.0, 1.0)})["*"]
        if not low - grain <= share <= high + grain:
            return f"{mask.name}: {share} is pruned, {low} to {high} may be"
        if each:
            wanted = int(SPARSITY * weight.numel() + 0.5)
            if gone.numel() != wanted:
                return f"{mask.name}: {gone.numel()} are pruned, {wanted} were asked for"
    rounded = options.get("ties") == "below" or (
        options.get("scope") == "tensor" and "distribution" not in options
    )
    wanted = int(SPARSITY * total + 0.5)
    return "" if rounded or pruned == wanted else f"{pruned} are pruned, {wanted} were asked for"


def scopes(run: Run, total: int) -> None:
    data = model(total, run.device)
    inputs = [bs.ScoreInputs(weight) for weight in data.w]
    words = torch.empty((data.weights + 63) // 64, dtype=torch.int64, device=run.device)

    def read_and_fill() -> list[torch.Tensor]:
        words.fill_(-1)
        return [weight.sum() for weight in data.w]

    def judged(options: dict[str, Any]) -> Callable[[Any], dict[str, Any]]:
        def judge(masks: Any) -> dict[str, Any]:
            found = contradiction(masks, data.w, options)
            return verdict(not found, found)

        return judge

    floor = run.add("floor of masks", read_and_fill, lambda _: {})
    ours = 0.0
    for case, options in SCOPES.items():
        ms = run.add(
            case,
            lambda options=options: bs.make_masks(inputs, scorer="magnitude", sparsity=SPARSITY, **options),
            judged(options),
            floor=floor,
        )
        ours = ms if case == "by tensor, uniform" else ours
    run.add(
        "torch.kthvalue of each tensor",
        lambda: [torch.kthvalue(w.abs().view(-1), max(1, int(SPARSITY * w.numel() + 0.5))) for w in data.w],
        lambda _: {},
        ours=ours,
    )


def calibration(run: Run, rows: int, columns: int, dtype: torch.dtype) -> None:
    torch.manual_seed(rows + columns)
    x = torch.empty(rows, columns, device=run.device).normal_().to(dtype)
    name = f"{rows} x {columns} {str(dtype).removeprefix('torch.')}"
    expected = x.double().square().sum(0)
    running = RunningSum("layer", columns, None)

    def add() -> RunningSum:
        running.add(x)
        return running

    def judge(_: Any) -> dict[str, Any]:
        once = RunningSum("layer", columns, None)
        once.add(x)
        assert once._squares is not None
        off = float(((once._squares - expected) / expected).abs().max())
        return verdict(off < 1e-12, f"sums are off by {off}")

    floor = run.add(f"floor of calibration, {name}", x.sum, lambda _: {})
    ours = run.add(
        f"calibration, {name}", add, judge, floor=floor, bound=CALIBRATION if rows > 1000 else None
    )
    run.add(
        f"torch's squares in float64, {name}", lambda: x.double().square().sum(0), lambda _: {}, ours=ours
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="By tensor, bounds and calibration on one device.")
    parser.add_argument("--dry", action="store_true", help="on the CPU, small")
    parser.add_argument("--out", type=Path, help="append the figures to this file as JSON lines")
    parser.add_argument("--weights", type=int, default=HEADLINE)
    options = parser.parse_args(arguments)
    if not options.dry and not torch.cuda.is_available():
        parser.error("torch sees no CUDA device; --dry runs without one")
    if options.dry:
        torch.set_num_threads(1)
    run = Run("cpu" if options.dry else "cuda", options.out, "scopes")
    scopes(run, DRY if options.dry else options.weights)
    for rows, columns in DRY_INPUTS if options.dry else INPUTS:
        for dtype in (torch.float32, torch.bfloat16):
            calibration(run, rows, columns, dtype)
    return int(run.failed)


if __name__ == "__main__":
    sys.exit(main())
