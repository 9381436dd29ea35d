"""A hook of MkDocs: what is written for GitHub and the tests reads the same on the site, links above all.

A page may link to any file or folder of the repository. What is in docs/ is a page already. README.md is the
start page, CONTRIBUTING.md and CHANGELOG.md are pages. Everything else is put on the site as text, a
folder as the list of what is in it. A link to nothing is left as it is, and ``--strict`` refuses it.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
PAGES = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
START = {"README.md": "index.md"}
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)\s#]+)(#[^)\s]*)?(?=\))")
NAMED_FENCE = re.compile(r"^( *```\w+) \w+$", re.MULTILINE)
ROW = re.compile(r"^\|.*$", re.MULTILINE)
CODE = re.compile(r"`[^`]+`")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for source, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    at = page.file.src_uri
    source = next((path for path, name in PAGES.items() if name == at), f"docs/{at}")

    def moved(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), match[1]))
        if (found := destination(target, config, files)) is None:
            return match[0]
        return posixpath.relpath(found, posixpath.dirname(at) or ".") + (match[2] or "")

    pieces = re.split(r"(^ *```.*?^ *```$)", markdown, flags=re.MULTILINE | re.DOTALL)
    pieces[::2] = (ROW.sub(with_plain_code, LINK.sub(moved, piece)) for piece in pieces[::2])
    return NAMED_FENCE.sub(r"\1", "".join(pieces))  # ```python NAME: the name is for the tests


def with_plain_code(row: re.Match[str]) -> str:
    """A row of a table as Python-Markdown reads it: GitHub wants bars in code escaped, it does not."""
    return CODE.sub(lambda code: code[0].replace("\\|", "|"), row[0])


def destination(target: str, config: MkDocsConfig, files: Files) -> str | None:
    """Where `target`, a path in the repository, is on the site; None if nowhere."""
    if target.startswith("docs/"):
        return target.removeprefix("docs/")
    if target in PAGES or target in START:
        return PAGES.get(target) or START[target]
    path = ROOT / target
    if not path.is_relative_to(ROOT) or not path.exists():
        return None
    name = f"source/{target}.txt"
    if files.get_file_from_path(name) is None:
        content = listing(path) if path.is_dir() else path.read_text(encoding="utf-8")
        files.append(File.generated(config, name, content=content))
    return name


def listing(folder: Path) -> str:
    """What is in a folder, one name a line."""
    return "".join(f"{path.name}\n" for path in sorted(folder.iterdir()) if path.name != "__pycache__")
