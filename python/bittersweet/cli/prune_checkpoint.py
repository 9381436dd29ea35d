"""``python -m bittersweet prune-checkpoint IN OUT``: a pruned copy of a checkpoint that is never loaded."""

from __future__ import annotations

import argparse
import json
import sys

from ..checkpoint_files.pruning import prune_checkpoint

__all__ = ["add_arguments", "run"]

_INTERRUPTED = 130  # as shells report SIGINT


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    parser.description = (
        "Writes a copy of a safetensors checkpoint in which the lowest weights are 0, exactly, whatever its "
        "size. IN is only read; OUT appears when all of it is on disk. The copy is as large as IN."
    )
    parser.add_argument(
        "source", metavar="IN", help="a safetensors file, an index of shards, or a folder of one of these"
    )
    parser.add_argument("out", metavar="OUT", nargs="?", help="a file, or for an index or a folder a folder")
    parser.add_argument("--sparsity", type=float, help="share of the chosen elements to prune, 0 to 1")
    parser.add_argument("--scorer", default="magnitude", help="magnitude (default), or wanda with --norms")
    parser.add_argument("--norms", metavar="FILE", help="norms of input features, as Calibrator.save writes")
    parser.add_argument(
        "--scope", default="global", help="global (default), tensor, row, or N:M such as 2:4 (keeps 2 of 4)"
    )
    parser.add_argument(
        "--include", metavar="GLOB", action="append", default=[], help="prune these and no others; repeatable"
    )
    parser.add_argument(
        "--exclude", metavar="GLOB", action="append", default=[], help="leave these as they are; repeatable"
    )
    parser.add_argument(
        "--transposed",
        metavar="GLOB",
        action="append",
        default=[],
        help="their first axis is the input, as in GPT-2; repeatable",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the plan with reasons; write nothing")
    parser.add_argument("--verify", action="store_true", help="read the copy again and compare every byte")
    parser.add_argument("--overwrite", action="store_true", help="replace what is at OUT")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(options: argparse.Namespace) -> int:
    """Prunes and prints; returns the exit status."""
    try:
        report = prune_checkpoint(
            options.source,
            options.out,
            sparsity=options.sparsity,
            scorer=options.scorer,
            norms=options.norms,
            scope=options.scope,
            include=options.include,
            exclude=options.exclude,
            transposed=options.transposed,
            dry_run=options.dry_run,
            verify=options.verify,
            overwrite=options.overwrite,
        )
    except KeyboardInterrupt:
        print("bittersweet: interrupted; no part of a copy is left", file=sys.stderr)
        return _INTERRUPTED
    print(json.dumps(report.to_dict(), indent=2) if options.json else report)
    return 0
