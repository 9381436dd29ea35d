"""Progress of a long piece of work: a tqdm bar on a terminal, a line now and then anywhere else."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from bittersweet.progress import bar_layout, progress_bar

_SMOOTHING = 0.9


class Progress:
    """`total` units of work, named by `title`; see `begin`.

    The bar goes to stderr and needs tqdm and a terminal there; otherwise `say` prints `lines` lines in all.
    """

    def __init__(self, title: str, total: int, say: Callable[[str], None], lines: int = 10) -> None:
        self._total = total
        self._say = say
        self._lines = lines
        self._done = 0
        self.begin(title)
        self._start = time.perf_counter()
        self._bar: Any = progress_bar(self._title, total)

    def begin(self, title: str) -> None:
        """Names what comes next, whose losses and times have nothing to do with those before."""
        self._title = f"{title:<24}"
        self._loss: float | None = None
        self._ms: float | None = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def update(self, loss: float, sparsity: float, ms: float) -> None:
        """One more step: its training loss, the sparsity after it, and the milliseconds it took."""
        self._loss = loss if self._loss is None else _SMOOTHING * self._loss + (1 - _SMOOTHING) * loss
        self._ms = ms if self._ms is None else _SMOOTHING * self._ms + (1 - _SMOOTHING) * ms
        self.advance(1, f"loss {self._loss:.3f}  sparsity {100 * sparsity:4.1f} %  {self._ms:3.0f} ms")

    def advance(self, units: int, state: str) -> None:
        """`units` more of the total are done; `state` says how things stand."""
        before = self._done
        self._done += units
        if self._bar is not None:
            self._bar.bar_format = bar_layout(self._title)
            self._bar.set_description_str(state, refresh=False)
            self._bar.update(units)
        elif self._done * self._lines // self._total > before * self._lines // self._total:
            elapsed = time.perf_counter() - self._start
            left = elapsed * (self._total - self._done) / self._done
            share = f"{self._done * 100 // self._total:3d} %  {self._done:5d}/{self._total}"
            self._say(f"{self._title} {share}  {state}  {elapsed:5.1f} s, {left:.0f} s left")
