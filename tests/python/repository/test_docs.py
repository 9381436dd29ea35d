"""The documents keep their word: examples run, tables agree with the compiled lists, links lead somewhere."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import bittersweet as bs
import pytest
from bittersweet.options.scorers import scorer_rows

REPOSITORY = Path(__file__).resolve().parents[3]
DOCUMENTS = [*sorted(REPOSITORY.glob("*.md")), *sorted((REPOSITORY / "docs").rglob("*.md"))]
NAMES = [str(path.relative_to(REPOSITORY)) for path in DOCUMENTS]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def blocks(path: Path, language: str) -> list[str]:
    text = path.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def with_blocks(language: str) -> list[str]:
    return [name for name in NAMES if blocks(REPOSITORY / name, language)]


def table(path: Path, first: str) -> list[list[str]]:
    """The cells of the rows of the table whose first column is called `first`, escapes undone."""
    lines = path.read_text(encoding="utf-8").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {first} |"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        cells = re.split(r"(?<!\\)\|", line)[1:-1]
        rows.append([cell.strip().replace("\\|", "|") for cell in cells])
    return rows


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def anchors(path: Path) -> set[str]:
    """The anchors that GitHub makes of the headings."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", with_blocks("python"))
def test_python_examples_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "__main__"}
    for number, block in enumerate(blocks(REPOSITORY / name, "python"), 1):
        exec(compile(block, f"{name}, block {number}", "exec"), namespace)


def test_the_documents_that_should_have_examples_have_them() -> None:
    assert {
        "README.md",
        *(f"docs/{name}.md" for name in ("gradient_probe", "scorers", "selectors", "training", "wanda")),
    } <= {*with_blocks("python")}
    assert {"README.md", "docs/adding_a_scorer.md"} <= {*with_blocks("cpp")}


@pytest.mark.skipif(shutil.which("c++") is None, reason="a C++ compiler is needed")
@pytest.mark.parametrize("name", with_blocks("cpp"))
def test_cpp_examples_compile(name: str, tmp_path: Path) -> None:
    for number, block in enumerate(blocks(REPOSITORY / name, "cpp")):
        source = tmp_path / f"block{number}.cpp"
        source.write_text(block.replace("#pragma once\n", ""), encoding="utf-8")
        flags = ["-std=c++20", "-fsyntax-only", "-Wall", "-Wextra", "-Werror", f"-I{REPOSITORY / 'include'}"]
        done = subprocess.run(["c++", *flags, source], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_readme_names_every_scorer() -> None:
    names = [name for row in table(REPOSITORY / "README.md", "scorer") for name in quoted(row[0])]
    assert sorted(names) == sorted(bs.scorers())


def test_scorer_table_is_the_compiled_one() -> None:
    rows = scorer_rows()
    documented = []
    for names, score, eps, reads in table(REPOSITORY / "docs/scorers.md", "scorer"):
        first, *aliases = quoted(names)
        row = rows[first]
        assert row["alias_of"] is None
        assert [rows[alias]["alias_of"] for alias in aliases] == [first] * len(aliases)
        assert quoted(score) == [row["formula"]]
        if row["default_eps"] is None:
            assert eps == "-", first
        else:
            assert float(eps) == pytest.approx(row["default_eps"], rel=1e-6, abs=0), first
        assert reads == (", ".join(row["reads"]) or "-"), first
        documented += [first, *aliases]
    assert sorted(documented) == sorted(bs.scorers())


def test_selector_table_is_the_compiled_one() -> None:
    names = [quoted(row[0])[0] for row in table(REPOSITORY / "docs/selectors.md", "name")]
    assert names == bs.selectors()


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name: str) -> None:
    document = REPOSITORY / name
    text = re.sub(r"^```.*?^```", "", document.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for link in LINK.findall(text):
        if link.startswith(("https://", "http://", "mailto:")):
            continue
        target, _, anchor = link.partition("#")
        path = (document.parent / target).resolve() if target else document
        assert path.exists(), f"{name} links to {link}"
        assert path.is_relative_to(REPOSITORY), f"{name} links out of the repository: {link}"
        assert not anchor or anchor in anchors(path), f"{name} links to {link}, which has no such heading"
