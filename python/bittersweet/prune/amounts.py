"""How many of what is left an `amount` prunes: a share (float) or a number (int), rounded as torch does."""

from __future__ import annotations

import numbers
from typing import Any

from ..errors import ArgumentError
from ..options.values import shown

__all__ = ["check_amount", "count_of"]

_ACCEPTED = "a share from 0.0 to 1.0 (float), or how many (int, from 0)"


def check_amount(amount: Any) -> Any:
    """The amount itself. Raises ArgumentError if it is none."""
    hint = ""
    if isinstance(amount, numbers.Real) and not isinstance(amount, bool):
        size: Any = amount
        if size >= 0 and (isinstance(amount, numbers.Integral) or size <= 1.0):
            return amount
        if 1.0 < size <= 100.0:
            hint = f" ({float(size):g} % is {float(size) / 100.0:g})"
    raise ArgumentError(f"amount: {shown(amount)}; accepted: {_ACCEPTED}{hint}")


def count_of(amount: Any, left: int, what: str) -> int:
    """Of `left` things: the int itself, or ``round(amount * left)``, halves to even.

    Raises:
        ArgumentError: More than are left.
    """
    if not isinstance(amount, numbers.Integral):
        share: int = round(amount * left)
        return share
    count = int(amount)
    if count > left:
        raise ArgumentError(
            f"amount: {count}; {left} {what} are left to prune. Give a share, or at most {left}"
        )
    return count
