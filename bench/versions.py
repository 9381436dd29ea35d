"""Versions of the package by turns, for machines whose speed changes all the time: rows and groups of four.

    python bench/versions.py DIRECTORY DIRECTORY [...] [--weights 60e6] [--threads 1 2] [--rounds 15]
                             [--case PART ...] [--out FILE.json]

Each DIRECTORY holds a version, `bittersweet/` with its compiled module, and has a process of its own. In a
round each makes the same masks once, one version after the other, and another one begins in the next. The
masks must be the same bits. Times are medians of the rounds; a ratio is the median of the rounds' own ratios
to the first version.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import hashlib
import json
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from machine import processor

Arms = list["Version"]


class Version:
    """A process that makes masks by one version of the package."""

    def __init__(self, directory: Path, weights: int) -> None:
        if not (directory / "bittersweet").is_dir():
            raise SystemExit(
                f"DIRECTORY: there is no 'bittersweet' in {directory}; name the directory above it"
            )
        self.directory = directory
        command = [sys.executable, __file__, "--serve", str(directory), "--weights", str(weights)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, request: dict[str, Any]) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise SystemExit(f"the process of {self.directory} ended; what it said is above")
        return json.loads(answer)

    def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def serve(directory: Path, weights: int) -> None:
    """Answers requests: names of what there is, a case to prepare, or a round of it, in milliseconds."""
    sys.path.insert(0, str(directory.resolve()))
    import bittersweet as bs
    import torch
    from sections import rows

    memory, shapes = rows.memory_of(weights), rows.shapes(weights // rows.LAYERS)
    work: Callable[[], Any] = list
    for line in sys.stdin:
        request = json.loads(line)
        if "cases" in request:
            names = [[case, scope] for case, shape in shapes.items() for scope in rows.scopes_of(shape)]
            print(json.dumps(names), flush=True)
        elif "case" in request:
            case, scope = request["case"], request["scope"]
            torch.set_num_threads(request["threads"])
            inputs = [
                bs.ScoreInputs(w, **shapes[case].axes) for w in rows.weights_of(case, shapes[case], memory)
            ]
            work = functools.partial(rows.make, inputs, scope)
            made = hashlib.sha256()
            for mask in work():
                made.update(bytes(mask.words))
            print(json.dumps(made.hexdigest()), flush=True)
        else:
            begin = time.perf_counter()
            work()
            print(json.dumps(1e3 * (time.perf_counter() - begin)), flush=True)


def compare(versions: Arms, case: str, scope: str, threads: int, rounds: int) -> dict[str, Any]:
    bits = {version.ask({"case": case, "scope": scope, "threads": threads}) for version in versions}
    if len(bits) != 1:
        raise SystemExit(f"{case}, {scope}: the versions make different masks")
    times: list[list[float]] = [[] for _ in versions]
    for turn in range(rounds):
        for i in range(len(versions)):
            arm = (turn + i) % len(versions)
            times[arm].append(versions[arm].ask({}))
    ratios = [[own / first for own, first in zip(arm, times[0], strict=True)] for arm in times]
    return {
        "case": f"{case}: {scope}",
        "threads": threads,
        "ms": [statistics.median(arm) for arm in times],
        "ratio": [statistics.median(arm) for arm in ratios],
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Versions of the package by turns.")
    parser.add_argument(
        "versions", nargs="*", type=Path, metavar="DIRECTORY", help="above a version's bittersweet/"
    )
    parser.add_argument("--weights", type=lambda text: int(float(text)), default=60_000_000)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument(
        "--case", nargs="+", default=[""], metavar="PART", help="cases whose name has one of these"
    )
    parser.add_argument("--out", type=Path, help="write everything as JSON")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.serve is not None:
        serve(options.serve, options.weights)
        return
    if len(options.versions) < 2:
        parser.error(f"DIRECTORY: {len(options.versions)} given; name two versions or more")

    versions = [Version(directory, options.weights) for directory in options.versions]
    found = []
    for case, scope in versions[0].ask({"cases": True}):
        if not any(part in f"{case}: {scope}" for part in options.case):
            continue
        for threads in options.threads:
            one = compare(versions, case, scope, threads, options.rounds)
            found.append(one)
            ms = "  ".join(f"{value:8.1f}" for value in one["ms"])
            ratio = "  ".join(f"{value:5.2f}" for value in one["ratio"])
            print(f"{one['case']:60} {threads}  ms {ms}  ratio {ratio}", flush=True)
    for version in versions:
        version.end()
    if not found:
        raise SystemExit(f"--case {' '.join(options.case)}: no case's name has one of these")
    if options.out:
        about = {
            "date": datetime.date.today().isoformat(),
            "command": shlex.join(["python", *sys.argv]),
            "cpu": processor(),
            "rounds": options.rounds,
        }
        options.out.write_text(json.dumps({"about": about, "cases": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
