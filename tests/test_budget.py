"""The budget of refreshes: never exceeded, whoever spends and whatever crashes."""

import datetime as dt
import subprocess
import sys
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.lake.lake import Lake
from pipelines.sync.refresh import _by_slice
from pipelines.sync.refresh_budget import Budget

NOW = dt.datetime(2026, 3, 15, tzinfo=dt.UTC)
DAY = dt.timedelta(hours=24)
ENTITIES = ["a", "b", "c"]

WISHES = st.lists(
    st.tuples(st.integers(0, 600), st.sets(st.sampled_from(ENTITIES), min_size=1)), max_size=25
)


@settings(max_examples=60, deadline=None)
@given(wishes=WISHES, per_day=st.integers(0, 4))
def test_no_24_hours_hold_more_than_the_budget(tmp_path_factory, wishes, per_day):
    """Whatever is wanted when, each day's worth of spends stays within the budget, and no less."""
    lake = Lake(tmp_path_factory.mktemp("lake"), "sandbox")
    spent = []
    now = NOW
    for minutes, wanted in wishes:
        now += dt.timedelta(minutes=minutes)
        budget = Budget(lake, per_day)  # as a new process would have it

        granted = budget.reserve(wanted, now)

        recent = Counter(entity for entity, at in spent if at > now - DAY)
        assert granted == {one for one in wanted if recent[one] < per_day}
        spent += [(one, now) for one in granted]


def test_the_next_refresh_is_allowed_a_day_after_the_oldest(lake):
    """It holds to the second."""
    budget = Budget(lake, 2)
    for hours in (0, 5):
        assert budget.reserve({"a"}, NOW + dt.timedelta(hours=hours)) == {"a"}
    late = NOW + dt.timedelta(hours=6)

    assert budget.reserve({"a", "b"}, late) == {"b"}

    assert budget.reserve({"a"}, NOW + DAY - dt.timedelta(seconds=1)) == set()
    assert budget.reserve({"a"}, NOW + DAY) == {"a"}


_RACE = """
import datetime as dt, sys
from pathlib import Path
from pipelines.sync.refresh import _by_slice
from pipelines.sync.refresh_budget import Budget
from pipelines.lake.lake import Lake
budget = Budget(Lake(Path(sys.argv[1]), "sandbox"), 4)
sys.stdin.readline()
now = dt.datetime(2026, 3, 15, tzinfo=dt.UTC)
for n in range(12):
    print(*sorted(budget.reserve({"a", "b", "c"}, now + dt.timedelta(seconds=n))), flush=True)
"""


def test_processes_side_by_side_share_one_budget(tmp_path):
    """Three processes that race for the same entities spend the budget once, and all of it."""
    command = [sys.executable, "-c", _RACE, str(tmp_path)]
    racers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    for racer in racers:
        racer.stdin.write("go\n")
        racer.stdin.flush()
    granted = Counter(word for racer in racers for word in racer.communicate(timeout=60)[0].split())

    assert granted == {"a": 4, "b": 4, "c": 4}
    assert not list(tmp_path.glob("**/*.tmp"))


def test_an_old_log_is_not_read_again(lake, monkeypatch):
    """What was spent days ago costs nothing; the newest file that is old ends the reading."""
    for day in range(10):
        Budget(lake, 4).reserve({"a"}, NOW + day * DAY)
    budget = Budget(lake, 4)
    read = []
    rows = budget._rows
    monkeypatch.setattr(budget, "_rows", lambda file: read.append(file.name) or rows(file))

    budget.reserve({"a"}, NOW + 10 * DAY)

    assert len(set(read)) <= 3


def test_reservations_of_the_log_before_slices_count(lake):
    """A lake of format 4 has one log for all entities: what it holds is spent."""
    for hours, entities in ((0, ["a", "b"]), (1, ["a"])):
        Budget(lake, 4).reserve(entities, NOW + dt.timedelta(hours=hours))
    before = lake.folder / "spends" / "log"
    before.mkdir()
    for number, file in enumerate(sorted((lake.folder / "spends").glob("slice=*/*.parquet"))):
        file.rename(before / f"{number:010}.parquet")

    assert Budget(lake, 2).reserve(ENTITIES, NOW + dt.timedelta(hours=2)) == {"b", "c"}
    assert Budget(lake, 2).reserve({"a"}, NOW + DAY) == {"a"}


def test_a_wave_takes_few_files(lake):
    """Entities that are refreshed together are of few slices, and each slice is a file."""
    stale = _by_slice([(f"entity-{number}", None) for number in range(3200)])
    budget = Budget(lake, 4)
    for start in range(0, len(stale), 50):
        budget.reserve(dict(stale[start : start + 50]), NOW)

    assert len(list(lake.storage.list("spends/*/*.parquet"))) <= 2 * 64
