"""Pruning a checkpoint on disk, beside copies and reads of the same file, and beside loading it whole.

    python bench/checkpoint.py [--gigabytes 8] [--dtype BF16] [--scope global] [--rounds 3] [--warm]
                               [--folder DIR] [--peer-gigabytes 1] [--out FILE.json]

Needs twice the gigabytes on the disk of --folder; what it writes there is removed in the end. A round does
each work once, in turn; before each, the source is dropped from the system's cache unless --warm, as a
checkpoint larger than memory would be. Times are medians; ours includes starting Python, and having all of
the copy on disk. The peers load all tensors with safetensors and torch, and need twenty times their gigabytes
of memory.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import bittersweet as bs
import numpy as np

COLUMNS, ROWS = 4096, 14336
SIZES = {"F32": 4, "F16": 2, "BF16": 2}
BOUND = 1.3
OURS = "prune-checkpoint"
PEERS = ("kthvalue of a concatenation", "torch.nn.utils.prune.global_unstructured")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measures prune-checkpoint beside copies of the file.")
    parser.add_argument("--gigabytes", type=float, default=8, help="size of the checkpoint (default 8)")
    parser.add_argument("--dtype", choices=SIZES, default="BF16")
    parser.add_argument("--scope", default="global")
    parser.add_argument("--rounds", type=int, default=3, help="rounds behind a median (default 3)")
    parser.add_argument("--warm", action="store_true", help="leave the source in the system's cache")
    parser.add_argument("--folder", type=Path, help="where to work (default: the system's for such files)")
    parser.add_argument("--peer-gigabytes", type=float, default=1, help="size for the peers; 0: none of them")
    parser.add_argument("--out", type=Path, help="write everything as JSON")
    return parser.parse_args(arguments)


def write_checkpoint(path: Path, gigabytes: float, dtype: str) -> None:
    """Matrices of normal weights under scales of their own, behind a header of odd length."""
    per = min(ROWS * COLUMNS * SIZES[dtype], int(gigabytes * 1e9))
    rows = max(1, per // (COLUMNS * SIZES[dtype]))
    count = max(1, round(gigabytes * 1e9 / per))
    entries: dict[str, Any] = {}
    for at in range(count):
        begin, size = at * rows * COLUMNS * SIZES[dtype], rows * COLUMNS * SIZES[dtype]
        name = f"model.layers.{at}.mlp.up_proj.weight"
        entries[name] = {"dtype": dtype, "shape": [rows, COLUMNS], "data_offsets": [begin, begin + size]}
    text = json.dumps(entries).encode()
    text += b" " * ((3 - len(text)) % 8)
    random = np.random.default_rng(0)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _ in range(count):
            scale = np.float32(0.02 * np.exp(0.3 * random.standard_normal()))
            for begin in range(0, rows, 1024):
                part = random.standard_normal((min(1024, rows - begin), COLUMNS), dtype=np.float32) * scale
                file.write(_as_dtype(part, dtype).tobytes())
        file.flush()
        os.fsync(file.fileno())


def _as_dtype(values: Any, dtype: str) -> Any:
    if dtype == "BF16":
        return (values.view(np.uint32) >> 16).astype(np.uint16)
    return values.astype(np.float16) if dtype == "F16" else values


def in_child(work: str, *arguments: str) -> dict[str, Any]:
    """`work` of this file in a process of its own: what it prints, with its seconds."""
    package = str(Path(bs.__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
    begin = time.perf_counter()
    done = subprocess.run(
        [sys.executable, __file__, "--child", work, *arguments],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - begin
    if done.returncode != 0:
        raise RuntimeError(f"'{work}' failed:\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout)
    return {**found, "seconds": seconds}


def child(work: str, source: str, out: str, scope: str) -> None:
    """Prints one JSON object: elements pruned, and the peak above what was resident after the imports."""
    function = {OURS: _ours, PEERS[0]: _by_kthvalue, PEERS[1]: _by_torch_prune}[work]
    if work == OURS:
        bs.prune_checkpoint  # noqa: B018 (imports it)
    else:
        import safetensors.torch  # noqa: F401
        import torch.nn.utils.prune  # noqa: F401
    before = _status("VmRSS")
    pruned = function(source, out, scope)
    print(json.dumps({"pruned": pruned, "peak_mib": (_status("VmHWM") - before) / 1024}))


def _status(field: str) -> int:
    text = Path("/proc/self/status").read_text(encoding="ascii")
    return int(text.partition(f"{field}:")[2].split()[0])


def _ours(source: str, out: str, scope: str) -> int:
    report = bs.prune_checkpoint(source, out, sparsity=0.5, scope=scope, show_progress=False)
    return report.pruned


def _by_kthvalue(source: str, out: str, scope: str) -> int:
    import torch
    from safetensors.torch import load_file, save_file

    tensors = load_file(source)
    scores = torch.cat([tensor.abs().flatten() for tensor in tensors.values()])
    value = torch.kthvalue(scores, scores.numel() // 2).values
    for tensor in tensors.values():
        tensor[tensor.abs() <= value] = 0
    save_file(tensors, out)
    return sum(int((tensor == 0).sum()) for tensor in tensors.values())


def _by_torch_prune(source: str, out: str, scope: str) -> int:
    import torch
    from safetensors.torch import load_file, save_file
    from torch.nn.utils import prune

    tensors = load_file(source)
    modules = {}
    for name, tensor in tensors.items():
        modules[name] = torch.nn.Module()
        modules[name].weight = torch.nn.Parameter(tensor, requires_grad=False)
    chosen = [(module, "weight") for module in modules.values()]
    prune.global_unstructured(chosen, prune.L1Unstructured, amount=0.5)
    for module, name in chosen:
        prune.remove(module, name)
    save_file({name: module.weight.detach().contiguous() for name, module in modules.items()}, out)
    return sum(int((module.weight == 0).sum()) for module in modules.values())


def forget(path: Path) -> None:
    """Drops a file from the system's cache."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def copy(source: Path, out: Path, *, sync: bool) -> None:
    with out.open("wb") as target:
        subprocess.run(["cat", source], stdout=target, check=True)
        if sync:
            os.fsync(target.fileno())


def read(source: Path) -> None:
    subprocess.run(["cat", source], stdout=subprocess.DEVNULL, check=True)


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    source, out = folder / "in.safetensors", folder / "out"
    write_checkpoint(source, options.gigabytes, options.dtype)
    found: list[dict[str, Any]] = []
    works: dict[str, Callable[[], None]] = {
        "cat to a copy": lambda: copy(source, out, sync=False),
        "cat to a copy, on disk": lambda: copy(source, out, sync=True),
        "cat to nowhere": lambda: read(source),
        OURS: lambda: found.append(in_child(OURS, str(source), str(out), options.scope)),
    }
    times: dict[str, list[float]] = {name: [] for name in works}
    for number in range(options.rounds):
        for name, work in works.items():
            if not options.warm:
                forget(source)
            begin = time.perf_counter()
            work()
            times[name].append(time.perf_counter() - begin)
            print(f"round {number + 1}: {name}: {times[name][-1]:.2f} s", flush=True)
            out.unlink(missing_ok=True)
    allowed = [
        BOUND * (2 * copied + once)
        for copied, once in zip(times["cat to a copy"], times["cat to nowhere"], strict=True)
    ]
    ratios = [BOUND * ours / bound for ours, bound in zip(times[OURS], allowed, strict=True)]
    source.unlink()
    return {
        "bytes": int(options.gigabytes * 1e9),
        "seconds": {name: statistics.median(taken) for name, taken in times.items()},
        "all_seconds": times,
        "to_two_copies_and_a_read": statistics.median(ratios),
        "bound": BOUND,
        "peak_mib": max(row["peak_mib"] for row in found),
        "pruned": found[0]["pruned"],
    }


def measure_peers(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    source, out = folder / "peers.safetensors", folder / "out"
    write_checkpoint(source, options.peer_gigabytes, options.dtype)
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in (OURS, *PEERS)}
    for _ in range(options.rounds):
        for name, found in rows.items():
            found.append(in_child(name, str(source), str(out), "global"))
            print(f"{name}: {found[-1]}", flush=True)
            out.unlink()
    source.unlink()
    return {
        name: {
            "bytes": int(options.peer_gigabytes * 1e9),
            "seconds": statistics.median(row["seconds"] for row in found),
            "peak_mib": statistics.median(row["peak_mib"] for row in found),
            "pruned": found[0]["pruned"],
        }
        for name, found in rows.items()
    }


def cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown"


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    words = [f"--gigabytes {options.gigabytes:g}", f"--dtype {options.dtype}", f"--scope {options.scope}"]
    words += [f"--rounds {options.rounds}", *(["--warm"] if options.warm else [])]
    words += [f"--peer-gigabytes {options.peer_gigabytes:g}"]
    results: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "command": f"python bench/checkpoint.py {' '.join(words)}",
        "cpu": cpu(),
        "cpus": os.cpu_count(),
        "bittersweet": bs.__version__,
    }
    folder = Path(tempfile.mkdtemp(prefix="bittersweet-bench-", dir=options.folder))
    try:
        results["load_before"] = os.getloadavg()
        results["checkpoint"] = measure(options, folder)
        if options.peer_gigabytes > 0:
            results["peers"] = measure_peers(options, folder)
        results["load_after"] = os.getloadavg()
    finally:
        shutil.rmtree(folder)
    print(json.dumps(results, indent=1))
    if options.out is not None:
        options.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(*sys.argv[2:])
    else:
        sys.exit(main())
