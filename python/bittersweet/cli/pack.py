"""``python -m bittersweet pack IN OUT``: a file of weights without its zeros, and back."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import ArgumentError
from ..whole.weight_files import read_tensors

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    parser.add_argument(
        "source", metavar="IN", help="a safetensors file, a torch checkpoint, or a packed file"
    )
    parser.add_argument("target", metavar="OUT", nargs="?", help="the file to write")
    parser.add_argument("--report", action="store_true", help="print what packing saves, tensor by tensor")
    parser.add_argument("--json", action="store_true", help="the report as one JSON object")
    parser.add_argument("--dense", action="store_true", help="write a dense file, which every program reads")
    parser.add_argument(
        "--min-sparsity", type=float, default=0.1, help="leave matrices below this as they are (default 0.1)"
    )


def run(options: argparse.Namespace) -> int:
    """Packs, or unpacks; returns the exit status."""
    from ..options.values import as_fraction
    from ..sparse import files

    if options.target is None and not (options.report or options.json):
        raise ArgumentError("OUT: missing; accepted: a file to write, or --report alone")
    if options.target is not None and os.path.realpath(options.target) == os.path.realpath(options.source):
        raise ArgumentError("OUT: is the file that is read; accepted: another one")
    least = as_fraction("--min-sparsity", options.min_sparsity)
    state = dict(_tensors(options.source))
    _, _, report = files.compressed_of(state, least)
    if options.report or options.json:
        print(json.dumps(report.to_dict(), indent=2) if options.json else report)
    if options.target is None:
        return 0
    if options.dense:
        files.save_dense(state.items(), options.target)
    else:
        files.save_compressed(state, options.target, least)
    size = os.path.getsize(options.target)
    if not options.json:
        print(f"{options.target}: {size:,} bytes")
    return 0


def _tensors(source: str) -> Iterator[tuple[str, Any]]:
    from ..sparse import files

    if os.path.isfile(source) and files.is_compressed(source):
        yield from files.dense_state(source).items()
        return
    for part in read_tensors(source):
        for name, value in part.items() if isinstance(part, Mapping) else part:
            if hasattr(value, "untyped_storage"):
                yield name, value
            elif isinstance(value, Mapping):
                yield from ((key, inner) for key, inner in value.items() if hasattr(inner, "untyped_storage"))
