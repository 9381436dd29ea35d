"""``python -m bittersweet``: `info` says what is installed, `demo` prunes in training, `compare` measures."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from .errors import Error


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one sub-command; returns the exit status."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    parser = argparse.ArgumentParser(
        prog="python -m bittersweet", description="Prune neural networks while they train."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    info = commands.add_parser("info", help="version, build, instruction sets, GPUs, scorers and selectors")
    info.add_argument("--json", action="store_true", help="print one JSON object")
    demo = commands.add_parser("demo", help="train a small language model and prune it on the way")
    compare = commands.add_parser("compare", help="measure every scorer on the demo's model")
    if arguments[:1] == ["demo"]:
        from .demo import cli as demo_cli

        demo_cli.add_arguments(demo)
    if arguments[:1] == ["compare"]:
        from .compare import cli as compare_cli

        compare_cli.add_arguments(compare)
    options = parser.parse_args(arguments)
    try:
        if options.command == "demo":
            return demo_cli.run(options)
        if options.command == "compare":
            return compare_cli.run(options)
        from .info import print_info

        print_info(as_json=options.json)
    except Error as error:
        print(f"bittersweet: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
