"""fct_transactions and what it stands on, against the offline Lean's truth, in plain Python."""

import datetime as dt
from collections import defaultdict
from decimal import Decimal

import pytest
from known import riyadh_date
from tiny import run
from truth import REVERSALS, account_keys, movements, placed_at, signed


def test_the_ledger_of_accounts_is_what_the_banks_show(world):
    """Each movement of each real account is there once, with its exact, signed amount and days."""
    keys = account_keys(world)
    true = movements(world)
    held = world.table("fct_transactions", "movement_id")

    assert {key for (key,) in held} == set(true)
    for movement_id, row in true.items():
        shown = held[(movement_id,)]
        assert shown["account_key"] == keys[row["account_id"]]
        assert shown["signed_amount"] == signed(row["amount"], row["credit_debit_indicator"])
        assert shown["is_booked"] == (row["status"] == "BOOKED")
        assert shown["booking_date"] == riyadh_date(placed_at(row))
        assert shown["booking_month"] == riyadh_date(placed_at(row)).replace(day=1)
        assert shown["month"] == f"{placed_at(row):%Y-%m}"
        assert shown["currency"] == row["currency"]
        assert shown["is_payroll"] == ("PAYROLL" in (row["flags"] or []))


def test_an_account_that_was_connected_again_counts_once(world):
    """Old and new ids of one IBAN share a key, and no movement of theirs shows twice."""
    keys = account_keys(world)
    again = {keys[one] for one in world.old_account_ids}

    rows = world.rows("select * from bridge_accounts")

    assert {row["account_id"]: row["account_key"] for row in rows} == keys
    for key in again:
        ids = [row for row in rows if row["account_key"] == key]
        assert len(ids) == 2
        assert [row["is_listed"] for row in ids].count(True) == 1


def test_transfers_between_own_accounts_and_reversals_are_paired(world):
    """Links are mutual, of equal and opposite amounts, and found wherever the truth has them."""
    true = {k: v for k, v in movements(world).items() if v["status"] == "BOOKED"}
    links = world.table("fct_transaction_links", "movement_id", "link_kind")

    by_reference = defaultdict(list)
    for movement_id, row in true.items():
        if (row["transaction_reference"] or "").startswith("OWN-"):
            by_reference[row["transaction_reference"]].append(movement_id)
    paired = {tuple(sorted(two)) for two in by_reference.values() if len(two) == 2}
    told = {
        tuple(sorted((row["movement_id"], row["linked_movement_id"])))
        for row in links.values()
        if row["link_kind"] == "internal_transfer"
    }
    assert paired <= told
    assert paired, "a world without transfers proves nothing"
    for (movement_id, kind), row in links.items():
        other = row["linked_movement_id"]
        back = {"internal_transfer": "internal_transfer", "reversal": "reversed"}.get(
            kind, "reversal"
        )
        assert links[(other, back)]["linked_movement_id"] == movement_id
        mine, theirs = true[movement_id], true[other]
        assert signed(mine["amount"], mine["credit_debit_indicator"]) == -signed(
            theirs["amount"], theirs["credit_debit_indicator"]
        )
        if kind == "reversal":
            assert mine["sub_transaction_type"] in REVERSALS


def test_money_is_conserved_from_the_streams_to_the_ledger(world):
    """Count and sum per currency are those of the true movements; nothing is rounded on the way."""
    expected = defaultdict(lambda: [0, Decimal(0)])
    for row in movements(world).values():
        value = signed(row["amount"], row["credit_debit_indicator"])
        expected[row["currency"]][0] += 1
        expected[row["currency"]][1] += value or Decimal(0)

    held = world.rows("""
        select currency, count(*) as movements, sum(signed_amount) as total
        from fct_transactions group by all
    """)

    assert {row["currency"]: [row["movements"], row["total"]] for row in held} == dict(expected)


@pytest.mark.parametrize("changed", [None, {"takes_back(movements.sub_transaction_type)": "null"}])
def test_movements_without_a_sub_type_are_paired_too(changed):
    """A bank that tells no sub-types still has transfers between own accounts; or else a mutant."""
    day = dt.date(2026, 3, 2)
    at = dt.datetime(2026, 3, 2, 9, tzinfo=dt.UTC)
    movement = {
        "pull_id": "p",
        "month": "2026-03",
        "currency": "SAR",
        "placed_at": at,
        "booking_date": day,
        "transaction_reference": "OWN-1",
        "transaction_type": "LOCAL_BANK_TRANSFER",
        "is_booked": True,
    }
    accounts = ("a", "b")
    links = run(
        "fct_transaction_links",
        changed=changed,
        bridge_accounts=[
            {"account_id": name, "account_key": name, "customer_id": "c"} for name in accounts
        ],
        int_covering_pulls=[
            {
                "account_id": name,
                "account_key": name,
                "pull_id": "p",
                "claimed_from": day,
                "claimed_to": day,
            }
            for name in accounts
        ],
        stg_movements=[
            movement | {"account_id": "a", "transaction_id": "1", "signed_amount": Decimal(-5)},
            movement | {"account_id": "b", "transaction_id": "2", "signed_amount": Decimal(5)},
        ],
    )

    found = {(row["movement_id"], row["linked_movement_id"]) for row in links}
    assert found == (set() if changed else {("a:1", "b:2"), ("b:2", "a:1")})
