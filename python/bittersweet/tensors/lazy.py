"""Frozen dataclasses whose fields are read when the first of them is looked at."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar

T = TypeVar("T")


def lazily(cls: type[T], read: Callable[[], T]) -> T:
    """An object of the dataclass `cls` that calls `read` for its fields, once, when a field is looked at.

    From then on it is an ordinary `cls`. If `read` raises, so does every look, with the same error.
    """
    made: T = object.__new__(_lazy_type(cls))  # type: ignore[arg-type]
    object.__setattr__(made, "_read", read)
    return made


def is_unread(value: Any) -> bool:
    """Whether `value` came from `lazily` and has not been read successfully."""
    return isinstance(value, _Lazy)


def read(value: Any) -> None:
    """Reads what `lazily` made, if it is unread; raises what its reading raises."""
    if is_unread(value):
        _resolve(value, type(value).__bases__[0])


def has_failed(value: Any) -> bool:
    """Whether reading it was tried and raised."""
    return is_unread(value) and isinstance(object.__getattribute__(value, "__dict__")["_read"], _Failure)


class _Failure:
    """In the place of a reading that raised."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __call__(self) -> Any:
        raise self.error


class _Lazy:
    """Marks the types that `_lazy_type` makes."""


@functools.cache
def _lazy_type(cls: type) -> type:
    names = frozenset((*(field.name for field in fields(cls)), "__dict__"))

    class Lazy(cls, _Lazy):  # type: ignore[misc]
        def __getattribute__(self, name: str) -> Any:
            if name in names:
                _resolve(self, cls)
            return object.__getattribute__(self, name)

        def __eq__(self, other: object) -> bool:
            _resolve(self, cls)
            return bool(self == other)

        __hash__ = cls.__hash__

        def __reduce_ex__(self, protocol: Any) -> Any:
            _resolve(self, cls)
            return self.__reduce_ex__(protocol)

    Lazy.__name__, Lazy.__qualname__, Lazy.__doc__ = cls.__name__, cls.__qualname__, cls.__doc__
    return Lazy


def _resolve(lazy: Any, cls: type) -> None:
    own = object.__getattribute__(lazy, "__dict__")
    reading = own.get("_read")
    if reading is None:
        return  # another thread was first
    try:
        found = reading()
    except Exception as error:
        own["_read"] = _Failure(error)
        raise
    own.update({field.name: getattr(found, field.name) for field in fields(cls)})
    object.__setattr__(lazy, "__class__", cls)
    own.pop("_read", None)
