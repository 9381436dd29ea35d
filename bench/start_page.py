"""Draws docs/images/cost.svg, the picture of the start page, from bench/results.

Usage: python bench/start_page.py [FILE]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from pictures import OTHERS, OURS, bars, svg, title

ROOT = Path(__file__).resolve().parents[1]
SELECTION = "2026-11-21-xeon-avx512.json"
TRAINING = "2026-11-28-xeon-avx512-training.json"
THREADS, WEIGHTS = 2, 100_000_000


def rows(file: str, section: str, title: str) -> list[dict[str, Any]]:
    sections = json.loads((ROOT / "bench/results" / file).read_text(encoding="utf-8"))["sections"]
    table = next(table for table in sections[section] if table["title"].startswith(title))
    return [row for row in table["rows"] if row["threads"] == THREADS]


def selection() -> dict[str, float]:
    """Milliseconds for one exact threshold of bitter7, by what finds it."""
    found = {row["case"]: row for row in rows(SELECTION, "peers", "Peers")}
    return {
        "Bittersweet": found["bittersweet threshold"]["ours_ms"],
        "score, numpy.partition": found["score + numpy partition in place"]["peer_ms"],
        "score, torch.kthvalue": found["score + torch.kthvalue"]["peer_ms"],
    }


def training() -> dict[str, float]:
    """Milliseconds for a step with an event every 100 steps, by what holds the masks."""
    every = ", every 100 steps"
    found = {
        row["case"]: row
        for row in rows(TRAINING, "training", "Optimizer steps with events")
        if row["weights"] == WEIGHTS
    }
    own = found[f'bittersweet.optim, hold="auto"{every}']
    return {
        "AdamW of torch, not pruned": own["torch_ms"],
        "AdamW of Bittersweet": own["ours_ms"],
        'AdamW of torch, hold="grads"': found[f'torch, hold="grads"{every}']["ours_ms"],
        'AdamW of torch, hold="weights"': found[f'torch, hold="weights"{every}']["ours_ms"],
    }


def draw(path: Path) -> None:
    titles = ("An exact threshold", "An optimizer step with masks")
    with svg(path, 2, figsize=(7, 5), height_ratios=(3, 4)) as (_, panels):
        for panel, text, values in zip(panels, titles, (selection(), training()), strict=True):
            bars(panel, values, [OURS if "Bittersweet" in name else OTHERS for name in values], "{:,.0f} ms")
            title(panel, text)


if __name__ == "__main__":
    draw(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs/images/cost.svg")
