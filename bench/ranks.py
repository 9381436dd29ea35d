"""One mask event over ranks beside what people do without a library for it: processes that meet by gloo.

Run by the section of the same name: ``python bench/ranks.py SIZE WEIGHTS REPEATS`` starts SIZE processes with
one thread each, and prints one JSON object. All cases take turns in the same processes.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

OURS = "ours, exact"
GATHER = "scores gathered on rank 0, kthvalue"
ALL_GATHER = "scores gathered on all ranks, kthvalue"
SAMPLE = "each rank's own sample of 2 %"
SPARSITY = 0.5
FRACTION = 0.02
EVERY = 4  # steps from event to event of a pruner


def in_fresh_processes(size: int, weights: int, repeats: int) -> dict[str, Any]:
    """By case: milliseconds, peak bytes of a rank beyond its part, and how far the count of pruned weights is
    from what was asked for; `rounds` and `bytes_sent` of ours; and of one rank, under "pruner", milliseconds
    of ``pruner.step()``.

    Raises RuntimeError with what the processes printed when one fails.
    """
    import bittersweet

    package = str(Path(bittersweet.__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
    environment = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "GLOO_SOCKET_IFNAME": "lo"}
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, __file__, str(size), str(weights), str(repeats), folder],
            env={**os.environ, **environment, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode != 0:
        raise RuntimeError(f"{size} ranks could not be measured:\n{done.stderr}")
    values: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return values


class Rank:
    """This rank's rows of every tensor, as parts of DTensors, and the cases over them."""

    def __init__(self, weights: int) -> None:
        import bittersweet as bs
        import models
        from torch.distributed.tensor import DTensor, Shard, init_device_mesh

        dist = torch.distributed
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        mesh = init_device_mesh("cpu", (self.size,))
        random = torch.Generator().manual_seed(self.rank)
        self.parts: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.inputs = []
        self.total = 0
        for number, shape in enumerate(models.gpt_shapes(weights)):
            rows = -(-shape[0] // self.size)
            here = max(0, min(rows, shape[0] - rows * self.rank))
            w = torch.empty((here, *shape[1:])).normal_(0.0, 0.02, generator=random)
            v = torch.empty(w.shape).normal_(0.0, 2.3, generator=random).exp_().mul_(1e-9)
            self.parts.append((w, v))
            self.total += torch.Size(shape).numel()
            strides = torch.empty(shape, device="meta").stride()
            whole = [
                DTensor.from_local(
                    x, mesh, [Shard(0)], run_check=False, shape=torch.Size(shape), stride=strides
                )
                for x in (w, v)
            ]
            self.inputs.append(bs.ScoreInputs(whole[0], exp_avg_sq=whole[1], name=f"tensor{number}"))
        self.plain = [
            bs.ScoreInputs(w, exp_avg_sq=v, name=f"tensor{number}")
            for number, (w, v) in enumerate(self.parts)
        ]
        self.k = int(SPARSITY * self.total + 0.5)

    def ours(self) -> Any:
        """New masks, by one threshold over all ranks."""
        import bittersweet as bs

        return bs.make_masks(self.inputs, sparsity=SPARSITY)

    def alone(self) -> Any:
        """The same without a group: of one rank."""
        import bittersweet as bs

        return bs.make_masks(self.plain, sparsity=SPARSITY)

    def _scores(self) -> torch.Tensor:
        """bitter7's, of all that this rank holds, in one tensor."""
        return torch.cat([(w.abs() * v.add(1e-8).pow(0.25)).flatten() for w, v in self.parts])

    def _masks(self, scores: torch.Tensor, threshold: torch.Tensor) -> torch.Tensor:
        return scores > threshold

    def gather(self) -> torch.Tensor:
        """Masks by the exact threshold that rank 0 finds among all scores."""
        dist, scores = torch.distributed, self._scores()
        sizes: list[Any] = [None] * self.size
        dist.all_gather_object(sizes, len(scores))
        padded = torch.nn.functional.pad(scores, (0, max(sizes) - len(scores)), value=float("inf"))
        found = [torch.empty_like(padded) for _ in sizes] if self.rank == 0 else None
        dist.gather(padded, found, dst=0)
        threshold = torch.zeros(1)
        if found is not None:
            threshold[0] = torch.cat(found).kthvalue(self.k).values
        dist.broadcast(threshold, 0)
        return self._masks(scores, threshold)

    def all_gather(self) -> torch.Tensor:
        """The same, found on every rank."""
        dist, scores = torch.distributed, self._scores()
        sizes: list[Any] = [None] * self.size
        dist.all_gather_object(sizes, len(scores))
        padded = torch.nn.functional.pad(scores, (0, max(sizes) - len(scores)), value=float("inf"))
        found = torch.empty(self.size * len(padded))
        dist.all_gather_into_tensor(found, padded)
        return self._masks(scores, found.kthvalue(self.k).values)

    def sample(self) -> torch.Tensor:
        """Masks by the threshold of a sample that each rank takes of what it holds: no rank asks another."""
        scores = self._scores()
        places = torch.randint(len(scores), (max(1, int(FRACTION * len(scores))),))
        chosen = scores[places]
        return self._masks(scores, chosen.kthvalue(max(1, int(SPARSITY * len(chosen)))).values)


def _pruned(result: Any) -> int:
    """By this rank, of what `Rank`'s cases gave."""
    if isinstance(result, torch.Tensor):
        return int((~result).sum())
    return sum(mask.numel - mask.kept() for mask in result)


def measure(rank: Rank, repeats: int) -> dict[str, Any]:
    """All cases in turn, round after round; the first round warms up and tells the memory."""
    import memory

    dist = torch.distributed
    cases: dict[str, Callable[[], Any]] = {
        OURS: rank.ours,
        GATHER: rank.gather,
        ALL_GATHER: rank.all_gather,
        SAMPLE: rank.sample,
    }
    if rank.size == 1:
        cases = {OURS: rank.ours, "without a group": rank.alone}
    times: dict[str, list[float]] = {name: [] for name in cases}
    found: dict[str, dict[str, Any]] = {}
    for counted in range(repeats + 1):
        for name, case in cases.items():
            forgotten, before = memory.forget_peak(), memory.status("VmRSS")
            dist.barrier()
            begin = time.perf_counter_ns()
            result = case()
            dist.barrier()
            if counted:
                times[name].append((time.perf_counter_ns() - begin) / 1e6)
                continue
            numbers = torch.tensor([max(0, memory.peak(forgotten) - before)])
            dist.all_reduce(numbers, dist.ReduceOp.MAX)
            pruned = torch.tensor([_pruned(result)])
            dist.all_reduce(pruned)
            event = getattr(result, "event", None)
            sent = {} if event is None else {"rounds": event.rounds, "bytes_sent": event.bytes_sent}
            error = abs(int(pruned) - rank.k) / rank.total
            found[name] = {"peak_bytes": int(numbers), "error": error, **sent}
            del result
    return {name: {"ms": statistics.median(times[name]), **found[name]} for name in cases}


def pruner_steps(weights: int, repeats: int) -> dict[str, dict[str, float]]:
    """Milliseconds of ``pruner.step()`` with an event and without: without a group, with one of this rank
    alone, and over parameters of FSDP2. Gradients are given, and Adam's states are there."""
    import bittersweet as bs
    import models
    from sections.hold import Net
    from torch.distributed.fsdp import fully_shard

    schedule = bs.PolynomialDecay(0.5, 0.9, begin_step=1, end_step=20 * EVERY, frequency=EVERY, power=1)

    def made(sharded: bool, group: Any) -> Callable[[], float]:
        random = torch.Generator().manual_seed(0)
        shapes = models.gpt_shapes(weights)
        net = Net([torch.empty(shape).normal_(0.0, 0.02, generator=random) for shape in shapes])
        if sharded:
            fully_shard(net)
            for parameter in net.parameters():
                parameter.grad = torch.ones_like(parameter)
        optimizer = torch.optim.AdamW(net.parameters(), lr=1e-5)
        names = [name for name, _ in net.named_parameters()]
        pruner = bs.Pruner(net, optimizer, schedule=schedule, targets=names, process_group=group)

        def step() -> float:
            optimizer.step()
            begin = time.perf_counter_ns()
            pruner.step()
            return (time.perf_counter_ns() - begin) / 1e6

        return step

    world = torch.distributed.group.WORLD
    cases = {"no group": made(False, None), "a group": made(False, world), "FSDP2": made(True, None)}
    found: dict[str, dict[str, list[float]]] = {name: {"event": [], "hold": []} for name in cases}
    for number in range(1, EVERY * (repeats + 1) + 1):
        for name, step in cases.items():
            kind = "event" if number % EVERY == 1 else "hold"
            taken = step()
            if number > EVERY:
                found[name][kind].append(taken)
    return {
        name: {kind: statistics.median(taken) for kind, taken in kinds.items()}
        for name, kinds in found.items()
    }


def run(rank: int, size: int, weights: int, repeats: int, folder: str) -> None:
    """What one process does."""
    import warnings

    from measure import set_threads

    warnings.simplefilter("ignore")
    set_threads(1)
    store = torch.distributed.FileStore(f"{folder}/store", size)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=size)
    values = measure(Rank(weights), repeats)
    if size == 1:
        values["pruner"] = pruner_steps(weights, repeats)
    if rank == 0:
        print(json.dumps(values), flush=True)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def main(size: int, weights: int, repeats: int, folder: str) -> None:
    torch.multiprocessing.spawn(_spawned, (size, weights, repeats, folder), nprocs=size)


def _spawned(rank: int, *arguments: Any) -> None:
    run(rank, *arguments)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
