"""Merging the files of settled months changes what lies on disk, and no answer."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lean_resources.sandbox import Sandbox
from lean_resources.streams import STREAMS
from pipelines.lake.batch import Batch
from pipelines.lake.compaction import compact
from pipelines.lake.lake import Lake
from pipelines.models.loader import load
from pipelines.operate.vacuum import Reason, vacuum
from pipelines.publish.warehouse import connect, publish
from pipelines.sync.policy import Policy
from pipelines.sync.replay import replay

sys.path.insert(0, str(Path(__file__).parent / "conformance"))

from conftest import TODAY, rows_of, showing
from worlds import next_day, pull

ZYGOTE = Path(__file__).parent / "conformance" / "zygote.py"
TRANSACTIONS = STREAMS["transactions"]
MODELS = load()


def answers(lake):
    """What the lake shows of transactions now, and what it says was known when; both sorted."""
    with showing(lake, ("transactions",)) as connection:
        return tuple(
            connection.execute(f"select {columns} from {source} order by all").fetchall()
            for source, columns in (
                ("transactions", "* exclude (pull_id, page_number, record_number)"),
                (f"({lake.history(TRANSACTIONS)})", "* exclude (page_number, record_number)"),
                ("claims", "stream, parent_id, month, claimed_from, claimed_to"),
            )
        )


def files(lake):
    """Typed files of transactions, merged and superseded ones included."""
    return sorted(
        file
        for folder in (
            lake.folder / TRANSACTIONS.name,
            lake.folder / "superseded" / TRANSACTIONS.name,
        )
        for file in folder.glob("*/*.parquet")
    )


@pytest.fixture(scope="module")
def nights(tmp_path_factory):
    """An offline Lean and a lake that was synced on four days, open months read each time."""
    sandbox = Sandbox(customers=3, months=2, seed=7, today=TODAY)
    lake = Lake(tmp_path_factory.mktemp("nights"), "sandbox")
    pull(sandbox, lake)
    for _ in range(3):
        next_day(sandbox)
        pull(sandbox, lake)
    return sandbox, lake


@pytest.fixture
def lake(nights, tmp_path):
    """A copy of that lake."""
    shutil.copytree(nights[1].folder, tmp_path / "lake" / "sandbox")
    return Lake(tmp_path / "lake", "sandbox")


def test_merging_changes_no_answer(lake):
    """What shows, what was known when, and which days are claimed stay as they were."""
    before, many = answers(lake), len(files(lake))

    done = compact(lake)

    assert answers(lake) == before
    assert done.months == 2
    assert done.superseded > 0, "a world in which no row changes proves nothing"
    vacuum(lake, older_than_seconds=-1)
    assert answers(lake) == before
    assert len(files(lake)) < many / 2


def test_reads_of_the_last_days_are_merged_once_the_month_was_read_whole(tmp_path):
    """No answer changes, and a row that never changed is kept once, whoever did not cover it."""
    sandbox = Sandbox(customers=2, months=2, seed=7, today=TODAY)
    lake = Lake(tmp_path, "sandbox")
    for _ in range(4):
        pull(sandbox, lake, policy=Policy())
        next_day(sandbox)
    torn = "select 1 from claims group by parent_id, month having count(*) > 1"
    assert rows_of(lake, torn)
    pull(sandbox, lake)
    before = answers(lake)
    columns = ", ".join(TRANSACTIONS.schema.names)
    [(distinct,)] = rows_of(
        lake,
        f"select count(*) from (select distinct {columns} from transactions_history"
        " where month >= '2026-02')",
    )

    done = compact(lake)

    assert answers(lake) == before
    assert done.rows + done.superseded == distinct


def test_what_is_left_is_counted_by_one_look_at_the_lake(lake, monkeypatch):
    """However many months were merged, and the next vacuum leaves as many files as it says."""
    looks = []
    for name in ("connect", "merged_files"):
        whole = getattr(Lake, name)
        monkeypatch.setattr(
            Lake,
            name,
            lambda *given, n=name, w=whole, **how: (looks.append(n), w(*given, **how))[1],
        )

    here = lake.folder / TRANSACTIONS.name
    before = len(list(here.glob("*/*.parquet")))

    done = compact(lake)

    assert done.months == 2
    assert looks.count("merged_files") == 1
    assert looks.count("connect") == 1
    vacuum(lake, older_than_seconds=-1)
    left = len(list(here.glob("*/*.parquet")))
    assert done.files_before - done.files_after == before - left > 0


def test_merging_again_writes_nothing(lake):
    """A month that was merged is left alone until something new is read of it."""
    compact(lake)
    vacuum(lake, older_than_seconds=-1)
    kept = files(lake)

    done = compact(lake)

    assert (done.pulls, done.rows) == (0, 0)
    assert files(lake) == kept


def test_what_was_read_once_is_left_alone(tmp_path):
    """A month of few files in which no row lies twice is not written again."""
    lake = Lake(tmp_path, "sandbox")
    pull(Sandbox(customers=3, months=2, seed=7, today=TODAY), lake)

    assert compact(lake).months == 0


def test_what_is_read_after_merging_wins_and_is_merged_in_turn(nights, lake):
    """A later read of a merged month shows, and merging once more keeps both histories."""
    sandbox, _ = nights
    compact(lake)
    vacuum(lake, older_than_seconds=-1)
    for _ in range(2):
        pull(sandbox, lake, ("transactions",), months={"2026-01", "2026-02"})
    before = answers(lake)

    done = compact(lake)
    vacuum(lake, older_than_seconds=-1)

    assert done.pulls > 0
    assert answers(lake) == before


def test_the_last_read_of_a_month_is_merged_once_the_month_is_quiet(nights, lake, monkeypatch):
    """While it is read every night it waits for another; afterwards none would come."""
    sandbox, _ = nights
    compact(lake)
    vacuum(lake, older_than_seconds=-1)
    pull(sandbox, lake, ("transactions",), months={"2026-01", "2026-02"})
    before = answers(lake)
    compact(lake)
    assert compact(lake).months == 0

    # A negative number makes every month quiet, however short the test.
    monkeypatch.setattr("pipelines.lake.compaction._QUIET_DAYS", -1)
    done = compact(lake)
    vacuum(lake, older_than_seconds=-1)

    assert done.months > 0
    assert answers(lake) == before
    assert compact(lake).months == 0


def test_a_reader_keeps_its_answers_while_files_are_merged(lake):
    """Whoever has the lake open sees the same rows during and after a compaction."""
    with lake.connect() as connection:
        query = "select count(*), sum(amount) from transactions"
        before = connection.execute(query).fetchall()
        history = "select count(*) from transactions_history"
        versions = connection.execute(history).fetchall()

        compact(lake, rows_at_once=1_000)
        vacuum(lake)

        assert connection.execute(query).fetchall() == before
        assert (
            connection.execute("select count(*) from transactions_history").fetchall() == versions
        )


def test_a_crash_before_the_ledger_changes_nothing(lake, monkeypatch):
    """Merged files that the ledger does not name yet are strays like any other."""
    before = answers(lake)
    monkeypatch.setattr(
        "pipelines.lake.batch.to_table", lambda *_: (_ for _ in ()).throw(OSError("full"))
    )
    with pytest.raises(OSError, match="full"):
        compact(lake)
    monkeypatch.undo()

    assert answers(lake) == before
    vacuum(lake, older_than_seconds=-1)
    assert answers(lake) == before


def test_a_merge_that_forgets_a_version_is_caught(lake, monkeypatch):
    """The comparison that the other tests rest on sees a lost version."""
    whole = Batch.merged
    before = answers(lake)

    def forgetful(batch, stream, shown, superseded, *, month):
        whole(batch, stream, shown, superseded.slice(1), month=month)

    monkeypatch.setattr(Batch, "merged", forgetful)
    compact(lake)
    vacuum(lake, older_than_seconds=-1)

    assert answers(lake)[1] != before[1]


def test_a_merged_month_can_be_typed_again(lake):
    """Replay makes the rows that show from the answers as received, as without merging."""
    compact(lake)
    vacuum(lake, older_than_seconds=-1)
    before = answers(lake)[0]

    replay(TRANSACTIONS, lake)

    assert answers(lake)[0] == before


@pytest.fixture(scope="module")
def merge():
    """Merge a lake in a process of its own: "killed", or how many boundaries were passed."""
    with subprocess.Popen(
        [sys.executable, ZYGOTE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:

        def merged(lake, **how):
            asked = {"lake": str(lake.folder.parent), "merge": True, **how}
            process.stdin.write(json.dumps(asked) + "\n")
            process.stdin.flush()
            return process.stdout.readline().strip()

        yield merged
        process.stdin.close()
        process.wait(timeout=30)


@pytest.mark.slow
def test_killed_while_merging(nights, lake, merge, tmp_path):
    """Before and after some write, rename or deletion: no answer changes, the next one ends it."""
    before = answers(lake)
    boundaries = int(merge(lake))
    assert boundaries > 20
    assert answers(lake) == before

    for part in range(3):
        folder = tmp_path / str(part)
        shutil.copytree(nights[1].folder, folder / "sandbox")
        again = Lake(folder, "sandbox")
        assert merge(again, boundary=1 + part * (boundaries - 1) // 2) == "killed"
        assert answers(again) == before
        assert merge(again).isdigit()
        assert answers(again) == before


def age(lake, seconds):
    """Let so much time pass for every file, by this machine's clock."""
    for file in lake.folder.rglob("*"):
        found = file.stat()
        os.utime(file, (found.st_atime - seconds, found.st_mtime - seconds))


def test_a_published_warehouse_reads_its_rows_until_a_day_after_the_next(nights, lake):
    """Merged files stay while it refers to the single ones, whatever this machine's clock says."""
    sandbox, _ = nights
    publish(lake, MODELS)
    query = "select count(*), sum(amount) from transactions"
    with connect(lake) as open_reader:
        before = open_reader.execute(query).fetchall()
        assert before[0][0] > 0

        compact(lake)
        age(lake, 9 * 86_400)
        assert not vacuum(lake).deletions
        with connect(lake) as warehouse:
            assert warehouse.execute(query).fetchall() == before

        # A clock that was years off, or a copy of old files, ends no publication.
        publish(lake, MODELS)
        age(lake, 9 * 86_400)
        assert not vacuum(lake).deletions
        assert open_reader.execute(query).fetchall() == before

    for _ in range(2):
        next_day(sandbox)
        pull(sandbox, lake, ("entities",))
    done = vacuum(lake)
    assert {one.reason for one in done.deletions} == {Reason.MERGED, Reason.REPLACED}
    with connect(lake) as warehouse:
        assert warehouse.execute(query).fetchall() == before


def test_merged_files_are_kept_where_what_they_became_is_lost(lake):
    """They are all that there is of those rows."""
    many = files(lake)
    compact(lake)
    for file in set(files(lake)) - set(many):
        file.unlink()

    assert not vacuum(lake, older_than_seconds=-1).deletions
    assert files(lake) == many
