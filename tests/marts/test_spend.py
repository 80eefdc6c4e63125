"""fct_spend_monthly and the categories it rests on, against the truth, in plain Python."""

import csv
import datetime as dt
from collections import defaultdict
from decimal import ROUND_HALF_UP, Decimal
from functools import cache

import pytest
from known import models, riyadh_date
from tiny import run
from truth import REVERSALS, account_keys, movements, placed_at, signed, whole_days

from lean_resources.sandbox.flows import ABROAD, FLOWS, MERCHANTS

SHOPS = {shop.name: shop.category for shop in (*MERCHANTS, *ABROAD)}
KINDS = {flow.proprietary: flow.category for flow in FLOWS.values()}
NOON = dt.datetime(2026, 2, 10, 12, tzinfo=dt.UTC)


@cache
def seed(name):
    """Rows of a seed."""
    lines = models().seeds[name].read_text(encoding="utf-8").splitlines()
    return list(csv.DictReader(line for line in lines if not line.startswith("#")))


def insight_of(row):
    """What the offline Lean's enrichment says, which its truth leaves out."""
    return SHOPS.get(row["merchant_name"]) or KINDS.get(row["proprietary_code"])


def category_of(row):
    """Lean's category, else the merchant code's, the marks', or that of the kind of movement."""
    if insight_of(row):
        return insight_of(row)
    code = (row["merchant_category_code"] or "")[-4:]
    for one in seed("mcc_categories"):
        if code and one["mcc_from"] <= code <= one["mcc_to"]:
            return one["category"]
    marks = {one["flag"]: one["category"] for one in seed("flag_categories")}
    marked = sorted(marks[flag] for flag in row["flags"] or () if flag in marks)
    if marked:
        return marked[0]
    kinds = {
        (one["transaction_type"], one["sub_transaction_type"]): one["category"]
        for one in seed("type_categories")
    }
    sub = row["sub_transaction_type"]
    return kinds.get((row["transaction_type"], sub)) or kinds.get(("", sub)) or "UNKNOWN"


def opaque(row):
    """Whether nothing tells a movement's direction, category or kind."""
    kinds = {row["transaction_type"], row["sub_transaction_type"]}
    return (
        signed(row["amount"], row["credit_debit_indicator"]) in (None, 0)
        or category_of(row) in ("UNKNOWN", "UNSUPPORTED")
        or kinds <= {None, "UNSUPPORTED", "UNKNOWN"}
    )


def opaque_share(rows):
    """Share of the money of some movements that was not understood, or None without money."""
    rows = list(rows)
    moved = sum((abs(row["amount"]) for row in rows), Decimal(0))
    hidden = sum((abs(row["amount"]) for row in rows if opaque(row)), Decimal(0))
    return (hidden / moved).quantize(Decimal("0.0001"), ROUND_HALF_UP) if moved else None


def own_transfers(world):
    """Ids of the legs of transfers between own accounts, as the ledger's oracle holds them."""
    return {
        row["movement_id"]
        for row in world.rows("from fct_transaction_links where link_kind = 'internal_transfer'")
    }


def test_spending_is_what_left_and_what_came_back(world):
    """Every sum and count of every category and month is that of the booked movements."""
    keys, own = account_keys(world), own_transfers(world)
    true = defaultdict(lambda: [Decimal(0), Decimal(0), 0, 0, set()])
    for movement_id, row in movements(world).items():
        value = signed(row["amount"], row["credit_debit_indicator"])
        if row["status"] != "BOOKED" or not value or movement_id in own:
            continue
        sub = row["sub_transaction_type"]
        is_spent = value < 0 and sub not in REVERSALS
        if is_spent or (value > 0 and (sub in REVERSALS or sub == "REFUND")):
            month = riyadh_date(placed_at(row)).replace(day=1)
            found = true[keys[row["account_id"]], row["currency"], month, category_of(row)]
            found[0 if is_spent else 1] += abs(value)
            found[2 if is_spent else 3] += 1
            if is_spent and row["merchant_name"]:
                found[4].add(row["merchant_name"])
    covered = whole_days(world)
    kinds = {one["category"]: one for one in seed("categories")}

    held = world.table("fct_spend_monthly", "account_key", "currency", "booking_month", "category")

    assert set(held) == set(true)
    for key, (spend, back, count, refunds, merchants) in true.items():
        shown = held[key]
        assert (shown["spend"], shown["refunds_and_reversals"]) == (spend, back)
        assert shown["net_spend"] == spend - back
        assert (shown["movement_count"], shown["refund_count"]) == (count, refunds)
        assert shown["merchant_count"] == len(merchants)
        assert shown["is_essential"] == (kinds[key[3]]["is_essential"] == "true")
        assert shown["arabic_name"] == kinds[key[3]]["arabic_name"]
        days = [day for day in covered[key[0]] if (day.year, day.month) == key[2].timetuple()[:2]]
        assert shown["covered_days"] == len(days)
    assert "UNKNOWN" in {key[3] for key in true}, "what nothing tells has to be shown as such"


def test_months_know_how_many_of_their_days_are_covered(world):
    """An account's month counts each covered day once, and is full only with all of them."""
    true = defaultdict(set)
    for key, days in whole_days(world).items():
        for day in days:
            true[key, f"{day:%Y-%m}"].add(day)

    held = world.table("int_account_months", "account_key", "riyadh_month")

    assert {key for key, row in held.items() if row["covered_days"]} == set(true)
    for key, days in true.items():
        first = min(days).replace(day=1)
        length = ((first + dt.timedelta(days=32)).replace(day=1) - first).days
        assert held[key]["covered_days"] == len(days)
        assert held[key]["is_full_month"] == (len(days) == length)
        assert (held[key]["covered_from"], held[key]["covered_to"]) == (min(days), max(days))


def movement(number, amount, **more):
    """A booked movement out of one account, by hand."""
    value = Decimal(amount)
    given = {
        "movement_id": f"a:{number}",
        "account_key": "a",
        "currency": "SAR",
        "signed_amount": value,
        "direction": "in" if value > 0 else "out",
        "category": "GROCERIES",
        "merchant_match": "ASWAQ",
        "is_booked": True,
        "is_internal_transfer": False,
        "is_reversal": False,
        "booking_date": NOON.date(),
        "booking_month": dt.date(2026, 2, 1),
        "month": "2026-02",
    }
    return given | more


def spent(*rows, **more):
    """What fct_spend_monthly makes of movements."""
    return run("fct_spend_monthly", fct_transactions=rows, **more)


def test_two_identical_purchases_are_spent_twice():
    """The same coffee at the same minute counts as often as the bank booked it."""
    (row,) = spent(movement(1, "-18.00"), movement(2, "-18.00"))

    assert (row["spend"], row["movement_count"], row["merchant_count"]) == (Decimal(36), 2, 1)


def test_a_refund_counts_in_the_month_it_came_back_in():
    """What came back later leaves the month of the purchase as it was."""
    later = {"booking_month": dt.date(2026, 3, 1), "month": "2026-03"}
    rows = spent(
        movement(1, "-100.00"), movement(2, "40.00", sub_transaction_type="REFUND", **later)
    )

    by_month = {row["month"]: row for row in rows}
    assert by_month["2026-02"]["net_spend"] == Decimal(100)
    assert by_month["2026-03"]["net_spend"] == Decimal(-40)
    assert by_month["2026-03"]["spend"] == Decimal(0)


def test_pending_and_rejected_rows_are_not_spent():
    """Only booked money counts."""
    rows = spent(
        movement(1, "-10.00"),
        movement(2, "-20.00", is_booked=False, status="PENDING"),
        movement(3, "-40.00", is_booked=False, status="REJECTED"),
    )

    assert [row["spend"] for row in rows] == [Decimal(10)]


def test_a_reversed_deposit_is_not_spent_and_own_money_neither():
    """Money out that takes back what came in, or goes to an own account, buys nothing."""
    rows = spent(
        movement(1, "-10.00", is_reversal=True), movement(2, "-20.00", is_internal_transfer=True)
    )

    assert rows == []


def test_currencies_are_never_added_up():
    """One category in two currencies is two rows, each exact to its last decimal place."""
    rows = spent(movement(1, "-10.01"), movement(2, "-0.125", currency="KWD"))

    assert {row["currency"]: row["spend"] for row in rows} == {
        "SAR": Decimal("10.01"),
        "KWD": Decimal("0.125"),
    }


def test_a_partly_covered_month_says_so():
    """An account opened or closed in mid-month has sums of the days that are known, marked so."""
    (row,) = spent(
        movement(1, "-10.00"),
        int_account_months=[
            {
                "account_key": "a",
                "riyadh_month": "2026-02",
                "covered_days": 12,
                "is_full_month": False,
            }
        ],
    )

    assert (row["covered_days"], row["is_full_month"]) == (12, False)


def test_a_category_that_nobody_knows_is_shown_under_its_own_name():
    """A word that Lean adds one day is neither dropped nor called essential or not."""
    (row,) = spent(movement(1, "-10.00", category="PETS"))

    assert (row["english_name"], row["is_essential"]) == ("PETS", None)


@pytest.mark.parametrize(
    ("told", "category", "source"),
    [
        ({"insight_category": "TRAVEL", "merchant_category_code": "CC5411"}, "TRAVEL", "insight"),
        ({"merchant_category_code": "CC5411"}, "GROCERIES", "merchant"),
        ({"merchant_category_code": "5499"}, "GROCERIES", "merchant"),
        ({"merchant_category_code": "CC0001", "flags": ["LOAN"]}, "LOANS_AND_INVESTMENT", "flag"),
        (
            {
                "flags": ["DIRECT_DEBIT", "PAYROLL"],
                "transaction_type": "LOCAL_BANK_TRANSFER",
                "sub_transaction_type": "DEPOSIT",
            },
            "SALARY_AND_REVENUE",
            "flag",
        ),
        ({"sub_transaction_type": "FEE"}, "BANK_FEES_AND_CHARGES", "type"),
        ({"flags": ["STANDING_ORDER"]}, "UNKNOWN", "none"),
        ({}, "UNKNOWN", "none"),
    ],
    ids=["insight", "merchant", "end-of-range", "mark", "marks", "type", "mark-of-way", "nothing"],
)  # fmt: skip
def test_a_category_is_told_by_the_best_there_is(told, category, source):
    """Lean's word wins over the merchant's code, that over marks, those over the kind."""
    row = {
        "account_id": "1",
        "transaction_id": "t",
        "pull_id": "p",
        "placed_at": NOON,
        "booking_date": NOON.date(),
    }
    claim = {
        "account_key": "a",
        "account_id": "1",
        "pull_id": "p",
        "claimed_from": NOON.date(),
        "claimed_to": NOON.date(),
    }

    (found,) = run("fct_transactions", stg_movements=[row | told], int_covering_pulls=[claim])

    assert (found["category"], found["category_source"]) == (category, source)


def test_the_checks_of_the_categories_find_what_they_are_for():
    """Overlapping ranges, doubled keys and categories that do not exist are offenders."""
    overlap = run(
        "fct_transactions__merchant_codes_do_not_overlap",
        mcc_categories=[
            {"mcc_from": "5411", "mcc_to": "5499", "category": "GROCERIES"},
            {"mcc_from": "5499", "mcc_to": "5500", "category": "TRANSPORT"},
            {"mcc_from": "6000", "mcc_to": "5999", "category": "OTHER"},
        ],
    )
    unknown = run(
        "fct_transactions__seeds_name_known_categories",
        flag_categories=[
            {"flag": "LOAN", "category": "LOANS"},
            {"flag": "PAYROLL", "category": "OTHER"},
            {"flag": "PAYROLL", "category": "TRAVEL"},
        ],
    )

    assert {row["mcc_from"] for row in overlap} == {"5411", "6000"}
    assert {row["entry"] for row in unknown} == {"LOAN", "PAYROLL"}
    assert run("fct_transactions__merchant_codes_do_not_overlap") == []
    assert run("fct_transactions__seeds_name_known_categories") == []


def test_a_spend_that_forgets_reversals_is_caught():
    """A mutant that counts a reversed deposit as spending gives another answer."""
    rows = [movement(1, "-10.00"), movement(2, "-20.00", is_reversal=True)]
    mutant = run(
        "fct_spend_monthly",
        changed={"direction = 'out' and not is_reversal": "direction = 'out'"},
        fct_transactions=rows,
    )

    assert mutant[0]["spend"] != spent(*rows)[0]["spend"]
