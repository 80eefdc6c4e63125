"""A lake's files in an object store: what every storage promises, whatever goes wrong."""

import asyncio
import contextlib
import datetime as dt
import http.server
import os
import re
import secrets
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import obstore
import pytest
from conftest import TODAY, Slept, client_of, showing, sync_everything
from hypothesis import given, settings
from hypothesis import strategies as st
from obstore.store import MemoryStore
from stores import BUCKET, Faulty, InMemory, lake_over, moto, store_over, variables
from test_lake import CUSTOMERS, customers, pull

from lean_resources.errors import ConfigError, MachineError
from lean_resources.sandbox import Sandbox
from lean_resources.streams import STREAMS
from pipelines.lake import objects as objects_of
from pipelines.lake import signs
from pipelines.lake.cache import Cache
from pipelines.lake.compaction import compact
from pipelines.lake.digests import DamageError
from pipelines.lake.folder import Folder
from pipelines.lake.lake import Lake
from pipelines.lake.objects import Objects, UnansweredError
from pipelines.lake.signs import SignedWriters
from pipelines.lake.storage import Key
from pipelines.models.build import build
from pipelines.models.loader import load
from pipelines.sync.refresh_budget import Budget

sys.path.insert(0, str(Path(__file__).parent / "conformance"))

from killed_stores import kills
from test_overlap import offenders
from worlds import CHAIN, pull_with

NOW = dt.datetime(2026, 3, 15, tzinfo=dt.UTC)
HOUR = dt.timedelta(hours=1)
NAMED = ("entities", "accounts", "balances", "transactions")
READ = ("banks", *NAMED)
BUILT = ("bridge_accounts", "dim_banks")
FAULTS = st.lists(
    st.sampled_from([None, "lost", "late", "silent", "conflict", "cut", "flipped", "lagging"]),
    max_size=60,
)
NAMES = st.lists(
    st.sampled_from(["a", "b=1", "c"]), min_size=1, max_size=3
).map("/".join)  # fmt: skip


@pytest.fixture(scope="module")
def s3():
    """An S3 on loopback, which this process and its children reach."""
    with moto() as given_, variables(given_):
        yield given_


@pytest.fixture
def url(s3):
    """A prefix of the test's own."""
    return f"{BUCKET}/{secrets.token_hex(6)}"


@pytest.fixture(scope="module")
def caches(tmp_path_factory):
    """Caches of several machines."""
    return [Cache(tmp_path_factory.mktemp("cache"), 1 << 30) for _ in range(5)]


def objects_at(url):
    """Objects over HTTP."""
    return Objects(url, is_http_allowed=True)


@pytest.fixture(params=["folder", "memory", "s3"])
def storage(request, tmp_path):
    """Every kind of storage."""
    if request.param == "folder":
        return Folder(tmp_path / "lake")
    if request.param == "memory":
        return store_over(InMemory(), tmp_path)
    return store_over(objects_at(request.getfixturevalue("url")), tmp_path)


def test_what_is_written_is_there_whole(storage):
    """By name, in a list, as bytes and as a local file."""
    key = Key("a/b=1/c.parquet")
    assert storage.head(key) is None
    with pytest.raises(FileNotFoundError):
        storage.read(key)

    storage.put(key, b"first")
    storage.put(key, lambda file: file.write_bytes(b"second"))
    with storage.staging(Key("a/b=1/d")) as file:
        file.write_bytes(b"third")
    storage.reveal(Key("a/b=1/d"), Key("a/b=1/e"))
    storage.mark(Key("6.format"))
    storage.mark(Key("6.format"))

    assert storage.read(key) == storage.local(key).read_bytes() == b"second"
    assert storage.head(key).bytes == 6
    assert [one.name for one in storage.list("a/*/*")] == ["a/b=1/c.parquet", "a/b=1/e"]
    assert [one.name for one in storage.list("*.format")] == ["6.format"]
    assert {one.name for one in storage.walk()} == {"a/b=1/c.parquet", "a/b=1/e", "6.format"}
    paths = storage.local_all([Key("a/b=1/e"), key])
    assert [path.read_bytes() for path in paths] == [b"third", b"second"]
    assert paths[1].name == "c.parquet"


def test_copies_and_moves_take_nothing_away(storage):
    """A copy leaves what lies there, a deletion of nothing is none."""
    for name in ("a", "b"):
        storage.put(Key(name), name.encode())
    storage.copy(Key("a"), Key("b"), "part")
    storage.copy(Key("a"), Key("c"), "part")
    storage.move(Key("b"), Key("aside/b"))
    storage.delete(Key("nothing"))
    storage.delete(Key("a"))

    assert {one.name: storage.read(one.key) for one in storage.walk()} == {
        "c": b"a",
        "aside/b": b"b",
    }
    assert storage.read(Key("c")) == b"a"
    with pytest.raises(FileNotFoundError):
        storage.local(Key("nothing")).read_bytes()


def test_of_threads_that_create_a_key_one_does(storage):
    """Each of ten keys has one winner among eight, and its bytes."""
    together = threading.Barrier(8)

    def create(writer):
        won = []
        for number in range(10):
            together.wait()
            key = Key(f"race/{number}")
            if storage.create(key, f"{writer}".encode(), f"{writer}-{number}"):
                won.append((key, f"{writer}".encode()))
        return won

    with ThreadPoolExecutor(8) as pool:
        won = [one for some in pool.map(create, range(8)) for one in some]

    assert sorted(key for key, _ in won) == [Key(f"race/{number}") for number in range(10)]
    assert all(storage.read(key) == content for key, content in won)


_RACE = """
import sys
from pathlib import Path
from pipelines.lake.cache import Cache
from pipelines.lake.object_store import ObjectStore
from pipelines.lake.objects import Objects
from pipelines.lake.storage import Key
store = ObjectStore(Objects(sys.argv[1], is_http_allowed=True), Cache(Path(sys.argv[2]), 1 << 20))
sys.stdin.readline()
for number in range(10):
    if store.create(Key(f"race/{number}"), sys.argv[3].encode(), f"{number}"):
        print(number, flush=True)
"""


def race(code, *arguments, count=3):
    """What several processes print that begin at once."""
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", code, *map(str, arguments), str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(count)
    ]
    for racer in racers:
        racer.stdin.write("go\n")
        racer.stdin.flush()
    return [racer.communicate(timeout=60)[0].split() for racer in racers]


def test_of_processes_that_create_a_key_one_does(url, tmp_path):
    """They share a cache and nothing else."""
    won = race(_RACE, url, tmp_path)

    assert sorted(int(one) for some in won for one in some) == list(range(10))


@settings(max_examples=60, deadline=None)
@given(names=st.sets(NAMES, max_size=6), pattern=NAMES, at=st.integers(0, 2))
def test_patterns_mean_the_same_everywhere(tmp_path_factory, caches, names, pattern, at):
    """A list of an object store is that of a folder, in the same order."""
    parts = pattern.split("/")
    parts[at % len(parts)] = "*"
    below = {name for name in names if not any(other.startswith(f"{name}/") for other in names)}
    folder = Folder(tmp_path_factory.mktemp("folder"))
    store = store_over(InMemory(), caches[0])
    for name in below:
        for one in (folder, store):
            one.put(Key(f"x/{name}.parquet"), b"")
    wanted = f"x/{'/'.join(parts)}*"

    def listed(one):
        return [found.name for found in one.list(wanted) if found.name.endswith(".parquet")]

    assert listed(store) == listed(folder)


def test_readers_see_whole_objects(storage):
    """While an object is replaced again and again, everybody reads one of its versions."""
    versions = [bytes([number]) * 200_000 for number in range(2)]
    storage.put(Key("a"), versions[0])
    is_over = threading.Event()

    def write():
        for turn in range(12):
            storage.put(Key("a"), versions[turn % 2])
        is_over.set()

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        while not is_over.is_set():
            assert storage.read(Key("a")) in versions
        writing.result()


@settings(max_examples=150, deadline=None)
@given(faults=FAULTS, turns=st.integers(1, 4))
def test_a_create_without_an_answer_leaves_no_doubt(caches, faults, turns):
    """Whatever goes wrong, of some writers one hears that it created the object, and it did."""
    memory = MemoryStore()
    stores = [
        store_over(Faulty(memory, faults[number::turns]), caches[number]) for number in range(turns)
    ]
    heard = []
    for number, store in enumerate(stores):
        try:
            heard.append(store.create(Key("a"), f"{number}".encode(), "part"))
        except MachineError as error:
            if error.code != "STORE_UNREACHABLE":
                raise
            heard.append(None)

    there = store_over(InMemory(memory), caches[-1])
    assert heard.count(True) <= 1
    assert heard.count(True) + heard.count(None) > 0
    if True in heard:
        assert int(there.read(Key("a"))) == heard.index(True)


def test_a_writer_without_tokens_is_caught(tmp_path, monkeypatch):
    """The mutant that takes "lies there" for "another was first" loses what it created itself."""
    objects = Faulty(None, ["lost", None])
    assert store_over(objects, tmp_path / "right").create(Key("a"), b"", "part")

    class WithoutTokens(Faulty):
        def head(self, name):
            return super().head(name)[0], {}

    objects = WithoutTokens(None, ["lost", None])
    assert not store_over(objects, tmp_path / "mutant").create(Key("a"), b"", "part")


def test_what_never_answers_is_said(tmp_path):
    """After two minutes of tries that wait longer and longer, with what to do."""
    slept = []
    store = store_over(Faulty(None, ["silent"] * 1000), tmp_path)
    store._sleep = slept.append

    with pytest.raises(MachineError, match="gives no answer") as failed:
        store.put(Key("a"), b"")

    assert 60 < sum(slept) < 130
    assert max(slept) <= 10
    assert "endpoint" in failed.value.remedy


def test_a_damaged_object_is_said_and_a_damaged_answer_is_not(tmp_path):
    """Bytes that are wrong once are fetched again; those that stay wrong are damage."""
    memory = MemoryStore()
    store_over(InMemory(memory), tmp_path / "a").put(Key("a"), b"bytes")

    store = store_over(Faulty(memory, [None, "flipped"]), tmp_path / "b")
    assert store.local(Key("a")).read_bytes() == b"bytes"
    assert store_over(Faulty(memory, ["cut", "cut"]), tmp_path / "c").read(Key("a")) == b"bytes"
    obstore.put(memory, "a", b"bytez", attributes=obstore.get(memory, "a").attributes)
    store = store_over(InMemory(memory), tmp_path / "d")
    for read in (store.read, store.local):
        with pytest.raises(DamageError, match="wrong checksum"):
            read(Key("a"))


class _Answers(http.server.BaseHTTPRequestHandler):
    """Answers as the first part of a path says."""

    def _answer(self):
        self.rfile.read(int(self.headers.get("content-length", 0)))
        what = re.search(r"(?:/lake/|prefix=)([\w-]+)", self.path)[1]
        if what == "slow":
            time.sleep(0.5)
        status, _, code = what.partition("-") if what[0].isdigit() else ("200", "", "")
        body = f"<Error><Code>{code}</Code><Message>/secret</Message></Error>".encode()
        self.send_response(int(status))
        self.send_header("content-length", str(len(body) + 5 * (what == "cut")))
        self.send_header("last-modified", "Sun, 15 Mar 2026 00:00:00 GMT")
        self.send_header("etag", '"tag"')
        self.end_headers()
        with contextlib.suppress(BrokenPipeError):
            self.wfile.write(body)
        self.close_connection = True

    do_GET = do_PUT = do_HEAD = _answer  # noqa: N815 - their names are http.server's

    def log_message(self, *_):
        """Nothing."""


@pytest.fixture(scope="module")
def answers(s3):
    """Objects of a server that answers as it is told; by that."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()

        def objects(what):
            with variables({"AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}"}):
                return objects_at(f"s3://lake/{what}")

        yield objects
        server.shutdown()


@pytest.mark.parametrize(
    "what", ["503-SlowDown", "500-InternalError", "429", "408-RequestTimeout", "cut"]
)
def test_what_another_try_helps_is_unanswered(answers, what):
    """Of all requests alike."""
    objects = answers(what)
    asked = [lambda: objects.fetch("a", bytes), lambda: objects.list("a", is_deep=True)]
    if what != "cut":
        asked += [partial(objects.put, "a", b"", is_new=one, about={}) for one in (True, False)]
    for ask in asked:
        with pytest.raises(UnansweredError) as failed:
            ask()
        assert "secret" not in str(failed.value)


@pytest.mark.parametrize("what", ["409-ConditionalRequestConflict", "412-PreconditionFailed"])
def test_what_lies_there_or_is_written_now_is_said(answers, what):
    """Only a look at the object says which."""
    with pytest.raises(FileExistsError):
        answers(what).put("a", b"", is_new=True, about={})
    with pytest.raises(UnansweredError):
        answers(what).put("a", b"", is_new=False, about={})


@pytest.mark.parametrize(
    "what",
    ["403-SignatureDoesNotMatch", "403-RequestTimeTooSkewed", "404-NoSuchBucket", "400-Bad"],
)
def test_what_no_try_helps_is_an_error_of_the_deployment(answers, what):
    """It names the store's own code, the variables, and nothing secret."""
    with pytest.raises(ConfigError, match=what.split("-")[1]) as failed:
        answers(what).put("a", b"", is_new=True, about={})
    assert "credentials" in failed.value.message
    assert "secret" not in failed.value.message


def test_a_server_that_takes_too_long_is_unanswered(answers, monkeypatch):
    """Whether it took the request is not known."""
    monkeypatch.setattr(objects_of, "_SECONDS", 0.2)
    objects = answers("slow")
    for ask in (
        lambda: objects.fetch("a", bytes),
        lambda: objects.put("a", b"", is_new=True, about={}),
    ):
        with pytest.raises(UnansweredError, match="no connection"):
            ask()


def test_a_server_that_is_not_there_is_unanswered(s3):
    """As a network that is gone for a while."""
    with variables({"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}):
        objects = objects_at(BUCKET)
    with pytest.raises(UnansweredError):
        objects.head("a")


def test_a_store_without_its_variables_is_said(monkeypatch):
    """Before anything is asked of it."""
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    with pytest.raises(ConfigError, match="a variable is missing"):
        Objects("az://container/prefix")


def brought(number):
    """A pull of customers, and its two rows."""
    one = pull(asked_at=NOW + number * HOUR, finished_at=NOW + number * HOUR)
    return one, customers(one, f"{number}-a", f"{number}-b")


def found(lake):
    """How often each pull is in the ledger, and each row in the history."""
    with lake.connect(("customers_history",)) as connection:
        pulls = connection.execute("select pull_id from pulls").fetchall()
        rows = connection.execute("select customer_id from customers_history").fetchall()
    return Counter(one for (one,) in pulls), Counter(one for (one,) in rows)


@settings(max_examples=25, deadline=None)
@given(faults=FAULTS)
def test_a_batch_counts_once_or_not_at_all(caches, faults):
    """A law like that of crashes: whatever goes wrong, no row is lost or doubled, and all is said.

    A batch whose writer heard nothing may count, as after a crash.
    """
    memory = MemoryStore()
    lake = lake_over(Faulty(memory, faults), caches[0])
    told, doubtful = {}, {}
    for number in range(3):
        one, rows = brought(number)
        batch = None
        try:
            batch = lake.batch(NOW)
            batch.rows(CUSTOMERS, rows)
            batch.commit([one])
            told[one.pull_id] = number
            lake.ledger.files()
        except MachineError as error:
            if error.code != "STORE_UNREACHABLE":
                raise
            if one.pull_id not in told:
                doubtful[one.pull_id] = number
                if batch is not None:
                    batch.discard()

    pulls, rows = found(lake_over(InMemory(memory), caches[-1]))

    assert told.keys() <= pulls.keys() <= {*told, *doubtful}
    counting = [number for pull_id, number in (told | doubtful).items() if pull_id in pulls]
    assert rows == Counter(f"{number}-{which}" for number in counting for which in "ab")
    assert set(pulls.values()) <= {1}


def test_a_commit_that_a_list_lacks_is_asked_for(tmp_path):
    """A list that lags shows a copy without its commit: it is there, and nothing is missing."""
    memory = MemoryStore()
    lake = lake_over(InMemory(memory), tmp_path / "a")
    lake.batch().commit([brought(0)[0]])

    class Lagging(InMemory):
        def list(self, folder, *, is_deep):
            return super().list(folder, is_deep=is_deep) if folder != "pulls" else []

    slow = lake_over(Lagging(memory), tmp_path / "b")
    waited = []
    slow.storage._sleep = waited.append

    assert slow.ledger.files() == lake.ledger.files()
    assert waited
    for one in lake.storage.list("pulls/*/*"):
        lake.storage.delete(one.key)
    with pytest.raises(DamageError, match="is missing"):
        slow.ledger.files()


def test_a_list_that_lags_overspends_no_budget(tmp_path):
    """What a list lacks, of the newest reservations or between others, is spent all the same."""
    memory = MemoryStore()
    hidden = set()

    class Lagging(InMemory):
        def list(self, folder, *, is_deep):
            found = super().list(folder, is_deep=is_deep)
            return [one for one in found if one.key.stem not in hidden]

    for hours in range(3):
        budget = Budget(lake_over(InMemory(memory), tmp_path / "a"), 3)
        assert budget.reserve({"a"}, NOW + hours * HOUR) == {"a"}
    for numbers in ([], [1], [2], [1, 2], [0, 1, 2]):
        hidden = {f"{number:010}" for number in numbers}
        late = Budget(lake_over(Lagging(memory), tmp_path / "b"), 3)
        assert late.reserve({"a"}, NOW + 4 * HOUR) == set()


def test_a_writer_lives_while_its_sign_is_renewed(monkeypatch):
    """By the store's clock; one that stopped is known as killed, and then forgotten."""
    monkeypatch.setattr(signs, "DEAD_SECONDS", 0.6)
    objects = InMemory()
    signed = SignedWriters(objects, lambda ask: ask(), renew_seconds=0.05, clock=lambda: 0.0)
    with signed.start() as ended:
        living, killed, other = signed.start(), signed.start(), signed.start()
    killed.leave()
    time.sleep(0.9)

    assert signed.known() == ({living.id, other.id}, {killed.id})
    signed.check()
    signed.forget({killed.id})
    other.end()
    assert signed.known() == ({living.id}, set())
    assert ended.id not in {one.key.name for one in objects.list("writers", is_deep=True)}
    living.end()


def test_a_process_that_slept_commits_nothing(tmp_path):
    """Its files may be deleted by then; the next run has a new sign and commits."""
    memory = MemoryStore()
    lake = lake_over(InMemory(memory), tmp_path)
    clock = [0.0]
    lake.storage._signs._clock = lambda: clock[0]
    one, rows = brought(0)
    batch = lake.batch(NOW)
    batch.rows(CUSTOMERS, rows)
    clock[0] = 301.0

    with pytest.raises(MachineError, match="others may have deleted") as failed:
        batch.commit([one])
    assert failed.value.code == "WRITER_PAUSED"
    batch.discard()
    assert found(lake) == (Counter(), Counter())
    lake.batch(NOW).commit([one])
    assert found(lake)[0] == {one.pull_id: 1}


def test_a_fork_is_told_that_it_cannot_ask(tmp_path):
    """It would wait for ever for threads that it does not have."""
    store = store_over(InMemory(), tmp_path)
    store.put(Key("a"), b"")
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        try:
            store.read(Key("a"))
        except MachineError as error:
            os.write(writing, error.code.encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)

    assert os.read(reading, 100) == b"FORKED"


def everything_shown(lake, names=NAMED):
    """The resolved rows of some streams, without where they came from."""
    with showing(lake, names) as connection:
        return {
            name: connection.sql(
                f"select {', '.join(STREAMS[name].schema.names)} from {name} order by all"
            ).fetchall()
            for name in names
        }


def synced(lake):
    """A lake with what an offline Lean has, always the same."""
    sandbox = Sandbox(customers=2, months=2, seed=7, today=TODAY)
    asyncio.run(sync_everything(client_of(sandbox, Slept(sandbox)), lake, READ))
    return lake


@pytest.mark.slow
def test_a_lake_in_s3_is_that_of_a_folder(url, tmp_path):
    """A sync, a merge of the ledger and of months, a build, and another machine."""
    expected = everything_shown(synced(Lake(tmp_path / "folder", "sandbox")))
    lake = synced(lake_over(objects_at(url), tmp_path / "cache"))
    assert everything_shown(lake) == expected
    merged = compact(lake, today=dt.datetime.now(dt.UTC).date() + dt.timedelta(days=2))
    assert merged.ledger_files == len(READ)
    assert everything_shown(lake) == expected
    built = build(lake, load(), hash_key="0" * 32, only=BUILT)
    assert [(one.model.name, one.rows > 0, one.written, one.problem) for one in built] == [
        (name, True, 1, None) for name in BUILT
    ]

    elsewhere = lake_over(objects_at(url), tmp_path / "elsewhere")
    assert everything_shown(elsewhere) == expected
    assert not any(one.written for one in build(elsewhere, load(), hash_key="0" * 32, only=BUILT))


@pytest.mark.slow
def test_writers_on_two_machines_end_as_one(url, tmp_path):
    """Syncs of the same entities at the same time lose and double nothing."""
    sandbox = Sandbox(customers=2, months=1, seed=7, today=TODAY)
    lakes = [lake_over(objects_at(url), tmp_path / name) for name in ("one", "two")]

    async def one(lake):
        async with client_of(sandbox, Slept(sandbox), page_size=30) as lean:
            await pull_with(lean, lake, CHAIN)

    async def both():
        await asyncio.gather(*map(one, lakes))

    asyncio.run(both())

    assert offenders(lakes[0], sandbox, CHAIN) == []


def test_machines_share_one_budget(url, tmp_path):
    """Three that race for the same entities spend the budget once, and all of it."""

    def spend(machine):
        budget = Budget(lake_over(objects_at(url), tmp_path / machine), 4)
        return [
            one
            for n in range(8)
            for one in budget.reserve({"a", "b", "c"}, NOW + dt.timedelta(seconds=n))
        ]

    with ThreadPoolExecutor(3) as pool:
        granted = Counter(one for some in pool.map(spend, ("x", "y", "z")) for one in some)

    assert granted == {"a": 4, "b": 4, "c": 4}


@pytest.mark.slow
def test_killed_at_a_write_boundary_of_an_object_store(url, tmp_path):
    """Late in a sync, by a request that writes: the next sync heals everything."""
    with kills(url, tmp_path) as (boundaries, survives):
        assert boundaries > 20
        assert survives(boundaries - 2)


def test_a_lake_in_a_folder_needs_no_library(tmp_path):
    """And one in an object store says which extra has it."""
    code = (
        "import sys; sys.modules['obstore'] = None\n"
        "from pipelines.lake.lake import Lake\n"
        "Lake(sys.argv[1], 'sandbox').batch().commit([])\n"
        "try: Lake('gs://bucket/prefix', 'sandbox')\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)

    assert done.stdout.strip() == (
        "ConfigError a lake in gs:// needs a library: pip install 'leanhouse[gcs]'"
    )
