"""AdamW's step beside torch's fused and foreach ones on the device: bits, times with and without masks.

    python bench/cuda/adam.py [--dry] [--out FILE]

Whether torch's kernels on a device round as ours do is not claimed but counted, for both roundings. What is
judged: the same bits as the CPU engine, and a model in double. Times are of the compiled call on a table that
is already there, by CUDA events, medians after a warm-up; `host_ms` is what a call takes of the host.
`--dry` runs every call on the CPU at a small size and measures nothing.
"""

from __future__ import annotations

import argparse
import sys
import time
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
CODES = {torch.float32: 1, torch.bfloat16: 3}
DTYPES = ((torch.float32, "f32"), (torch.bfloat16, "bf16"))
ROUNDINGS = {"fused": (True, 8, 16), "plain": (False, 8, 16)}
PEERS: tuple[tuple[str, dict[str, bool]], ...] = (
    ("torch AdamW, fused", {"fused": True}),
    ("torch AdamW, foreach", {"foreach": True}),
)
ODD: Shapes = ((1003,), (7, 13), (127, 129), (70001,), (1,))
SIZES, DRY = (1_000_000, 99_956_224, 402_653_184), 150_000
TINY, TINY_CALLS = (26, 148), 100
STEPS, LR = 3, 1e-3
TELLING = {"betas": (0.3, 0.95), "weight_decay": 0.1}  # betas at which roundings differ
USUAL = {"betas": (0.9, 0.999), "weight_decay": 0.01}
EPS = 1e-8
WRITTEN = ("weight", "exp_avg", "exp_avg_sq")


class State:
    """The arrays of a model in its training, by the names of the table's columns."""

    def __init__(self, shapes: Shapes, dtype: torch.dtype, device: str) -> None:
        torch.manual_seed(0)

        def normal(size: float) -> list[torch.Tensor]:
            return [torch.empty(shape, device=device).normal_(0.0, size).to(dtype) for shape in shapes]

        self.arrays = {"weight": normal(0.02), "grad": normal(1e-3), "exp_avg": normal(1e-4)}
        self.arrays["exp_avg_sq"] = [x.mul_(x) for x in normal(1e-3)]
        self.arrays["step"] = [torch.zeros((), device=device) for _ in shapes]
        self.arrays["mask"] = []
        self.trusted = False

    def to(self, device: str) -> State:
        copied = State.__new__(State)
        copied.arrays = {name: [x.to(device, copy=True) for x in kept] for name, kept in self.arrays.items()}
        copied.trusted = self.trusted
        return copied

    @property
    def device(self) -> torch.device:
        return self.arrays["weight"][0].device

    @property
    def weights(self) -> int:
        return sum(x.numel() for x in self.arrays["weight"])

    def bytes_moved(self) -> int:
        """By a step that reads all four arrays and writes three."""
        return 7 * self.weights * self.arrays["weight"][0].element_size()

    def table(self) -> array[int]:
        rows = []
        for i, weight in enumerate(self.arrays["weight"]):
            row: dict[str, int] = {name: kept[i].data_ptr() for name, kept in self.arrays.items() if kept}
            row |= {"weight_dtype": CODES[weight.dtype], "state_dtype": CODES[weight.dtype]}
            row |= {"numel": weight.numel(), "trusted": self.trusted}
            rows += [row.get(name, 0) for name in _core.OPTIM_COLUMNS]
        return array("Q", rows)

    def mask_half(self) -> None:
        """Every keep bit by the toss of a coin."""
        self.arrays["mask"] = []
        for x in self.arrays["weight"]:
            words = torch.randint(-(1 << 63), (1 << 63) - 1, (-(-x.numel() // 64),), device=x.device)
            if x.numel() % 64:
                words[-1] &= (1 << x.numel() % 64) - 1
            self.arrays["mask"].append(words)

    def mask_rows(self) -> None:
        """Every second run of 1024 elements is dead."""
        self.mask_half()
        for words in self.arrays["mask"]:
            runs = words[: words.numel() // 32 * 32].view(-1, 2, 16)
            runs[:, 0], runs[:, 1] = -1, 0


def stepper(
    state: State, native: Any, rounding: tuple[bool, int, int], options: dict[str, Any]
) -> Callable[[], None]:
    """Our AdamW step, on the CUDA engine `native` or, where that is None, on the CPU engine."""
    table = state.table()
    groups = array("d", [LR, *options["betas"], EPS, options["weight_decay"], 1.0, *[0.0] * 5])
    if native is None:
        return lambda: void(_core.step_adam(table, groups, *rounding, 0.0, False))
    bytes_needed = native.cuda_adam_bytes(table, groups)
    workspace = torch.empty(bytes_needed, dtype=torch.uint8, device=state.device)
    dirty = torch.zeros(len(state.arrays["weight"]), dtype=torch.int32, device=state.device)
    on_device = state.device.type == "cuda"

    def step() -> None:
        queue = (0, torch.cuda.current_stream().cuda_stream if on_device else 0)
        memory = (0, 0, dirty.data_ptr(), workspace.data_ptr(), bytes_needed)
        native.cuda_step_adam(queue, table, groups, *rounding, False, array("Q"), memory)

    return step


def void(_: object) -> None:
    return None


def peer(state: State, kind: type[Any], options: dict[str, Any], **form: bool) -> Callable[[], None]:
    """torch's step on the same arrays."""
    parameters = [torch.nn.Parameter(x) for x in state.arrays["weight"]]
    optimizer = kind(parameters, lr=LR, eps=EPS, **options, **form)
    for i, parameter in enumerate(parameters):
        parameter.grad = state.arrays["grad"][i]
        step = state.arrays["step"][i]
        optimizer.state[parameter] = {
            "step": step if "fused" in form else step.cpu(),
            "exp_avg": state.arrays["exp_avg"][i],
            "exp_avg_sq": state.arrays["exp_avg_sq"][i],
        }
    return lambda: void(optimizer.step())


def differing(a: State, b: State) -> int:
    """Elements of the written arrays whose bits are not the same."""
    return sum(
        int((x.cpu() != y.cpu()).sum())
        for name in WRITTEN
        for x, y in zip(a.arrays[name], b.arrays[name], strict=True)
    )


def furthest(before: State, after: State, options: dict[str, Any]) -> float:
    """The largest error of the weights after `STEPS` steps, against a model in double, over the largest of
    them."""
    (beta1, beta2), worst = options["betas"], 0.0
    for i in range(len(before.arrays["weight"])):
        w, g, m, v = (before.arrays[name][i].double() for name in ("weight", "grad", "exp_avg", "exp_avg_sq"))
        for t in range(1, STEPS + 1):
            m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g
            size = (m / (1 - beta1**t)) / ((v / (1 - beta2**t)).sqrt() + EPS)
            w = w * (1 - LR * options["weight_decay"]) - LR * size
        worst = max(worst, float((after.arrays["weight"][i] - w).abs().max() / w.abs().max()))
    return worst


class Run(records.Recorder):
    """One case after the other."""

    def __init__(self, device: str, native: Any, out: Path | None, dry: bool) -> None:
        super().__init__("adam", out, dry)
        self.device, self.native = device, native
        self.clock = Clock("cpu" if dry else device)

    def stepped(self, start: State, rounding: tuple[bool, int, int], native: Any, device: str) -> State:
        state = start.to(device)
        step = stepper(state, native, rounding, TELLING)
        for _ in range(STEPS):
            step()
        return state

    def as_on_cpu(self, start: State, rounding: tuple[bool, int, int]) -> dict[str, Any]:
        there = self.stepped(start, rounding, self.native, self.device)
        count = differing(there, self.stepped(start, rounding, None, "cpu"))
        return {"compared": len(WRITTEN) * start.weights} | verdict(count == 0, f"{count} differ")

    def as_torch(
        self, start: State, rounding: tuple[bool, int, int], form: dict[str, bool]
    ) -> dict[str, Any]:
        ours, theirs = self.stepped(start, rounding, self.native, self.device), start.to(self.device)
        step = peer(theirs, torch.optim.AdamW, TELLING, **form)
        for _ in range(STEPS):
            step()
        return {"compared": len(WRITTEN) * start.weights, "differing": differing(ours, theirs)}

    def as_in_double(self) -> dict[str, Any]:
        start = State(ODD, torch.float32, self.device)
        ours = self.stepped(start, ROUNDINGS["fused"], self.native, self.device)
        error = furthest(start, ours, TELLING)
        return {"largest_relative_error": error} | verdict(error < 1e-6, f"{error}")

    def bits(self) -> None:
        self.write("f32: a model in double", self.as_in_double)
        for dtype, name in DTYPES:
            start = State(ODD, dtype, self.device)
            masked = start.to(self.device)
            masked.mask_half()
            for rule, rounding in ROUNDINGS.items():
                for what, state in (("unmasked", start), ("masked", masked)):
                    case = f"{name}, {what}, {rule}: bits of the CPU engine"
                    self.write(case, partial(self.as_on_cpu, state, rounding))
                for kind, form in PEERS:
                    case = f"{name}, {rule}: bits of {kind}"
                    self.write(case, partial(self.as_torch, start, rounding, form))

    def times(self, name: str, shapes: Shapes, dtype: torch.dtype, tiny: bool = False) -> None:
        state = State(shapes, dtype, self.device)
        rounding = ROUNDINGS["fused"]

        def measured(call: Callable[[], None]) -> dict[str, Any]:
            _, times = self.clock.measure(call)
            figures = {"weights": state.weights, "bytes": state.bytes_moved()} | times
            if "ms" in times:
                figures["gbs"] = state.bytes_moved() / times["ms"] / 1e6
                if tiny:
                    figures["host_ms"] = host_ms(call)
            return figures

        def ours() -> dict[str, Any]:
            return measured(stepper(state, self.native, rounding, USUAL))

        bare = self.write(f"{name}: unmasked", ours)
        state.mask_half()

        def masked() -> dict[str, Any]:
            found = ours()
            if "ms" in found and "ms" in bare:
                ratio = found["ms"] / bare["ms"]
                found |= {"ratio": ratio, "bound": 1.08, "kept": ratio <= 1.08}
            return found

        held = self.write(f"{name}: 50 % masked", masked)
        state.mask_rows()
        stepper(state, self.native, rounding, USUAL)()
        state.trusted = True
        self.write(f"{name}: half of the runs of 1024 dead, trusted", ours)
        for kind, form in PEERS:

            def theirs(form: Any = form) -> dict[str, Any]:
                found = measured(peer(state, torch.optim.AdamW, USUAL, **form))
                if "ms" in found and "ms" in held:
                    found |= {"ours_ms": held["ms"], "slower": found["ms"] / held["ms"]}
                return found

            self.write(f"{name}: {kind}, without masks", theirs)

    def everything(self) -> None:
        self.bits()
        for count in TINY:
            self.times(f"f32, {count} tensors of 16 x 16", [(16, 16)] * count, torch.float32, tiny=True)
        for total in (DRY,) if self.dry else SIZES:
            for dtype, name in DTYPES:
                self.times(f"{name}, {total:,} weights", gpt_shapes(total), dtype)
                if not self.dry:
                    torch.cuda.empty_cache()


def host_ms(call: Callable[[], None]) -> float:
    """What one call takes of the host, with nothing to wait for."""
    torch.cuda.synchronize()
    begin = time.perf_counter()
    for _ in range(TINY_CALLS):
        call()
    spent = time.perf_counter() - begin
    torch.cuda.synchronize()
    return 1e3 * spent / TINY_CALLS


def main(arguments: Sequence[str] | None = None, native: Any = None) -> int:
    """`native`: the module whose CUDA engine a dry run takes; without one it takes the CPU engine."""
    parser = argparse.ArgumentParser(description="Adam's step and torch's on one device.")
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
