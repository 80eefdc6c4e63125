"""What stated balances prove where movements tell none: half a year of nights, and small cases."""

import datetime as dt
from collections import defaultdict
from decimal import Decimal
from itertools import pairwise

import pytest
from known import DAY
from nightly import NIGHTS, WITHOUT_BALANCES, nightly
from tiny import run

HALF_A_YEAR = 183


def half_a_year(world):
    """The reconciliation of the last 183 days, with the bank of each account."""
    return world.rows(f"""
        select held.*, owners.bank_identifier
        from mart_balance_reconciliation as held
        inner join (select distinct account_key, bank_identifier from bridge_accounts) as owners
            using (account_key)
        where balance_date > (select max(balance_date) from mart_balance_reconciliation)
            - {HALF_A_YEAR}
    """)


def test_half_a_year_of_nights_is_proved_on_99_percent_of_its_days():
    """At each bank, those included that send no balance with a movement; all accounts and days."""
    verdicts = defaultdict(list)
    for row in half_a_year(nightly()):
        verdicts[row["bank_identifier"]].append(row["verdict"])

    accounts = len(nightly().banks)
    assert sum(map(len, verdicts.values())) == accounts * HALF_A_YEAR
    assert set(verdicts) > WITHOUT_BALANCES
    for bank, found in verdicts.items():
        assert found.count("proved") >= Decimal("0.99") * len(found), bank


def test_each_night_proves_itself_where_movements_tell_no_balance():
    """The proof names the stated balance and its pull."""
    proofs = {
        (row["proof"], row["stated_pull_id"] is None)
        for row in half_a_year(nightly())
        if row["bank_identifier"] in WITHOUT_BALANCES and row["verdict"] == "proved"
    }

    assert proofs == {("stated_balance", False)}


def test_nothing_is_claimed_of_days_before_the_first_stated_balance():
    """What a first sync brings of the past has a balance that follows, and no proof."""
    rows = nightly().rows("""
        select reason, verdict, closing_method, count(*) as days
        from intermediate.int_balance_intervals
        inner join bridge_accounts using (account_key)
        where bank_identifier in ('NAKHEEL_SAU', 'DANA_SAU') and to_date < date '2025-09-12'
            and reason <> 'not_covered'
        group by all
    """)

    assert {row["verdict"] for row in rows} == {"unprovable"}
    assert {(row["reason"], row["closing_method"]) for row in rows} == {
        ("before_first_balance", "derived"),
        ("first_balance", "observed"),
    }


def test_a_row_that_was_left_out_is_found_between_two_stated_balances():
    """The only gap of the lake has its amount, and its day among the two that it names."""
    account_id, day, value = nightly().left_out

    (gap,) = nightly().rows("""
        select gaps.*, bridge_accounts.account_id
        from intermediate.int_balance_gaps as gaps inner join bridge_accounts using (account_key)
    """)

    assert (gap["account_id"], gap["gap_amount"]) == (account_id, value)
    assert gap["gap_from_date"] <= day <= gap["gap_date"]
    assert gap["gap_date"] - gap["gap_from_date"] == DAY
    assert gap["suspected_cause"] == "row_missing_since"


@pytest.mark.parametrize(
    ("column", "holds"), [("closing_balance", True), ("stated_balance", False)]
)
def test_what_is_dated_between_two_nights_is_their_difference(column, holds):
    """True of each account although rows come days late; not of balances as they are stated."""
    statements, booked, late = defaultdict(dict), defaultdict(list), 0
    for row in nightly().rows("from intermediate.int_balance_statements order by stated_date"):
        statements[row["account_id"]][row["stated_date"]] = row[column]
    for row in nightly().rows("from fct_transactions where is_booked"):
        booked[row["account_id"]].append((row["booking_date"], row["signed_amount"]))
    for row in nightly().rows("from fct_transaction_history where is_late"):
        lag = (row["told_at"].date() - row["booking_date"]).days
        late += row["account_id"] in statements and lag > 1
    spoilt = nightly().left_out[0]

    differing = 0
    for account_id in set(statements) - {spoilt}:
        days = sorted(statements[account_id].items())
        assert len(days) == NIGHTS
        for (before, earlier), (day, later) in pairwise(days):
            moved = sum(value for one, value in booked[account_id] if before < one <= day)
            differing += later - earlier != moved

    assert late > 3
    assert (differing == 0) == holds


def night(number):
    """An evening of January 2026 in Riyadh, when banks are asked."""
    return dt.datetime(2026, 1, number, 20, tzinfo=dt.UTC)


def booked(day, amount, **more):
    """A booked movement without a balance, dated on a day of January, known since then."""
    placed_at = night(day) - dt.timedelta(hours=6)
    given = {"account_key": "k", "account_id": "a", "transaction_id": "t", "month": "2026-01"}
    given |= {"currency": "SAR", "signed_amount": Decimal(amount), "placed_at": placed_at}
    return given | {"booking_date": placed_at.date()} | more


def version(number, movement, kind="appeared", told=None, is_late=False):
    """A version of it in the history."""
    names = ("account_id", "transaction_id", "month", "currency", "signed_amount", "placed_at")
    return {name: movement[name] for name in names} | {
        "version": number,
        "change_kind": kind,
        "status": "BOOKED",
        "told_at": night(told or movement["placed_at"].day),
        "is_late": is_late,
    }


def closings(ledger, history, *, read=range(1, 6), changed=None):
    """The day of each statement of five nights that is used, and what is made of SAR 100."""
    given = {
        "bridge_accounts": [{"account_id": "a", "account_key": "k"}],
        "fct_transactions": [row | {"is_booked": True} for row in ledger],
        "fct_transaction_history": history,
        "pulls": [
            {
                "stream": "transactions",
                "outcome": "COMMITTED",
                "parent_id": "a",
                "refreshed_at": night(number) - dt.timedelta(minutes=9),
            }
            for number in read
        ],
        "balances_history": [
            {
                "account_id": "a",
                "balance_type": kind,
                "amount": Decimal(100),
                "currency": "SAR",
                "credit_debit_indicator": "CREDIT",
                "refreshed_at": night(number),
                "asked_at": night(number),
                "pull_id": f"p{number}",
            }
            for number in range(1, 6)
            for kind in ("INTERIM_BOOKED", "INTERIM_AVAILABLE")
        ],
    }
    rows = run("int_balance_statements", changed=changed, **given)
    return {row["stated_date"].day: int(row["closing_balance"]) for row in rows}


def test_a_row_that_came_late_is_not_in_the_balances_before():
    """From its day on until it became known, the balance of its day lacks it."""
    late = booked(2, -10)

    found = closings([late], [version(1, late, told=4, is_late=True)])

    assert found == {1: 100, 2: 90, 3: 90, 4: 100, 5: 100}


def test_a_row_of_the_first_read_of_its_day_counts_since_its_day():
    """Nobody can know better when the bank first had it."""
    old = booked(2, -10)

    assert set(closings([old], [version(1, old, told=4)]).values()) == {100}


def test_an_amount_that_changed_was_another_one_before():
    """Balances that were stated before the change hold the old amount."""
    before, after = booked(2, -10), booked(2, -12)
    history = [version(1, before), version(2, after, "changed", told=4)]

    assert closings([after], history) == {1: 100, 2: 98, 3: 98, 4: 100, 5: 100}


def test_a_row_that_vanished_was_there_before():
    """Balances that were stated while it was shown hold it."""
    gone = booked(2, -10)

    found = closings([], [version(1, gone), version(2, gone, "vanished", told=4)])

    assert found == {1: 100, 2: 110, 3: 110, 4: 100, 5: 100}


def test_a_balance_is_used_only_if_movements_were_read_with_it():
    """Otherwise nobody knows which of them it holds."""
    assert set(closings([], [], read=(2, 5))) == {2, 5}


def test_movements_that_tell_balances_need_no_statement():
    """Unless one of them tells none."""
    told = {"signed_balance": Decimal(90), "balance_type": "INTERIM_BOOKED"}
    one, other = booked(2, -10, **told), booked(3, -5, transaction_id="u")

    assert closings([one], [version(1, one)]) == {}
    assert len(closings([one, other], [version(1, one), version(1, other)])) == 5
