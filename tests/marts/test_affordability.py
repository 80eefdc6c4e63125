"""fct_obligations and fct_affordability against the truth and proved tables, in plain Python."""

import calendar
import datetime as dt
from collections import defaultdict
from decimal import ROUND_HALF_UP, Decimal

import pytest
from test_flows import in_month, months, payment, true_streams
from test_spend import seed
from tiny import run
from truth import account_keys, whole_days

TODAY = dt.date(2026, 3, 16)


def rounded(value, places="0.001"):
    """A mean as it is shown, half up."""
    return value.quantize(Decimal(places), ROUND_HALF_UP)


def customers_of(world):
    """Customers by real account, of everybody who ever shared it."""
    keys, found = account_keys(world), defaultdict(set)
    for day in world.days:
        owners = {entity: row["customer_id"] for (entity,), row in day["entities"].items()}
        for (account_id,), row in day["accounts"].items():
            if row["entity_id"] in owners:
                found[keys[account_id]].add(owners[row["entity_id"]])
    return found


def full_months(covered):
    """Months of a set of days of which no day is missing."""
    counted = defaultdict(int)
    for day in covered:
        counted[day.year, day.month] += 1
    return {month for month, days in counted.items() if days == calendar.monthrange(*month)[1]}


def test_obligations_are_every_instalment_rent_and_mandate(world):
    """Each is there for each holder, with exact averages over full and over paid months."""
    owners, covered = customers_of(world), whole_days(world)
    flagged = {
        row["stream_id"]: row
        for row in world.rows("from fct_payment_streams where is_direct_debit or is_standing_order")
    }
    marked = {tuple(row["movement_ids"]) for row in flagged.values()}
    true = defaultdict(list)
    for (key, currency, is_in, party, nature), paid in true_streams(world).items():
        kind = {"instalment": "loan", "rent": "rent"}.get(nature, "mandate")
        if is_in or (kind == "mandate" and tuple(one[1] for one in paid) not in marked):
            continue
        for customer in owners[key]:
            true[customer, currency, kind, party].append((key, paid))

    held = {
        (row["customer_id"], tuple(sorted(row["movement_ids"]))): row
        for row in world.rows("from fct_obligations")
    }

    assert len(held) == len(true)
    for (customer, currency, kind, _), parts in true.items():
        paid = sorted(one for _, some in parts for one in some)
        row = held[customer, tuple(sorted(one[1] for one in paid))]
        full = set.intersection(*(full_months(covered[key]) for key, _ in parts))
        total = sum(one[2] for one in paid)
        inside = sum((one[2] for one in paid if one[0].timetuple()[:2] in full), Decimal(0))
        seen = {one[0].timetuple()[:2] for one in paid}
        assert (row["currency"], row["kind"]) == (currency, kind)
        assert row["full_months"] == len(full)
        assert row["monthly_average"] == (rounded(inside / len(full)) if full else None)
        assert row["active_average"] == rounded(total / len(seen))
        assert (row["total_payment"], row["payment_count"]) == (total, len(paid))
        assert (row["first_date"], row["last_date"]) == (paid[0][0], paid[-1][0])
        assert row["last_payment"] == paid[-1][2]
    assert {"loan", "rent"} <= {row["kind"] for row in held.values()}
    assert {"flagged", "standing_order"} <= {row["source"] for row in held.values()}


def test_affordability_is_what_its_movements_and_rules_say(world):
    """Income, obligations, ceiling, headroom and verdict follow from proved tables and the seed."""
    owners, covered = customers_of(world), whole_days(world)
    accounts, partial = defaultdict(set), defaultdict(set)
    for key, customers in owners.items():
        for customer in customers:
            if covered[key]:
                accounts[customer].add(key)
    full = {}
    for customer, keys in accounts.items():
        touched = {day.timetuple()[:2] for key in keys for day in covered[key]}
        for key in keys:
            here = {day.timetuple()[:2] for day in covered[key]}
            partial[customer] |= here - full_months(covered[key])
        full[customer] = touched - partial[customer]
    ledger = world.table("fct_transactions", "movement_id")
    income = world.rows("from fct_income_streams where status <> 'stopped' and not is_support")
    owed = world.rows("from fct_obligations where is_ongoing and kind in ('loan', 'bnpl')")
    spend = world.rows("from fct_spend_monthly where is_essential")
    rules = [rule for rule in seed("affordability_rules") if rule["condition"] == "any"]

    held = world.table("fct_affordability", "customer_id", "currency", "rule_version")

    for (customer, currency, _), row in held.items():
        mine = [
            one
            for one in income
            if one["account_key"] in accounts[customer] and one["currency"] == currency
        ]
        named = [one for one in mine if one["kind"] == "salary"]
        other = [one for one in mine if one not in named and one["cadence"] != "irregular"]
        known = full[customer]
        salary = sum((one["median_amount"] for one in named), Decimal(0))
        earned = sum(
            (
                ledger[(movement_id,)]["signed_amount"]
                for one in other
                for movement_id in one["movement_ids"]
                if ledger[(movement_id,)]["booking_date"].timetuple()[:2] in known
            ),
            Decimal(0),
        )
        debts = [
            one for one in owed if (one["customer_id"], one["currency"]) == (customer, currency)
        ]
        obligations = sum((one["active_average"] for one in debts), Decimal(0))
        essential = sum(
            (
                one["net_spend"]
                for one in spend
                if one["account_key"] in accounts[customer]
                and one["currency"] == currency
                and one["booking_month"].timetuple()[:2] in known
            ),
            Decimal(0),
        )
        assert row["full_months"] == len(known)
        assert (row["salary"], row["obligations"]) == (salary, obligations)
        ids = {movement_id for one in named for movement_id in one["movement_ids"]}
        assert set(row["salary_movement_ids"]) == ids
        ids = {movement_id for one in other for movement_id in one["movement_ids"]}
        assert set(row["other_movement_ids"]) == ids
        ids = {movement_id for one in debts for movement_id in one["movement_ids"]}
        assert set(row["obligation_movement_ids"]) == ids
        if not known:
            assert (row["verdict"], row["counted_income"]) == ("unknown", None)
            continue
        average = rounded(earned / len(known))
        counted = rounded(average / 2)
        whole = salary + counted
        assert (row["other_average"], row["other_counted"]) == (average, counted)
        assert row["counted_income"] == whole
        assert row["essential_spend"] == rounded(essential / len(known))
        assert row["window_short_of_rule"] == (counted > 0 and len(known) < 24)
        ceilings = [
            (rounded((salary if rule["basis"] == "salary" else whole) * Decimal(rule["share"])))
            for rule in rules
            if (rule["basis"] == "total_income" or (rule["basis"] == "salary" and salary))
            and whole > Decimal(rule["income_above"] or 0)
            and whole <= Decimal(rule["income_up_to"] or whole)
        ]
        ceiling = min(ceilings) if ceilings else None
        assert row["ceiling"] == ceiling
        if len(known) < 3 or ceiling is None:
            assert row["verdict"] == "unknown"
        else:
            assert row["headroom"] == ceiling - obligations
            assert row["verdict"] == ("within" if obligations <= ceiling else "over")
    assert len(held) > 10, "a world without customers proves nothing"


def afford(*, through=TODAY, income=(), owed=(), movements=(), rules=None, known=None):
    """What fct_affordability makes of one customer."""
    given = {} if rules is None else {"affordability_rules": rules}
    return run(
        "fct_affordability",
        clock=[{"as_of_date": through}],
        bridge_accounts=[{"account_id": "1", "account_key": "a", "customer_id": "c"}],
        fct_account_months=known or months(dt.date(2025, 9, 1), dt.date(2026, 2, 28)),
        fct_income_streams=[
            {
                "account_key": "a",
                "currency": "SAR",
                "status": "ongoing",
                "cadence": "monthly",
                "is_support": False,
                "is_pension": False,
            }
            | one
            for one in income
        ],
        fct_obligations=[
            {"customer_id": "c", "currency": "SAR", "is_ongoing": True, "kind": "loan"} | one
            for one in owed
        ],
        fct_counterparty_movements=movements,
        **given,
    )


def salary(amount, **more):
    """A salary that goes on."""
    return {
        "stream_id": "salary",
        "kind": "salary",
        "median_amount": Decimal(amount),
        "movement_ids": ["a:1"],
    } | more


def test_a_third_of_the_salary_is_the_ceiling_and_a_quarter_of_a_pension():
    """A pension has the smaller share, and headroom is what is left of it."""
    debt = {"active_average": Decimal(1000), "movement_ids": ["a:9"]}
    (working,) = afford(income=[salary(9000)], owed=[debt])
    (retired,) = afford(income=[salary(9000, kind="government", is_pension=True)], owed=[debt])

    assert (working["ceiling"], working["headroom"]) == (Decimal("2999.7"), Decimal("1999.7"))
    assert (retired["rule"], retired["ceiling"]) == ("pension_deduction", Decimal(2250))
    assert working["verification"] == "unverified"
    assert working["obligation_movement_ids"] == ["a:9"]


def test_support_from_the_state_is_no_income_and_other_income_counts_half():
    """Half of what comes in by rhythm counts, support not at all, and the short window is told."""
    paid = [
        payment(n, in_month(2025, 9 + n, 3), "600.000", stream_id="other", direction="in")
        for n in range(6)
    ]
    (row,) = afford(
        income=[
            salary(9000),
            salary(600, stream_id="other", kind="transfers", movement_ids=["a:000"]),
            salary(5000, stream_id="support", kind="government", is_support=True),
        ],
        movements=paid,
    )

    assert (row["other_average"], row["other_counted"]) == (Decimal(600), Decimal(300))
    assert (row["counted_income"], row["window_short_of_rule"]) == (Decimal(9300), True)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (
            {
                "income": [salary(9000)],
                "known": months(dt.date(2026, 1, 1), dt.date(2026, 2, 28)),
            },
            "months_missing",
        ),
        ({"owed": [{"active_average": Decimal(10), "movement_ids": []}]}, "no_income"),
        ({"income": [salary(9000, status="stopped")], "owed": [
            {"active_average": Decimal(10), "movement_ids": []}]}, "no_income"),
    ],
    ids=["two-months", "no-income", "stopped-salary"],
)  # fmt: skip
def test_where_months_or_income_are_missing_nothing_is_said(given, reason):
    """Unknown is not zero: the verdict is unknown, with its reason."""
    (row,) = afford(**given)

    assert (row["verdict"], row["unknown_reason"]) == ("unknown", reason)


def test_the_rules_of_the_day_apply_and_no_others():
    """A version holds from its first day to its last, both inclusive."""
    old = seed("affordability_rules")[0] | {
        "rule_version": "old",
        "valid_from": "2020-01-01",
        "valid_to": "2026-03-15",
    }
    new = old | {
        "rule_version": "new",
        "share": "0.5",
        "valid_from": "2026-03-16",
        "valid_to": None,
    }
    rules = [{name: value or None for name, value in rule.items()} for rule in (old, new)]

    (before,) = afford(income=[salary(1000)], rules=rules, through=TODAY - dt.timedelta(days=1))
    (after,) = afford(income=[salary(1000)], rules=rules, through=TODAY)

    assert (before["rule_version"], before["ceiling"]) == ("old", Decimal("333.3"))
    assert (after["rule_version"], after["ceiling"]) == ("new", Decimal(500))


def test_half_of_a_thousandth_is_rounded_up_and_never_through_a_float():
    """Averages are exact to the third place however large they are."""
    amount = "9000000000000000000000.001"
    paid = [payment(n, in_month(2025, 9 + n, 3), amount, stream_id="s") for n in range(6)]
    (stream,) = run(
        "fct_payment_streams",
        fct_counterparty_movements=[one | {"nature": "instalment"} for one in paid],
    )
    (row,) = run(
        "fct_obligations",
        fct_payment_streams=[stream],
        fct_counterparty_movements=paid,
        bridge_accounts=[{"account_id": "1", "account_key": "a", "customer_id": "c"}],
        fct_account_months=months(dt.date(2025, 9, 1), dt.date(2026, 3, 31)),
    )

    assert row["active_average"] == Decimal(amount)
    assert row["monthly_average"] == rounded(Decimal(amount) * 6 / 7)
