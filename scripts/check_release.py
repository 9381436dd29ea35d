#!/usr/bin/env python3
"""Checks what a release would publish: the files in an sdist and in wheels, their names and sizes.

Run in a checkout: `python scripts/check_release.py [--cuda] SDIST WHEEL [WHEEL ...]`. Prints one line per
fault and exits with 1 if there is any, with 2 if a file cannot be read. Nothing is unpacked or run.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from email.parser import Parser
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MIB = 1 << 20
# Well above what they are, so that a forgotten folder or unstripped symbols do not pass.
SDIST_LIMIT = 3 * MIB
WHEEL_LIMIT = 6 * MIB
CUDA_WHEEL_LIMIT = 100 * MIB

# Everything that belongs into a wheel; whatever matches none of these is refused.
IN_WHEEL = re.compile(
    r"bittersweet/(?:[a-z_0-9]+/)*[a-z_0-9]+\.py"
    r"|bittersweet/(?:py\.typed|_core\.pyi|_core\.[^/]+\.so)"
    r"|bittersweet/include/bittersweet/(?:[a-z_0-9]+/)*[a-z_0-9]+\.hpp"
    r"|bittersweet/lib/cmake/bittersweet/bittersweet(?:Config|ConfigVersion|Headers)\.cmake"
    r"|bittersweet-[^/]+\.dist-info/(?:METADATA|WHEEL|RECORD|entry_points\.txt|licenses/LICENSE|sboms/[^/]+\.json)"
)
CMAKE = {f"bittersweet{name}.cmake" for name in ("Config", "ConfigVersion", "Headers")}
# What git keeps but a source distribution leaves out: [tool.scikit-build] sdist.exclude.
NOT_IN_SDIST = {".ci/run", ".gitignore"}


def read(archive: Path) -> dict[str, bytes]:
    """Every file in an archive, by its path there."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            return {entry.filename: wheel.read(entry) for entry in wheel.infolist() if not entry.is_dir()}
    found = {}
    with tarfile.open(archive) as sdist:
        for member in sdist.getmembers():
            if not member.isdir():
                content = sdist.extractfile(member) if member.isfile() else None
                found[member.name] = content.read() if content else b""
    return found


def version_of_the_header() -> str:
    text = (ROOT / "include/bittersweet/version.hpp").read_text(encoding="utf-8")
    match = re.search(r'BITTERSWEET_VERSION_STRING "([^"]+)"', text)
    if not match:
        raise SystemExit("check_release: version.hpp names no BITTERSWEET_VERSION_STRING")
    return match[1]


def tracked() -> set[str]:
    """The files that git keeps."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        raise SystemExit(f"check_release: {ROOT} is no git checkout: nothing says what an sdist holds")
    return set(filter(None, listed.stdout.split("\0")))


def faults_of_size(size: int, limit: int) -> Iterator[str]:
    if size > limit:
        yield f"is {size / MIB:.1f} MiB; at most {limit / MIB:.0f} MiB are accepted"


def faults_of_metadata(text: str, version: str) -> Iterator[str]:
    metadata = Parser().parsestr(text)
    if metadata["Name"] != "bittersweet" or metadata["Version"] != version:
        yield f"its metadata says {metadata['Name']} {metadata['Version']}, version.hpp {version}"
    hard = [need for need in metadata.get_all("Requires-Dist", []) if "extra ==" not in need]
    if [re.match(r"[\w-]+", need)[0] for need in hard] != ["numpy"]:  # type: ignore[index]
        yield f"it requires {hard}; numpy alone is accepted"


def faults_of_sdist(name: str, files: Mapping[str, bytes], kept: set[str], version: str) -> Iterator[str]:
    """A source distribution holds the files that git keeps, and PKG-INFO."""
    top = f"bittersweet-{version}"
    if name != f"{top}.tar.gz":
        yield f"is not called {top}.tar.gz"
    inside = {path.removeprefix(f"{top}/") for path in files if path.startswith(f"{top}/")}
    for path in sorted(set(files) - {f"{top}/{path}" for path in inside}):
        yield f"{path} lies outside {top}/"
    for path in sorted(inside - kept - {"PKG-INFO"}):
        yield f"{path} is not a file that git keeps"
    for path in sorted((kept | {"PKG-INFO"}) - NOT_IN_SDIST - inside):
        yield f"{path} is missing"
    yield from faults_of_metadata(files.get(f"{top}/PKG-INFO", b"").decode(), version)


def faults_of_wheel(
    name: str, files: Mapping[str, bytes], sources: Mapping[str, bytes], version: str
) -> Iterator[str]:
    """A wheel holds the Python files and headers of the sdist unchanged, one module, and its metadata."""
    if not re.fullmatch(rf"bittersweet-{re.escape(version)}-cp3\d+-cp3\d+-manylinux\S*_x86_64\.whl", name):
        yield f"is not called bittersweet-{version}-cp3X-cp3X-manylinux..._x86_64.whl"
    for path in sorted(files):
        if not IN_WHEEL.fullmatch(path):
            yield f"{path} does not belong into a wheel"
    top = f"bittersweet-{version}/"
    wanted = {
        path.removeprefix(f"{top}python/").removeprefix(top): content
        for path, content in sources.items()
        if re.match(rf"{re.escape(top)}python/bittersweet/", path)
    }
    for path, content in sources.items():
        if path.startswith(f"{top}include/"):
            wanted[f"bittersweet/{path.removeprefix(top)}"] = content
    for path, content in sorted(wanted.items()):
        if path not in files:
            yield f"{path} is missing"
        elif files[path] != content:
            yield f"{path} differs from the source distribution's"
    for path in sorted(set(files) - set(wanted)):
        if path.startswith("bittersweet/") and path.endswith((".py", ".pyi", ".hpp")):
            yield f"{path} is not in the source distribution"
    modules = [path for path in files if path.endswith(".so")]
    if len(modules) != 1:
        yield f"one compiled module is accepted, it has {modules}"
    for path in sorted(CMAKE - {Path(path).name for path in files}):
        yield f"{path} is missing"
    information = f"bittersweet-{version}.dist-info"
    if f"{information}/licenses/LICENSE" not in files:
        yield "the licence is missing"
    yield from faults_of_metadata(files.get(f"{information}/METADATA", b"").decode(), version)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("sdist", type=Path)
    parser.add_argument("wheels", type=Path, nargs="+")
    parser.add_argument("--cuda", action="store_true", help="wheels with the CUDA engine, which may be large")
    options = parser.parse_args()
    version = version_of_the_header()
    try:
        sources = read(options.sdist)
        wheels = {wheel: read(wheel) for wheel in options.wheels}
    except (OSError, tarfile.TarError, zipfile.BadZipFile) as error:
        print(f"check_release: {error}", file=sys.stderr)
        return 2
    sdist: Path = options.sdist
    faults = [(sdist, fault) for fault in faults_of_sdist(sdist.name, sources, tracked(), version)]
    faults += [(sdist, fault) for fault in faults_of_size(sdist.stat().st_size, SDIST_LIMIT)]
    for wheel, files in wheels.items():
        limit = CUDA_WHEEL_LIMIT if options.cuda else WHEEL_LIMIT
        faults += [(wheel, fault) for fault in faults_of_wheel(wheel.name, files, sources, version)]
        faults += [(wheel, fault) for fault in faults_of_size(wheel.stat().st_size, limit)]
    for path, fault in faults:
        print(f"{path.name}: {fault}")
    if not faults:
        for path in (sdist, *options.wheels):
            print(f"contents and size: {path.name}, {path.stat().st_size / MIB:.2f} MiB")
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
