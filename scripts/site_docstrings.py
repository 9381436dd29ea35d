"""An extension of Griffe: names and pages in docstrings lead to where the site has them.

Docstrings write names of the package between single backticks. One that is a member of the class at hand, or
public in the package, becomes a cross-reference; all others stay code. Pages are named by their path, as in
docs/training.md, which becomes a link.
"""

from __future__ import annotations

import re
from functools import partial
from typing import Any

from griffe import Alias, Class, Extension, Module, Object

PAGE = re.compile(r"\bdocs/([\w/]+)\.md\b")
NAME = re.compile(r"(?<![`\w\[])`([A-Za-z_][\w.]*)(\(\))?`(?!`)")


class CrossReferences(Extension):
    def on_package(self, *, pkg: Module, **_: Any) -> None:
        rooms = re.findall(r"'(\w+)'", str(pkg["_ROOMS"].value))  # modules that are public names
        public: dict[str, str] = {}
        for name, member in pkg.members.items():
            if isinstance(member, Alias) and member.target_path.startswith("bittersweet."):
                public |= with_members(name, f"{pkg.path}.{name}", pkg[member.target_path.split(".")[1:]])
        for room in rooms:
            found = {str(name): f"{pkg.path}.{room}.{name}" for name in pkg[room].exports}
            refer_in(pkg[room], {**public, **found})
        for name, member in pkg.members.items():
            if isinstance(member, Module) and name not in rooms:
                refer_in(member, public)


def with_members(name: str, path: str, found: Object | Alias) -> dict[str, str]:
    """A public name, and of a class also its members as ``Class.member``."""
    members = found.members.items() if isinstance(found, Class) else ()
    shown = {f"{name}.{key}": member.path for key, member in members if is_shown(key, member)}
    return {name: path, **shown}


def refer_in(found: Object | Alias, known: dict[str, str]) -> None:
    """Puts cross-references into the docstrings of `found` and of all that it holds."""
    if isinstance(found, Alias):
        return
    if isinstance(found, Class):
        own = {name: member.path for name, member in found.members.items() if is_shown(name, member)}
        known = {**known, **own}
    if found.docstring is not None:
        refer = partial(reference, known=known, here=found.name)
        found.docstring.value = PAGE.sub(link, NAME.sub(refer, found.docstring.value))
    for member in found.members.values():
        refer_in(member, known)


def is_shown(name: str, member: Object | Alias) -> bool:
    return not (isinstance(member, Alias) or name.startswith("_") or member.docstring is None)


def reference(match: re.Match[str], known: dict[str, str], here: str) -> str:
    name = match[1]
    if name not in known or name == here:
        return match[0]
    return f"[`{name}{match[2] or ''}`][{known[name]}]"


def link(match: re.Match[str]) -> str:
    """As a page of the reference writes it. MkDocs refuses what is not there."""
    return f"[{match[0]}](../{match[1]}.md)"
