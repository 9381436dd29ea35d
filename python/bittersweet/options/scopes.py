"""Scopes as objects: who competes with whom. ``"global"``, ``"tensor"``, ``"row"`` and ``"N:M"`` work too."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

from ..errors import ArgumentError
from .values import as_int, one_of, shown_choice

_ROUNDINGS = ("nearest", "floor")
_REMAINDERS = ("error", "keep")


@dataclass(frozen=True)
class Scope:
    """A comparison group. Immutable and comparable."""

    @property
    def text(self) -> str:
        """The scope as a name, such as ``"global"`` or ``"2:4"``."""
        raise ArgumentError(
            f"scope: {type(self).__name__} is not a scope of its own; use Global, Tensor, Row or NofM"
        )


class Global(Scope):
    """One threshold over all tensors."""

    @property
    def text(self) -> str:
        return "global"


class Tensor(Scope):
    """Each tensor on its own."""

    @property
    def text(self) -> str:
        return "tensor"


@dataclass(frozen=True)
class Row(Scope):
    """Each output row on its own (WANDA's comparison group), ties to the lower column.

    Args:
        rounding: ``"nearest"`` prunes floor(s * columns + 0.5) of a row, ``"floor"`` int(s * columns).
    """

    rounding: str = "nearest"

    def __post_init__(self) -> None:
        object.__setattr__(self, "rounding", one_of("rounding", self.rounding, _ROUNDINGS))

    @property
    def text(self) -> str:
        return "row"


@dataclass(frozen=True)
class NofM(Scope):
    """Keeps `n` of every `m` consecutive inputs; among equals the lower index is pruned first.

    Args:
        n: How many are kept, 1 to `m`.
        m: Group length.
        remainder: An input length that `m` does not divide is a ShapeError (``"error"``), or its last
            incomplete group stays dense (``"keep"``).
    """

    n: int
    m: int
    remainder: str = "error"

    def __post_init__(self) -> None:
        for argument in ("n", "m"):
            object.__setattr__(self, argument, as_int(argument, getattr(self, argument)))
        if not 1 <= self.n <= self.m:
            raise ArgumentError(
                f"scope: '{self.n}:{self.m}'; N:M keeps N of every M inputs, with 1 <= N <= M"
            )
        object.__setattr__(self, "remainder", one_of("remainder", self.remainder, _REMAINDERS))

    @property
    def text(self) -> str:
        return f"{self.n}:{self.m}"


class ScopeCall(NamedTuple):
    """A scope as the compiled module takes it; `fixed_sparsity` is 1 - N/M, or None for other scopes."""

    text: str
    rounding: str
    remainder: str
    fixed_sparsity: float | None


def resolve_scope(scope: str | Scope, rounding: str, remainder: str) -> ScopeCall:
    """Turns a name or an object into a call. An object's own rounding and remainder win over the defaults."""
    rounding = one_of("rounding", rounding, _ROUNDINGS)
    remainder = one_of("remainder", remainder, _REMAINDERS)
    if isinstance(scope, str):
        scope = _parse(str(scope), rounding, remainder)
    elif not isinstance(scope, Scope):
        raise ArgumentError(
            f"scope: {shown_choice(scope, Scope)}; accepted: 'global', 'tensor', 'row', 'N:M' such as '2:4', "
            "or an object"
        )
    if isinstance(scope, Row):
        rounding = _own("rounding", scope.rounding, rounding, "nearest")
    if isinstance(scope, NofM):
        remainder = _own("remainder", scope.remainder, remainder, "error")
        return ScopeCall(scope.text, rounding, remainder, 1.0 - scope.n / scope.m)
    return ScopeCall(scope.text, rounding, remainder, None)


def _parse(text: str, rounding: str, remainder: str) -> Scope:
    match text:
        case "global":
            return Global()
        case "tensor":
            return Tensor()
        case "row":
            return Row(rounding)
    numbers = re.fullmatch(r"(\d+):(\d+)", text)
    if numbers is None:
        raise ArgumentError(
            f"scope: '{text}'; accepted: 'global', 'tensor', 'row', or 'N:M' such as '2:4' (2 of every 4 "
            "kept)"
        )
    return NofM(int(numbers[1]), int(numbers[2]), remainder)


def _own(argument: str, own: str, given: str, default: str) -> str:
    if given not in (default, own):
        raise ArgumentError(f"{argument}: '{given}' beside a scope object that says '{own}'; give it once")
    return own
