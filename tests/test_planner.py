"""Laws of the planner: what is claimed and what is planned is what is wanted."""

import datetime as dt

from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.planner import Claim, Window, months, plan
from pipelines.policy import Policy

DAY = dt.timedelta(days=1)
POLICY = Policy(lookback_days=30, longest_series_months=12)
DAYS = st.dates(dt.date(2023, 1, 1), dt.date(2026, 12, 31))


def account(from_date, to_date, name="a"):
    """An account whose consent allows the days."""
    return Window(name, "e", "BANK", from_date, to_date)


def days(first, last):
    """Every day of a range."""
    return {first + n * DAY for n in range((last - first).days + 1)}


def midnight(day):
    """The instant at which a UTC day begins."""
    return dt.datetime.combine(day, dt.time(), dt.UTC)


@st.composite
def _situations(draw):
    """An account, some months that pulls claimed, and a day to plan for."""
    first, last = sorted((draw(DAYS), draw(DAYS)))
    today = draw(DAYS)
    claims = {}
    for name, start, end in months(first, min(last, today)):
        kind = draw(st.sampled_from(["none", "whole", "part"]))
        if kind == "none":
            continue
        to = end if kind == "whole" else start + draw(st.integers(0, (end - start).days)) * DAY
        store = draw(st.integers(0, 90))
        claims[name] = [Claim(start, to, midnight(to + store * DAY))]
    return account(first, last), {"a": claims}, today


@settings(max_examples=300, deadline=None)
@given(_situations())
def test_claimed_and_planned_days_are_all_that_is_wanted(situation):
    """No wanted day is left out, no day outside the consent or after today is planned."""
    window, claims, today = situation

    planned = [month for series in plan([window], claims, today, POLICY) for month in series.months]

    wanted = (
        days(window.from_date, min(window.to_date, today))
        if (window.from_date <= min(window.to_date, today))
        else set()
    )
    claimed = {
        day
        for c in claims["a"].values()
        for claim in c
        for day in days(claim.from_date, claim.to_date)
    }
    asked = {day for month in planned for day in days(month.from_date, month.to_date)}
    assert asked <= wanted
    assert wanted <= claimed | asked


@settings(max_examples=200, deadline=None)
@given(_situations())
def test_no_month_is_planned_twice_and_series_are_bounded(situation):
    """Months of a plan are distinct and in order; a series holds neighbours, at most twelve."""
    window, claims, today = situation

    series = list(plan([window], claims, today, POLICY))

    names = [month.month for one in series for month in one.months]
    assert names == sorted(set(names))
    for one in series:
        assert 1 <= len(one.months) <= POLICY.longest_series_months
        for left, right in zip(one.months, one.months[1:], strict=False):
            assert left.to_date + DAY == right.from_date
        assert window.from_date <= one.from_date <= one.months[0].from_date
        assert one.months[-1].to_date <= one.to_date <= min(window.to_date, today)


@settings(max_examples=200, deadline=None)
@given(_situations())
def test_planning_is_deterministic(situation):
    """The same situation gives the same plan."""
    window, claims, today = situation

    assert list(plan([window], claims, today, POLICY)) == list(
        plan([window], claims, today, POLICY)
    )


@settings(max_examples=200, deadline=None)
@given(_situations())
def test_what_was_read_is_not_asked_for_again_once_it_is_settled(situation):
    """After a pull of everything by a store refreshed long after, nothing is planned."""
    window, _, today = situation
    settled = {
        name: [Claim(first, last, midnight(last + 70 * DAY))]
        for name, first, last in months(window.from_date, min(window.to_date, today))
    }

    assert list(plan([window], {"a": settled}, today, POLICY)) == []


def test_a_new_account_gets_its_whole_history_in_one_series():
    """A year of history is one series of requests, padded by nothing outside the consent."""
    window = account(dt.date(2025, 4, 10), dt.date(2026, 12, 31))

    [series] = plan([window], {}, dt.date(2026, 3, 15), POLICY)

    assert [month.month for month in series.months][:2] == ["2025-04", "2025-05"]
    assert len(series.months) == 12
    assert (series.from_date, series.to_date) == (dt.date(2025, 4, 10), dt.date(2026, 3, 15))
    assert series.unless_refreshed_at is None


def test_an_open_month_is_read_again_only_if_the_store_moved():
    """Within the lookback a covered month is planned with the store it was read from."""
    window = account(dt.date(2026, 2, 1), dt.date(2026, 12, 31))
    store = dt.datetime(2026, 3, 10, 5, tzinfo=dt.UTC)
    claims = {
        "a": {
            "2026-02": [Claim(dt.date(2026, 2, 1), dt.date(2026, 2, 28), store)],
            "2026-03": [Claim(dt.date(2026, 3, 1), dt.date(2026, 3, 10), store)],
        }
    }

    [series] = plan([window], claims, dt.date(2026, 3, 15), POLICY)

    assert [month.month for month in series.months] == ["2026-02", "2026-03"]
    assert series.unless_refreshed_at == store


def test_neighbours_are_padded_by_a_day_and_claims_are_not():
    """A month in the middle is asked for with a day on each side and claims only its own days."""
    window = account(dt.date(2025, 1, 1), dt.date(2026, 12, 31))

    [series] = plan([window], {}, dt.date(2026, 3, 15), POLICY, only={"2025-06"})

    assert (series.from_date, series.to_date) == (dt.date(2025, 5, 31), dt.date(2025, 7, 1))
    [month] = series.months
    assert (month.from_date, month.to_date) == (dt.date(2025, 6, 1), dt.date(2025, 6, 30))


def test_a_backfill_reads_what_is_there_already():
    """Chosen months are read whatever is covered, and whatever the store's instant."""
    window = account(dt.date(2025, 1, 1), dt.date(2026, 12, 31))
    store = dt.datetime(2026, 3, 10, tzinfo=dt.UTC)
    claims = {"a": {"2025-06": [Claim(dt.date(2025, 6, 1), dt.date(2025, 6, 30), store)]}}

    [series] = plan([window], claims, dt.date(2026, 3, 15), POLICY, only={"2025-06"})

    assert series.unless_refreshed_at is None
