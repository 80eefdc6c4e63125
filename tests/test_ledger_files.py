"""The ledger's files of a day become one, and no pull is lost or told twice, whatever happens."""

import datetime as dt
import itertools
import os
import shutil
from concurrent.futures import ThreadPoolExecutor

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.lake.ids import new_id
from pipelines.lake.lake import Lake
from pipelines.lake.ledger import Outcome, Pull, to_table
from pipelines.lake.ledger_files import LedgerFiles, batch_of
from pipelines.operate.vacuum import vacuum

NOON = dt.datetime(2026, 3, 10, 12, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)
LATER = NOON.date() + dt.timedelta(days=2)


def pulls(count):
    """So many pulls, with everything that a pull of rows has."""
    return [
        Pull(
            pull_id=new_id(),
            series_id=new_id(),
            stream="transactions",
            parent_id=f"account-{number}",
            month="2026-03",
            covered_from=dt.date(2026, 3, 1),
            covered_to=dt.date(2026, 3, 10),
            outcome=Outcome.COMMITTED,
            rows=number,
            refreshed_at=NOON,
            asked_at=NOON,
            finished_at=NOON,
            replaces=[new_id()],
            first_sequence_no=1,
        )
        for number in range(count)
    ]


def commit(lake, count=3, at=NOON):
    """Commit some pulls; the file of the ledger that tells of them."""
    batch = lake.batch(at)
    batch.commit(pulls(count))
    (file,) = (lake.folder / "pulls").glob(f"*/{batch.id}-*.parquet")
    return file


def told(lake):
    """Every pull as a reader sees it."""
    with lake.planning(("entities",)) as connection:
        return connection.execute("select * from pulls order by all").fetchall()


@pytest.fixture
def lake(tmp_path):
    """A lake whose ledger has three files of one day."""
    lake = Lake(tmp_path, "sandbox")
    for _ in range(3):
        commit(lake)
    return lake


def test_commits_of_a_day_become_one_file(lake):
    """The same pulls are told before, after, and once the single files are gone."""
    before = told(lake)
    assert len(before) == 9

    assert lake.ledger.merge(LATER) == 3

    assert [file.name for file in lake.ledger.files()] == ["merged.parquet"]
    assert told(lake) == before
    assert len(vacuum(lake, older_than_seconds=-1).deletions) == 3
    assert len(list((lake.folder / "pulls").glob("*/*"))) == 1
    assert told(lake) == before


def test_single_files_stay_a_day_for_those_who_read_them(lake):
    """A vacuum leaves what was merged just now."""
    lake.ledger.merge(LATER)

    assert not vacuum(lake).deletions


def test_a_day_that_is_not_over_is_left_alone(lake):
    """Commits of the day before may still be on their way."""
    assert lake.ledger.merge(LATER - dt.timedelta(days=1)) == 0


def test_a_day_of_one_commit_is_left_alone(tmp_path):
    """There is nothing to merge."""
    lake = Lake(tmp_path, "sandbox")
    commit(lake)

    assert lake.ledger.merge(LATER) == 0


def test_a_commit_that_comes_after_all_counts(lake):
    """A process that slept for days commits into a day that was merged, and is heard."""
    lake.ledger.merge(LATER)
    before = told(lake)

    late = commit(lake, count=2)

    assert late in map(lake.storage.local, lake.ledger.files())
    assert len(told(lake)) == len(before) + 2
    vacuum(lake, older_than_seconds=-1)
    assert lake.ledger.merge(LATER) == 0
    assert len(told(lake)) == len(before) + 2


def test_two_that_merge_at_once_end_in_one_file(lake, monkeypatch):
    """Whoever links second gives way, even where a commit came between the two."""
    before = told(lake)
    link = os.link

    def late(part, merged):
        monkeypatch.setattr(os, "link", link)
        commit(lake, count=1)
        assert LedgerFiles(lake.storage).merge(LATER) == 4
        link(part, merged)

    monkeypatch.setattr(os, "link", late)
    lake.ledger.merge(LATER)

    assert [file.name for file in lake.ledger.files()] == ["merged.parquet"]
    assert len(told(lake)) == len(before) + 1
    vacuum(lake, older_than_seconds=-1)
    assert len(told(lake)) == len(before) + 1


def test_files_of_merged_commits_are_still_vouched_for(lake):
    """A vacuum keeps data whose commit is told of by a merged file only."""
    batches = lake.ledger.batches().keys()
    lake.ledger.merge(LATER)
    vacuum(lake, older_than_seconds=-1)

    assert lake.ledger.batches().keys() == batches


def test_files_of_an_earlier_version_are_merged(lake):
    """Columns that an old file lacks are null, as for every reader."""
    for file in map(lake.storage.local, lake.ledger.files()):
        file.rename(file.with_name(f"{batch_of(file.stem)}.parquet"))
    shutil.rmtree(lake.folder / "checkpoints")
    (first, *_) = map(lake.storage.local, lake.ledger.files())
    table = pq.read_table(first, partitioning=None)
    pq.write_table(table.drop_columns(["covers", "covers_from"]), first)
    before = told(lake)

    lake.ledger.merge(LATER)
    vacuum(lake, older_than_seconds=-1)

    assert told(lake) == before


def test_a_merged_file_that_forgets_a_commit_is_caught(lake, monkeypatch):
    """A mutant: a file is held of which no row was written."""
    before = told(lake)
    write = pq.ParquetWriter.write_table

    def forgetful(writer, table):
        write(writer, table.slice(3))

    with monkeypatch.context() as patched:
        patched.setattr(pq.ParquetWriter, "write_table", forgetful)
        lake.ledger.merge(LATER)

    assert told(lake) != before


STEPS = st.lists(st.sampled_from(["commit", "merge", "vacuum", "crash"]), min_size=1, max_size=12)


@settings(max_examples=8, deadline=None)
@given(steps=STEPS)
def test_whatever_happens_each_pull_is_told_once(tmp_path_factory, steps):
    """Commits, merges, crashes before the link and vacuums, in any order."""
    each_pull_is_told_once(tmp_path_factory, steps)


@pytest.mark.conformance
@settings(max_examples=50, deadline=None)
@given(steps=STEPS)
def test_whatever_happens_in_many_orders_each_pull_is_told_once(tmp_path_factory, steps):
    """The same, in many more of them."""
    each_pull_is_told_once(tmp_path_factory, steps)


def each_pull_is_told_once(tmp_path_factory, steps):
    """A new lake goes through the steps, and after each one every pull shows once."""
    folder = tmp_path_factory.mktemp("ledger")
    lake = Lake(folder, "sandbox")
    days = itertools.cycle([NOON, NOON + dt.timedelta(days=1)])
    committed = 0
    for step in steps:
        if step == "commit":
            commit(lake, count=2, at=next(days))
            committed += 2
        elif step == "merge":
            lake.ledger.merge(LATER)
        elif step == "vacuum":
            vacuum(lake, older_than_seconds=-1)
        else:
            (lake.folder / "pulls" / "pulled_on=2026-03-10").mkdir(parents=True, exist_ok=True)
            part = lake.folder / "pulls" / "pulled_on=2026-03-10" / f"{new_id()}.parquet.tmp"
            pq.write_table(to_table(pulls(1), "crashed"), part)
        ids = [row[0] for row in told(lake)]
        assert len(ids) == len(set(ids)) == committed
    shutil.rmtree(folder)


def test_commits_that_are_under_way_are_not_missed(lake):
    """Whoever looks while others commit and merge sees no hole, as directories change under it."""
    with ThreadPoolExecutor(max_workers=2) as pool:
        writing = [pool.submit(commit, lake, 1, NOON + (n % 2) * DAY) for n in range(40)]
        writing.append(pool.submit(lake.ledger.merge, LATER + DAY))
        while not all(one.done() for one in writing):
            lake.ledger.files()
        for one in writing:
            one.result()

    assert len(told(lake)) == 9 + 40
