"""A home that was moved, copied or mounted elsewhere: everything reads where it is now."""

import json
import os
import shutil
import subprocess
import sys

import duckdb
import pytest
import shared
from typer.testing import CliRunner

from pipelines.cli.main import app
from pipelines.lake.lake import Lake
from pipelines.models.loader import load
from pipelines.publish.warehouse import publish

WORLD = {"customers": 1, "months": 1, "seed": 7, "today": "2026-03-15"}
QUERY = "select count(*) as n from transactions"
BARE = """
import duckdb, sys
with duckdb.connect("leanhouse.duckdb", read_only=True) as connection:
    print(connection.execute(sys.argv[1]).fetchone()[0])
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home whose warehouse was published."""
    home = tmp_path_factory.mktemp("home")
    publish(shared.filled(Lake(home / "lake", "sandbox"), sandbox=WORLD), load())
    return home


def counted(home):
    """How many transactions the command finds in a home; None where it fails."""
    result = CliRunner().invoke(app, ["query", "--home", str(home), "--json", QUERY])
    return json.loads(result.stdout)[0]["n"] if result.exit_code == 0 else None


def emptied(home):
    """A home all of whose typed transactions are gone."""
    shutil.rmtree(home / "lake" / "sandbox" / "transactions")
    return home


@pytest.mark.parametrize("place", ["lake/sandbox", "."])
def test_a_copy_reads_its_own_files(home, tmp_path, monkeypatch, place):
    """Wherever the command was started, in the old lake's folder too."""
    rows = counted(home)
    copied = tmp_path / "o'k copied"
    shutil.copytree(home, copied)
    monkeypatch.chdir(home / place)

    assert rows > 0
    assert counted(copied) == rows
    assert counted(emptied(copied)) is None, "the old lake's files were read"
    assert counted(home) == rows


def test_a_moved_home_works_at_once(home, tmp_path):
    """The old place is gone, and nothing was built again."""
    shutil.copytree(home, tmp_path / "old")
    (tmp_path / "old").rename(tmp_path / "new")

    assert counted(tmp_path / "new") == counted(home)


def test_a_bare_duckdb_works_from_the_lake_s_folder(home, tmp_path):
    """And from elsewhere once it is told the folder."""
    copied = tmp_path / "copied"
    shutil.copytree(home, copied)
    folder = copied / "lake" / "sandbox"
    done = subprocess.run(
        [sys.executable, "-c", BARE, QUERY],
        cwd=folder,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.stdout, done.stderr) == (f"{counted(home)}\n", "")
    with duckdb.connect(str(folder / "leanhouse.duckdb"), read_only=True) as connection:
        with pytest.raises(duckdb.IOException):
            connection.execute(QUERY)
        connection.execute(f"set variable leanhouse_folder = '{folder}/'")
        assert connection.execute(QUERY).fetchone() == (counted(home),)


def test_no_view_holds_the_place_where_it_was_made(home):
    """So that no view can read there."""
    result = CliRunner().invoke(
        app, ["query", "--home", str(home), "--json", "select sql from duckdb_views()"]
    )

    assert "getvariable" in result.stdout
    assert str(home) not in result.stdout
