"""Progress of one arm: a tqdm bar on a terminal, a line every tenth of the way anywhere else."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from bittersweet._progress import progress_bar

_SMOOTHING = 0.9


class Progress:
    """The bar goes to stderr and needs tqdm and a terminal there; otherwise `say` prints the lines."""

    def __init__(self, title: str, total: int, say: Callable[[str], None]) -> None:
        self._title = f"{title:<24}"
        self._total = total
        self._say = say
        self._done = 0
        self._loss: float | None = None
        self._ms: float | None = None
        self._start = time.perf_counter()
        self._bar: Any = progress_bar(self._title, total)

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
        self._done += 1
        state = f"loss {self._loss:.3f}  sparsity {100 * sparsity:4.1f} %  {self._ms:3.0f} ms"
        if self._bar is not None:
            self._bar.set_description_str(state, refresh=False)
            self._bar.update()
        elif self._done * 10 // self._total > (self._done - 1) * 10 // self._total:
            elapsed = time.perf_counter() - self._start
            share = self._done * 100 // self._total
            self._say(f"{self._title} {share:3d} %  {self._done:5d}/{self._total}  {state}  {elapsed:5.1f} s")
