"""Who writes to a lake now: a sign per writer, by which others know whether it lives.

In a folder the sign is a file, locked while its process lives. The kernel releases a lock when its
process ends, in whatever way, so neither a clock nor a process id has to be trusted. A sign that is
left by a writer that does not live says that it was killed: files whose names begin with its id
never counted.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Self

from pipelines.lake.ids import new_id


class Writer(ABC):
    """A writer of files whose names begin with its id.

    It ends with `end`, or with a block that ends without an error. Otherwise its sign stays, which
    says that what it wrote is to be deleted.
    """

    id: str

    @abstractmethod
    def end(self) -> None:
        """Say that all that was written counts or is deleted."""

    @abstractmethod
    def leave(self) -> None:
        """Stop, and let the sign stay as that of a killed writer."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_error: object) -> None:
        if kind is None:
            self.end()
        else:
            self.leave()


class Writers(ABC):
    """The writers of one place."""

    @abstractmethod
    def start(self) -> Writer:
        """Begin to write, with a new id."""

    @abstractmethod
    def known(self) -> tuple[set[str], set[str]]:
        """Ids of the writers that are running, and of those that were killed."""

    @abstractmethod
    def forget(self, killed: Iterable[str]) -> None:
        """Delete the signs of killed writers, after what they left."""


class LockedWriters(Writers):
    """Writers on machines that share the locks of a folder.

    Args:
        folder: Where their files lie; it need not exist.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def start(self) -> Writer:
        """Begin to write, with a new id."""
        return _LockedWriter(self._folder)

    def known(self) -> tuple[set[str], set[str]]:
        """Ids of the writers that are running, and of those that were killed."""
        living, killed = set(), set()
        for file in self._folder.glob("*"):
            with contextlib.suppress(FileNotFoundError), file.open("rb") as opened:
                try:
                    fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    killed.add(file.name)
                except OSError:
                    # Held, or nothing that can be held here.
                    living.add(file.name)
        return living, killed

    def forget(self, killed: Iterable[str]) -> None:
        """Delete the signs of killed writers, after what they left."""
        for name in killed:
            with contextlib.suppress(OSError), (self._folder / name).open("rb") as opened:
                # Deleted while locked, so that a writer that has just made it notices.
                fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
                (self._folder / name).unlink()


class _LockedWriter(Writer):
    def __init__(self, folder: Path) -> None:
        self.id = new_id()
        self._file = folder / self.id
        folder.mkdir(parents=True, exist_ok=True)
        while True:
            self._opened = self._file.open("ab")
            # On a file system without locks every writer counts as running.
            with contextlib.suppress(OSError):
                fcntl.flock(self._opened, fcntl.LOCK_EX)
            # Between opening and locking nobody held it, so it may have been deleted.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(self._opened.fileno()), self._file.stat()):
                    return
            self._opened.close()

    def end(self) -> None:
        self._file.unlink(missing_ok=True)
        self._opened.close()

    def leave(self) -> None:
        self._opened.close()


@contextlib.contextmanager
def exclusive(file: Path) -> Iterator[None]:
    """Hold a lock while the block runs; others wait for it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("ab") as opened:
        with contextlib.suppress(OSError):
            fcntl.flock(opened, fcntl.LOCK_EX)
        yield
