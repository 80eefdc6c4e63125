"""Recurring payments and income against the truth of the offline Lean, in plain Python."""

import calendar
import datetime as dt
from collections import Counter, defaultdict
from decimal import Decimal
from itertools import pairwise

import pytest
from known import keyed_hash, riyadh_date
from test_spend import category_of
from tiny import run
from truth import (
    REVERSALS,
    account_keys,
    counterparty,
    movements,
    own_numbers,
    placed_at,
    signed,
    whole_days,
)

DAY = dt.timedelta(days=1)
WORDS = {
    "salary": ("SALARY", "PAYROLL", "راتب", "رواتب"),
    "instalment": ("INSTALMENT", "FINANCE", "قسط", "تمويل"),
    "rent": ("RENT ", "إيجار"),
}
PERIODS = {
    "daily": (1, 2, 100, 200, 10),
    "weekly": (6, 8, 700, 200, 4),
    "fortnightly": (13, 16, 1400, 300, 4),
    "monthly": (26, 35, 3044, 600, 3),
    "quarterly": (84, 98, 9131, 1500, 3),
    "yearly": (350, 380, 36524, 2000, 2),
}
"""Bounds of the median gap, the period and its tolerance in hundredths of a day, the least days."""


def purpose_of(row):
    """What the bank's text says, in the words that the offline Lean's banks use."""
    text = (row["transaction_information"] or "") + " "
    for purpose, words in WORDS.items():
        if any(word in text for word in words):
            return purpose
    return None


def nature_of(row, value, has_party):
    """What a payment is, and what told it, the bank's mark first."""
    flags, kind, sub = row["flags"] or (), row["transaction_type"], row["sub_transaction_type"]
    purpose = purpose_of(row)
    if value > 0:
        rules = (
            ("PAYROLL" in flags, "salary", "flag"),
            (purpose == "salary", "salary", "text"),
            (sub in ("PROFIT", "INTEREST"), "profit", "kind"),
            ("DIVIDEND" in flags, "profit", "flag"),
            ((kind, sub) == ("POS", "DEPOSIT"), "settlement", "kind"),
            (has_party == "account", "transfer", "party"),
            (True, "other", "party"),
        )
    else:
        rules = (
            ("LOAN" in flags, "instalment", "flag"),
            (sub in ("REPAYMENTS", "LEASE_REPAYMENT"), "instalment", "kind"),
            (purpose in ("instalment", "rent"), purpose, "text"),
            (row["biller_id"] is not None or kind == "BILL_PAYMENTS", "bill", "kind"),
            (
                sub in ("FEE", "CHARGES") or category_of(row) == "BANK_FEES_AND_CHARGES",
                "fee",
                "kind",
            ),
            (has_party == "merchant", "subscription", "party"),
            (has_party == "account", "transfer", "party"),
            (True, "other", "party"),
        )
    return next((nature, source) for holds, nature, source in rules if holds)


def true_streams(world):
    """Payments that belong together, by account, currency, direction, other side and nature."""
    keys, own, found = account_keys(world), own_numbers(world), defaultdict(list)
    linked = {
        row["movement_id"]
        for row in world.rows("from fct_transaction_links where link_kind <> 'reversal'")
    }
    for movement_id, row in movements(world).items():
        value = signed(row["amount"], row["credit_debit_indicator"])
        sub, kind = row["sub_transaction_type"], row["transaction_type"]
        _, other = counterparty(row, own[keys[row["account_id"]]])
        if row["status"] != "BOOKED" or not value or movement_id in linked:
            continue
        if sub in REVERSALS or sub == "REFUND" or (value < 0 and kind in ("POS", "ATM")):
            continue
        if row["biller_id"]:
            party = ("biller", row["biller_id"])
        elif other:
            party = ("account", keyed_hash(other))
        elif row["merchant_name"]:
            party = ("merchant", row["merchant_name"])
        elif kind or sub:
            party = ("kind", kind, sub, tuple(row["flags"] or ()))
        else:
            party = ("amount", abs(value))
        nature, source = nature_of(row, value, party[0])
        group = (keys[row["account_id"]], row["currency"], value > 0, party, nature)
        found[group].append((riyadh_date(placed_at(row)), movement_id, abs(value), source))
    return {
        group: sorted(paid)
        for group, paid in found.items()
        if len(paid) > 1 or paid[0][3] in ("flag", "text")
    }


def cadence_of(nature, days, amounts):
    """The cadence of some days, and how many periods between them brought nothing."""
    gaps = [(b - a).days for a, b in pairwise(days)]
    months = {(day.year, day.month) for day in days}
    spanned = (days[-1].year - days[0].year) * 12 + days[-1].month - days[0].month + 1
    if nature == "subscription" and max(amounts) > min(amounts) * Decimal("1.1"):
        return "irregular", None
    middle = sorted(gaps)[(len(gaps) - 1) // 2] if gaps else 0
    for name, (low, high, period, tolerance, least) in PERIODS.items():
        if low <= middle <= high and len(days) >= least:
            counts = [max(1, (2 * gap * 100 + period) // (2 * period)) for gap in gaps]
            fitting = sum(
                abs(gap * 100 - count * period) <= tolerance
                for gap, count in zip(gaps, counts, strict=True)
            )
            is_equal = name != "yearly" or min(amounts) == max(amounts)
            if fitting * 4 >= len(gaps) * 3 and is_equal:
                return name, sum(counts) - len(counts)
    if len(months) >= 3 and len(days) == len(months) and len(months) * 5 >= spanned * 4:
        return "monthly", spanned - len(months)
    return "irregular", None


def typical_day_of(cadence, days):
    """The most frequent day of the month where most days keep to it."""
    if cadence not in ("monthly", "quarterly", "yearly"):
        return None
    counted = Counter(day.day for day in days)
    best = max(counted, key=lambda day: (counted[day], day))
    return best if sum(-1 <= best - day.day <= 3 for day in days) * 4 >= len(days) * 3 else None


def in_month(year, month, day):
    """A day of a month, counted on from January of the year, the last one where it has fewer."""
    year, month = year + (month - 1) // 12, (month - 1) % 12 + 1
    return dt.date(year, month, min(day, calendar.monthrange(year, month)[1]))


def thursday_before(day):
    """The Thursday before a Friday or Saturday; any other day itself."""
    return day - DAY * max(0, day.isoweekday() - 4) if day.isoweekday() in (5, 6) else day


def next_expected(cadence, typical, moves, last):
    """When the next payment is due."""
    steps = {"daily": 1, "weekly": 7, "fortnightly": 14}
    if cadence in steps:
        return last + DAY * steps[cadence]
    on = {"monthly": 1, "quarterly": 3, "yearly": 12}[cadence]
    if typical is None:
        return in_month(last.year, last.month + on, 31)
    if typical <= 3:
        last += 3 * DAY
    due = in_month(last.year, last.month + on, typical)
    return thursday_before(due) if moves else due


def test_streams_have_the_rhythm_of_their_days(world):
    """Every stream's payments, amounts, cadence, typical day and next date are the truth's."""
    true, covered = true_streams(world), whole_days(world)
    held = {
        tuple(row["movement_ids"]): row
        for row in world.rows("from intermediate.int_payment_streams")
    }

    assert set(held) == {tuple(one[1] for one in paid) for paid in true.values()}
    for (key, currency, is_in, party, nature), paid in true.items():
        shown = held[tuple(one[1] for one in paid)]
        days, amounts = sorted({one[0] for one in paid}), sorted(one[2] for one in paid)
        assert (shown["account_key"], shown["currency"]) == (key, currency)
        assert (shown["direction"], shown["party_kind"]) == ("in" if is_in else "out", party[0])
        if shown["kind_source"] != "inferred":
            assert shown["kind"] == nature
        assert shown["occurrence_count"] == len(paid)
        assert shown["typical_payment"] == amounts[(len(amounts) - 1) // 2]
        assert (shown["smallest_payment"], shown["largest_payment"]) == (amounts[0], amounts[-1])
        assert shown["total_payment"] == sum(amounts)
        mean = sum(amounts) / len(amounts)
        deviation = (sum((one - mean) ** 2 for one in amounts) / len(amounts)).sqrt()
        assert abs(shown["payment_variation"] - deviation / mean) <= Decimal("0.0001")
        assert (shown["first_date"], shown["last_date"]) == (days[0], days[-1])
        assert shown["months_seen"] == len({(day.year, day.month) for day in days})
        cadence, skipped = cadence_of(nature, days, amounts)
        assert shown["cadence"] == cadence
        known = covered[key]
        has_holes = len(known) < (max(known) - min(known)).days + 1
        assert shown["skipped_count"] == (None if has_holes else skipped)
        typical = typical_day_of(cadence, days)
        assert shown["typical_day"] == typical
        if cadence == "irregular":
            continue
        dues = [(day, in_month(day.year, day.month, typical)) for day in days if typical]
        weekends = [(day, due) for day, due in dues if due.isoweekday() in (5, 6)]
        moves = all(day == thursday_before(due) for day, due in weekends) if weekends else None
        assert shown["moves_before_weekend"] == moves
        assert shown["next_expected_date"] == next_expected(cadence, typical, moves, days[-1])


def test_every_salary_rent_and_instalment_is_found(world):
    """What the offline Lean pays each month is found with its exact amount, cadence and ids."""
    keys, true = account_keys(world), defaultdict(list)
    kinds = {"SALA": "salary", "STOR": "rent", "LOAN": "instalment"}
    for movement_id, row in movements(world).items():
        if row["status"] == "BOOKED" and row["proprietary_code"] in kinds:
            kind = kinds[row["proprietary_code"]]
            true[keys[row["account_id"]], kind].append((movement_id, row["amount"]))
    held = {
        (row["account_key"], row["kind"]): row
        for row in world.rows("from fct_recurring where kind in ('salary', 'rent', 'instalment')")
    }

    found = 0
    for (key, kind), paid in true.items():
        if len(paid) >= 3:
            row = held[key, kind]
            assert set(row["movement_ids"]) == {movement_id for movement_id, _ in paid}
            assert {row["typical_amount"]} == {amount for _, amount in paid}
            assert (row["cadence"], row["amount_spread"]) == ("monthly", 0)
            found += 1
            if kind == "salary":
                assert (row["typical_day"], row["moves_before_weekend"]) == (27, True)
    assert found > 20, "a world without them proves nothing"
    assert {kind for _, kind in true} == set(kinds.values())


def test_a_bank_that_tells_nothing_still_shows_a_salary(world):
    """Where no mark, text or payer is told, the largest steady payment in is taken for one."""
    account_ids = world.sandbox.example("null_heavy")["account_ids"]
    key = account_keys(world)[account_ids[0]]

    rows = world.rows(f"from fct_income_streams where account_key = '{key}' and kind = 'salary'")

    assert [(row["salary_source"], row["cadence"]) for row in rows] == [("inferred", "monthly")]
    assert {row["confidence"] for row in rows} == {Decimal("0.6")}


def test_income_is_every_stream_in_by_its_kind(world):
    """Kinds, sources and amounts of income are those of the streams; none is left out."""
    rows = world.table("fct_income_streams", "stream_id")
    streams = world.rows(
        "from intermediate.int_payment_streams where direction = 'in' and kind <> 'disbursement'"
    )
    names = {"support": "government", "pension": "government", "transfer": "transfers"}

    assert set(rows) == {(one["stream_id"],) for one in streams}
    for one in streams:
        shown = rows[(one["stream_id"],)]
        assert shown["kind"] == names.get(one["kind"], one["kind"])
        assert shown["median_amount"] == one["typical_payment"]
        assert shown["movement_ids"] == one["movement_ids"]
        assert (shown["salary_source"] is None) == (one["kind"] != "salary")
        is_over = (one["overdue_count"] or 0) > 1 or (
            one["overdue_count"] is None and (one["data_through_date"] - one["last_date"]).days > 90
        )
        assert (shown["status"] == "stopped") == is_over
    assert {"salary", "profit"} <= {row["kind"] for row in rows.values()}
    assert {row["salary_source"] for row in rows.values()} >= {"bank", "inferred"}


def payment(number, day, amount, **more):
    """A payment out of one account, by hand."""
    given = {
        "movement_id": f"a:{number:03}",
        "stream_id": "s",
        "account_key": "a",
        "currency": "SAR",
        "payment": Decimal(amount),
        "direction": "out",
        "party_kind": "account",
        "party": "p",
        "counterparty_key": "p",
        "nature": "transfer",
        "nature_source": "party",
        "is_direct_debit": False,
        "is_standing_order": False,
        "booking_date": day,
        "month": f"{day:%Y-%m}",
    }
    return given | more


def months(first, last, **more):
    """Coverage of an account by month, each wholly covered."""
    found, day = [], first.replace(day=1)
    while day <= last:
        end = in_month(day.year, day.month, 31)
        found.append(
            {
                "account_key": "a",
                "riyadh_month": f"{day:%Y-%m}",
                "covered_from": day,
                "covered_to": min(end, last),
                "covered_days": (min(end, last) - day).days + 1,
                "is_full_month": end <= last,
            }
            | more
        )
        day = end + DAY
    return found


def stream(days, *, through=None, amounts=None, **more):
    """The one stream of payments on some days."""
    paid = [
        payment(number, day, amounts[number] if amounts else "100.00", **more)
        for number, day in enumerate(days)
    ]
    known = months(days[0], through or days[-1])
    (row,) = run("int_payment_streams", int_counterparty_movements=paid, int_account_months=known)
    return row


FIRST = dt.date(2025, 1, 9)


@pytest.mark.parametrize(
    ("days", "cadence"),
    [
        ([FIRST + DAY * step for step in range(12)], "daily"),
        ([FIRST + 7 * DAY * step for step in range(5)], "weekly"),
        ([FIRST + 14 * DAY * step for step in range(5)], "fortnightly"),
        ([in_month(2025, 1 + step, 31) for step in range(5)], "monthly"),
        ([in_month(2025, 1 + 3 * step, 9) for step in range(4)], "quarterly"),
        ([in_month(2025, 1 + 12 * step, 9) for step in range(2)], "yearly"),
        ([FIRST, FIRST + 3 * DAY, FIRST + 50 * DAY, FIRST + 61 * DAY], "irregular"),
        ([FIRST, FIRST + 30 * DAY], "irregular"),
    ],
    ids=["day", "week", "fortnight", "month-end", "quarter", "year", "none", "too-few"],
)
def test_cadence_is_told_by_the_days_alone(days, cadence):
    """Each cadence is found, month ends included, and two payments are no rhythm but a year's."""
    assert stream(days)["cadence"] == cadence


def test_a_missed_month_counts_as_missed_and_not_as_another_rhythm():
    """Monthly payments with one left out stay monthly, with one period skipped."""
    row = stream([in_month(2025, month, 5) for month in (1, 2, 3, 5, 6, 7)])

    assert (row["cadence"], row["skipped_count"]) == ("monthly", 1)


def test_a_month_that_nobody_read_is_not_a_missed_payment():
    """Where days are not covered, what is missing is unknown and not counted."""
    days = [in_month(2025, month, 5) for month in (1, 2, 3, 5, 6, 7)]
    known = [one for one in months(days[0], days[-1]) if one["riyadh_month"] != "2025-04"]

    (row,) = run(
        "int_payment_streams",
        int_counterparty_movements=[payment(n, day, "1") for n, day in enumerate(days)],
        int_account_months=known,
    )

    assert (row["uncovered_days"], row["skipped_count"]) == (30, None)


@pytest.mark.parametrize(
    ("through", "overdue", "status"),
    [
        (dt.date(2025, 7, 11), 0, "active"),
        (dt.date(2025, 7, 12), 1, "late"),
        (dt.date(2025, 8, 11), 1, "late"),
        (dt.date(2025, 8, 12), 2, "stopped"),
    ],
    ids=["within-grace", "a-day-after", "before-the-second", "second-overdue"],
)
def test_a_payment_is_late_only_after_its_days_of_grace(through, overdue, status):
    """Six days after the due day of a monthly payment it is late; with two overdue it stopped."""
    row = stream([in_month(2025, month, 5) for month in range(1, 7)], through=through)

    (shown,) = run("fct_recurring", int_payment_streams=[row])

    assert row["next_expected_date"] == dt.date(2025, 7, 5)
    assert (row["overdue_count"], shown["status"]) == (overdue, status)
    assert shown["missed_count"] == {"stopped": 0}.get(status, overdue)


def test_two_equal_payments_on_one_day_are_both_counted():
    """Both are occurrences and both are evidence; the rhythm is that of the days."""
    days = [in_month(2025, month, 5) for month in (1, 2, 2, 3, 4)]

    row = stream(days)

    assert (row["occurrence_count"], row["day_count"], row["cadence"]) == (5, 4, "monthly")
    assert len(row["movement_ids"]) == 5


def test_shopping_is_no_subscription_and_a_subscription_may_rise_a_little():
    """Payments to a merchant recur only if they are about the same."""
    days = [in_month(2025, month, 5) for month in (1, 2, 3, 4)]
    shop = {"nature": "subscription", "party_kind": "merchant"}

    assert stream(days, amounts=["20", "20", "22", "22"], **shop)["cadence"] == "monthly"
    assert stream(days, amounts=["20", "20", "22", "23"], **shop)["cadence"] == "irregular"


def test_a_recurrence_names_the_order_and_the_mandate_behind_it():
    """A standing order is told by its receiver, a mandate by the day and amount it collected."""
    days = [in_month(2025, month, 5) for month in (1, 2, 3)]
    receiver = keyed_hash("SA0380000000608010167519")
    rows = [payment(n, day, "100.125", counterparty_key=receiver) for n, day in enumerate(days)]
    (row,) = run("int_payment_streams", int_counterparty_movements=rows)
    order = {
        "account_id": "1",
        "standing_order_id": "SO-1",
        "creditor_account_identification": "SA03 8000 0000 6080 1016 7519",
    }
    debit = {
        "account_id": "1",
        "direct_debit_id": "DD-1",
        "previous_payment_date": days[2],
        "previous_payment_amount": Decimal("100.125"),
        "previous_payment_currency": "SAR",
    }
    given = {
        "int_payment_streams": [row],
        "int_counterparty_movements": rows,
        "stg_standing_orders": [order],
        "bridge_accounts": [{"account_id": "1", "account_key": "a"}],
    }

    (shown,) = run("fct_recurring", stg_direct_debits=[debit], **given)
    (other,) = run(
        "fct_recurring", stg_direct_debits=[debit | {"previous_payment_currency": "KWD"}], **given
    )

    assert (shown["standing_order_id"], shown["direct_debit_id"]) == ("SO-1", "DD-1")
    assert other["direct_debit_id"] is None


def test_what_does_not_count_is_in_no_stream():
    """Pending, rejected, refunded, reversed, own and signless movements, and shopping, are out."""
    row = {
        "movement_id": "a:1",
        "account_key": "a",
        "currency": "SAR",
        "signed_amount": Decimal(-5),
        "direction": "out",
        "is_booked": True,
        "is_internal_transfer": False,
        "is_reversal": False,
        "is_reversed": False,
        "is_payroll": False,
        "counterparty_key": "p",
        "transaction_type": "LOCAL_BANK_TRANSFER",
        "booking_date": FIRST,
    }
    bad = (
        {"is_booked": False},
        {"is_internal_transfer": True},
        {"is_reversal": True},
        {"is_reversed": True},
        {"direction": None, "signed_amount": None},
        {"direction": "in", "signed_amount": Decimal(5), "sub_transaction_type": "REFUND"},
        {"transaction_type": "POS"},
    )

    assert len(run("int_counterparty_movements", fct_transactions=[row])) == 1
    assert run("int_counterparty_movements", fct_transactions=[row | one for one in bad]) == []


def test_a_rhythm_that_forgets_its_tolerance_is_caught():
    """A mutant that takes any gap for a whole period calls chance a rhythm."""
    days = [FIRST, FIRST + 15 * DAY, FIRST + 29 * DAY, FIRST + 50 * DAY, FIRST + 64 * DAY]
    days += [FIRST + 140 * DAY]
    mutant = run(
        "int_payment_streams",
        changed={"fitting * 4 >= gap_count * 3": "fitting * 4 >= gap_count"},
        int_counterparty_movements=[payment(n, day, "100") for n, day in enumerate(days)],
    )

    assert (stream(days)["cadence"], mutant[0]["cadence"]) == ("irregular", "fortnightly")
