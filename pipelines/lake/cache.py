"""The cache: local copies of an object store's files, bounded, shared by a machine's processes.

It is never part of the truth: deleting it costs downloads alone. A copy is known by the version of
its object, and its size and checksum are in its name, so a copy that a crash cut is not taken. The
copies that are used least recently go first.

What a process asked for stays while it lives: it has a folder of its own with hard links to the
copies, which it also stages files in. Whoever comes next deletes the folder of a process that ended
in whatever way.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import hashlib
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from lean_resources.errors import MachineError
from pipelines.lake.digests import Digest, digest
from pipelines.lake.ids import new_id
from pipelines.lake.writers import LockedWriters, exclusive

_LEFT = 0.9
"""Share of the bound that is left once it is passed, so that not every file passes it again."""
_HELD_SECONDS = 24 * 3600.0
"""After this time without use a living process lets go of a copy, if room is needed."""
_FULL_SECONDS = 10.0
"""Time for which nothing is deleted after what processes use has passed the bound by itself."""
_UNSAFE = re.compile(r"[^\w.-]+")
_COPY = re.compile(r"([0-9a-f]{14})-([0-9]+)-([0-9a-f]{8})")


class Cache:
    """Copies below one folder.

    Args:
        root: The folder, on a file system with hard links; it need not exist.
        most_bytes: Their size. What living processes use may pass it.
    """

    def __init__(self, root: Path, most_bytes: int) -> None:
        self._root, self._most = root, most_bytes
        self._processes = LockedWriters(root / "processes")
        self._sign = self._processes.start()
        self._own = root / "held" / self._sign.id
        self._pid = os.getpid()
        self._full_until = 0.0
        self._own.mkdir(parents=True)
        _link(root / "processes" / self._sign.id, self._own / "sign")
        self._forget_processes()
        atexit.register(self.close)

    @classmethod
    def of(cls, root: Path, most_bytes: int) -> Cache:
        """The cache of this process in a folder."""
        return _cache(root, most_bytes, os.getpid())

    def close(self) -> None:
        """Let go of all that this process asked for; what it has staged is deleted."""
        atexit.unregister(self.close)
        if self._pid == os.getpid():
            shutil.rmtree(self._own, ignore_errors=True)
            self._sign.end()

    def shared(self, place: str) -> Path:
        """A folder of a storage for all processes of this machine; it does not count."""
        return _made(self._root / "work" / _name_of(place))

    def own(self, place: str) -> Path:
        """A folder of a storage for what this process writes in passing."""
        return _made(self._own / "passing" / _name_of(place))

    def new_file(self) -> Path:
        """Where this process may write a file that `add` takes."""
        return _made(self._own / "fetched") / new_id()

    def find(self, place: str, name: str, version: int) -> Path | None:
        """The copy of an object for this process to read; None if there is no sound one.

        Args:
            place: The storage.
            name: The object.
            version: Its version.
        """
        held = self._held(place, name, version)
        with contextlib.suppress(FileNotFoundError):
            os.utime(held)
            return held
        for kept in self._folder(place, name).glob(f"{version:014x}-*"):
            match = _COPY.fullmatch(kept.name)
            if match is None:
                continue
            # Under another name until it is known to be sound, because threads share what is held.
            linked = self.new_file()
            try:
                _link(kept, linked)
            except FileNotFoundError:
                continue
            is_sound = digest(linked) == Digest(int(match[2]), int(match[3], 16))
            if is_sound:
                held.parent.mkdir(parents=True, exist_ok=True)
                _link(linked, held)
                os.utime(held)
            else:
                kept.unlink(missing_ok=True)
            linked.unlink()
            if is_sound:
                return held
        return None

    def add(self, place: str, name: str, version: int, found: Digest, file: Path) -> Path:
        """Take a file as the copy of an object; returns it for this process to read.

        Args:
            place: The storage.
            name: The object.
            version: Its version.
            found: The file's size and checksum.
            file: The file, in a folder that `own` or `new_file` gave; it is moved.
        """
        held = self._held(place, name, version)
        held.parent.mkdir(parents=True, exist_ok=True)
        file.replace(held)
        self.keep(place, name, version, found, held)
        return held

    def keep(self, place: str, name: str, version: int, found: Digest, file: Path) -> None:
        """As `add`, for a file that this process does not ask for yet; it stays where it is."""
        if found.bytes > self._most:
            return
        self._make_room(found.bytes)
        kept = self._folder(place, name) / f"{version:014x}-{found.bytes}-{found.crc32:08x}"
        # Another process may delete an empty folder, or the whole cache, at any time.
        with contextlib.suppress(FileNotFoundError):
            kept.parent.mkdir(parents=True, exist_ok=True)
            _link(file, kept)

    def _held(self, place: str, name: str, version: int) -> Path:
        return self._own / "files" / _name_of(place) / f"{version:014x}" / name

    def _folder(self, place: str, name: str) -> Path:
        return self._root / "files" / _name_of(place) / name

    def _make_room(self, size: int) -> None:
        """Count a file that is about to be added, and delete others where they pass the bound."""
        count = self._root / "bytes"
        with exclusive(self._root / "lock"):
            try:
                total = int(count.read_text())
            except (FileNotFoundError, ValueError):
                total = sum(size for _, size, _ in self._kept())
            if total + size > self._most and time.monotonic() > self._full_until:
                total = self._delete_oldest(self._most * _LEFT - size)
                if total + size > self._most:
                    self._full_until = time.monotonic() + _FULL_SECONDS
            count.write_text(str(total + size))

    def _delete_oldest(self, most: float) -> int:
        """Delete copies that nobody uses, so that the others are no larger; returns their size."""
        self._forget_processes()
        unused = time.time() - _HELD_SECONDS
        for file in (self._own / "files").rglob("*"):
            with contextlib.suppress(FileNotFoundError):
                if file.is_file() and file.stat().st_mtime < unused:
                    file.unlink()
        kept = sorted(self._kept())
        total = sum(size for _, size, _ in kept)
        for _, size, file in kept:
            if total <= most:
                break
            with contextlib.suppress(FileNotFoundError):
                if file.stat().st_nlink == 1:
                    file.unlink()
                    total -= size
            with contextlib.suppress(OSError):
                file.parent.rmdir()
        return total

    def _kept(self) -> Iterator[tuple[float, int, Path]]:
        """Copies with the instant of their last use and their size."""
        for folder, _, names in os.walk(self._root / "files"):
            for name in names:
                file = Path(folder, name)
                with contextlib.suppress(FileNotFoundError):
                    found = file.stat()
                    yield found.st_mtime, found.st_size, file

    def _forget_processes(self) -> None:
        """Delete the folders of processes that ended."""
        _, ended = self._processes.known()
        for one in ended:
            shutil.rmtree(self._root / "held" / one, ignore_errors=True)
        self._processes.forget(ended)


@functools.cache
def _cache(root: Path, most_bytes: int, _pid: int) -> Cache:
    return Cache(root, most_bytes)


def _name_of(place: str) -> str:
    """A name for a storage's folder that tells it from every other."""
    told_apart = hashlib.sha256(place.encode()).hexdigest()[:8]
    return f"{_UNSAFE.sub('-', place)}-{told_apart}"


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _link(file: Path, to: Path) -> None:
    """Give a file a second name, if nothing has it.

    Raises:
        FileNotFoundError: The file is gone.
        MachineError: The file system has no hard links.
    """
    try:
        to.hardlink_to(file)
    except FileExistsError:
        pass
    except FileNotFoundError:
        raise
    except OSError:
        raise MachineError(
            f"the file system of {to.parent} has no hard links",
            code="NO_LINKS",
            remedy="Set LEANHOUSE_CACHE to a folder on a local disk.",
        ) from None
