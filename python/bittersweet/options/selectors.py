"""Selectors as objects: how a threshold is found. Plain names work wherever an object does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .. import _core
from ..errors import ArgumentError
from .values import ABOVE_ZERO, BELOW_ONE, as_bool, as_number, one_of, shown_choice

SelectorSpec = tuple[str, float, bool, float, str]

_BY = ("line", "element")


@dataclass(frozen=True)
class Selector:
    """A way to find the k-th smallest score. Immutable and comparable."""

    name: ClassVar[str]


class Exact(Selector):
    """The exact k-th value in one read: guess a bracket, count, prove; radix passes if the guess missed."""

    name = "exact"


class Histogram(Selector):
    """The exact k-th value by radix digits, scores recomputed per pass; independent of the data."""

    name = "histogram"


class KthValue(Selector):
    """The exact k-th value the plain way: write all scores (4 bytes each), select in place."""

    name = "kthvalue"


@dataclass(frozen=True)
class Sampling(Selector):
    """The k-th value of a seeded uniform sample; reports the standard error of the achieved sparsity.

    Args:
        fraction: Share of the elements to sample, in (0, 1]; at least 10,000 elements, exact when there are
            fewer.
        verify: Count with the final threshold, in one more read, and report the true sparsity and every NaN.
        by: ``"line"`` draws whole lines of 32 neighbours in memory, and tells the error by how they part: the
            cheaper way. ``"element"`` draws single elements, as published: the same in every memory layout,
            each at the price of a cache line, with the error sqrt(s (1 - s) / S) of S independent scores.
    """

    name = "sampling"
    fraction: float = 0.02
    verify: bool = False
    by: str = "line"

    def __post_init__(self) -> None:
        fraction = as_number("fraction", self.fraction, ABOVE_ZERO, 1.0, "a number above 0, up to 1")
        object.__setattr__(self, "fraction", fraction)
        object.__setattr__(self, "verify", as_bool("verify", self.verify))
        object.__setattr__(self, "by", one_of("by", self.by, _BY))


@dataclass(frozen=True)
class Streaming(Selector):
    """Mean and spread in one read, then reads that count at several thresholds, by the score's integer key.

    Args:
        tolerance: How far the achieved sparsity may be from the requested one, in [0, 1); 0 is exact.
    """

    name = "streaming"
    tolerance: float = 1e-3

    def __post_init__(self) -> None:
        tolerance = as_number("tolerance", self.tolerance, 0.0, BELOW_ONE, "a number from 0, below 1")
        object.__setattr__(self, "tolerance", tolerance)


def selectors() -> list[str]:
    """The names of all selectors."""
    return list(_core.selector_names())


def resolve_selector(selector: str | Selector) -> SelectorSpec:
    """The tuple that the compiled module takes, for a name or an object."""
    if isinstance(selector, str):
        if selector not in selectors():
            raise ArgumentError(
                f"selector: no selector is called '{selector}'; known names: {', '.join(selectors())}"
            )
        name = str(selector)
    elif isinstance(selector, Selector):
        name = selector.name
    else:
        raise ArgumentError(
            f"selector: {shown_choice(selector, Selector)}; accepted: a selector object, or one of the names "
            f"{', '.join(selectors())}"
        )
    sampling = selector if isinstance(selector, Sampling) else Sampling()
    streaming = selector if isinstance(selector, Streaming) else Streaming()
    return name, sampling.fraction, sampling.verify, streaming.tolerance, sampling.by
