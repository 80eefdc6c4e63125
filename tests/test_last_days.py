"""The last days nightly, whole open months weekly: what is read when, and that nothing is lost."""

import datetime as dt
import sys
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from conftest import rows_of
from hypothesis import given, settings
from hypothesis import strategies as st

from lean_resources.streams import STREAMS

sys.path.insert(0, str(Path(__file__).parent / "conformance"))
from worlds import new_sandbox, pull

from pipelines.lake.compaction import compact
from pipelines.sync import planner
from pipelines.sync.planner import AllowedDays, Coverage, plan
from pipelines.sync.policy import Policy
from pipelines.sync.replay import replay
from pipelines.sync.slots import moving_from

DAY = dt.timedelta(days=1)
TRANSACTIONS = STREAMS["transactions"]
EXPECTED = """
    select
        pulls.pull_id,
        coalesce(
            min(rows.booked_at::date) filter (where rows.status <> 'BOOKED'), pulls.claimed_to + 1
        ) as expected
    from pulls
    left join transactions as rows on pulls.pull_id = rows.pull_id
    where pulls.stream = 'transactions' and pulls.outcome = 'COMMITTED'
    group by pulls.pull_id, pulls.claimed_to
"""


@pytest.mark.parametrize(
    ("status", "mutability", "moves"),
    [
        ("BOOKED", "IMMUTABLE", False),
        ("BOOKED", None, False),
        ("BOOKED", "MUTABLE", True),
        ("REJECTED", None, False),
        ("PENDING", "MUTABLE", True),
        ("PENDING", "IMMUTABLE", True),
        ("UNSUPPORTED", "IMMUTABLE", False),
        (None, "IMMUTABLE", False),
        (None, "UNSUPPORTED", True),
        (None, None, True),
    ],
)
def test_only_what_the_bank_calls_final_stays_on_its_day(status, mutability, moves):
    """A row that may be booked later, or of which nobody says so, moves."""
    rows = TRANSACTIONS.schema.empty_table().to_pydict()
    day = dt.datetime(2026, 3, 5, 21, 30, tzinfo=dt.UTC)
    rows |= {name: [None] for name in rows}
    rows |= {"status": [status], "transaction_mutability": [mutability], "booked_at": [day]}
    table = pa.table(rows, schema=TRANSACTIONS.schema)

    [found] = moving_from(TRANSACTIONS, table, np.zeros(1, np.int64), [dt.date(2026, 3, 31)])

    assert f"{found}" == ("2026-03-05" if moves else "2026-04-01")


def test_a_pull_says_from_which_day_on_its_rows_may_move(lake):
    """The first day with a row that is not booked, or the day after all; merged and typed again."""
    pull(new_sandbox(), lake)

    for again in (lambda: None, lambda: compact(lake), lambda: replay(TRANSACTIONS, lake)):
        again()
        told = rows_of(
            lake,
            f"select pulls.moving_from, expected, pulls.claimed_to + 1 from ({EXPECTED}) as wanted"
            " inner join pulls on wanted.pull_id = pulls.pull_id"
            " inner join claims on wanted.pull_id = claims.pull_id",
        )

        assert all(moving == expected for moving, expected, _ in told)
        assert any(moving < after for moving, _, after in told)


FIRST = dt.date(2026, 1, 10)
"""The first night of the law's bank."""
LATEST = 28
"""Days after its own on which a row still appears, is booked or vanishes: its month is open."""


@dataclass(frozen=True)
class Movement:
    """A row of the law's bank.

    Args:
        day: Its UTC day while it is pending, or for good.
        shown_on: The day on which the bank first shows it.
        booked_on: The day on which it is booked, if it was pending; it is dated by that day then.
        vanishes: Whether it vanishes then instead.
    """

    day: dt.date
    shown_on: dt.date
    booked_on: dt.date | None = None
    vanishes: bool = False

    def at(self, today):
        """Its day, and whether that may still change; None while it is not shown."""
        if today < self.shown_on:
            return None
        if self.booked_on is None or today < self.booked_on:
            return self.day, self.booked_on is not None
        return None if self.vanishes else (self.booked_on, False)


@st.composite
def _movements(draw):
    day = FIRST + draw(st.integers(-30, 60)) * DAY
    late = draw(st.integers(0, LATEST))
    shown_on = day + late * DAY
    pending = draw(st.none() | st.integers(0, LATEST - late))
    booked_on = None if pending is None else shown_on + pending * DAY
    return Movement(day, shown_on, booked_on, draw(st.booleans()))


NIGHTS = st.lists(st.sampled_from([1, 1, 1, 1, 2, 9]), min_size=5, max_size=60)


class Account:
    """An account that is read by the planner, with what its pulls brought."""

    def __init__(self, movements, account_id, policy):
        self.movements = movements
        self.policy = policy
        self.allowed = AllowedDays(account_id, "BANK", FIRST - 60 * DAY, dt.date(2027, 1, 1))
        self.owner = {}
        self.pulls = []
        self.reads = 0

    def coverage(self):
        """What the lake tells of its pulls: the newest that covers a day owns it."""
        found, before = {}, None
        for day, place in sorted(self.owner.items()):
            copy, moving, _ = self.pulls[place]
            name = f"{day:%Y-%m}"
            if before == (name, place, day - DAY):
                ranges = found[name]
                ranges[-1] = replace(ranges[-1], to_date=day)
            else:
                found.setdefault(name, []).append(Coverage(day, day, copy, moving_from=moving))
            before = (name, place, day)
        return {self.allowed.account_id: found}

    def read(self, today):
        """Read what the planner asks for; the bank was asked just before."""
        copy = dt.datetime.combine(today, dt.time(2), dt.UTC)
        shown = {i: at for i, one in enumerate(self.movements) if (at := one.at(today))}
        for read in list(plan(self.allowed, self.coverage(), today, self.policy)):
            self.reads += (read.to_date - read.from_date).days + 1
            for month in read.months:
                inside = {
                    i: at for i, at in shown.items() if month.from_date <= at[0] <= month.to_date
                }
                moving = min(
                    (day for day, moves in inside.values() if moves), default=month.to_date + DAY
                )
                self.pulls.append((copy, moving, {i: day for i, (day, _) in inside.items()}))
                for n in range((month.to_date - month.from_date).days + 1):
                    self.owner[month.from_date + n * DAY] = len(self.pulls) - 1

    def rows(self):
        """The rows that count: movement and day."""
        return [
            (i, day)
            for place, (_, _, rows) in enumerate(self.pulls)
            for i, day in rows.items()
            if self.owner[day] == place
        ]


def wrong(movements, nights, name="a", policy=Policy()):  # noqa: B008 - it is frozen
    """Rows that the bank does not have, or that are missing and are not as late as promised."""
    account, today, found = Account(movements, name, policy), FIRST, []
    for passed in nights:
        today += passed * DAY
        account.read(today)
        rows = account.rows()
        true = {(i, at[0]) for i, one in enumerate(movements) if (at := one.at(today))}
        true = {(i, day) for i, day in true if day <= today}
        found += [("twice", one) for one in set(rows) if rows.count(one) > 1]
        found += [("invented", one) for one in set(rows) - true]
        for i, day in true - set(rows):
            late = (movements[i].shown_on - day).days
            is_new = movements[i].shown_on > today - policy.whole_months_every_days * DAY
            if late <= policy.nightly_days or not is_new:
                found.append(("lost", (i, day)))
    return found


@settings(max_examples=100, deadline=None)
@given(st.lists(_movements(), max_size=12), NIGHTS, st.sampled_from("abcdefg"))
def test_every_night_shows_what_the_bank_has_but_what_is_later_than_promised(
    movements, nights, name
):
    """Rows that are booked, moved or gone show as the bank has them, each once, every night.

    Only a row that came later than the last days may be missing, for less than a week.
    """
    assert wrong(movements, nights, name) == []


MOVED = [Movement(FIRST - 9 * DAY, FIRST - 9 * DAY, FIRST + 2 * DAY)]
LATE = [Movement(FIRST - 12 * DAY, FIRST + DAY)]
IN_TIME = [Movement(FIRST - 5 * DAY, FIRST + DAY)]


USUAL = planner._last_days_from


def _without_moving(allowed, open_months, have, today, policy):
    have = {
        name: [replace(one, moving_from=one.to_date + DAY) for one in ranges]
        for name, ranges in have.items()
    }
    return USUAL(allowed, open_months, have, today, policy)


@pytest.mark.parametrize(
    ("movements", "mutant"),
    [
        (MOVED, _without_moving),
        (LATE, lambda allowed, months_, have, *_: FIRST - 7 * DAY if months_ and have else None),
        (IN_TIME, lambda allowed, months_, have, today, _: today - 3 * DAY if have else None),
    ],
    ids=["rows that move are left behind", "never whole again", "days that do not reach back"],
)
def test_a_planner_that_reads_too_little_is_caught(monkeypatch, movements, mutant):
    """Each promise has a reader that breaks it."""
    assert wrong(movements, [0, *[1] * 12]) == []
    monkeypatch.setattr(planner, "_last_days_from", mutant)

    assert wrong(movements, [0, *[1] * 12]) != []


def test_a_night_asks_for_a_third_of_the_days_and_whole_months_once_a_week():
    """From the first whole read on the last days grow, and a week later everything is read."""
    account = Account([], "a", Policy())
    days = []
    for night in range(40):
        before = account.reads
        account.read(FIRST + night * DAY)
        days.append(account.reads - before)

    whole = [night for night, count in enumerate(days) if count > 17]
    assert [right - left for left, right in pairwise(whole[1:])] == [7] * 5
    assert sum(days[whole[1] :]) < 0.5 * len(days[whole[1] :]) * 46


def test_days_that_nobody_may_read_again_make_no_month_due():
    """An earlier consent's days, or days that the bank forgot, stay old; the others are enough."""
    account = Account([], "a", Policy())
    account.read(FIRST)
    account.allowed = replace(account.allowed, from_date=FIRST - 30 * DAY)
    for night in range(1, 15):
        account.read(FIRST + night * DAY)
    before = account.reads
    account.read(FIRST + 15 * DAY)

    assert account.reads - before <= 17
