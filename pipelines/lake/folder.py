"""A local folder as the storage of a lake: hard links, renames and fsync."""
# Storage says what each verb does.
# ruff: noqa: D102

from __future__ import annotations

import contextlib
import ctypes
import errno
import fnmatch
import functools
import os
import shutil
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Executor
from pathlib import Path

from lean_resources.errors import MachineError
from pipelines.lake.folders import WRITERS
from pipelines.lake.storage import Key, Storage, Stored, Write, fill
from pipelines.lake.writers import LockedWriters

_NO_LINKS = {
    errno.EPERM,
    errno.EOPNOTSUPP,
    errno.ENOSYS,
    errno.EINVAL,
    errno.EMLINK,
    errno.EXDEV,
}
"""How file systems refuse hard links: FAT, many in user space, some networks."""
_HERE, _NO_REPLACE = -100, 1
"""Arguments of Linux's renameat2. Source: https://man7.org/linux/man-pages/man2/rename.2.html"""


class Folder(Storage):
    """Files below one local folder. A pattern of files is a pattern of keys.

    Args:
        root: The folder, which need not exist.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(str(root), root, root, LockedWriters(root / WRITERS))
        self.root = root

    def local(self, key: Key) -> Path:
        return self.root / key

    def readable(self, pattern: str) -> Sequence[Key]:
        return [Key(pattern)] if any(self.list(pattern)) else []

    def list(self, pattern: str) -> Iterator[Stored]:
        return _matching(str(self.root), "", pattern.split("/"))

    def walk(self) -> Iterator[Stored]:
        for folder, _, names in os.walk(self.root):
            for name in names:
                file = Path(folder, name)
                with contextlib.suppress(FileNotFoundError):
                    yield _stored(str(file.relative_to(self.root)), file.lstat())

    def head(self, key: Key) -> Stored | None:
        try:
            return _stored(str(key), self.local(key).stat())
        except (FileNotFoundError, NotADirectoryError):
            return None

    def read(self, key: Key) -> bytes:
        return self.local(key).read_bytes()

    def create(self, key: Key, content: bytes | Write, part: str) -> bool:
        staged = key.with_name(part)
        try:
            with self.staging(staged) as file:
                fill(file, content)
            _sync(file)
            _place(file, self.local(key))
        except FileExistsError:
            return False
        finally:
            self.discard(staged)
        _sync(self.local(key).parent)
        return True

    def mark(self, key: Key) -> None:
        self.folder(key.parent)
        self.local(key).touch()

    def copy(self, key: Key, to: Key, part: str) -> None:
        staged = to.with_name(part)
        try:
            with self.staging(staged) as file:
                shutil.copyfile(self.local(key), file)
            with contextlib.suppress(FileExistsError):
                _place(file, self.local(to))
        finally:
            self.discard(staged)

    def link(self, key: Key | Path, to: Key) -> None:
        """Give a file, or any local file, a second key, unless that is taken.

        Raises:
            OSError: It is taken, or the storage cannot do so.
        """
        self.local(to).hardlink_to(self.root / key)

    def move(self, key: Key, to: Key) -> None:
        self.folder(to.parent)
        self.local(key).replace(self.local(to))
        _sync(self.local(to).parent)

    def delete(self, key: Key, *, with_folder: bool = False) -> None:
        path = self.local(key)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        if with_folder:
            with contextlib.suppress(OSError):
                path.parent.rmdir()

    def reveal(self, key: Key, to: Key | None = None) -> None:
        place = self.local(to or key)
        _sync(self.staged(key))
        self.staged(key).replace(place)
        _sync(place.parent)

    def reveal_all(self, keys: Collection[Key], pool: Executor) -> None:
        _each(pool, [self.staged(key) for key in keys])
        for key in keys:
            self.staged(key).replace(self.local(key))
        _each(pool, list({self.local(key).parent for key in keys}))

    def settle(self) -> None:
        """Nothing: a folder shows at once what was written."""

    def sync(self, key: Key) -> None:
        _sync(self.local(key))


def copy_of(file: Path) -> Write:
    """Writes the bytes of a local file."""
    return functools.partial(shutil.copyfile, file)


def _matching(folder: str, prefix: str, parts: Sequence[str]) -> Iterator[Stored]:
    first, *rest = parts
    if rest and "*" not in first:
        yield from _matching(f"{folder}/{first}", f"{prefix}{first}/", rest)
        return
    # Others may delete while this looks.
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        names = os.listdir(folder)  # noqa: PTH208 - path objects cost as much again
        for name in sorted(fnmatch.filter(names, first)):
            if rest:
                yield from _matching(f"{folder}/{name}", f"{prefix}{name}/", rest)
            else:
                with contextlib.suppress(FileNotFoundError):
                    yield _stored(f"{prefix}{name}", _stat(f"{folder}/{name}"))


def _stat(path: str) -> os.stat_result:
    try:
        return os.stat(path)  # noqa: PTH116 - as above
    except FileNotFoundError:
        # A link to nothing lies there all the same.
        return os.lstat(path)


def _stored(name: str, found: os.stat_result) -> Stored:
    return Stored(name, found.st_size, found.st_mtime, found.st_mtime_ns)


def _each(pool: Executor, paths: Sequence[Path]) -> None:
    for _ in pool.map(_sync, paths):
        pass


def _sync(path: Path) -> None:
    """Let a file, or the names within a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        error.filename = str(path)
        raise
    finally:
        os.close(descriptor)


def _place(part: Path, file: Path) -> None:
    """Give a staged file its place, unless that is taken.

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
