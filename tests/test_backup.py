"""deploy/backup.sh copies a home while it is used, and the copy is a whole lake."""

import asyncio
import os
import shutil
import sqlite3
import subprocess
import time
from pathlib import Path

import pytest
import shared
from conftest import DIRECTORY, client_of, sync_everything

from lean_resources.sandbox import Sandbox
from pipelines.lake.lake import Lake
from pipelines.models.loader import load
from pipelines.operate.fsck import check
from pipelines.publish.warehouse import publish

SCRIPT = Path(__file__).resolve().parent.parent / "deploy" / "backup.sh"
WORLD = {"customers": 2, "months": 2, "seed": 7, "today": "2026-03-15"}
PAUSING = """#!/bin/sh
{cp} "$@" || exit
case "$*" in
*pulls*) touch {folder}/paused; until [ -e {folder}/go ]; do sleep 0.05; done ;;
esac
"""
PATIENCE = 60


@pytest.fixture
def home(tmp_path):
    """A home with some streams, a policy, an inbox and a published warehouse."""
    home = tmp_path / "home"
    publish(shared.filled(Lake(home / "lake", "sandbox"), DIRECTORY, sandbox=WORLD), load())
    (home / "policy.toml").write_text("refreshes_per_day = 4\n")
    (home / "inbox").mkdir()
    with sqlite3.connect(home / "inbox" / "sandbox.db") as inbox:
        inbox.execute("pragma journal_mode = wal")
        inbox.execute("create table events as select 'made up' as id")
    return home


def commit_more(home):
    """What a sync brings meanwhile."""
    lake = Lake(home / "lake", "sandbox")
    asyncio.run(sync_everything(client_of(Sandbox(**WORLD)), lake, ["balances", "transactions"]))


def committed(home):
    """Streams of which the ledger has pulls."""
    lake = Lake(home / "lake", "sandbox")
    with lake.connect() as connection:
        return {
            name for (name,) in connection.execute("select distinct stream from pulls").fetchall()
        }


def problems(home):
    """What fsck finds."""
    return [str(finding) for finding in check(Lake(home / "lake", "sandbox")).findings]


def test_a_sync_during_a_backup_leaves_the_copy_whole(home, tmp_path):
    """It commits after the ledger was copied and before its rows would be."""
    pausing = tmp_path / "bin" / "cp"
    pausing.parent.mkdir()
    pausing.write_text(PAUSING.format(cp=shutil.which("cp"), folder=tmp_path))
    pausing.chmod(0o755)
    copy = tmp_path / "copy"
    path = f"{pausing.parent}:{os.environ['PATH']}"
    with subprocess.Popen(["sh", SCRIPT, home, copy], env={**os.environ, "PATH": path}) as script:
        deadline = time.monotonic() + PATIENCE
        while not (tmp_path / "paused").exists():
            assert time.monotonic() < deadline
            assert script.poll() is None
            time.sleep(0.05)
        commit_more(home)
        (tmp_path / "go").touch()
        assert script.wait(PATIENCE) == 0
    shutil.move(home, tmp_path / "gone")

    assert problems(copy) == []
    assert committed(copy) == {*DIRECTORY} != committed(tmp_path / "gone")
    assert (copy / "policy.toml").read_text() == "refreshes_per_day = 4\n"
    with sqlite3.connect(copy / "inbox" / "sandbox.db") as inbox:
        assert inbox.execute("select id from events").fetchone() == ("made up",)
    # The copy goes on from there.
    commit_more(copy)
    assert committed(copy) == committed(tmp_path / "gone")
    assert problems(copy) == []


def test_rows_before_the_ledger_would_not_do(home, tmp_path):
    """A mutant of the order: the ledger names rows that the copy lacks."""
    copy = tmp_path / "copy"
    shutil.copytree(home, copy, ignore=shutil.ignore_patterns("pulls", "checkpoints"))
    commit_more(home)
    for name in ("pulls", "checkpoints"):
        shutil.copytree(home / "lake" / "sandbox" / name, copy / "lake" / "sandbox" / name)

    assert problems(copy)


@pytest.mark.parametrize("given", [("nowhere", "copy"), ("home", "home")])
def test_a_wrong_folder_is_named(home, tmp_path, given):
    """Nothing is copied, and nothing is overwritten."""
    ended = subprocess.run(
        ["sh", SCRIPT, *(tmp_path / name for name in given)],
        capture_output=True, text=True, check=False, timeout=PATIENCE,
    )  # fmt: skip

    assert ended.returncode == 1
    assert str(tmp_path / given[0]) in ended.stderr
    assert not (tmp_path / "copy").exists()
