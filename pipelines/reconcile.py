"""Reconciliation: everything permitted is read again, and compared with what the lake showed."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

import duckdb
import pyarrow as pa

from lean_resources.client import LeanClient
from lean_resources.streams import STREAMS
from pipelines.lake import Lake
from pipelines.planner import months
from pipelines.policy import Policy
from pipelines.sync import Report, Selection, sync

__all__ = ["Difference", "reconcile", "told"]

_FIRST = dt.date(2015, 1, 1)  # before Lean existed


@dataclass(frozen=True, slots=True)
class Difference:
    """Rows of one account and month that are not what they were, although nothing should differ.

    Args:
        account_id: The account.
        month: UTC month as YYYY-MM.
        missing: Rows that Lean no longer has.
        added: Rows that the lake lacked.
        changed: Rows with the same key and other values.
    """

    account_id: str
    month: str
    missing: int
    added: int
    changed: int


async def reconcile(
    client: LeanClient, lake: Lake, *, policy: Policy, run_id: str
) -> tuple[Report, list[Difference]]:
    """Read all transactions that the consents allow, and tell where they differ from before.

    Compared are months that were read from the same store as before, and months that had settled
    when they were read before; in other months a bank may still change rows. What was read is
    committed, as the newest knowledge.

    Args:
        client: An open client.
        lake: The lake.
        policy: How long a month takes to settle.
        run_id: The run, by which the new pulls are told from the old.

    Raises:
        AuthError: Lean refuses the application.
        UnavailableError: Lean cannot be reached at all.
    """
    stream = STREAMS["transactions"]
    with lake.connect() as connection:
        before = connection.sql(
            "select claims.*, pulls.bank_identifier from claims"
            " inner join pulls on claims.pull_id = pulls.pull_id"
            " where claims.stream = 'transactions'"
        ).to_arrow_table()
    today = (await client.server_time()).date()
    everything = {name for name, _, _ in months(_FIRST, today)}
    report = await sync(
        stream,
        client,
        lake,
        policy=policy,
        selection=Selection(months=everything),
        run_id=run_id,
    )
    with lake.connect() as connection:
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
    placed = ", ".join(f'rows."{name}"' for name in stream.placed_by)
    connection.register("before", before)
    connection.execute(
        "create temp table comparable as select before.parent_id as account_id, before.month"
        " from before inner join claims on before.stream = claims.stream"
        " and before.parent_id = claims.parent_id and before.month = claims.month"
        " inner join pulls on claims.pull_id = pulls.pull_id"
        " left join (select unnest($banks) as bank, unnest($days) as days) as lookback"
        " on before.bank_identifier = lookback.bank"
        " where pulls.run_id = $run_id"
        " group by all having bool_and(before.refreshed_at = pulls.refreshed_at"
        " or before.refreshed_at::date > last_day((before.month || '-01')::date)"
        " + coalesce(lookback.days, $usual))",
        {
            "banks": list(policy.lookback_days_by_bank),
            "days": list(policy.lookback_days_by_bank.values()),
            "usual": policy.lookback_days,
            "run_id": run_id,
        },
    )
    old = (
        f"select rows.*, before.month as placed_in from ({lake.all_rows(stream)}) as rows"
        " inner join before on rows.pull_id = before.pull_id"
        f" and (coalesce({placed}) at time zone 'UTC')::date"
        " between before.claimed_from and before.claimed_to"
    )
    new = (
        "select rows.*, strftime(coalesce("
        f"{placed}) at time zone 'UTC', '%Y-%m') as placed_in from transactions as rows"
    )
    rows = f"select account_id, transaction_id, placed_in as month, hash(({names})) as fingerprint"
    found = connection.execute(
        f"with old as ({rows} from ({old})), new as ({rows} from ({new})), compared as ("
        "select account_id, month,"
        " count(*) filter (where new.fingerprint is null) as missing,"
        " count(*) filter (where old.fingerprint is null) as added,"
        " count(*) filter (where old.fingerprint <> new.fingerprint) as changed"
        " from old full outer join new using (account_id, transaction_id, month) group by all)"
        " select compared.* from compared inner join comparable using (account_id, month)"
        " where missing + added + changed > 0 order by account_id, month"
    ).fetchall()
    return [Difference(*row) for row in found]


def told(differences: Sequence[Difference]) -> dict[str, int]:
    """Sums over all accounts, for a check's metadata."""
    return {
        "account_months": len(differences),
        "missing": sum(one.missing for one in differences),
        "added": sum(one.added for one in differences),
        "changed": sum(one.changed for one in differences),
    }
