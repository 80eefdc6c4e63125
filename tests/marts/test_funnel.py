"""What becomes of consents, and how odd each bank's data is, against the truth in plain Python."""

import datetime as dt
from collections import Counter, defaultdict
from decimal import ROUND_HALF_UP, Decimal

import pytest
from known import models, riyadh_date
from test_people import as_of, at, end_of
from test_spend import opaque, own_transfers
from tiny import run
from truth import account_keys, movements, placed_at, signed

DAY = dt.timedelta(days=1)


def test_consents_are_counted_in_the_week_in_which_they_were_given(world):
    """Each consent of the truth is in one week, with its outcome, data and age."""
    clock = as_of(world)
    true = list(world.days[-1]["consents"].values())
    reads = defaultdict(list)
    for row in world.rows("from pulls where stream = 'accounts' and outcome <> 'SKIPPED'"):
        reads[row["entity_id"]].append(row["refreshed_at"])
    expected = defaultdict(Counter)
    for row in true:
        given = row["created_at"]
        day = riyadh_date(given)
        shown = expected[row["bank_identifier"], day - day.weekday() * DAY]
        state, ended_at = end_of(row, clock)
        later = [
            one["created_at"]
            for one in true
            if one["entity_id"] == row["entity_id"] and one["created_at"] > given
        ]
        until = min(later, default=clock + DAY)
        shown["given_count"] += 1
        shown[f"{state}_count"] += 1
        shown["first_data_count"] += any(given <= one < until for one in reads[row["entity_id"]])
        left = (riyadh_date(row["expires_at"]) - riyadh_date(clock)).days
        shown["expiring_count"] += state == "active" and left <= 30
        for days in (30, 90):
            is_old = clock >= given + days * DAY
            shown[f"reached_{days}_count"] += is_old
            shown[f"active_{days}_count"] += is_old and (
                ended_at is None or ended_at >= given + days * DAY
            )
        if state != "active":
            shown["renewed_count" if later else "lapsed_count"] += 1

    held = world.table("mart_consent_funnel", "bank_identifier", "week_date")

    assert set(held) == set(expected)
    for key, counts in expected.items():
        for name, value in held[key].items():
            if name.endswith("_count"):
                assert value == counts[name], (key, name)
    assert sum(counts["renewed_count"] for counts in expected.values()) > 0
    assert sum(counts["lapsed_count"] for counts in expected.values()) > 0


def given(consent_id, created, state="active", ended=None, **row):
    """A consent as dim_consents has it."""
    return {
        "consent_id": consent_id,
        "entity_id": "e",
        "bank_identifier": "B",
        "state": state,
        "created_at": created,
        "ended_at": ended,
        "is_current": True,
        "as_of": at(0),
        **row,
    }


@pytest.mark.parametrize(
    ("ended", "again", "hours"),
    [(at(-9), at(-8), "24.00"), (at(-9), at(-9, 1.5), "1.50"), (at(-9), at(-10), "0.00")],
    ids=["a-day-later", "ninety-minutes-later", "before-it-ended"],
)
def test_the_hours_to_reconnect_are(ended, again, hours):
    """They count from the end of a consent to the next one of the same entity."""
    rows = run(
        "mart_consent_funnel",
        dim_consents=[given("1", at(-40), "revoked", ended), given("2", again)],
    )

    rows.sort(key=lambda row: row["week_date"])
    assert rows[0]["p50_reconnect_hours"] == Decimal(hours)
    assert (rows[0]["renewed_count"], rows[0]["active_30_count"]) == (1, 1)
    assert rows[1]["p50_reconnect_hours"] is None


def test_a_consent_that_lapsed_has_no_hours_to_reconnect():
    """Nobody came back, which is not zero hours."""
    (row,) = run("mart_consent_funnel", dim_consents=[given("1", at(-9), "expired", at(-1))])

    assert (row["p50_reconnect_hours"], row["lapsed_count"]) == (None, 1)


def share(odd, total):
    """A quotient, half up to six places."""
    return (Decimal(odd) / total).quantize(Decimal("0.000001"), ROUND_HALF_UP)


def test_what_is_odd_about_each_bank_is_counted(world):
    """Signs, words, statuses, balances and dates that are odd are as many as in the truth."""
    keys = account_keys(world)
    banks = {}
    for day in world.days:
        for (account_id,), row in day["accounts"].items():
            entity = day["entities"][(row["entity_id"],)]
            banks[keys[account_id]] = entity["bank_identifier"]
    odd, total = Counter(), Counter()
    internal = own_transfers(world)
    today = riyadh_date(as_of(world))
    for movement_id, row in movements(world).items():
        bank = banks[movement_id.split(":")[0]]
        words = row["status"], row["transaction_type"], row["sub_transaction_type"]
        is_booked = row["status"] == "BOOKED"
        after = row["balance_amount"]
        balance = after is not None and signed(after, row["balance_credit_debit_indicator"])
        for name, is_odd in {
            "unknown_sign": signed(row["amount"], row["credit_debit_indicator"]) is None,
            "unsupported_value": "UNSUPPORTED" in words,
            "null_status": row["status"] is None,
            "unknown_currency": not row["currency"].isupper(),
            "future_date": riyadh_date(placed_at(row)) > today,
        }.items():
            odd[name, "transactions", bank] += is_odd
            total[name, "transactions", bank] += 1
        if is_booked:
            odd["missing_balance_after", "transactions", bank] += balance in {None, False}
            total["missing_balance_after", "transactions", bank] += 1
            is_opaque = movement_id not in internal and opaque(row)
            odd["opaque", "transactions", bank] += is_opaque
            total["opaque", "transactions", bank] += 1
    newest = {}
    for row in sorted(world.rows("from pulls"), key=lambda row: row["asked_at"]):
        if row["outcome"] != "SKIPPED" and row["bank_identifier"]:
            newest[row["stream"], row["parent_id"], row["month"]] = row
    for (stream, _, _), row in newest.items():
        key = stream, row["bank_identifier"]
        odd["failed_pull", *key] += row["outcome"] == "FAILED"
        total["failed_pull", *key] += 1
        odd["quarantined", *key] += row["quarantined"]
        shown = 0 if stream == "transactions" else row["rows"]
        total["quarantined", *key] += shown + row["quarantined"]
    for key in [key for key in total if key[0] == "quarantined" and key[1] == "transactions"]:
        total[key] += total["unknown_sign", *key[1:]]

    held = world.table("mart_data_quality", "observation", "stream", "bank_identifier")
    rules = {row["observation"]: row for row in world.rows(_rules())}

    assert set(odd) <= set(total)
    for key, rows in total.items():
        if not rows:
            assert key not in held
            continue
        shown, rule = held.pop(key), rules[key[0]]
        assert (shown["odd_count"], shown["row_count"]) == (odd[key], rows), key
        assert shown["observed"] == share(odd[key], rows)
        assert shown["threshold"] == Decimal(rule["threshold"])
        assert shown["is_passed"] == (shown["observed"] <= shown["threshold"])
        assert shown["severity"] == rule["severity"]
    assert {key[0] for key in held} <= {
        "missing_balance",
        "null_status",
        "unsupported_value",
        "null_status_drift",
    }
    assert any(odd.values()), "a world without anything odd proves little"


def _rules():
    file = str(models().seeds["quality_rules"])
    return f"from read_csv('{file}', header = true, all_varchar = true, comment = '#')"


def months(*counts):
    """Months of a bank with so many movements, and so many of them without a status."""
    return [
        {
            "bank_identifier": "B",
            "month": f"2026-0{place}",
            "movement_count": total,
            "null_status_count": nulls,
            "unknown_sign_count": 0,
            "unsupported_count": 0,
            "null_balance_count": 0,
            "booked_count": total,
        }
        for place, (total, nulls) in enumerate(counts, 1)
    ]


@pytest.mark.parametrize(
    ("counts", "observed", "is_passed"),
    [
        ([(90, 0), (10, 0), (10, 1)], "0.1", False),
        ([(90, 9), (10, 1), (10, 1)], "0", True),
        ([(90, 9), (10, 1), (10, 0)], "0", True),
    ],
    ids=["grew", "stayed", "shrank"],
)
def test_a_share_of_unknown_states_that(counts, observed, is_passed):
    """Only growth of the newest month over those before is held against a bank."""
    rows = run("mart_data_quality", int_quality_monthly=months(*counts), clock=[{"as_of": at(0)}])
    (drift,) = [row for row in rows if row["observation"] == "null_status_drift"]

    assert (drift["observed"], drift["is_passed"]) == (Decimal(observed), is_passed)


def test_a_listed_account_without_a_balance_is_missed():
    """Where balances may be read, each account has one; a bank that gave none shows."""
    rows = run(
        "mart_data_quality",
        account_windows=[
            {"account_id": name, "entity_id": "e", "bank_identifier": "B"} for name in "12"
        ],
        balances=[{"account_id": "1"}],
        dim_entities=[{"entity_id": "e", "is_current": True, "permits_balance": True}],
        clock=[{"as_of": at(0)}],
    )

    assert [(row["observation"], row["odd_count"], row["row_count"]) for row in rows] == [
        ("missing_balance", 1, 2)
    ]
