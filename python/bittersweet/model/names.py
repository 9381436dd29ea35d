"""Parameter names under the prefixes that wrappers add: which saved name means which of a model's own."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence

from ..errors import ArgumentError, CheckpointError
from ..options.values import shown
from .targets import PlanEntry

__all__ = ["counterparts", "match_names", "shape_of"]

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


def shape_of(saved: object) -> tuple[int, ...]:
    """A saved shape as a tuple. Raises CheckpointError if it is no list of lengths."""
    if not isinstance(saved, (list, tuple)) or not all(isinstance(size, int) for size in saved):
        raise CheckpointError(f"the saved state has {shown(saved)} for a shape; the file is damaged")
    return tuple(saved)


def _bare(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _PREFIXES)


def _near(name: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(names), n=3, cutoff=0.4)
    return f"Near names: {', '.join(near)}. " if near else ""
