"""Trains three small models dense, and pruned by magnitude, bitter7 and RigL at 50, 80 and 90 %.

    python bench/trainings.py [--tasks NAME ...] [--seeds N] [--quick] [--out FILE.json] [--plot FILE.png]
                              [--markdown FILE.md]

Needs scikit-learn, and matplotlib for the picture: pip install ".[trainings]". Every finished training is in
FILE.json at once, and one that is there already is not run again, so that the command can be stopped and
given again. On one busy core it took twenty minutes.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from learning import digits, gpt, sentences
from learning.results import Results
from learning.task import ARMS, train

TASKS = {"digits": digits.task, "gpt": gpt.task, "sentences": sentences.task}


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Three small trainings, dense and pruned.")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), metavar="NAME",
                        help=f"only these of {', '.join(TASKS)}")  # fmt: skip
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each arm (default 3)")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default 1)")
    parser.add_argument("--quick", action="store_true", help="a few steps of everything: to try it out")
    parser.add_argument("--out", type=Path, help="keep the results here, and go on from those that are there")
    parser.add_argument("--plot", type=Path, help="draw a picture (matplotlib)")
    parser.add_argument("--markdown", type=Path, help="write the table")
    options = parser.parse_args(arguments)
    if min(options.seeds, options.threads) < 1:
        parser.error("--seeds and --threads: at least 1")
    for path in (options.out, options.plot, options.markdown):
        if path is not None and not path.resolve().parent.is_dir():
            parser.error(f"{path}: there is no such folder")
    return options


def command(options: argparse.Namespace) -> str:
    """The command line without names of files."""
    words = ["python bench/trainings.py", f"--seeds {options.seeds}", f"--threads {options.threads}"]
    if options.quick:
        words.append("--quick")
    if options.tasks != list(TASKS):
        words += ["--tasks", *options.tasks]
    return " ".join(words)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    try:
        tasks = [TASKS[name](options.quick) for name in options.tasks]
        results = Results(options.out, command(options), tasks)
    except ModuleNotFoundError as error:
        print(f"trainings: {error}; pip install '.[trainings]' has what is needed", file=sys.stderr)
        return 2
    except ValueError as error:
        print(f"trainings: {error}", file=sys.stderr)
        return 2
    wanted = [(task, arm, seed) for task in tasks for seed in range(options.seeds) for arm in ARMS]
    todo = [one for one in wanted if not results.has(*one)]
    print(f"{len(todo)} trainings to do, {len(wanted) - len(todo)} done before", flush=True)
    begin = time.perf_counter()
    for done, (task, arm, seed) in enumerate(todo, 1):
        result = train(task, arm, seed)
        results.add(result)
        spent = time.perf_counter() - begin
        print(
            f"[{spent:6.1f} s, {spent / done * (len(todo) - done):5.0f} s left] {task.name}, seed {seed}, "
            f"{arm.name}: {result.value:.4g} in {result.seconds:.1f} s",
            flush=True,
        )
    print(f"\n{results.table()}")
    if options.markdown is not None:
        options.markdown.write_text(results.table() + "\n", encoding="utf-8")
    if options.plot is not None:
        from learning.picture import draw

        draw(results, options.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
