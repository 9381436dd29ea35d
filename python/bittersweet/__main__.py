"""``python -m bittersweet``: its sub-commands, each described by ``--help``."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from .errors import Error

_COMMANDS = {
    "info": ("cli.info", "version, build, instruction sets, GPUs, scorers and selectors"),
    "demo": ("demo.cli", "train a small language model and prune it on the way"),
    "compare": ("compare.cli", "measure every scorer on the demo's model"),
    "prune-checkpoint": ("cli.prune_checkpoint", "prune safetensors that may be larger than memory"),
    "sparsity": ("cli.sparsity", "count the exact zeros in a file of weights"),
    "pack": ("cli.pack", "write a file of weights without its zeros"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one sub-command; returns the exit status."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    parser = argparse.ArgumentParser(
        prog="python -m bittersweet", description="Prune neural networks while they train."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    run = None
    try:
        for name, (module, summary) in _COMMANDS.items():
            command = commands.add_parser(name, help=summary)
            if arguments[:1] == [name]:
                chosen = importlib.import_module(f".{module}", __package__)
                chosen.add_arguments(command)
                run = chosen.run
        options = parser.parse_args(arguments)
        return 0 if run is None else int(run(options))
    except Error as error:
        print(f"bittersweet: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
