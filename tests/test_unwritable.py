"""A home that is full, or closed to this process: one sentence, nothing half, and the old tables.

Real commands as processes. The superuser's right to every file is given up where it would hide the
trouble; a limit on the size of files stands for a full disk, and is met in the middle of the work.
"""

import os
from pathlib import Path

import pytest
import shared
from commands import Commands
from test_dagster import values_of

from lean_resources.sandbox import Sandbox, serve
from pipelines.environment import child_of
from pipelines.lake.lake import Lake
from pipelines.models.loader import load
from pipelines.publish.warehouse import publish

WORLD = {"customers": 1, "months": 1, "seed": 7, "today": "2026-03-15"}
_MAIN = "from pipelines.cli.main import main; main()"
FULL = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192)); {_MAIN}"
# Without CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, in threads that begin later too.
STRANGER = f"""
import ctypes
head, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
assert ctypes.CDLL(None).capget(head, sets) == 0
sets[0] &= ~0b110
assert ctypes.CDLL(None).capset(head, sets) == 0
{_MAIN}
"""
ROWS = "select count(*) as transactions from transactions"
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="files of another user: only as root")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Runs a command over a home, under a condition: its exit code and what it says."""
    sandbox = Sandbox(**WORLD)
    with (
        serve(sandbox, port=0, mtls=False) as server,
        Commands({}, tmp_path_factory.mktemp("output")) as commands,
    ):
        values = values_of(sandbox, server) | {"webhook_secret": sandbox.webhook_secret}

        def once(home, code, *arguments):
            environment = child_of(values, home) | {"LEAN_WEBHOOK_PORT": "0"}
            ended, _, said = commands.run(*arguments, code=code, **environment)
            return ended, said

        yield once


@pytest.fixture
def home(tmp_path):
    """A home with a lake that is published, and models that are not built yet."""
    lake = shared.filled(Lake(tmp_path / "home" / "lake", "sandbox"), sandbox=WORLD)
    publish(lake, load())
    return tmp_path / "home"


def belongs_to_another(folder, mode):
    """Give a folder and all in it to another user."""
    for path in (folder, *folder.rglob("*")):
        os.chown(path, 65534, 65534)
        path.chmod(0o755 if path.is_dir() else 0o644)
    folder.chmod(mode)


def is_one_sentence(ended, said, *, place):
    """The place and a remedy, and nothing of how it came about."""
    assert ended == 1, said
    assert "Traceback" not in said
    last = said[said.index("error ") :]
    assert str(place) in last, said
    assert len(last.strip().splitlines()) <= 2, said
    assert "LEANHOUSE_HOME" in last or "Choose" in last or "ulimit" in last or "dmesg" in last
    assert "Wait" not in said
    assert "fsck" not in said


def still_answers(run, home):
    """The tables as they were, and every file whole."""
    ended, said = run(home, None, "query", "--csv", ROWS)
    assert (ended, said.split()) == (0, ["transactions", "107"])
    ended, said = run(home, None, "fsck")
    assert ended == 0, said


def writing(home):
    """Commands that write."""
    return (
        ("build",),
        ("replay",),
        ("compact",),
        ("sync",),
        ("doctor",),
        ("webhooks",),
        ("query", ROWS, "--parquet", str(home / "out" / "rows.parquet")),
    )


def test_a_full_disk_is_one_sentence_and_the_old_tables_stay(run, home):
    """Every command that writes more than fits; what it had begun is gone or does not count."""
    warehouse = (home / "lake" / "sandbox" / "leanhouse.duckdb").read_bytes()
    for command in writing(home)[:-1]:
        is_one_sentence(*run(home, FULL, *command), place=home)
    wide = "select uuid() as id from range(100000)"
    file = home / "rows.parquet"
    is_one_sentence(*run(home, FULL, "query", wide, "--parquet", file), place=file)

    assert not list(home.glob("rows.parquet*"))
    assert (home / "lake" / "sandbox" / "leanhouse.duckdb").read_bytes() == warehouse
    still_answers(run, home)


@as_root
def test_a_home_of_another_user_is_one_sentence(run, home):
    """It may be read, so the tables answer; nothing can be written, and nothing is said before."""
    (home / "out").mkdir()
    belongs_to_another(home, 0o755)
    for command in writing(home):
        ended, said = run(home, STRANGER, *command)
        is_one_sentence(ended, said, place=home)
        assert command == ("doctor",) or said.lstrip().startswith("error "), said

    assert run(home, STRANGER, "query", "--csv", ROWS)[0] == 0


@as_root
@pytest.mark.parametrize("folder", ["pulls", "transactions"])
def test_a_folder_that_is_closed_is_not_taken_for_empty(run, home, folder):
    """No command calls its files missing, mends or deletes them, or shows tables without them."""
    closed = home / "lake" / "sandbox" / folder
    count = sum(1 for _ in home.rglob("*"))
    belongs_to_another(closed, 0o700)
    for command in (("status",), ("query", ROWS), ("fsck", "--repair"), ("vacuum",), ("sync",)):
        is_one_sentence(*run(home, STRANGER, *command), place=closed)

    assert sum(1 for one in home.rglob("*") if "dagster" not in one.parts) == count
    assert run(home, None, "query", "--csv", ROWS)[0] == 0


def test_a_home_that_cannot_be_made_is_one_sentence(run):
    """Also for the superuser; `replay` says nothing before."""
    for command in (("replay",), ("webhooks",), ("compact",)):
        ended, said = run(Path("/sys/leanhouse"), None, *command)
        is_one_sentence(ended, said, place="/sys/leanhouse")
        assert said.startswith("error ")
