"""Coverage and paused banks: what is known, what is not, and why, from the ledger alone."""

import asyncio
import datetime as dt
from collections import Counter
from dataclasses import replace

import duckdb
import pytest
from conftest import TODAY, client_of, rows_of, sync_everything
from shared import filled

from lean_resources.sandbox import Sandbox
from pipelines.lake.lake import Lake
from pipelines.lake.views import LAKE_VIEWS

NAMES = {"banks", "entities", "accounts", "transactions"}
TOLD = NAMES | {"refreshes"}
DAY = dt.timedelta(days=1)
NOW = dt.datetime.fromisoformat(f"{TODAY}T12:00:00+00:00")


WORLD = {"customers": 20, "months": 3, "seed": 7, "today": TODAY}
LISTED = {"banks", "entities", "accounts"}


@pytest.fixture
def sandbox():
    """A small world with three months of history."""
    return Sandbox(**WORLD)


@pytest.fixture
def known(lake):
    """The lake after a first sync of what coverage is about."""
    return filled(lake, NAMES, sandbox=WORLD)


@pytest.fixture
def listed(lake):
    """The lake after a first sync of who there is."""
    return filled(lake, LISTED, sandbox=WORLD)


def pull(sandbox, lake, **selected):
    """Sync what coverage is about."""
    return asyncio.run(sync_everything(client_of(sandbox), lake, NAMES, **selected))


def covered(lake, at=NOW, where="true"):
    """Days by status, over all accounts."""
    with lake.connect() as connection:
        return Counter(
            dict(
                connection.execute(
                    f"select status, count(*) from coverage($at) where {where} group by all",
                    {"at": at},
                ).fetchall()
            )
        )


def test_every_day_of_every_account_is_told_once(lake, known):
    """From the first permitted or known day to today, each with one status."""
    with lake.connect() as connection:
        rows = connection.execute(
            "select account_id, min(utc_day), max(utc_day), count(*), count(distinct utc_day)"
            " from coverage($at) group by all",
            {"at": NOW},
        ).fetchall()

    assert rows
    for _, first, last, count, distinct in rows:
        assert last == NOW.date()
        assert count == distinct == (last - first).days + 1


def test_days_are_covered_as_claims_say(lake, known):
    """Covered are the days that claims speak for, counted in Python from the ledger."""
    claimed = {
        (account, first + n * DAY)
        for account, first, last in rows_of(
            lake,
            "select parent_id, claimed_from, claimed_to from claims where stream = 'transactions'",
        )
        for n in range((last - first).days + 1)
    }

    with lake.connect() as connection:
        told = connection.execute(
            "select account_id, utc_day from coverage($at) where status = 'covered'", {"at": NOW}
        ).fetchall()

    assert set(told) == claimed
    assert len(told) == len(claimed) > 1000


def test_before_anything_is_pulled_days_are_unknown_and_not_zero(lake, listed):
    """Permitted days wait; days without a permission are told apart."""
    told = covered(lake)

    assert told["not_yet_pulled"] > 1000
    assert told["covered"] == 0


def test_days_of_a_failed_month_are_refused_until_they_are_read(sandbox, lake, listed):
    """A bank that fails leaves its days refused with the code; the next sync covers them."""
    [(account,)] = rows_of(lake, "select account_id from accounts order by all limit 1")
    sandbox.fail("transactions", "failed:BANK_ISSUE", None, account_id=account)
    pull(sandbox, lake)
    where = f"account_id = '{account}'"

    refused = covered(lake, where=f"{where} and code = 'BANK_ISSUE'")
    sandbox.heal()
    pull(sandbox, lake)

    assert set(refused) == {"bank_refused"}
    assert covered(lake, where=where)["bank_refused"] == 0
    assert covered(lake, where=where)["covered"] == refused["bank_refused"]


def test_a_later_failure_leaves_covered_days_covered(sandbox, lake, known):
    """What was known stays known; the newest failure shows as its code."""
    before = covered(lake)
    sandbox.fail("transactions", "failed:BANK_ISSUE", None)
    pull(sandbox, lake, months={"2026-03"})

    assert covered(lake)["covered"] == before["covered"]
    assert covered(lake, where="code = 'BANK_ISSUE'")["covered"] > 0


def test_an_ended_consent_permits_no_new_days(sandbox, lake, known):
    """Days that were read stay covered; those after the end are not permitted."""
    [(entity, account)] = rows_of(
        lake,
        "select entity_id, account_id from accounts where account_id in"
        " (select parent_id from claims) order by all limit 1",
    )
    sandbox.revoke(entity)
    sandbox.clock.advance(3 * DAY)
    pull(sandbox, lake)

    told = covered(lake, NOW + 3 * DAY, f"account_id = '{account}' and utc_day > '{TODAY}'")

    assert told == {"not_permitted": 3}


def offered(sandbox, account):
    """The first day that the newest refresh says the bank has of an account."""
    # An entity's refreshes are listed with the newest first, and only that one tells the lake.
    return next(
        dt.date.fromisoformat(one["transactionAvailability"]["start"])
        for refresh in sandbox.truth("refreshes")
        for one in refresh["record"]["data_status"]["account_data"]
        if one["account_id"] == account
    )


def shallow(sandbox, lake):
    """An account whose bank offers thirty days of a consent for a year, synced with what it told.

    Returns:
        The account, its entity and the first day that the bank offers.
    """
    case = sandbox.example("newer_generation")
    account, entity = case["account_ids"][0], case["entity_id"]
    sandbox.limit_history(entity, 30)
    asyncio.run(sync_everything(client_of(sandbox), lake, TOLD))
    return account, entity, offered(sandbox, account)


def days_of(lake, account, at=NOW):
    """Status by day of one account, the pull beside it."""
    with lake.connect() as connection:
        return {
            day: (status, pull_id)
            for day, status, pull_id in connection.execute(
                "select utc_day, status, pull_id from coverage($at) where account_id = $account",
                {"at": at, "account": account},
            ).fetchall()
        }


def test_days_that_a_bank_does_not_offer_stay_unknown_though_they_were_read(sandbox, lake):
    """They were read and are empty, which tells nothing; from the first offered day on it does."""
    account, _, start = shallow(sandbox, lake)
    read = f"select min(claimed_from) from claims where parent_id = '{account}'"

    told = days_of(lake, account)

    assert rows_of(lake, read)[0][0] < start - 300 * DAY
    assert {status for day, (status, _) in told.items() if day < start} == {"not_offered"}
    assert {status for day, (status, _) in told.items() if day >= start} == {"covered"}
    assert {pull for day, (_, pull) in told.items() if day < start} == {None}
    assert min(told) < start < max(told)


def test_coverage_without_what_refreshes_tell_would_show_zeros(sandbox, lake, monkeypatch):
    """The mutant that believes an empty read is caught by the test above."""
    rule = "when days.utc_day < days.offered_from then 'not_offered'"
    drop = "and (days.offered_from is null or days.utc_day >= days.offered_from)"
    view = LAKE_VIEWS["coverage"]
    assert rule in view.sql
    assert drop in view.sql
    mutant = replace(view, sql=view.sql.replace(rule, "").replace(drop, ""))
    monkeypatch.setitem(LAKE_VIEWS, "coverage", mutant)

    account, _, start = shallow(sandbox, lake)

    assert {status for day, (status, _) in days_of(lake, account).items() if day < start} == {
        "covered"
    }


def test_a_start_that_moves_on_takes_nothing_back(sandbox, lake):
    """The earliest start that any refresh told counts, also when only later ones still show."""
    account, entity, start = shallow(sandbox, lake)

    async def refresh():
        async with client_of(sandbox) as lean:
            await lean.refresh(entity)

    sandbox.clock.advance(10 * DAY)
    asyncio.run(refresh())
    sandbox.clock.advance(dt.timedelta(minutes=5))
    asyncio.run(sync_everything(client_of(sandbox), lake, TOLD))

    shown = (
        "select one.transactions_from_date from"
        " (select unnest(account_statuses) as one from refreshes)"
        f" where one.account_id = '{account}'"
    )
    assert rows_of(lake, shown) == [(start + 10 * DAY,)]
    depth = f"select offered_from from account_depths where account_id = '{account}'"
    assert rows_of(lake, depth) == [(start,)]
    told = days_of(lake, account, NOW + 10 * DAY)
    assert {day for day, (status, _) in told.items() if status == "not_offered"} == {
        day for day in told if day < start
    }


STATUS = "struct(account_id varchar, transactions_from_date date)"
HEARD = """
create table refreshes_history (
    pull_id integer, entity_id varchar, created_at timestamptz, account_statuses {status}[]
);
insert into refreshes_history values
    (1, 'whole', '2026-01-01', [('w', '2025-01-01')]),
    (2, 'whole', '2026-02-01', [('w', '2025-02-01')]),
    (1, 'running', '2026-01-01', [('r', '2025-01-02'), ('s', '2025-01-03')]),
    (2, 'running', '2026-01-01', null),
    (2, 'running', '2026-02-01', null),
    (1, 'failed', '2026-01-01', [('f', '2025-01-04'), ('g', '2025-01-05')]),
    (2, 'failed', '2026-02-01', [('f', null), ('g', '2025-02-05')]),
    (2, 'never', '2026-02-01', null);
create view refreshes as from refreshes_history where pull_id = 2;
create table refresh_attempts (outcome varchar, asked_at timestamptz, data_status json);
insert into refresh_attempts values
    ('FINISHED', '2026-02-09', '{{"account_data": [
        {{"account_id": "w", "transactionAvailability": {{"start": "2025-02-09"}}}},
        {{"account_id": "f", "transactions": "FAILED"}}
    ]}}'),
    ('FINISHED', '2026-02-08', '{{"account_data": [
        {{"account_id": "x", "transaction_availability": {{"start": "2025-02-08"}}}}
    ]}}'),
    ('FINISHED', '2026-02-08', null),
    ('FINISHED', '2026-01-20', '{{"account_data": [
        {{"account_id": "old", "transactionAvailability": {{"start": "2025-01-20"}}}}
    ]}}'),
    ('OVERDUE', '2026-02-09', '{{"account_data": [
        {{"account_id": "g", "transactionAvailability": {{"start": "2025-02-09"}}}}
    ]}}');
"""


def test_a_start_that_the_newest_refresh_does_not_tell_is_that_of_the_one_before():
    """One that is running or failed tells nothing; what this application asked for is newest."""
    with duckdb.connect() as connection:
        connection.execute("set TimeZone = 'UTC'")
        connection.execute(HEARD.format(status=STATUS))
        found = connection.execute(LAKE_VIEWS["offered_now"].sql).fetchall()

    january, february = dt.date(2026, 1, 1), dt.date(2026, 2, 1)
    assert sorted(found) == [
        ("f", dt.date(2025, 1, 4), january),
        ("g", dt.date(2025, 2, 5), february),
        ("r", dt.date(2025, 1, 2), january),
        ("s", dt.date(2025, 1, 3), january),
        ("w", dt.date(2025, 2, 9), dt.date(2026, 2, 9)),
        ("x", dt.date(2025, 2, 8), dt.date(2026, 2, 8)),
    ]


def test_where_no_refresh_told_anything_nothing_changes(lake, known):
    """Without the refreshes every day that was read is covered, as the ledger says."""
    assert rows_of(lake, "select count(*) from account_depths") == [(0,)]
    assert covered(lake)["not_offered"] == 0


def bank_of_most(lake):
    """The bank with the most entities."""
    [(bank,)] = rows_of(
        lake,
        "select bank_identifier from entities group by all order by count(*) desc, 1 limit 1",
    )
    return bank


def test_a_bank_that_lean_switched_off_is_not_asked(sandbox, lake, listed):
    """Its parents are skipped until the listing announces it active; the others are pulled."""
    bank = bank_of_most(lake)
    sandbox.switch_bank(bank, active=False)

    pull(sandbox, lake)

    skipped = "select distinct stream, outcome, code from pulls where stream = 'transactions'"
    assert rows_of(lake, f"{skipped} and bank_identifier = '{bank}'") == [
        ("transactions", "SKIPPED", "BANK_PAUSED")
    ]
    assert rows_of(lake, "select count(*) from transactions")[0][0] > 0
    assert set(covered(lake, where=f"bank_identifier = '{bank}'")) == {"bank_refused"}
    sandbox.switch_bank(bank, active=True)
    pull(sandbox, lake)
    assert covered(lake, where=f"bank_identifier = '{bank}'")["covered"] > 0


def test_a_refused_bank_is_paused_until_a_later_listing(sandbox, lake, listed):
    """DISABLED_BY_LEAN stops the next stream too, and another process, until banks are listed."""
    bank = bank_of_most(lake)
    of_bank = f"select entity_id from entities where bank_identifier = '{bank}'"
    for (entity,) in rows_of(lake, of_bank):
        sandbox.fail("transactions", "failed:DISABLED_BY_LEAN", None, entity_id=entity)
    asyncio.run(sync_everything(client_of(sandbox), lake, {"transactions"}))
    sandbox.heal()

    other = Lake(lake.folder.parent, "sandbox")
    paused = rows_of(other, "select bank_identifier from paused_banks")
    asyncio.run(sync_everything(client_of(sandbox), other, {"transactions"}))
    days = f"coverage(timestamptz '{TODAY} 12:00:00+00')"
    still = rows_of(other, f"select status from {days} where entity_id in ({of_bank})")
    pull(sandbox, other)

    assert paused == [(bank,)]
    assert {status for (status,) in still} == {"bank_refused"}
    assert rows_of(other, "select count(*) from paused_banks") == [(0,)]
    assert covered(other, where=f"bank_identifier = '{bank}'")["covered"] > 0
