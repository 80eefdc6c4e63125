"""What did not fit is not known, says so, and takes nothing else with it."""

import json
import re
import shutil
import sys
from decimal import Decimal
from pathlib import Path

import pytest
from conftest import RELATIONS, TODAY

sys.path[:0] = [str(Path(__file__).parent / name) for name in ("conformance", "marts")]
from known import KEY, closure, models
from worlds import CHAIN, DAY, Wire, next_day, pull, wired

from lean_resources import values
from lean_resources.documents import Number
from lean_resources.sandbox import Sandbox
from lean_resources.streams import STREAMS, Kind
from pipelines.dagster_defs.failures import Attempt
from pipelines.dagster_defs.stream_assets import checks_of
from pipelines.lake.lake import Lake
from pipelines.models.build import build
from pipelines.publish.warehouse import connect, publish
from pipelines.sync.policy import Policy
from pipelines.sync.replay import replay


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    """An offline Lean, and the lake of a good night."""
    sandbox = Sandbox(customers=3, months=2, seed=7, today=TODAY)
    lake = Lake(tmp_path_factory.mktemp("night"), "sandbox")
    pull(sandbox, lake)
    return sandbox, lake


def records_of(body):
    """The records of a page of transactions or balances."""
    data = body.get("data") or {}
    return data.get("transactions") or data.get("balances") or []


def changing(stream, change):
    """A wire that lets a function change each record of a stream."""

    def spoilt(request, body):
        if not request.url.path.endswith(f"/{stream}"):
            return body
        page = json.loads(body, parse_float=Decimal)
        for record in records_of(page):
            change(record)
        return json.dumps(page, default=float).encode()

    return spoilt


def sync(sandbox, lake, change=None, names=("entities", "accounts", "transactions"), **more):
    """Sync with changed answers; the last report."""
    wire = Wire(sandbox, change) if change else Wire(sandbox)
    return pull(sandbox, lake, names, client=wired(sandbox, wire, page_size=30), **more)


def ask(lake, query, **given):
    """What the lake answers, with no more of it connected than the query needs."""
    with lake.connect(set(re.findall(r"\w+", query)) & RELATIONS) as connection:
        return connection.execute(query, given or None).fetchall()


def one_of(lake):
    """A transaction of an account with one id: account, id, UTC day and amount."""
    return ask(
        lake,
        "select account_id, transaction_id, (booked_at at time zone 'UTC')::date, amount"
        " from transactions where booked_at is not null and account_id in (select account_id"
        " from accounts qualify count(*) over (partition by list_transform(identifications,"
        " lambda one: one.identification)::varchar) = 1)"
        " order by transaction_id limit 1",
    )[0]


def unfit(record):
    """Give a record an amount that would have to be rounded."""
    record["amount"]["amount"] = "12.50"


def copied(lake, folder):
    """A copy of a lake, to change."""
    shutil.copytree(lake.folder, folder / "sandbox")
    return Lake(folder, "sandbox")


RESTING = (
    "bridge_account_owners",
    "int_account_months",
    "fct_balances_daily",
    "mart_coverage_days",
    "mart_customer_readiness",
    "mart_data_quality",
)
"""Tables that a movement that does not fit is asked of."""
STATUS = "select status, code from account_days where account_id = $account and utc_day = $day"


def test_a_day_whose_record_does_not_fit_is_not_known(night, tmp_path):
    """The day says so with a reason of its own; neighbours are known, other rows show."""
    sandbox, good = night
    account, wanted, day, _ = one_of(good)
    lake = Lake(tmp_path, "sandbox")
    total = len(ask(good, "from transactions"))

    report = sync(
        sandbox,
        lake,
        changing("transactions", lambda one: one["transaction_id"] == wanted and unfit(one)),
    )

    assert report.quarantined == 1
    assert report.unfit == {"amount is not a number": 1}
    assert ask(lake, STATUS, account=account, day=day) == [("record_unfit", "RECORDS_UNFIT")]
    assert ask(lake, STATUS, account=account, day=day + DAY) == [("covered", None)]
    assert len(ask(lake, "from transactions")) == total - 1
    assert ask(
        lake,
        "select stream, parent_id, column_name, reason, is_record_lost, record_count"
        " from quarantine",
    ) == [("transactions", account, "amount", "is not a number", True, 1)]


def test_a_row_that_fits_no_more_keeps_its_last_good_version(night, tmp_path):
    """It shows as it was read, marked; its day is not known, and the alarm stays while it lasts."""
    sandbox, good = night
    account, wanted, day, amount = one_of(good)
    lake = copied(good, tmp_path)
    before = ask(good, "select transaction_id, amount from transactions order by all")
    spoil = changing("transactions", lambda one: one["transaction_id"] == wanted and unfit(one))
    row = (
        "select amount, last_good_at is not null from transactions"
        f" where transaction_id = '{wanted}'"
    )

    sync(sandbox, lake, spoil, months={f"{day:%Y-%m}"})

    assert ask(lake, row) == [(amount, True)]
    assert ask(lake, "select transaction_id, amount from transactions order by all") == before
    assert ask(lake, STATUS, account=account, day=day) == [("record_unfit", "RECORDS_UNFIT")]

    nothing_new = sync(sandbox, lake, spoil)

    assert nothing_new.outcomes["FAILED"] == 0
    assert nothing_new.standing == {"amount is not a number": 1}
    [found] = [
        one
        for one in checks_of(STREAMS["transactions"], nothing_new, Attempt())
        if one["check_name"] == "fits_the_catalogue"
    ]
    assert not found["passed"]
    assert found["metadata"] == {"in_quarantine": {"amount is not a number": 1}}
    assert ask(lake, "select sum(record_count) from quarantine") == [(1,)]
    assert ask(lake, row) == [(amount, True)]

    sync(sandbox, lake, months={f"{day:%Y-%m}"})

    assert ask(lake, row) == [(amount, False)]
    assert ask(lake, "from quarantine") == []
    assert ask(lake, STATUS, account=account, day=day) == [("covered", None)]


def test_a_read_of_which_too_much_does_not_fit_replaces_nothing(night, tmp_path):
    """All amounts arrive as text: every row stays, its day is not known, and every sync says so."""
    sandbox, good = night
    lake = copied(good, tmp_path)
    sandbox = Sandbox(customers=3, months=2, seed=7, today=TODAY)
    before = ask(good, "select transaction_id, amount from transactions order by all")
    spoil = changing("transactions", unfit)

    for _ in range(2):
        next_day(sandbox)
        report = sync(sandbox, lake, spoil)

        assert report.outcomes["FAILED"] > 0
        assert report.codes["RECORDS_UNFIT"] > 0
        assert ask(lake, "select transaction_id, amount from transactions order by all") == before
        statuses = ask(
            lake,
            "select distinct days.status from account_days as days"
            " inner join quarantined_records as records"
            " on days.account_id = records.record_key ->> 0 and days.utc_day = records.placed_on",
        )
        assert statuses == [("record_unfit",)]
        assert ask(lake, "select count(*) from quarantine where first_seen_at < last_seen_at")

    next_day(sandbox)
    sync(sandbox, lake)

    assert ask(lake, "from quarantine where is_record_lost") == []
    assert len(ask(lake, "from transactions")) >= len(before)


def test_a_record_without_a_readable_day_makes_its_whole_read_unknown(night, tmp_path):
    """Nobody can say which day it is missing from."""
    sandbox, good = night
    account, wanted, _, _ = one_of(good)
    lake = Lake(tmp_path, "sandbox")

    def undated(one):
        if one["transaction_id"] == wanted:
            one["booking_date_time"] = "soon"

    sync(sandbox, lake, changing("transactions", undated))

    read = (
        "select account_days.status, count(distinct account_days.utc_day) from account_days"
        " inner join pulls on account_days.account_id = pulls.parent_id"
        " and account_days.utc_day between pulls.claimed_from and pulls.claimed_to"
        " where pulls.stream = 'transactions' and pulls.series_id in"
        " (select series_id from pulls where quarantined > 0)"
        " and account_days.account_id = $account and account_days.status <> 'not_offered'"
        " group by all"
    )
    [(status, days)] = ask(lake, read, account=account)
    assert status == "record_unfit"
    assert days > 31


@pytest.mark.parametrize(
    ("date", "reason", "whole"),
    [
        ("1970-01-01T00:00:00Z", "is dated before the first day that the consent allows", True),
        ("2026-03-16T09:00:00Z", "is dated after the day on which the bank was asked", False),
        *(
            pytest.param(
                later,
                "is dated after the day on which the bank was asked",
                False,
                marks=pytest.mark.conformance,
            )
            for later in ("2026-08-20T09:00:00Z", "2099-01-01T00:00:00Z")
        ),
    ],
)
def test_a_row_of_days_that_cannot_be_asked_for_is_quarantined(
    night, tmp_path, date, reason, whole
):
    """It does not vanish: it is counted with its reason, and a day before all makes all unknown."""
    sandbox, good = night
    account, wanted, day, _ = one_of(good)
    lake = Lake(tmp_path, "sandbox")

    def moved(one):
        if one["transaction_id"] == wanted:
            one["booking_date_time"] = date

    report = sync(sandbox, lake, changing("transactions", moved))

    assert report.quarantined == 1
    assert ask(lake, "select column_name, reason, record_count from quarantine") == [
        ("booked_at", reason, 1)
    ]
    [(status, _)] = ask(lake, STATUS, account=account, day=day)
    assert status == ("record_unfit" if whole else "covered")


def test_balances_that_do_not_fit_keep_their_last_good_version(night, tmp_path):
    """The same for a stream without months, by its key."""
    sandbox, good = night
    lake = copied(good, tmp_path)
    sandbox = Sandbox(customers=3, months=2, seed=7, today=TODAY)
    names = ("entities", "accounts", "balances")
    before = ask(good, "select account_id, balance_type, amount from balances order by all")
    [(account, kind)] = ask(
        good, "select account_id, balance_type from balances order by all limit 1"
    )
    next_day(sandbox)

    sync(
        sandbox,
        lake,
        changing(
            "balances",
            lambda one: one["account_id"] == account and one["type"] == kind and unfit(one),
        ),
        names,
    )

    kept = ask(lake, "select account_id, balance_type from balances where last_good_at is not null")
    assert kept == [(account, kind)]
    assert ask(lake, "select is_unfit from claims where stream = 'balances' and is_unfit")
    assert len(ask(lake, "from balances")) == len(before)

    next_day(sandbox)
    report = sync(sandbox, lake, changing("balances", unfit), names)

    assert report.codes["RECORDS_UNFIT"] > 0
    assert len(ask(lake, "from balances")) == len(before)


@pytest.mark.parametrize(
    "only", [RESTING, pytest.param((), marks=pytest.mark.conformance)], ids=["resting", "all"]
)
def test_tables_carry_what_does_not_fit(night, tmp_path, only):
    """Every table that rests on it says so, and none shows a value of it; all can be built."""
    sandbox, good = night
    account, wanted, day, _ = one_of(good)
    lake = copied(good, tmp_path)
    spoil = changing("transactions", lambda one: one["transaction_id"] == wanted and unfit(one))
    sync(sandbox, lake, spoil, months={f"{day:%Y-%m}"})

    built = build(lake, models(), hash_key=KEY, only=closure(*only) if only else None)
    problems = [one.problem for one in built]
    publish(lake, models())

    assert not any(problems)
    with connect(lake) as warehouse:

        def told(query):
            given = {"account": account, "day": day}
            asked = {name: one for name, one in given.items() if f"${name}" in query}
            return warehouse.execute(query, asked or None).fetchall()

        key = "(select account_key from bridge_accounts where account_id = $account)"
        marked = "select transaction_id from fct_transactions where last_good_at is not null"
        assert warehouse.execute(marked).fetchall() == [(wanted,)]
        assert told(
            f"select status, reason, is_last_good from mart_coverage_days where account_key = {key}"
            " and utc_day = $day"
        ) == [("record_unfit", "RECORDS_UNFIT", True)]
        full = told(
            f"select is_full_month from intermediate.int_account_months where account_key = {key}"
            " and riyadh_month = strftime($day, '%Y-%m')"
        )
        assert full == [(False,)]
        daily = told(
            f"select distinct has_unfit_records from fct_balances_daily where account_key = {key}"
            " and balance_date in ($day, $day + 1)"
        )
        assert daily == [(True,)]
        [(customer, reasons)] = told(
            "select customer_id, reasons from mart_customer_readiness"
            " where list_contains(reasons, 'record_unfit')"
        )
        assert customer in {
            one
            for (one,) in told(
                f"select customer_id from bridge_account_owners where account_key = {key}"
            )
        }
        assert reasons == sorted(reasons)
        [(odd, passed)] = warehouse.execute(
            "select odd_count, is_passed from mart_data_quality where observation = 'quarantined'"
            " and stream = 'transactions' and odd_count > 0"
        ).fetchall()
        assert (odd, passed) == (1, False)
        text = warehouse.execute(
            "select string_agg(quarantine::varchar) from quarantine"
        ).fetchone()
        assert "12.50" not in text[0]


def test_a_row_of_a_day_to_come_is_observed(night, tmp_path):
    """The rule of rows behind the lake's clock sees what is in quarantine."""
    sandbox, good = night
    _, wanted, _, _ = one_of(good)
    lake = Lake(tmp_path, "sandbox")

    def moved(one):
        if one["transaction_id"] == wanted:
            one["booking_date_time"] = "2026-03-16T09:00:00Z"

    sync(sandbox, lake, changing("transactions", moved), ("banks", *CHAIN))
    build(lake, models(), hash_key=KEY, only=closure("mart_data_quality"))
    publish(lake, models())

    with connect(lake) as warehouse:
        found = warehouse.execute(
            "select odd_count, is_passed from mart_data_quality where observation = 'future_date'"
            " and odd_count > 0"
        ).fetchall()
    assert found == [(1, False)]


@pytest.fixture(scope="module")
def text_night(night, tmp_path_factory):
    """The good lake after a night in which no amount of a movement fits."""
    lake = copied(night[1], tmp_path_factory.mktemp("texts"))
    sandbox = Sandbox(customers=3, months=2, seed=7, today=TODAY)
    next_day(sandbox)

    def as_text(one):
        one["amount"]["amount"] = str(one["amount"]["amount"])

    sync(sandbox, lake, changing("transactions", as_text))
    return lake


def test_replay_judges_a_read_by_the_policy_as_a_sync_does(text_night, tmp_path):
    """What replaces nothing by the usual share counts where the policy allows it."""
    lake = copied(text_night, tmp_path)
    counted = (
        "select count(*) > 0 from pulls where outcome = 'COMMITTED'"
        " and series_id in (select series_id from pulls where code = 'RECORDS_UNFIT')"
    )
    replay(STREAMS["transactions"], lake)
    usual = ask(lake, counted)
    replay(STREAMS["transactions"], lake, policy=Policy(unfit_share=1.0))

    assert (usual, ask(lake, counted)) == ([(False,)], [(True,)])


def test_replay_makes_known_what_fits_by_now(text_night, tmp_path, monkeypatch):
    """A read that replaced nothing counts once the catalogue has learnt to read it."""
    lake = copied(text_night, tmp_path)
    unfit_before = ask(lake, "select count(*) from claims where is_unfit")[0][0]
    lenient = values._CONVERT[Kind.MONEY]
    monkeypatch.setitem(
        values._CONVERT,
        Kind.MONEY,
        lambda column, value: lenient(column, Number(value) if isinstance(value, str) else value),
    )
    replay(STREAMS["transactions"], lake)

    assert unfit_before > 0
    assert ask(lake, "select count(*) from claims where is_unfit") == [(0,)]
    assert ask(lake, "from quarantine where is_record_lost") == []
    assert ask(lake, "select count(*) from transactions where last_good_at is not null") == [(0,)]
