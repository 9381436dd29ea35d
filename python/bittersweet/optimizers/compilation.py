"""Staying out of torch.compile's graphs."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

__all__ = ["outside_of_compilation"]


@functools.cache
def outside_of_compilation() -> Callable[..., Any]:
    """A caller, ``f(function, *arguments)``, that torch.compile does not trace into.

    What works with addresses must not become part of a graph.
    """
    import torch

    def call(function: Callable[..., Any], *arguments: Any) -> Any:
        return function(*arguments)

    untraced: Callable[..., Any] = torch.compiler.disable(call)  # type: ignore[no-untyped-call]
    return untraced
