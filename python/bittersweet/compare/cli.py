"""The command line of `python -m bittersweet compare`."""

from __future__ import annotations

import argparse
import importlib.util
import shlex
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

from bittersweet.compare import histories
from bittersweet.compare.catalogue import entries
from bittersweet.demo.cli import output_folder
from bittersweet.demo.plan import DemoError, Plan
from bittersweet.demo.threads import MAX_THREADS, set_threads

DEFAULT_STEPS, DEFAULT_SEEDS, DEFAULT_LEVELS = 500, 3, (0.5, 0.7, 0.9)
QUICK_STEPS, QUICK_SEEDS = 24, 2
_MODEL = {"width": 128, "heads": 4, "layers": 2, "batch": 8}
_QUICK_MODEL = {"width": 32, "heads": 2, "layers": 1, "batch": 4, "context": 32, "held_out_windows": 16}
_CALIBRATION_WINDOWS, _QUICK_CALIBRATION_WINDOWS = 128, 16
_DESCRIPTION = """\
Measures every scorer on a byte-level GPT, smaller than the demo's, on the CPU: once per seed a dense model is
trained and pruned one-shot by every scorer, scope and sparsity; then every scorer prunes during training. The
default run takes tens of minutes on two cores."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the comparison to `parser`."""
    add = parser.add_argument
    parser.description = parser.description or _DESCRIPTION
    add("--steps", type=int, metavar="N", help=f"training steps of each run ({DEFAULT_STEPS})")
    add("--seeds", type=int, metavar="K", help=f"run everything with seeds 0 .. K-1 ({DEFAULT_SEEDS})")
    add("--scorer", nargs="+", metavar="NAME", help="scorers to compare (all)")
    add(
        "--sparsity",
        type=float,
        nargs="+",
        default=list(DEFAULT_LEVELS),
        metavar="S",
        help="fractions to prune one-shot (0.5 0.7 0.9); overlaps are taken at the first",
    )
    add(
        "--train-sparsity",
        type=float,
        metavar="S",
        help="fraction to prune during training (the largest of --sparsity)",
    )
    add("--text", metavar="FILE", help="text to learn from (the sources of Python's standard library)")
    add(
        "--out",
        default="bittersweet-compare",
        metavar="DIR",
        help="folder for the results (bittersweet-compare)",
    )
    add("--threads", type=int, metavar="N", help=f"CPU threads (every core, but at most {MAX_THREADS})")
    add(
        "--quick",
        action="store_true",
        help=f"a tiny model, {QUICK_STEPS} steps, {QUICK_SEEDS} seeds: shows that it runs, measures nothing",
    )


def run(args: argparse.Namespace) -> int:
    """Runs the comparison.

    Returns 0; 2 for a request that cannot be served (one line on stderr, before any training); 1 when torch
    is missing or a check on a pruned model failed; 130 when interrupted. Whatever was finished is written.
    """
    try:
        return _run(args)
    except DemoError as problem:
        _complain(f"error: {problem}")
        return 2


def _run(args: argparse.Namespace) -> int:
    plan = _plan(args)
    levels, train_sparsity = _sparsities(args.sparsity, args.train_sparsity)
    seeds = args.seeds if args.seeds is not None else QUICK_SEEDS if args.quick else DEFAULT_SEEDS
    if seeds < 1:
        raise DemoError(f"--seeds {seeds} is too small; give 1 or more")
    scored = entries(args.scorer, histories.MAKERS)
    from bittersweet.demo.text import load_corpus

    corpus = load_corpus(args.text)
    if importlib.util.find_spec("torch") is None:
        _complain(
            "the comparison trains with PyTorch, which is not installed; run: python -m pip install torch"
        )
        return 1
    folder = output_folder(args.out)
    threads = set_threads(args.threads)
    from bittersweet.compare import document, tables
    from bittersweet.compare.runs import Findings, Request, compare
    from bittersweet.demo.train import CheckFailed

    windows = _QUICK_CALIBRATION_WINDOWS if args.quick else _CALIBRATION_WINDOWS
    request = Request(plan, scored, levels, train_sparsity, seeds, windows)
    findings = Findings()
    how = _circumstances(plan, seeds, threads, quick=args.quick)
    started = time.perf_counter()

    with warnings.catch_warnings(record=True) as caught:

        def built(*, finished: bool) -> dict[str, Any]:
            notes = dict.fromkeys(str(one.message) for one in caught)
            state = {"seconds": time.perf_counter() - started, "finished": finished}
            return document.build({**how, **state}, request, corpus, findings, list(notes))

        status = 0
        try:
            compare(
                *(request, corpus, findings, _say),
                saved=lambda: document.write(folder, built(finished=False)),
            )
        except CheckFailed as problem:
            _complain(f"check failed: {problem}")
            status = 1
        except KeyboardInterrupt:
            _complain("interrupted; what was finished is written")
            status = 130
        done = built(finished=status == 0)
    written = document.write(folder, done)
    tables.show(done)
    if importlib.util.find_spec("matplotlib") is not None:
        from bittersweet.compare.figures import draw

        written += draw(folder, done)
    else:
        _say("The plots were left out, because matplotlib is missing; run: python -m pip install matplotlib")
    _say("Written:\n" + "\n".join(f"  {path}" for path in written))
    return status


def _plan(args: argparse.Namespace) -> Plan:
    steps = args.steps if args.steps is not None else QUICK_STEPS if args.quick else DEFAULT_STEPS
    model: dict[str, Any] = _QUICK_MODEL if args.quick else _MODEL
    return replace(Plan.for_steps(steps), **model)


def _sparsities(levels: Sequence[float], train: float | None) -> tuple[list[float], float]:
    for option, values in (("--sparsity", levels), ("--train-sparsity", [] if train is None else [train])):
        for value in values:
            if not 0.0 < value < 1.0:
                raise DemoError(f"{option} {value:g} is not between 0 and 1; give fractions: 0.5 prunes half")
    distinct = list(dict.fromkeys(levels))
    return distinct, max(distinct) if train is None else train


def _circumstances(plan: Plan, seeds: int, threads: int, *, quick: bool) -> dict[str, Any]:
    import torch

    import bittersweet
    from bittersweet.demo.model import ByteGPT
    from bittersweet.info import cpu_name
    from bittersweet.model.targets import find_targets

    model = ByteGPT(plan)
    return {
        "command": shlex.join(["python", "-m", "bittersweet", *sys.argv[1:]]),
        "date": datetime.now(timezone.utc).date().isoformat(),
        "cpu": cpu_name(),
        "threads": threads,
        "seeds": seeds,
        "quick": quick,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "eligible": sum(entry.numel for entry in find_targets(model).targets),
        "bittersweet": bittersweet.__version__,
        "torch": torch.__version__,
        "build": bittersweet.build_info(),
    }


def _say(line: str) -> None:
    print(line, flush=True)


def _complain(line: str) -> None:
    print(f"bittersweet compare: {line}", file=sys.stderr)
