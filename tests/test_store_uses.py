"""What uses a lake in an object store: the warehouse, queries, copies, fsck, vacuum and doctor."""

import asyncio
import json
import re
import secrets
import urllib.parse
import urllib.request

import duckdb
import obstore
import pytest
import shared
from conftest import TODAY, client_of, sync_everything
from obstore.store import MemoryStore
from stores import BUCKET, InMemory, lake_over, moto, variables
from test_lake import commit, customers
from test_lake import pull as pull_

from lean_resources.errors import ConfigError, MachineError
from lean_resources.sandbox import Sandbox
from lean_resources.streams import STREAMS
from pipelines.lake.lake import Lake
from pipelines.lake.objects import Objects, UnansweredError
from pipelines.lake.storage import Key
from pipelines.models.build import build
from pipelines.models.loader import load
from pipelines.operate import fsck, store_check
from pipelines.operate.store_check import check_store
from pipelines.operate.vacuum import vacuum
from pipelines.publish.publications import Publications, published_warehouse
from pipelines.publish.pull import pull
from pipelines.publish.read_only import QueryError, reading
from pipelines.publish.warehouse import connect, publish

BUILT = ("bridge_accounts", "dim_banks", "fct_balance_snapshots")
READ = ("banks", "customers", "entities", "accounts", "balances", "transactions", "refreshes")
WORLD = {"customers": 2, "months": 2, "seed": 7, "today": TODAY}
QUERIES = (
    "select * from dim_banks order by all",
    "select account_id, balance_type, signed_amount from fct_balance_snapshots order by all",
    "select transaction_id, amount from raw.transactions order by all",
    "select count(*) from raw.accounts_history",
    "show tables",
)
BANKS = "select count(*) from dim_banks"


def built(lake):
    """The lake with a few tables and a warehouse."""
    build(lake, load(), hash_key="made-up-key-of-tests", only=BUILT)
    publish(lake, load())
    return lake


@pytest.fixture(scope="module")
def near(tmp_path_factory):
    """A lake in a folder."""
    lake = Lake(tmp_path_factory.mktemp("near") / "lake", "sandbox")
    return built(shared.filled(lake, READ, sandbox=WORLD))


@pytest.fixture(scope="module")
def memory(tmp_path_factory):
    """The objects of a lake that was synced, built and published in a store."""
    objects = InMemory()
    lake = lake_over(objects, tmp_path_factory.mktemp("far"))
    asyncio.run(sync_everything(client_of(Sandbox(**WORLD)), lake, READ))
    built(lake)
    return objects.memory


class Watched(InMemory):
    """Objects of a test's own, which notes what is fetched, and may refuse or not answer."""

    def __init__(self, memory):
        own = MemoryStore()
        for page in obstore.list(memory):
            for one in page:
                found = obstore.get(memory, one["path"])
                obstore.put(own, one["path"], found.bytes(), attributes=found.attributes)
        super().__init__(own)
        self.fetched = []
        self.is_read_only = self.is_silent = False

    def fetch(self, name, take):
        """As the store does."""
        if self.is_silent:
            raise UnansweredError("no answer")
        self.fetched.append(name)
        return super().fetch(name, take)

    def put(self, *arguments, **named):
        """As the store does."""
        assert not self.is_read_only
        return super().put(*arguments, **named)

    def delete(self, names):
        """As the store does."""
        assert not self.is_read_only
        super().delete(names)


@pytest.fixture
def objects(memory):
    """A copy of these objects."""
    return Watched(memory)


@pytest.fixture
def lake(objects, tmp_path):
    """The lake over them, with an empty cache."""
    return lake_over(objects, tmp_path / "cache")


def rows(lake, query):
    """What `leanhouse query` says."""
    with reading(lake, query) as connection:
        return connection.execute(query).fetchall()


def one_more(lake):
    """Commit one customer more."""
    brought = pull_()
    commit(lake, brought, customers(brought, "late"))


def pulls_published(lake):
    """Number of pulls that the newest warehouse knows, and that the lake has."""
    with connect(lake, "") as connection, lake.connect(()) as now:
        counts = [of.execute(f"select count(*) from {name}pulls").fetchone()
                  for of, name in ((connection, "raw."), (now, ""))]  # fmt: skip
    return [count for (count,) in counts]


def test_a_query_has_the_rows_of_a_folder_and_fetches_its_own_files_alone(near, lake, objects):
    """Who asks needs no right to write."""
    objects.is_read_only = True

    for query in QUERIES:
        found = rows(lake, query)
        assert found == rows(near, query), query
        assert found

    objects.fetched.clear()
    objects_of_it = lake_over(objects, lake.folder.parents[2] / "empty")
    rows(objects_of_it, BANKS)
    folders = {Key(name).parts[0] for name in objects.fetched}
    assert folders == {"warehouse", "marts"}
    assert {Key(name).parts[1] for name in objects.fetched if name.startswith("marts")} == {
        "dim_banks"
    }


def test_a_query_reads_nothing_but_its_files(lake):
    """The barriers of a lake in a folder hold."""
    for query in (
        "from read_parquet('/etc/passwd')",
        "select * from read_text('leanhouse.duckdb')",
        "copy dim_banks to 'out.csv'",
        "set allowed_directories = ['/']",
    ):
        with pytest.raises(QueryError):
            rows(lake, query)
    with connect(lake, BANKS) as connection:
        from pipelines.publish import read_only

        read_only.close_off(connection, read_only._folders_of(connection))
        with pytest.raises(duckdb.PermissionException):
            connection.execute("from read_text('/etc/hostname')")
        assert connection.execute(BANKS).fetchone() != (0,)


def test_a_file_that_is_missing_is_said(lake, objects):
    """A part of a table, and rows that a pattern would not miss."""
    [part, *_] = [one.key for one in lake.storage.list("marts/dim_banks/*.parquet")]
    [movements, *_] = [one.key for one in lake.storage.list("transactions/*/*.parquet")]
    objects.delete([str(part), str(movements)])

    with pytest.raises(QueryError, match=r"dim_banks.*is missing"):
        rows(lake, BANKS)
    with pytest.raises(QueryError, match=r"transactions/.* is missing"):
        rows(lake, QUERIES[2])
    assert rows(lake, "select count(*) from raw.accounts")


def overtaken(lake, monkeypatch, take):
    """Publish, and be overtaken by a publisher that knows one pull more."""
    is_first = True

    def late(self, number, publication, writer_id):
        nonlocal is_first
        if is_first:
            is_first = False
            one_more(lake)
            publish(lake, load())
        return take(self, number, publication, writer_id)

    monkeypatch.setattr(Publications, "take", late)
    publish(lake, load())


def test_an_old_publisher_never_wins(lake, monkeypatch):
    """It began before a newer one and ends after it: it begins again."""
    overtaken(lake, monkeypatch, Publications.take)

    published, there = pulls_published(lake)
    assert published == there
    assert published_warehouse(lake.storage).stem.endswith("3")


def test_a_publisher_that_takes_the_next_free_number_is_caught(lake, monkeypatch):
    """The mutant of the test above: the newest warehouse is an old one."""
    take = Publications.take
    overtaken(lake, monkeypatch, lambda self, _, *rest: take(self, self.next_number(), *rest))

    published, there = pulls_published(lake)
    assert published == there - 1


def test_a_publisher_that_was_killed_blocks_nobody(lake):
    """It has taken a number and put no warehouse: the one before is read, the next has its own."""
    publications = Publications(lake)
    publications.take(publications.next_number(), publications.now(), "killed")
    assert published_warehouse(lake.storage).stem.endswith("1")
    assert rows(lake, BANKS)
    vacuum(lake, older_than_seconds=-1)
    assert rows(lake, BANKS)

    one_more(lake)
    publish(lake, load())

    assert published_warehouse(lake.storage).stem.endswith("3")
    assert len({*pulls_published(lake)}) == 1


def test_a_vacuum_deletes_replaced_warehouses_after_the_time_for_readers(lake):
    """Not before, and never the newest."""
    for _ in range(2):
        one_more(lake)
        publish(lake, load())

    vacuum(lake)
    assert len(list(lake.storage.list("warehouse/*.duckdb"))) == 3
    vacuum(lake, older_than_seconds=-1)

    [left] = lake.storage.list("warehouse/*.duckdb")
    [record] = lake.storage.list("published/*.json")
    assert (left.key.stem, record.key.stem) == ("0000000003", "0000000003")
    assert rows(lake, BANKS)


def test_fsck_reads_the_store_and_not_the_cache(lake, objects):
    """A copy here may be whole while the object is not; a store that is silent says nothing."""
    assert fsck.check(lake).findings == []
    [part, *_] = [one.key for one in lake.storage.list("marts/dim_banks/*.parquet")]
    lake.storage.local(part)
    whole = bytearray(obstore.get(objects.memory, str(part)).bytes())
    whole[40] ^= 1
    obstore.put(objects.memory, str(part), bytes(whole))

    [found] = fsck.check(lake).findings
    assert (found.path, found.problem) == (str(part), "has the wrong checksum")

    fsck.repair(lake)
    assert lake.storage.head(part) is None
    assert [one.name.rpartition("/")[2] for one in lake.storage.list("set_aside/*/*/*/*")] == [
        part.name
    ]
    built(lake)
    assert fsck.check(lake).findings == []
    assert rows(lake, BANKS)

    objects.is_silent = True
    with pytest.raises(MachineError):
        fsck.check(lake)


def test_an_analysts_copy_equals_a_folders(near, lake, objects, tmp_path, monkeypatch):
    """By rights to read alone; the next pull fetches what is new."""
    objects.is_read_only = True
    copy = tmp_path / "copy"
    pull(lake, copy)
    monkeypatch.chdir(copy)
    with duckdb.connect("leanhouse.duckdb", read_only=True) as connection:
        for query in QUERIES[:4]:
            assert connection.execute(query).fetchall() == rows(near, query)

    objects.is_read_only = False
    one_more(lake)
    publish(lake, load())
    objects.fetched.clear()
    done = pull(lake, copy)
    streams = {Key(name).parts[0] for name in objects.fetched} & {*STREAMS}
    assert (streams, done.new_files) == ({"customers"}, 1)


def test_iceberg_needs_a_catalogue_that_all_machines_reach(lake):
    """A file in the lake is none."""
    from pipelines.publish.iceberg import publish_tables

    with pytest.raises(ConfigError, match="LEANHOUSE_ICEBERG_CATALOGUE"):
        publish_tables(lake, load())


@pytest.mark.conformance
def test_iceberg_tables_lie_in_the_store(s3, postgres, memory, tmp_path):
    """Readers find the rows of the warehouse by a catalogue in PostgreSQL."""
    from pyiceberg.catalog import load_catalog

    from pipelines.publish.iceberg import publish_tables

    far = Objects(f"{BUCKET}/iceberg", is_http_allowed=True)
    for page in obstore.list(memory):
        for one in page:
            found = obstore.get(memory, one["path"])
            obstore.put(far.quick, one["path"], found.bytes(), attributes=found.attributes)
    lake = lake_over(far, tmp_path)

    assert publish_tables(lake, load(), postgres).tables
    assert publish_tables(lake, load(), postgres).changed == ()

    catalogue = load_catalog(
        "leanhouse", type="sql", uri=postgres.replace("postgresql:", "postgresql+psycopg:"),
        **{"s3.endpoint": s3["AWS_ENDPOINT_URL"], "s3.region": "us-east-1"},
    )  # fmt: skip
    table = catalogue.load_table("marts.dim_banks")
    assert table.location().startswith(f"{BUCKET}/iceberg/iceberg/")
    assert [(table.scan().to_arrow().num_rows,)] == rows(lake, BANKS)


@pytest.fixture(scope="module")
def s3():
    """An S3 on loopback, which asks for rights."""
    with moto() as given, variables(given):
        yield given


def asked(s3, path, data, **headers):
    """What moto's server answers."""
    request = urllib.request.Request(f"{s3['AWS_ENDPOINT_URL']}/{path}", data.encode(), headers)
    with urllib.request.urlopen(request) as answer:
        return answer.read().decode()


def allowed(s3, *actions):
    """Credentials that may do so much, as variables."""
    scope = "test/20260315/us-east-1/iam/aws4_request"
    signed = f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=0"

    def iam(action, **given):
        form = urllib.parse.urlencode({"Action": action, "Version": "2010-05-08", **given})
        return asked(s3, "", form, Authorization=signed)

    def ask_for_rights(after):
        asked(s3, "moto-api/reset-auth", f"{after}", **{"Content-Type": "text/plain"})

    ask_for_rights(1_000_000)
    name = secrets.token_hex(8)
    iam("CreateUser", UserName=name)
    key = iam("CreateAccessKey", UserName=name)
    rights = {"Effect": "Allow", "Action": actions, "Resource": "*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [rights]})
    iam("PutUserPolicy", UserName=name, PolicyName="rights", PolicyDocument=policy)
    ask_for_rights(0)
    return {
        "AWS_ACCESS_KEY_ID": re.search("<AccessKeyId>([^<]*)<", key)[1],
        "AWS_SECRET_ACCESS_KEY": re.search("<SecretAccessKey>([^<]*)<", key)[1],
    }


def checked(place=f"{BUCKET}/doctor"):
    """What doctor finds."""
    return check_store(Objects(place, is_http_allowed=True))


def test_doctor_races_and_leaves_nothing(s3):
    """Exactly one of the writers that meet creates an object."""
    found = checked()

    assert any("one succeeds" in sentence for sentence in found)
    assert Objects(f"{BUCKET}/doctor", is_http_allowed=True).list("", is_deep=True) == []


def test_doctor_refuses_a_store_that_lets_two_create_one_object(s3, monkeypatch):
    """Such a store ignores the condition of a put."""
    put = obstore.put
    monkeypatch.setattr(store_check.obstore, "put", lambda *given, **_: put(*given))

    with pytest.raises(MachineError, match=r"of 8 writers .*, 8 succeeded"):
        checked()


ALL = ("s3:ListBucket", "s3:GetObject", "s3:PutObject", "s3:DeleteObject")


def test_doctor_names_the_right_that_is_missing(s3):
    """One by one; no message has a secret."""
    for missing in ALL:
        given = allowed(s3, *(one for one in ALL if one != missing))
        with variables(given), pytest.raises(MachineError) as caught:
            checked()
        assert missing in caught.value.remedy
        said = f"{caught.value} {caught.value.remedy}"
        assert not any(value in said for value in given.values())
    with variables(allowed(s3, *ALL)):
        assert checked()


@pytest.mark.parametrize(
    ("given", "place", "said"),
    [
        ({}, "s3://nowhere/x", "no such bucket"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, f"{BUCKET}/x", "does not answer"),
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, f"{BUCKET}/x", "does not accept the credentials"),
    ],
)
def test_doctor_says_what_is_wrong_with_the_way_to_a_store(s3, given, place, said):
    """Each with a remedy."""
    changed = variables(allowed(s3, *ALL) | given)
    with changed, pytest.raises(MachineError, match=said) as caught:
        checked(place)
    assert caught.value.remedy.endswith(".")
