"""The weekly reconciliation finds what a sync cannot know."""

import asyncio
import datetime as dt

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import TODAY, client_of, rows_of, sync_everything

from lean_resources.sandbox import Sandbox
from pipelines.policy import Policy
from pipelines.reconcile import reconcile

NAMES = {"banks", "entities", "accounts", "transactions"}


@pytest.fixture
def sandbox():
    """A small world with half a year of history."""
    return Sandbox(customers=4, months=6, seed=7, today=TODAY)


@pytest.fixture
def filled(sandbox, lake):
    """A lake that holds everything."""
    asyncio.run(sync_everything(client_of(sandbox), lake, NAMES))
    return lake


def reconciled(sandbox, lake, run_id="weekly"):
    """One reconciliation."""

    async def work():
        async with client_of(sandbox) as client:
            return await reconcile(client, lake, policy=Policy(), run_id=run_id)

    return asyncio.run(work())


def test_an_untouched_lake_agrees_with_lean(sandbox, filled):
    """Everything permitted is read again, and nothing differs."""
    before = rows_of(filled, "select transaction_id, amount from transactions order by all")

    report, differences = reconciled(sandbox, filled)

    assert differences == []
    assert report.outcomes["FAILED"] == 0
    assert report.rows["transactions"] == len(before)
    assert rows_of(filled, "select transaction_id, amount from transactions order by all") == before


@pytest.mark.parametrize("harm", ["missing", "changed", "added"])
def test_a_row_that_was_harmed_is_found_and_healed(sandbox, filled, harm):
    """A row lost, altered or invented in the lake is told with its account and month."""
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

    async def refresh():
        async with client_of(sandbox) as client:
            for one in {one["parent"]["entity_id"] for one in sandbox.truth("accounts")}:
                await client.refresh(one)

    asyncio.run(refresh())
    sandbox.clock.advance(dt.timedelta(minutes=1))

    report, differences = reconciled(sandbox, filled)

    assert differences == []
    assert report.rows["transactions"] > 0
