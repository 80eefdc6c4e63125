"""The copy for analysts: whole, alone, without a personal value, and never half."""

import fcntl
import grp
import os
import shutil
import signal
import stat
import subprocess
import sys

import duckdb
import pytest
import shared
from conftest import TODAY
from typer.testing import CliRunner

from lean_resources.errors import ConfigError
from pipelines.cli.main import app
from pipelines.lake.lake import Lake
from pipelines.models.build import build
from pipelines.models.loader import load
from pipelines.publish.export import publish_copy
from pipelines.publish.leaks import LeakError
from pipelines.publish.warehouse import connect, publish

MODELS = load()
KEY = "made-up-key-of-tests"
WORLD = {"customers": 2, "months": 2, "seed": 7, "today": TODAY}
BUILT = ("bridge_accounts", "dim_dates", "dim_banks", "dim_customers", "fct_balance_snapshots")
LEAK = """-- Leaks.
--
-- subject: trust
-- grain:   one row per account
-- key:     account_id
-- stored:  table
-- apart:   whole
-- cleared: holder (it is not), told (it is not), numbers (it is not), length (a number)
-- columns:
--   holder   A name.
--   told     A text with a number in it.
--   numbers  A list.
--   length   Characters of a name.
select
    account_id,
    account_holder_name as holder,
    'Paid to ' || iban_of(identifications) || '.' as told,
    list_transform(identifications, lambda one: one.identification) as numbers,
    length(account_holder_name)::varchar || ' characters' as length
from accounts_history
qualify row_number() over (partition by account_id order by pull_id) = 1
"""
KILLED = """
import os, signal, sys
from pathlib import Path
from pipelines.publish import export as analysts
from pipelines.lake.lake import Lake
from pipelines.models.loader import load
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
analysts.swap_in = die
analysts.publish_copy(Lake(Path(sys.argv[1]), "sandbox"), load(), Path(sys.argv[2]))
"""


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    """A lake of which some marts were built."""
    lake = Lake(tmp_path_factory.mktemp("home") / "lake", "sandbox")
    shared.filled(lake, sandbox=WORLD)
    build(lake, MODELS, hash_key=KEY, only=BUILT)
    return lake


@pytest.fixture(scope="module")
def published(lake, tmp_path_factory):
    """A copy that was published under a umask that lets everybody read and write."""
    before = os.umask(0)
    try:
        return publish_copy(lake, MODELS, tmp_path_factory.mktemp("analysts") / "copy").path
    finally:
        os.umask(before)


@pytest.fixture
def copied(published, tmp_path):
    """The same, of one test's own."""
    return shutil.copytree(published.parent, tmp_path / "copy") / published.name


def answer(file, query):
    """What a DuckDB says that knows nothing of a lake."""
    with duckdb.connect(str(file), read_only=True) as connection:
        connection.execute("set TimeZone = 'UTC'")
        return connection.execute(query).fetchall()


def mode(path):
    """Who may do what with a file."""
    return stat.S_IMODE(path.stat().st_mode) & 0o777


def test_it_holds_what_the_warehouse_shows_and_needs_no_lake(lake, published):
    """Tables with the same types, rows and meanings; of the rest nothing."""
    described = "select column_name, data_type, comment from duckdb_columns() where table_name = "
    publish(lake, MODELS)
    names = {name for (name,) in answer(published, "select table_name from duckdb_tables()")}
    old_names = {
        one.formerly: one.place for one in MODELS if one.layer == "intermediate" and one.formerly
    }

    assert names >= {"bridge_accounts", "dim_dates", "dim_banks", "dim_customers"}
    assert {MODELS[name].layer for name in names} == {"intermediate", "marts"}
    query = "select view_name, comment from duckdb_views() where not internal order by all"
    views = answer(published, query)
    assert "bridge_account_listings" in {name for name, _ in views}
    for name, comment in views:
        assert comment == f"The old name of {old_names[name]}, until the next version."
        rows = answer(published, f"from {old_names[name]} order by all")
        assert answer(published, f"from {name} order by all") == rows
    with connect(lake) as connection:
        for name in names:
            place = MODELS[name].place
            rows = connection.execute(f"from {place} order by all").fetchall()
            assert answer(published, f"from {place} order by all") == rows
            query = f"{described}'{name}' order by column_index"
            assert answer(published, query) == connection.execute(query).fetchall()
    # Header of the file: number 64 is what DuckDB 1.0 writes and reads.
    # Source: https://duckdb.org/docs/stable/internals/storage
    assert published.read_bytes()[8:20] == b"DUCK" + (64).to_bytes(8, "little")
    with duckdb.connect() as connection:
        connection.execute(f"attach '{published}' as copy (read_only)")
        tags = "select tags['storage_version'] from duckdb_databases() where database_name = 'copy'"
        assert connection.execute(tags).fetchone() == ("v1.0.0+",)


def test_a_personal_value_is_found_and_not_said(lake, copied, tmp_path):
    """A name, a number within a text, a number in a list; the file before stays."""
    root = tmp_path / "sql"
    (root / "marts").mkdir(parents=True)
    for folder in ("macros", "seeds"):
        (root / folder).symlink_to(MODELS.seeds["categories"].parent.parent / folder)
    (root / "marts" / "mart_leak.sql").write_text(LEAK)
    own = Lake(tmp_path / "home" / "lake", "sandbox")
    shared.filled(own, sandbox=WORLD)
    build(own, load(root), hash_key=KEY)
    before = copied.read_bytes()

    with pytest.raises(LeakError) as caught:
        publish_copy(own, load(root), copied.parent)

    places = "mart_leak.holder, mart_leak.numbers, mart_leak.told"
    assert str(caught.value) == f"a personal value stands in {places}"
    assert copied.read_bytes() == before
    assert list(copied.parent.iterdir()) == [copied]


def test_a_killed_process_leaves_the_old_file_and_a_new_one_its_readers(lake, copied):
    """What was begun is for the owner alone, and goes with the next publication."""
    before = copied.read_bytes()
    command = [sys.executable, "-c", KILLED, str(lake.folder.parent), str(copied.parent)]
    with duckdb.connect(str(copied), read_only=True) as reader:
        assert subprocess.run(command, check=False).returncode == -signal.SIGKILL

        assert copied.read_bytes() == before
        (begun,) = set(copied.parent.iterdir()) - {copied}
        assert mode(begun) == 0o700
        seen = copied.stat().st_ino
        publish_copy(lake, MODELS, copied.parent)
        assert list(copied.parent.iterdir()) == [copied]
        assert copied.stat().st_ino != seen
        assert reader.execute("select count(*) from dim_dates").fetchone()[0] > 0


def test_who_may_read_it(lake, published, tmp_path):
    """Its owner, whatever the umask is; with a group its members."""
    group = grp.getgrgid(os.getegid()).gr_name
    both = publish_copy(lake, MODELS, tmp_path / "both", group).path

    assert (mode(published), mode(published.parent)) == (0o600, 0o700)
    assert (mode(both), mode(both.parent)) == (0o640, 0o750)


def test_what_is_refused(lake, tmp_path):
    """A folder in the home, by a link too; a second process; a lake without a mart."""
    (tmp_path / "link").symlink_to(lake.folder)
    for folder in (lake.folder, lake.folder / "marts", lake.folder.parent.parent / "x"):
        with pytest.raises(ConfigError, match="outside of it"):
            publish_copy(lake, MODELS, folder)
    with pytest.raises(ConfigError, match="outside of it"):
        publish_copy(lake, MODELS, tmp_path / "link")
    with pytest.raises(ConfigError, match="leanhouse build"):
        publish_copy(Lake(tmp_path / "empty" / "lake", "sandbox"), MODELS, tmp_path / "copy")
    held = os.open(tmp_path / "copy", os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    try:
        with pytest.raises(ConfigError, match="another process"):
            publish_copy(lake, MODELS, tmp_path / "copy")
    finally:
        os.close(held)
    assert list((tmp_path / "copy").iterdir()) == []


def test_the_command(lake, tmp_path):
    """Says what it wrote; without readers it says what is missing."""
    home, folder = str(lake.folder.parent.parent), str(tmp_path / "copy")
    done = CliRunner().invoke(app, ["publish", "--home", home, "--for", "analysts", folder])

    assert done.exit_code == 0, done.output
    assert "leanhouse.duckdb: " in done.output.replace("\n", "")
    assert CliRunner().invoke(app, ["publish", "--home", home, folder]).exit_code == 2
