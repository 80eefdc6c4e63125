"""Rows that are said to come apart do: four buckets, computed alone, give those of the whole."""

import zlib
from dataclasses import replace
from functools import cache

import pytest
from known import KEY, known, models

from pipelines.models.manifest import current_manifest
from pipelines.models.model import Apart
from pipelines.models.relations import add_macros, add_seeds
from pipelines.models.session import stored_rows

BUCKETS = range(4)
ACCOUNT_IDS = ("account_key", "account_id")
IDS = (*ACCOUNT_IDS, "consent_id", "entity_id", "customer_id")


@cache
def buckets():
    """A connection with a schema per bucket, where relations show what belongs to its accounts.

    In schemas `account_N` only rows of accounts are left out, in `customer_N` also those of
    entities, consents and customers that share no account with the bucket's.
    """
    world, all_models = known(7), models()
    manifest = current_manifest(world.lake)
    connection = world.lake.connect()
    add_macros(connection, all_models.macros.values(), KEY)
    add_seeds(connection, all_models.seeds)
    connection.execute("create schema whole")
    for model in all_models:
        if not model.stored.is_view:
            rows = stored_rows(world.lake, model, manifest)
            connection.execute(f"create table whole.{model.name} as {rows}")
    for name in all_models.relations:
        if name not in all_models.seeds:
            connection.execute(f"create table whole.{name} as from main.{name}")
    connection.execute("create table ids (id varchar, by_account integer, by_customer integer)")
    connection.executemany("insert into ids values ($1, $2, $3)", _placed(connection))
    for mode, ids in (("account", ACCOUNT_IDS), ("customer", IDS)):
        for bucket in BUCKETS:
            connection.execute(f"create schema {mode}_{bucket}")
            others = f"select id from main.ids where by_{mode} <> {bucket}"
            for name, columns in _tables(connection).items():
                key = next((one for one in ids if one in columns), None)
                if name in {"pulls", "claims"}:
                    key = "parent_id"
                elif name in all_models and all_models[name].apart:
                    key = all_models[name].apart.column
                where = f"where {key} is null or {key} not in ({others})" if key else ""
                connection.execute(
                    f"create view {mode}_{bucket}.{name} as from whole.{name} {where}"
                )
            connection.execute(f"set search_path = '{mode}_{bucket},main'")
            for model in all_models:
                if model.stored.is_view:
                    connection.execute(f"create view {mode}_{bucket}.{model.name} as {model.body}")
            connection.execute("set search_path = 'main'")
    return connection


def _tables(connection):
    found = {}
    for name, column in connection.execute(
        "select table_name, column_name from duckdb_columns() where schema_name = 'whole'"
    ).fetchall():
        found.setdefault(name, []).append(column)
    return found


def _placed(connection):
    """Ids with their buckets: by the account, and by the customers who share accounts."""
    groups = {}

    def find(one):
        while groups.setdefault(one, one) != one:
            one = groups[one]
        return one

    keys = {}
    for ids in connection.execute(
        "select account_key, account_id, entity_id, customer_id from whole.bridge_accounts"
        " union all select null, null, entity_id, customer_id from whole.dim_entities"
        " union all select null, consent_id, entity_id, customer_id from whole.dim_consents"
        " union all select null, null, null, customer_id from whole.dim_customers"
    ).fetchall():
        there = [one for one in ids if one is not None]
        for one in there:
            groups[find(one)] = find(there[0])
        if ids[0] is not None:
            keys |= {ids[0]: ids[0], ids[1]: ids[0]}
    return [
        (one, _bucket(keys[one]) if one in keys else None, _bucket(find(one)))
        for one in list(groups)
    ]


def _bucket(name):
    return zlib.crc32(name.encode()) % len(BUCKETS)


def other_rows(model):
    """How many rows of a model are others when its buckets are computed apart."""
    connection = buckets()
    mode = "customer" if model.apart.is_by_customer else "account"
    for bucket in BUCKETS:
        connection.execute(f"set search_path = '{mode}_{bucket},main'")
        verb = "insert into main.got" if bucket else "create or replace table main.got as"
        connection.execute(f"{verb} select * from ({model.body}\n) as it")
    connection.execute("set search_path = 'main'")
    one, two = "from got", f"from whole.{model.name}"
    (count,) = connection.execute(
        f"select count(*) from (({one} except all {two}) union all ({two} except all {one}))"
    ).fetchone()
    return count


APART = [model.name for model in models() if model.apart]


def test_rows_that_come_apart_are_those_of_the_whole():
    """Every model that says so, by the accounts or customers that it says."""
    assert {name: found for name in APART if (found := other_rows(models()[name]))} == {}


@pytest.mark.parametrize(
    ("name", "claimed"),
    [
        ("fct_transaction_links", Apart(is_by_customer=False, column="account_key")),
        ("int_customer_months", Apart(is_by_customer=False, column="customer_id")),
        ("int_quality_monthly", Apart(is_by_customer=True, column="bank_identifier")),
    ],
)
def test_a_model_that_claims_too_much_is_caught(name, claimed):
    """Transfers have two accounts, a customer has several, and a bank has many customers."""
    assert other_rows(replace(models()[name], apart=claimed)) > 0
