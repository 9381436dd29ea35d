"""The checks in scripts/ find an offence against each of their rules, and none in this repository."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
INCLUDES = REPOSITORY / "scripts/check_includes.py"
SYMBOLS = REPOSITORY / "scripts/check_symbols.sh"
ROOMS = [
    "include/bittersweet/score",
    "include/bittersweet/select",
    "include/bittersweet/sharded",
    "src/cpu",
    "cuda",
    "python/bindings",
]


def check(root: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, INCLUDES, root], capture_output=True, text=True, check=False)


def house(root: Path) -> Path:
    for room in ROOMS:
        (root / room).mkdir(parents=True)
    return root


def test_this_repository_keeps_the_rules() -> None:
    done = check(REPOSITORY)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("path", "include"),
    [
        ("include/bittersweet/dtype.hpp", "<cuda_runtime.h>"),
        ("include/bittersweet/dtype.hpp", "<torch/extension.h>"),
        ("include/bittersweet/prune.hpp", '"src/cpu/isa.hpp"'),
        ("src/prune.cpp", "<pybind11/pybind11.h>"),
        ("include/bittersweet/score/bitter7.hpp", '"bittersweet/engine/engine.hpp"'),
        ("include/bittersweet/select/exact.hpp", '"bittersweet/engine/cpu.hpp"'),
        ("src/cpu/verbs_v3.cpp", '"bittersweet/select/exact.hpp"'),
        ("cuda/bracket.cuh", '"bittersweet/select/exact.hpp"'),
        ("python/bindings/module.cpp", '"bittersweet/engine/cpu.hpp"'),
        ("python/bindings/module.cpp", '"cpu/isa.hpp"'),
    ],
)
def test_an_offence_is_named_with_its_line(tmp_path: Path, path: str, include: str) -> None:
    source = house(tmp_path) / path
    source.write_text(f"#pragma once\n#  include {include}\n")
    done = check(tmp_path)
    assert done.returncode == 1
    assert f"{path}:2: " in done.stdout


@pytest.mark.parametrize(
    ("path", "include"),
    [
        ("include/bittersweet/select/exact.hpp", '"bittersweet/engine/engine.hpp"'),
        ("python/bindings/module.cpp", '"bittersweet/bittersweet.hpp"'),
        ("src/prune.cpp", '"bittersweet/select/selectors.hpp"'),
    ],
)
def test_what_is_allowed_passes(tmp_path: Path, path: str, include: str) -> None:
    (house(tmp_path) / path).write_text(f"#include {include}\n")
    done = check(tmp_path)
    assert done.returncode == 0, done.stdout


def test_a_missing_room_is_an_error_not_a_pass(tmp_path: Path) -> None:
    done = check(tmp_path)
    assert done.returncode == 2
    assert "does not exist" in done.stderr


@pytest.mark.skipif(
    not all(map(shutil.which, ("c++", "ar", "nm"))),
    reason="a compiler and binutils are needed to make an archive",
)
@pytest.mark.parametrize(
    ("source", "code", "printed"),
    [
        ("namespace { int one() { return 1; } } int table() { return one(); }", 0, "1 instruction-set units"),
        ("inline int shared() { return 1; } int (*table)() = shared;", 1, "verbs_v4.cpp.o: shared()"),
    ],
)
def test_weak_symbols_in_an_instruction_set_unit_are_found(
    tmp_path: Path, source: str, code: int, printed: str
) -> None:
    (tmp_path / "unit.cpp").write_text(source)
    subprocess.run(["c++", "-c", "unit.cpp", "-o", "verbs_v4.cpp.o"], cwd=tmp_path, check=True)
    subprocess.run(["ar", "rc", "library.a", "verbs_v4.cpp.o"], cwd=tmp_path, check=True)
    done = subprocess.run(
        ["bash", SYMBOLS, tmp_path / "library.a"], capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert printed in done.stdout


@pytest.mark.skipif(
    not all(map(shutil.which, ("c++", "ar", "nm", "objdump"))),
    reason="a compiler and binutils are needed to make an archive",
)
@pytest.mark.parametrize(("body", "code"), [("__builtin_prefetch(at);", 0), ("(void)at;", 1)])
def test_dropped_prefetches_are_found(tmp_path: Path, body: str, code: int) -> None:
    (tmp_path / "track.cpp").write_text(f"void ask(const void* at) {{ {body} }}")
    (tmp_path / "unit.cpp").write_text("int table() { return 1; }")
    subprocess.run(["c++", "-c", "track.cpp", "-o", "track.cpp.o"], cwd=tmp_path, check=True)
    subprocess.run(["c++", "-c", "unit.cpp", "-o", "verbs_v4.cpp.o"], cwd=tmp_path, check=True)
    subprocess.run(["ar", "rc", "library.a", "verbs_v4.cpp.o", "track.cpp.o"], cwd=tmp_path, check=True)
    done = subprocess.run(
        ["bash", SYMBOLS, tmp_path / "library.a"], capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert code == 0 or "cpu::prefetch" in done.stdout
