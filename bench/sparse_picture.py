"""Draws docs/images/sparse_speed.svg: speed of packed products over the share of zeros.

python bench/sparse_picture.py --results RESULTS.json --out FILE.svg
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
from pathlib import Path
from typing import Any

from measure import in_words
from pictures import FONT, OTHERS, OURS, SECOND, svg, title

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench/results/2026-11-29-epyc-avx512-sparse.json"
CASE = re.compile(r"bfloat16, (?P<zeros>[\d.]+) ?%, batch 1")
TABLES = {
    "y = x W^T": "auto",
    "The layouts": None,
}  # what is drawn as one line; None: each layout by its name
COLORS = {"strips": OURS, "delta": SECOND, "auto": "#00796b"}
Line = dict[float, float]
"""Times the speed of F.linear, by percent of zeros, ascending."""


def lines(path: Path) -> dict[int, dict[str, Line]]:
    """By threads: a line for every layout, and that of torch.mv as "torch.mv"."""
    found: dict[int, dict[str, Line]] = {}
    for table in json.loads(path.read_text(encoding="utf-8"))["sections"]["sparse"]:
        begin = next((begin for begin in TABLES if table["title"].startswith(begin)), None)
        for row in table["rows"] if begin else []:
            if (case := CASE.fullmatch(row["case"])) is None:
                continue
            zeros, by_name = float(case["zeros"]), found.setdefault(row["threads"], {})
            layout = TABLES[begin or ""] or row["layout"].removesuffix(" (auto)")
            by_name.setdefault(layout, {})[zeros] = row["torch_ms"] / row["ours_ms"]
            if "mv_ms" in row:
                by_name.setdefault("torch.mv", {})[zeros] = row["torch_ms"] / row["mv_ms"]
    return {
        threads: {name: dict(sorted(line.items())) for name, line in by_name.items()}
        for threads, by_name in found.items()
    }


def break_even(line: Line, other: Line) -> float | None:
    """The percent of zeros from which a layout is as fast as the better of F.linear (1) and `other`; None: as
    far as was measured it is always faster, or never as fast."""
    ahead = [(zeros, speed - max(1.0, other[zeros])) for zeros, speed in line.items()]
    for (low, before), (high, after) in itertools.pairwise(ahead):
        if before < 0 <= after:
            return low + (high - low) * before / (before - after)
    return None


def draw(results: Path, path: Path) -> None:
    by_threads = lines(results)
    count = len(by_threads)
    with svg(path, 1, count, figsize=(7, 3.8), sharey=True, squeeze=False) as (figure, panels):
        for panel, (threads, found) in zip(panels[0], by_threads.items(), strict=True):
            _panel(panel, found)
            title(panel, in_words(threads))
            panel.set_xlabel("zeros, %")
        panels[0][0].set_ylabel("times the speed of F.linear")
        handles, labels = panels[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)


def _panel(panel: Any, found: dict[str, Line]) -> None:
    mv = found["torch.mv"]
    panel.axhline(1.0, color="#555555", linewidth=1.2, label="F.linear")
    panel.plot(list(mv), list(mv.values()), color=OTHERS, linewidth=1.5, linestyle="--", label="torch.mv")
    layouts = {name: line for name, line in found.items() if name != "torch.mv"}
    for name, line in layouts.items():
        style = {"linewidth": 6, "alpha": 0.3} if name == "auto" else {"linewidth": 2, "marker": "o"}
        color = COLORS.get(name, OURS)
        panel.plot(list(line), list(line.values()), color=color, markersize=4, label=name, **style)
    chosen = layouts.get("auto") or layouts["strips"]
    if (place := break_even(chosen, mv)) is not None:
        panel.axvline(place, color="#555555", linewidth=1, linestyle=":")
        panel.annotate(
            f"break-even\n{place:.0f} %", (place, 0.95), xycoords=("data", "axes fraction"), xytext=(5, 0),
            textcoords="offset points", va="top", fontsize=FONT - 2,
        )  # fmt: skip
    panel.set_xticks(range(0, 101, 20))
    panel.set_xlim(min(chosen) - 3, 100)
    panel.set_ylim(bottom=0)
    panel.grid(alpha=0.25)
    panel.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Draws speed of packed products over the share of zeros.")
    wrote = "what `python bench/run.py --section sparse --out RESULTS.json` wrote (default: %(default)s)"
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="RESULTS.json", help=wrote)
    parser.add_argument("--out", type=Path, default=ROOT / "docs/images/sparse_speed.svg", metavar="FILE.svg")
    given = parser.parse_args()
    draw(given.results, given.out)
