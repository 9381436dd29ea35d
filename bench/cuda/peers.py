"""The same exact threshold from torch on the device, beside Bittersweet through Python, in one process.

    python bench/cuda/peers.py [--dry] [--out FILE] [--weights 402653184]

Every peer scores first, straight into slices of one buffer, and ends with the threshold on the host, as
`bittersweet.threshold` does. Times by CUDA events, medians after a warm-up; memory is the peak that a call
adds. `--dry` runs every call on the CPU at a small size against a sort, and measures nothing.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import records
import torch

sys.path.append(str(Path(__file__).resolve().parents[1]))
import bittersweet as bs
from models import Model, gpt_shapes

HEADLINE, DRY = 402_653_184, 150_000
SPARSITY, EPS, FRACTION = 0.5, 1e-8, 0.02  # EPS is bitter7's
SLOW_MS, REPEATS, FEW = 300.0, 9, 3


def model(total: int, device: str) -> Model:
    """w normal, v log-normal around 1e-9 with a decade of spread."""
    torch.manual_seed(0)
    shapes = gpt_shapes(total)
    w = [torch.empty(shape, device=device).normal_(0.0, 0.02) for shape in shapes]
    v = [torch.empty(shape, device=device).normal_(0.0, 2.3).exp_().mul_(1e-9) for shape in shapes]
    return Model(w, [], v)


class Peers:
    """Ways to the k-th smallest bitter7 score, 1-based; each call returns the threshold."""

    def __init__(self, data: Model, k: int) -> None:
        self.w, self.v = [x.view(-1) for x in data.w], [x.view(-1) for x in data.v]
        self.k, self.total = k, data.weights

    def scores(self) -> torch.Tensor:
        out = torch.empty(self.total, device=self.w[0].device)
        for w, v, part in zip(self.w, self.v, out.split([x.numel() for x in self.w]), strict=True):
            torch.add(v, EPS, out=part).sqrt_().sqrt_().mul_(w).abs_()
        return out

    def kthvalue(self) -> float:
        return float(torch.kthvalue(self.scores(), self.k).values)

    def topk(self) -> float:
        smallest = self.k <= self.total - self.k + 1
        side = self.k if smallest else self.total - self.k + 1
        found = torch.topk(self.scores(), side, largest=not smallest, sorted=False).values
        return float(found.max() if smallest else found.min())

    def sort(self) -> float:
        return float(torch.sort(self.scores()).values[self.k - 1])

    def _kth_of(self, sample: torch.Tensor) -> float:
        rank = min(sample.numel(), max(1, round(self.k / self.total * sample.numel())))
        return float(torch.kthvalue(sample, rank).values)

    def sample_gathered(self) -> float:
        """2 % of every tensor, drawn with replacement; only the sample is scored."""
        parts = []
        for w, v in zip(self.w, self.v, strict=True):
            count = max(1, round(FRACTION * w.numel()))
            index = torch.randint(w.numel(), (count,), device=w.device)
            parts.append(torch.add(v[index], EPS).sqrt_().sqrt_().mul_(w[index]).abs_())
        return self._kth_of(torch.cat(parts))

    def sample_published(self) -> float:
        """2 % of all scores, drawn with replacement after everything has been scored."""
        scores = self.scores()
        count = max(1, round(FRACTION * self.total))
        return self._kth_of(scores[torch.randint(self.total, (count,), device=scores.device)])


CALLS: dict[str, Callable[[Peers], float]] = {
    "score + torch.kthvalue": Peers.kthvalue,
    "score + torch.topk, unsorted": Peers.topk,
    "score + torch.sort": Peers.sort,
    "2 % sample, gathered before scoring": Peers.sample_gathered,
    "2 % sample as published, scoring everything": Peers.sample_published,
}


SELECTORS = (bs.Histogram(), bs.KthValue(), bs.Streaming(), bs.Sampling(FRACTION))


class Clock:
    """Times and memory of calls on a CUDA device; without one (a dry run) it only calls."""

    def __init__(self, device: str) -> None:
        self.on_device = device != "cpu"
        # Read before every timed call, so that the inputs are not in the cache.
        self._scrub = torch.ones(1 << 26, device=device) if self.on_device else None

    def measure(
        self, call: Callable[[], Any], prepare: Callable[[], None] = lambda: None
    ) -> tuple[Any, dict[str, Any]]:
        prepare()
        result = call()
        if self._scrub is None:
            return result, {}
        prepare()
        first = self._time(call)
        times, repeats = [], FEW if first > SLOW_MS else REPEATS
        for _ in range(repeats):
            prepare()
            times.append(self._time(call))
        times.sort()
        prepare()
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated() - before
        return result, {
            "ms": times[repeats // 2],
            "least_ms": times[0],
            "most_ms": times[-1],
            "repeats": repeats,
            "peak_bytes": peak,
        }

    def _time(self, call: Callable[[], Any]) -> float:
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        assert self._scrub is not None
        self._scrub.sum()
        begin.record()
        call()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end))


def verdict(right: bool, found: str) -> dict[str, Any]:
    return {"right": True} if right else {"right": False, "found": found}


class Run:
    """Measures one call after the other; one that fails is recorded and stops no other."""

    def __init__(self, total: int, device: str, out: Path | None) -> None:
        self.out, self.dry, self.failed = out, device == "cpu", False
        self.data = model(total, device)
        self.k = int(SPARSITY * total + 0.5)
        self.clock, self.ours_ms = Clock(device), 0.0

    def add(
        self, case: str, call: Callable[[], Any], judge: Callable[[Any], dict[str, Any]], **more: Any
    ) -> None:
        record: dict[str, Any] = {"section": "peers", "case": case, "weights": self.data.weights}
        if self.dry:
            record["dry"] = True
        try:
            result, times = self.clock.measure(call, **more)
            record |= times | judge(result)
        except Exception as error:
            record["error"] = f"{type(error).__name__}: {error}"[:500]
            if not self.dry:
                torch.cuda.empty_cache()
        if "ms" in record and case == "bittersweet.threshold":
            self.ours_ms = record["ms"]
        elif "ms" in record and self.ours_ms > 0 and not case.startswith("bittersweet"):
            record |= {"ours_ms": self.ours_ms, "slower": record["ms"] / self.ours_ms}
        self.failed |= "error" in record or record.get("right") is False
        records.write(self.out, record)

    def everything(self) -> None:
        inputs, peers = self.data.inputs(moments=False), Peers(self.data, self.k)
        scores = peers.scores()
        expected = float(torch.sort(scores).values[self.k - 1])
        total = self.data.weights

        # torch's square roots on the host are one unit in the last place off on some processors.
        allowed = 2.0**-22 * expected if self.dry else 0.0

        def exact(value: float) -> dict[str, Any]:
            return verdict(abs(value - expected) <= allowed, f"{value!r}, a sort says {expected!r}")

        def approximate(value: float) -> dict[str, Any]:
            return {"error_of_sparsity": abs(int((scores < value).sum()) / total - SPARSITY)}

        def masked(result: Any) -> dict[str, Any]:
            pruned = getattr(result, "event", result).pruned
            return verdict(pruned == self.k, f"{pruned} pruned, not {self.k}")

        self.add("bittersweet.threshold", lambda: bs.threshold(inputs, sparsity=SPARSITY).value, exact)
        for selector in SELECTORS:
            self.add(
                f"bittersweet.threshold, {selector.name}",
                lambda selector=selector: (
                    bs.threshold(  # type: ignore[misc]
                        inputs, sparsity=SPARSITY, selector=selector
                    ).value
                ),
                approximate if selector.name in ("sampling", "streaming") else exact,
            )
        self.add("bittersweet.make_masks", lambda: bs.make_masks(inputs, sparsity=SPARSITY), masked)
        saved = [x.clone() for x in self.data.w]

        def restore() -> None:
            for x, values in zip(self.data.w, saved, strict=True):
                x.copy_(values)

        self.add(
            "bittersweet.prune_, w zeroed",
            lambda: bs.prune_(inputs, sparsity=SPARSITY),
            masked,
            prepare=restore,
        )
        restore()
        saved.clear()
        for name, call in CALLS.items():
            self.add(
                name,
                lambda call=call: call(peers),  # type: ignore[misc]
                approximate if "sample" in name else exact,
            )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Bittersweet and torch on one device.")
    parser.add_argument("--dry", action="store_true", help="on the CPU, small, against a sort")
    parser.add_argument("--out", type=Path, help="append the figures to this file as JSON lines")
    parser.add_argument("--weights", type=int, default=HEADLINE)
    options = parser.parse_args(arguments)
    if not options.dry and not torch.cuda.is_available():
        parser.error("torch sees no CUDA device; --dry runs without one")
    warnings.filterwarnings("ignore", message=".*exp_avg_sq values are below eps.*")  # as v around 1e-9 is
    if options.dry:
        torch.set_num_threads(1)
    run = Run(DRY if options.dry else options.weights, "cpu" if options.dry else "cuda", options.out)
    run.everything()
    return int(run.failed)


if __name__ == "__main__":
    sys.exit(main())
