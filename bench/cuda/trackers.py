"""What a tracker's update costs on the device, against the bytes that it has to move.

    python bench/cuda/trackers.py [--dry] [--out FILE]

What is judged: the same numbers and arrays as the CPU engine, bit for bit, and, on a device, a time of at
most 1.3 times that of a copy of as many bytes (`floor_ms`, torch's, measured here). Times are of the compiled
call on a table that is already there, by CUDA events, medians after a warm-up. `--dry` runs every call on the
CPU at a small size and measures nothing.
"""

from __future__ import annotations

import argparse
import sys
from array import array
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import records
import torch
from peers import Clock, verdict

sys.path.append(str(Path(__file__).resolve().parents[1]))
from bittersweet import _core
from models import gpt_shapes

Shapes = Sequence[tuple[int, ...]]
F32, BF16 = torch.float32, torch.bfloat16
CODES = {F32: 1, BF16: 3}
STORAGES = ((F32, F32, "f32"), (F32, BF16, "f32, averages and sums in bf16"), (BF16, BF16, "bf16"))
ODD: Shapes = ((1003,), (7, 13), (127, 129), (70001,), (1,))
SIZES, DRY = (9_981_952, 99_956_224), 150_000
BOUND, STEPS, SEED, DECAY, RATE = 1.3, 3, 11, 0.9, 1e-3
COLUMN = {name: at for at, name in enumerate(_core.TABLE_COLUMNS)}


class State:
    """Weights in their training, and what the trackers keep of them."""

    def __init__(self, shapes: Shapes, weights: torch.dtype, kept: torch.dtype, device: str) -> None:
        torch.manual_seed(0)
        exact = kept if weights is BF16 else F32  # of remembered weights
        self.arrays: dict[str, list[torch.Tensor]] = {}
        for name, dtype, size in (
            ("weight", weights, 2e-2), ("grad", weights, 1e-3), ("exp_avg", weights, 1e-4),
            ("exp_avg_sq", weights, 1e-3), ("previous", exact, 2e-2), ("average", kept, 1e-3),
        ):  # fmt: skip
            made = [torch.empty(shape, device=device).normal_(0.0, size) for shape in shapes]
            made = [x.abs() if name == "exp_avg_sq" else x for x in made]
            self.arrays[name] = [x.to(dtype) for x in made]
        self.arrays["scalars"] = [
            torch.zeros(_core.COHERENCE_WIDTH, dtype=torch.float64, device=device) for _ in shapes
        ]
        for scalars in self.arrays["scalars"]:
            scalars[0] = 1.0  # nothing is only remembered
        self.arrays["updates"] = [torch.ones(1, dtype=torch.int64, device=device) for _ in shapes]

    def to(self, device: str) -> State:
        copied = State.__new__(State)
        copied.arrays = {name: [x.to(device, copy=True) for x in kept] for name, kept in self.arrays.items()}
        return copied

    def nbytes(self, *names: str) -> int:
        return sum(x.nbytes for name in names for x in self.arrays[name])

    def table(self) -> tuple[array[int], list[str]]:
        width, weights = len(_core.TABLE_COLUMNS), self.arrays["weight"]
        data = array("Q", bytes(8 * width * len(weights)))
        for i, weight in enumerate(weights):
            row = {"numel": weight.numel(), "rows": 1, "inputs": weight.numel(), "inner": 1, "blocks": 1}
            for name in ("weight", "grad", "exp_avg", "exp_avg_sq"):
                tensor = self.arrays[name][i]
                row |= {name: tensor.data_ptr(), f"{name}_dtype": CODES[tensor.dtype]}
            for name, word in row.items():
                data[i * width + COLUMN[name]] = word
        return data, [str(i) for i in range(len(weights))]

    def memory(self, *names: str, stream: bool = False) -> array[int]:
        words: list[int] = []
        for i in range(len(self.arrays["weight"])):
            for name in names:
                tensor = self.arrays[name][i]
                words += [tensor.data_ptr(), *([CODES[tensor.dtype]] if tensor.dtype in CODES else [])]
            words += [i] if stream else []
        return array("Q", words)


# By verb: its memory, the arguments behind it, whether it takes a workspace, what it moves.
VERBS: dict[
    str, tuple[Callable[[State], array[int]], Callable[[State], list[Any]], bool, tuple[str, ...]]
] = {
    "track_coherence": (
        lambda s: s.memory("previous", "average", "scalars", stream=True),
        lambda s: [DECAY, SEED],
        True,
        ("weight", "previous", "average", "previous", "average"),
    ),
    "compare_snapshot": (
        lambda s: s.memory("previous", "scalars"),
        lambda s: [],
        True,
        ("weight", "exp_avg", "exp_avg_sq", "previous"),
    ),
    "accumulate_movement": (
        lambda s: s.memory("average", "updates", stream=True),
        lambda s: [[RATE] * len(s.arrays["weight"]), SEED],
        False,
        ("weight", "grad", "average", "average"),
    ),
}


def caller(state: State, verb: str, native: Any) -> Callable[[], None]:
    """One update, on the CUDA engine `native` or, where that is None, on the CPU engine."""
    (table, names), (memory, others, sums, _) = state.table(), VERBS[verb]
    words, rest = memory(state), others(state)
    if native is None:
        return lambda: getattr(_core, verb)(table, names, words, *rest)
    if sums:
        count = native.cuda_track_bytes(table, names)
        workspace = torch.empty(count, dtype=torch.uint8, device=state.arrays["weight"][0].device)
        rest = [*rest, workspace.data_ptr(), count]
    on_device = state.arrays["weight"][0].is_cuda

    def call(workspace: Any = workspace if sums else None) -> None:
        queue = (0, torch.cuda.current_stream().cuda_stream if on_device else 0)
        getattr(native, f"cuda_{verb}")(queue, table, names, words, *rest)

    return call


class Run(records.Recorder):
    """One case after the other."""

    def __init__(self, device: str, native: Any, out: Path | None, dry: bool) -> None:
        super().__init__("trackers", out, dry)
        self.device, self.native = device, native
        self.clock = Clock("cpu" if dry else device)

    def as_on_cpu(self, start: State, verb: str) -> dict[str, Any]:
        there, here = start.to(self.device), start.to("cpu")
        for state, native in ((there, self.native), (here, None)):
            call = caller(state, verb, native)
            for _ in range(STEPS):
                call()
        count = sum(
            int((x.cpu() != y).sum())
            for name in here.arrays
            for x, y in zip(there.arrays[name], here.arrays[name], strict=True)
        )
        compared = sum(x.numel() for kept in here.arrays.values() for x in kept)
        return {"compared": compared} | verdict(count == 0, f"{count} differ")

    def time(self, state: State, verb: str) -> dict[str, Any]:
        moved = state.nbytes(*VERBS[verb][3])
        _, times = self.clock.measure(caller(state, verb, self.native))
        found = {"weights": sum(x.numel() for x in state.arrays["weight"]), "bytes": moved} | times
        if "ms" in times:
            source, to = (torch.empty(moved // 2, dtype=torch.uint8, device=self.device) for _ in range(2))
            _, floor = self.clock.measure(lambda: to.copy_(source))
            ratio = times["ms"] / floor["ms"]
            found |= {"gbs": moved / times["ms"] / 1e6, "floor_ms": floor["ms"], "ratio": ratio}
            found |= {"bound": BOUND, "kept": ratio <= BOUND}
        return found

    def everything(self) -> None:
        for weights, kept, name in STORAGES:
            start = State(ODD, weights, kept, self.device)
            for verb in VERBS:
                self.write(f"{verb}, {name}: bits of the CPU engine", partial(self.as_on_cpu, start, verb))
        for total in (DRY,) if self.dry else SIZES:
            for weights, kept, name in STORAGES:
                state = State(gpt_shapes(total), weights, kept, self.device)
                for verb in VERBS:
                    self.write(f"{verb}, {name}, {total:,} weights", partial(self.time, state, verb))
                del state
                if not self.dry:
                    torch.cuda.empty_cache()


def main(arguments: Sequence[str] | None = None, native: Any = None) -> int:
    """`native`: the module whose CUDA engine a dry run takes; without one it takes the CPU engine."""
    parser = argparse.ArgumentParser(description="Updates of trackers on one device.")
    parser.add_argument("--dry", action="store_true", help="on the CPU, small")
    parser.add_argument("--out", type=Path, help="append the figures to this file as JSON lines")
    options = parser.parse_args(arguments)
    if options.dry:
        torch.set_num_threads(1)
        run = Run("cpu", native, options.out, dry=True)
    else:
        if not torch.cuda.is_available():
            parser.error("torch sees no CUDA device; --dry runs without one")
        run = Run("cuda", _core, options.out, dry=False)
    run.everything()
    return int(run.failed)


if __name__ == "__main__":
    sys.exit(main())
