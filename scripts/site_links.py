"""A hook of MkDocs: links between files of the repository work on the site as they do in a checkout.

A page may link to any file or folder beside it. Inside docs/ that is a page already. README.md is the start page,
CONTRIBUTING.md and CHANGELOG.md are pages, and everything else is put on the site as the text that it is, a folder as
the list of what is in it. A link to nothing is left as it is, so that ``--strict`` refuses it.
"""

from __future__ import annotations

import posixpath
import re
import subprocess
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
PAGES = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
START = {"README.md": "index.md"}
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)\s#]+)(#[^)\s]*)?(?=\))")
FENCE = re.compile(r"^( *)```(\w+) \w+$", re.MULTILINE)


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
    pieces[::2] = (LINK.sub(moved, piece) for piece in pieces[::2])
    return FENCE.sub(r"\1```\2", "".join(pieces))  # ```python NAME: the name is for the tests


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
        content = listing(target) if path.is_dir() else path.read_text(encoding="utf-8")
        files.append(File.generated(config, name, content=content))
    return name


def listing(folder: str) -> str:
    """The tracked files of a folder, one a line."""
    command = ["git", "-C", str(ROOT), "ls-files", folder]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
