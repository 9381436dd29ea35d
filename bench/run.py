"""Measures Bittersweet against bare memory passes and against its peers, side by side in this process.

    python bench/run.py [--weights 100e6] [--threads 1 2] [--quick] [--section NAME ...]
                        [--out FILE.json] [--markdown FILE.md]

Needs the installed package, torch and a C++ compiler. Run it on a quiet machine; at 100 million weights it
needs 12 GB of memory and about twenty minutes. Times are medians after a warm-up round.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import bittersweet as bs
import models
import numpy as np
import tables
import torch
from floor import Floor
from machine import processor
from measure import Bench, Neighbours
from sections import (
    cliffs,
    headline,
    hold,
    orders,
    peers,
    ranks,
    rounding,
    rows,
    selectors,
    sizes,
    sparse,
    torch_prune,
    trackers,
    training,
    wanda,
)
from tables import Table

SECTIONS: dict[str, Callable[[Bench], list[Table]]] = {
    "headline": headline.run,
    "hold": hold.run,
    "orders": orders.run,
    "cliffs": cliffs.run,
    "sizes": sizes.run,
    "peers": peers.run,
    "ranks": ranks.run,
    "rounding": rounding.run,
    "rows": rows.run,
    "selectors": selectors.run,
    "sparse": sparse.run,
    "torch_prune": torch_prune.run,
    "trackers": trackers.run,
    "training": training.run,
    "wanda": wanda.run,
}
JUDGED_FROM = 100_000_000
REPEATS, LEAST_REPEATS = 7, 5


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measures Bittersweet side by side with memory and peers.")
    parser.add_argument("--weights", type=_count, help="weights of the model (default 100e6; --quick: 1e6)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="thread counts (default 1 2)")
    parser.add_argument("--repeats", type=int, help=f"rounds behind a median (default {REPEATS})")
    parser.add_argument("--quick", action="store_true", help="two rounds, bounds not judged: to try it out")
    parser.add_argument("--section", nargs="+", choices=SECTIONS, default=list(SECTIONS), metavar="NAME",
                        help=f"only these of {', '.join(SECTIONS)}")  # fmt: skip
    parser.add_argument("--out", type=Path, help="write everything as JSON")
    parser.add_argument("--markdown", type=Path, help="write the tables as Markdown")
    parser.add_argument("--floor-library", type=Path,
                        help="a built bittersweet_floor, instead of compiling floor.cpp")  # fmt: skip
    options = parser.parse_args(arguments)
    options.weights = options.weights or (1_000_000 if options.quick else JUDGED_FROM)
    options.repeats = options.repeats or (2 if options.quick else REPEATS)
    if options.weights < models.SMALLEST:
        parser.error(f"--weights {options.weights}: at least {models.SMALLEST}")
    if min(options.threads) < 1:
        parser.error(f"--threads {min(options.threads)}: at least 1")
    for path in (options.out, options.markdown):
        if path is not None and not path.resolve().parent.is_dir():
            parser.error(f"{path}: there is no such folder")
    if options.repeats < LEAST_REPEATS and not options.quick:
        parser.error(f"--repeats {options.repeats}: at least {LEAST_REPEATS}, or --quick")
    return options


def _count(text: str) -> int:
    return int(float(text))


def command(options: argparse.Namespace) -> str:
    """The command line without names of files."""
    words = ["python bench/run.py", f"--weights {options.weights}", "--threads", *map(str, options.threads)]
    words.append(f"--repeats {options.repeats}")
    if options.quick:
        words.append("--quick")
    if options.section != list(SECTIONS):
        words += ["--section", *options.section]
    return " ".join(words)


def facts(options: argparse.Namespace, floor: Floor) -> dict[str, Any]:
    """What a reader needs to judge the figures, or to get them again."""
    build = bs.build_info()
    return {
        "date": datetime.date.today().isoformat(),
        "command": command(options),
        "cpu": processor(),
        "cpus": os.cpu_count(),
        "isa": build["isa"],
        "isa_of_the_floor": floor.isa,
        "threads": options.threads,
        "repetitions": options.repeats,
        "bittersweet": f"{bs.__version__} ({build['compiler']}, {build['build_type']})",
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "system": platform.platform(aliased=True, terse=True),
    }


def save(options: argparse.Namespace, about: dict[str, Any], results: dict[str, list[Table]]) -> None:
    """Writes the files that were asked for."""
    if options.out is not None:
        sections = {name: [table.to_dict() for table in found] for name, found in results.items()}
        document = {"about": about, "missed": tables.missed(results), "sections": sections}
        options.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    if options.markdown is not None:
        options.markdown.write_text(tables.document(about, results), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    warnings.filterwarnings("ignore", message=".*exp_avg_sq values are below eps.*")  # as v around 1e-9 is
    judge = not options.quick and options.weights >= JUDGED_FROM
    try:
        floor = Floor(options.floor_library)
    except (RuntimeError, OSError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    about = facts(options, floor)
    print("\n".join(f"{key}: {value}" for key, value in about.items()), flush=True)

    neighbours, begin = Neighbours(), time.perf_counter()
    results: dict[str, list[Table]] = {}
    for name in options.section:

        def say(line: str, name: str = name) -> None:
            print(f"[{time.perf_counter() - begin:6.1f} s] {name}: {line}", flush=True)

        bench = Bench(options.weights, options.threads, options.repeats, judge, floor, say)
        results[name] = SECTIONS[name](bench)
        for table in results[name]:
            print(f"\n{table.text()}\n", flush=True)
        about["seconds"] = round(time.perf_counter() - begin)
        if (share := neighbours.share()) is not None:
            about["processor_time_of_other_processes"] = f"{share:.1%}"
        save(options, about, results)  # after every section: a run is long
    print(tables.verdict(results))
    print(f"processor time of other processes: {about.get('processor_time_of_other_processes', 'unknown')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
