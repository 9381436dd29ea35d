"""The site says everything once, and reads what is written for GitHub and for the tests."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import types
from pathlib import Path

import bittersweet as bs
import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
REFERENCE = REPOSITORY / "docs/reference"


def script(path: str) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(Path(path).stem, REPOSITORY / path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def public_names() -> list[str]:
    """What a user may write after ``bittersweet.``: `__all__`, what it leaves out, rooms and their own."""
    names = {*bs.__all__, *bs._HOME, *bs._ROOMS}
    for room in bs._ROOMS:
        names |= {f"{room}.{name}" for name in getattr(bs, room).__all__}
    return sorted(names)


def test_every_public_name_is_in_the_reference_once() -> None:
    pytest.importorskip("torch")
    pages = [path.read_text(encoding="utf-8") for path in sorted(REFERENCE.glob("*.md"))]
    found = [name for page in pages for name in re.findall(r"^::: bittersweet\.(\S+)$", page, re.MULTILINE)]
    assert [name for name in {*found} if found.count(name) > 1] == []
    others = {*found} - {*public_names()}
    assert {*found} - others == {*public_names()}
    for name in others:  # what public functions return or build on, under the module that defines it
        module, _, short = name.rpartition(".")
        source = REPOSITORY / "python/bittersweet" / f"{module.replace('.', '/')}.py"
        defined = [getattr(node, "name", None) for node in ast.parse(source.read_text(encoding="utf-8")).body]
        assert short in defined, name
        assert short not in dir(bs), f"{short} is public: write bittersweet.{short}"


def test_every_command_is_in_the_reference() -> None:
    usage = subprocess.run(
        [sys.executable, "-m", "bittersweet", "--help"], capture_output=True, text=True, check=True
    ).stdout
    commands = re.search(r"\{([\w,-]+)\}", usage)
    assert commands is not None
    page = (REFERENCE / "command_line.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^\| `([\w-]+)` \|", page, re.MULTILINE)) == sorted(commands[1].split(","))


PAGE = r"""# Page

## Two -- words

## Two words

[source](../../scripts/site_links.py) [folder](../../scripts) [changes](../../CHANGELOG.md)
[start](../../README.md) [web](https://example.org/a.md)

| a | b |
| --- | --- |
| `\|w\|` | c \| d |

```python lora
print("[x](../../nothing)")
```

::: bittersweet.room.written
"""
PACKAGE = {
    "__init__.py": (
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from . import room as room\n    from .below import Thing\n"
        '_ROOMS = frozenset(("room",))\n__all__ = ["Thing"]\n'
    ),
    "below.py": (
        'class Thing:\n    """Is `made`, see docs/guides/page.md."""\n\n'
        '    def made(self):\n        """Made."""\n'
    ),
    "room/__init__.py": 'from .inside import written\n__all__ = ["written"]\n',
    "room/inside.py": 'def written():\n    """Writes a `Thing`, once `Thing.made`."""\n',
}
NOWHERE = {
    "[a](../gone.md)": "gone.md",
    "[b](../../src/gone.cpp)": "gone.cpp",
    "[c](../index.md#gone)": "'#gone'",
    "[d](#lost)": "#lost",
    "[e](/absolute)": "/absolute",
    "![f](gone.svg)": "gone.svg",
    "[g][bittersweet.Gone]": "bittersweet.Gone",
}


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A repository of two pages, with everything that is special about links and docstrings."""
    pytest.importorskip("mkdocstrings")
    shutil.copytree(REPOSITORY / "scripts", tmp_path / "scripts")
    settings = (REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8")
    nav = "nav: [index.md, guides/page.md, reference/below.md, changelog.md, contributing.md]\n"
    texts = {
        "mkdocs.yml": settings[: settings.index("nav:\n")] + nav,
        "CONTRIBUTING.md": "# Contributing\n\n[inside](docs/guides/page.md#two-words)\n",
        "CHANGELOG.md": "# Changes\n",
        "README.md": "# Readme\n",
        "docs/index.md": "# Start\n",
        "docs/reference/below.md": "# Below\n\n::: bittersweet.Thing\n",
        "docs/guides/page.md": PAGE,
        "docs/stylesheets/site.css": "",
        **{f"python/bittersweet/{name}": text for name, text in PACKAGE.items()},
    }
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def build(root: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict"]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_what_is_written_for_github_reads_the_same(small: Path) -> None:
    done = build(small)
    assert done.returncode == 0, done.stderr
    site = small / "build/site"
    page = (site / "guides/page/index.html").read_text(encoding="utf-8")
    for link in ("/source/scripts/site_links.py.txt", "/source/scripts.txt", "/changelog/", ""):
        assert f'href="../..{link}"' in page, link
    assert 'href="https://example.org/a.md"' in page
    assert "<code>|w|</code>" in page and "<td>c | d</td>" in page
    assert '<span class="nb">print</span>' in page and "lora" not in page
    assert "[x](../../nothing)" in page
    text = (site / "source/scripts/site_links.py.txt").read_text(encoding="utf-8")
    assert text == (REPOSITORY / "scripts/site_links.py").read_text(encoding="utf-8")
    assert "site_links.py\n" in (site / "source/scripts.txt").read_text(encoding="utf-8")
    assert 'href="../guides/page/#two-words"' in (site / "contributing/index.html").read_text()
    for name in ("Thing", "Thing.made"):
        assert re.search(rf'href="../../reference/below/#bittersweet.[\w.]*{name}"[^>]*><code>{name}<', page)
    below = (site / "reference/below/index.html").read_text(encoding="utf-8")
    assert re.search(r'href="#bittersweet.[\w.]*Thing.made"[^>]*><code>made<', below)
    assert '<a href="../../guides/page/">docs/guides/page.md</a>' in below


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("see `Pruner`.", "see [`Pruner`][p]."),
        ("`Pruner.step()`, (`step`)", "[`Pruner.step()`][p.step], (`step`)"),
        ("``Pruner``, `w * g`, `Pruner.gone`", "``Pruner``, `w * g`, `Pruner.gone`"),
        ("[`Pruner`][q], `Here`", "[`Pruner`][q], `Here`"),
    ],
)
def test_which_names_are_cross_references(text: str, read: str) -> None:
    pytest.importorskip("griffe")
    docstrings = script("scripts/site_docstrings.py")
    known = {"Pruner": "p", "Pruner.step": "p.step", "Here": "h"}
    assert docstrings.NAME.sub(lambda match: docstrings.reference(match, known, "Here"), text) == read


@pytest.mark.slow
def test_what_leads_nowhere_is_refused(small: Path) -> None:
    (small / "docs/guides/page.md").write_text("\n\n".join(["# Page", *NOWHERE]), encoding="utf-8")
    (small / "docs/index.md").write_text("# Start\n", encoding="utf-8")
    (small / "docs/lost.md").write_text("# A page that no menu has\n", encoding="utf-8")
    done = build(small)
    assert done.returncode != 0
    for what in (*NOWHERE.values(), "lost.md"):
        assert re.search(f"WARNING.*{re.escape(what)}|^ *- {re.escape(what)}$", done.stderr, re.MULTILINE), (
            what
        )


@pytest.mark.slow
def test_a_name_that_is_none_is_refused(small: Path) -> None:
    (small / "docs/index.md").write_text("# Start\n\n::: bittersweet.Gone\n", encoding="utf-8")
    done = build(small)
    assert done.returncode != 0
    assert "bittersweet.Gone" in done.stderr


def test_the_picture_has_the_figures_of_the_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.syspath_prepend(REPOSITORY / "bench")
    start_page = script("bench/start_page.py")
    start_page.draw(tmp_path / "cost.svg")

    def texts(path: Path) -> list[str]:
        return re.findall(r"<text[^>]*>([^<]*)</text>", path.read_text(encoding="utf-8"))

    drawn = texts(REPOSITORY / "docs/images/cost.svg")
    assert sorted(drawn) == sorted(texts(tmp_path / "cost.svg"))
    for name, value in {**start_page.selection(), **start_page.training()}.items():
        assert name.replace('"', "&quot;") in drawn or name in drawn
        assert f"{value:,.0f} ms" in drawn
