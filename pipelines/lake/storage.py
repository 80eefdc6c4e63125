"""Storage: where the bytes of a lake go; no other module lists, renames or deletes its files.

A *key* names a file below the root, like `pulls/pulled_on=2026-03-15/….parquet`. A file is first
staged, which nobody takes for a file of the lake, and then put in its place: there it is whole, and
it survives a power cut. Of several that create one key, one succeeds.

DuckDB and Arrow are given local paths, whatever the storage is.
"""

from __future__ import annotations

import contextlib
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pipelines.lake.writers import Writers

Key = PurePosixPath
"""A file's path below the root of its storage; a pure path, which opens nothing by itself."""
Write = Callable[[Path], object]
"""Writes the bytes of a file to a local path."""


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


class Storage(ABC):
    """Files below one root.

    Args:
        place: What people are told: a path, or a URL without secrets.
        work: Local folder of all processes of this machine, for locks and for what they share.
        passing: Local folder of this process, for what is staged or thrown away.
        writers: Who writes to it now.
    """

    def __init__(self, place: str, work: Path, passing: Path, writers: Writers) -> None:
        self.place = place
        self.work = work
        self.writers = writers
        self.passing = passing

    @abstractmethod
    def local(self, key: Key) -> Path:
        """The local path of a file, for a library that reads.

        Raises:
            OSError: An object store does not have it, or cannot be read. A folder gives the path
                of what is not there.
            DamageError: An object is not what was written.
        """

    def local_all(self, keys: Iterable[Key]) -> Sequence[Path]:
        """As `local` for many files at once, in their order."""
        return [self.local(key) for key in keys]

    @abstractmethod
    def readable(self, pattern: str) -> Sequence[Key]:
        """What to read for a pattern: it, where libraries may look for files, or a list of files.

        Args:
            pattern: As for `list`.

        Returns:
            Keys for `local_all`; none if no file matches.
        """

    @abstractmethod
    def list(self, pattern: str) -> Iterator[Stored]:
        """Files whose keys match a pattern, in the order of their keys.

        Args:
            pattern: A key in which `*` stands for any characters but a slash.
        """

    @abstractmethod
    def walk(self) -> Iterator[Stored]:
        """All files, in no order."""

    @abstractmethod
    def head(self, key: Key) -> Stored | None:
        """What is known of a file without reading it; None if nothing lies there."""

    @abstractmethod
    def read(self, key: Key) -> bytes:
        """The bytes of a file.

        Raises:
            OSError: It cannot be read.
        """

    def put(self, key: Key, content: bytes | Write) -> None:
        """Write a file, whole or not at all; one that lies there is replaced."""
        with self.staging(key) as file:
            fill(file, content)
        self.reveal(key)

    @abstractmethod
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

    @abstractmethod
    def mark(self, key: Key) -> None:
        """Create an empty file unless it is there; it is whole as soon as it exists."""

    @abstractmethod
    def copy(self, key: Key, to: Key, part: str) -> None:
        """Copy a file, whole or not at all, unless the other key is taken.

        The copy may be gone after a power cut, but what it is of is not.

        Args:
            key: The file.
            to: Key of the copy.
            part: As for `create`.
        """

    @abstractmethod
    def move(self, key: Key, to: Key) -> None:
        """Give a file another key; what lies there is replaced.

        An object store has both for a moment, and nobody may rely on the key.
        """

    @abstractmethod
    def delete(self, key: Key, *, with_folder: bool = False) -> None:
        """Delete a file, or a folder with all that it holds; what is gone already is no error.

        Args:
            key: The file or the folder.
            with_folder: Whether the folder of a file goes too once it is empty.
        """

    def folder(self, key: Key) -> Path:
        """A local folder, made if it is not there, for what a library writes in passing."""
        path = self.passing / key
        path.mkdir(parents=True, exist_ok=True)
        return path

    def sweep(self, key: Key) -> None:
        """Delete a folder that `folder` gave, with all that it holds, if it is there."""
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.passing / key)

    def staged(self, key: Key) -> Path:
        """The local path at which a file is staged; its folder need not exist."""
        return self.passing / key.with_name(f"{key.name}.tmp")

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
                error.filename = f"{self.place}/{key}"
            self.discard(key)
            raise

    def discard(self, key: Key) -> None:
        """Delete what was staged for a key, if anything was."""
        self.staged(key).unlink(missing_ok=True)

    @abstractmethod
    def reveal(self, key: Key, to: Key | None = None) -> None:
        """Put what was staged in its place; it survives a power cut from then on.

        Args:
            key: The key that it was staged for.
            to: Another key in the same folder that it gets instead.
        """

    @abstractmethod
    def reveal_all(self, keys: Collection[Key], pool: Executor) -> None:
        """As `reveal` for many files: first all their bytes are safe, then all have their places.

        Args:
            keys: The keys that they were staged for.
            pool: Waits for several files at once.
        """

    @abstractmethod
    def settle(self) -> None:
        """Wait until a list shows what was written before it."""

    @abstractmethod
    def sync(self, key: Key) -> None:
        """Let a file survive a power cut that was copied, or that a library wrote at its path."""


def fill(file: Path, content: bytes | Write) -> None:
    """Write a local file."""
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        content(file)
