"""Half a year of nights in a lake: what a sync would have left that ran each night at 02:00.

The offline Lean tells what its store holds each night; the rows go straight to Parquet, because
half a year of requests takes minutes. Who exists was synced.
"""

import asyncio
import datetime as dt
import json
from collections import defaultdict
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from conftest import client_of, sync_everything
from known import DAY, KEY, models, riyadh_date
from oracle import row

from lean_resources.sandbox import Sandbox, accounts
from lean_resources.sandbox.clock import DAY as NANOS
from lean_resources.sandbox.clock import nanos_of
from lean_resources.sandbox.money import dump
from lean_resources.sandbox.transactions import TransactionWriter
from lean_resources.sandbox.view import View
from lean_resources.streams import STREAMS
from pipelines.lake.lake import Lake
from pipelines.lake.ledger import LEDGER_SCHEMA
from pipelines.lake.schemas import lake_schema
from pipelines.models.build import build
from pipelines.publish.warehouse import connect, publish

FIRST = dt.datetime(2025, 9, 10, 23, tzinfo=dt.UTC)
NIGHTS = 184
LOOKBACK = 30 * DAY
WITHOUT_BALANCES = {"NAKHEEL_SAU", "DANA_SAU"}
_BANKS = {*WITHOUT_BALANCES, "ALINMA_SAU", "WAHA_SAU"}


@dataclass
class Nightly:
    """What was synced each night, without one movement that was left out on purpose.

    Args:
        banks: Bank by account id.
        left_out: The movement that no file holds: account id, Riyadh day and signed amount.
        rows: Answers of the tables.
    """

    banks: dict
    left_out: tuple
    connection: duckdb.DuckDBPyConnection

    def rows(self, query):
        """What the tables answer, one dict per row."""
        result = self.connection.execute(query)
        names = [column[0] for column in result.description]
        return [dict(zip(names, one, strict=True)) for one in result.fetchall()]


@cache
def nightly():
    """The lake, made once per process, and its tables about balances."""
    folder = TemporaryDirectory(prefix="nightly-")
    sandbox = Sandbox(customers=20, months=1, seed=7, today=FIRST)
    lake = Lake(Path(folder.name), "sandbox")
    listed = ("banks", "customers", "entities", "accounts")
    asyncio.run(sync_everything(client_of(sandbox), lake, names=listed))
    chosen = _chosen(sandbox)
    spoilt, left_out = _spoilt(sandbox, chosen)
    _write(lake, sandbox, chosen, spoilt, left_out)
    needed = {"mart_balance_reconciliation"}
    for model in reversed(list(models())):
        needed |= set(model.reads) if model.name in needed else set()
    problems = [one.problem for one in build(lake, models(), hash_key=KEY, only=needed)]
    assert not any(problems), problems
    publish(lake, models())
    banks = {shared.account_id: entity.bank.identifier for entity, shared in chosen}
    day = riyadh_date(
        FIRST + dt.timedelta(microseconds=(left_out.booked - nanos_of(FIRST)) // 1000)
    )
    value = Decimal(left_out.minor) / 100
    made = Nightly(banks, (spoilt.account_id, day, value), connect(lake))
    made.folder = folder
    return made


def _chosen(sandbox):
    """Accounts to sync, with their entities: one or two per bank that allow it all the time."""
    store = sandbox.store
    last = nanos_of(FIRST + NIGHTS * DAY)
    found = defaultdict(list)
    for place in range(store.entity_total):
        entity = store.entity(store.entity_key_at(place))
        is_usual = entity.consent.expires > last and len(entity.consent.permissions) == 9
        if entity.bank.identifier in _BANKS and is_usual and entity.is_open(store.clock.nanos):
            found[entity.bank.identifier].append(entity)
    assert set(found) == _BANKS
    return [
        (entity, shared)
        for bank, entities in found.items()
        for entity in entities[: 2 if bank in WITHOUT_BALANCES else 1]
        for shared in store.shared(entity)
    ]


def _spoilt(sandbox, chosen):
    """An account of a bank without balances, and one of its movements, that was not shown late."""
    shared = next(shared for entity, shared in chosen if entity.bank.identifier in WITHOUT_BALANCES)
    rows = sandbox.store.ledger.statement(shared.account, nanos_of(FIRST + NIGHTS * DAY)).rows
    first = nanos_of(FIRST + 30 * DAY)
    places = [one for one in rows if one.booked > first and one.shown < one.happened + NANOS]
    return shared, places[len(places) // 2]


def _write(lake, sandbox, chosen, spoilt, left_out):
    """The files of all nights: balances, transactions by month, and the ledger."""
    store = sandbox.store
    ledger, balances, transactions = [], [], defaultdict(list)
    typed = {}
    for night in range(NIGHTS):
        asked = FIRST + night * DAY
        instant = nanos_of(asked)
        for number, (entity, shared) in enumerate(chosen):
            pull = f"{night:016d}{number:08d}"
            known = {"entity_id": entity.id, "account_id": shared.account_id}
            ledger.append(_pull(f"{pull}balances", "balances", known, asked))
            view = View(store, entity, instant, shared, verbose=True)
            for record in accounts.balances(view):
                one = _typed("balances", record, known)
                balances.append(one | {"pull_id": f"{pull}balances"})
            statement = store.ledger.statement(shared.account, instant)
            writer = TransactionWriter(view)
            shown = zip(statement.rows, statement.balances, strict=True)
            by_month = defaultdict(list)
            for movement, balance in shown:
                if shared is spoilt and movement.seq == left_out.seq:
                    continue
                key = (number, movement, balance)
                if key not in typed:
                    typed[key] = _typed("transactions", writer.record(movement, balance), known)
                day = dt.date.fromordinal(movement.booked // NANOS + _EPOCH)
                by_month[f"{day:%Y-%m}"].append(typed[key])
            for start, end in _months(asked):
                month = f"{start:%Y-%m}"
                one = {"claimed_from": start, "claimed_to": min(end, asked.date()), "month": month}
                ledger.append(_pull(f"{pull}{month}", "transactions", known, asked) | one)
                transactions[month] += [
                    movement | {"pull_id": f"{pull}{month}"} for movement in by_month[month]
                ]
    _put(lake.folder / STREAMS["balances"].name / f"pulled_on={FIRST.date()}", balances, "balances")
    for month, rows in transactions.items():
        _put(lake.folder / STREAMS["transactions"].name / f"month={month}", rows, "transactions")
    folder = lake.folder / "pulls" / f"pulled_on={FIRST.date()}"
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(ledger, LEDGER_SCHEMA), folder / "nights.parquet")


def _months(asked):
    """First and last day of the months that a night reads: those that may still change."""
    start = FIRST.date().replace(day=1) - DAY
    start = start.replace(day=1)
    while start <= asked.date():
        following = (start + 31 * DAY).replace(day=1)
        if asked - FIRST < DAY or following + LOOKBACK >= asked.date():
            yield start, following - DAY
        start = following


def _pull(pull_id, stream, known, asked):
    return {
        "pull_id": pull_id,
        "series_id": pull_id,
        "stream": stream,
        "parent_id": known["account_id"],
        "entity_id": known["entity_id"],
        "outcome": "COMMITTED",
        "refreshed_at": asked,
        "asked_at": asked + DAY / 1440,
        "finished_at": asked + DAY / 720,
        "known_at": asked + DAY / 1440,
        "batch_id": "nights",
    }


def _typed(stream, record, known):
    """The row of a record: its plain columns, and none that this does not need."""
    served = json.loads(dump(record), parse_float=Decimal)
    found = row(STREAMS[stream], served, known)
    return {name: found[name] for name in found if name in _PLAIN[stream]}


def _put(folder, rows, stream):
    folder.mkdir(parents=True, exist_ok=True)
    names = {*_PLAIN[stream], "pull_id", "page_number", "record_number"}
    schema = pa.schema([field for field in lake_schema(STREAMS[stream]) if field.name in names])
    columns = {name: [one.get(name, 0) for one in rows] for name in schema.names}
    pq.write_table(pa.Table.from_pydict(columns, schema), folder / "nights.parquet")


_EPOCH = dt.date(1970, 1, 1).toordinal()
_PLAIN = {
    name: {
        field.name
        for field in STREAMS[name].schema
        if pa.types.is_string(field.type)
        or pa.types.is_decimal(field.type)
        or pa.types.is_timestamp(field.type)
    }
    for name in ("balances", "transactions")
}
"""Columns of text, money and instants."""
