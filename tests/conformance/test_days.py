"""Over days of late, changed and vanished rows the lake is the truth, each row once."""

import dataclasses

import duckdb
import pyarrow as pa
import pytest
from conftest import showing
from laws import broken_keys, uncounted, wrong_rows
from worlds import CHAIN, PULLED, Wire, new_sandbox, next_day, pull, wired

from lean_resources.paging import PagedReader
from pipelines.lake.batch import Batch
from pipelines.lake.lake import Lake
from pipelines.lake.views import LAKE_VIEWS
from pipelines.sync import tasks as tasks_module

LONG = pytest.mark.conformance


def story(lake, names=CHAIN):
    """Two days and a quarter of a year, with a customer who connects again; what broke a law."""
    sandbox = new_sandbox(months=1)
    again = sandbox.example("pending_same_id")["entity_id"]
    for day in range(3):
        if day == 1:
            next_day(sandbox)
        if day == 2:
            sandbox.reconsent(again)
            next_day(sandbox, days=90)
        pull(sandbox, lake, names)
        streams = (*names, "consents")
        found = broken_keys(lake, streams) + uncounted(lake, streams)
        if found := found or wrong_rows(lake, sandbox, streams):
            return found
    return []


@pytest.mark.conformance
def test_every_stream_is_the_truth_on_every_day(lake):
    """Whatever was late, changed, vanished or connected again: no row lost, none twice."""
    assert story(lake, PULLED) == []


def test_the_shorter_story_holds_too(lake):
    """The story that the mutants are told breaks no law as long as nothing is broken."""
    assert story(lake) == []


def from_the_future(monkeypatch):
    """What Lean says of its store is taken as it is."""
    monkeypatch.setattr(
        "pipelines.sync.coverage._credible", lambda refreshed_at, _latest_at: refreshed_at
    )


@pytest.mark.parametrize("mutant", [None, pytest.param(from_the_future, marks=LONG)])
def test_a_store_from_the_future_does_not_win_for_ever(lake, monkeypatch, mutant):
    """Whoever stamps a store years ahead is believed until the next honest answer."""
    sandbox = new_sandbox(months=1)
    wire = Wire(
        sandbox, lambda _request, body: body.replace(b'"refreshed_at":"2', b'"refreshed_at":"3')
    )
    if mutant:
        mutant(monkeypatch)
    pull(sandbox, lake, client=wired(sandbox, wire, page_size=30))
    next_day(sandbox)

    pull(sandbox, lake)

    assert bool(wrong_rows(lake, sandbox, CHAIN)) == bool(mutant)


def a_row_twice(monkeypatch):
    """A row is written twice."""
    rows = Batch.rows

    def doubling(batch, stream, table, **where):
        rows(batch, stream, pa.concat_tables([table, table.slice(0, 1)]), **where)

    monkeypatch.setattr(Batch, "rows", doubling)


def a_page_dropped(monkeypatch):
    """The last page of a long read is left out, and nobody compares totals."""
    pages = PagedReader._pages

    async def shortened(reader, *args):
        answers = [answer async for answer in pages(reader, *args)]
        for answer in answers[:-1] if len(answers) > 1 else answers:
            yield answer

    monkeypatch.setattr(PagedReader, "_pages", shortened)
    monkeypatch.setattr("lean_resources.paging.why_incomplete", lambda _stream, _envelopes: None)


def rows_without_pulls(monkeypatch):
    """Every row counts that lies in the lake."""
    monkeypatch.setattr(Lake, "resolved", Lake.all_rows)


def every_pull_counts(monkeypatch):
    """Rows of superseded pulls show beside those of the newest."""
    resolved = Lake.resolved

    def all_pulls(lake, stream):
        everything = "(select *, pull_id as old from pulls where outcome = 'COMMITTED') as claims"
        return resolved(lake, stream).replace("inner join claims", f"inner join {everything}")

    monkeypatch.setattr(Lake, "resolved", all_pulls)


def the_oldest_pull_wins(monkeypatch):
    """A parent shows what was known of it first."""
    claims = LAKE_VIEWS["claims"]
    newest_first = "order by bank_asked_at desc, lean_asked_at desc"
    assert newest_first in claims.sql
    oldest = claims.sql.replace(newest_first, "order by bank_asked_at asc, lean_asked_at asc")
    monkeypatch.setitem(LAKE_VIEWS, "claims", dataclasses.replace(claims, sql=oldest))


def a_month_skipped(monkeypatch):
    """The planner leaves out the first month of a read."""
    plan = tasks_module.plan

    def skipping(*args):
        for read in plan(*args):
            yield dataclasses.replace(read, months=read.months[1:] or read.months)

    monkeypatch.setattr(tasks_module, "plan", skipping)


def nothing_is_ever_new(monkeypatch):
    """Whatever was read once is taken for unchanged."""
    monkeypatch.setattr("lean_resources.paging._is_of", lambda _envelope, known: known is not None)


def alike_is_the_same(monkeypatch):
    """Purchases that differ only in their id are taken for one."""
    rows = Batch.rows

    def merging(batch, stream, table, **where):
        if stream.name == "transactions":
            with duckdb.connect() as connection:
                connection.register("written", table)
                merged = connection.sql(
                    "from written qualify row_number() over ("
                    "partition by account_id, booked_at, amount, transaction_information) = 1"
                )
                table = merged.to_arrow_table().cast(table.schema)
        rows(batch, stream, table, **where)

    monkeypatch.setattr(Batch, "rows", merging)


def an_id_is_enough(monkeypatch):
    """A transaction's id is taken for unique beyond its account."""
    resolved = Lake.resolved

    def one_of_an_id(lake, stream):
        select = resolved(lake, stream)
        if stream.name != "transactions":
            return select
        return f"select distinct on (transaction_id) * from ({select})"

    monkeypatch.setattr(Lake, "resolved", one_of_an_id)


MUTANTS = [
    a_row_twice,
    a_page_dropped,
    rows_without_pulls,
    every_pull_counts,
    the_oldest_pull_wins,
    a_month_skipped,
    nothing_is_ever_new,
    alike_is_the_same,
    an_id_is_enough,
]


@pytest.mark.conformance
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_a_broken_sync_breaks_a_law(lake, monkeypatch, mutant):
    """Each way of losing or doubling a row is seen."""
    mutant(monkeypatch)

    assert story(lake)


@pytest.mark.parametrize(
    "settings",
    [
        {"page_size": 7},
        pytest.param({"max_concurrency": 1}, marks=LONG),
        pytest.param({"page_size": 100}, marks=LONG),
    ],
)
def test_pages_and_their_order_do_not_matter(lake, settings):
    """However the pages are cut and in whatever order they come, the lake is the same."""
    sandbox = new_sandbox()

    pull(sandbox, lake, client=wired(sandbox, Wire(sandbox), **settings))

    assert wrong_rows(lake, sandbox, CHAIN) == []


def data_files(lake):
    """Files of the lake but for the ledger and its copies."""
    ledger = (lake.folder / "pulls", lake.folder / "checkpoints")
    return {
        file
        for file in lake.folder.rglob("*.parquet")
        if not any(file.is_relative_to(folder) for folder in ledger)
    }


def test_a_second_sync_changes_nothing(lake):
    """Pulling again adds no row and shows the same."""
    sandbox = new_sandbox()
    pull(sandbox, lake)
    written = data_files(lake)

    report = pull(sandbox, lake, ("accounts", "transactions"))

    assert wrong_rows(lake, sandbox, CHAIN) == []
    assert report.rows["transactions"] == 0
    assert written == data_files(lake)


def test_movements_of_the_awkward_kinds_stand_once_each(lake):
    """Pending rows that book or vanish, twins, joint accounts and shared ids: each as it is."""
    sandbox = new_sandbox()
    cases = {
        kind: sandbox.example(kind)
        for kind in ("pending_same_id", "pending_new_id", "pending_amount", "pending_vanishes")
    }
    twins, joint = sandbox.example("identical_purchases"), sandbox.example("joint_account")
    shared = sandbox.example("shared_transaction_id")
    pull(sandbox, lake)

    next_day(sandbox)
    pull(sandbox, lake)

    def ids(*wanted):
        with showing(lake, ("transactions",)) as connection:
            return connection.execute(
                "select account_id, transaction_id, status from transactions"
                " where list_contains($ids, transaction_id)",
                {"ids": list(wanted)},
            ).fetchall()

    for kind, case in cases.items():
        booked = case["booked_transaction_id"]
        expected = [] if kind == "pending_vanishes" else [(case["account_id"], booked, "BOOKED")]
        assert ids(*case["transaction_ids"]) == expected
    assert len(ids(*twins["transaction_ids"])) == 2
    assert {account for account, *_ in ids(shared["transaction_id"])} >= set(shared["account_ids"])
    with showing(lake, ("transactions",)) as connection:
        views = connection.execute(
            "select count(*), sum(amount) from transactions"
            " where list_contains($ids, account_id) group by account_id",
            {"ids": joint["account_ids"]},
        ).fetchall()
    assert len(views) == 2
    assert views[0] == views[1]
