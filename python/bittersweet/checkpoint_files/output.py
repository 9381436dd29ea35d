"""A copy that appears whole or not at all: it is written beside its place, and renamed when it is on disk."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from ..errors import ArgumentError
from .blocks import Block

__all__ = ["Partial", "check_output", "copy_range", "write_runs"]

_COPIED_AT_ONCE = 256 << 20
_IN_KERNEL_IMPOSSIBLE = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF, errno.EPERM)


def check_output(out: Path, source: Path, folder: bool, overwrite: bool, kept: set[Path]) -> None:
    """Raises ArgumentError if `out` cannot be the copy's place. `kept` are the files of a new folder."""
    here = out.resolve()
    if out.is_symlink():
        raise ArgumentError(f"out: '{out}' is a link, to '{here}'. Pass a path of its own")
    whole = source.resolve()
    if here == whole or (out.exists() and out.samefile(source)):
        raise ArgumentError(f"out: '{out}' is the source itself, which is never written to")
    if folder and whole in here.parents:
        raise ArgumentError(f"out: '{out}' lies within the source '{source}'. Pass a path outside of it")
    if here in whole.parents:
        raise ArgumentError(f"out: '{out}' is a folder around the source '{source}'. Pass a path of its own")
    if not out.parent.is_dir():
        raise ArgumentError(f"out: the folder '{out.parent}' does not exist")
    if not out.exists():
        return
    if out.is_dir() != folder or not (out.is_dir() or out.is_file()):
        wanted, found = ("folder", "file") if folder else ("file", "folder")
        raise ArgumentError(f"out: '{out}' is a {found}; accepted for this source: the path of a {wanted}")
    if not overwrite:
        raise ArgumentError(f"out: '{out}' exists. Pass another path, or overwrite=True (--overwrite)")
    if folder:
        there = (Path(where) / name for where, _, names in os.walk(out) for name in names)
        foreign = next((file for file in there if file.relative_to(out) not in kept), None)
        if foreign is not None:
            raise ArgumentError(
                f"out: '{foreign}' is not a part of the new checkpoint and would be lost. Pass another path, "
                "or remove it"
            )


class Partial:
    """``OUT.partial-PID`` until `commit`; gone after any error. A killed process leaves it, and never OUT."""

    def __init__(self, out: Path, folder: bool) -> None:
        self.out, self.folder = out, folder
        self.path = self._create(f"{out.name}.partial-{os.getpid()}")

    def _create(self, name: str) -> Path:
        for suffix in ("", *(f"-{count}" for count in range(2, 1000))):
            path = self.out.with_name(name + suffix)
            with contextlib.suppress(FileExistsError):
                if self.folder:
                    path.mkdir()
                else:
                    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
                return path
        raise ArgumentError(f"out: '{self.out.with_name(name)}' and its like exist. Remove them")

    @contextlib.contextmanager
    def file(self, name: Path) -> Iterator[int]:
        """A descriptor for one of its files (the only one, without a folder), which is on disk afterwards."""
        path = self.path / name if self.folder else self.path
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            yield descriptor
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def commit(self) -> None:
        """Takes the place of OUT. Of a folder that is there, the old one is moved aside first."""
        old = self.path.with_name(f"{self.path.name}-replaced")
        try:
            if self.folder:
                for where, _, _ in os.walk(self.path, topdown=False):
                    _sync(Path(where))
                if self.out.exists():
                    os.rename(self.out, old)
            os.rename(self.path, self.out)
        except BaseException:
            if old.exists() and not self.out.exists():
                os.rename(old, self.out)
            raise
        with contextlib.suppress(OSError):  # the copy is whole, and in its place
            _sync(self.out.absolute().parent)
        shutil.rmtree(old, ignore_errors=True)

    def discard(self) -> None:
        if self.folder:
            shutil.rmtree(self.path, ignore_errors=True)
        else:
            self.path.unlink(missing_ok=True)


def leftovers(out: Path) -> list[Path]:
    """What processes left beside `out` that were killed while they wrote it, or are writing now."""
    with contextlib.suppress(OSError):
        return sorted(path for path in out.parent.iterdir() if path.name.startswith(f"{out.name}.partial-"))
    return []


def copy_range(source: int, target: int, begin: int, end: int) -> None:
    """The bytes from `begin` to `end` at the same place of another file, within the kernel where it can."""
    while begin < end:
        count = 0
        try:
            count = os.copy_file_range(source, target, min(end - begin, _COPIED_AT_ONCE), begin, begin)
        except OSError as error:
            if error.errno not in _IN_KERNEL_IMPOSSIBLE:
                raise
        if count == 0:  # some file systems say so in this way
            count = os.pwrite(target, os.pread(source, min(end - begin, 8 << 20), begin), begin)
        if count == 0:
            raise OSError(errno.EIO, "the source ended while it was copied")
        begin += count


def write_runs(descriptor: int, block: Block, memory: memoryview) -> None:
    """Writes a block where it was read; the disk begins at once, so that little is left for the end."""
    for at in range(block.runs):
        place, left = block.begin + at * block.stride, memory[at * block.run : (at + 1) * block.run]
        while left:
            count = os.pwrite(descriptor, left, place)
            place, left = place + count, left[count:]
    if block.runs == 1:
        os.posix_fadvise(descriptor, block.begin, block.run, os.POSIX_FADV_DONTNEED)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that does not do this for folders
            raise
    finally:
        os.close(descriptor)
