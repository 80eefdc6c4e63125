"""Local copies of an object store's files: bounded, shared, whole, and never missed."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from obstore.store import MemoryStore
from stores import InMemory, store_over

from lean_resources.errors import MachineError
from pipelines.lake.cache import Cache
from pipelines.lake.digests import digest
from pipelines.lake.storage import Key

PLACE = "s3://bucket/prefix"


def add(cache, name, size=100, version=1):
    """Let a cache have a file."""
    file = cache.new_file()
    file.write_bytes(os.urandom(size))
    return cache.add(PLACE, name, version, digest(file), file)


def kept(root):
    """Copies that lie there, by the names of their objects."""
    files = [file for file in (root / "files").rglob("*") if file.is_file()]
    return {file.parent.name: file.stat().st_size for file in files}


def test_the_bound_is_kept_and_the_least_used_goes_first(tmp_path):
    """However many processes come and go."""
    for number in range(30):
        cache = Cache(tmp_path, 1000)
        add(cache, f"{number}")
        assert cache.find(PLACE, "0", 1) is not None  # asked for each time, so it stays
        cache.close()
        assert sum(kept(tmp_path).values()) <= 1000

    others = sorted({int(name) for name in kept(tmp_path)} - {0})
    assert len(others) > 3
    assert others == list(range(30 - len(others), 30))
    assert "0" in kept(tmp_path)


def test_what_a_living_process_asked_for_stays(tmp_path):
    """Beyond the bound, and also where all other copies are deleted; until it ends."""
    living, other = Cache(tmp_path, 1000), Cache(tmp_path, 1000)
    mine = [add(living, f"mine-{number}", 300) for number in range(5)]
    for number in range(5):
        add(other, f"other-{number}", 300)
    assert all(len(path.read_bytes()) == 300 for path in mine)
    assert living.find(PLACE, "mine-0", 1) == mine[0]

    living.close()
    other.close()
    add(Cache(tmp_path, 1000), "last", 300)
    assert sum(kept(tmp_path).values()) <= 1000
    assert not mine[0].exists()


def test_what_was_not_used_for_a_day_is_let_go_of(tmp_path):
    """A process that lives for weeks does not keep all that it ever asked for."""
    cache = Cache(tmp_path, 1000)
    old = add(cache, "old", 600)
    os.utime(old, (0, 0))
    new = add(cache, "new", 600)

    assert new.exists()
    assert not old.exists()
    assert kept(tmp_path) == {"new": 600}


def test_a_file_larger_than_the_bound_is_not_kept(tmp_path):
    """Its reader has it all the same."""
    cache = Cache(tmp_path, 1000)
    assert len(add(cache, "large", 5000).read_bytes()) == 5000
    assert kept(tmp_path) == {}


def test_a_changed_copy_is_not_taken(tmp_path):
    """Neither one that a power cut left short, nor one with a wrong bit: it is fetched again."""
    memory = MemoryStore()
    content = os.urandom(1000)
    store_over(InMemory(memory), tmp_path / "other").put(Key("a"), content)
    for wrong in (content[:-1], b"", content[:-1] + bytes([content[-1] ^ 1])):
        Cache(tmp_path, 1 << 20).close()
        store = store_over(InMemory(memory), tmp_path)
        assert store.local(Key("a")).read_bytes() == content
        store._cache.close()
        (copy,) = [file for file in (tmp_path / "files").rglob("*") if file.is_file()]
        copy.write_bytes(wrong)

    assert store_over(InMemory(memory), tmp_path).local(Key("a")).read_bytes() == content


class Counting(InMemory):
    """Objects that count what is fetched."""

    fetched = 0

    def fetch(self, name, take):
        """Count, and fetch."""
        self.fetched += 1
        return super().fetch(name, take)


def test_two_processes_share_what_one_fetched(tmp_path):
    """And a writer's own files are never fetched; threads of one process get the same file."""
    memory = MemoryStore()
    writer, first, second = (Counting(memory) for _ in range(3))
    store = store_over(writer, tmp_path / "one")
    keys = [Key(f"{number}") for number in range(20)]
    for key in keys:
        store.put(key, f"{key}".encode())
    assert [path.read_bytes() for path in store.local_all(keys)] == [f"{k}".encode() for k in keys]
    assert writer.fetched == 0

    one, other = store_over(first, tmp_path / "two"), store_over(second, tmp_path / "two")
    one.local_all(keys)
    assert [path.read_bytes() for path in other.local_all(keys)] == [f"{k}".encode() for k in keys]
    assert (first.fetched, second.fetched) == (20, 0)
    together = threading.Barrier(8)

    def ask(_):
        together.wait()
        return other.local(Key("3"))

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(ask, range(8)))) == 1


def test_an_object_that_was_replaced_is_fetched_anew(tmp_path):
    """A copy is that of a version; one that is deleted is gone."""
    memory = MemoryStore()
    writer = store_over(InMemory(memory), tmp_path / "one")
    reader = store_over(InMemory(memory), tmp_path / "two")
    writer.put(Key("a"), b"before")
    before = reader.local(Key("a"))
    writer.put(Key("a"), b"after")
    assert reader.head(Key("a")).bytes == 5

    assert reader.local(Key("a")).read_bytes() == b"after"
    assert before.read_bytes() == b"before"
    writer.delete(Key("a"))
    assert reader.head(Key("a")) is None
    with pytest.raises(FileNotFoundError):
        reader.local(Key("a"))


_KILLED = """
import os, signal, sys
from pathlib import Path
from pipelines.lake.cache import Cache
cache = Cache(Path(sys.argv[1]), 1 << 20)
cache.new_file().write_bytes(b"half")
(cache.own("s3://bucket") / "staged").write_bytes(b"half")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_crash_leaves_no_half_file(tmp_path):
    """What a killed process fetched or staged is gone once another comes."""
    subprocess.run([sys.executable, "-c", _KILLED, str(tmp_path)], check=False, timeout=60)
    assert [file.name for file in tmp_path.rglob("staged")] == ["staged"]

    cache = Cache(tmp_path, 1 << 20)

    assert list(tmp_path.rglob("staged")) == []
    assert [file.name for file in (tmp_path / "held").iterdir()] == [cache._sign.id]
    assert kept(tmp_path) == {}


def test_a_deleted_cache_costs_downloads_alone(tmp_path):
    """Even while a process uses it: the next file is fetched again."""
    memory = MemoryStore()
    store_over(InMemory(memory), tmp_path / "one").put(Key("a"), b"bytes")
    store = store_over(InMemory(memory), tmp_path / "two")
    store.local(Key("a"))
    subprocess.run(["rm", "-r", str(tmp_path / "two")], check=True)

    assert store.local(Key("a")).read_bytes() == b"bytes"


def test_a_file_system_without_hard_links_is_said(tmp_path, monkeypatch):
    """At once, with the setting to change."""

    def refuse(_self, _target):
        raise PermissionError(1, "not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    with pytest.raises(MachineError) as failed:
        Cache(tmp_path, 1000)
    assert "LEANHOUSE_CACHE" in failed.value.remedy
