"""Parameter names under the prefixes that wrappers add: which saved name means which of a model's own."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence

from ..errors import ArgumentError, CheckpointError
from ..options.values import shown
from .targets import PlanEntry

__all__ = ["counterparts", "match_names", "same_names", "shape_of"]

_PREFIXES = frozenset(("_orig_mod", "module"))


def match_names(saved: Sequence[str], targets: Sequence[PlanEntry]) -> dict[str, str]:
    """Saved name -> own name, one to one."""
    exact = {name: entry.name for entry in targets for name in (entry.name, *entry.aliases)}
    bare: dict[str, str | None] = {}
    for name, own in exact.items():  # None marks two parameters that differ by a prefix alone
        key = _bare(name)
        bare[key] = own if bare.get(key, own) == own else None
    matched: dict[str, str] = {}
    for name in saved:
        found = exact.get(name) or bare.get(_bare(name))
        if found is None:
            raise CheckpointError(
                f"the saved state prunes '{name}', which this Pruner does not. {_near(name, exact)}"
                "Use the same model, targets and ignore"
            )
        if found in matched.values():
            raise CheckpointError(f"the saved state holds parameter '{found}' twice, once as '{name}'")
        matched[name] = found
    absent = [entry.name for entry in targets if entry.name not in matched.values()]
    if absent:
        raise CheckpointError(
            f"parameter '{absent[0]}' is not in the saved state ({len(absent)} missing). "
            f"{_near(absent[0], saved)}Use the same model, targets and ignore"
        )
    return matched


def counterparts(
    argument: str, wanted: Mapping[str, Sequence[str]], available: Sequence[str]
) -> dict[str, str]:
    """For each name in `wanted` (with its aliases): the one of `available` that means the same parameter.

    Prefixes of wrappers are taken off on both sides. What else is available does not matter.

    Raises:
        ArgumentError: A name has no counterpart, or more than one.
    """
    exact = set(available)
    bare: dict[str, list[str]] = {}
    for name in available:
        bare.setdefault(_bare(name), []).append(name)
    found: dict[str, str] = {}
    for name, aliases in wanted.items():
        names = (name, *aliases)
        own = next((one for one in names if one in exact), None)
        others = next((bare[_bare(one)] for one in names if _bare(one) in bare), [])
        if own is None and len(others) != 1:
            what = f"has {' and '.join(others)} for it" if others else "has no such tensor"
            raise ArgumentError(
                f"{argument}: '{name}' is pruned, and it {what}. {_near(name, available)}Pass a module with "
                "the names of the pruned model"
            )
        found[name] = others[0] if own is None else own
    return found


def same_names(argument: str, own: Iterable[Sequence[str]], given: Sequence[str]) -> dict[str, str]:
    """Own name -> given name, where both mean the same tensors, all of them. Of a tensor with several names
    one is enough. Prefixes of wrappers are taken off on both sides.

    Raises:
        ArgumentError: A tensor has no counterpart or several, or a given name means none.
    """
    exact = set(given)
    bare: dict[str, list[str]] = {}
    for name in given:
        bare.setdefault(_bare(name), []).append(name)
    found: dict[str, str] = {}
    known: list[str] = []
    for names in own:
        known += names
        for name in names:
            others = [name] if name in exact else bare.get(_bare(name), [])
            if len(others) > 1:
                raise ArgumentError(f"{argument}: {' and '.join(others)} both stand for '{name}'. Pass one")
            if others:
                found[name] = others[0]
        if not any(name in found for name in names):
            raise ArgumentError(
                f"{argument}: it lacks '{names[0]}'. {_near(names[0], given) or _begins(given)}"
                "Pass the state of this model, with all parameters and buffers"
            )
    unknown = [name for name in given if name not in found.values()]
    if unknown:
        raise ArgumentError(
            f"{argument}: the model has no '{unknown[0]}' ({len(unknown)} such names). "
            f"{_near(unknown[0], known)}Pass the state of this model"
        )
    return found


def shape_of(saved: object) -> tuple[int, ...]:
    """A saved shape as a tuple. Raises CheckpointError if it is no list of lengths."""
    if not isinstance(saved, (list, tuple)) or not all(isinstance(size, int) for size in saved):
        raise CheckpointError(f"the saved state has {shown(saved)} for a shape; the file is damaged")
    return tuple(saved)


def _bare(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _PREFIXES)


def _begins(names: Sequence[str]) -> str:
    return f"It begins with {', '.join(map(repr, names[:3]))}. " if names else "It is empty. "


def _near(name: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(names), n=3, cutoff=0.4)
    return f"Near names: {', '.join(near)}. " if near else ""
