"""scripts/check_release.py accepts what a release consists of, and refuses each kind of fault in it."""

from __future__ import annotations

import io
import os
import random
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
CHECK = REPOSITORY / "scripts/check_release.py"
VERSION = re.findall(
    r'VERSION_STRING "(.+)"', (REPOSITORY / "include/bittersweet/version.hpp").read_text(encoding="utf-8")
)[0]
TOP = f"bittersweet-{VERSION}"
INFORMATION = f"{TOP}.dist-info"
MODULE = "bittersweet/_core.cpython-312-x86_64-linux-gnu.so"
CMAKE = "bittersweet/lib/cmake/bittersweet/bittersweet"
METADATA = f"Metadata-Version: 2.4\nName: bittersweet\nVersion: {VERSION}\nRequires-Dist: numpy\n".encode()

pytestmark = pytest.mark.skipif(
    not (REPOSITORY / ".git").exists() or shutil.which("git") is None,
    reason="a release is checked against what git keeps",
)
Files = dict[str, bytes]


@pytest.fixture(scope="module")
def sources() -> Files:
    listed = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return {name: (REPOSITORY / name).read_bytes() for name in listed.stdout.split()}


class Release:
    """A source distribution and a wheel as the build makes them, to be spoilt and checked."""

    def __init__(self, folder: Path, sources: Files) -> None:
        self.folder = folder
        self.sdist_name = f"{TOP}.tar.gz"
        self.wheel_name = f"{TOP}-cp312-cp312-manylinux_2_34_x86_64.whl"
        kept = {name: content for name, content in sources.items() if name not in (".ci/run", ".gitignore")}
        self.sdist = {f"{TOP}/{name}": content for name, content in kept.items()}
        self.sdist[f"{TOP}/PKG-INFO"] = METADATA
        self.wheel = {
            name.removeprefix("python/"): content
            for name, content in kept.items()
            if name.startswith("python/bittersweet/")
        }
        for name, content in kept.items():
            if name.startswith("include/"):
                self.wheel[f"bittersweet/{name}"] = content
        for name in ("Config", "ConfigVersion", "Headers"):
            self.wheel[f"{CMAKE}{name}.cmake"] = b""
        for name in ("WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE"):
            self.wheel[f"{INFORMATION}/{name}"] = b""
        self.wheel |= {f"{INFORMATION}/METADATA": METADATA, MODULE: b"\x7fELF"}

    def check(self, *options: str) -> tuple[int, str]:
        with tarfile.open(self.folder / self.sdist_name, "w:gz", compresslevel=1) as tar:
            for name, content in self.sdist.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
        with zipfile.ZipFile(
            self.folder / self.wheel_name, "w", zipfile.ZIP_DEFLATED, compresslevel=1
        ) as wheel:
            for name, content in self.wheel.items():
                wheel.writestr(name, content)
        command = [sys.executable, CHECK, *options, self.sdist_name, self.wheel_name]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False)
        assert done.stderr == ""
        return done.returncode, done.stdout


@pytest.fixture
def release(tmp_path: Path, sources: Files) -> Release:
    return Release(tmp_path, sources)


def test_what_the_build_makes_is_accepted(release: Release) -> None:
    code, printed = release.check()
    assert code == 0, printed
    assert release.wheel_name in printed


def rename(release: Release) -> None:
    release.wheel_name = f"{TOP}-cp312-cp312-linux_x86_64.whl"


def other_version(release: Release) -> None:
    release.wheel[f"{INFORMATION}/METADATA"] = METADATA.replace(VERSION.encode(), b"99.0")


def other_need(release: Release) -> None:
    release.wheel[f"{INFORMATION}/METADATA"] = METADATA + b"Requires-Dist: torch>=2.4\n"


def large(release: Release) -> None:
    release.wheel[MODULE] = random.Random(0).randbytes(7 << 20)


def changed(release: Release) -> None:
    release.wheel["bittersweet/errors.py"] += b"\n"


def in_wheel(path: str) -> Callable[[Release], None]:
    return lambda release: release.wheel.update({path: b""})


def not_in_wheel(path: str) -> Callable[[Release], Any]:
    return lambda release: release.wheel.pop(path)


def in_sdist(path: str) -> Callable[[Release], None]:
    return lambda release: release.sdist.update({path: b""})


def not_in_sdist(path: str) -> Callable[[Release], Any]:
    return lambda release: release.sdist.pop(f"{TOP}/{path}")


@pytest.mark.parametrize(
    ("fault", "printed"),
    [
        (in_wheel("tests/test_pruner.py"), "tests/test_pruner.py does not belong"),
        (in_wheel("bittersweet/__pycache__/x.cpython-312.pyc"), "312.pyc does not belong"),
        (in_wheel("bittersweet.libs/libgomp-1.so.1"), "libgomp-1.so.1 does not belong"),
        (in_wheel("bittersweet/lib/libbittersweet.a"), "libbittersweet.a does not belong"),
        (in_wheel("bittersweet/build/CMakeCache.txt"), "CMakeCache.txt does not belong"),
        (in_wheel("bittersweet/src/prune.cpp"), "prune.cpp does not belong"),
        (in_wheel("bittersweet/scratch.py"), "scratch.py is not in the source distribution"),
        (in_wheel("bittersweet/_core.cpython-311-x86_64-linux-gnu.so"), "one compiled module is accepted"),
        (not_in_wheel(MODULE), "one compiled module is accepted"),
        (not_in_wheel("bittersweet/py.typed"), "bittersweet/py.typed is missing"),
        (not_in_wheel("bittersweet/training/pruner.py"), "bittersweet/training/pruner.py is missing"),
        (not_in_wheel("bittersweet/include/bittersweet/prune.hpp"), "prune.hpp is missing"),
        (not_in_wheel(f"{CMAKE}Headers.cmake"), "bittersweetHeaders.cmake is missing"),
        (not_in_wheel(f"{INFORMATION}/licenses/LICENSE"), "the licence is missing"),
        (changed, "bittersweet/errors.py differs"),
        (rename, "is not called"),
        (other_version, "bittersweet 99.0, version.hpp"),
        (other_need, "numpy alone is accepted"),
        (large, "at most 6 MiB are accepted"),
        (in_sdist(f"{TOP}/build/release/log"), "build/release/log is not a file that git keeps"),
        (in_sdist(f"{TOP}/python/bittersweet/_core.so"), "_core.so is not a file that git keeps"),
        (in_sdist(f"{TOP}/.venv/pyvenv.cfg"), ".venv/pyvenv.cfg is not a file that git keeps"),
        (in_sdist("elsewhere/setup.py"), "elsewhere/setup.py lies outside"),
        (not_in_sdist("cuda/bracket.cu"), "cuda/bracket.cu is missing"),
        (not_in_sdist("LICENSE"), "LICENSE is missing"),
    ],
)  # fmt: skip
def test_a_fault_is_refused_by_name(release: Release, fault: Callable[[Release], Any], printed: str) -> None:
    fault(release)
    code, text = release.check()
    assert code == 1
    assert [line for line in text.splitlines() if printed in line], text


def test_a_wheel_with_cuda_may_be_larger(release: Release) -> None:
    large(release)
    assert release.check("--cuda")[0] == 0


def test_what_is_no_archive_ends_with_2(tmp_path: Path) -> None:
    for name in (f"{TOP}.tar.gz", "x.whl"):
        (tmp_path / name).write_bytes(b"nothing")
    command = [sys.executable, CHECK, f"{TOP}.tar.gz", "x.whl"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("check_release: ")


@pytest.mark.parametrize("script", ["release.sh", "try_versions.sh"])
def test_the_scripts_are_sound(script: str) -> None:
    path = REPOSITORY / "scripts" / script
    assert os.access(path, os.X_OK)
    assert subprocess.run(["bash", "-n", path], check=False).returncode == 0
    if shutil.which("shellcheck"):
        done = subprocess.run(
            ["shellcheck", "-x", path], cwd=REPOSITORY, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["--wheels"], "unknown argument '--wheels'"), (["--cuda"], "--cuda needs architectures")],
)
def test_bad_arguments_are_named_before_anything_is_made(arguments: list[str], said: str) -> None:
    command = ["bash", str(REPOSITORY / "scripts/release.sh"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert said in done.stderr
    assert done.stdout == ""
