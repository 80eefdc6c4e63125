"""The weekly reconciliation finds what a sync cannot know."""

import asyncio
import datetime as dt

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shared
from conftest import TODAY, client_of, rows_of, sync_everything

from lean_resources.sandbox import Sandbox
from pipelines.lake.lake import Lake
from pipelines.sync.planner import PlannedMonth
from pipelines.sync.policy import Policy
from pipelines.sync.reconcile import reconcile

NAMES = {"banks", "entities", "accounts", "transactions"}
TOLD = NAMES | {"refreshes"}


WORLD = {"customers": 4, "months": 6, "seed": 7, "today": TODAY}


@pytest.fixture
def sandbox():
    """A small world with half a year of history."""
    return Sandbox(**WORLD)


@pytest.fixture
def filled(lake):
    """A lake that holds everything."""
    return shared.filled(lake, NAMES, sandbox=WORLD)


def reconciled(sandbox, lake, run_id="weekly"):
    """One reconciliation."""

    async def work():
        async with client_of(sandbox) as client:
            return await reconcile(client, lake, policy=Policy(), run_id=run_id)

    return asyncio.run(work())


def refresh(sandbox, entity_ids):
    """Ask the banks of some entities again."""

    async def work():
        async with client_of(sandbox) as client:
            for entity_id in entity_ids:
                await client.refresh(entity_id)

    asyncio.run(work())


def test_an_untouched_lake_agrees_with_lean(sandbox, filled):
    """Everything permitted is read again, and nothing differs."""
    before = rows_of(filled, "select transaction_id, amount from transactions order by all")

    report, differences = reconciled(sandbox, filled)

    assert differences == []
    assert report.outcomes["FAILED"] == 0
    assert report.rows["transactions"] == len(before)
    assert rows_of(filled, "select transaction_id, amount from transactions order by all") == before


@pytest.mark.parametrize("harm", ["missing", "changed", "added"])
def test_a_row_that_was_harmed_is_found_and_healed(sandbox, filled, harm, monkeypatch):
    """A row lost, altered or invented in the lake is told with its account and month."""
    # What rewrites a file changes its size, which every reader notices before this comparison.
    monkeypatch.setattr(Lake, "check_files", lambda *_: None)
    truth = rows_of(filled, "select transaction_id, amount from transactions order by all")
    file = min(filled.folder.glob("transactions/month=2025-12/*.parquet"))
    table = pq.read_table(file)
    account = table["account_id"][0].as_py()
    if harm == "missing":
        table = table.slice(1)
    elif harm == "changed":
        amounts = table["amount"].to_pylist()
        amounts[0] += 1
        place = table.schema.get_field_index("amount")
        field = table.schema.field("amount")
        table = table.set_column(place, field, pa.array(amounts, field.type))
    else:
        ids = table["transaction_id"].to_pylist()
        more = table.slice(0, 1).set_column(
            table.schema.get_field_index("transaction_id"), "transaction_id", [[f"{ids[0]}-x"]]
        )
        table = pa.concat_tables([table, more.cast(table.schema)])
    pq.write_table(table.cast(pq.read_schema(file)), file)

    _, [difference] = reconciled(sandbox, filled)

    assert (difference.account_id, difference.month) == (account, "2025-12")
    expected = {"missing": "added", "added": "missing", "changed": "changed"}[harm]
    counts = {name: getattr(difference, name) for name in ("missing", "added", "changed")}
    assert counts == {"missing": 0, "added": 0, "changed": 0} | {expected: 1}
    assert rows_of(filled, "select transaction_id, amount from transactions order by all") == truth


def test_an_open_month_may_change(sandbox, filled):
    """Rows that a bank posts or books since are no difference."""
    sandbox.clock.advance(dt.timedelta(days=3))

    refresh(sandbox, {one["parent"]["entity_id"] for one in sandbox.truth("accounts")})
    sandbox.clock.advance(dt.timedelta(minutes=1))

    report, differences = reconciled(sandbox, filled)

    assert differences == []
    assert report.rows["transactions"] > 0


OFFERED = [20, pytest.param(100, marks=pytest.mark.conformance)]
"""Days that a bank offers: less than the open months, and more."""
SHOWN = (
    "select transaction_id, amount from transactions where account_id = '{}'"
    " and status = 'BOOKED' and coalesce(booked_at, value_at, transacted_at) {} order by all"
)
COVERED = (
    "select utc_day from account_days where status = 'covered' and account_id = '{}' order by all"
)


def forgetful(sandbox, lake, days):
    """An account whose bank offers so many days, read, and refreshed 25 days later.

    Returns:
        The account, the first instant that the bank still has, and the rows and the covered days
        that the lake had before.
    """
    case = sandbox.example("newer_generation")
    account, entity = case["account_ids"][0], case["entity_id"]
    sandbox.limit_history(entity, days)
    asyncio.run(sync_everything(client_of(sandbox), lake, TOLD))
    start = dt.datetime.fromisoformat(f"{TODAY}T00:00:00+00:00") + dt.timedelta(days=26 - days)
    rows = rows_of(lake, SHOWN.format(account, f"< '{start}'"))
    covered = rows_of(lake, COVERED.format(account))
    sandbox.clock.advance(dt.timedelta(days=25))
    refresh(sandbox, {entity})
    sandbox.clock.advance(dt.timedelta(minutes=5))
    return account, start, rows, covered


@pytest.mark.parametrize("offered", OFFERED)
def test_what_a_bank_offers_no_longer_stays_known(sandbox, lake, offered):
    """Neither a sync of open months nor a reading of everything hides rows that the bank forgot."""
    account, start, rows, covered = forgetful(sandbox, lake, offered)

    for _ in range(2):
        asyncio.run(sync_everything(client_of(sandbox), lake, TOLD))
        report, differences = reconciled(sandbox, lake, f"weekly {offered}")

        assert differences == []
        assert report.outcomes["FAILED"] == 0
        assert rows_of(lake, SHOWN.format(account, f"< '{start}'")) == rows
        assert {one for one, _ in rows_of(lake, SHOWN.format(account, f">= '{start}'"))} == {
            one["record"]["transaction_id"]
            for one in sandbox.truth("transactions")
            if one["parent"]["account_id"] == account and one["record"]["status"] == "BOOKED"
        }
        assert set(rows_of(lake, COVERED.format(account))) > set(covered)
    assert len(rows) > 10


@pytest.mark.parametrize("offered", OFFERED)
def test_a_pull_that_speaks_for_forgotten_days_is_caught(sandbox, lake, monkeypatch, offered):
    """The mutant that lets every read speak for all days loses rows, which the test above sees."""
    monkeypatch.setattr(PlannedMonth, "covered_from", lambda month, *_: month.from_date)
    account, start, rows, _ = forgetful(sandbox, lake, offered)

    asyncio.run(sync_everything(client_of(sandbox), lake, TOLD))
    reconciled(sandbox, lake)

    assert set(rows) - set(rows_of(lake, SHOWN.format(account, f"< '{start}'")))


def test_a_month_that_is_partly_forgotten_costs_one_request_while_nothing_is_new(sandbox, lake):
    """Days kept by an older pull do not make a sync read again what the store was read for."""
    account, *_ = forgetful(sandbox, lake, 20)
    asyncio.run(sync_everything(client_of(sandbox), lake, TOLD))

    reports = asyncio.run(
        sync_everything(client_of(sandbox), lake, {"transactions"}, account_ids={account})
    )

    assert set(reports["transactions"].outcomes) == {"UNCHANGED"}
    # One for Lean's clock, one for the account.
    assert reports["transactions"].requests == 2
