"""Card repayments that are no spending, and feeds that are dead, over rows made by hand."""

import datetime as dt
from decimal import Decimal

import pytest
from tiny import run

DAY = dt.timedelta(days=1)
NOON = dt.datetime(2026, 3, 2, 12, tzinfo=dt.UTC)


def repaid(card=None, holder="c", **received):
    """Links of a repayment out of a current account and of what came in on a card."""
    movement = {
        "pull_id": "p",
        "month": "2026-03",
        "currency": "SAR",
        "placed_at": NOON,
        "booking_date": NOON.date(),
        "is_booked": True,
    }
    claim = {"pull_id": "p", "claimed_from": NOON.date(), "claimed_to": NOON.date() + 9 * DAY}
    accounts = {"current": "c", "card": holder, "savings": "c", "others": holder}
    return run(
        "fct_transaction_links",
        bridge_accounts=[
            {"account_id": name, "account_key": name, "customer_id": customer}
            for name, customer in accounts.items()
        ],
        int_covering_pulls=[{"account_id": n, "account_key": n, **claim} for n in accounts],
        int_account_numbers=[{"account_key": name, "is_card": name == "card"} for name in accounts],
        stg_movements=[
            movement
            | {
                "account_id": "current",
                "transaction_id": "1",
                "signed_amount": Decimal(-500),
                "sub_transaction_type": "REPAYMENTS",
            },
            movement
            | {"account_id": card or "card", "transaction_id": "2", "signed_amount": Decimal(500)}
            | received,
        ],
    )


def test_a_repayment_of_an_own_card_is_an_internal_transfer():
    """Without a reference or a number: what was bought with the card is what was spent."""
    links = {(row["movement_id"], row["method"], row["link_kind"]) for row in repaid()}

    assert links == {
        ("current:1", "repayment", "internal_transfer"),
        ("card:2", "repayment", "internal_transfer"),
    }


@pytest.mark.parametrize(
    "other",
    [
        {"card": "savings"},
        {"holder": "d"},
        {"signed_amount": Decimal("499.99")},
        {"sub_transaction_type": "REFUND"},
        {"booking_date": NOON.date() + 4 * DAY},
        {"currency": "USD"},
    ],
    ids=["no-card", "somebody-else's", "another-amount", "a-refund", "days-later", "currency"],
)
def test_another_repayment_stays_one(other):
    """Nothing that only looks like a repayment of the card is taken for one."""
    assert repaid(**other) == []


def health(age, outcome="COMMITTED", code=None):
    """The row of a day on which one bank's state was so old and a second pull ended so."""
    pull = {
        "stream": "balances",
        "bank_identifier": "B",
        "asked_at": NOON,
        "finished_at": NOON,
        "known_at": NOON,
        "requests": 1,
    }
    (row,) = run(
        "mart_sync_health",
        clock=[{"as_of": NOON}],
        pulls=[
            pull | {"pull_id": "1", "outcome": "UNCHANGED", "refreshed_at": NOON - age},
            pull | {"pull_id": "2", "outcome": outcome, "code": code},
        ],
    )
    return row


def test_a_feed_that_is_dead_looks_dead_though_every_bank_is():
    """Lags and age are told by the clock, and no bank's state is newer than the dead one's."""
    dead, alive = health(9 * DAY), health(DAY)

    assert (dead["is_stale"], dead["feed_age_hours"], dead["max_lag_hours"]) == (True, 216, 216)
    assert (alive["is_stale"], alive["feed_age_hours"]) == (False, 24)


@pytest.mark.parametrize(
    ("outcome", "code", "share"),
    [
        ("COMMITTED", None, Decimal(1)),
        ("SKIPPED", "USER_PERMISSIONS_NOT_GRANTED", Decimal(1)),
        ("SKIPPED", "BANK_PAUSED", Decimal("0.5")),
        ("FAILED", "BANK_ISSUE", Decimal("0.5")),
    ],
)
def test_what_is_skipped_because_a_bank_is_off_has_not_succeeded(outcome, code, share):
    """What nobody may read is left out; what cannot be read is not."""
    assert health(DAY, outcome, code)["success_share"] == share


HOURS = dt.timedelta(hours=1)
FAILING_PULLS = {
    "never": (["COMMITTED"], 0),
    "now": (["COMMITTED", "FAILED"], 1),
    "until-the-last": (["FAILED", "UNCHANGED"], 0),
    "until-it-was-forbidden": (["FAILED", "USER_PERMISSIONS_NOT_GRANTED"], 0),
    "while-the-bank-is-off": (["FAILED", "BANK_PAUSED"], 1),
}


def failing_count(outcomes, *, state="active", month=None, changed=None):
    """Failing read targets of a bank whose entity has this state, an hour between its pulls."""
    pulls = [
        {
            "pull_id": str(number),
            "stream": "balances",
            "bank_identifier": "B",
            "entity_id": "e",
            "parent_id": "a",
            "asked_at": NOON - number * DAY,  # this machine's clock goes backwards
            "finished_at": NOON,
            "known_at": NOON + number * HOURS,
            "outcome": "SKIPPED" if "_" in outcome else outcome,
            "code": outcome if "_" in outcome else None,
            "month": month if number == 0 else None,
        }
        for number, outcome in enumerate(outcomes)
    ]
    rows = run(
        "mart_sync_health",
        changed=changed,
        clock=[{"as_of": NOON}],
        dim_entities=[
            {"entity_id": "e", "bank_identifier": "B", "state": state, "is_current": True}
        ],
        pulls=pulls,
    )
    (count,) = {row["failing_count"] for row in rows}
    return count


@pytest.mark.parametrize(("outcomes", "count"), FAILING_PULLS.values(), ids=FAILING_PULLS)
def test_a_feed_fails_from_its_newest_pull_until_the_next_good_one(outcomes, count):
    """Also on rows of days before, because what is read now is no longer up to date."""
    assert failing_count(outcomes) == count


def test_what_is_gone_fails_no_more_and_a_month_fails_for_itself():
    """A removed entity is not read again; a later month's success says nothing of an earlier."""
    assert failing_count(["FAILED"], state="removed") == 0
    assert failing_count(["FAILED", "COMMITTED"], month="2026-01") == 1


def test_a_bank_that_is_off_must_not_hide_its_failures():
    """The mutant: a skipped pull counts as the newest whatever its reason is."""
    mutant = {"where coalesce(code, '') <> 'BANK_PAUSED'": ""}

    assert failing_count(["FAILED", "BANK_PAUSED"], changed=mutant) == 0
