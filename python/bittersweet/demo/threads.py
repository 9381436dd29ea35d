"""How many CPU threads the demo uses, and how they wait for each other."""

from __future__ import annotations

import os
import sys

from bittersweet.demo.plan import DemoError

MAX_THREADS = 8


def set_threads(wanted: int | None) -> int:
    """Gives torch and Bittersweet `wanted` threads (every core, but at most `MAX_THREADS`, if None).

    Must come before the first import of torch to change how its threads wait. Raises `DemoError` below 1.
    """
    threads = min(_cores(), MAX_THREADS) if wanted is None else wanted
    if threads < 1:
        raise DemoError(f"--threads {threads} is too small; give 1 or more")
    if "torch" not in sys.modules:
        # OpenMP threads that spin at every barrier slow a small model down 20 times as soon as another
        # process wants one of the cores.
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    import torch

    import bittersweet

    torch.set_num_threads(threads)
    bittersweet.set_num_threads(threads)
    return threads


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
