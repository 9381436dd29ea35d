"""The patterns of `targets`, `ignore` and `in_dim`: globs of names, parameters, modules, and module types."""

from __future__ import annotations

import difflib
import fnmatch
import re
import reprlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from ..errors import ArgumentError
from .layers import is_embedding
from .wrappers import unwrap

if TYPE_CHECKING:
    import torch

    Pattern: TypeAlias = str | type | torch.nn.Module | torch.Tensor


@dataclass(frozen=True)
class Place:
    """One name of a parameter: where it hangs in the module tree.

    `around` holds (name, module) for every module from the root to the owner, both included; `path` is the
    way from one to the next and at last to the parameter.
    """

    name: str
    path: str
    attribute: str
    owner: torch.nn.Module
    around: tuple[tuple[str, torch.nn.Module], ...]
    parameter: torch.Tensor

    @property
    def steps(self) -> list[str]:
        """For each module of `around`, what it holds the next one, or the parameter, as."""
        return self.path.split(".")


@dataclass(frozen=True)
class Match:
    """How a pattern met a place.

    Attributes:
        source: The pattern.
        met: The name that it met: the parameter's, or that of a module around it.
        exact: It means this very parameter, or the weight of this very module. A list of all parameters
            means no biases and embeddings.
        by_name: It spells the parameter: its full name, or a glob that ends in its attribute, such as
            ``"*.in_proj_weight"``. Not ``"*.weight"``, which is what every layer calls its weight.
    """

    source: Pattern
    met: str
    exact: bool = False
    by_name: bool = False

    @property
    def pattern(self) -> str:
        return _text(self.source)


class Patterns:
    """Several patterns, each of which meets at least one place of the model.

    Raises:
        ArgumentError: A pattern is of another kind, or meets nothing; near names are listed.
    """

    def __init__(self, patterns: Any, argument: str, places: Sequence[Place]) -> None:
        import torch
        from torch import nn

        kinds = (str, type, nn.Module, torch.Tensor)
        listed: Iterable[Any] = (patterns,)
        if not isinstance(patterns, kinds) and isinstance(patterns, Iterable):
            listed = patterns
        self._patterns: list[Pattern] = []
        for pattern in listed:
            if not isinstance(pattern, kinds):
                raise ArgumentError(
                    f"{argument} holds {reprlib.repr(pattern)}; accepted: a glob of names such as "
                    "'blocks.*.fc', a parameter, a module, or a module type, or a list of these"
                )
            self._patterns.append(unwrap(pattern) if isinstance(pattern, nn.Module) else pattern)
        for known in self._patterns:
            if not any(_match(known, place) for place in places):
                raise ArgumentError(
                    f"{argument} names {_text(known)}, which is not in the model. {_near(known, places)}"
                )

    def matches(self, place: Place) -> list[Match]:
        """How the patterns met this place, the closest first."""
        found = [match for pattern in self._patterns if (match := _match(pattern, place)) is not None]
        return sorted(found, key=lambda match: (match.by_name, match.exact), reverse=True)


def _match(pattern: Pattern, place: Place) -> Match | None:
    import torch
    from torch import nn

    if isinstance(pattern, str):
        if pattern in (place.name, place.path):
            return Match(pattern, place.name, exact=True, by_name=True)
        if fnmatch.fnmatchcase(place.name, pattern):
            spelled = re.split(r"[*?.\]]", pattern)[-1] == place.attribute != "weight"
            return Match(pattern, place.name, spelled, spelled)
        name = next((name for name, _ in place.around if name and fnmatch.fnmatchcase(name, pattern)), None)
        return None if name is None else Match(pattern, name)
    if isinstance(pattern, torch.Tensor):
        exact = pattern.dim() > 1 and not is_embedding(place)
        return Match(pattern, place.name, exact) if pattern is place.parameter else None

    def means(module: torch.nn.Module) -> bool:
        return isinstance(module, pattern) if isinstance(pattern, type) else module is pattern

    for name, module in reversed(place.around):
        if means(module):
            own = module is place.owner and "weight" in place.attribute and pattern is not nn.Module
            return Match(pattern, name, exact=own)
    return None


def _text(pattern: Pattern) -> str:
    if isinstance(pattern, str):
        return repr(pattern)
    if isinstance(pattern, type):
        return pattern.__name__
    shape = getattr(pattern, "shape", None)
    if shape is not None:
        return f"a {type(pattern).__name__} of shape {tuple(shape)}"
    return f"a {type(pattern).__name__} module"


def _near(pattern: Pattern, places: Sequence[Place]) -> str:
    import torch

    types = {type(module).__name__: type(module) for place in places for _, module in place.around}
    if isinstance(pattern, str):
        if pattern in types:
            return f"{pattern} is a type of modules: pass the type itself, {_qualified(types[pattern])}"
        names = dict.fromkeys(place.name for place in places)
        names.update(dict.fromkeys(name for place in places for name, _ in place.around if name))
        near = difflib.get_close_matches(pattern, list(names), n=5, cutoff=0.4) or list(names)[:5]
        return f"Near or known names: {', '.join(near)}"
    if isinstance(pattern, type):
        return f"Modules with parameters are of the types: {', '.join(sorted(types))}"
    kind = "parameter" if isinstance(pattern, torch.Tensor) else "module"
    return f"Pass a {kind} that is a part of this model"


def _qualified(cls: type) -> str:
    from torch import nn

    public = getattr(nn, cls.__name__, None) is cls
    return f"torch.nn.{cls.__name__}" if public else f"{cls.__module__}.{cls.__qualname__}"
