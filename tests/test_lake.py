"""What the lake promises: a row counts only if the ledger says so."""

import datetime as dt
import os
import time
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import showing
from hypothesis import given, settings
from hypothesis import strategies as st

from lean_resources.streams import STREAMS
from pipelines.lake.ids import new_id
from pipelines.lake.lake import Lake
from pipelines.lake.ledger import Outcome, Pull
from pipelines.lake.schemas import lake_schema
from pipelines.models.loader import load
from pipelines.operate.vacuum import VacuumRefusedError, vacuum
from pipelines.publish.warehouse import connect, publish

TRANSACTIONS, CUSTOMERS = STREAMS["transactions"], STREAMS["customers"]
NOW = dt.datetime(2026, 3, 15, 7, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)
MODELS = load()


@pytest.fixture
def lake(tmp_path):
    """An empty lake."""
    return Lake(tmp_path, "sandbox")


def pull(stream="customers", parent="application", **changes):
    """A committed pull with some changes."""
    given_ = {
        "pull_id": new_id(),
        "series_id": new_id(),
        "stream": stream,
        "parent_id": parent,
        "outcome": Outcome.COMMITTED,
        "asked_at": NOW,
        "finished_at": NOW,
    }
    return Pull(**(given_ | changes))


def customers(pull_, *ids):
    """Rows of customers that a pull brought."""
    rows = [
        {"customer_id": id_, "pull_id": pull_.pull_id, "page_number": 0, "record_number": n}
        for n, id_ in enumerate(ids)
    ]
    return pa.Table.from_pylist(rows, schema=lake_schema(CUSTOMERS))


def movements(pull_, *days, account="a"):
    """One transaction per day that a pull brought, each of one riyal."""
    rows = [
        {
            "entity_id": "e",
            "account_id": account,
            "transaction_id": f"{day}",
            "amount": Decimal(1),
            "currency": "SAR",
            "booked_at": dt.datetime.combine(day, dt.time(12), dt.UTC),
            "pull_id": pull_.pull_id,
            "page_number": 0,
            "record_number": n,
        }
        for n, day in enumerate(days)
    ]
    return pa.Table.from_pylist(rows, schema=lake_schema(TRANSACTIONS))


def shown(lake, query):
    """The answer of the lake as it stands."""
    with lake.connect() as connection:
        return connection.execute(query).fetchall()


def commit(lake, pull_, table, month=None):
    """Write the rows of one pull and commit it."""
    batch = lake.batch(NOW)
    batch.rows(STREAMS[pull_.stream], table, month=month)
    batch.commit([pull_])
    return batch


def test_every_stream_has_a_typed_empty_view_before_the_first_file(lake):
    """A query over a lake without files answers with no rows and the right columns."""
    with lake.connect() as connection:
        for name, stream in STREAMS.items():
            found = connection.sql(f"select * from {name}").to_arrow_table()
            assert found.num_rows == 0
            assert found.schema.names == lake_schema(stream).names
            assert found.schema.field(0).type == stream.schema.field(0).type


def test_rows_show_when_their_pull_is_committed_and_not_before(lake):
    """Staged and even renamed files are invisible until the ledger's file stands."""
    brought = pull()
    batch = lake.batch(NOW)
    batch.rows(CUSTOMERS, customers(brought, "c1"))
    before = shown(lake, "select customer_id from customers")

    batch.commit([brought])

    assert before == []
    assert shown(lake, "select customer_id from customers") == [("c1",)]


def test_a_commit_of_no_pull_at_all_leaves_a_lake_that_opens(lake):
    """A file without rows keeps its columns: Parquet without a column cannot be read."""
    commit(lake, kept := pull(), customers(kept, "c1"))
    lake.batch().commit([])

    assert shown(lake, "select customer_id from customers") == [("c1",)]


def test_a_file_that_no_ledger_row_vouches_for_does_not_count(lake):
    """A file that nothing names is invisible, and vacuum removes it after a day, if it may."""
    commit(lake, kept := pull(), customers(kept, "c1"))
    stray = lake.folder / CUSTOMERS.name / "pulled_on=2026-03-15" / f"{new_id()}.parquet"
    pq.write_table(customers(pull(), "c2"), stray)
    (half := stray.with_name("half.parquet.tmp")).write_bytes(b"PAR1")

    assert shown(lake, "select customer_id from customers") == [("c1",)]
    assert not vacuum(lake).deletions

    long_ago = time.time() - 2 * 86_400
    for file in (lake.folder / CUSTOMERS.name).rglob("*"):
        os.utime(file, (long_ago, long_ago))
    with pytest.raises(VacuumRefusedError, match=r"--yes-delete 1$"):
        vacuum(lake, yes_delete=2)
    assert half.exists()
    done = vacuum(lake, yes_delete=1)
    assert {lake.storage.local(one.key) for one in done.deletions} == {stray, half}
    assert shown(lake, "select customer_id from customers") == [("c1",)]


def test_a_newer_pull_replaces_an_older_one(lake):
    """A parent shows the rows of its newest committed pull; what vanished at Lean vanishes."""
    commit(lake, first := pull(), customers(first, "c1", "c2"))
    commit(lake, second := pull(asked_at=NOW + DAY), customers(second, "c2", "c3"))
    failed = pull(asked_at=NOW + 2 * DAY, outcome=Outcome.FAILED)
    lake.batch(NOW).commit([failed])

    assert shown(lake, "select customer_id from customers order by 1") == [("c2",), ("c3",)]


def test_newest_is_what_the_bank_said_last_not_what_was_written_last(lake):
    """A late writer with an older store does not win."""
    newer = pull(refreshed_at=NOW, asked_at=NOW)
    older = pull(refreshed_at=NOW - DAY, asked_at=NOW + DAY)
    commit(lake, newer, customers(newer, "new"))
    commit(lake, older, customers(older, "old"))

    assert shown(lake, "select customer_id from customers") == [("new",)]


def test_an_empty_newer_pull_empties_the_parent(lake):
    """No rows is an answer: they are gone, they are not unknown."""
    commit(lake, first := pull(), customers(first, "c1"))
    lake.batch(NOW).commit([pull(asked_at=NOW + DAY)])

    assert shown(lake, "select count(*) from customers") == [(0,)]


def test_days_that_only_an_earlier_pull_claims_stay_with_it(lake):
    """A renewed consent that starts later does not lose the days before."""
    march = [dt.date(2026, 3, 1) + n * DAY for n in range(10)]
    first = pull("transactions", "a", month="2026-03", covered_from=march[0], covered_to=march[9])
    second = pull(
        "transactions", "a", month="2026-03", covered_from=march[5], covered_to=march[9],
        asked_at=NOW + DAY,
    )  # fmt: skip
    commit(lake, first, movements(first, *march), "2026-03")
    commit(lake, second, movements(second, march[5], march[7]), "2026-03")

    rows = shown(lake, "select transaction_id, pull_id from transactions order by 1")

    assert rows == [(f"{day}", first.pull_id) for day in march[:5]] + [
        (f"{march[5]}", second.pull_id),
        (f"{march[7]}", second.pull_id),
    ]


@st.composite
def _histories(draw):
    """Pulls of one month, each with the stretch it claims and when the bank was asked."""
    count = draw(st.integers(1, 5))
    found = []
    for _ in range(count):
        first, last = sorted((draw(st.integers(1, 28)), draw(st.integers(1, 28))))
        found.append((first, last, draw(st.integers(0, 6))))
    return found


@settings(max_examples=15, deadline=None)
@given(history=_histories())
def test_each_day_belongs_to_the_newest_pull_that_claims_it(tmp_path_factory, history):
    """For any pulls of a month the claims partition its days, each to the newest claimant."""
    _is_partitioned(tmp_path_factory, history)


@pytest.mark.conformance
@settings(max_examples=100, deadline=None)
@given(history=_histories())
def test_each_day_belongs_to_the_newest_of_many_histories(tmp_path_factory, history):
    """The same, over many more of them."""
    _is_partitioned(tmp_path_factory, history)


def _is_partitioned(tmp_path_factory, history):
    lake = Lake(tmp_path_factory.mktemp("lake"), "sandbox")
    pulls = []
    for first, last, asked in history:
        one = pull(
            "transactions", "a", month="2026-02",
            covered_from=dt.date(2026, 2, first), covered_to=dt.date(2026, 2, last),
            asked_at=NOW + asked * DAY,
        )  # fmt: skip
        pulls.append(one)
    lake.batch(NOW).commit(pulls)

    with showing(lake, ()) as connection:
        query = "select pull_id, claimed_from, claimed_to from claims"
        claims = connection.execute(query).fetchall()

    owner = {}
    for pull_id, first, last in claims:
        for day in range(first.day, last.day + 1):
            assert day not in owner, "a day belongs to two pulls"
            owner[day] = pull_id
    for day in range(1, 29):
        claimants = [p for p in pulls if p.covered_from.day <= day <= p.covered_to.day]
        newest = max(claimants, key=lambda p: (p.asked_at, p.pull_id), default=None)
        assert owner.get(day) == (newest.pull_id if newest else None)


def test_a_reader_keeps_its_warehouse_while_a_new_one_is_swapped_in(lake):
    """An open connection is never blocked and never changes under its reader."""
    commit(lake, first := pull(), customers(first, "c1"))
    publish(lake, MODELS)
    with connect(lake) as reader:
        commit(lake, second := pull(asked_at=NOW + DAY), customers(second, "c1", "c2"))
        publish(lake, MODELS)

        assert reader.execute("select count(*) from customers").fetchall() == [(1,)]
        with connect(lake) as later:
            assert later.execute("select count(*) from customers").fetchall() == [(2,)]
    assert not list(lake.folder.glob("*.tmp"))


def test_the_warehouse_documents_every_column(lake):
    """Each view and each of its columns carries the catalogue's words."""
    publish(lake, MODELS)

    with connect(lake) as connection:
        silent = connection.execute(
            "select columns.schema_name, table_name, column_name from duckdb_columns() as columns"
            " inner join duckdb_views() as views on columns.schema_name = views.schema_name"
            " and table_name = view_name and columns.database_name = views.database_name"
            " where not views.internal and columns.comment is null"
            " and views.comment not like 'The old name of %'"
        ).fetchall()
        described = connection.execute(
            "select distinct schema_name from duckdb_columns() where comment is not null"
        ).fetchall()

    assert silent == []
    assert ("raw",) in described


def test_a_column_that_older_files_lack_is_null(lake, monkeypatch):
    """Files written before a column was added are read with it empty."""
    brought = pull()
    table = customers(brought, "c1").drop_columns(["app_user_id"])
    folder = lake.folder / CUSTOMERS.name / "pulled_on=2026-03-15"
    folder.mkdir(parents=True)
    batch = lake.batch(NOW)
    pq.write_table(table, folder / f"{batch.id}.parquet")
    batch.commit([brought])

    assert shown(lake, "select customer_id, app_user_id from customers") == [("c1", None)]


def test_ids_sort_by_the_time_they_were_made():
    """A later id is greater, and no two are alike."""
    ids = [new_id() for _ in range(1000)]

    assert ids[::100] == sorted(ids[::100])
    assert len(set(ids)) == 1000
