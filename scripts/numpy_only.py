#!/usr/bin/env python3
"""Prunes a NumPy array and compares with NumPy's own sort; refuses to run where torch is installed."""

from __future__ import annotations

import importlib.util

import bittersweet as bs
import numpy as np

if importlib.util.find_spec("torch"):
    raise SystemExit("numpy_only: torch is installed here, so nothing would be shown of its absence")
weight = np.random.default_rng(0).standard_normal((64, 96), dtype=np.float32)
expected = np.sort(np.abs(weight), axis=None)[weight.size // 2]
event = bs.prune_(bs.ScoreInputs(weight), scorer="magnitude", sparsity=0.5)
smallest = np.abs(weight[weight != 0]).min()
if not (event.pruned == np.count_nonzero(weight == 0) == weight.size // 2 and smallest == expected):
    raise SystemExit(f"numpy_only: {event}; the smallest weight kept is {smallest}, and must be {expected}")
print(f"numpy {np.__version__}: {event.pruned} of {weight.size} weights pruned")
