"""Laws of the planner: what is claimed and what is planned is what is wanted."""

import datetime as dt
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.sync.planner import Claim, Depth, Window, months, plan
from pipelines.sync.policy import Policy

DAY = dt.timedelta(days=1)
POLICY = Policy(lookback_days=30, longest_read_months=12)
DAYS = st.dates(dt.date(2023, 1, 1), dt.date(2026, 12, 31))


def account(from_date, to_date, name="a", depth=None):
    """An account whose consent allows the days, with how far back its bank goes, if told."""
    return Window(name, "BANK", from_date, to_date, depth)


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

    planned = [month for read in plan(window, claims, today, POLICY) for month in read.months]

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
    """Months of a plan are distinct and in order; a read holds neighbours, at most twelve."""
    window, claims, today = situation

    reads = list(plan(window, claims, today, POLICY))

    names = [month.month for one in reads for month in one.months]
    assert names == sorted(set(names))
    for one in reads:
        assert 1 <= len(one.months) <= POLICY.longest_read_months
        for left, right in zip(one.months, one.months[1:], strict=False):
            assert left.to_date + DAY == right.from_date
        assert window.from_date <= one.from_date <= one.months[0].from_date
        assert one.months[-1].to_date <= one.to_date <= min(window.to_date, today)


@settings(max_examples=200, deadline=None)
@given(_situations())
def test_planning_is_deterministic(situation):
    """The same situation gives the same plan."""
    window, claims, today = situation

    assert list(plan(window, claims, today, POLICY)) == list(plan(window, claims, today, POLICY))


@settings(max_examples=200, deadline=None)
@given(_situations())
def test_what_was_read_is_not_asked_for_again_once_it_is_settled(situation):
    """After a pull of everything by a store refreshed long after, nothing is planned."""
    window, _, today = situation
    settled = {
        name: [Claim(first, last, midnight(last + 70 * DAY))]
        for name, first, last in months(window.from_date, min(window.to_date, today))
    }

    assert list(plan(window, {"a": settled}, today, POLICY)) == []


def test_a_new_account_gets_its_whole_history_in_one_series():
    """A year of history is one paged read, padded by nothing outside the consent."""
    window = account(dt.date(2025, 4, 10), dt.date(2026, 12, 31))

    [planned] = plan(window, {}, dt.date(2026, 3, 15), POLICY)

    assert [month.month for month in planned.months][:2] == ["2025-04", "2025-05"]
    assert len(planned.months) == 12
    assert (planned.from_date, planned.to_date) == (dt.date(2025, 4, 10), dt.date(2026, 3, 15))
    assert planned.unless_refreshed_at is None


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

    [planned] = plan(window, claims, dt.date(2026, 3, 15), POLICY)

    assert [month.month for month in planned.months] == ["2026-02", "2026-03"]
    assert planned.unless_refreshed_at == store


def test_neighbours_are_padded_by_a_day_and_claims_are_not():
    """A month in the middle is asked for with a day on each side and claims only its own days."""
    window = account(dt.date(2025, 1, 1), dt.date(2026, 12, 31))

    [planned] = plan(window, {}, dt.date(2026, 3, 15), POLICY, only={"2025-06"})

    assert (planned.from_date, planned.to_date) == (dt.date(2025, 5, 31), dt.date(2025, 7, 1))
    [month] = planned.months
    assert (month.from_date, month.to_date) == (dt.date(2025, 6, 1), dt.date(2025, 6, 30))


def test_a_backfill_reads_what_is_there_already():
    """Chosen months are read whatever is covered, and whatever the store's instant."""
    window = account(dt.date(2025, 1, 1), dt.date(2026, 12, 31))
    store = dt.datetime(2026, 3, 10, tzinfo=dt.UTC)
    claims = {"a": {"2025-06": [Claim(dt.date(2025, 6, 1), dt.date(2025, 6, 30), store)]}}

    [planned] = plan(window, claims, dt.date(2026, 3, 15), POLICY, only={"2025-06"})

    assert planned.unless_refreshed_at is None


READS = st.lists(
    st.tuples(
        st.integers(0, 40),  # days since the last read
        st.integers(0, 9),  # days since the bank's start was told
        st.booleans(),  # whether everything is read again, as the weekly reconciliation does
    ),
    min_size=2,
    max_size=8,
)


def owners(offered_days, quiet_days, reads):
    """For each day the read that speaks for it, and whether its bank had the day then.

    The bank offers so many days, and the first of those has rows after so many without. Where that
    reaches into months that may be open, its start was told for the store that is read.
    """
    today = dt.date(2026, 1, 20)
    window = account(dt.date(2025, 6, 10), dt.date(2027, 12, 31))
    claims, owner, known = {}, {}, set()
    for number, (passed, told_before, is_forced) in enumerate(reads):
        today += passed * DAY
        store = dt.datetime.combine(today, dt.time(number), dt.UTC)
        told_on = today - (told_before if offered_days > 150 else 0) * DAY
        depth = Depth(told_on - offered_days * DAY, told_on) if number else None
        has_from = today - offered_days * DAY
        first_row_on = min(has_from + quiet_days * DAY, today)
        only = {name for name, _, _ in months(window.from_date, today)} if is_forced else None
        for planned in plan(replace(window, depth=depth), {"a": claims}, today, POLICY, only):
            for month in planned.months:
                first = month.claims_from(depth, store, first_row_on)
                if first > month.to_date:
                    continue
                # Of earlier pulls the days before are left, as the lake resolves them.
                earlier = (
                    Claim(one.from_date, min(one.to_date, first - DAY), one.refreshed_at)
                    for one in claims.get(month.month, ())
                    if one.from_date < first
                )
                claims[month.month] = [*earlier, Claim(first, month.to_date, store)]
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


def test_a_planner_that_believes_a_start_told_days_ago_is_caught(monkeypatch):
    """The mutant that does not let the start move on hands a day to a store that forgot it."""
    monkeypatch.setattr(Depth, "whole_from", lambda depth, *_: depth.from_date)

    with pytest.raises(AssertionError):
        test_a_day_that_was_read_never_passes_to_a_store_that_forgot_it.hypothesis.inner_test(
            170, 0, [(0, 0, False), (7, 5, True)]
        )


def test_a_row_from_before_the_start_shows_that_the_bank_still_has_its_days():
    """A start that Lean told wrongly keeps no read from speaking for what it brought."""
    depth = Depth(dt.date(2026, 2, 10), dt.date(2026, 3, 1))
    store = dt.datetime(2026, 3, 5, tzinfo=dt.UTC)

    assert depth.whole_from(store, None) == dt.date(2026, 2, 14)
    assert depth.whole_from(store, dt.date(2026, 2, 20)) == dt.date(2026, 2, 14)
    assert depth.whole_from(store, dt.date(2026, 2, 1)) == dt.date(2026, 2, 2)


def test_a_read_speaks_for_days_that_nobody_has_read_though_the_bank_forgot_them():
    """Somebody has to, or they would be asked for at every sync."""
    depth = Depth(dt.date(2026, 2, 10), dt.date(2026, 3, 1))
    window = account(dt.date(2026, 1, 1), dt.date(2026, 12, 31), depth=depth)
    store = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)
    read = Claim(dt.date(2026, 2, 1), dt.date(2026, 2, 5), store - 20 * DAY)

    [planned] = plan(window, {"a": {"2026-02": [read]}}, dt.date(2026, 3, 1), POLICY)

    assert {month.month: month.claims_from(depth, store) for month in planned.months} == {
        "2026-01": dt.date(2026, 1, 1),
        "2026-02": dt.date(2026, 2, 6),
        "2026-03": dt.date(2026, 3, 1),
    }


def test_an_open_month_is_read_from_its_accounts_first_day_however_old_the_telling():
    """A pending row of a new account that books later must not stay behind in an older pull."""
    depth = Depth(dt.date(2026, 3, 2), dt.date(2026, 3, 4))
    window = account(dt.date(2026, 3, 1), dt.date(2026, 12, 31), depth=depth)
    store = dt.datetime(2026, 3, 9, tzinfo=dt.UTC)
    read = Claim(dt.date(2026, 3, 1), dt.date(2026, 3, 4), store - 5 * DAY)

    [planned] = plan(window, {"a": {"2026-03": [read]}}, dt.date(2026, 3, 9), POLICY)

    [month] = planned.months
    assert month.is_open
    assert month.claims_from(depth, store, dt.date(2026, 3, 7)) == dt.date(2026, 3, 2)


def test_days_that_the_bank_forgot_keep_no_month_open():
    """They were read while rows could still change, and will never be read again."""
    depth = Depth(dt.date(2026, 1, 20), dt.date(2026, 3, 20))
    window = account(dt.date(2026, 1, 1), dt.date(2026, 12, 31), depth=depth)
    early, late = (dt.datetime(2026, month, 15, tzinfo=dt.UTC) for month in (1, 3))
    march = [
        Claim(dt.date(2026, 3, 1), dt.date(2026, 3, 20), dt.datetime(2026, 4, 30, tzinfo=dt.UTC))
    ]
    january = [
        Claim(dt.date(2026, 1, 1), dt.date(2026, 1, 19), early),
        Claim(dt.date(2026, 1, 20), dt.date(2026, 1, 31), late),
    ]
    february = [Claim(dt.date(2026, 2, 1), dt.date(2026, 2, 28), late + 30 * DAY)]
    claims = {"a": {"2026-01": january, "2026-02": february, "2026-03": march}}

    planned = [
        month.month
        for one in plan(window, claims, dt.date(2026, 3, 20), POLICY)
        for month in one.months
    ]
    undated = plan(replace(window, depth=None), claims, dt.date(2026, 3, 20), POLICY)

    assert "2026-01" not in planned
    assert "2026-01" in {month.month for one in undated for month in one.months}


def test_a_backfill_leaves_out_months_that_the_bank_forgot():
    """They were read while it had them; one that nobody has read whole is asked for as before."""
    depth = Depth(dt.date(2026, 2, 10), dt.date(2026, 3, 1))
    window = account(dt.date(2025, 11, 1), dt.date(2026, 12, 31), depth=depth)
    store = dt.datetime(2026, 1, 20, tzinfo=dt.UTC)
    claims = {
        "2025-12": [Claim(dt.date(2025, 12, 1), dt.date(2025, 12, 30), store)],
        "2026-01": [Claim(dt.date(2026, 1, 1), dt.date(2026, 1, 31), store)],
    }
    every = {"2025-11", "2025-12", "2026-01", "2026-02", "2026-03"}

    planned = plan(window, {"a": claims}, dt.date(2026, 3, 2), POLICY, every)

    assert [[month.month for month in one.months] for one in planned] == [
        ["2025-11", "2025-12"],
        ["2026-02", "2026-03"],
    ]
