"""``python -m bittersweet info``: what this installation is and can do."""

from __future__ import annotations

import argparse

from .. import info

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(options: argparse.Namespace) -> int:
    """Prints; returns the exit status."""
    info.print_info(as_json=options.json)
    return 0
