"""An analyst's copy of the warehouse: DuckDB alone reads it, and a pull is whole or nothing."""

import asyncio
import datetime as dt

import duckdb
import pytest
import shared
from conftest import TODAY, client_of, sync_everything
from typer.testing import CliRunner

from lean_resources.errors import ConfigError
from lean_resources.sandbox import Sandbox
from pipelines.cli.main import app
from pipelines.lake.folder import Folder
from pipelines.lake.lake import Lake
from pipelines.models.build import build
from pipelines.models.loader import load
from pipelines.publish.frames import Warehouse
from pipelines.publish.pull import pull
from pipelines.publish.warehouse import connect, publish

BUILT = ("bridge_accounts", "dim_banks", "fct_balance_snapshots")
WORLD = {"customers": 2, "months": 2, "seed": 7, "today": TODAY}
QUERIES = (
    "select * from dim_banks order by all",
    "select account_id, signed_amount, asked_at from fct_balance_snapshots order by all",
    "select transaction_id, amount from raw.transactions order by all",
)


@pytest.fixture
def lake(tmp_path):
    """A lake with a warehouse that has a few tables."""
    lake = Lake(tmp_path / "home" / "lake", "sandbox")
    shared.filled(lake, sandbox=WORLD)
    publish_again(lake)
    return lake


def publish_again(lake):
    """Build a few tables, and publish."""
    build(lake, load(), hash_key="made-up-key-of-tests", only=BUILT)
    publish(lake, load())


def asked(folder, monkeypatch):
    """What DuckDB alone says of a copy, from within it."""
    monkeypatch.chdir(folder)
    with duckdb.connect("leanhouse.duckdb", read_only=True) as connection:
        return [connection.execute(query).fetchall() for query in QUERIES]


def truth(lake):
    """What the lake says."""
    with connect(lake) as connection:
        return [connection.execute(query).fetchall() for query in QUERIES]


def test_a_copy_has_the_rows_and_the_next_pull_only_what_is_new(lake, tmp_path, monkeypatch):
    """What the warehouse before reads stays until the pull after."""
    copy = tmp_path / "copy"
    first = pull(lake, copy)
    then = truth(lake)
    assert all(then)
    assert asked(copy, monkeypatch) == then
    assert first.new_files == first.files

    again = pull(lake, copy)
    assert (again.new_files, again.files) == (0, first.files)

    sandbox = Sandbox(**WORLD)
    sandbox.connect(app_user_id="one-more")
    sandbox.clock.advance(dt.timedelta(minutes=1))
    asyncio.run(sync_everything(client_of(sandbox), lake))
    publish_again(lake)
    before = set(copy.rglob("*.parquet"))
    later = pull(lake, copy)

    assert asked(copy, monkeypatch) == truth(lake) != then
    assert 0 < later.new_files < later.files
    assert before <= set(copy.rglob("*.parquet"))
    pull(lake, copy)
    assert len(list(copy.rglob("*.parquet"))) == later.files
    assert len(Warehouse(copy / "leanhouse.duckdb").frame("from dim_banks")) == len(then[0])


def test_a_pull_that_ends_in_the_middle_leaves_the_copy_as_it_was(lake, tmp_path, monkeypatch):
    """Also the first one: the next goes on."""
    copy = tmp_path / "copy"
    put = Folder.put

    def fail(storage, key, content):
        nonlocal left
        left -= storage.root == copy
        if left < 0:
            raise OSError(28, "No space left on device")
        put(storage, key, content)

    for files in (3, 12):
        left = files
        monkeypatch.setattr(Folder, "put", fail)
        with pytest.raises(OSError, match="No space"):
            pull(lake, copy)
        monkeypatch.setattr(Folder, "put", put)
        assert not (copy / "leanhouse.duckdb").exists()
    pull(lake, copy)

    assert asked(copy, monkeypatch) == truth(lake)


def test_nothing_else_is_touched(lake, tmp_path):
    """Neither a folder with other files, nor the copy of another lake."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not a copy of a lake"):
        pull(lake, other)
    assert [file.name for file in other.rglob("*") if file.suffix] == ["mine.txt"]

    pull(lake, tmp_path / "copy")
    stranger = Lake(tmp_path / "stranger" / "lake", "sandbox")
    with pytest.raises(ConfigError, match="is a copy of"):
        pull(stranger, tmp_path / "copy")


def test_the_lake_may_lie_outside_of_the_home(lake, tmp_path, monkeypatch):
    """The command reads it there, and its files become the owner's alone."""
    from pipelines import environment

    home = tmp_path / "elsewhere"
    monkeypatch.setenv("LEANHOUSE_HOME", str(home))
    monkeypatch.setenv("LEANHOUSE_LAKE", str(lake.folder.parent))
    environment.settings.cache_clear()
    try:
        ended = CliRunner().invoke(app, ["warehouse", "pull", str(tmp_path / "copy")])
        asked_there = CliRunner().invoke(
            app, ["query", "--csv", "select count(*) n from dim_banks"]
        )
    finally:
        monkeypatch.undo()
        environment.settings.cache_clear()

    assert ended.exit_code == 0, ended.output
    assert asked_there.stdout.splitlines()[-1].isdigit()
    assert (tmp_path / "copy" / "leanhouse.duckdb").exists()
    assert not (home / "lake").exists()
    assert lake.folder.stat().st_mode & 0o077 == 0
