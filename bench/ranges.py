"""What ranges under one global budget cost: make_masks with and without, taking turns in one process.

python bench/ranges.py [--weights 20000000] [--tensors 24] [--repeats 9] [--threads 2]
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import bittersweet as bs
import numpy as np


def model(weights: int, tensors: int) -> list[bs.ScoreInputs]:
    """Normal weights, where later tensors are larger by up to a factor of 4."""
    draw, rows = np.random.default_rng(0), weights // tensors // 256
    scales = [1.0 + 3.0 * t / tensors for t in range(tensors)]
    values = [draw.normal(0.0, scale, (rows, 256)).astype(np.float32) for scale in scales]
    return [bs.ScoreInputs(weight, name=f"layer{t}") for t, weight in enumerate(values)]


ARMS: dict[str, dict[str, Any]] = {
    "unbounded": {},
    "cap that nothing reaches": {"tensor_sparsity": {"*": (0.0, 0.99)}},
    "one exact share": {"tensor_sparsity": {"layer0": 0.5}},
    "cap 0.7": {"tensor_sparsity": {"*": (0.0, 0.7)}},
    "from 0.3 to 0.7": {"tensor_sparsity": {"*": (0.3, 0.7)}},
    "from 0.45 to 0.55": {"tensor_sparsity": {"*": (0.45, 0.55)}},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    for name, default in (("weights", 20_000_000), ("tensors", 24), ("repeats", 9), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    bs.set_num_threads(options.threads)
    inputs = model(options.weights, options.tensors)
    spent: dict[str, list[float]] = {arm: [] for arm in ARMS}
    said: dict[str, bs.MaskEvent] = {}
    for _ in range(options.repeats + 1):
        for arm, given in ARMS.items():
            started = time.perf_counter()
            event = bs.make_masks(inputs, sparsity=0.5, scorer="magnitude", **given).event
            spent[arm].append(1e3 * (time.perf_counter() - started))
            assert event is not None
            said[arm] = event
    medians = {arm: statistics.median(times[1:]) for arm, times in spent.items()}
    print(f"{'arm':26} {'ms':>8} {'of unbounded':>13} {'passes':>7} {'at a bound':>11}")
    for arm, median in medians.items():
        event = said[arm]
        print(
            f"{arm:26} {median:8.2f} {median / medians['unbounded']:13.2f} {event.passes:7.2f} "
            f"{len(event.at_bounds):11}"
        )


if __name__ == "__main__":
    main()
