"""A lake of many accounts for the benchmark of models, made straight to Parquet by DuckDB.

Customers have one or two accounts each. On the first one come a salary, and for most a rent, an
instalment, bills, purchases and a transfer to the second one. Balances after movements and stated
ones add up, so that the reconciliation has to find no gap.
Everything is a hash of account, month and place, so the same size gives the same lake.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection
from functools import cache
from pathlib import Path

import duckdb
import pyarrow as pa

from lean_resources.streams import STREAMS, Stream
from pipelines.lake.lake import Lake
from pipelines.lake.ledger import LEDGER_SCHEMA
from pipelines.lake.schemas import lake_schema

__all__ = ["add_day", "add_some", "make"]

_FIRST = dt.date(2025, 3, 1)
_MONTHS = 12
_LAST = dt.date(2026, 2, 26)
_OPEN_MONTHS = 2

_MOVES = """
create table moves as
with drawn as (
    select
        account,
        month,
        slot,
        account % 4 = 3 as is_second,
        (hash(account, month, slot) >> 2)::bigint as draw,
        (hash(account, slot) >> 2)::bigint as fixed
    from range({accounts}) as a(account), range({months}) as m(month), range(12) as s(slot)
), chosen as (
    select
        *,
        case
            when is_second
                then ['own_in', 'profit', 'sent', 'received', 'received', 'pos'][slot + 1]
            else [
                'salary', 'rent', 'loan', 'bill', 'bill', 'own_out', 'online', 'pos', 'pos', 'pos',
                'atm', 'sent'
            ][slot + 1]
        end as kind
    from drawn
), kept as (
    select
        *,
        case
            when kind in ('salary', 'pos', 'profit') then true
            when kind = 'own_out' then account % 4 = 2
            when kind = 'own_in' then true
            when kind in ('rent', 'loan') then fixed % 10 < 6
            else draw % 10 < 7
        end as is_kept,
        (date '{first}' + to_months(month::integer))::date as month_start
    from chosen
    where kind is not null
), dated as (
    select
        account, month, slot, kind, draw, fixed,
        epoch_us(month_start::timestamp) + 1000000 * (
            case kind
                when 'salary' then (26 - case isodow(month_start + 26)
                    when 5 then 1 when 6 then 2 else 0 end) * 86400 + 21600
                when 'rent' then (fixed % 5) * 86400 + 36000
                when 'loan' then 86400 + 36000
                when 'own_out' then 27 * 86400 + 40000
                when 'own_in' then 27 * 86400 + 40000
                when 'profit' then 27 * 86400 + 70000
                else (draw % 28) * 86400 + 18000 + draw // 28 % 50000
            end
        )::bigint as booked_us,
        case kind
            when 'salary' then 550000 + fixed % 2250000 // 5000 * 5000
            when 'rent' then -(150000 + fixed % 400000 // 5000 * 5000)
            when 'loan' then -(60000 + fixed % 250000 // 100 * 100)
            when 'own_out' then -(20000 + (hash(account // 4, month) >> 2)::bigint % 100000)
            when 'own_in' then 20000 + (hash(account // 4, month) >> 2)::bigint % 100000
            when 'profit' then 2000 + draw % 30000
            when 'received' then 5000 + draw % 90000
            else -(300 + draw % 40000)
        end::bigint as minor
    from kept
    where is_kept
)
select
    *,
    500000 + sum(minor) over (
        partition by account order by booked_us, slot rows unbounded preceding
    )::bigint as balance
from dated
"""

_ROWS = {
    "entity_id": "printf('e-%08d', account // 4 * 3 + least(account % 4, 2))",
    "account_id": "printf('a-%08d', account)",
    "transaction_id": "md5(concat_ws('/', account, month, slot))",
    "amount": "(abs(minor)::decimal(38, 2) * 0.01::decimal(3, 2))::decimal(38, 9)",
    "currency": "'SAR'",
    "credit_debit_indicator": "case when minor < 0 then 'DEBIT' else 'CREDIT' end",
    "status": "'BOOKED'",
    "transaction_mutability": "'IMMUTABLE'",
    "booked_at": "make_timestamptz(booked_us)",
    "value_at": "make_timestamptz(booked_us)",
    "day_index": "(draw % 3)::bigint",
    "transaction_type": """case kind
        when 'pos' then 'POS' when 'online' then 'E_COMMERCE' when 'atm' then 'ATM'
        when 'bill' then 'BILL_PAYMENTS' when 'loan' then 'OTHER' when 'profit' then 'OTHER'
        when 'own_in' then 'SAME_BANK_TRANSFER' when 'own_out' then 'SAME_BANK_TRANSFER'
        else 'LOCAL_BANK_TRANSFER' end""",
    "sub_transaction_type": """case kind
        when 'pos' then case when draw % 200 = 0 then 'REVERSAL' else 'PURCHASE' end
        when 'online' then 'PURCHASE' when 'atm' then 'WITHDRAWAL' when 'bill' then 'PURCHASE'
        when 'loan' then 'REPAYMENTS' when 'profit' then 'PROFIT'
        when 'salary' then 'DEPOSIT' when 'received' then 'DEPOSIT' when 'own_in' then 'DEPOSIT'
        else 'MONEY_TRANSFER' end""",
    "flags": """case kind
        when 'salary' then ['PAYROLL'] when 'rent' then ['STANDING_ORDER']
        when 'loan' then ['DIRECT_DEBIT', 'LOAN'] else [] end""",
    "transaction_information": """case kind
        when 'salary' then 'SALARY AL NOOR TRADING - راتب' when 'rent' then 'RENT - إيجار'
        when 'loan' then 'CAR FINANCE INSTALMENT MARKABA' when 'bill' then 'SADAD BILL PAYMENT'
        when 'pos' then 'POS شراء SHOP ' || draw % 900 when 'online' then 'ECOM SHOP ' || draw % 90
        else 'TRANSFER ' || draw % 10000 end""",
    "transaction_reference": """case
        when kind in ('own_in', 'own_out') then 'OWN-' || account // 4 || '-' || month
        else 'REF-' || draw % 100000000000 end""",
    "merchant_name": """case kind
        when 'pos' then 'SHOP ' || draw % 900 when 'online' then 'SHOP ' || draw % 90 end""",
    "merchant_category_code": """case when kind in ('pos', 'online') then
        ['CC5411', 'CC5812', 'CC5541', 'CC5912', 'CC5732'][(draw % 5 + 1)::integer] end""",
    "creditor_account_identification": """case kind
        when 'rent' then printf('SA%022d', fixed % 1000000000)
        when 'loan' then printf('SA%022d', 7000000000 + fixed % 20)
        when 'bill' then printf('SA%022d', 8000000000 + draw % 6)
        when 'sent' then printf('SA%022d', 9000000000 + draw % 1000000000)
        when 'own_out' then printf('SA%022d', 5000000000000 + account + 1) end""",
    "debtor_account_identification": """case kind
        when 'salary' then printf('SA%022d', 6000000000 + fixed % 50000)
        when 'received' then printf('SA%022d', 9000000000 + draw % 1000000000)
        when 'own_in' then printf('SA%022d', 5000000000000 + account - 1) end""",
    "creditor_account_name": "case when kind in ('rent', 'sent') then 'PAYEE ' || fixed % 5000 end",
    "debtor_account_name": """case when kind in ('salary', 'received')
        then 'PAYER ' || fixed % 5000 end""",
    "balance_amount": "(abs(balance)::decimal(38, 2) * 0.01::decimal(3, 2))::decimal(38, 9)",
    "balance_currency": "'SAR'",
    "balance_credit_debit_indicator": "case when balance < 0 then 'DEBIT' else 'CREDIT' end",
    "balance_type": "'INTERIM_BOOKED'",
    "page_number": "0",
    "record_number": "slot::integer",
}
_CUSTOMERS = "range({accounts} * 3 // 4) as t(customer)"
_PARENTS: dict[str, tuple[str, dict[str, str], str]] = {
    "customers": (
        _CUSTOMERS,
        {"customer_id": "printf('c-%08d', customer)"},
        "'application'",
    ),
    "entities": (
        _CUSTOMERS,
        {
            "entity_id": "printf('e-%08d', customer)",
            "customer_id": "printf('c-%08d', customer)",
            "bank_identifier": "'BANK_' || customer % 9",
            "status": "'ACTIVE'",
            "created_at": "timestamptz '2025-01-05 09:00:00+00'",
        },
        "'application'",
    ),
    "consents": (
        _CUSTOMERS,
        {
            "consent_id": "printf('k-%08d', customer)",
            "entity_id": "printf('e-%08d', customer)",
            "customer_id": "printf('c-%08d', customer)",
            "bank_identifier": "'BANK_' || customer % 9",
            "consent_status": "'ACTIVE'",
            "created_at": "timestamptz '2025-01-05 09:00:00+00'",
            "expires_at": "timestamptz '2027-01-05 09:00:00+00'",
        },
        "'application'",
    ),
    "accounts": (
        "range({accounts}) as t(account)",
        {
            "entity_id": "printf('e-%08d', account // 4 * 3 + least(account % 4, 2))",
            "account_id": "printf('a-%08d', account)",
            "status": "'ENABLED'",
            "currency": "'SAR'",
            "account_type": "'PERSONAL'",
            "account_sub_type": "case when account % 4 = 3 then 'SAVINGS' else 'CURRENT' end",
            "opening_date": "date '2020-01-01'",
            "identifications": """[{{'identification':
                printf('SA%022d', 5000000000000 + account)}}]""",
        },
        "printf('e-%08d', account // 4 * 3 + least(account % 4, 2))",
    ),
    "balances": (
        """(select account, arg_max(balance, (booked_us, slot)) as balance from moves
            where booked_us < epoch_us(timestamptz '{asked}') group by 1)""",
        {
            "entity_id": "printf('e-%08d', account // 4 * 3 + least(account % 4, 2))",
            "account_id": "printf('a-%08d', account)",
            "balance_type": "'INTERIM_BOOKED'",
            "amount": "(abs(balance)::decimal(38, 2) * 0.01::decimal(3, 2))::decimal(38, 9)",
            "currency": "'SAR'",
            "credit_debit_indicator": "case when balance < 0 then 'DEBIT' else 'CREDIT' end",
            "stated_at": "timestamptz '{asked}'",
        },
        "printf('a-%08d', account)",
    ),
}


def make(lake: Lake, accounts: int) -> int:
    """Fill an empty lake with twelve months of so many accounts; rows of transactions.

    The last day that any account has is 26 February 2026; `add_day` adds the next one.
    """
    with _connection(lake) as connection:
        connection.execute(_MOVES.format(accounts=accounts, months=_MONTHS, first=_FIRST))
        connection.execute(f"copy moves to '{_moves(lake)}' (format parquet)")
        return _pull(connection, lake, accounts, range(_MONTHS), _LAST, 1)


def add_day(lake: Lake, accounts: int) -> int:
    """Read the open months of every account again, a day later; rows of transactions read."""
    with _connection(lake) as connection:
        connection.execute(f"create view moves as from read_parquet('{_moves(lake)}')")
        open_months = range(_MONTHS - _OPEN_MONTHS, _MONTHS)
        return _pull(connection, lake, accounts, open_months, _LAST + dt.timedelta(days=1), 2)


def add_some(lake: Lake, accounts: int, chosen: Collection[int], version: int) -> int:
    """Read some accounts again as after a webhook: `version` days after the lake was made, from 2.

    Args:
        lake: The lake.
        accounts: How many accounts it has.
        chosen: The accounts that are read, by number.
        version: Number of the read; each is a day later.
    """
    listed = ", ".join(map(str, chosen))
    with _connection(lake) as connection:
        connection.execute(
            f"create table moves as from read_parquet('{_moves(lake)}') where account in ({listed})"
        )
        open_months = range(_MONTHS - _OPEN_MONTHS, _MONTHS)
        day = _LAST + dt.timedelta(days=version - 1)
        return _pull(
            connection, lake, accounts, open_months, day, version, f"account in ({listed})"
        )


def _connection(lake: Lake) -> duckdb.DuckDBPyConnection:
    lake.folder.mkdir(parents=True, exist_ok=True)
    connection = duckdb.connect()
    connection.execute("set TimeZone = 'UTC'")
    connection.execute("set memory_limit = '4GB'")
    connection.execute(f"set temp_directory = '{lake.folder.parent / 'spill'}'")
    return connection


def _moves(lake: Lake) -> Path:
    return lake.folder.parent / "moves.parquet"


def _pull(
    connection: duckdb.DuckDBPyConnection,
    lake: Lake,
    accounts: int,
    months: range,
    last: dt.date,
    version: int,
    chosen: str = "",
) -> int:
    """Write what a sync on the evening of a day would have written."""
    asked = f"{last} 20:30:00+00"
    batch = f"'{version}' as batch_id,"
    ledgers: list[str] = []
    rows = 0
    for month in months:
        start = _month(month)
        end = min(_month(month + 1) - dt.timedelta(days=1), last)
        pull = f"printf('%014d%018d', {version}, account * 100 + {month})"
        where = f"month = {month} and booked_us < epoch_us(timestamp '{end}' + interval 1 day)"
        rows += _copy(
            connection,
            lake,
            STREAMS["transactions"],
            f"(select * from moves where {where} order by account)",
            _ROWS | {"pull_id": pull},
            f"month={start:%Y-%m}",
            version,
        )
        ledgers.append(
            _ledger(
                _only(f"range({accounts}) as t(account)", chosen),
                pull,
                "transactions",
                "printf('a-%08d', account)",
                asked,
                f"'{start:%Y-%m}' as month, date '{start}' as claimed_from,"
                f" date '{end}' as claimed_to, {batch}",
            )
        )
    for number, (name, (source, columns, parent)) in enumerate(_PARENTS.items()):
        if chosen and name not in {"accounts", "balances"}:
            continue
        filled = _only(source.format(accounts=accounts, asked=asked), chosen)
        values = {key: one.format(asked=asked) for key, one in columns.items()}
        place = "0" if parent == "'application'" else "account"
        if name == "accounts":
            place = "account // 4 * 3 + least(account % 4, 2)"
        pull = f"printf('%014d%018d', {version}, {(number + 1) * 10**12} + {place})"
        values |= {"pull_id": pull, "page_number": "0", "record_number": "0"}
        folder = f"pulled_on={last}"
        _copy(connection, lake, STREAMS[name], filled, values, folder, version)
        ledgers.append(
            f"select distinct * from ({_ledger(filled, pull, name, parent, asked, batch)})"
        )
    columns_of_ledger = ", ".join(
        f"{field.name}::{_type(field.type)} as {field.name}" for field in LEDGER_SCHEMA
    )
    folder_of_ledger = lake.folder / "pulls" / f"pulled_on={last}"
    folder_of_ledger.mkdir(parents=True, exist_ok=True)
    empty = ", ".join(f"null::{_type(field.type)} as {field.name}" for field in LEDGER_SCHEMA)
    union = " union all by name ".join(f"({one})" for one in ledgers)
    connection.execute(
        f"copy (select {columns_of_ledger} from (select {empty} where false union all by name"
        f" {union})) to '{folder_of_ledger / f'{version}.parquet'}' (format parquet,"
        " compression zstd)"
    )
    return rows


def _only(source: str, chosen: str) -> str:
    return f"(select * from {source} where {chosen})" if chosen else source


def _ledger(source: str, pull: str, stream: str, parent: str, asked: str, more: str) -> str:
    return (
        f"select {pull} as pull_id, {pull} as series_id, '{stream}' as stream,"
        f" {parent} as parent_id, 'COMMITTED' as outcome, {more}"
        f" timestamptz '{asked}' as refreshed_at, timestamptz '{asked}' as asked_at,"
        f" timestamptz '{asked}' as finished_at from {source}"
    )


def _copy(
    connection: duckdb.DuckDBPyConnection,
    lake: Lake,
    stream: Stream,
    source: str,
    columns: dict[str, str],
    folder: str,
    version: int,
) -> int:
    """Write rows of a stream, columns that are not given left out as the lake does; how many."""
    types = {field.name: _type(field.type) for field in lake_schema(stream)}
    chosen = ", ".join(f"({value})::{types[name]} as {name}" for name, value in columns.items())
    place = lake.folder / stream.name / folder
    place.mkdir(parents=True, exist_ok=True)
    [(count,)] = connection.execute(
        f"copy (select {chosen} from {source}) to '{place / f'{version}.parquet'}'"
        " (format parquet, compression zstd, compression_level 1)"
    ).fetchall()
    return int(count)


@cache
def _type(kind: pa.DataType) -> str:
    """DuckDB's name of an Arrow type."""
    empty = pa.table({"one": pa.array([], kind)})
    with duckdb.connect() as connection:
        connection.register("empty", empty)
        [row] = connection.execute("describe empty").fetchall()
    return str(row[1])


def _month(number: int) -> dt.date:
    year, month = divmod(_FIRST.month - 1 + number, 12)
    return dt.date(_FIRST.year + year, month + 1, 1)
