"""What was known when, and how pending movements ended, against the offline Lean's truth."""

import datetime as dt
from decimal import Decimal

import pytest
from known import DAY, models, riyadh_date
from tiny import run
from truth import account_keys, movements, placed_at, signed

from pipelines.publish.warehouse import connect, publish


def told(row):
    """What a version of a movement tells that a bank may rewrite."""
    return (
        row["status"],
        signed(row["amount"], row["credit_debit_indicator"]),
        placed_at(row),
        row["transaction_reference"],
        row["merchant_name"],
    )


def first_sync_ended_at(world):
    """When the first of the two syncs had asked for everything, by Lean's clock."""
    (row,) = world.rows("""
        select max(known_at) as ended_at from pulls
        where stream = 'transactions' and refreshed_at < (
            select max(refreshed_at) - interval 12 hour from pulls where stream = 'transactions')
    """)
    return row["ended_at"]


def as_of(world, instant):
    """The movements that counted at an instant, by id."""
    rows = world.connection.execute(
        "select movement_id, status, signed_amount, placed_at, transaction_reference,"
        " merchant_name from transactions_as_of($1)",
        [instant],
    ).fetchall()
    assert len({row[0] for row in rows}) == len(rows)
    return {row[0]: row[1:] for row in rows}


def test_what_counts_now_is_what_the_ledger_shows(world):
    """At the last instant the history gives each movement of the ledger once, and as it stands."""
    (end,) = world.rows("select max(finished_at) as ended_at from pulls")

    assert as_of(world, end["ended_at"]) == {k: told(row) for k, row in movements(world).items()}


def test_what_counted_after_the_first_sync_is_what_was_true_then(world):
    """The second sync changes nothing in the answer, though it rewrote and removed movements."""
    keys = account_keys(world)
    truth = {}
    for (account_id, transaction_id), row in world.days[0]["transactions"].items():
        truth.setdefault(f"{keys[account_id]}:{transaction_id}", told(row))

    held = as_of(world, first_sync_ended_at(world))

    assert set(held) <= set(truth)
    assert all(truth[one] == row for one, row in held.items())
    now = {k: told(row) for k, row in movements(world).items()}
    assert held != now
    shared = [k for k in keys.values() if list(keys.values()).count(k) > 1]
    missing = {one for one in truth if one not in held}
    assert all(one.split(":")[0] in shared for one in missing), "only doubles of shared accounts"


def test_versions_of_a_movement_follow_each_other(world):
    """Numbered from 1, each ends when the next begins, and the last stands."""
    versions = {}
    for row in world.rows("from fct_transaction_history order by version"):
        key = (row["account_id"], row["transaction_id"], row["month"])
        versions.setdefault(key, []).append(row)

    for rows in versions.values():
        assert [row["version"] for row in rows] == list(range(1, len(rows) + 1))
        assert [row["seen_to_at"] for row in rows[:-1]] == [row["seen_from_at"] for row in rows[1:]]
        assert rows[-1]["seen_to_at"] is None
        assert rows[0]["change_kind"] == "appeared"


CASES = {
    "pending_same_id": ("booked", "same_id", 0),
    "pending_new_id": ("booked", "reference", 0),
    "pending_amount": ("booked", "same_id", Decimal("-23.50")),
    "pending_vanishes": ("vanished", None, None),
}


@pytest.mark.parametrize("case", CASES)
def test_each_way_for_a_pending_movement_to_end_is_told(world, case):
    """Same id, another id, another amount, never: with method, and nothing guessed."""
    true = world.sandbox.example(case)
    (row,) = [
        one
        for one in world.rows("from fct_pending_lineage")
        if (one["account_id"], one["transaction_id"])
        == (true["account_id"], true["transaction_id"])
    ]

    assert (row["fate"], row["method"], row["amount_delta"]) == CASES[case]
    booked = row["booked_movement_id"]
    if case == "pending_vanishes":
        assert booked is None
    else:
        assert booked == f"{row['account_key']}:{true['booked_transaction_id']}"
        assert row["lag_days"] == 2


def test_every_pending_movement_is_told_of_once(world):
    """Also those that are pending still, and none of their booked movements stands for two."""
    pending = {
        key
        for day in world.days
        for key, row in day["transactions"].items()
        if row["status"] == "PENDING"
    }
    rows = world.rows("from fct_pending_lineage")
    read = {row["account_id"] for row in world.rows("from fct_transaction_history")}

    assert {(row["account_id"], row["transaction_id"]) for row in rows} == {
        key for key in pending if key[0] in read
    }
    booked = [row["booked_movement_id"] for row in rows if row["booked_movement_id"]]
    assert len(booked) == len(set(booked))


def test_restatements_name_the_field_and_both_values(world):
    """A field is there if and only if both days' truths differ in it."""
    first, last = (day["transactions"] for day in world.days)
    expected = set()
    for key in set(first) & set(last):
        before, after = first[key], last[key]
        same_month = f"{placed_at(before):%Y-%m}" == f"{placed_at(after):%Y-%m}"
        if same_month and before["status"] != after["status"]:
            expected.add((*key, "status", before["status"], after["status"]))
        values = [signed(one["amount"], one["credit_debit_indicator"]) for one in (before, after)]
        if same_month and values[0] != values[1]:
            expected.add((*key, "signed_amount", *(f"{value:.9f}" for value in values)))
        days = [str(riyadh_date(placed_at(one))) for one in (before, after)]
        if same_month and days[0] != days[1]:
            expected.add((*key, "booking_date", *days))

    rows = world.rows("from fct_restatements")

    named = ("account_id", "transaction_id", "field", "before_value", "after_value")
    held = {tuple(row[name] for name in named) for row in rows}
    wanted = {"status", "signed_amount", "booking_date"}
    assert {one for one in held if one[2] in wanted} == expected
    assert expected
    assert all(0 <= row["days_since_booking"] <= 14 for row in rows)


def test_the_warehouse_answers_what_counted_at_an_instant(world):
    """transactions_as_of is published beside the tables that it reads."""
    publish(world.lake, models())
    with connect(world.lake) as connection:
        (now,) = connection.execute("select count(*) from transactions_as_of(now())").fetchone()
        (held,) = connection.execute("select count(*) from fct_transactions").fetchone()

    assert now == held > 0


T0, T1 = (dt.datetime(2026, 2, day, 6, tzinfo=dt.UTC) for day in (3, 5))


def version(transaction_id, status, kind="appeared", **more):
    """A version of a movement in February."""
    given = {"account_id": "a", "account_key": "k", "transaction_id": transaction_id}
    given |= {"movement_id": f"k:{transaction_id}", "status": status, "change_kind": kind}
    given |= {"currency": "SAR", "signed_amount": Decimal(-18), "merchant_name": "COFFEE"}
    given |= {"month": "2026-02", "version": 2 if kind == "vanished" else 1}
    given |= {"seen_from_at": T1 if kind == "vanished" or status == "BOOKED" else T0}
    given |= {"booking_date": dt.date(2026, 2, 4 if status == "BOOKED" else 3)}
    given |= {"seen_to_at": T1 if status == "PENDING" and kind == "appeared" else None}
    return given | more


def lineage(*versions, **changed):
    """Which booked movement stands for which pending one, and by what method."""
    rows = run("fct_pending_lineage", fct_transaction_history=versions, **changed)
    return {row["transaction_id"]: (row["booked_movement_id"], row["method"]) for row in rows}


def gone(*transaction_ids, **more):
    """Movements that were pending and vanished."""
    return [
        version(one, "PENDING", kind, **more)
        for one in transaction_ids
        for kind in ("appeared", "vanished")
    ]


def test_two_identical_pending_purchases_are_two_booked_ones():
    """Each is linked once, in order; a mutant that forgets the order links them twice."""
    rows = [*gone("p1", "p2"), version("b1", "BOOKED"), version("b2", "BOOKED")]

    assert lineage(*rows) == {
        "p1": ("k:b1", "amount_date_merchant"),
        "p2": ("k:b2", "amount_date_merchant"),
    }
    with_twins = {"and waiting.sequence_no = free.sequence_no": "and true"}
    twice = run("fct_pending_lineage", fct_transaction_history=rows, changed=with_twins)
    assert len(twice) == 4


def test_one_booked_purchase_never_stands_for_two_pending_ones():
    """The second of two that vanished stays without a booked one."""
    told_of = lineage(*gone("p1", "p2"), version("b1", "BOOKED"))

    assert told_of == {"p1": ("k:b1", "amount_date_merchant"), "p2": (None, None)}


def test_a_reference_is_believed_before_an_amount():
    """It links what has another amount, and leaves the equal amount to the one without it."""
    told_of = lineage(
        *gone("p1", transaction_reference="MADA-1"),
        *gone("p2"),
        version("b1", "BOOKED", transaction_reference="MADA-1", signed_amount=Decimal(-20)),
        version("b2", "BOOKED", transaction_reference="MADA-2"),
    )

    assert told_of == {"p1": ("k:b1", "reference"), "p2": ("k:b2", "amount_date_merchant")}


@pytest.mark.parametrize(
    "booked",
    [
        {"seen_from_at": T0},
        {"booking_date": dt.date(2026, 2, 18)},
        {"booking_date": dt.date(2026, 2, 2)},
        {"signed_amount": Decimal(18)},
        {"merchant_name": "TEA"},
        {"currency": "USD"},
        {"account_id": "b"},
    ],
    ids=["known before", "too late", "too early", "sign", "merchant", "currency", "account"],
)
def test_what_differs_is_not_linked(booked):
    """A movement known before, too late, or of another amount, merchant, currency or account."""
    assert lineage(*gone("p1"), version("b1", "BOOKED", **booked)) == {"p1": (None, None)}


def test_every_stated_balance_is_kept(world):
    """One row per type and pull, with its sign; the newest of each is what staging shows."""
    rows = world.rows("from fct_balance_snapshots")
    newest = {
        (row["account_id"], row["balance_type"]): row["signed_amount"]
        for row in rows
        if row["is_newest"]
    }

    assert len(rows) > len(newest)
    for row in rows:
        if row["stated_at"] is None:
            assert row["staleness"] is None
        elif row["refreshed_at"] is not None:
            assert row["staleness"] == int((row["refreshed_at"] - row["stated_at"]) / DAY)
    for day in world.days[-1:]:
        for key, row in day["balances"].items():
            if key in newest and key[0] not in world.old_account_ids:
                assert newest[key] == signed(row["amount"], row["credit_debit_indicator"])


def pulled(number, day, first=1):
    """A pull of a month at the start of a day, for the account of these cases."""
    instant = dt.datetime(2026, 3, day, 2, tzinfo=dt.UTC)
    return {
        "pull_id": f"{number}",
        "stream": "transactions",
        "outcome": "COMMITTED",
        "parent_id": "a",
        "bank_identifier": "BANK",
        "month": "2026-03",
        "refreshed_at": instant,
        "claimed_from": dt.date(2026, 3, first),
        "claimed_to": instant.date(),
    }


def seen(day, told, *, is_late=True, version=1):
    """A movement of a day that a read of another day showed first."""
    return {
        "account_id": "a",
        "transaction_id": f"{day} {told}",
        "month": "2026-03",
        "version": version,
        "is_late": is_late,
        "placed_at": dt.datetime(2026, 3, day, 21, tzinfo=dt.UTC),
        "told_at": dt.datetime(2026, 3, told, 2, tzinfo=dt.UTC),
    }


def test_a_bank_is_as_late_as_the_first_read_that_shows_a_movement():
    """What was there before the first read is not measured, and neither are later versions."""
    movements = [
        seen(4, 5, is_late=False),
        seen(6, 7),
        seen(6, 15),
        seen(6, 16, version=2),
        seen(4, 20),
        seen(2, 5, is_late=False),
        seen(2, 9),
    ]

    rows = run(
        "mart_bank_lateness",
        pulls=[pulled(1, 4), pulled(2, 9, first=3)],
        fct_transaction_history=movements,
    )

    assert {row["days_late"]: row["movement_count"] for row in rows} == {0: 1, 1: 1, 9: 1, 16: 1}
    assert {(row["bank_identifier"], row["month"]) for row in rows} == {("BANK", "2026-03")}


def test_every_movement_of_a_second_sync_is_measured(world):
    """The table against the history, counted in Python."""
    reads = {}
    for row in world.rows(
        "select parent_id, month, bank_identifier, refreshed_at from pulls"
        " where stream = 'transactions' and outcome = 'COMMITTED' order by refreshed_at"
    ):
        key = row["parent_id"], row["month"]
        reads.setdefault(key, (row["bank_identifier"], row["refreshed_at"]))
    expected = {}
    for row in world.rows("from fct_transaction_history where version = 1"):
        bank, first = reads[row["account_id"], row["month"]]
        day, told = (row[name].astimezone(dt.UTC).date() for name in ("placed_at", "told_at"))
        if day >= first.astimezone(dt.UTC).date():
            key = bank, row["month"], (told - day).days if row["is_late"] else 0
            expected[key] = expected.get(key, 0) + 1

    found = world.rows("from mart_bank_lateness")

    assert expected
    assert {
        (row["bank_identifier"], row["month"], row["days_late"]): row["movement_count"]
        for row in found
    } == expected
