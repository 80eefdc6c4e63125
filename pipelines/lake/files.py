"""Files that are there whole or not at all, and survive a power cut."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from lean_resources.errors import MachineError

__all__ = ["beside", "create_text", "naming", "place", "put_once", "put_text", "reveal", "synced"]

_NO_LINKS = {
    errno.EPERM,
    errno.EOPNOTSUPP,
    errno.ENOSYS,
    errno.EINVAL,
    errno.EMLINK,
    errno.EXDEV,
}
"""How file systems refuse hard links: FAT, many of those in user space, some of networks."""
_HERE, _NO_REPLACE = -100, 1
"""Arguments of Linux's renameat2. Source: https://man7.org/linux/man-pages/man2/rename.2.html"""


@contextlib.contextmanager
def naming(file: Path) -> Iterator[None]:
    """Let errors of the system name a file: those of a write, unlike those of opening, do not."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(file)
        raise


def beside(file: Path) -> Path:
    """Where a file is written before it is renamed into place."""
    return file.with_name(f"{file.name}.tmp")


def reveal(part: Path, file: Path) -> None:
    """Put a file that was written beside its place there, so that it survives a power cut."""
    synced(part)
    part.replace(file)
    synced(file.parent)


def place(part: Path, file: Path) -> None:
    """Give a file that was written beside its place that place, unless it is taken.

    The file system decides, so of two processes that do it at once, one gets the place. By a hard
    link, or by a rename that replaces nothing where there are no hard links; `part` may be gone.

    Raises:
        FileExistsError: The place is taken.
        MachineError: The file system can do neither.
    """
    try:
        os.link(part, file)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        _rename(part, file)


def _rename(part: Path, file: Path) -> None:
    """Rename a file, unless the place is taken."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    number = errno.ENOSYS
    if rename is not None:
        paths = os.fsencode(part), os.fsencode(file)
        if rename(_HERE, paths[0], _HERE, paths[1], _NO_REPLACE) == 0:
            return
        number = ctypes.get_errno()
    if number in _NO_LINKS:
        raise MachineError(
            f"the file system of {file.parent} can neither link a file nor rename it without "
            "replacing another",
            code="NO_LINKS",
            remedy="Set LEANHOUSE_HOME to a folder on a file system that can, such as ext4 or xfs.",
        )
    raise OSError(number, os.strerror(number), str(file))


def put_text(file: Path, text: str) -> None:
    """Write a small file, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with naming(file):
        beside(file).write_text(text, encoding="utf-8")
    reveal(beside(file), file)


def put_once(part: Path, file: Path) -> bool:
    """As `place`, so that it survives a power cut; whether the place was free. `part` is gone."""
    try:
        synced(part)
        place(part, file)
    except FileExistsError:
        return False
    finally:
        part.unlink(missing_ok=True)
    synced(file.parent)
    return True


def create_text(file: Path, text: str, name: str) -> None:
    """Write a small file, whole or not at all, unless its place is taken.

    Args:
        file: Its place.
        text: What it holds.
        name: What it is called, without an ending, until it lies there.

    Raises:
        FileExistsError: The place is taken.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f"{name}.tmp")
    try:
        with naming(file):
            part.write_text(text, encoding="utf-8")
        if not put_once(part, file):
            raise FileExistsError(file)
    finally:
        part.unlink(missing_ok=True)


def synced(place: Path) -> None:
    """Make a file, or the renames within a folder, survive a power cut."""
    descriptor = os.open(place, os.O_RDONLY)
    try:
        with naming(place):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
