"""The bytes to learn from: Python's own standard library, or a file of the user's."""

from __future__ import annotations

import hashlib
import os
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bittersweet.demo.plan import DemoError

STDLIB_BYTES = 4_000_000
MIN_BYTES = 20_000
HELD_OUT_SHARE = 0.1
_SKIPPED = {"test", "tests", "idle_test", "site-packages", "dist-packages", "encodings", "pydoc_data"}


@dataclass(frozen=True)
class Corpus:
    """`train` is the first nine tenths of the text, `held_out` the rest, never trained on."""

    train: bytes
    held_out: bytes
    source: str
    sha256: str

    @property
    def unigram_loss(self) -> float:
        """Nats per byte on `held_out` for a model that knows the byte frequencies of `train` (plus one) only.

        A model that reads its context must be below it.
        """
        counts = np.bincount(np.frombuffer(self.train, dtype=np.uint8), minlength=256) + 1.0
        surprise = -np.log(counts / counts.sum())
        return float(surprise[np.frombuffer(self.held_out, dtype=np.uint8)].mean())


def load_corpus(path: str | None) -> Corpus:
    """Reads the file `path`, or the standard library if None; the same installation gives the same bytes.

    Raises `DemoError` for a file that cannot be read or is too small.
    """
    text, source = _read_file(path) if path is not None else _read_stdlib()
    if len(text) < MIN_BYTES:
        raise DemoError(f"the text ({source}) has {len(text):,} bytes; at least {MIN_BYTES:,} are needed")
    cut = len(text) - int(len(text) * HELD_OUT_SHARE)
    return Corpus(text[:cut], text[cut:], source, hashlib.sha256(text).hexdigest())


def _read_file(path: str) -> tuple[bytes, str]:
    try:
        return Path(path).read_bytes(), path
    except OSError as problem:
        raise DemoError(
            f"--text {path}: cannot be read ({problem.strerror}); give the path of a text file"
        ) from None


def _read_stdlib() -> tuple[bytes, str]:
    root = Path(sysconfig.get_path("stdlib"))
    pieces: list[bytes] = []
    size = files = 0
    for file in stdlib_sources(root):
        if size >= STDLIB_BYTES:
            break
        pieces.append(file.read_bytes())
        size += len(pieces[-1])
        files += 1
    text = b"".join(pieces)[:STDLIB_BYTES]
    return text, f"{files} source files of Python's standard library"


def stdlib_sources(root: Path) -> list[Path]:
    """The `.py` files sorted by their path below `root`, without tests, tables and generated files."""
    found: list[Path] = []
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in _SKIPPED]
        found += [
            Path(folder, name) for name in files if name.endswith(".py") and not name.startswith("_sysconfig")
        ]
    return sorted(found, key=lambda file: file.relative_to(root).as_posix())
