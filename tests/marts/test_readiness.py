"""Whether a decision may rest on a customer's tables, against the truth and by hand."""

import datetime as dt
from collections import Counter, defaultdict
from decimal import ROUND_HALF_UP, Decimal

import pytest
from known import riyadh_date
from test_people import as_of, at, end_of
from tiny import run
from truth import account_keys, whole_days

NEEDED = ("accounts", "balance", "identity", "transactions")
ALL = {f"permits_{name}": True for name in NEEDED}
DAY = dt.timedelta(days=1)


def test_customers_are_ready_by_what_is_known_of_all_their_accounts(world):
    """Full months, proved days, permissions and reasons of each customer are recounted."""
    clock, keys, last = as_of(world), account_keys(world), world.days[-1]
    active = [row for row in last["consents"].values() if end_of(row, clock)[0] == "active"]
    connected = {row["entity_id"] for row in active}
    shares = defaultdict(set)
    for (account_id,), row in last["accounts"].items():
        if row["entity_id"] in connected:
            entity = last["entities"][(row["entity_id"],)]
            shares[entity["customer_id"]].add(keys[account_id])
    known = whole_days(world)
    balances = defaultdict(Counter)
    moved_untold = set()
    for row in world.rows("from mart_balance_reconciliation order by balance_date"):
        place = (row["account_key"], row["currency"])
        if row["reason"] == "before_first_balance" and row["booked_count"]:
            moved_untold.add(place)
        is_early = row["reason"] == "before_first_balance" and place not in moved_untold
        if row["reason"] != "first_balance" and not is_early:
            balances[row["account_key"]][row["verdict"]] += 1

    held = world.table("mart_customer_readiness", "customer_id")

    assert set(held) == set(last["customers"])
    for (customer_id,), shown in held.items():
        mine = sorted(shares[customer_id])
        assert shown["account_keys"] == mine
        full = None
        for key in mine:
            months = Counter(f"{day:%Y-%m}" for day in known[key])
            whole = {month for month, days in months.items() if days == length(month)}
            full = whole if full is None else full & whole
        assert shown["full_months"] == len(full or ())
        assert shown["full_from_month"] == min(full or (), default=None)
        ends = [max(known[key]) for key in mine if known[key]]
        assert shown["data_through_date"] == min(ends, default=None)
        proved = sum(balances[key]["proved"] for key in mine)
        total = sum(balances[key].total() for key in mine)
        assert (shown["proved_days"], shown["balance_days"]) == (proved, total)
        share = None
        if total:
            share = (Decimal(proved) / total).quantize(Decimal("0.0001"), ROUND_HALF_UP)
        assert shown["reconciled_share"] == share
        given = [row for row in active if row["customer_id"] == customer_id]
        permitted = {
            name.removeprefix("permits_")
            for name in (given[0] if given else ())
            if name.startswith("permits_") and all(row[name] for row in given)
        }
        assert shown["permissions"] == sorted(permitted)
        reasons = [f"not_permitted_{name}" for name in NEEDED if name not in permitted]
        reasons += ["no_account"] * (not mine) + ["no_consent"] * (not given)
        age = (riyadh_date(clock) - min(ends)).days if ends else None
        assert shown["data_age_days"] == age
        reasons += ["data_stale"] * (age is not None and age > 7)
        reasons += ["months_short"] * (len(full or ()) < 3)
        reasons += ["not_reconciled"] * (share is not None and share < Decimal("0.98"))
        reasons += ["balances_unknown"] * bool(mine and share is None)
        assert shown["reasons"] == sorted(reasons)
        assert shown["is_decision_ready"] == (not reasons)
    assert {row["is_decision_ready"] for row in held.values()} == {True, False}


def length(month):
    """Days of a month."""
    first = dt.date.fromisoformat(f"{month}-01")
    return ((first + 32 * DAY).replace(day=1) - first).days


def readiness(months=3, proved=98, total=100, covered_to=None, **consent):
    """The row of a customer with one account, known and proved so far."""
    (row,) = run(
        "mart_customer_readiness",
        dim_customers=[{"customer_id": "c", "as_of": at(0)}],
        bridge_account_owners=[{"customer_id": "c", "account_key": "a", "is_listed": True}],
        dim_accounts=[{"account_key": "a", "is_connected": True, "state": "open"}],
        dim_consents=[
            {"customer_id": "c", "is_current": True, "state": "active", **ALL, **consent}
        ],
        int_account_months=[{"account_key": "a", "covered_to": covered_to}],
        int_customer_months=[
            {"customer_id": "c", "riyadh_month": f"2026-0{n}", "is_full_month": True}
            for n in range(1, months + 1)
        ],
        int_balance_intervals=[
            {
                "account_key": "a",
                "verdict": verdict,
                "from_date": dt.date(2026, 1, 1),
                "to_date": dt.date(2026, 1, 1) + (days - 1) * DAY,
            }
            for verdict, days in (("proved", proved), ("unprovable", total - proved))
            if days
        ],
    )
    return row


@pytest.mark.parametrize(
    ("given", "reasons"),
    [
        ({}, []),
        ({"months": 2}, ["months_short"]),
        ({"proved": 97}, ["not_reconciled"]),
        ({"proved": 0, "total": 0}, ["balances_unknown"]),
        ({"covered_to": at(0).date() - 7 * DAY}, []),
        ({"covered_to": at(0).date() - 9 * DAY}, ["data_stale"]),
        ({"permits_balance": False}, ["not_permitted_balance"]),
        ({"permits_transactions": None}, ["not_permitted_transactions"]),
    ],
    ids=[
        "just-enough-of-everything",
        "a-month-short",
        "a-day-in-a-hundred-unproved",
        "no-balance-ever-told",
        "a-week-old",
        "a-feed-that-is-dead",
        "balances-not-permitted",
        "permission-not-told",
    ],
)
def test_a_customer_is_not_ready_for(given, reasons):
    """Each thing that is missing is a reason of its own, and unknown is never enough."""
    row = readiness(**given)

    assert row["reasons"] == reasons
    assert row["is_decision_ready"] == (not reasons)
