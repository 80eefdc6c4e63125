"""Storage: where the bytes of a lake go; no other module lists, renames or deletes its files.

A *key* names a file below the root, like `pulls/pulled_on=2026-03-15/….parquet`. A file is first
staged, which nobody takes for a file of the lake, and then put in its place: there it is whole, and
it survives a power cut. Of several that create one key, one succeeds.

A local folder is the only storage so far. DuckDB and Arrow are given paths of that folder.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fnmatch
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from lean_resources.errors import MachineError

Key = PurePosixPath
"""A file's path below the root of its storage; a pure path, which opens nothing by itself."""
Write = Callable[[Path], object]
"""Writes the bytes of a file to a local path."""

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


@dataclass(frozen=True, slots=True)
class Stored:
    """A file that lies in a storage.

    Args:
        name: Its key as text.
        bytes: Its size.
        written_at: When it was written, in seconds since 1970, by the storage's clock.
        version: A number that changes whenever its bytes do.
    """

    name: str
    bytes: int
    written_at: float
    version: int

    @property
    def key(self) -> Key:
        """Its key."""
        return Key(self.name)


class Storage:
    """Files below one local folder.

    Args:
        root: The folder, which need not exist.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def local(self, key: Key) -> Path:
        """The local path of a key, or of a pattern of keys, for a library that reads."""
        return self.root / key

    def list(self, pattern: str) -> Iterator[Stored]:
        """Files whose keys match a pattern, in the order of their keys.

        Args:
            pattern: A key in which `*` stands for any characters but a slash.
        """
        return _matching(str(self.root), "", pattern.split("/"))

    def walk(self) -> Iterator[Stored]:
        """All files, in no order."""
        for folder, _, names in os.walk(self.root):
            for name in names:
                file = Path(folder, name)
                with contextlib.suppress(FileNotFoundError):
                    yield _stored(str(file.relative_to(self.root)), file.lstat())

    def head(self, key: Key) -> Stored | None:
        """What is known of a file without reading it; None if nothing lies there."""
        try:
            return _stored(str(key), self.local(key).stat())
        except (FileNotFoundError, NotADirectoryError):
            return None

    def read(self, key: Key) -> bytes:
        """The bytes of a file.

        Raises:
            OSError: It cannot be read.
        """
        return self.local(key).read_bytes()

    def put(self, key: Key, content: bytes | Write) -> None:
        """Write a file, whole or not at all; one that lies there is replaced."""
        with self.staging(key) as file:
            _fill(file, content)
        self.reveal(key)

    def create(self, key: Key, content: bytes | Write, part: str) -> bool:
        """Write a file, whole or not at all, unless something lies there.

        Args:
            key: Its key.
            content: Its bytes, or what writes them.
            part: Name under which it is staged, without an ending; nobody else may use it.

        Returns:
            Whether the file was created.

        Raises:
            MachineError: The file system can neither link a file nor rename it without replacing.
        """
        staged = key.with_name(part)
        try:
            with self.staging(staged) as file:
                _fill(file, content)
            _sync(file)
            _place(file, self.local(key))
        except FileExistsError:
            return False
        finally:
            self.discard(staged)
        _sync(self.local(key).parent)
        return True

    def mark(self, key: Key) -> None:
        """Create an empty file unless it is there; it is whole as soon as it exists."""
        self.folder(key.parent)
        self.local(key).touch()

    def copy(self, key: Key, to: Key, part: str) -> None:
        """Copy a file, whole or not at all, unless the other key is taken.

        The copy may be gone after a power cut, but what it is of is not.

        Args:
            key: The file.
            to: Key of the copy.
            part: As for `create`.
        """
        staged = to.with_name(part)
        try:
            with self.staging(staged) as file:
                shutil.copyfile(self.local(key), file)
            with contextlib.suppress(FileExistsError):
                _place(file, self.local(to))
        finally:
            self.discard(staged)

    def link(self, key: Key, to: Key) -> None:
        """Give a file a second key, unless that is taken.

        Raises:
            OSError: It is taken, or the storage cannot do so.
        """
        self.local(to).hardlink_to(self.local(key))

    def move(self, key: Key, to: Key) -> None:
        """Give a file another key; what lies there is replaced."""
        self.folder(to.parent)
        self.local(key).replace(self.local(to))
        _sync(self.local(to).parent)

    def delete(self, key: Key, *, with_folder: bool = False) -> None:
        """Delete a file, or a folder with all that it holds; what is gone already is no error.

        Args:
            key: The file or the folder.
            with_folder: Whether the folder of a file goes too once it is empty.
        """
        path = self.local(key)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        if with_folder:
            with contextlib.suppress(OSError):
                path.parent.rmdir()

    def folder(self, key: Key) -> Path:
        """A local folder, made if it is not there, for what a library writes in passing."""
        path = self.local(key)
        path.mkdir(parents=True, exist_ok=True)
        return path

    def staged(self, key: Key) -> Path:
        """The local path at which a file is staged; its folder need not exist."""
        return self.local(key.with_name(f"{key.name}.tmp"))

    @contextlib.contextmanager
    def staging(self, key: Key) -> Iterator[Path]:
        """The local path to write a file to that is staged; errors of the system name the key.

        The file is deleted if the block fails. Otherwise `reveal` or `discard` is to follow.
        """
        self.folder(key.parent)
        file = self.staged(key)
        try:
            yield file
        except BaseException as error:
            # Errors of a write, unlike those of opening, name no file.
            if isinstance(error, OSError) and error.filename is None:
                error.filename = str(self.local(key))
            self.discard(key)
            raise

    def discard(self, key: Key) -> None:
        """Delete what was staged for a key, if anything was."""
        self.staged(key).unlink(missing_ok=True)

    def reveal(self, key: Key, to: Key | None = None) -> None:
        """Put what was staged in its place; it survives a power cut from then on.

        Args:
            key: The key that it was staged for.
            to: Another key in the same folder that it gets instead.
        """
        place = self.local(to or key)
        _sync(self.staged(key))
        self.staged(key).replace(place)
        _sync(place.parent)

    def reveal_all(self, keys: Collection[Key], pool: Executor) -> None:
        """As `reveal` for many files: first all their bytes are safe, then all have their places.

        Args:
            keys: The keys that they were staged for.
            pool: Waits for several files at once.
        """
        _each(pool, [self.staged(key) for key in keys])
        for key in keys:
            self.staged(key).replace(self.local(key))
        _each(pool, list({self.local(key).parent for key in keys}))

    def sync(self, key: Key) -> None:
        """Let the bytes of a file survive a power cut that a library wrote at its local path."""
        _sync(self.local(key))


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


def _fill(file: Path, content: bytes | Write) -> None:
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        content(file)


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
