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
        public = led_in(pkg, pkg, [*pkg.members])
        for room in rooms:
            own = led_in(pkg, pkg[room], [str(name) for name in pkg[room].exports])
            refer_in(pkg[room], {**public, **own})
        for name, member in pkg.members.items():
            if isinstance(member, Module) and name not in rooms:
                refer_in(member, public)


def led_in(pkg: Module, room: Module, names: list[str]) -> dict[str, str]:
    """Which of the names in `room` are imported from below, and where the reference has them; of a class also
    its members, as ``Class.member``."""
    known = {}
    for name in names:
        member = room.members[name]
        if not isinstance(member, Alias) or not member.target_path.startswith(f"{pkg.path}."):
            continue
        known[name] = f"{room.path}.{name}"
        target = pkg[member.target_path.split(".")[1:]]
        if isinstance(target, Class):
            shown = [key for key, found in target.members.items() if is_shown(key, found)]
            known |= {f"{name}.{key}": target.members[key].path for key in shown}
    return known


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
