"""The warehouse's file among what others leave beside it."""

import datetime as dt
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import duckdb
import pytest
from typer.testing import CliRunner

from pipelines.cli.main import app
from pipelines.lake.lake import Lake
from pipelines.models.loader import ROOT, load
from pipelines.operate.vacuum import vacuum
from pipelines.publish import warehouse
from pipelines.publish.warehouse import WarehouseError, connect, publish

MODELS = load()
WRITER = """
import duckdb, sys
connection = duckdb.connect(sys.argv[1])
for line in sys.stdin:
    connection.execute(line)
    print("done", flush=True)
connection.close()
"""


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A lake without a row, whose warehouse was published."""
    lake = Lake(tmp_path_factory.mktemp("published") / "lake", "sandbox")
    publish(lake, MODELS)
    return lake


@pytest.fixture
def lake(published, tmp_path):
    """The same, of one test's own."""
    lake = Lake(tmp_path / "lake", "sandbox")
    shutil.copytree(published.folder, lake.folder)
    return lake


@pytest.fixture
def republish(monkeypatch):
    """Publishes a warehouse again without filling it, which takes a while."""

    def fill(writer, **_):
        writer.connection.execute("create table pulls as select 1 as again")
        return {}

    monkeypatch.setattr(warehouse._WarehouseWriter, "follow", lambda _writer, **_: False)
    monkeypatch.setattr(warehouse._WarehouseWriter, "fill", fill)
    return lambda lake: publish(lake, MODELS)


class Analyst:
    """A program that opened the warehouse for writing, as `duckdb leanhouse.duckdb` does."""

    def __init__(self, lake):
        self.process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(lake.warehouse)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def write(self, name):
        """Create a table."""
        self.process.stdin.write(f"create table {name} as select 1 as a\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "done\n"

    def end(self, how=None):
        """Close the database, or die without doing so."""
        if how is not None:
            self.process.send_signal(how)
        self.process.stdin.close()
        self.process.wait(30)
        self.process.stdout.close()


def opens(lake):
    """Whether everybody can open the warehouse: our commands, and whoever opens the file."""
    with connect(lake) as connection:
        connection.execute("select * from pulls")
    for is_read_only in (True, False):
        with duckdb.connect(str(lake.warehouse), read_only=is_read_only) as connection:
            connection.execute("select * from pulls")
    return True


def side_files(lake):
    """What lies beside the warehouse."""
    return sorted(file.name for file in lake.folder.glob("leanhouse.*") if file != lake.warehouse)


def test_what_an_analyst_left_who_was_killed_blocks_nobody(lake, republish):
    """The log of changes to the old file goes with it."""
    analyst = Analyst(lake)
    analyst.write("mine")
    analyst.end(signal.SIGKILL)
    assert side_files(lake) == ["leanhouse.duckdb.wal"]

    with connect(lake) as connection:
        connection.execute("select * from pulls")
    republish(lake)

    assert opens(lake)
    assert side_files(lake) == []


def test_a_stale_log_blocks_no_command(lake, republish, monkeypatch):
    """A log that belongs to another file is not read; where that cannot be, a sentence says so."""

    def refused(*_):
        raise PermissionError

    analyst = Analyst(lake)
    analyst.write("mine")
    analyst.end(signal.SIGKILL)
    log = lake.folder / "leanhouse.duckdb.wal"
    kept = log.read_bytes()
    republish(lake)
    log.write_bytes(kept)
    with pytest.raises(duckdb.IOException):
        duckdb.connect(str(lake.warehouse), read_only=True)

    with connect(lake) as connection:
        assert connection.execute("select * from pulls").fetchall() == [(1,)]
    assert side_files(lake) == [log.name]
    monkeypatch.setattr(Path, "hardlink_to", refused)
    with pytest.raises(WarehouseError, match="belongs to another file"):
        connect(lake)
    republish(lake)

    assert opens(lake)


@pytest.mark.parametrize("name", [".wal", ".wal.checkpoint", ".wal.recovery"])
@pytest.mark.parametrize("kind", ["empty", "noise", "folder", "full folder", "dangling link"])
def test_whatever_lies_beside_the_file_goes_with_a_swap(lake, republish, name, kind):
    """By whatever name and of whatever kind."""
    place = lake.folder / f"leanhouse.duckdb{name}"
    match kind:
        case "empty":
            place.touch()
        case "noise":
            place.write_bytes(os.urandom(1000))
        case "folder":
            place.mkdir()
        case "full folder":
            (place / "more").mkdir(parents=True)
        case _:
            place.symlink_to(lake.folder / "absent")
    with connect(lake) as connection:
        connection.execute("select * from pulls")

    republish(lake)

    assert opens(lake)
    assert side_files(lake) == []


def test_an_analyst_who_writes_on_blocks_nobody_for_ever(lake, republish):
    """While one writes to the old file readers of the new one are served, and later all are."""
    analyst = Analyst(lake)
    analyst.write("before")
    with pytest.raises(WarehouseError, match="open for writing in another program"):
        connect(lake)
    republish(lake)
    assert opens(lake)

    analyst.write("after")
    with connect(lake) as connection:
        assert connection.execute("select * from pulls").fetchall() == [(1,)]
    analyst.end(signal.SIGKILL)
    republish(lake)

    assert opens(lake)
    assert side_files(lake) == []


def test_nobody_writes_to_a_file_that_was_copied(lake, monkeypatch):
    """While changes are published; the log of such a file would be taken for one of its copy."""

    def follow(writer, **_):
        program = [sys.executable, "-c", WRITER, str(lake.warehouse)]
        refused = subprocess.run(program, capture_output=True, text=True, input="", check=False)
        assert "Could not set lock" in refused.stderr
        return True

    monkeypatch.setattr(warehouse._WarehouseWriter, "follow", follow)
    assert publish(lake, MODELS).rows == {}


def test_a_log_that_appears_during_the_swap_goes(lake, republish, monkeypatch):
    """What is written between the removal and the swap is removed after it."""
    replace = type(lake.warehouse).replace

    def slow(file, to):
        if to == lake.warehouse:
            (lake.folder / "leanhouse.duckdb.wal").write_bytes(os.urandom(100))
        return replace(file, to)

    monkeypatch.setattr(type(lake.warehouse), "replace", slow)
    republish(lake)

    assert opens(lake)
    assert side_files(lake) == []


def test_what_earlier_versions_left_goes_after_a_day(lake):
    """With what lies beside it, and not while a build of such a version may be under way."""
    old, young = lake.folder / "leanhouse.1.tmp", lake.folder / "leanhouse.2.tmp"
    for file in (old, young, old.with_name("leanhouse.1.tmp.wal")):
        file.touch()
    (spilt := old.with_name("leanhouse.1.tmp.tmp")).mkdir()
    (spilt / "duckdb_temp_block-1.block").touch()
    long_ago = time.time() - 90_000
    for file in (*lake.folder.glob("leanhouse.1.*"), *spilt.iterdir()):
        os.utime(file, (long_ago, long_ago))

    vacuum(lake)

    assert side_files(lake) == [young.name]


def test_a_build_that_fails_leaves_the_old_warehouse_and_nothing_else(lake, monkeypatch):
    """Nothing of the new one, its log included."""

    def fill(writer, **_):
        writer.connection.execute("create table half as select 1 as a")
        raise duckdb.OutOfMemoryException

    monkeypatch.setattr(warehouse._WarehouseWriter, "follow", fill)
    monkeypatch.setattr(warehouse._WarehouseWriter, "fill", fill)
    with pytest.raises(duckdb.OutOfMemoryException):
        publish(lake, MODELS)

    assert opens(lake)
    assert side_files(lake) == []


def test_what_is_no_database_is_one_sentence(lake, republish):
    """Where the file belongs lies a folder, noise, or nothing."""
    ask = ["query", "select 1", "--home", str(lake.folder.parent.parent)]
    lake.warehouse.unlink()
    assert "run a sync first" in CliRunner().invoke(app, ask).stderr
    lake.warehouse.write_bytes(os.urandom(5000))
    assert "cannot be opened" in CliRunner().invoke(app, ask).stderr
    republish(lake)
    assert opens(lake)
    lake.warehouse.unlink()
    lake.warehouse.mkdir()
    assert "cannot be opened" in CliRunner().invoke(app, ask).stderr
    with pytest.raises(WarehouseError, match="is in the way"):
        republish(lake)


def test_each_table_stands_in_the_schema_of_its_layer(lake):
    """Whoever opens the file meets marts first, and reads every view by its full name."""
    query = "select table_schema, table_name, table_comment from information_schema.tables"
    with duckdb.connect(str(lake.warehouse), read_only=True) as connection:
        found = {
            (schema, name): comment
            for schema, name, comment in connection.execute(query).fetchall()
        }
        for schema, name in found:
            connection.execute(f"from {schema}.{name}").fetchall()

    of = {schema: {name for one, name in found if one == schema} for schema, _ in found}
    assert {"transactions", "transactions_history", "pulls", "claims", "clock"} <= of["raw"]
    assert {"stg_accounts", "categories"} <= of["main"]
    for name in of["main"] & of["raw"]:
        assert found["main", name] == f"The old name of raw.{name}, until the next version."


def test_nothing_of_the_warehouse_reads_an_old_name(lake):
    """Views, functions and the search for lost files stay when the next version drops them."""
    with duckdb.connect(str(lake.warehouse)) as connection:
        connection.execute(f"set variable leanhouse_folder = '{lake.folder}/'")
        old = connection.execute(
            "select view_name from duckdb_views() where comment like 'The old name of %'"
        ).fetchall()
        assert ("pulls",) in old
        for (name,) in old:
            connection.execute(f"drop view main.{name}")
        for name in ("coverage(now())", "readable_accounts('transactions', now())"):
            connection.execute(f"from {name}")
        for name in connection.execute(
            "select format('{}.{}', schema_name, view_name) from duckdb_views() where not internal"
        ).fetchall():
            connection.execute(f"from {name[0]} limit 1")
        connection.execute(
            "insert into raw.pulls by name select 'x' as pull_id, 'x' as batch_id,"
            " [{'path': 'accounts/pulled_on=2026-01-01/x.parquet', 'bytes': 1, 'rows': 1,"
            " 'crc32': 1}] as files, 'accounts' as stream, 'COMMITTED' as outcome"
        )

    asked = CliRunner().invoke(app, ["query", "--home", str(lake.folder.parent.parent), "select 1"])

    assert asked.exit_code != 0
    assert "accounts/pulled_on=2026-01-01/x.parquet" in asked.stderr


def test_old_names_are_found_and_not_listed(tmp_path):
    """A table that was renamed, and the streams that stood in main."""
    root = tmp_path / "sql"
    (root / "intermediate").mkdir(parents=True)
    (root / "intermediate" / "int_dates.sql").write_text(
        "-- Dates.\n--\n-- grain: one row per date\n-- key: a_date\n-- stored: view\n"
        "-- formerly: fct_dates\n-- columns:\n--   a_date  A date.\n"
        "select date '2026-01-01' as a_date\n"
    )
    for folder in ("macros", "seeds"):
        (root / folder).symlink_to(ROOT / folder)
    lake = Lake(tmp_path / "home" / "lake", "sandbox")
    publish(lake, load(root))

    def asked(query):
        done = CliRunner().invoke(app, ["query", "--home", str(tmp_path / "home"), "--json", query])
        assert done.exit_code == 0, done.stderr
        return done.stdout

    assert asked("from fct_dates") == asked("from intermediate.int_dates")
    assert asked("select count(*) from pulls") == asked("select count(*) from raw.pulls")
    for query in ("show tables", "pragma show_tables;"):
        listed = asked(query)
        assert "categories" in listed
        assert "fct_dates" not in listed
        assert "pulls" not in listed
    assert "fct_dates" in asked("select view_name from duckdb_views() where not internal")
    with duckdb.connect(str(lake.warehouse), read_only=True) as connection:
        assert connection.execute("from fct_dates").fetchall() == [(dt.date(2026, 1, 1),)]
