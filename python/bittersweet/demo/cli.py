"""The command line of `python -m bittersweet demo`."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import textwrap
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bittersweet.demo.plan import DEFAULT_STEPS, Arm, DemoError, Plan, percent
from bittersweet.demo.threads import MAX_THREADS, set_threads

if TYPE_CHECKING:
    from bittersweet.demo.text import Corpus
    from bittersweet.demo.train import ArmResult

_DESCRIPTION = """\
Trains a byte-level GPT of about a million parameters, dense and pruned, and compares the arms: held-out
loss, sparsity, and what the pruning costs. The default run takes under four minutes on two CPU cores."""
_UNUSABLE = {"input_norm": "norms of the input features", "scores": "scores computed by the caller"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the demo to `parser`."""
    add = parser.add_argument
    parser.description = parser.description or _DESCRIPTION
    add(
        "--steps",
        type=int,
        help=f"training steps of each arm (default {DEFAULT_STEPS}, fewer on a slow machine)",
    )
    add(
        "--sparsity",
        type=float,
        nargs="+",
        default=[0.5, 0.8],
        metavar="S",
        help="fractions to prune (0.5 0.8)",
    )
    add(
        "--scorer",
        nargs="+",
        default=["magnitude", "bitter7", "random"],
        metavar="NAME",
        help="scorers to compare (magnitude bitter7 random)",
    )
    add("--seeds", type=int, default=1, metavar="N", help="run everything with seeds 0 .. N-1 (1)")
    add("--text", metavar="FILE", help="text to learn from (the sources of Python's standard library)")
    add("--out", default="bittersweet-demo", metavar="DIR", help="folder for the results (bittersweet-demo)")
    add("--device", default="cpu", metavar="D", help="cpu, cuda, or one GPU such as cuda:1 (cpu)")
    add("--threads", type=int, metavar="N", help=f"CPU threads (every core, but at most {MAX_THREADS})")


def run(args: argparse.Namespace) -> int:
    """Runs the demo.

    Returns 0; 2 for a request that cannot be served (one line on stderr, before any training); 1 when torch
    is missing or a check on the pruned models failed; 130 when interrupted.
    """
    try:
        return _run(args)
    except DemoError as problem:
        _complain(f"error: {problem}")
        return 2
    except KeyboardInterrupt:
        _complain("interrupted; nothing was written")
        return 130


def _run(args: argparse.Namespace) -> int:
    started = time.perf_counter()
    plan = Plan.for_steps(DEFAULT_STEPS if args.steps is None else args.steps)
    arms = _arms(args.scorer, args.sparsity)
    if args.seeds < 1:
        raise DemoError(f"--seeds {args.seeds} is too small; give 1 or more")
    from bittersweet.demo.text import load_corpus

    corpus = load_corpus(args.text)
    if importlib.util.find_spec("torch") is None:
        _complain("the demo trains with PyTorch, which is not installed; run: python -m pip install torch")
        return 1
    folder = output_folder(args.out)
    threads = set_threads(args.threads)
    _check_device(args.device, arms)
    from bittersweet.demo.train import CheckFailed, train_seed

    _introduce(plan, arms, corpus, args.seeds, threads, args.device)
    results: list[ArmResult] = []
    with warnings.catch_warnings(record=True) as notes:
        for seed in range(args.seeds):
            adapt = args.steps is None and seed == 0
            try:
                plan, done = train_seed(plan, arms, corpus, seed, args.device, adapt=adapt, say=_say)
            except CheckFailed as problem:
                _complain(f"check failed: {problem}")
                return 1
            results += done
    how = {"seeds": args.seeds, "threads": threads, "device": _device_name(args.device)}
    _conclude(folder, results, plan, corpus, how, [str(note.message) for note in notes])
    _say(f"\nDone in {time.perf_counter() - started:.0f} s.")
    return 0


def _arms(scorers: Sequence[str], levels: Sequence[float]) -> list[Arm]:
    """The dense arm, then every scorer at every sparsity, without repetitions."""
    from bittersweet.options.scorers import scorer_rows

    for level in levels:
        if not 0.0 < level < 1.0:
            raise DemoError(f"--sparsity {level:g} is not between 0 and 1; give fractions: 0.5 prunes half")
    known = scorer_rows()
    usable = [name for name, row in known.items() if not set(row["reads"]) & set(_UNUSABLE)]
    for name in scorers:
        if name not in known:
            raise DemoError(f"--scorer {name} is unknown; choose from {', '.join(usable)}")
        for column in set(known[name]["reads"]) & set(_UNUSABLE):
            raise DemoError(f"--scorer {name} needs {_UNUSABLE[column]}, which a training loop does not have")
    pruned = [Arm(scorer, level) for level in dict.fromkeys(levels) for scorer in dict.fromkeys(scorers)]
    return [Arm(None, 0.0), *pruned]


def _check_device(device: str, arms: Sequence[Arm]) -> None:
    """Raises `DemoError` for a device that torch or this build of Bittersweet cannot use."""
    import torch

    from bittersweet import _core

    if device == "cpu":
        return
    kind, _, index = device.partition(":")
    if kind != "cuda" or (index and not index.isdecimal()):
        raise DemoError(f"--device {device} is unknown; give cpu, cuda, or one GPU such as cuda:1")
    if not torch.cuda.is_available():
        raise DemoError(f"--device {device}: torch {torch.__version__} finds no CUDA device; leave it out")
    if int(index or 0) >= torch.cuda.device_count():
        raise DemoError(f"--device {device}: there are {torch.cuda.device_count()} CUDA devices, from cuda:0")
    if not _core.CUDA_BUILT:
        raise DemoError(
            f"--device {device}: this build of Bittersweet has no CUDA engine "
            f"({_core.build_info()['cuda']}); build "
            "it with BITTERSWEET_CUDA=on, or leave --device out"
        )
    if any(arm.scorer == "bitter4" for arm in arms):
        raise DemoError(
            "--scorer bitter4 works tensor by tensor, which the CUDA engine does not do; leave it out"
        )


def _device_name(device: str) -> str:
    import torch

    return device if device == "cpu" else f"{device} ({torch.cuda.get_device_name(device)})"


def output_folder(path: str) -> Path:
    """Makes the folder if need be; raises `DemoError` if it cannot be made or written to."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise DemoError(f"--out {path}: cannot be made ({problem.strerror}); give a folder") from None
    if not os.access(folder, os.W_OK):
        raise DemoError(f"--out {path}: is not writable; give another folder")
    return folder


def _introduce(
    plan: Plan, arms: Sequence[Arm], corpus: Corpus, seeds: int, threads: int, device: str
) -> None:
    import torch

    import bittersweet
    from bittersweet.demo.model import ByteGPT

    parameters = sum(parameter.numel() for parameter in ByteGPT(plan).parameters())
    levels = ", ".join(percent(level) for level in dict.fromkeys(arm.sparsity for arm in arms[1:]))
    scorers = ", ".join(dict.fromkeys(str(arm.scorer) for arm in arms[1:]))
    _say(
        f"Bittersweet {bittersweet.__version__} · torch {torch.__version__} · {threads} CPU threads"
        f"{'' if device == 'cpu' else f' · {_device_name(device)}'}\n"
        f"Text   {corpus.source}: {len(corpus.train):,} bytes to train on, {len(corpus.held_out):,} held out "
        f"(sha256 {corpus.sha256[:16]})\n"
        f"Model  byte-level GPT, {parameters:,} parameters, {plan.layers} blocks of width {plan.width}; "
        f"{plan.tokens_per_step} bytes per step\n"
        f"Arms   dense; {scorers}, each at {levels}; {seeds} {'seed' if seeds == 1 else 'seeds'}\n"
        f"Plan   {plan.steps} steps; the first {plan.begin_step} are dense and done once per seed: every arm "
        f"goes on from a copy,\n       with the same data order; {plan.events} mask events up to step "
        f"{plan.ramp_end}, then the masks stay\n"
    )


def _conclude(
    folder: Path, results: list[ArmResult], plan: Plan, corpus: Corpus, how: dict[str, Any], notes: list[str]
) -> None:
    import torch

    import bittersweet
    from bittersweet.demo import report

    summaries = report.summarize(results)
    _say(f"\n{report.table(summaries)}\n")
    for line in [*report.remarks(results, summaries, plan, corpus.unigram_loss), *dict.fromkeys(notes)]:
        _say(textwrap.fill(line, 110, initial_indent="- ", subsequent_indent="  "))
    versions = {"bittersweet": bittersweet.__version__, "torch": torch.__version__}
    how |= {**versions, "build": bittersweet.build_info()}
    written = report.write_files(folder, results, summaries, plan, corpus, how)
    if importlib.util.find_spec("matplotlib") is not None:
        from bittersweet.demo.figures import draw

        written += draw(folder, results, plan)
    else:
        _say("The plots were left out, because matplotlib is missing; run: python -m pip install matplotlib")
    _say("\nWritten:\n" + "\n".join(f"  {path}" for path in written))


def _say(line: str) -> None:
    print(line, flush=True)


def _complain(line: str) -> None:
    print(f"bittersweet demo: {line}", file=sys.stderr)
