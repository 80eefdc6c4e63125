"""An object store as the storage of a lake: S3, GCS or Azure.

An object appears whole. Each has metadata of ours: its checksum, and a token that is one attempt's
own. So whoever creates an object and gets no answer, or hears that it lies there, looks at it: its
token says who created it. Only the store decides; no list is asked, and no clock of this machine.

What libraries read are copies in the cache, fetched whole and checked. Files are staged there too.
"""
# Storage says what each verb does.
# ruff: noqa: D102

from __future__ import annotations

import contextlib
import errno
import io
import os
import random
import re
import time
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, TypeVar

from lean_resources.errors import MachineError
from pipelines.lake.cache import Cache
from pipelines.lake.digests import DamageError, Digest, digest
from pipelines.lake.ids import new_id
from pipelines.lake.objects import Objects, UnansweredError
from pipelines.lake.signs import SignedWriters
from pipelines.lake.storage import Key, Storage, Stored, Write, fill

_PATIENCE_SECONDS = 120.0
"""Time after which a request is not made again; a late sign leaves more than that."""
_FIRST_WAIT_SECONDS = 0.1
_LONGEST_WAIT_SECONDS = 10.0
_LAG_SECONDS = 2.0
"""Time in which a list shows what was written before it, where it does not do so at once."""
_AT_ONCE = 16
"""Files that are fetched at the same time."""
_MOST_VERSIONS = 500_000
"""Versions of objects that are remembered; others are asked for again."""
_Answer = TypeVar("_Answer")


class ObjectStore(Storage):
    """Objects below one prefix.

    Args:
        objects: The store.
        cache: The local copies.
        sleep: Waits some seconds between tries.
    """

    def __init__(
        self, objects: Objects, cache: Cache, *, sleep: Callable[[float], object] = time.sleep
    ) -> None:
        url = objects.url
        self._signs = SignedWriters(objects, self._settled)
        super().__init__(url, cache.shared(url), cache.own(url), self._signs)
        self.objects, self._cache, self._sleep = objects, cache, sleep
        self._versions: dict[str, int] = {}

    def local(self, key: Key) -> Path:
        if key.is_absolute():
            # What a build throws away has a local path for a key.
            return Path(key)
        name = str(key)
        version = self._versions.get(name)
        if version is None:
            if (there := self.head(key)) is None:
                reason = os.strerror(errno.ENOENT)
                raise FileNotFoundError(errno.ENOENT, reason, f"{self.place}/{key}")
            version = there.version
        return self._cache.find(self.place, name, version) or self._fetched(name)

    def local_all(self, keys: Iterable[Key]) -> Sequence[Path]:
        keys = list(keys)
        if len(keys) < 2:
            return [self.local(key) for key in keys]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return list(pool.map(self.local, keys))

    def readable(self, pattern: str) -> Sequence[Key]:
        return [one.key for one in self.list(pattern)]

    def list(self, pattern: str) -> Iterator[Stored]:
        parts = pattern.split("/")
        is_fixed = ["*" not in part for part in parts[:-1]]
        depth = is_fixed.index(False) if False in is_fixed else len(is_fixed)
        wanted = re.compile(re.escape(pattern).replace(r"\*", "[^/]*"))
        found = self._listed("/".join(parts[:depth]), is_deep=depth < len(is_fixed))
        there = [one for one in found if wanted.fullmatch(one.name)]
        return iter(sorted(there, key=lambda one: one.name.split("/")))

    def walk(self) -> Iterator[Stored]:
        return iter(self._listed("", is_deep=True))

    def head(self, key: Key) -> Stored | None:
        try:
            found, _ = self._settled(lambda: self.objects.head(str(key)))
        except FileNotFoundError:
            self._versions.pop(str(key), None)
            return None
        self._remember(found.name, found.version)
        return found

    def read(self, key: Key) -> bytes:
        file = io.BytesIO()
        self._download(str(key), file)
        return file.getvalue()

    def create(self, key: Key, content: bytes | Write, part: str) -> bool:
        staged = key.with_name(part)
        try:
            with self.staging(staged) as file:
                fill(file, content)
            return self._write(key, file, is_new=True)
        finally:
            self.discard(staged)

    def mark(self, key: Key) -> None:
        self.create(key, b"", f"{new_id()}.mark")

    def copy(self, key: Key, to: Key, part: str) -> None:
        # Not by the store: S3 copies without our metadata where the key must not be taken, and the
        # bytes are mostly here.
        self.create(to, self.local(key).read_bytes(), part)

    def move(self, key: Key, to: Key) -> None:
        self._signs.check()
        self._settled(lambda: self.objects.copy(str(key), str(to)))
        self._versions.pop(str(to), None)
        self.delete(key)

    def delete(self, key: Key, *, with_folder: bool = False) -> None:
        del with_folder  # there are none
        self._settled(lambda: self.objects.delete([str(key)]))
        self._versions.pop(str(key), None)

    def reveal(self, key: Key, to: Key | None = None) -> None:
        to = to or key
        if to.is_absolute():
            self.staged(key).replace(Path(to))
        else:
            self._write(to, self.staged(key), is_new=False)

    def reveal_all(self, keys: Collection[Key], pool: Executor) -> None:
        for _ in pool.map(self.reveal, keys):
            pass

    def sync(self, key: Key) -> None:
        """Nothing: an object that is there is safe."""

    def settle(self) -> None:
        self._sleep(_LAG_SECONDS)

    def _write(self, key: Key, file: Path, *, is_new: bool) -> bool:
        """Write an object from a staged file, which becomes its copy; False if the key is taken."""
        found = digest(file)
        about = {"token": new_id(), "crc32": f"{found.crc32:08x}"}
        version = self._written(str(key), file, about, is_new=is_new)
        if version is None:
            return False
        self._remember(str(key), version)
        # The object is there by now, whatever becomes of its copy.
        with contextlib.suppress(OSError):
            self._cache.keep(self.place, str(key), version, found, file)
        file.unlink(missing_ok=True)
        return True

    def _written(
        self, name: str, file: Path, about: Mapping[str, str], *, is_new: bool
    ) -> int | None:
        """Write an object; returns its version, or None if another lies there that has to stay."""
        for _ in self._tries():
            self._signs.check()
            try:
                return self.objects.put(name, file, is_new=is_new, about=about)
            except FileExistsError as error:
                reason = str(error.strerror)
            except UnansweredError as error:
                reason = str(error)
            # It may have been written, by this attempt or by one before, and so may another.
            with contextlib.suppress(FileNotFoundError, UnansweredError):
                found, of_it = self.objects.head(name)
                if of_it.get("token") == about["token"]:
                    return found.version
                if is_new:
                    return None
        raise self._silence(reason)

    def _fetched(self, name: str) -> Path:
        """A new copy of an object."""
        file = self._cache.new_file()
        try:
            with file.open("wb") as opened:
                stored, found = self._download(name, opened)
            self._remember(name, stored.version)
            return self._cache.add(self.place, name, stored.version, found, file)
        except FileNotFoundError:
            self._versions.pop(name, None)
            raise
        finally:
            file.unlink(missing_ok=True)

    def _download(self, name: str, file: BinaryIO) -> tuple[Stored, Digest]:
        """Write the bytes of an object to a file.

        Raises:
            DamageError: They are not those that were written, twice.
        """

        def ask() -> tuple[Stored, Digest, str | None]:
            size = checksum = 0

            def take(chunk: bytes) -> None:
                nonlocal size, checksum
                size += file.write(chunk)
                checksum = zlib.crc32(chunk, checksum)

            file.seek(0)
            file.truncate()
            stored, about = self.objects.fetch(name, take)
            return stored, Digest(size, checksum), about.get("crc32")

        # A second time, because what went wrong may have been the way here.
        for _ in range(2):
            stored, found, written = self._settled(ask)
            if found.bytes == stored.bytes and written in {None, f"{found.crc32:08x}"}:
                return stored, found
        what = "checksum" if found.bytes == stored.bytes else "size"
        raise DamageError(f"{name} has the wrong {what}")

    def _listed(self, folder: str, *, is_deep: bool) -> Sequence[Stored]:
        found = self._settled(lambda: self.objects.list(folder, is_deep=is_deep))
        for one in found:
            self._remember(one.name, one.version)
        return found

    def _remember(self, name: str, version: int) -> None:
        if len(self._versions) >= _MOST_VERSIONS:
            self._versions.clear()
        self._versions[name] = version

    def _settled(self, ask: Callable[[], _Answer]) -> _Answer:
        """The answer to a request that may be made again."""
        for _ in self._tries():
            try:
                return ask()
            except UnansweredError as error:
                reason = str(error)
        raise self._silence(reason)

    def _tries(self) -> Iterator[None]:
        """Times at which to make a request, until patience ends."""
        wait, waited = _FIRST_WAIT_SECONDS, 0.0
        began = time.monotonic()
        while True:
            yield
            if max(time.monotonic() - began, waited) + wait > _PATIENCE_SECONDS:
                return
            seconds = wait * random.uniform(0.5, 1)  # noqa: S311 - only spreads requests
            self._sleep(seconds)
            waited += seconds
            wait = min(2 * wait, _LONGEST_WAIT_SECONDS)

    def _silence(self, reason: str) -> MachineError:
        return MachineError(
            f"{self.place} gives no answer that settles anything ({reason})",
            code="STORE_UNREACHABLE",
            remedy="Check the network, the endpoint, and that credentials are set, then run again:"
            " what was committed is kept.",
        )
