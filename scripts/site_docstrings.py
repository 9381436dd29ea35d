"""An extension of Griffe: a `name` in a docstring leads to where the reference has it.

Docstrings write names of the package between single backticks. One that is a member of the class at hand, or
public in the package, becomes a cross-reference; all others stay code.
"""

from __future__ import annotations

import re
from typing import Any

from griffe import Alias, Class, Extension, Module, Object

NAME = re.compile(r"(?<![`\w\[])`([A-Za-z_]\w*)(\(\))?`(?!`)")
ROOMS = ("optim", "sparse")


class CrossReferences(Extension):
    def on_package(self, *, pkg: Module, **_: Any) -> None:
        public = {name: f"{pkg.path}.{name}" for name, found in pkg.members.items() if leads_in(found)}
        for room in ROOMS:
            found = {str(name): f"{pkg.path}.{room}.{name}" for name in pkg[room].exports}
            refer_in(pkg[room], {**public, **found})
        for name, member in pkg.members.items():
            if isinstance(member, Module) and name not in ROOMS:
                refer_in(member, public)


def leads_in(member: Object | Alias) -> bool:
    """Whether this name of the package is one of its own, imported from a room below."""
    return isinstance(member, Alias) and member.target_path.startswith("bittersweet.")


def refer_in(found: Object | Alias, known: dict[str, str]) -> None:
    """Puts cross-references into the docstrings of `found` and of all that it holds."""
    if isinstance(found, Alias):
        return
    if isinstance(found, Class):
        own = {name: member.path for name, member in found.members.items() if is_shown(name, member)}
        known = {**known, **own}
    if found.docstring is not None:
        refer = lambda match: reference(match, known, found.name)  # noqa: E731
        found.docstring.value = NAME.sub(refer, found.docstring.value)
    for member in found.members.values():
        refer_in(member, known)


def is_shown(name: str, member: Object | Alias) -> bool:
    return not (isinstance(member, Alias) or name.startswith("_") or member.docstring is None)


def reference(match: re.Match[str], known: dict[str, str], here: str) -> str:
    name = match[1]
    if name not in known or name == here:
        return match[0]
    return f"[`{name}{match[2] or ''}`][{known[name]}]"
