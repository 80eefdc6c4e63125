"""fct_obligations and fct_affordability against the truth and proved tables, in plain Python."""

import calendar
import datetime as dt
from collections import defaultdict
from decimal import ROUND_HALF_UP, Decimal

import pytest
from known import riyadh_date
from test_flows import in_month, months, payment, true_streams
from test_spend import opaque_share, own_transfers, seed
from tiny import run
from truth import (
    account_keys,
    movements,
    placed_at,
    whole_days,
)

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


def full_months_by_customer(world):
    """Months in which every account is known that readiness counts for the customer."""
    covered = whole_days(world)
    return {
        customer: set.intersection(*(full_months(covered[key]) for key in row["account_keys"]))
        for (customer,), row in world.table("mart_customer_readiness", "customer_id").items()
        if row["account_keys"]
    }


def test_obligations_are_every_instalment_rent_and_mandate(world):
    """Each is there for each holder, with exact averages over full and over paid months."""
    owners, covered = customers_of(world), whole_days(world)
    whole = full_months_by_customer(world)
    flagged = {
        row["stream_id"]: row
        for row in world.rows(
            "from intermediate.int_payment_streams where is_direct_debit or is_standing_order"
        )
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
        full = whole.get(customer, set()).intersection(
            *(full_months(covered[key]) for key, _ in parts)
        )
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
    owners = customers_of(world)
    accounts = defaultdict(set)
    for key, customers in owners.items():
        for customer in customers:
            accounts[customer].add(key)
    ready = world.table("mart_customer_readiness", "customer_id")
    full = full_months_by_customer(world)
    businesses = {
        customer
        for row in world.rows("from dim_accounts where account_type = 'BUSINESS'")
        for customer in owners[row["account_key"]]
    }
    internal = own_transfers(world)
    moved = defaultdict(list)
    for movement_id, true in movements(world).items():
        if true["status"] == "BOOKED" and movement_id not in internal:
            month = riyadh_date(placed_at(true)).timetuple()[:2]
            moved[movement_id.split(":")[0], true["currency"], month].append(true)
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
        known = full.get(customer, set())
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
        share = opaque_share(
            true
            for key in accounts[customer]
            for month in known
            for true in moved[key, currency, month]
        )
        assert row["opaque_share"] == share
        about = ready[(customer,)]
        assert row["is_decision_ready"] == about["is_decision_ready"]
        assert row["readiness_reasons"] == about["reasons"]
        assert row["full_months"] == about["full_months"]
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
        reasons = {
            "not_an_individual": customer in businesses,
            "months_missing": len(known) < 3,
            "opaque_movements": share is not None and share > Decimal("0.25"),
            "no_income": ceiling is None,
        }
        reason = next((name for name, holds in reasons.items() if holds), None)
        assert row["unknown_reason"] == reason
        if reason is not None:
            assert row["verdict"] == "unknown"
        else:
            assert row["headroom"] == ceiling - obligations
            assert row["verdict"] == ("within" if obligations <= ceiling else "over")
    assert {customer for customer, _, _ in held} == {customer for (customer,) in ready}
    assert {row["unknown_reason"] for row in held.values()} >= {None, "months_missing"}
    assert len(held) > 10, "a world without customers proves nothing"


def of_customer(known):
    """Months of the one account as those of its customer."""
    return [
        {"customer_id": "c"} | {name: one[name] for name in ("riyadh_month", "is_full_month")}
        for one in known
    ]


def afford(*, through=TODAY, income=(), owed=(), movements=(), rules=None, known=None, **more):
    """What fct_affordability makes of one customer."""
    given = {} if rules is None else {"affordability_rules": rules}
    return run(
        "fct_affordability",
        clock=[{"as_of_date": through}],
        bridge_accounts=[{"account_id": "1", "account_key": "a", "customer_id": "c"}],
        int_customer_months=of_customer(known or months(dt.date(2025, 9, 1), dt.date(2026, 2, 28))),
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
        int_counterparty_movements=movements,
        **given,
        **more,
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
        "int_payment_streams",
        int_counterparty_movements=[one | {"nature": "instalment"} for one in paid],
    )
    (row,) = run(
        "fct_obligations",
        int_payment_streams=[stream],
        int_counterparty_movements=paid,
        bridge_accounts=[{"account_id": "1", "account_key": "a", "customer_id": "c"}],
        int_account_months=months(dt.date(2025, 9, 1), dt.date(2026, 3, 31)),
        int_customer_months=of_customer(months(dt.date(2025, 9, 1), dt.date(2026, 3, 31))),
    )

    assert row["active_average"] == Decimal(amount)
    assert row["monthly_average"] == rounded(Decimal(amount) * 6 / 7)


def test_a_month_is_full_for_an_obligation_only_where_it_is_for_its_customer():
    """Nor does it count where an account that paid is not known, whatever the customer's others."""
    paid = [payment(n, in_month(2025, 9 + n, 3), 100, stream_id="s") for n in range(6)]
    (stream,) = run(
        "int_payment_streams",
        int_counterparty_movements=[one | {"nature": "instalment"} for one in paid],
    )

    def full(**known):
        (row,) = run(
            "fct_obligations",
            int_payment_streams=[stream],
            int_counterparty_movements=paid,
            bridge_accounts=[{"account_id": "1", "account_key": "a", "customer_id": "c"}],
            **known,
        )
        return row["full_months"], row["monthly_average"]

    payer = months(dt.date(2025, 10, 1), dt.date(2026, 3, 31))
    others = of_customer(months(dt.date(2025, 9, 1), dt.date(2025, 12, 31)))

    assert full(int_account_months=payer, int_customer_months=others) == (3, 100)
    assert full(int_account_months=payer, int_customer_months=others[:1]) == (0, None)
    assert full(int_account_months=payer) == (0, None)


def opaque_months(share):
    """A month of which a share was not understood."""
    amounts = {"moved_amount": Decimal(1000), "opaque_amount": Decimal(1000) * Decimal(share)}
    return [{"account_key": "a", "currency": "SAR", "month": "2026-01", **amounts}]


@pytest.mark.parametrize(
    ("given", "verdict", "reason"),
    [
        ({}, "within", None),
        ({"fct_opacity_monthly": opaque_months("0.25")}, "within", None),
        ({"fct_opacity_monthly": opaque_months("0.2502")}, "unknown", "opaque_movements"),
        ({"fct_opacity_monthly": opaque_months(1)}, "unknown", "opaque_movements"),
        (
            {"dim_accounts": [{"account_key": "a", "account_type": "BUSINESS"}]},
            "unknown",
            "not_an_individual",
        ),
        ({"income": []}, "unknown", "no_income"),
        ({"income": [], "known": months(dt.date(2026, 1, 1), dt.date(2026, 2, 28))}, "unknown",
         "months_missing"),
        ({"income": [], "fct_opacity_monthly": opaque_months(1)}, "unknown", "opaque_movements"),
    ],
    ids=[
        "all-is-known",
        "just-enough-understood",
        "a-little-too-opaque",
        "nothing-understood",
        "a-business",
        "no-income",
        "too-few-months",
        "income-may-be-among-what-is-opaque",
    ],
)  # fmt: skip
def test_a_verdict_on_what_is_not_known_is_unknown(given, verdict, reason):
    """With the first reason that holds, in one row for everybody."""
    (row,) = afford(**({"income": [salary(9000)]} | given))

    assert (row["verdict"], row["unknown_reason"]) == (verdict, reason)
    assert (row["is_decision_ready"], row["readiness_reasons"]) == (False, [])


def test_a_verdict_says_whether_a_decision_may_rest_on_it():
    """Readiness and its reasons are passed on."""
    (row,) = afford(
        income=[salary(9000)],
        mart_customer_readiness=[
            {"customer_id": "c", "is_decision_ready": False, "reasons": ["not_reconciled"]}
        ],
    )

    assert row["verdict"] == "within"
    assert (row["is_decision_ready"], row["readiness_reasons"]) == (False, ["not_reconciled"])


def test_a_customer_of_whom_nothing_is_known_has_a_row():
    """In the rules' currency, with a verdict that says what is missing."""
    rows = afford(known=[{"riyadh_month": "2026-01", "is_full_month": False}],
                  dim_customers=[{"customer_id": "d"}])  # fmt: skip

    assert {(row["customer_id"], row["currency"], row["unknown_reason"]) for row in rows} == {
        ("c", "SAR", "months_missing"),
        ("d", "SAR", "months_missing"),
    }


@pytest.mark.parametrize(
    ("told", "is_understood"),
    [
        ({}, True),
        ({"transaction_type": None}, True),
        ({"sub_transaction_type": "UNSUPPORTED"}, True),
        ({"transaction_type": "UNSUPPORTED", "sub_transaction_type": None}, False),
        ({"category": "UNKNOWN"}, False),
        ({"direction": None}, False),
    ],
)
def test_money_is_opaque_whose_kind_category_or_direction_is_not_told(told, is_understood):
    """By its amount, beside all that moved; own transfers and what is not booked do not count."""
    row = {
        "account_key": "a",
        "currency": "SAR",
        "booking_month": dt.date(2026, 1, 1),
        "booking_date": dt.date(2026, 1, 5),
        "amount": Decimal(30),
        "signed_amount": Decimal(-30),
        "direction": "out",
        "category": "RETAIL",
        "transaction_type": "POS",
        "sub_transaction_type": "PURCHASE",
        "is_booked": True,
        "is_internal_transfer": False,
    }
    rows = [row | told, row | {"amount": Decimal(70)}]
    rows += [row | told | {"is_booked": False}, row | told | {"is_internal_transfer": True}]

    (month,) = run("fct_opacity_monthly", fct_transactions=rows)
    (day,) = run("fct_cash_flow_daily", fct_transactions=rows)

    share = Decimal(0) if is_understood else Decimal("0.3")
    assert (month["opaque_share"], month["moved_count"]) == (share, 2)
    assert day["opaque_share"] == share
