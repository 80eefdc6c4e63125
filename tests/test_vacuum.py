"""What a vacuum deletes, what it leaves, and when it refuses."""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from test_lake import CUSTOMERS, commit, customers, pull
from typer.testing import CliRunner

from pipelines.cli.main import app
from pipelines.lake.lake import Lake
from pipelines.lake.storage import Key
from pipelines.lake.writers import LockedWriters
from pipelines.models.build import build
from pipelines.models.loader import load
from pipelines.models.manifest import current_manifest
from pipelines.operate.vacuum import Reason, VacuumRefusedError, plan_vacuum, vacuum

DAYS = 2 * 86_400
WORK = """
import os, signal, sys
from pathlib import Path
import pyarrow.parquet as pq
from pipelines.lake import batch as batches
from pipelines.publish import warehouse
from pipelines.models import build as builds
from pipelines.models import manifest as manifests
from pipelines.lake.lake import Lake
from pipelines.lake.ids import new_id
from pipelines.models.loader import load
from test_lake import CUSTOMERS, NOW, customers, pull

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

lake, how = Lake(Path(sys.argv[1]), "sandbox"), sys.argv[2]
batch = lake.batch(NOW)
if how == "before the ledger":
    batches.to_table = die
elif how == "half written":
    batches.Batch._reveal = die
elif how == "publishing":
    warehouse.swap_in = die
elif how == "before the manifest":
    manifests.sealed = die
if how == "publishing":
    warehouse.publish(lake, load())
elif how == "before the manifest":
    builds.build(lake, load(), hash_key="k", only=["dim_dates", "dim_banks"])
elif how == "planning":
    with lake.planning(("entities",)):
        die()
elif how == "living":
    batch.rows(CUSTOMERS, customers(pull(), "c9"))
    batches.to_table = lambda *_: (print("ready", flush=True), sys.stdin.read())
batch.rows(CUSTOMERS, customers(one := pull(), "c9"))
batch.commit([one])
"""


@pytest.fixture
def lake(tmp_path):
    """A lake of twelve commits."""
    lake = Lake(tmp_path / "home" / "lake", "sandbox")
    for number in range(12):
        commit(lake, one := pull(parent=f"p{number}"), customers(one, f"c{number}"))
    return lake


def age(lake):
    """Let all files be two days old."""
    for file in lake.folder.rglob("*"):
        os.utime(file, (time.time() - DAYS,) * 2)


def state(lake):
    """Every file of a lake."""
    return sorted(path for path in lake.folder.rglob("*") if path.is_file())


def working(lake, how):
    """A process that writes to the lake until it dies on the way."""
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-c", WORK, str(lake.folder.parent), how],
        env=os.environ | {"PYTHONPATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def command(lake, *more):
    """What `leanhouse vacuum` says, and how it ends."""
    return CliRunner().invoke(app, ["vacuum", "--home", str(lake.folder.parent.parent), *more])


def test_without_its_ledger_a_lake_stays_whole(lake):
    """As when it is not mounted; all of it, for ever, and with the ledger back all is as before."""
    age(lake)
    before = state(lake)
    (lake.folder / "pulls").rename(lake.folder.parent / "pulls")

    for more in ((), ("--yes-delete", "12")):
        done = command(lake, *more)
        assert isinstance(done.exception, VacuumRefusedError)
        assert "is missing, and 11 more" in str(done.exception)
    dry = command(lake, "--dry-run")
    assert (dry.exit_code, "vacuum would refuse" in dry.stdout) == (0, True)

    (lake.folder.parent / "pulls").rename(lake.folder / "pulls")
    assert state(lake) == before
    assert command(lake).stdout == "0 files deleted\n"


def test_a_ledger_that_is_shorter_than_it_was_stops_a_vacuum(lake):
    """By its last commit, without a copy; a build keeps how many there were, for later ones too."""
    models = load()
    build(lake, models, hash_key="k", only=["dim_dates"])
    age(lake)
    lost = max((lake.folder / "pulls").glob("*/*.parquet"))
    (lake.folder / "checkpoints" / lost.name).unlink()
    lost.rename(lake.folder.parent / lost.name)
    before = state(lake)

    with pytest.raises(VacuumRefusedError, match="has 11 commits, but had 12"):
        vacuum(lake, yes_delete=1)
    assert state(lake) == before
    build(lake, models, hash_key="k", only=["dim_dates"])
    assert current_manifest(lake).commits == 12
    with pytest.raises(VacuumRefusedError, match="had 12"):
        vacuum(lake)


def test_of_files_that_nothing_names_few_are_deleted_and_no_raw_answer(lake):
    """A tenth of the lake at most, by number or by size; the rest needs the very number."""
    names = sorted((lake.folder / "pulls").glob("*/*.parquet"))
    raw = lake.folder / "raw" / CUSTOMERS.name / "pulled_on=2026-03-15" / names[0].name
    raw.parent.mkdir(parents=True)
    shutil.copy(names[0], raw)
    for file in names[-4:]:
        file.unlink()
        (lake.folder / "checkpoints" / file.name).unlink()
    age(lake)
    before = state(lake)

    with pytest.raises(VacuumRefusedError, match=r"4 files, .*--yes-delete 4$"):
        vacuum(lake, yes_delete=3)
    assert state(lake) == before

    done = command(lake, "--yes-delete", "4")
    assert done.exit_code == 0, done.output
    assert "rows" in done.stdout
    assert Reason.UNKNOWN in done.stdout
    assert raw.exists()
    assert len(state(lake)) == len(before) - 4


def test_what_nothing_names_is_kept_for_a_day(lake):
    """A file from elsewhere, however its time is written: of the future it is young for ever."""
    stray = next((lake.folder / CUSTOMERS.name).glob("*")) / "stray.parquet"
    pq.write_table(customers(pull(), "c9"), stray)
    for seconds in (0, -DAYS):
        os.utime(stray, (time.time() - seconds,) * 2)
        assert not vacuum(lake).deletions

    os.utime(stray, (time.time() - DAYS,) * 2)
    assert plan_vacuum(lake).deletions[0].key == Key(stray.relative_to(lake.folder))
    assert stray.exists()
    assert [one.reason for one in vacuum(lake).deletions] == [Reason.UNKNOWN]
    assert not stray.exists()


@pytest.mark.parametrize(
    "how",
    ["before the ledger", "half written", "planning", "publishing", "before the manifest"],
)
def test_what_a_killed_process_left_is_deleted_at_once(lake, how):
    """Whatever it was at, and nothing else; by its lock, so that no clock is asked."""
    before = state(lake)
    with working(lake, how) as process:
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert state(lake) != before

    done = vacuum(lake)

    assert {one.reason for one in done.deletions} <= {Reason.LEFT, Reason.KILLED}
    left = {file for file in state(lake) if file.parent != lake.folder / "published"}
    assert left == set(before)
    assert list((lake.folder / "writers").iterdir()) == []
    assert not vacuum(lake).deletions


def test_what_a_living_process_writes_stays_however_old_it_looks(lake):
    """A clock that is days off, or a batch that takes days; a mutant without locks is caught."""
    with working(lake, "living") as process:
        assert process.stdout.readline() == "ready\n"
        age(lake)
        before = state(lake)
        assert not vacuum(lake).deletions
        assert state(lake) == before

        (sign,) = (lake.folder / "writers").iterdir()
        sign.rename(lake.folder.parent / sign.name)
        assert [one.reason for one in plan_vacuum(lake).deletions] == [Reason.UNKNOWN]
        process.kill()
    (lake.folder.parent / sign.name).rename(sign)
    assert [one.reason for one in vacuum(lake).deletions] == [Reason.KILLED]


def test_a_sign_that_is_deleted_while_it_is_made_is_made_again(tmp_path, monkeypatch):
    """A vacuum may see it between opening and locking."""
    locked = fcntl.flock
    taken = []

    def deleted_first(opened, how):
        if not taken:
            taken.append(Path(opened.name))
            taken[0].unlink()
        return locked(opened, how)

    monkeypatch.setattr(fcntl, "flock", deleted_first)
    writer = LockedWriters(tmp_path).start()

    assert taken == [tmp_path / writer.id]
    assert taken[0].exists()
