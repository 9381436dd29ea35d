"""What a schedule of the user's own says about a step, checked; and how it is named and saved."""

from __future__ import annotations

import functools
from dataclasses import fields, is_dataclass
from typing import Any

from ..errors import ArgumentError
from .values import as_fraction, shown

__all__ = ["CUSTOM", "checked_answer", "custom_config", "never_falling", "title"]

CUSTOM = "custom"
"""The kind that `to_config` writes for a schedule of one's own."""


def checked_answer(schedule: object, step: int, answer: Any) -> tuple[bool, float]:
    """What a schedule said about `step`, as plain values."""
    try:
        due, sparsity = answer
        due = due.item() if hasattr(due, "item") else due
        if not isinstance(due, bool):
            raise ArgumentError("due")
        return due, as_fraction("sparsity", sparsity)
    except (ArgumentError, TypeError, ValueError):
        raise ArgumentError(
            f"schedule: {title(schedule)} gives {shown(answer)} for step {step}; accepted: a pair (due, "
            "sparsity) of a bool and a fraction from 0 to 1, such as (step % 100 == 0, 0.5)"
        ) from None


def never_falling(
    schedule: object, last: tuple[int, float] | None, found: tuple[int, float]
) -> tuple[int, float]:
    """`found`, which comes after `last`. Raises ArgumentError if it asks for less."""
    if last is not None and found[1] < last[1]:
        raise ArgumentError(
            f"schedule: {title(schedule)} falls to {found[1]:g} on step {found[0]}, from {last[1]:g} on step "
            f"{last[0]}; sparsity never falls. Return at least {last[1]:g} there, or due False"
        )
    return found


def custom_config(source: Any) -> dict[str, Any]:
    """The saved form of a schedule of one's own: its name, and those fields of a dataclass (or arguments of a
    ``functools.partial``) that are plain."""
    given: dict[str, Any] = {}
    if isinstance(source, functools.partial):
        given = {"args": source.args, **source.keywords}
    elif is_dataclass(source):
        given = {field.name: getattr(source, field.name) for field in fields(source)}
    plain = {key: _plain(value) for key, value in given.items()}
    parameters = {key: value for key, value in plain.items() if value is not _NOT_PLAIN}
    return {"kind": CUSTOM, "name": title(source), **({"parameters": parameters} if parameters else {})}


def title(source: Any) -> str:
    """The qualified name of a function, or of an object's class."""
    while isinstance(source, functools.partial):
        source = source.func
    named = source if hasattr(source, "__qualname__") else type(source)
    return f"{named.__module__}.{named.__qualname__}"


_NOT_PLAIN = object()


def _plain(value: Any) -> Any:
    """A value as plain Python holds it, `_NOT_PLAIN` if it cannot."""
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        value = value.item()
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, (list, tuple)):
        items = [_plain(item) for item in value]
        return _NOT_PLAIN if _NOT_PLAIN in items else items
    return _NOT_PLAIN
