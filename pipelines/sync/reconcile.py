"""Reconciliation: reads all permitted transactions again and compares them with the lake."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import duckdb
import pyarrow as pa

from lean_resources.client import LeanClient
from lean_resources.instants import BEFORE_LEAN
from lean_resources.streams import STREAMS
from pipelines.lake.lake import Lake
from pipelines.lake.queries import QUERIES
from pipelines.sync.engine import sync
from pipelines.sync.planner import months
from pipelines.sync.policy import Policy
from pipelines.sync.report import Report
from pipelines.sync.tasks import Selection


@dataclass(frozen=True, slots=True)
class Difference:
    """An account's month whose rows changed unexpectedly.

    Args:
        account_id: The account.
        month: UTC month as YYYY-MM.
        missing: Number of rows that Lean no longer has.
        added: Number of rows that the lake lacked.
        changed: Number of rows with the same key and different values.
    """

    account_id: str
    month: str
    missing: int
    added: int
    changed: int


async def reconcile(
    client: LeanClient, lake: Lake, *, policy: Policy, run_id: str
) -> tuple[Report, list[Difference]]:
    """Read all transactions that the consents allow, and find differences from earlier reads.

    A month is compared if both reads have the same bank data copy, or if it was already settled at
    the earlier read. Otherwise the bank may have changed rows rightly. The new rows are committed.

    Args:
        client: An open client.
        policy: Sets how long a month stays open.
        run_id: The run, which identifies the new pulls.

    Raises:
        AuthError: Lean refuses the application.
        UnavailableError: Lean cannot be reached at all.
    """
    stream = STREAMS["transactions"]
    with lake.connect(("claims",)) as connection:
        before = connection.sql(
            "select claims.*, pulls.bank_identifier from claims"
            " inner join pulls on claims.pull_id = pulls.pull_id"
            " where claims.stream = 'transactions'"
        ).to_arrow_table()
    today = (await client.server_time()).date()
    everything = {name for name, _, _ in months(BEFORE_LEAN, today)}
    report = await sync(
        stream,
        client,
        lake,
        policy=policy,
        selection=Selection(months=everything),
        run_id=run_id,
    )
    with lake.connect(("claims", "transactions")) as connection:
        return report, _differences(connection, lake, before, policy, run_id)


def _differences(
    connection: duckdb.DuckDBPyConnection,
    lake: Lake,
    before: pa.Table,
    policy: Policy,
    run_id: str,
) -> list[Difference]:
    stream = STREAMS["transactions"]
    names = ", ".join(f'"{name}"' for name in stream.schema.names)
    day = ", ".join(f'rows."{name}"' for name in stream.placed_by)
    connection.register("before", before)
    # A hash of the row's content, and the instant that decides the row's day.
    columns = f"account_id, transaction_id, pull_id, hash(({names})) as fingerprint"
    placed = f"coalesce({day}) at time zone 'UTC' as placed_at"
    for view, rows in (("old_rows", lake.all_rows(stream)), ("new_rows", "from transactions")):
        select = f"select {columns}, {placed} from ({rows}) as rows"
        connection.execute(f"create temp view {view} as {select}")
    found = connection.execute(
        QUERIES["changed_months"],
        {
            "banks": list(policy.lookback_days_by_bank),
            "days": list(policy.lookback_days_by_bank.values()),
            "usual": policy.lookback_days,
            "run_id": run_id,
        },
    ).fetchall()
    return [Difference(*row) for row in found]


def totals(differences: Sequence[Difference]) -> dict[str, int]:
    """Sums over all accounts, for a check's metadata."""
    return {
        "account_months": len(differences),
        "missing": sum(one.missing for one in differences),
        "added": sum(one.added for one in differences),
        "changed": sum(one.changed for one in differences),
    }
