"""Arguments as plain Python values: what NumPy, torch, `decimal` and `fractions` call a number becomes one.

Whatever is accepted here is a `bool`, `int`, `float` or `str` afterwards and nothing else, so that it can be
saved by ``state_dict()`` and read again under ``torch.load(weights_only=True)``, compared and printed. A bool
is no number, a number is no bool, and NaN is neither.
"""

from __future__ import annotations

import math
import operator
import reprlib
import sys
from typing import Any, TypeVar

from ..errors import ArgumentError

__all__ = [
    "ABOVE_ZERO",
    "BELOW_ONE",
    "FINITE",
    "as_bool",
    "as_fraction",
    "as_int",
    "as_number",
    "one_of",
    "shown",
]

FINITE = sys.float_info.max
"""The largest finite number, for bounds."""

ABOVE_ZERO, BELOW_ONE = math.nextafter(0.0, 1.0), math.nextafter(1.0, 0.0)
"""For bounds that are not included themselves."""

T = TypeVar("T")


def as_bool(argument: str, value: Any) -> bool:
    """True or False; NumPy's and torch's too. 0 and 1 are refused: an argument in the wrong place is seen."""
    plain = _plain(value)
    if not isinstance(plain, bool):
        raise ArgumentError(f"{argument}: {shown(value)}; accepted: True, False")
    return plain


def as_int(
    argument: str, value: Any, least: int | None = None, most: int | None = None, what: str = ""
) -> int:
    """An integer from `least` to `most`, both included; None is no bound. Floats are refused, 3.0 too.

    `what` says in the message what is accepted, in place of the bounds.
    """
    plain = _plain(value)
    try:
        number = None if isinstance(plain, bool) else operator.index(plain)
    except Exception:  # a float, text, or a tensor that cannot be read
        number = None
    if number is None or (least is not None and number < least) or (most is not None and number > most):
        ends = "" if least is None else f" from {least}"
        ends += "" if most is None else f" to {most}"
        raise ArgumentError(f"{argument}: {shown(value)}; accepted: {what or f'an integer{ends}'}")
    return number


def as_number(
    argument: str, value: Any, least: float = -FINITE, most: float = FINITE, what: str = ""
) -> float:
    """A number from `least` to `most`, both included; by default any finite one. Text is refused.

    `what` says in the message what is accepted, in place of the bounds.
    """
    number = _float(value)
    if not least <= number <= most:
        ends = f"a number from {least:g} to {most:g}"
        raise ArgumentError(f"{argument}: {shown(value)}; accepted: {what or ends}")
    return number


def as_fraction(argument: str, value: Any) -> float:
    """A number from 0 to 1; percentages get a hint."""
    number = _float(value)
    if not 0.0 <= number <= 1.0:
        hint = f" ({number:g} % is {number / 100.0:g})" if 1.0 < number <= 100.0 else ""
        raise ArgumentError(f"{argument}: {shown(value)}; accepted: a fraction from 0 to 1{hint}")
    return number


def one_of(argument: str, value: Any, accepted: tuple[T, ...]) -> T:
    """That of the accepted values which `value` equals, whatever its own type (``numpy.str_``, an enum)."""
    plain = _plain(value)
    for known in accepted:
        if isinstance(plain, type(known)) and plain == known:
            return known
    raise ArgumentError(f"{argument}: {shown(value)}; accepted: {', '.join(map(repr, accepted))}")


class _Repr(reprlib.Repr):
    """Names tensors by dtype and shape, in containers too: printing one reads memory that may have shrunk."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = self.maxlong = 100

    def repr1(self, x: Any, level: int) -> str:
        if hasattr(type(x), "untyped_storage"):
            return f"a {str(x.dtype).removeprefix('torch.')} tensor of shape {tuple(x.shape)}"
        return super().repr1(x, level)


_repr = _Repr().repr


def shown(value: Any) -> str:
    """A `repr` that fits a message: long ones (a list, a model) are cut, and no tensor's memory is read."""
    try:
        text = _repr(value)
    except Exception:  # a fake or broken tensor may not print
        text = f"a {type(value).__name__}"
    text = " ".join(text.split())
    return text if len(text) <= 100 else f"{text[:80]}... ({type(value).__name__})"


def shown_choice(value: Any, kind: type) -> str:
    """What was found in place of a name or an object of `kind`, for a message; its bare class is named."""
    if isinstance(value, type) and issubclass(value, kind):
        return f"the class {value.__name__}; pass an object, {value.__name__}(...)"
    return shown(value)


def _float(value: Any) -> float:
    """The value as a float; NaN for what is no number."""
    plain = _plain(value)
    if isinstance(plain, bool) or not hasattr(type(plain), "__float__") or hasattr(plain, "ndim"):
        return math.nan
    try:
        return float(plain)
    except Exception:  # too large, a signalling NaN, a type that only looks like a number
        return math.nan


def _plain(value: Any) -> Any:
    """What a scalar of NumPy or torch holds; anything else is returned as it is."""
    if getattr(value, "ndim", None) != 0 or not hasattr(value, "item"):
        return value
    try:
        held = value.item()
    except Exception:  # without memory: meta and fake tensors
        return value
    return (
        float(held) if hasattr(held, "ndim") and hasattr(held, "__float__") else held
    )  # longdouble is its own
