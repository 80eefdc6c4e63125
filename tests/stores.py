"""Object stores of the tests' own: in memory, behind faults, and moto's server on loopback."""

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from obstore.store import MemoryStore

from pipelines.lake.cache import Cache
from pipelines.lake.lake import Lake
from pipelines.lake.object_store import ObjectStore
from pipelines.lake.objects import Objects, UnansweredError

_SECONDS = 30
BUCKET = "s3://lake"


_memories = []


class InMemory(Objects):
    """Objects in memory.

    Args:
        memory: Where they lie; None for a place of their own.
    """

    def __init__(self, memory=None):
        self.memory = self.quick = self._patient = memory or MemoryStore()
        # Kept, so that no other memory gets its number: versions in one are those in another.
        _memories.append(self.memory)
        self.url = f"s3://memory/{id(self.memory)}"


class Faulty(InMemory):
    """Objects in memory, of which some requests go wrong.

    Args:
        faults: What goes wrong, one for each request; afterwards nothing does. `lost` is done and
            not answered, `late` is done after the next request, `silent` is not done, `conflict`
            says that another writes now, `cut` ends in the middle, `flipped` has a wrong bit, and
            `lagging` is a list without what was written last.
    """

    def __init__(self, memory, faults):
        super().__init__(memory)
        self._faults = iter(faults)
        self._late = []
        self._newest = []

    def _next(self):
        fault = next(self._faults, None)
        late, self._late = self._late, []
        for one in late:
            with contextlib.suppress(FileExistsError):
                one()
        return fault

    def put(self, name, content, *, is_new, about):
        """With faults of writing."""
        fault = self._next()
        content = content if isinstance(content, bytes) else content.read_bytes()
        write = super().put
        if fault == "late":
            self._late.append(lambda: write(name, content, is_new=is_new, about=about))
        elif fault == "conflict" and is_new:
            raise FileExistsError(17, "another writes it now")
        elif fault not in {"silent", "conflict"}:
            version = write(name, content, is_new=is_new, about=about)
            if not name.startswith("writers/"):
                self._newest = [*self._newest, name][-2:]
            if fault != "lost":
                return version
        raise UnansweredError(fault)

    def head(self, name):
        """With faults of asking."""
        if self._next() in {"lost", "late", "silent"}:
            raise UnansweredError("no answer")
        return super().head(name)

    def fetch(self, name, take):
        """With faults of reading."""
        fault = self._next()
        parts = []
        found = super().fetch(name, parts.append)
        whole = b"".join(parts)
        if fault in {"cut", "lost", "late", "silent"}:
            take(whole[: len(whole) // 2])
            raise UnansweredError(fault)
        if fault == "flipped" and whole:
            whole = bytes([whole[0] ^ 1]) + whole[1:]
        take(whole)
        return found

    def list(self, folder, *, is_deep):
        """With faults of listing."""
        fault = self._next()
        if fault in {"lost", "late", "silent"}:
            raise UnansweredError(fault)
        found = super().list(folder, is_deep=is_deep)
        return [one for one in found if fault != "lagging" or one.name not in self._newest]

    def delete(self, names):
        """With faults of writing."""
        fault = self._next()
        if fault != "silent":
            super().delete(names)
        if fault in {"lost", "late", "silent"}:
            raise UnansweredError(fault)


def store_over(objects, cache):
    """An object store whose waits take no time.

    Args:
        cache: A cache, or the folder of one that is like that of another process.
    """
    if isinstance(cache, Path):
        cache = Cache(cache, 1 << 30)
    return ObjectStore(objects, cache, sleep=lambda _: None)


def lake_over(objects, cache):
    """A lake in an object store."""
    return Lake(objects.url, "sandbox", store_over(objects, cache))


@contextlib.contextmanager
def moto():
    """The endpoint of an S3 of the tests' own, with an empty bucket, and what reaches it.

    Yields:
        The variables of a process that uses it.
    """
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    code = f"from moto.server import main; main(['-H', '127.0.0.1', '-p', '{port}'])"
    url = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        until = time.monotonic() + _SECONDS
        while True:
            try:
                request = urllib.request.Request(f"{url}/lake", method="PUT")
                urllib.request.urlopen(request, timeout=_SECONDS).close()
                break
            except (urllib.error.URLError, ConnectionError):
                assert process.poll() is None
                assert time.monotonic() < until, "moto's server does not answer"
                time.sleep(0.05)
        yield {
            "AWS_ENDPOINT_URL": url,
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "made-up-secret",
            "AWS_REGION": "us-east-1",
        }
    finally:
        process.terminate()
        process.wait(timeout=_SECONDS)


@contextlib.contextmanager
def variables(given):
    """Variables of this process, for a while."""
    before = {name: os.environ.get(name) for name in given}
    os.environ.update(given)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
