"""The laws: each tells what breaks it, so that a lake keeps a law that answers with nothing.

A law is a function of a lake and of the truth. The suite holds each law against the product as it
is, and against mutants of it that have to break the law.
"""

import datetime as dt
import json
from collections import defaultdict
from decimal import Decimal

from conftest import showing
from oracle import comparable, row, true_rows
from test_truth import held

from lean_resources.streams import STREAMS, Paging, Window

DAY = dt.timedelta(days=1)
INSIGHTS = frozenset(
    column.name
    for column in STREAMS["transactions"].columns
    if column.paths and all(path.startswith("insights.") for path in column.paths)
)
"""Columns that are filled only when Lean is asked for its categories."""


def wrong_rows(lake, sandbox, names=tuple(STREAMS), *, but=frozenset()):
    """Rows that the lake lacks, has too many or has otherwise than Lean.

    What a customer no longer shares is left out: it stays as it was last seen.

    Args:
        lake: The lake.
        sandbox: The offline Lean.
        names: The streams.
        but: Columns that are left out.
    """
    entities = {one["parent"]["entity_id"] for one in sandbox.truth("accounts")}
    accounts = {one["record"]["account_id"] for one in sandbox.truth("accounts")}
    with showing(lake, names) as connection:
        shown = {name: held(STREAMS[name], connection) for name in names}
    found = []
    for name in names:
        stream = STREAMS[name]
        true, (rows, count) = true_rows(stream, sandbox), shown[name]
        if count != len(rows):
            found.append(f"{name}: {count} rows under {len(rows)} keys")
        if stream.permission is not None:
            rows = {
                key: one
                for key, one in rows.items()
                if one["entity_id"] in entities and one.get("account_id", "") in {"", *accounts}
            }
        elif name == "refreshes":
            rows = {key: one for key, one in rows.items() if key in true}
        found += [f"{name}: lost {key}" for key in true.keys() - rows.keys()]
        found += [f"{name}: invented {key}" for key in rows.keys() - true.keys()]
        found += [
            f"{name}.{column}: {rows[key][column]!r} for {value!r}"
            for key in true.keys() & rows.keys()
            for column, value in true[key].items()
            if rows[key][column] != value and column not in but
        ]
    return found


def broken_keys(lake, names=tuple(STREAMS)):
    """Keys that are empty or stand for more than one row."""
    found = []
    with showing(lake, names) as connection:
        for name in names:
            keys = ", ".join(STREAMS[name].key)
            empty = " or ".join(f"{key} is null" for key in STREAMS[name].key)
            rows = connection.execute(
                f"select {keys}, count(*) from {name} group by all having count(*) > 1 or {empty}"
            ).fetchall()
            found += [f"{name}: {one}" for one in rows]
    return found


def uncounted(lake, names=tuple(STREAMS)):
    """Rows that show without a committed pull, and pulls whose rows are not all there."""
    found = []
    with showing(lake, names) as connection:
        for name in names:
            found += connection.execute(
                f"""
                select '{name}', pull_id, count(*) as shown, null as vouched
                from {name}
                where pull_id not in (select pull_id from claims)
                group by all
                union all
                select '{name}', pulls.pull_id, count(rows.pull_id), pulls.rows
                from pulls
                left join ({lake.all_rows(STREAMS[name])}) as rows on pulls.pull_id = rows.pull_id
                where pulls.stream = '{name}' and pulls.outcome = 'COMMITTED'
                group by all
                having count(rows.pull_id) <> pulls.rows
                """
            ).fetchall()
    return found


def unaccounted(lake, name):
    """Pulls of a snapshot whose records are neither rows nor in quarantine, by Lean's own count."""
    assert STREAMS[name].paging is Paging.DATA
    assert STREAMS[name].window is Window.SNAPSHOT
    with showing(lake, (name,)) as connection:
        pages = connection.execute(
            f"select series_id, body from ({lake.raw_pages(STREAMS[name])}) where page_number = 0"
        ).fetchall()
        pulls = connection.execute(
            "select series_id, rows, quarantined from pulls"
            f" where stream = '{name}' and outcome = 'COMMITTED'"
        ).fetchall()
        kept = dict(
            connection.execute(
                "select series_id, count(distinct (page_number, record_number))"
                f" from ({lake.quarantined(STREAMS[name])}) group by all"
            ).fetchall()
        )
    told = {read: json.loads(body)["data"]["page"]["total_elements"] for read, body in pages}
    return [
        (read, told[read], rows, kept.get(read, 0))
        for read, rows, quarantined in pulls
        if told[read] != rows + kept.get(read, 0) or quarantined != kept.get(read, 0)
    ]


def outside_consent(lake):
    """Days that pulls claim although no consent of the entity ever allowed to read them."""
    with showing(lake, ()) as connection:
        return connection.execute(
            """
            with allowed as (

                select
                    entity_id,
                    min(coalesce(transactions_from_at, created_at - interval 1 year)) as from_at,
                    max(coalesce(transactions_to_at, expires_at, 'infinity')) as to_at
                from consents
                group by all

            )

            select pulls.parent_id, pulls.month, pulls.claimed_from, pulls.claimed_to
            from pulls
            left join allowed on pulls.entity_id = allowed.entity_id
            where
                pulls.stream = 'transactions'
                and pulls.outcome = 'COMMITTED'
                and (
                    allowed.entity_id is null
                    or pulls.claimed_from < (allowed.from_at at time zone 'UTC')::date
                    or pulls.claimed_to > (allowed.to_at at time zone 'UTC')::date
                )
            """
        ).fetchall()


def not_as_sent(lake, name, sent):
    """Rows of the newest answers that the lake has otherwise, or not at all.

    Args:
        lake: The lake.
        name: The stream.
        sent: The bodies that were sent with the parameters of their requests, by parent.
    """
    stream = STREAMS[name]
    true = {}
    for asked, body in sent:
        for record in json.loads(body, parse_float=Decimal)["data"][name]:
            typed = row(stream, record, asked)
            true[tuple(typed[key] for key in stream.key)] = typed
    names = ", ".join(f'"{one}"' for one in stream.schema.names)
    with showing(lake, (name,)) as connection:
        rows = connection.sql(f"select {names} from {name}").to_arrow_table().to_pylist()
    shown = {tuple(one[key] for key in stream.key): comparable(stream, one) for one in rows}
    return [
        (key, column, shown.get(key, {}).get(column), value)
        for key, typed in true.items()
        for column, value in typed.items()
        if key not in shown or shown[key][column] != value
    ]


def overspent(instants, per_day):
    """Entities that were refreshed more often than allowed within some 24 hours.

    Args:
        instants: An entity and the instant at which its bank was asked, one pair per refresh.
        per_day: Most refreshes within any 24 hours.
    """
    by_entity = defaultdict(list)
    for entity_id, at in instants:
        by_entity[entity_id].append(at)
    return [
        (entity_id, first)
        for entity_id, times in by_entity.items()
        for first in times
        if sum(first <= at < first + DAY for at in times) > per_day
    ]


def impatient(seen):
    """Requests that were sent before the wait was over that Lean had asked for.

    Args:
        seen: What a wire with one request at a time has seen.
    """
    found = []
    until = None
    for request, status, headers, _, at in seen:
        if until is not None and at < until:
            found.append((request.url.path, until - at))
        wait = headers.get("retry-after") if status == 429 else None
        until = at + dt.timedelta(seconds=float(wait)) if wait else None
    return found
