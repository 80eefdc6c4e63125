"""Commands over a lake in an object store, as a user gives them, on two machines."""

import json
import os
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest
from stores import BUCKET, moto

pytestmark = pytest.mark.conformance
LEANHOUSE = Path(sys.executable).with_name("leanhouse")
COUNT = "select count(*) as n from fct_transactions"


@pytest.fixture(scope="module")
def store():
    """Variables of a store with a lake that the demo made on a machine of its own."""
    with moto() as given:
        yield given


def ran(home, store, *arguments, code=0):
    """What a command says."""
    ended = subprocess.run(
        [LEANHOUSE, *map(str, arguments)],
        env={"PATH": os.defpath, "HOME": str(home), "LEANHOUSE_HOME": str(home)} | store,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == code, ended.stdout + ended.stderr
    return ended.stdout


def test_every_command_works_on_a_lake_in_a_store(store, tmp_path):
    """What one machine writes another one reads, which has nothing but the store."""
    one, other, copy = tmp_path / "one", tmp_path / "other", tmp_path / "copy"
    demo = ("demo", "--customers", 1, "--months", 1, "--home", one)
    ran(one, store | {"LEANHOUSE_LAKE": BUCKET}, *demo)
    assert not (one / "lake").exists()
    store |= {"LEANHOUSE_LAKE": f"{BUCKET}/demo"}

    [found] = json.loads(ran(other, store, "query", "--json", COUNT))
    assert found["n"]
    for arguments in (
        ("build",),
        ("compact",),
        ("replay", "banks"),
        ("report",),
        ("fsck",),
        ("vacuum", "--dry-run"),
        ("vacuum",),
        ("export", tmp_path / "bank.duckdb"),
        ("publish", "--for", "analysts", tmp_path / "analysts"),
        ("support-bundle", tmp_path / "fault.zip"),
        ("warehouse", "pull", copy),
    ):
        ran(other, store, *arguments)
    ran(one, store, "status")
    assert json.loads(ran(one, store, "query", "--json", COUNT)) == [found]

    with duckdb.connect(copy / "leanhouse.duckdb", read_only=True) as connection:
        connection.execute(f"set variable leanhouse_folder = '{copy}/'")
        (count,) = connection.execute(COUNT).fetchone()
    assert count == found["n"]
    assert not (other / "lake").exists()
