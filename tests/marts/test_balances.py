"""Balances and their reconciliation, against the offline Lean's truth, in plain Python."""

import datetime as dt
import random
import shutil
from collections import defaultdict
from decimal import Decimal
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from unittest.mock import patch

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from known import DAY, KEY, known, models, riyadh_date
from tiny import run
from truth import account_keys, movements, placed_at, signed, whole_days

from pipelines.lake.lake import Lake
from pipelines.models.build import build
from pipelines.publish.warehouse import connect, publish


def booked(world):
    """Days, amounts and whether they tell a balance, of booked movements by account."""
    keys = account_keys(world)
    found = defaultdict(list)
    for movement_id, row in movements(world).items():
        if row["status"] == "BOOKED":
            value = signed(row["amount"], row["credit_debit_indicator"])
            day = riyadh_date(placed_at(row))
            has_balance = row["balance_amount"] is not None
            key = (keys[row["account_id"]], row["currency"])
            found[key].append((day, value, has_balance, movement_id, row))
    return found


def stated(world):
    """The booked balance of each account as its bank stated it last."""
    keys = account_keys(world)
    readable = {
        row["parent_id"]: row["refreshed_at"]
        for row in world.rows("""
            select parent_id, max(refreshed_at) as refreshed_at from pulls
            where stream = 'balances' and outcome = 'COMMITTED' group by all
        """)
    }
    found = {}
    for day in world.days:
        for (account_id, kind), row in day["balances"].items():
            if kind == "INTERIM_BOOKED" and account_id in readable:
                value = signed(row["amount"], row["credit_debit_indicator"])
                place = (keys[account_id], row["currency"])
                newest = (readable[account_id], value)
                found[place] = max(found.get(place, newest), newest, key=lambda one: one[0])
                if newest[0] >= found[place][0]:
                    found[place] = newest
    return {place: value for place, (_, value) in found.items()}


def statement_days(world):
    """Days on which an account's booked balance was stated while its movements were read."""
    keys = account_keys(world)
    currencies = {
        account_id: row["currency"]
        for day in world.days
        for (account_id, kind), row in day["balances"].items()
        if kind == "INTERIM_BOOKED"
    }
    read = defaultdict(list)
    for row in world.rows("from pulls where outcome = 'COMMITTED' and refreshed_at is not null"):
        if row["parent_id"] in currencies:
            read[row["stream"], row["parent_id"]].append(row["refreshed_at"])
    found = defaultdict(set)
    for account_id, currency in currencies.items():
        for stated_at in read["balances", account_id]:
            asked = read["transactions", account_id]
            if any(abs(stated_at - one) <= dt.timedelta(minutes=10) for one in asked):
                found[keys[account_id], currency].add(riyadh_date(stated_at))
    return found


def test_daily_balances_are_what_the_banks_would_say(world):
    """Each day's closing is the stated balance less all that was booked later, without holes."""
    rows = booked(world)
    ends = stated(world)
    held = world.table("fct_balances_daily", "account_key", "currency", "balance_date")

    days = defaultdict(list)
    for key, currency, day in held:
        days[key, currency].append(day)
    assert set(days) == set(ends)
    kinds = defaultdict(int)
    for place, known_days in days.items():
        assert len(known_days) == (max(known_days) - min(known_days)).days + 1
        closing = ends[place]
        later = sorted(rows[place], key=lambda one: one[0])
        for day in sorted(known_days, reverse=True):
            while later and later[-1][0] > day:
                closing -= later.pop()[1]
            row = held[(*place, day)]
            kinds[row["closing_method"]] += 1
            if row["closing_method"] == "unknown":
                assert row["closing_balance"] is None
            else:
                assert row["closing_balance"] == closing, (place, day)
    assert set(kinds) == {"observed", "carried", "derived", "unknown"}


def test_a_coherent_world_is_proved(world):
    """Every covered day after an account's first balance is proved; none shows a gap."""
    rows = booked(world)
    whole = whole_days(world)
    stated_on = statement_days(world)
    held = world.table("mart_balance_reconciliation", "account_key", "currency", "balance_date")
    last = defaultdict(lambda: dt.date.min)
    for key, currency, day in held:
        last[key, currency] = max(last[key, currency], day)

    for (key, currency, day), row in held.items():
        mine = rows[key, currency]
        told = [one for one, _, has_balance, *_ in mine if has_balance]
        told = told or sorted(stated_on[key, currency])
        moved_today = [has_balance for one, _, has_balance, *_ in mine if one == day]
        is_active = bool(moved_today)
        if not (is_active or day in whole[key] or day == last[key, currency]):
            expected = ("unprovable", "not_covered")
        elif not told:
            expected = ("unprovable", "no_balances")
        elif day <= min(told):
            is_first = day == min(told)
            expected = ("unprovable", "first_balance" if is_first else "before_first_balance")
        else:
            expected = ("proved", None)
        assert (row["verdict"], row["reason"]) == expected, (key, day)
        proof = None
        if row["verdict"] == "proved":
            proof = "stated_balance" if row["stated_pull_id"] else "between_balances"
            proof = "movements" if is_active and all(moved_today) else proof
        assert row["proof"] == proof


def test_a_coherent_world_is_proved_on_99_percent_of_its_days(world):
    """Of the covered days of accounts that tell balances, from the first one that they tell on."""
    (row,) = world.rows("""
        select count(*) as days, count(*) filter (where verdict = 'proved') as proved
        from mart_balance_reconciliation
        where coalesce(reason, '') not in ('not_covered', 'no_balances', 'before_first_balance')
    """)

    assert row["days"] > 5_000
    assert row["proved"] >= Decimal("0.99") * row["days"]


def spoilt_rows(world, draw):
    """Movements to spoil, one account each: what is done, its id, row and day."""
    ids = defaultdict(set)
    for account_id, key in account_keys(world).items():
        ids[key].add(account_id)
    chosen = []
    for kind in KINDS:
        places = []
        for (key, _), movements_of in booked(world).items():
            days = defaultdict(list)
            for day, value, has_balance, _, row in movements_of:
                if has_balance:
                    days[day].append((value, row))
            if len(ids[key]) > 1 or key in {one for one, *_ in chosen} or not days:
                continue
            for day in sorted(days)[1:]:
                for value, row in days[day]:
                    amounts = [abs(one) for one, _ in days[day]]
                    is_fit = (len(amounts) == 1) == (kind == "sole") or kind == "any"
                    if is_fit and amounts.count(abs(value)) == 1 and value:
                        places.append((key, kind, row, day, value))
        chosen.append(draw.choice(sorted(places, key=lambda one: str(one[:2] + one[3:]))))
    return chosen


KINDS = ("sole", "sole_too", "any", "several", "several_too", "doubled", "altered", "turned")


@cache
def spoilt():
    """A lake from which rows were deleted, doubled and altered on purpose; gaps and what was done.

    The typed Parquet files are rewritten, and the tables built from them anew.
    """
    world = known(7)
    chosen = spoilt_rows(world, random.Random(41))
    root = Path(mkdtemp(prefix="spoilt-"))
    skipped = shutil.ignore_patterns("raw", "marts", "manifests", "*.duckdb")
    shutil.copytree(world.lake.folder.parent, root, ignore=skipped, dirs_exist_ok=True)
    lake = Lake(root, world.lake.environment)
    for file in sorted((lake.folder / "transactions").rglob("*.parquet")):
        table = pq.read_table(file, partitioning=None)
        kept = [
            new
            for row in table.to_pylist()
            for new in spoil(row, {(c[2]["account_id"], c[2]["transaction_id"]): c for c in chosen})
        ]
        pq.write_table(pa.Table.from_pylist(kept, table.schema), file)
    needed = {"mart_balance_reconciliation", "fct_balances_daily"}
    for model in reversed(list(models())):
        needed |= set(model.reads) if model.name in needed else set()
    # What was rewritten is not as long as it was, which every reader notices before this proof.
    with patch.object(Lake, "check_files"):
        build(lake, models(), hash_key=KEY, only=needed)
        publish(lake, models())
        with connect(lake) as connection:
            result = connection.execute("from intermediate.int_balance_gaps")
            names = [column[0] for column in result.description]
            gaps = [dict(zip(names, row, strict=True)) for row in result.fetchall()]
    shutil.rmtree(root)
    return chosen, gaps


def spoil(row, chosen):
    """What becomes of a row."""
    found = chosen.get((row["account_id"], row["transaction_id"]))
    kind = found and found[1]
    if kind is None:
        return [row]
    if kind == "doubled":
        return [row, row | {"transaction_id": "made-up"}]
    if kind == "altered":
        return [row | {"amount": row["amount"] + 1}]
    if kind == "turned":
        turned = {"CREDIT": "DEBIT", "DEBIT": "CREDIT"}[row["credit_debit_indicator"]]
        return [row | {"credit_debit_indicator": turned}]
    return []


@pytest.mark.parametrize("kind", KINDS)
def test_a_spoilt_row_is_found_by_day_and_amount(kind):
    """One gap per account, of the exact amount, within days that hold the spoilt row's own."""
    chosen, gaps = spoilt()
    key, _, row, day, value = next(one for one in chosen if one[1] == kind)

    (gap,) = [one for one in gaps if one["account_key"] == key]

    direction = 1 if value > 0 else -1
    missing = {"doubled": -value, "altered": -direction, "turned": 2 * value}.get(kind, value)
    assert gap["gap_amount"] == missing
    assert gap["gap_from_date"] <= day <= gap["gap_date"]
    ids = {f"{key}:{row['transaction_id']}", f"{key}:made-up"}
    if kind == "doubled":
        assert (gap["gap_date"], gap["suspected_cause"]) == (day, "doubled_row")
        assert set(gap["evidence_movement_ids"]) == ids
    elif kind == "turned":
        assert gap["suspected_cause"] == "wrong_sign"
        assert set(gap["evidence_movement_ids"]) <= ids


def test_nothing_but_what_was_spoilt_shows():
    """Accounts that were left alone have no gap."""
    chosen, gaps = spoilt()

    assert {one["account_key"] for one in gaps} == {one[0] for one in chosen}
    assert len(gaps) == len(chosen)


def at(day):
    """A day of 2026 by its number, from 1 January."""
    return dt.date(2026, 1, 1) + (day - 1) * DAY


def moved(day, amount, balance, **more):
    """A booked movement with the balance after it."""
    told = None if balance is None else Decimal(balance)
    given = {"currency": "SAR", "is_booked": True, "booking_date": at(day)}
    given |= {"signed_amount": Decimal(amount), "signed_balance": told, "balance_currency": "SAR"}
    return given | {"balance_type": "INTERIM_BOOKED"} | more


SCENES = {
    "quiet": [moved(3, 10, 110), moved(9, -5, 105)],
    "gap": [moved(3, 10, 110), moved(9, -5, 100)],
    "uncovered": [moved(3, 10, 110), moved(20, -5, 100)],
    "uncovered_but_equal": [moved(3, 10, 110), moved(20, -5, 105)],
    "shuffled": [moved(3, -7, 103), moved(3, 100, 200), moved(3, -90, 110), moved(9, 1, 104)],
    "circular": [moved(3, 10, 110), moved(5, 4, 114), moved(5, -4, 110), moved(9, 1, 111)],
    "mixed": [
        moved(3, 10, 110),
        moved(5, 4, 914, balance_type="INTERIM_AVAILABLE"),
        moved(5, 6, 120),
        moved(9, 1, 121),
    ],
    "partly_told": [moved(3, 10, 110), moved(5, 4, None), moved(5, 1, 115), moved(9, 1, 116)],
    "other_currency": [
        moved(3, 10, 110),
        moved(5, 4, 30, balance_currency="USD"),
        moved(9, 1, 115),
    ],
    "unknown_sign": [moved(3, 10, 110), moved(5, 0, 115, signed_amount=None), moved(9, 1, 116)],
    "long_quiet": [moved(3, 10, 110), moved(130, -5, 105)],
    "long_gap": [moved(3, 10, 110), moved(130, -5, 100)],
    "stated_differs": [moved(3, 10, 110), moved(9, -5, 105)],
    "two_currencies": [
        moved(3, "0.001", "9.001", currency="KWD", balance_currency="KWD"),
        moved(3, 5, 5),
        moved(9, "0.002", "9.003", currency="KWD", balance_currency="KWD"),
    ],
    "charged": [
        moved(3, 10, 110),
        moved(9, -5, "99.25", charge_amount=Decimal(5), charge_currency="SAR",
              charge_vat_amount=Decimal("0.75"), charge_vat_currency="SAR"),
    ],
}  # fmt: skip
STATED = {"stated_differs": Decimal(99), "quiet": Decimal(105)}


@cache
def scenes():
    """The reconciliation of hand-made accounts, by account, currency and first day."""
    known_to = dt.datetime(2026, 5, 30, 12, tzinfo=dt.UTC)
    claims = [
        {"account_key": key, "pull_id": "p", "claimed_from": first - DAY, "claimed_to": last}
        for key in SCENES
        for first, last in (
            [(at(1), at(12)), (at(15), known_to.date())]
            if "uncovered" in key
            else [(at(1), known_to.date())]
        )
    ]
    coverage = run(
        "int_account_coverage",
        int_covering_pulls=claims,
        pulls=[{"pull_id": "p", "refreshed_at": known_to}],
    )
    ledger = [
        row | {"account_key": key, "movement_id": f"{key}:{number}"}
        for key, rows in SCENES.items()
        for number, row in enumerate(rows)
    ]
    bridge = [{"account_key": key, "account_id": key} for key in SCENES]
    days = run("int_balance_days", fct_transactions=ledger, int_account_coverage=coverage)
    months = run(
        "int_balance_months",
        int_balance_days=days,
        int_account_coverage=coverage,
        int_account_currencies=[{"account_key": key, "currency": "SAR"} for key in SCENES],
    )
    balances = [
        {
            "account_id": key,
            "currency": "SAR",
            "balance_type": "INTERIM_BOOKED",
            "amount": amount,
            "credit_debit_indicator": "CREDIT",
            "refreshed_at": known_to - dt.timedelta(seconds=1),
            "asked_at": known_to,
            "pull_id": "stated",
        }
        for key, amount in STATED.items()
    ]
    carries = run(
        "int_balance_carry_forwards",
        int_balance_months=months,
        bridge_accounts=bridge,
        balances_history=balances,
    )
    stretches = run(
        "int_balance_intervals",
        int_balance_days=days,
        int_balance_anchors=carries,
        int_account_coverage=coverage,
    )
    gaps = run("int_balance_gaps", int_balance_intervals=stretches, fct_transactions=ledger)
    found = defaultdict(dict)
    for row in stretches:
        found[row["account_key"]][row["currency"], row["from_date"]] = row
    return found, {one["account_key"]: one for one in gaps}, days


def verdicts(key, currency="SAR"):
    """What is said of each day of a scene that is not proved, from its first balance on."""
    return [
        (row["from_date"], row["verdict"], row["reason"], row["gap_amount"])
        for (one, _), row in sorted(scenes()[0][key].items())
        if one == currency
        and row["verdict"] != "proved"
        and row["reason"] not in {"before_first_balance", "first_balance", "after_last_balance"}
    ]


@pytest.mark.parametrize(
    "key", ["quiet", "shuffled", "circular", "mixed", "partly_told", "other_currency", "long_quiet"]
)
def test_what_adds_up_is_proved(key):
    """Days without movements, in any order, in a circle, without usable balances, over months."""
    assert verdicts(key) == []


def test_a_day_that_ends_where_it_started_is_told_by_its_neighbour():
    """A purchase and its reversal leave no single start, and the day before tells which it was."""
    row = scenes()[0]["circular"]["SAR", at(5)]

    assert (row["opening_balance"], row["closing_balance"]) == (110, 110)
    assert (row["min_balance"], row["max_balance"]) == (110, 114)


def test_a_gap_names_the_day_it_shows_and_the_first_it_can_lie_on():
    """The quiet days between are not proved, because a missing row may lie on any of them."""
    assert verdicts("gap") == [
        (at(4), "unprovable", "gap_later", None),
        (at(9), "gap", None, -5),
    ]
    gap = scenes()[1]["gap"]
    assert (gap["gap_from_date"], gap["suspected_cause"]) == (at(3), "row_missing_since")


def test_a_gap_over_months_without_movements_is_found():
    """The last balance is remembered however long ago it was told."""
    gap = scenes()[1]["long_gap"]

    assert (gap["gap_amount"], gap["gap_date"], gap["gap_from_date"]) == (-5, at(130), at(3))


def test_unknown_days_between_are_no_gap():
    """What is not known cannot be missing; it is not proved either, unless balances agree."""
    told = verdicts("uncovered")
    reasons = [one[2] for one in told]

    assert "uncovered" not in scenes()[1]
    assert {"not_covered", "unknown_before"} <= set(reasons)
    assert [one[2] for one in verdicts("uncovered_but_equal")] == ["not_covered"]


def test_an_unknown_sign_is_no_gap():
    """A movement that may be money in or out leaves its day and the next balance unproved."""
    assert [one[2] for one in verdicts("unknown_sign")] == [
        "gap_later", "unknown_sign", "gap_later", "unknown_before",
    ]  # fmt: skip
    assert "unknown_sign" not in scenes()[1]


def test_kinds_and_currencies_of_balances_are_never_mixed():
    """Such a day says so, and is judged by its neighbours alone."""
    quality = {(one["account_key"], one["booking_date"]): one["quality"] for one in scenes()[2]}

    assert quality["mixed", at(5)] == quality["other_currency", at(5)] == "mixed_balance_types"
    assert quality["partly_told", at(5)] == "some_without_balance"
    assert verdicts("two_currencies", "KWD") == []


def test_the_stated_balance_closes_the_last_day():
    """It proves the quiet days up to it, or shows what the bank's list does not hold yet."""
    last = scenes()[0]["quiet"]["SAR", dt.date(2026, 5, 30)]
    gap = scenes()[1]["stated_differs"]

    assert (last["verdict"], last["stated_pull_id"]) == ("proved", "stated")
    assert (gap["gap_amount"], gap["suspected_cause"]) == (-6, "late_row")


def test_a_charge_beside_the_amount_is_named():
    """A gap of a charge with its VAT points to the movement that carries them."""
    gap = scenes()[1]["charged"]

    assert (gap["gap_amount"], gap["suspected_cause"]) == (Decimal("-5.75"), "charge_not_included")
    assert gap["evidence_movement_ids"] == ["charged:1"]
