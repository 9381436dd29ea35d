"""bittersweet.prune beside torch.nn.utils.prune: pruning a whole model, and training it afterwards."""

from __future__ import annotations

import copy
import gc
from types import ModuleType
from typing import Any

import bittersweet.prune
import memory
import torch
import torch.nn.utils.prune
from arms import BATCH, Training
from measure import Bench, Rounds, in_words
from tables import Table
from torch import nn

LIBRARIES = {"ours": bittersweet.prune, "torch": torch.nn.utils.prune}
MOST = 20_000_000  # torch needs 53 bytes a weight and seconds for ten million
AMOUNT = 0.5
BATCHES = (BATCH, 8 * BATCH)


def run(bench: Bench) -> list[Table]:
    weights = min(bench.weights, MOST)
    return [_global(bench, weights), _steps(bench, weights), _memory(bench, weights)]


def _pruned(model: nn.Module) -> list[tuple[nn.Module, str]]:
    return [(module, "weight") for module in model.modules() if isinstance(module, nn.Linear)]


def prune(library: ModuleType, model: nn.Module, amount: float = AMOUNT) -> None:
    library.global_unstructured(_pruned(model), library.L1Unstructured, amount=amount)


def _dense(model: nn.Module, library: ModuleType, values: list[torch.Tensor]) -> None:
    """As it was before the first pruning."""
    for module, name in _pruned(model):
        library.remove(module, name)
    with torch.no_grad():
        for (module, _), value in zip(_pruned(model), values, strict=True):
            module.weight.copy_(value)


def _global(bench: Bench, weights: int) -> Table:
    model = Training(weights).model
    values = [module.weight.detach().clone() for module, _ in _pruned(model)]
    rows = []
    for threads in bench.threads:
        bench.say(f"global_unstructured, {in_words(threads)}")
        rounds = Rounds(bench, threads, bench.floor.over(values))
        for name, library in LIBRARIES.items():
            own = copy.deepcopy(model)
            rounds.add(f"first, {name}", lambda m=own, lib=library: prune(lib, m))
            rounds.add(
                f"next, {name}",
                lambda m=own, lib=library: prune(lib, m),
                after=lambda m=own, lib=library: _dense(m, lib, values),
            )
        rounds.run()
        for case, text in (("first", "a dense model"), ("next", "again, half of what is left")):
            rows.append(_row(text, threads, rounds.ms(f"{case}, ours"), rounds.ms(f"{case}, torch")))
        gc.collect()
    count = sum(value.numel() for value in values)
    title = (
        f"global_unstructured(L1Unstructured, amount={AMOUNT}), {count:,} weights in {len(values)} tensors"
    )
    return Table(title, rows)


def _row(case: str, threads: int, ours: float, torchs: float) -> dict[str, Any]:
    return {
        "case": case,
        "threads": threads,
        "ours_ms": ours,
        "torch_ms": torchs,
        "torch_ratio": ours / torchs,
    }


def _steps(bench: Bench, weights: int) -> Table:
    source = Training(weights).model
    width = source[0].norm.normalized_shape[0]
    rows = []
    for threads in bench.threads:
        for batch in BATCHES:
            bench.say(f"training steps, batch {batch}, {in_words(threads)}")
            x = torch.randn(batch, width)
            rounds = Rounds(bench, threads, bench.floor.over([x]))
            for name, library in {"dense": None, **LIBRARIES}.items():
                model = copy.deepcopy(source)
                if library is not None:
                    prune(library, model)
                optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
                rounds.add(name, lambda m=model, o=optimizer, x=x: step(m, o, x))
            rounds.run()
            row = _row(f"batch {batch}", threads, rounds.ms("ours"), rounds.ms("torch"))
            rows.append({**row, "dense_ms": rounds.ms("dense")})
            gc.collect()
    return Table("A training step, SGD with momentum, half of the weights pruned", rows)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, x: torch.Tensor) -> None:
    model(x).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def _memory(bench: Bench, weights: int) -> Table:
    rows = []
    for name in LIBRARIES:
        bench.say(f"memory, {name}")
        found = memory.in_fresh_process(f"prune {name}", weights, 1)
        rows += [
            {"case": f"{text}, {name}", "peak": found[key] / found["weights"]}
            for key, text in (
                ("prune_peak", "while pruning"),
                ("kept", "what stays afterwards"),
                ("train_peak", "while training"),
            )
        ]
    notes = ["Beyond the model; while training, beyond the pruned model: gradients, momentum, activations."]
    return Table("Memory of global_unstructured and of three training steps", rows, notes)


def measure_memory(name: str, weights: int) -> dict[str, Any]:
    """In a process of its own: bytes beyond the model while pruning it, after that, and while training on."""
    library = LIBRARIES[name]
    prune(library, Training(1).model)  # loads the code
    training = Training(weights)
    model = training.model
    count = sum(module.weight.numel() for module, _ in _pruned(model))
    exact, start = memory.forget_peak(), memory.status("VmRSS")
    prune(library, model)
    reached = memory.peak(exact)
    gc.collect()
    exact, stays = memory.forget_peak(), memory.status("VmRSS")
    x = torch.randn(BATCH, model[0].norm.normalized_shape[0])
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
    for _ in range(3):
        step(model, optimizer, x)
    return {
        "weights": count,
        "prune_peak": max(0, reached - start),
        "kept": max(0, stays - start),
        "train_peak": max(0, memory.peak(exact) - stays),
        "exact_peak": exact,
    }
