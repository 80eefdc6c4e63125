"""This machine's own trouble: told as what it is, with its remedy, and never as Lean's."""

import asyncio
import ctypes
import datetime as dt
import errno
import os
import pickle
import resource
import socket
import sqlite3
import subprocess
import sys
import zoneinfo
from pathlib import Path

import dagster as dg
import duckdb
import pyarrow as pa
import pytest
from conftest import client_of, rows_of, sync_everything

import pipelines.sync.writer as writing
from lean_resources.errors import LeanError, MachineError, UnavailableError
from lean_resources.machine import machine_error
from lean_resources.sandbox import Sandbox
from pipelines.dagster_defs.failures import explained
from pipelines.lake.folder import Folder
from pipelines.lake.lake import Lake
from pipelines.lake.ledger_files import LedgerFiles
from pipelines.lake.storage import Key
from pipelines.sync.refresh_budget import Budget

ROOT = Path(__file__).resolve().parent.parent
NOW = dt.datetime(2026, 3, 15, tzinfo=dt.UTC)


def _raised(work):
    with pytest.raises(Exception) as caught:  # noqa: PT011 - whatever the library raises
        work()
    return caught.value


def _out_of_memory():
    with duckdb.connect() as connection:
        connection.execute("set memory_limit = '10MB'; set max_temp_directory_size = '1MB'")
        connection.execute("select list(x order by x) from (select uuid() x from range(1000000))")


def _readonly_database(tmp_path):
    file = tmp_path / "a.db"
    sqlite3.connect(file).execute("create table t (x)")
    with sqlite3.connect(f"file:{file}?mode=ro", uri=True) as connection:
        connection.execute("insert into t values (1)")


def _caused():
    try:
        _raise(OSError(errno.ENOSPC, "No space left on device", "/data/x"))
    except OSError as error:
        raise ValueError("wrapped") from error


def _grouped():
    raise ExceptionGroup("several", [ValueError("one"), OSError(errno.EMFILE, "Too many")])


TROUBLE = {
    "a full disk": (lambda _: os.write(os.open("/dev/full", os.O_WRONLY), b"x"), "DISK_FULL"),
    "a full quota": (lambda _: _raise(OSError(errno.EDQUOT, "quota")), "DISK_FULL"),
    "a cause": (lambda _: _caused(), "DISK_FULL"),
    "a group": (lambda _: _grouped(), "OPEN_FILES"),
    "a read-only database": (_readonly_database, "READ_ONLY"),
    "a read-only disk": (lambda _: _raise(OSError(errno.EROFS, "ro", "/x")), "READ_ONLY"),
    "a database elsewhere": (
        lambda p: sqlite3.connect(p / "absent" / "a.db"),
        "NOT_PERMITTED",
    ),
    "a file for a folder": (lambda p: ((p / "f").touch(), (p / "f" / "g").mkdir()), "NOT_A_FOLDER"),
    "a file in its place": (
        lambda p: ((p / "f").touch(), (p / "f").mkdir()),
        "NOT_A_FOLDER",
    ),
    "a long name": (lambda p: (p / ("x" * 300)).mkdir(), "NAME_TOO_LONG"),
    "a failing disk": (lambda _: _raise(OSError(errno.EIO, "io")), "DISK_FAILED"),
    "DuckDB's memory": (lambda _: _out_of_memory(), "OUT_OF_MEMORY"),
    "Arrow's memory": (lambda _: _raise(pa.lib.ArrowMemoryError("malloc")), "OUT_OF_MEMORY"),
    "Python's memory": (lambda _: _raise(MemoryError()), "OUT_OF_MEMORY"),
    "threads": (lambda _: _raise(RuntimeError("can't start new thread")), "TOO_MANY_THREADS"),
    "no time zones": (lambda _: zoneinfo.ZoneInfo("Asia/Nowhere"), "NO_TIME_ZONES"),
    "DuckDB's disk": (
        lambda _: _raise(duckdb.IOException("Could not write file: No space left on device")),
        "DISK_FULL",
    ),
    "DuckDB's time zones": (
        lambda _: duckdb.sql("select timezone('Asia/Nowhere', now())").fetchall(),
        "NO_TIME_ZONES",
    ),
}


def _raise(error):
    raise error


@pytest.mark.parametrize("name", TROUBLE)
def test_this_machine_s_trouble_is_named_with_its_remedy(tmp_path, name):
    """From the error that the system or a library really raises, through causes and groups."""
    work, code = TROUBLE[name]

    found = machine_error(_raised(lambda: work(tmp_path)))

    assert found is not None
    assert found.code == code
    assert "Lean" not in found.message + found.remedy.replace("LEANHOUSE", "")
    assert pickle.loads(pickle.dumps(found)).remedy == found.remedy
    assert not isinstance(found, LeanError)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("no space left on device"),
        FileNotFoundError(errno.ENOENT, "gone"),
        KeyError("out of memory"),
        duckdb.ParserException("syntax error"),
        duckdb.ConversionException("Could not convert string"),
        UnavailableError("no answer in time"),
        RuntimeError("something else"),
    ],
    ids=repr,
)
def test_other_errors_are_not_this_machine_s(error):
    """A fault of ours, of the data or of Lean keeps its own name."""
    assert machine_error(error) is None


def test_a_step_fails_with_the_remedy_and_is_not_tried_again():
    """Dagster shows one sentence; waiting for Lean would not help."""
    with pytest.raises(dg.Failure) as caught, explained():
        raise OSError(errno.ENOSPC, "No space left on device", "/data/lake")

    assert caught.value.description.startswith("the disk is full (/data/lake). Free space")
    assert caught.value.metadata["code"].value == "DISK_FULL"
    assert not caught.value.allow_retries
    with pytest.raises(ZeroDivisionError), explained():
        _ = 1 / 0
    with pytest.raises(dg.RetryRequested), explained():
        raise UnavailableError("no answer in time")


async def _typed_without_memory(sandbox, lake):
    await sync_everything(client_of(sandbox), lake, {"banks"})


@pytest.mark.parametrize(
    "error", [duckdb.OutOfMemoryException("Out of Memory Error"), MemoryError()], ids=repr
)
def test_memory_that_does_not_suffice_is_no_answer_of_another_shape(monkeypatch, lake, error):
    """The sync ends as what it is, and no pull is put down as an answer that cannot be typed."""

    class Poor(writing.Decoder):
        def decode(self, *_args, **_kwargs):
            raise error

    monkeypatch.setattr(writing, "Decoder", Poor)
    sandbox = Sandbox(customers=1, months=1, seed=7, today="2026-03-15")

    with pytest.raises((MachineError, MemoryError)) as caught:
        asyncio.run(_typed_without_memory(sandbox, lake))

    assert machine_error(caught.value).code == "OUT_OF_MEMORY"
    assert rows_of(lake, "select count(*) from pulls") == [(0,)]


_SYNC = """
import asyncio, sys
from pathlib import Path
from conftest import client_of, rows_of, sync_everything
from lean_resources.sandbox import Sandbox
from pipelines.lake.lake import Lake

lake = Lake(Path(sys.argv[1]), "sandbox")
world = Sandbox(customers=1, months=1, seed=7, today="2026-03-15")
asyncio.run(sync_everything(client_of(world), lake))
print(rows_of(lake, "select count(*) from transactions"))
"""


def test_a_machine_without_time_zones_syncs_all_the_same(tmp_path):
    """What lean_resources and the lake compute of instants needs no folder of the system's."""
    hide = [
        "unshare",
        "-m",
        "sh",
        "-c",
        'mount -t tmpfs none /usr/share/zoneinfo && exec "$@"',
        "-",
    ]
    # An ordinary user cannot hide the folder; there the rows are looked at with it.
    hidden = subprocess.run([*hide, "true"], capture_output=True, check=False).returncode == 0
    done = subprocess.run(
        [*(hide if hidden else []), sys.executable, "-c", _SYNC, str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[(107,)]"


def _refuse_links(monkeypatch, number):
    def link(*_args, **_kwargs):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", link)


@pytest.mark.parametrize("number", [0, errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.EXDEV])
def test_a_place_is_given_once_also_without_hard_links(monkeypatch, tmp_path, number):
    """The second finds it taken, and the first one's bytes stay."""
    if number:
        _refuse_links(monkeypatch, number)
    storage = Folder(tmp_path)

    assert storage.create(Key("place"), b"first", "a")
    assert not storage.create(Key("place"), b"second", "b")

    assert storage.read(Key("place")) == b"first"
    assert [one.key for one in storage.walk()] == [Key("place")]


def test_the_budget_and_the_ledger_need_no_hard_links(monkeypatch, tmp_path):
    """Spends are counted and a day is merged where the file system has none."""
    _refuse_links(monkeypatch, errno.EPERM)
    budget = Budget(Lake(tmp_path, "sandbox"), 1)

    assert budget.reserve({"a", "b"}, NOW) == {"a", "b"}
    assert budget.reserve({"a", "c"}, NOW) == {"c"}
    assert budget.reserve({"a", "b", "c"}, NOW) == set()
    assert LedgerFiles(Folder(tmp_path / "none")).merge(NOW.date()) == 0


def test_a_file_system_that_can_give_no_place_is_named(monkeypatch, tmp_path):
    """Neither links nor a rename that replaces nothing: the budget could be overspent there."""

    class Bare:
        def __init__(self, *_args, **_kwargs):
            pass

    _refuse_links(monkeypatch, errno.EPERM)
    monkeypatch.setattr(ctypes, "CDLL", Bare)

    with pytest.raises(MachineError, match="file system") as caught:
        Budget(Lake(tmp_path, "sandbox"), 1).reserve({"a"}, NOW)

    assert str(tmp_path) in caught.value.message
    assert not list(tmp_path.rglob("*.parquet"))


def _leanhouse(*args, home, limit=None, **environment):
    """What a command prints to both streams, and its exit code."""
    clean = {
        name: value for name, value in os.environ.items() if not name.startswith(("LEAN", "PYTHON"))
    }

    def limited():
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    done = subprocess.run(
        [sys.executable, "-m", "pipelines.cli", *args],
        cwd=ROOT,
        env={**clean, "LEANHOUSE_HOME": str(home), **environment},
        capture_output=True,
        timeout=180,
        check=False,
        preexec_fn=limited,
    )
    return done.stdout.decode("utf-8", "replace") + done.stderr.decode(), done.returncode


def _is_one_sentence(said, code):
    assert code == 1, said
    assert "Traceback" not in said
    assert "error" in said
    assert "hangelog" not in said


@pytest.mark.parametrize("command", [("build",), ("sync",)], ids=" ".join)
def test_a_home_that_cannot_be_written_is_one_sentence(command):
    """Also for the superuser, for whom a folder's rights mean nothing."""
    _is_one_sentence(*_leanhouse(*command, home="/sys/leanhouse"))


def test_a_disk_that_is_full_is_one_sentence(tmp_path):
    """A sync that runs into it says so, however much was written before."""
    said, code = _leanhouse(
        "demo",
        "--customers",
        "1",
        "--months",
        "1",
        "--home",
        str(tmp_path),
        home=tmp_path,
        limit=150_000,
    )

    _is_one_sentence(said, code)


def test_a_port_that_is_taken_is_one_sentence(tmp_path):
    """For everything that listens."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for command in (("sandbox", "--port", port), ("dev", "--port", port), ("webhooks",)):
            said, code = _leanhouse(
                *command,
                home=tmp_path,
                LEAN_WEBHOOK_SECRET="whsec_made_up_0001",
                LEAN_WEBHOOK_PORT=port,
            )
            _is_one_sentence(said, code)
            assert f"127.0.0.1:{port}" in said


@pytest.mark.parametrize("command", [("--help",), ("query", "select 'شركة' as x")], ids=" ".join)
def test_an_ascii_terminal_gets_ascii(tmp_path, command):
    """What it cannot show is spelt out, and nothing ends in a traceback."""
    said, _ = _leanhouse(*command, home=tmp_path, PYTHONIOENCODING="ascii", LC_ALL="C")

    assert "Traceback" not in said
    assert said.isascii()
