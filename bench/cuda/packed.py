"""Packed matrices and stochastic rounding on the device: the CPU engine's bits, and times beside torch's.

    python bench/cuda/packed.py [--dry] [--out FILE]

Packing, unpacking and products of strips and of delta, beside a copy, torch.nn.functional.linear on the dense
weight, and a bare read of the packed bytes (the floor); stochastic rounding beside torch.Tensor.copy_. Times
are of the compiled call, by CUDA events, medians after a warm-up. `--dry` runs every call on the CPU at a
small size and measures nothing.
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
from bittersweet.sparse import SparseLinear

CODES = {torch.float32: 1, torch.float16: 2, torch.bfloat16: 3}
NAMES = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}
ODD = ((1, 1), (35, 70), (100, 1100))
SHAPES, DRY_SHAPES = ((4096, 4096), (14336, 4096), (4096, 14336)), ((48, 200),)
SPARSITIES = {"strips": (0.5, 0.8), "delta": (0.8, 0.95)}
BATCHES = (1, 2, 4, 8, 16)
ROUNDED, DRY_ROUNDED = 100_000_000, 10_000


def pruned(rows: int, columns: int, dtype: torch.dtype, sparsity: float) -> torch.Tensor:
    """On the host, from one seed."""
    torch.manual_seed(rows + columns)
    weight = torch.randn(rows, columns)
    weight[torch.rand(rows, columns) < sparsity] = 0.0
    return weight.to(dtype)


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.cpu().contiguous().view(torch.int16 if tensor.element_size() == 2 else torch.int32)


class Packed:
    """A matrix packed on the device, with everything that its calls need allocated."""

    def __init__(self, native: Any, weight: torch.Tensor, layout: str) -> None:
        self.native, self.weight, self.layout = native, weight, layout
        self.on_device = weight.device.type == "cuda"
        self.code, (rows, columns) = CODES[weight.dtype], weight.shape
        self.marks, self.offsets, self.values = self.room()
        self.workspace = torch.empty(0, dtype=torch.uint8, device=weight.device)
        if layout == "delta":
            size = native.cuda_delta_bytes(rows, columns, max(BATCHES))
            self.workspace = torch.empty(size, dtype=torch.uint8, device=weight.device)
        self.dense = torch.empty_like(weight)
        self.fill()

    def room(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What `count` writes, written, and room for the rest."""
        rows, columns = self.weight.shape
        device = self.weight.device
        if self.layout == "delta":
            groups = -(-rows // _core.DELTA_GROUP) * -(-columns // _core.DELTA_COLUMNS)
            self.offsets = torch.empty(groups + 2, dtype=torch.int64, device=device)
            self.count()
            steps = int(self.offsets[-2])
            codes = torch.empty(_core.DELTA_GROUP * (groups + steps), dtype=torch.uint8, device=device)
            length = _core.DELTA_GROUP * steps
            return codes, self.offsets, torch.empty(length, dtype=self.weight.dtype, device=device)
        strips = -(-rows // _core.STRIP_HEIGHT)
        words = strips * -(-columns // _core.STRIP_WIDTH) * _core.STRIP_HEIGHT
        self.marks = torch.empty(words, dtype=torch.int32, device=device)
        self.offsets = torch.empty(strips + 1, dtype=torch.int64, device=device)
        self.count()
        length = int(self.offsets[-1]) + _core.STRIP_SLACK
        return self.marks, self.offsets, torch.zeros(length, dtype=self.weight.dtype, device=device)

    def queue(self) -> tuple[int, int]:
        return 0, torch.cuda.current_stream().cuda_stream if self.on_device else 0

    def arrays(self) -> tuple[int, ...]:
        tensors = (self.marks, self.values, self.offsets)
        flat = [word for tensor in tensors for word in (tensor.data_ptr(), tensor.numel())]
        return (*flat, self.code, *self.weight.shape)

    def call(self, verb: str, *arguments: Any) -> None:
        getattr(self.native, f"cuda_{verb}_{self.layout}")(self.queue(), *arguments)

    def count(self) -> None:
        masks = (self.marks.data_ptr(),) if self.layout == "strips" else ()
        matrix = (self.weight.data_ptr(), self.code, *self.weight.shape, 0)
        self.call("count", *matrix, *masks, self.offsets.data_ptr(), 0)

    def fill(self) -> None:
        keep = (0,) if self.layout == "delta" else ()
        self.call("pack", self.weight.data_ptr(), *keep, self.arrays())

    def pack(self) -> None:
        self.count()
        self.fill()

    def unpack(self) -> None:
        self.call("unpack", self.arrays(), 0, len(self.weight), self.dense.data_ptr())

    def multiply(self, x: torch.Tensor, y: torch.Tensor) -> None:
        room = (self.workspace.data_ptr(), self.workspace.numel()) if self.layout == "delta" else ()
        self.call("multiply", self.arrays(), x.data_ptr(), len(x), 0, y.data_ptr(), self.code, *room)

    def nbytes(self) -> int:
        return self.marks.nbytes + self.offsets.nbytes + self.values.nbytes

    def read(self) -> None:
        """All packed bytes once, and nothing else."""
        for tensor in (self.marks, self.values):
            tensor.view(torch.int32 if tensor.nbytes % 4 == 0 else tensor.dtype).sum()


class Run(records.Recorder):
    """One case after the other."""

    def __init__(self, device: str, native: Any, out: Path | None, dry: bool) -> None:
        super().__init__("packed", out, dry)
        self.device, self.native = device, native
        self.clock = Clock("cpu" if dry else device)

    def as_on_cpu(self, rows: int, columns: int, dtype: torch.dtype, layout: str) -> dict[str, Any]:
        """Masks or codes, offsets, values, the matrix again, and products of every batch."""
        weight = pruned(rows, columns, dtype, 0.5)
        layer = torch.nn.Linear(columns, rows, bias=False, dtype=dtype)
        layer.weight.data = weight
        here, there = (
            SparseLinear.from_linear(layer, layout=layout),
            Packed(self.native, weight.to(self.device), layout),
        )
        there.unpack()
        pairs = [(here.values, there.values), (weight, there.dense)]
        marks = here.codes if layout == "delta" else here.masks
        pairs += [(marks.int(), there.marks.int()), (here.offsets.int(), there.offsets.int())]
        here.reproducible = True
        for batch in BATCHES:
            x = torch.randn(batch, columns).to(dtype)
            y = torch.empty(batch, rows, dtype=dtype, device=self.device)
            there.multiply(x.to(self.device), y)
            rows_alone = [here(one) for one in x]  # the packed product, whatever the limit of batches
            pairs.append((torch.stack(rows_alone).detach(), y))
        count = sum(int((bits(a) != bits(b)).sum()) for a, b in pairs)
        return {"compared": sum(a.numel() for a, _ in pairs)} | verdict(count == 0, f"{count} differ")

    def rounded(self, size: int) -> tuple[Callable[[], None], torch.Tensor, torch.Tensor]:
        torch.manual_seed(size)
        src = torch.randn(size, device=self.device)
        dst = torch.empty(size, dtype=torch.bfloat16, device=self.device)
        rows = array("Q", (src.data_ptr(), dst.data_ptr(), size))

        def call() -> None:
            queue = (0, torch.cuda.current_stream().cuda_stream if src.is_cuda else 0)
            self.native.cuda_stochastic_round(queue, rows, 7, 3, 0)

        return call, src, dst

    def rounds_as_on_cpu(self, size: int) -> dict[str, Any]:
        call, src, there = self.rounded(size)
        call()
        here, copy = torch.empty(size, dtype=torch.bfloat16), src.cpu()
        _core.stochastic_round(array("Q", (copy.data_ptr(), here.data_ptr(), size)), 7, 3, 0)
        count = int((bits(here) != bits(there)).sum())
        return {"compared": size} | verdict(count == 0, f"{count} differ")

    def timed(self, call: Callable[[], Any], moved: int, floor: Callable[[], Any]) -> dict[str, Any]:
        """`moved`: bytes that the call has to read and write. `floor`: what it is set beside."""
        _, times = self.clock.measure(call)
        _, beside = self.clock.measure(floor)
        figures = {"bytes": moved} | times
        if "ms" in times:
            figures |= {"gbs": moved / times["ms"] / 1e6, "floor_ms": beside["ms"]}
            figures["floors_ratio"] = times["ms"] / beside["ms"]
        return figures

    def matrix(
        self, rows: int, columns: int, dtype: torch.dtype, sparsity: float, layout: str = "strips"
    ) -> None:
        weight = pruned(rows, columns, dtype, sparsity).to(self.device)
        packed = Packed(self.native, weight, layout)
        name = f"{NAMES[dtype]}, {rows} x {columns}, {sparsity:.0%} zeros"
        name += ", delta" if layout == "delta" else ""
        moved = weight.nbytes + packed.nbytes()
        copy = partial(packed.dense.copy_, weight)
        self.write(f"{name}: pack, beside a copy", partial(self.timed, packed.pack, 2 * weight.nbytes, copy))
        self.write(f"{name}: unpack, beside a copy", partial(self.timed, packed.unpack, moved, copy))
        for batch in BATCHES:
            x = torch.randn(batch, columns, device=self.device).to(dtype)
            y = torch.empty(batch, rows, dtype=dtype, device=self.device)
            product = partial(packed.multiply, x, y)

            def ours(product: Any = product) -> dict[str, Any]:
                return self.timed(product, packed.nbytes(), packed.read)

            found = self.write(f"{name}: batch {batch}, beside a bare read of the packed bytes", ours)

            def dense(x: Any = x, found: Any = found) -> dict[str, Any]:
                _, times = self.clock.measure(lambda: torch.nn.functional.linear(x, weight))
                figures = {"bytes": weight.nbytes} | times
                if "ms" in times and "ms" in found:
                    figures |= {"ours_ms": found["ms"], "slower": times["ms"] / found["ms"]}
                return figures

            self.write(f"{name}: batch {batch}, F.linear", dense)

    def everything(self) -> None:
        for dtype, name in NAMES.items():
            for rows, columns in ODD:
                case = f"{name}, {rows} x {columns}: bits of the CPU engine"
                self.write(case, partial(self.as_on_cpu, rows, columns, dtype, "strips"))
                self.write(f"delta, {case}", partial(self.as_on_cpu, rows, columns, dtype, "delta"))
        self.write("rounding: bits of the CPU engine", partial(self.rounds_as_on_cpu, 70_001))
        for rows, columns in DRY_SHAPES if self.dry else SHAPES:
            for sparsity in SPARSITIES["strips"]:
                self.matrix(rows, columns, torch.bfloat16, sparsity)
        for sparsity in SPARSITIES["delta"]:
            self.matrix(*(DRY_SHAPES if self.dry else SHAPES)[0], torch.bfloat16, sparsity, "delta")
        for dtype in (torch.float32, torch.float16):
            self.matrix(*(DRY_SHAPES if self.dry else SHAPES)[0], dtype, 0.5)
        call, src, dst = self.rounded(DRY_ROUNDED if self.dry else ROUNDED)
        timed = partial(self.timed, call, src.nbytes + dst.nbytes, partial(dst.copy_, src))
        self.write("rounding, beside torch.Tensor.copy_", timed)


def main(arguments: Sequence[str] | None = None, native: Any = None) -> int:
    """`native`: the module whose CUDA engine a dry run takes; a stand-in for one."""
    parser = argparse.ArgumentParser(description="Packed matrices and stochastic rounding on one device.")
    parser.add_argument("--dry", action="store_true", help="on the CPU, small")
    parser.add_argument("--out", type=Path, help="append the figures to this file as JSON lines")
    options = parser.parse_args(arguments)
    if options.dry:
        torch.set_num_threads(1)
        run = Run("cpu", native or OnCpu(), options.out, dry=True)
    else:
        if not torch.cuda.is_available():
            parser.error("torch sees no CUDA device; --dry runs without one")
        run = Run("cuda", _core, options.out, dry=False)
    run.everything()
    return int(run.failed)


class OnCpu:
    """The CPU engine by the names of the CUDA engine's functions, for a dry run without a stand-in."""

    @staticmethod
    def cuda_count_strips(queue: Any, *arguments: int) -> None:
        _core.measure_strips(*arguments[:-1])

    @staticmethod
    def cuda_pack_strips(queue: Any, *arguments: Any) -> None:
        _core.pack_strips(*arguments)

    @staticmethod
    def cuda_unpack_strips(queue: Any, *arguments: Any) -> None:
        _core.unpack_strips(*arguments)

    @staticmethod
    def cuda_multiply_strips(queue: Any, *arguments: Any) -> None:
        _core.multiply_strips(*arguments)

    @staticmethod
    def cuda_count_delta(queue: Any, *arguments: int) -> None:
        _core.measure_delta(*arguments[:-1])

    @staticmethod
    def cuda_pack_delta(queue: Any, *arguments: Any) -> None:
        _core.pack_delta(*arguments)

    @staticmethod
    def cuda_unpack_delta(queue: Any, *arguments: Any) -> None:
        _core.unpack_delta(*arguments)

    @staticmethod
    def cuda_delta_bytes(*shape: int) -> int:
        return 4

    @staticmethod
    def cuda_multiply_delta(queue: Any, *arguments: Any) -> None:
        _core.multiply_delta(*arguments[:-2])

    @staticmethod
    def cuda_stochastic_round(queue: Any, *arguments: Any) -> None:
        _core.stochastic_round(*arguments)


if __name__ == "__main__":
    sys.exit(main())
