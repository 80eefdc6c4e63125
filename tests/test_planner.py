"""Laws of the planner: what is covered and what is planned is what is wanted."""

import datetime as dt
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.sync.planner import AllowedDays, Availability, Coverage, months, plan
from pipelines.sync.policy import Policy

DAY = dt.timedelta(days=1)
POLICY = Policy(lookback_days=30, longest_read_months=12)
DAYS = st.dates(dt.date(2023, 1, 1), dt.date(2026, 12, 31))


def account(from_date, to_date, name="a", availability=None):
    """An account whose consent allows the days, with the days that its bank offers, if reported."""
    return AllowedDays(name, "BANK", from_date, to_date, availability)


def days(first, last):
    """Every day of a range."""
    return {first + n * DAY for n in range((last - first).days + 1)}


def midnight(day):
    """The instant at which a UTC day begins."""
    return dt.datetime.combine(day, dt.time(), dt.UTC)


@st.composite
def _situations(draw):
    """An account, some months that pulls cover, and a day to plan for."""
    first, last = sorted((draw(DAYS), draw(DAYS)))
    today = draw(DAYS)
    coverage = {}
    for name, start, end in months(first, min(last, today)):
        kind = draw(st.sampled_from(["none", "whole", "part"]))
        if kind == "none":
            continue
        to = end if kind == "whole" else start + draw(st.integers(0, (end - start).days)) * DAY
        copy = draw(st.integers(0, 90))
        coverage[name] = [Coverage(start, to, midnight(to + copy * DAY))]
    return account(first, last), {"a": coverage}, today


@settings(max_examples=300, deadline=None)
@given(_situations())
def test_covered_and_planned_days_are_all_that_is_wanted(situation):
    """No wanted day is left out, no day outside the consent or after today is planned."""
    allowed, coverage, today = situation

    planned = [month for read in plan(allowed, coverage, today, POLICY) for month in read.months]

    wanted = (
        days(allowed.from_date, min(allowed.to_date, today))
        if (allowed.from_date <= min(allowed.to_date, today))
        else set()
    )
    covered = {
        day for c in coverage["a"].values() for one in c for day in days(one.from_date, one.to_date)
    }
    asked = {day for month in planned for day in days(month.from_date, month.to_date)}
    assert asked <= wanted
    assert wanted <= covered | asked


@settings(max_examples=200, deadline=None)
@given(_situations())
def test_no_month_is_planned_twice_and_series_are_bounded(situation):
    """Months of a plan are distinct and in order; a read holds neighbours, at most twelve."""
    allowed, coverage, today = situation

    reads = list(plan(allowed, coverage, today, POLICY))

    names = [month.month for one in reads for month in one.months]
    assert names == sorted(set(names))
    for one in reads:
        assert 1 <= len(one.months) <= POLICY.longest_read_months
        for left, right in zip(one.months, one.months[1:], strict=False):
            assert left.to_date + DAY == right.from_date
        assert allowed.from_date <= one.from_date <= one.months[0].from_date
        assert one.months[-1].to_date <= one.to_date <= min(allowed.to_date, today)


@settings(max_examples=200, deadline=None)
@given(_situations())
def test_planning_is_deterministic(situation):
    """The same situation gives the same plan."""
    allowed, coverage, today = situation

    assert list(plan(allowed, coverage, today, POLICY)) == list(
        plan(allowed, coverage, today, POLICY)
    )


@settings(max_examples=200, deadline=None)
@given(_situations())
def test_what_was_read_is_not_asked_for_again_once_it_is_settled(situation):
    """After a pull of everything from a bank data copy refreshed long after, nothing is planned."""
    allowed, _, today = situation
    settled = {
        name: [Coverage(first, last, midnight(last + 70 * DAY))]
        for name, first, last in months(allowed.from_date, min(allowed.to_date, today))
    }

    assert list(plan(allowed, {"a": settled}, today, POLICY)) == []


def test_a_new_account_gets_its_whole_history_in_one_series():
    """A year of history is one paged read, padded by nothing outside the consent."""
    allowed = account(dt.date(2025, 4, 10), dt.date(2026, 12, 31))

    [planned] = plan(allowed, {}, dt.date(2026, 3, 15), POLICY)

    assert [month.month for month in planned.months][:2] == ["2025-04", "2025-05"]
    assert len(planned.months) == 12
    assert (planned.from_date, planned.to_date) == (dt.date(2025, 4, 10), dt.date(2026, 3, 15))
    assert planned.unless_refreshed_at is None


def test_an_open_month_is_read_again_only_if_the_store_moved():
    """While it is open, a covered month is planned with the copy that it was read from."""
    allowed = account(dt.date(2026, 2, 1), dt.date(2026, 12, 31))
    copy = dt.datetime(2026, 3, 10, 5, tzinfo=dt.UTC)
    coverage = {
        "a": {
            "2026-02": [Coverage(dt.date(2026, 2, 1), dt.date(2026, 2, 28), copy)],
            "2026-03": [Coverage(dt.date(2026, 3, 1), dt.date(2026, 3, 10), copy)],
        }
    }

    [planned] = plan(allowed, coverage, dt.date(2026, 3, 15), POLICY)

    assert [month.month for month in planned.months] == ["2026-02", "2026-03"]
    assert planned.unless_refreshed_at == copy


def test_neighbours_are_padded_by_a_day_and_coverage_is_not():
    """A month in the middle is asked for with a day on each side and covers only its own days."""
    allowed = account(dt.date(2025, 1, 1), dt.date(2026, 12, 31))

    [planned] = plan(allowed, {}, dt.date(2026, 3, 15), POLICY, only={"2025-06"})

    assert (planned.from_date, planned.to_date) == (dt.date(2025, 5, 31), dt.date(2025, 7, 1))
    [month] = planned.months
    assert (month.from_date, month.to_date) == (dt.date(2025, 6, 1), dt.date(2025, 6, 30))


def test_a_backfill_reads_what_is_there_already():
    """Chosen months are read whatever is covered, and whatever the copy's instant."""
    allowed = account(dt.date(2025, 1, 1), dt.date(2026, 12, 31))
    copy = dt.datetime(2026, 3, 10, tzinfo=dt.UTC)
    coverage = {"a": {"2025-06": [Coverage(dt.date(2025, 6, 1), dt.date(2025, 6, 30), copy)]}}

    [planned] = plan(allowed, coverage, dt.date(2026, 3, 15), POLICY, only={"2025-06"})

    assert planned.unless_refreshed_at is None


READS = st.lists(
    st.tuples(
        st.integers(0, 40),  # days since the last read
        st.integers(0, 9),  # days since the bank's start was reported
        st.booleans(),  # whether everything is read again, as the weekly reconciliation does
    ),
    min_size=2,
    max_size=8,
)


def owners(offered_days, quiet_days, reads):
    """For each day the read that speaks for it, and whether its bank had the day then.

    The bank offers so many days, and the first of those has rows after so many without. Where that
    reaches into months that may be open, its start was reported for the copy that is read.
    """
    today = dt.date(2026, 1, 20)
    allowed = account(dt.date(2025, 6, 10), dt.date(2027, 12, 31))
    coverage, owner, known = {}, {}, set()
    for number, (passed, reported_before, is_forced) in enumerate(reads):
        today += passed * DAY
        copy = dt.datetime.combine(today, dt.time(number), dt.UTC)
        reported_on = today - (reported_before if offered_days > 150 else 0) * DAY
        availability = (
            Availability(reported_on - offered_days * DAY, reported_on) if number else None
        )
        has_from = today - offered_days * DAY
        first_row_on = min(has_from + quiet_days * DAY, today)
        only = {name for name, _, _ in months(allowed.from_date, today)} if is_forced else None
        for planned in plan(
            replace(allowed, availability=availability), {"a": coverage}, today, POLICY, only
        ):
            for month in planned.months:
                first = month.covered_from(availability, copy, first_row_on)
                if first > month.to_date:
                    continue
                # Of earlier pulls the days before are left, as the lake resolves them.
                earlier = (
                    Coverage(one.from_date, min(one.to_date, first - DAY), one.refreshed_at)
                    for one in coverage.get(month.month, ())
                    if one.from_date < first
                )
                coverage[month.month] = [*earlier, Coverage(first, month.to_date, copy)]
                for day in days(first, month.to_date):
                    owner[day] = day >= has_from
        known |= {day for day, is_had in owner.items() if is_had}
    return owner, known


@settings(max_examples=300, deadline=None)
@given(st.integers(5, 200), st.integers(0, 20), READS)
def test_a_day_that_was_read_never_passes_to_a_store_that_forgot_it(
    offered_days, quiet_days, reads
):
    """Whatever is read when: who speaks for a day that was known had it."""
    owner, known = owners(offered_days, quiet_days, reads)

    assert known <= {day for day, is_had in owner.items() if is_had}


def test_a_planner_that_believes_a_start_reported_days_ago_is_caught(monkeypatch):
    """The mutant that does not let the start move on hands a day to a copy whose bank forgot it."""
    monkeypatch.setattr(
        Availability, "whole_from", lambda availability, *_: availability.available_from
    )

    with pytest.raises(AssertionError):
        test_a_day_that_was_read_never_passes_to_a_store_that_forgot_it.hypothesis.inner_test(
            170, 0, [(0, 0, False), (7, 5, True)]
        )


def test_a_row_from_before_the_start_shows_that_the_bank_still_has_its_days():
    """A start that Lean reported wrongly keeps no read from covering what it brought."""
    availability = Availability(dt.date(2026, 2, 10), dt.date(2026, 3, 1))
    copy = dt.datetime(2026, 3, 5, tzinfo=dt.UTC)

    assert availability.whole_from(copy, None) == dt.date(2026, 2, 14)
    assert availability.whole_from(copy, dt.date(2026, 2, 20)) == dt.date(2026, 2, 14)
    assert availability.whole_from(copy, dt.date(2026, 2, 1)) == dt.date(2026, 2, 2)


def test_a_read_speaks_for_days_that_nobody_has_read_though_the_bank_forgot_them():
    """Somebody has to, or they would be asked for at every sync."""
    availability = Availability(dt.date(2026, 2, 10), dt.date(2026, 3, 1))
    allowed = account(dt.date(2026, 1, 1), dt.date(2026, 12, 31), availability=availability)
    copy = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)
    read = Coverage(dt.date(2026, 2, 1), dt.date(2026, 2, 5), copy - 20 * DAY)

    [planned] = plan(allowed, {"a": {"2026-02": [read]}}, dt.date(2026, 3, 1), POLICY)

    assert {month.month: month.covered_from(availability, copy) for month in planned.months} == {
        "2026-01": dt.date(2026, 1, 1),
        "2026-02": dt.date(2026, 2, 6),
        "2026-03": dt.date(2026, 3, 1),
    }


def test_an_open_month_is_read_from_its_accounts_first_day_however_old_the_telling():
    """A pending row of a new account that books later must not stay behind in an older pull."""
    availability = Availability(dt.date(2026, 3, 2), dt.date(2026, 3, 4))
    allowed = account(dt.date(2026, 3, 1), dt.date(2026, 12, 31), availability=availability)
    copy = dt.datetime(2026, 3, 9, tzinfo=dt.UTC)
    read = Coverage(dt.date(2026, 3, 1), dt.date(2026, 3, 4), copy - 5 * DAY)

    [planned] = plan(allowed, {"a": {"2026-03": [read]}}, dt.date(2026, 3, 9), POLICY)

    [month] = planned.months
    assert month.is_open
    assert month.covered_from(availability, copy, dt.date(2026, 3, 7)) == dt.date(2026, 3, 2)


def test_days_that_the_bank_forgot_keep_no_month_open():
    """They were read while rows could still change, and will never be read again."""
    availability = Availability(dt.date(2026, 1, 20), dt.date(2026, 3, 20))
    allowed = account(dt.date(2026, 1, 1), dt.date(2026, 12, 31), availability=availability)
    early, late = (dt.datetime(2026, month, 15, tzinfo=dt.UTC) for month in (1, 3))
    march = [
        Coverage(dt.date(2026, 3, 1), dt.date(2026, 3, 20), dt.datetime(2026, 4, 30, tzinfo=dt.UTC))
    ]
    january = [
        Coverage(dt.date(2026, 1, 1), dt.date(2026, 1, 19), early),
        Coverage(dt.date(2026, 1, 20), dt.date(2026, 1, 31), late),
    ]
    february = [Coverage(dt.date(2026, 2, 1), dt.date(2026, 2, 28), late + 30 * DAY)]
    coverage = {"a": {"2026-01": january, "2026-02": february, "2026-03": march}}

    planned = [
        month.month
        for one in plan(allowed, coverage, dt.date(2026, 3, 20), POLICY)
        for month in one.months
    ]
    undated = plan(replace(allowed, availability=None), coverage, dt.date(2026, 3, 20), POLICY)

    assert "2026-01" not in planned
    assert "2026-01" in {month.month for one in undated for month in one.months}


def test_a_backfill_leaves_out_months_that_the_bank_forgot():
    """They were read while it had them; one that nobody has read whole is asked for as before."""
    availability = Availability(dt.date(2026, 2, 10), dt.date(2026, 3, 1))
    allowed = account(dt.date(2025, 11, 1), dt.date(2026, 12, 31), availability=availability)
    copy = dt.datetime(2026, 1, 20, tzinfo=dt.UTC)
    coverage = {
        "2025-12": [Coverage(dt.date(2025, 12, 1), dt.date(2025, 12, 30), copy)],
        "2026-01": [Coverage(dt.date(2026, 1, 1), dt.date(2026, 1, 31), copy)],
    }
    every = {"2025-11", "2025-12", "2026-01", "2026-02", "2026-03"}

    planned = plan(allowed, {"a": coverage}, dt.date(2026, 3, 2), POLICY, every)

    assert [[month.month for month in one.months] for one in planned] == [
        ["2025-11", "2025-12"],
        ["2026-02", "2026-03"],
    ]
