"""``python -m bittersweet sparsity FILE``: the exact zeros in a file of weights."""

from __future__ import annotations

import argparse
import json

from ..whole.zeros import sparsity

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    parser.add_argument(
        "file", help="a safetensors file, a torch checkpoint, an index of shards, or a folder of one of these"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--all", action="store_true", help="list tensors of fewer than two axes too")


def run(options: argparse.Namespace) -> int:
    """Counts and prints; returns the exit status."""
    found = sparsity(options.file)
    print(json.dumps(found.to_dict(), indent=2) if options.json else found.table(every=options.all))
    return 0
