"""The progress bar of long calls: tqdm on a terminal, nothing anywhere else."""

from __future__ import annotations

import importlib
import importlib.util
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["bar_layout", "progress_bar", "ticking"]

_WIDEST_BAR = 120


def progress_bar(title: str, total: int | None) -> Any:
    """A tqdm bar on stderr; None where stderr is not a terminal, or where tqdm is not installed."""
    if not sys.stderr.isatty() or importlib.util.find_spec("tqdm") is None:
        return None
    tqdm = importlib.import_module("tqdm").tqdm
    columns = min(shutil.get_terminal_size((80, 24)).columns - 1, _WIDEST_BAR)
    return tqdm(total=total, bar_format=bar_layout(title), ncols=columns, file=sys.stderr)


def bar_layout(title: str) -> str:
    """The `bar_format` of such a bar."""
    return f"{title} {{percentage:3.0f}} % |{{bar}}| {{remaining}}  {{desc}}"


@contextmanager
def ticking(title: str, total: int | None, shown: bool = True) -> Iterator[Callable[[], Any]]:
    """A function that moves the bar by one; it does nothing where there is no bar."""
    bar = progress_bar(title, total) if shown else None
    if bar is None:
        yield lambda: None
        return
    with bar:
        yield bar.update
