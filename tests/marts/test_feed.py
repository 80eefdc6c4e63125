"""What is known, and how well the feed does: coverage and health of syncs, in plain Python."""

import datetime as dt
import itertools
from collections import Counter, defaultdict
from decimal import ROUND_HALF_UP, Decimal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from known import riyadh_date
from tiny import run
from truth import account_keys, depths

DAY = dt.timedelta(days=1)
FIRST = dt.date(2026, 1, 1)
AS_OF = dt.datetime(2026, 3, 10, 9, tzinfo=dt.UTC)
RANK = ["covered", "not_yet_pulled", "bank_refused", "not_offered", "not_permitted"]


def days_of(rows):
    """Status and reason by account and UTC day, from stretches that may not overlap."""
    found = {}
    for row in rows:
        assert row["day_count"] == (row["utc_to"] - row["utc_from"]).days + 1
        for step in range(row["day_count"]):
            key = row["account_key"], row["utc_from"] + step * DAY
            assert key not in found
            found[key] = row["status"], row["reason"]
    return found


def test_what_is_known_of_each_day_is_what_the_ledger_says(world):
    """The best of all ids' statuses of a day shows; days that only a lost id told stay told."""
    keys, offered = account_keys(world), depths(world)
    best = {}
    for row in world.rows("from account_days"):
        key = keys[row["account_id"]], row["utc_day"]
        best[key] = min(best.get(key, "not_permitted"), row["status"], key=RANK.index)
    for row in world.rows("from claims where stream = 'transactions'"):
        for step in range((row["claimed_to"] - row["claimed_from"]).days + 1):
            day = row["claimed_from"] + step * DAY
            is_offered = day >= offered.get(row["parent_id"], day)
            key = keys[row["parent_id"]], day
            status = "covered" if is_offered else "not_offered"
            best[key] = min(best.get(key, "not_permitted"), status, key=RANK.index)

    held = days_of(world.rows("from mart_coverage"))

    assert {key: status for key, (status, _) in held.items()} == best
    assert set(best.values()) >= {"covered", "not_offered"}
    daily = world.rows("from mart_coverage_days")
    assert {(r["account_key"], r["utc_day"]): (r["status"], r["reason"]) for r in daily} == held


def spans(first=0, last=75):
    """A stretch of days as two numbers, the smaller first."""
    return st.tuples(st.integers(first, last), st.integers(first, last)).map(sorted)


ACCOUNT = st.fixed_dictionaries(
    {
        "claims": st.lists(spans(last=68), max_size=3),
        "window": spans(last=120),
        "skip": st.sampled_from([None, None, "CONSENT_EXPIRED", "BANK_PAUSED"]),
        "listed": st.booleans(),
        "offered": st.none() | st.integers(0, 75),
        "failed": st.sets(st.sampled_from(["2026-01", "2026-02", "2026-03"]), max_size=2),
    }
)


def told(one, day):
    """Status and reason of a day by one id of an account."""
    start, end = (FIRST + step * DAY for step in one["window"])
    if one["offered"] is not None and day < FIRST + one["offered"] * DAY:
        return "not_offered", "BEFORE_AVAILABILITY"
    if any(FIRST + a * DAY <= day <= FIRST + b * DAY for a, b in one["claims"]):
        return "covered", None
    if one["listed"] and one["skip"]:
        is_paused = one["skip"] == "BANK_PAUSED"
        return "bank_refused" if is_paused else "not_permitted", one["skip"]
    if not one["listed"] or not start <= day <= end:
        return "not_permitted", "OUTSIDE_CONSENT"
    if f"{day:%Y-%m}" in one["failed"]:
        return "bank_refused", "BANK_ISSUE"
    return "not_yet_pulled", None


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
@given(ids=st.lists(ACCOUNT, min_size=1, max_size=2))
def test_stretches_say_of_every_day_what_its_ids_say(ids):
    """Cutting days into stretches changes nothing, and neighbours that say the same are one."""
    claims, windows, bridge, pulls, starts = [], [], [], [], []
    for place, one in enumerate(ids):
        name = f"id{place}"
        bridge.append({"account_id": name, "account_key": "a"})
        if one["offered"] is not None:
            starts.append({"account_id": name, "offered_from": FIRST + one["offered"] * DAY})
        for start, end in one["claims"]:
            claims.append(
                {
                    "stream": "transactions",
                    "parent_id": name,
                    "claimed_from": FIRST + start * DAY,
                    "claimed_to": FIRST + end * DAY,
                }
            )
        if one["listed"]:
            start, end = one["window"]
            windows.append(
                {
                    "account_id": name,
                    "skip_code": one["skip"],
                    "from_date": FIRST + start * DAY,
                    "to_date": FIRST + end * DAY,
                }
            )
        pulls += [
            {
                "stream": "transactions",
                "parent_id": name,
                "month": month,
                "outcome": "FAILED",
                "code": "BANK_ISSUE",
                "asked_at": AS_OF,
                "pull_id": f"{name}{month}",
            }
            for month in one["failed"]
        ]
    today = AS_OF.date()
    begins = [FIRST + start * DAY for one in ids for start, _ in one["claims"]]
    begins += [FIRST + one["window"][0] * DAY for one in ids if one["listed"]]
    ends = [FIRST + (end + 1) * DAY for one in ids for _, end in one["claims"]]
    end = today if any(one["listed"] for one in ids) else max(ends, default=FIRST) - DAY
    expected = {}
    day = min(begins, default=today + DAY)
    while day <= end:
        options = [told(one, day) for one in ids]
        expected["a", day] = min(options, key=lambda o: (RANK.index(o[0]), o[1] or "~"))
        day += DAY

    rows = run(
        "mart_coverage",
        claims=claims,
        account_windows=windows,
        account_depths=starts,
        bridge_accounts=bridge,
        pulls=pulls,
        clock=[{"as_of": AS_OF}],
    )

    assert days_of(rows) == expected
    rows.sort(key=lambda row: row["utc_from"])
    said = [(row["status"], row["reason"]) for row in rows]
    assert all(one != other for one, other in itertools.pairwise(said))


def speakers(**changed):
    """Who speaks for which days of January, of two ids that were read of all of them."""
    ids = ("old", "new")
    rows = run(
        "int_covering_pulls",
        claims=[
            {
                "stream": "transactions",
                "parent_id": name,
                "month": "2026-01",
                "pull_id": name,
                "claimed_from": FIRST,
                "claimed_to": FIRST + 30 * DAY,
            }
            for name in ids
        ],
        pulls=[
            {"pull_id": name, "refreshed_at": AS_OF + n * DAY, "asked_at": AS_OF}
            for n, name in enumerate(ids)
        ],
        bridge_accounts=[{"account_id": name, "account_key": "a"} for name in ids],
        account_depths=[{"account_id": "new", "offered_from": FIRST + 19 * DAY}],
        **changed,
    )
    return {(row["account_id"], row["claimed_from"].day, row["claimed_to"].day) for row in rows}


def test_an_id_that_is_not_offered_a_day_leaves_it_to_one_that_is():
    """After a reconnect with less history the old id's rows stay; the mutant loses them."""
    rule = "coalesce(claimed_on >= offered_from, true) desc,"

    assert speakers() == {("old", 1, 19), ("new", 20, 31)}
    assert speakers(changed={rule: ""}) == {("new", 1, 31)}


def quantile(values, share):
    """The smallest value that so large a share of values does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * share // 100) - 1)] if ordered else None


def rounded(value, places):
    """A quotient, half up."""
    return value.quantize(Decimal(1).scaleb(-places), ROUND_HALF_UP)


def microseconds(start, end):
    """The time between two instants."""
    return (end - start) // dt.timedelta(microseconds=1)


def test_health_counts_every_pull_once(world):
    """Outcomes, rows, cost, speed and lag of each bank, stream and day are the ledger's."""
    groups = defaultdict(list)
    for row in world.rows("from pulls"):
        bank = row["bank_identifier"] or "application"
        groups[bank, row["stream"], riyadh_date(row["asked_at"])].append(row)
    good = {"COMMITTED", "UNCHANGED"}
    newest = defaultdict(lambda: dt.datetime.min.replace(tzinfo=dt.UTC))
    for (_, _, day), rows in groups.items():
        for row in rows:
            if row["refreshed_at"] and row["outcome"] in good:
                newest[day] = max(newest[day], row["refreshed_at"])
            if row["known_at"] and row["outcome"] in good:
                newest[day] = max(newest[day], row["known_at"])

    failing = failing_targets(world)
    held = world.table("mart_sync_health", "bank_identifier", "stream", "pulled_date")

    assert set(held) == set(groups)
    assert sum(row["pull_count"] for row in held.values()) == sum(map(len, groups.values()))
    for key, rows in groups.items():
        shown = held[key]
        outcomes = Counter(row["outcome"] for row in rows)
        for outcome in ("COMMITTED", "UNCHANGED", "SKIPPED", "FAILED"):
            assert shown[f"{outcome.lower()}_count"] == outcomes[outcome]
        paused = sum(row["code"] == "BANK_PAUSED" for row in rows)
        assert shown["paused_count"] == paused
        tried = len(rows) - outcomes["SKIPPED"] + paused
        well = outcomes["COMMITTED"] + outcomes["UNCHANGED"]
        assert shown["success_share"] == (rounded(Decimal(well) / tried, 4) if tried else None)
        for name in ("row", "quarantined", "request", "byte"):
            source = {"row": "rows", "request": "requests", "byte": "bytes"}.get(name, name)
            assert shown[f"{name}_count"] == sum(row[source] for row in rows)
        took = [
            microseconds(row["asked_at"], row["finished_at"]) for row in rows if row["requests"]
        ]
        for share in (50, 95):
            expected = quantile(took, share)
            seconds = None if expected is None else Decimal(expected) / 1_000_000
            assert shown[f"p{share}_seconds"] == seconds
        states = [r["refreshed_at"] for r in rows if r["refreshed_at"] and r["outcome"] in good]
        assert shown["oldest_refreshed_at"] == min(states, default=None)
        assert shown["newest_refreshed_at"] == max(states, default=None)
        lags = [microseconds(state, newest[key[2]]) for state in states]
        hours = (
            [rounded(Decimal(lag) / 3_600_000_000, 2) for lag in (quantile(lags, 50), max(lags))]
            if lags
            else [None, None]
        )
        assert [shown["p50_lag_hours"], shown["max_lag_hours"]] == hours
        for outcome, column in (("FAILED", "failed_codes"), ("SKIPPED", "skipped_codes")):
            codes = Counter(row["code"] for row in rows if row["outcome"] == outcome)
            assert (shown[column] or {}) == codes
        assert shown["failing_count"] == len(failing[key[:2]])


def failing_targets(world):
    """Read targets whose newest pull failed, by bank and stream, a month for itself."""
    gone = {
        row["entity_id"]
        for row in world.rows("from dim_entities where is_current")
        if row["state"] in {"removed", "deleted", "absent"}
    }
    newest = {}
    for row in sorted(
        world.rows("from pulls"),
        key=lambda row: (row["known_at"] or row["asked_at"], row["generation"] or 0),
    ):
        if row["code"] != "BANK_PAUSED":
            newest[row["stream"], row["parent_id"], row["month"]] = row
    found = defaultdict(set)
    for row in newest.values():
        if row["outcome"] == "FAILED" and row["entity_id"] not in gone:
            found[row["bank_identifier"] or "application", row["stream"]].add(row["parent_id"])
    return found


@pytest.mark.parametrize(
    ("hour", "day"),
    [(20, dt.date(2026, 2, 28)), (21, dt.date(2026, 3, 1))],
    ids=["before-midnight-in-riyadh", "after-midnight-in-riyadh"],
)
def test_a_refresh_is_spent_on_the_day_in_riyadh(hour, day):
    """Spends count by Riyadh's day and the entity's bank, also where nothing was pulled."""
    spent_at = dt.datetime(2026, 2, 28, hour, 59 if hour == 20 else 0, tzinfo=dt.UTC)
    (row,) = run(
        "mart_sync_health",
        refresh_spends=[{"spend_id": "1", "entity_id": "e", "spent_at": spent_at}],
        dim_entities=[{"entity_id": "e", "bank_identifier": "B", "is_current": True}],
    )

    assert (row["bank_identifier"], row["stream"], row["pulled_date"]) == ("B", "refreshes", day)
    assert (row["refresh_spends"], row["pull_count"], row["success_share"]) == (1, 0, None)
