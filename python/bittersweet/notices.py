"""Warnings that point at the user's line, however deep in the package they come up."""

from __future__ import annotations

import sys
import warnings
from types import FrameType

__all__ = ["warn", "warn_once"]

_PACKAGES = (
    "bittersweet torch contextlib accelerate lightning lightning_fabric pytorch_lightning transformers"
)
_NOT_THE_USER = frozenset(_PACKAGES.split())
"""Packages whose lines a reader cannot change: this one, and what calls it from a hook."""

_warned: set[str] = set()


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warns at the line that called into this package: the nearest one outside of it, of torch (which calls
    optimizer hooks) and of the trainers that own a loop."""
    frame = _users_frame(sys._getframe(1))
    registry = frame.f_globals.setdefault("__warningregistry__", {})
    module = frame.f_globals.get("__name__", "<unknown>")
    warnings.warn_explicit(message, category, frame.f_code.co_filename, frame.f_lineno, module, registry)


def warn_once(key: str, message: str) -> None:
    """`warn`, the first time that `key` comes up in this process."""
    if key not in _warned:
        _warned.add(key)
        warn(message)


def _users_frame(inner: FrameType) -> FrameType:
    """The nearest frame of the user's; `inner` where there is none, as in threads that torch starts."""
    frame: FrameType | None = inner
    while frame is not None:
        if str(frame.f_globals.get("__name__", "")).partition(".")[0] not in _NOT_THE_USER:
            return frame
        frame = frame.f_back
    return inner
