"""The patterns of `targets` and `ignore`: globs of names, modules, and module types."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import ArgumentError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Place:
    """One name of a parameter: where it hangs in the module tree.

    `around` holds (name, module) for every module from the root to the owner, both included.
    """

    name: str
    path: str
    attribute: str
    owner: torch.nn.Module
    around: tuple[tuple[str, torch.nn.Module], ...]


@dataclass(frozen=True)
class Match:
    """How a pattern met a place: `exact` if it means this very parameter, `by_name` if it spells its full
    name."""

    pattern: str
    exact: bool
    by_name: bool


class Patterns:
    """Several patterns, each of which meets at least one place of the model.

    Raises:
        ArgumentError: A pattern is of another kind, or meets nothing; near names are listed.
    """

    def __init__(
        self,
        patterns: Any,
        argument: str,
        places: Sequence[Place],
        unwrap: Callable[[torch.nn.Module], torch.nn.Module],
    ) -> None:
        from torch import nn

        listed: Iterable[Any] = (patterns,)
        if not isinstance(patterns, (str, type, nn.Module)) and isinstance(patterns, Iterable):
            listed = patterns
        self._patterns: list[str | type | torch.nn.Module] = []
        for pattern in listed:
            if not isinstance(pattern, (str, type, nn.Module)):
                raise ArgumentError(
                    f"{argument} holds {pattern!r}; accepted: a glob of names such as 'blocks.*.fc', a "
                    "module, or a module type, or a list of these"
                )
            self._patterns.append(unwrap(pattern) if isinstance(pattern, nn.Module) else pattern)
        for known in self._patterns:
            if not any(_match(known, place) for place in places):
                raise ArgumentError(
                    f"{argument} names {_text(known)}, which is not in the model. {_near(known, places)}"
                )

    def match(self, place: Place) -> Match | None:
        """The closest match of any pattern, or None."""
        found = [match for pattern in self._patterns if (match := _match(pattern, place)) is not None]
        return max(found, key=lambda match: (match.by_name, match.exact), default=None)


def _match(pattern: str | type | torch.nn.Module, place: Place) -> Match | None:
    from torch import nn

    if isinstance(pattern, str):
        by_name = pattern in (place.name, place.path)
        if by_name or fnmatch.fnmatchcase(place.name, pattern):
            return Match(repr(pattern), by_name, by_name)
        if any(name and fnmatch.fnmatchcase(name, pattern) for name, _ in place.around):
            return Match(repr(pattern), exact=False, by_name=False)
        return None

    def means(module: torch.nn.Module) -> bool:
        return isinstance(module, pattern) if isinstance(pattern, type) else module is pattern

    if means(place.owner):
        return Match(
            _text(pattern), exact="weight" in place.attribute and pattern is not nn.Module, by_name=False
        )
    if any(means(module) for _, module in place.around):
        return Match(_text(pattern), exact=False, by_name=False)
    return None


def _text(pattern: str | type | torch.nn.Module) -> str:
    if isinstance(pattern, str):
        return repr(pattern)
    return pattern.__name__ if isinstance(pattern, type) else f"a {type(pattern).__name__} module"


def _near(pattern: str | type | torch.nn.Module, places: Sequence[Place]) -> str:
    if isinstance(pattern, str):
        names = dict.fromkeys(place.name for place in places)
        names.update(dict.fromkeys(name for place in places for name, _ in place.around if name))
        near = difflib.get_close_matches(pattern, list(names), n=5, cutoff=0.4) or list(names)[:5]
        return f"Near or known names: {', '.join(near)}"
    types = sorted({type(module).__name__ for place in places for _, module in place.around})
    if isinstance(pattern, type):
        return f"Modules with parameters are of the types: {', '.join(types)}"
    return "Pass a module that is a part of this model"
