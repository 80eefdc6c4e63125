"""Cash flow and what it is known from, against the offline Lean's truth, in plain Python."""

import calendar
import datetime as dt
from collections import defaultdict
from decimal import Decimal

import pytest
from known import DAY, riyadh_date
from tiny import run
from truth import account_keys, movements, placed_at, signed, whole_days

KEY = "00"
ZERO = Decimal(0)


def own_legs(true):
    """Ids of booked movements that are legs of transfers between own accounts."""
    pairs = defaultdict(list)
    for movement_id, row in true.items():
        if row["status"] == "BOOKED" and (row["transaction_reference"] or "").startswith("OWN-"):
            pairs[row["transaction_reference"]].append(movement_id)
    return {one for pair in pairs.values() if len(pair) == 2 for one in pair}


def flows(true, keys, period):
    """Sums and counts of booked movements by account, currency and period of their Riyadh day."""
    own = own_legs(true)
    found = defaultdict(lambda: defaultdict(lambda: ZERO))
    for movement_id, row in true.items():
        if row["status"] != "BOOKED":
            continue
        day = riyadh_date(placed_at(row))
        sums = found[keys[row["account_id"]], row["currency"], period(day)]
        value = signed(row["amount"], row["credit_debit_indicator"])
        sums["booked_count"] += 1
        sums["days", day] = 1
        if value is None:
            sums["unknown_sign_count"] += 1
        elif value:
            is_own = movement_id in own
            side = "in" if value > 0 else "out"
            amount = f"internal_{side}_amount" if is_own else f"{side}flow_amount"
            sums[amount] += abs(value)
            sums["internal_count" if is_own else f"{side}flow_count"] += 1
    return found


AMOUNTS = ("inflow_amount", "outflow_amount", "internal_in_amount", "internal_out_amount")
COUNTS = ("booked_count", "inflow_count", "outflow_count", "internal_count", "unknown_sign_count")


def same(held, true):
    """Whether rows of the tables hold the sums of the truth, and nothing else."""
    return {key: [row[name] for name in (*AMOUNTS, *COUNTS)] for key, row in held.items()} == {
        key: [sums[name] for name in (*AMOUNTS, *COUNTS)] for key, sums in true.items()
    }


def test_the_daily_cash_flow_is_what_the_banks_booked(world):
    """Every day with booked movements is there once, its sums exact, own transfers apart."""
    keys = account_keys(world)
    true = movements(world)
    expected = flows(true, keys, lambda day: day)
    held = world.table("fct_cash_flow_daily", "account_key", "currency", "booking_date")
    whole = whole_days(world)

    assert same(held, expected)
    assert any(row["internal_count"] for row in held.values())
    for (key, _, day), row in held.items():
        assert row["is_whole_day"] == (day in whole[key])
        assert row["net_amount"] == row["inflow_amount"] - row["outflow_amount"]
    lost = dict(true)
    del lost[next(one for one, row in true.items() if row["status"] == "BOOKED")]
    assert not same(held, flows(lost, keys, lambda day: day)), "an oracle that misses a lost row"


def test_the_monthly_cash_flow_says_what_it_rests_on(world):
    """Months hold the sums of their days, partial ones say so, and none is made of the unknown."""
    keys = account_keys(world)
    expected = flows(movements(world), keys, lambda day: day.replace(day=1))
    held = world.table("fct_cash_flow_monthly", "account_key", "currency", "booking_month")
    whole = whole_days(world)
    opened = defaultdict(lambda: dt.date.min)
    for day in world.days:
        for (account_id,), row in day["accounts"].items():
            opened[keys[account_id]] = row["opening_date"] or dt.date.min

    moved = {key: row for key, row in held.items() if row["booked_count"]}
    assert same(moved, expected)
    for (key, currency, month), row in held.items():
        length = calendar.monthrange(month.year, month.month)[1]
        covered = sum(month <= day < month + length * DAY for day in whole[key])
        active = {name for name in expected[key, currency, month] if isinstance(name, tuple)}
        assert row["covered_days"] == covered
        assert row["month_days"] == length
        assert row["active_days"] == len(active)
        assert row["is_full_month"] == (covered == length and opened[key] <= month)
        assert row["net_amount"] == row["inflow_amount"] - row["outflow_amount"]
    kinds = {(row["is_full_month"], row["booked_count"] > 0) for row in held.values()}
    assert kinds >= {(True, True), (False, True)}
    months = {(key, month) for key, _, month in held}
    assert months >= {(key, day.replace(day=1)) for key, days in whole.items() for day in days}


def movement(day, amount, **more):
    """A booked movement of the ledger."""
    value = None if amount is None else Decimal(amount)
    given = {"account_key": KEY, "currency": "SAR", "is_booked": True, "booking_date": day}
    return given | {"signed_amount": value, "is_internal_transfer": False} | more


def daily(*rows, **changed):
    """The daily cash flow of some movements, by currency and day."""
    found = run("fct_cash_flow_daily", fct_transactions=rows, **changed)
    return {(row["currency"], row["booking_date"]): row for row in found}


FEB_1, FEB_28, MAR_1 = dt.date(2026, 2, 1), dt.date(2026, 2, 28), dt.date(2026, 3, 1)


def test_days_and_months_are_those_of_riyadh():
    """What the lake keeps in January but Riyadh booked in February counts in February."""
    held = daily(
        movement(FEB_1, 5, month="2026-01"),
        movement(FEB_28, 7, month="2026-02"),
        movement(dt.date(2028, 2, 29), 9, month="2028-02"),
    )

    months = [row["riyadh_month"] for row in held.values()]
    assert sorted(months) == ["2026-02", "2026-02", "2028-02"]


def test_two_identical_purchases_count_twice():
    """Nothing but its id tells a movement from another."""
    row = daily(movement(FEB_1, -5), movement(FEB_1, -5))["SAR", FEB_1]

    assert (row["outflow_amount"], row["outflow_count"]) == (10, 2)


def test_refunds_and_reversals_count_on_their_own_side():
    """Gross money in and out stay what the bank booked."""
    row = daily(movement(FEB_1, -5), movement(FEB_1, 5, is_reversal=True))["SAR", FEB_1]

    assert (row["inflow_amount"], row["outflow_amount"], row["net_amount"]) == (5, 5, 0)


def test_pending_and_rejected_money_is_not_counted():
    """Only what the bank booked is a cash flow; a mutant that counts all is told apart."""
    rows = (movement(FEB_1, 5), movement(FEB_1, 3, is_booked=False))

    assert daily(*rows)["SAR", FEB_1]["inflow_amount"] == 5
    mutant = daily(*rows, changed={"where is_booked": "where true"})
    assert mutant["SAR", FEB_1]["inflow_amount"] == 8


def test_currencies_are_never_added():
    """One day of one account is a row per currency, with three decimals where they are."""
    held = daily(movement(FEB_1, "1.001", currency="KWD"), movement(FEB_1, 2))

    assert held["KWD", FEB_1]["inflow_amount"] == Decimal("1.001")
    assert held["SAR", FEB_1]["inflow_amount"] == 2


def test_money_of_unknown_sign_is_counted_and_in_no_sum():
    """The net of such a day is unknown, not less."""
    row = daily(movement(FEB_1, 5), movement(FEB_1, None), movement(FEB_1, 0))["SAR", FEB_1]

    assert (row["inflow_amount"], row["unknown_sign_count"], row["net_amount"]) == (5, 1, None)
    assert (row["booked_count"], row["inflow_count"]) == (3, 1)


def coverage(first, last, *asked_at):
    """Coverage by one pull per instant, each for the same days."""
    claims = [
        {"account_key": KEY, "pull_id": str(n), "claimed_from": first, "claimed_to": last}
        for n in range(len(asked_at))
    ]
    pulls = [{"pull_id": str(n), "refreshed_at": at} for n, at in enumerate(asked_at)]
    return run("int_account_coverage", int_covering_pulls=claims, pulls=pulls)


@pytest.mark.parametrize(
    ("time", "last_whole"), [(dt.time(20, 59, 59), 9), (dt.time(21), 10)], ids=str
)
def test_a_day_is_whole_only_once_it_is_over_in_riyadh(time, last_whole):
    """A bank asked at 20:59:59Z may still book on that day, at 21:00Z no more."""
    asked_at = dt.datetime.combine(dt.date(2026, 2, 10), time, dt.UTC)

    (row,) = coverage(dt.date(2026, 2, 3), dt.date(2026, 2, 10), asked_at)

    assert (row["whole_from_date"].day, row["whole_to_date"].day) == (4, last_whole)
    assert row["known_to_at"] == asked_at


def monthly(**changed):
    """Months of an account without movements, read of a quarter and offered since January 31st."""
    claim = {
        "account_key": KEY,
        "pull_id": "0",
        "claimed_from": dt.date(2025, 12, 1),
        "claimed_to": FEB_28,
        "offered_from": dt.date(2026, 1, 31),
    }
    pulls = [{"pull_id": "0", "refreshed_at": dt.datetime(2026, 3, 1, 10, tzinfo=dt.UTC)}]
    spoken = run("int_account_coverage", int_covering_pulls=[claim], pulls=pulls, **changed)
    found = run(
        "fct_cash_flow_monthly",
        int_account_months=run("int_account_months", int_account_coverage=spoken),
        int_account_currencies=[{"account_key": KEY, "currency": "SAR"}],
    )
    return {
        row["riyadh_month"]: (row["covered_days"], row["is_full_month"], row["net_amount"])
        for row in found
    }


def test_months_that_the_bank_does_not_offer_are_unknown_and_not_zero():
    """They were read and came back empty: no day of them is known. A mutant shows a zero."""
    mutant = {"greatest(claims.claimed_from, claims.offered_from)": "claims.claimed_from"}

    told = monthly()

    assert told["2026-02"] == (28, True, 0)
    assert told["2026-01"][:2] == (0, False)
    assert "2025-12" not in told
    assert monthly(changed=mutant)["2026-01"] == (31, True, 0)


def test_a_month_counts_the_days_that_are_whole_in_riyadh():
    """The first UTC day claimed starts at 03:00 there, and the last one ends when it was asked."""
    asked_at = dt.datetime(2026, 3, 2, 10, tzinfo=dt.UTC)
    spoken = coverage(dt.date(2026, 1, 31), dt.date(2026, 3, 2), asked_at)

    months = run("int_account_months", int_account_coverage=spoken)

    assert {
        (row["riyadh_month"], row["covered_days"], row["is_full_month"], row["data_through_date"])
        for row in months
    } == {
        ("2026-01", 0, False, dt.date(2026, 1, 31)),
        ("2026-02", 28, True, FEB_28),
        ("2026-03", 1, False, dt.date(2026, 3, 2)),
    }


def test_coverage_is_cut_at_riyadh_months():
    """A stretch over the end of a month is a row per Riyadh month, without a day in both."""
    asked_at = dt.datetime(2026, 4, 1, tzinfo=dt.UTC)

    rows = coverage(dt.date(2026, 2, 27), dt.date(2026, 3, 2), asked_at)

    assert [(row["from_date"], row["to_date"]) for row in rows] == [
        (dt.date(2026, 2, 27), FEB_28),
        (MAR_1, dt.date(2026, 3, 3)),
    ]


def test_an_account_opened_within_a_month_has_no_full_month_there():
    """Averages over full months leave it out, though every day is known."""
    known = {
        "account_key": KEY,
        "riyadh_month": "2026-02",
        "covered_days": 28,
        "data_through_date": FEB_28,
    }

    def is_full(opening_date):
        (row,) = run(
            "fct_cash_flow_monthly",
            int_account_months=[known],
            int_account_currencies=[
                {"account_key": KEY, "currency": "SAR", "opening_date": opening_date}
            ],
        )
        assert (row["booked_count"], row["covered_days"]) == (0, 28)
        return row["is_full_month"]

    assert is_full(FEB_1)
    assert is_full(None)
    assert not is_full(dt.date(2026, 2, 2))
