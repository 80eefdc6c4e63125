"""Who writes to a lake now: a file per writer, locked for as long as its process lives.

The kernel gives a lock up when its process ends, however that ends; no clock and no process id has
to be believed. A file that stays and is not locked is that of a writer that was killed: what
begins with its id never counted.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from pipelines.lake.ledger import new_id

__all__ = ["Writer", "exclusive", "forget", "writers"]


class Writer:
    """A sign that somebody writes; names of what is written begin with its id.

    It ends with `end`, or with a block that ends in order. Where neither comes to pass its file
    stays, which says that what was written is to be deleted.

    Args:
        folder: Where the signs lie.
    """

    def __init__(self, folder: Path) -> None:
        self.id = new_id()
        self._file = folder / self.id
        folder.mkdir(parents=True, exist_ok=True)
        while True:
            self._opened = self._file.open("ab")
            # A file system without locks takes every writer for a living one.
            with contextlib.suppress(OSError):
                fcntl.flock(self._opened, fcntl.LOCK_EX)
            # Between opening and locking it was nobody's, and may have been deleted.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(self._opened.fileno()), self._file.stat()):
                    return
            self._opened.close()

    def end(self) -> None:
        """Say that all that was written counts or is gone."""
        self._file.unlink(missing_ok=True)
        self._opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            self.end()
        else:
            self._opened.close()


def writers(folder: Path) -> tuple[set[str], set[str]]:
    """Ids of the writers that live, and of those that were killed.

    Args:
        folder: Where their signs lie.
    """
    living, killed = set(), set()
    for file in folder.glob("*"):
        with contextlib.suppress(FileNotFoundError), file.open("rb") as opened:
            try:
                fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
                killed.add(file.name)
            except OSError:
                # Held, or nothing that can be held here.
                living.add(file.name)
    return living, killed


def forget(folder: Path, killed: Iterable[str]) -> None:
    """Delete the signs of writers that were killed, after what they left."""
    for name in killed:
        with contextlib.suppress(OSError), (folder / name).open("rb") as opened:
            # Deleted while it is locked, so that whoever has just made it notices.
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            (folder / name).unlink()


@contextlib.contextmanager
def exclusive(file: Path) -> Iterator[None]:
    """Hold a lock while the block runs; whoever else asks for it waits."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("ab") as opened:
        with contextlib.suppress(OSError):
            fcntl.flock(opened, fcntl.LOCK_EX)
        yield
