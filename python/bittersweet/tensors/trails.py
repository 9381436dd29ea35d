"""Trails: the dictionaries between an object and the tensors that were found through it, so that one look
tells whether the same search would find the same tensors again."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from typing import Any

from .. import _core

__all__ = ["Trail"]

_DICTIONARIES = (dict, OrderedDict, defaultdict)


class Trail:
    """Collects what a search depends on, while it searches.

    A search that depends on anything but plain dictionaries and attributes that lie in them cannot be
    followed: the trail is lost, and never holds. A trail keeps what it saw alive.
    """

    def __init__(self) -> None:
        self._steps: list[tuple[Any, Any, Any]] = []
        self._seen: set[tuple[int, Any]] = set()
        self._lost = False

    def __reduce__(self) -> tuple[Any, ...]:
        return Trail, ()

    @property
    def is_lost(self) -> bool:
        return self._lost

    def lose(self) -> None:
        self._lost = True

    def attribute(self, owner: Any, name: str) -> Any:
        """The attribute `name`, if it lies in the object's own dictionary and nothing else can answer for
        it; else None, and the trail is lost."""
        own = getattr(owner, "__dict__", None)
        kind: Any = type(owner)
        plain = kind.__getattribute__ is object.__getattribute__
        if type(own) is not dict or name not in own or not plain or hasattr(kind, name):
            self._lost = True
            return None
        value = own[name]
        if self._is_new(owner, name):
            self._steps.append((owner, name, value))
        return value

    def contents(self, dictionary: Any, *, loosely: bool = False) -> None:
        """All keys of a dictionary, in order, and their values; `loosely` those that are tensors alone."""
        if type(dictionary) not in _DICTIONARIES:
            self._lost = True
            return
        if self._is_new(dictionary, None):
            values = tuple(dictionary.values())
            if loosely:
                values = tuple(value if _is_tensor(value) else ... for value in values)
            self._steps.append((dictionary, tuple(dictionary), values))

    def holds(self) -> bool:
        """Whether everything is as it was, by identity. False for a trail of nothing."""
        return not self._lost and bool(self._steps) and _core.trail_holds(self._steps)

    def _is_new(self, thing: Any, name: str | None) -> bool:
        key = id(thing), name
        if key in self._seen:
            return False
        self._seen.add(key)
        return True


def _is_tensor(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor)
