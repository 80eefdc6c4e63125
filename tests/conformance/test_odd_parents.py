"""What cannot be read of a parent costs its children nothing."""

import json

import pytest
from conftest import rows_of
from worlds import Wire, new_sandbox, pull, wired

from lean_resources.streams import STREAMS
from pipelines.lake.lake import Lake
from pipelines.models.build import build
from pipelines.models.loader import load


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    """A lake and its tables, where two entities and every account are odd in something optional."""
    found = Lake(tmp_path_factory.mktemp("odd"), "sandbox")
    sandbox = new_sandbox(months=1)
    spoilt = iter(({"customer_id": {}}, {"bank_identifier": ["x"]}))
    chosen = {one["parent"]["entity_id"] for one in sandbox.truth("accounts")}

    def change(request, body):
        told = json.loads(body)
        if request.url.path == "/customers/v1/entities":
            for record in told["data"]:
                if record["id"] in chosen and record.get("status") == "ACTIVE":
                    record.update(next(spoilt, {}))
        elif request.url.path == "/data/v2/accounts" and told.get("data"):
            for record in told["data"]["accounts"]:
                record.update(opening_date="", account_holder_short_name={"ar": "x"})
        else:
            return body
        return json.dumps(told).encode()

    names = ("banks", "customers", "entities", "accounts", "balances", "transactions")
    pull(sandbox, found, names, client=wired(sandbox, Wire(sandbox, change)))
    return found


def test_an_entity_without_a_readable_customer_or_bank_still_has_its_accounts(lake):
    """Its id is enough to ask for accounts, balances and transactions."""
    odd = rows_of(
        lake, "select entity_id from entities where customer_id is null or bank_identifier is null"
    )

    assert len(odd) == 2
    for name in ("accounts", "balances", "transactions"):
        entities = {entity for (entity,) in rows_of(lake, f"select entity_id from {name}")}
        assert entities >= {entity for (entity,) in odd}, name


def test_an_account_with_an_odd_optional_column_keeps_its_children(lake):
    """The column is null and told; the account, its balances and its movements are there."""
    accounts = rows_of(
        lake,
        "select account_id, opening_date, account_holder_short_name from accounts"
        " where regional_standard is null",  # the older generation says it twice
    )

    assert len(accounts) > 10
    assert {row[1:] for row in accounts} == {(None, None)}
    with lake.connect() as connection:
        told = connection.execute(
            "select column_name, path, is_lost, count(*) = count(distinct record_key)"
            f" from ({lake.quarantined(STREAMS['accounts'])}) group by column_name, path, is_lost"
        ).fetchall()
    name = "account_holder_short_name"
    assert told == [(name, name, False, True)]


@pytest.mark.conformance
def test_every_table_is_built_from_what_could_be_read(lake):
    """A null where a customer or a bank could not be read breaks no key and no claim."""
    built = build(lake, load(), hash_key="sandbox")

    assert {one.model.name: one.problem for one in built if one.problem} == {}
    failed = {check for one in built for check, found in one.checks.items() if found.offenders}
    assert {check.name for check in failed} == set()
