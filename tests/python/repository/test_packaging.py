"""What an installed wheel holds, and how it works without torch, without CUDA, or as a C++ package."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
VERSION_HEADER = REPOSITORY / "include/bittersweet/version.hpp"


def run(*command: str | Path, cwd: Path) -> str:
    """The standard output of a command; a failure shows both streams."""
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command} gave {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def run_python(code: str, cwd: Path) -> str:
    return run(sys.executable, "-c", code, cwd=cwd)


@pytest.fixture(scope="module")
def wheel_files() -> dict[str, Path]:
    """Path in the wheel -> installed file."""
    files = importlib.metadata.files("bittersweet") or []
    if any("editable" in file.name for file in files):
        pytest.skip("an editable install has no wheel contents: run `pip install .`")
    return {str(file): Path(str(file.locate())) for file in files if file.suffix != ".pyc"}


@pytest.fixture(scope="module")
def module_file(wheel_files: dict[str, Path]) -> Path:
    found = [
        path for name, path in wheel_files.items() if re.fullmatch(r"bittersweet/_core\.[^/]*\.so", name)
    ]
    assert len(found) == 1, f"exactly one compiled module belongs into the wheel: {found}"
    return found[0]


def test_wheel_holds_every_header(wheel_files: dict[str, Path]) -> None:
    headers = {
        f"bittersweet/include/{path.relative_to(REPOSITORY / 'include')}"
        for path in (REPOSITORY / "include").rglob("*.hpp")
    }
    assert "bittersweet/include/bittersweet/bittersweet.hpp" in headers
    assert headers == {name for name in wheel_files if name.startswith("bittersweet/include/")}


def test_wheel_holds_every_python_file_and_its_types(wheel_files: dict[str, Path]) -> None:
    package = REPOSITORY / "python"
    sources = {str(path.relative_to(package)) for path in package.glob("bittersweet/**/*.py")}
    assert {"bittersweet/__init__.py", *sources} <= wheel_files.keys()
    assert {"bittersweet/py.typed", "bittersweet/_core.pyi"} <= wheel_files.keys()


def test_wheel_holds_a_cmake_package_of_the_headers_alone(wheel_files: dict[str, Path]) -> None:
    folder = "bittersweet/lib/cmake/bittersweet/"
    names = {name.removeprefix(folder) for name in wheel_files if name.startswith(folder)}
    assert names == {"bittersweetConfig.cmake", "bittersweetConfigVersion.cmake", "bittersweetHeaders.cmake"}
    assert not [name for name in wheel_files if name.endswith((".a", ".cpp", ".o"))]


def test_wheel_holds_the_licence(wheel_files: dict[str, Path]) -> None:
    licences = [path for name, path in wheel_files.items() if name.endswith("LICENSE")]
    assert len(licences) == 1
    assert licences[0].read_text() == (REPOSITORY / "LICENSE").read_text()


def test_every_version_is_that_of_the_header() -> None:
    import bittersweet
    from bittersweet import _core

    match = re.search(r'BITTERSWEET_VERSION_STRING "([^"]+)"', VERSION_HEADER.read_text())
    assert match
    versions = {bittersweet.__version__, _core.__version__, importlib.metadata.version("bittersweet")}
    assert versions == {match[1]}


def test_numpy_is_the_only_hard_dependency() -> None:
    requirements = importlib.metadata.requires("bittersweet") or []
    assert [name for name in requirements if "extra ==" not in name] == ["numpy"]


def test_works_with_torch_absent(tmp_path: Path) -> None:
    printed = run_python(
        "import sys\n"
        "sys.modules['torch'] = None  # `import torch` now raises ImportError\n"
        "import numpy, bittersweet\n"
        "weight = numpy.array([[3.0, -1.0], [0.5, 2.0]], dtype=numpy.float32)\n"
        "print(bittersweet.score(weight, 'magnitude').tolist())",
        tmp_path,
    )
    assert printed.strip() == "[[3.0, 1.0], [0.5, 2.0]]"


def test_import_brings_no_optional_package(tmp_path: Path) -> None:
    code = "import sys, bittersweet; print([m for m in ('torch', 'matplotlib', 'tqdm') if m in sys.modules])"
    assert run_python(code, tmp_path).strip() == "[]"


def test_console_reports_the_installation(tmp_path: Path) -> None:
    text = run(sys.executable, "-m", "bittersweet", "info", cwd=tmp_path)
    report = json.loads(run(sys.executable, "-m", "bittersweet", "info", "--json", cwd=tmp_path))
    version = importlib.metadata.version("bittersweet")
    assert version in text
    assert version in json.dumps(report)


def test_console_names_its_commands_on_a_wrong_one(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bittersweet", "frobnicate"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "info" in done.stderr
    assert "demo" in done.stderr


@pytest.mark.skipif(shutil.which("nm") is None, reason="nm (binutils) is not installed")
def test_module_exports_its_entry_point_alone(module_file: Path, tmp_path: Path) -> None:
    lines = run("nm", "-D", "--defined-only", module_file, cwd=tmp_path).splitlines()
    assert [line.split()[-1] for line in lines] == ["PyInit__core"]


@pytest.mark.skipif(shutil.which("readelf") is None, reason="readelf (binutils) is not installed")
def test_module_needs_only_the_standard_libraries(module_file: Path, tmp_path: Path) -> None:
    """Neither libcuda nor libcudart: the import works without a driver and beside any CUDA of torch."""
    needed = re.findall(r"\(NEEDED\).*\[(.*?)\.so", run("readelf", "-d", module_file, cwd=tmp_path))
    assert (
        {"libstdc++", "libc"}
        <= set(needed)
        <= {"libstdc++", "libm", "libgcc_s", "libc", "libpthread", "libdl", "librt", "ld-linux-x86-64"}
    )


def test_import_and_info_work_without_a_driver(tmp_path: Path) -> None:
    code = (
        "import bittersweet, json\n"
        "from bittersweet import _core, info\n"
        "print(json.dumps([_core.CUDA_BUILT, info.collect()['gpus']]))"
    )
    hidden = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=hidden, capture_output=True, text=True, check=True
    )
    built, gpus = json.loads(done.stdout)
    assert isinstance(built, bool) and gpus == []


def test_source_distribution_can_build(tmp_path: Path) -> None:
    pytest.importorskip("scikit_build_core", reason="scikit-build-core is not installed")
    code = f"from scikit_build_core.build import build_sdist; print(build_sdist({str(tmp_path)!r}))"
    archive = tmp_path / run_python(code, REPOSITORY).split()[-1]
    with tarfile.open(archive) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    rooms = ["include", "src", "cuda", "cmake", "python/bindings", "python/bittersweet"]
    files = {"CMakeLists.txt", "pyproject.toml", "LICENSE", "README.md"}
    for room in rooms:
        files |= {
            str(path.relative_to(REPOSITORY))
            for path in (REPOSITORY / room).rglob("*")
            if path.suffix
            in {".hpp", ".cpp", ".cu", ".cuh", ".cmake", ".in", ".map", ".py", ".pyi", ".typed", ".txt"}
        }
    assert files <= names
    assert not [name for name in names if name.startswith(("build/", ".venv/", ".git/"))]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("cmake") is None, reason="cmake is not installed")
def test_wheel_serves_a_cpp_project(wheel_files: dict[str, Path], tmp_path: Path) -> None:
    entry_points = importlib.metadata.entry_points(group="cmake.root")
    assert [(point.name, point.value) for point in entry_points if point.name == "bittersweet"] == [
        ("bittersweet", "bittersweet")
    ]
    root = wheel_files["bittersweet/__init__.py"].parent
    consumer = REPOSITORY / "tests/consumer"
    run("cmake", "-S", consumer, "-B", tmp_path / "build", f"-Dbittersweet_ROOT={root}", cwd=tmp_path)
    run("cmake", "--build", tmp_path / "build", cwd=tmp_path)
    assert "1 tests failed" not in (tested := run("ctest", "--output-on-failure", cwd=tmp_path / "build"))
    assert "header_only" in tested

    example = REPOSITORY / "examples/cpp"
    command = ["cmake", "-S", example, "-B", tmp_path / "linked", f"-Dbittersweet_ROOT={root}"]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode != 0
    assert "headers only" in " ".join(refused.stderr.split())
