"""A process that dies stops nobody, and each command ends when it is asked to: real ones."""

import random
import signal
import sqlite3
import time
from contextlib import closing

import dagster as dg
import pytest
from commands import Commands
from conftest import settings_of
from dagster._core.launcher import WorkerStatus

from lean_resources.sandbox import Sandbox, serve
from pipelines.dagster_defs import in_process as run
from pipelines.dagster_defs.in_process import instance_at, prepare_home
from pipelines.dagster_defs.processes import PROCESS_TAG, Process, end_dead_runs
from pipelines.environment import child_of
from pipelines.launcher import Launcher

STEP = """
import os, time
from pathlib import Path
import dagster as dg
from pipelines.dagster_defs.processes import Process
from pipelines.dagster_defs.in_process import instance_at
from pipelines.cli.signals import end_on_signals

end_on_signals()

@dg.asset(pool="lean_api")
def step():
    print("holds its slot", flush=True)
    time.sleep({seconds})

with instance_at(Path({home!r}), lambda text: print(text, flush=True)) as instance:
    dg.materialize([step], instance=instance, tags=Process.current(instance).tags())
print("over", flush=True)
"""
"""A run whose only step holds a slot for some seconds."""


@pytest.fixture(scope="module")
def lean():
    """An offline Lean, and the settings of an application there."""
    sandbox = Sandbox(customers=1, months=1, seed=7, today="2026-03-15")
    with serve(sandbox, port=0, mtls=False) as server:
        given = settings_of(sandbox, server.url).model_dump(exclude_unset=True)
        yield (
            sandbox,
            {
                "environment": "sandbox",
                **{name: str(value) for name, value in given.items()},
                "client_secret": sandbox.client_secret,
            },
        )


@pytest.fixture(scope="module")
def commands(lean, tmp_path_factory):
    """Commands over that offline Lean; each test has a home of its own."""
    folder = tmp_path_factory.mktemp("commands")
    with Commands(child_of(lean[1], folder), folder) as started:
        yield started


def statuses(home):
    """How the runs of a home stand, the oldest first."""
    with instance_at(home) as instance:
        return [one.status.name for one in reversed(instance.get_runs())]


def test_a_killed_run_stops_nobody(commands, tmp_path):
    """The next run frees its slot, marks it as failed, says so, and goes on at once."""
    killed = commands.start(code=STEP.format(home=str(tmp_path), seconds=600))
    killed.waits_for("holds its slot\n")
    killed.kill()
    assert killed.end()[0] == -signal.SIGKILL

    code, seconds, said = commands.run(code=STEP.format(home=str(tmp_path), seconds=0))

    assert code == 0
    assert "over" in said
    assert f"its process ({killed.pid} on " in said
    assert "waits for" not in said
    assert seconds < 30
    assert statuses(tmp_path) == ["FAILURE", "SUCCESS"]
    assert len(list((tmp_path / "processes").iterdir())) <= 1


def test_a_run_that_waits_says_for_whom_and_goes_on_when_that_one_dies(commands, tmp_path):
    """It takes no slot of a living run, stays behind no dead one, and ignores no signal."""
    holder = commands.start(code=STEP.format(home=str(tmp_path), seconds=600))
    holder.waits_for("holds its slot\n")
    impatient = commands.start(code=STEP.format(home=str(tmp_path), seconds=0))
    impatient.waits_for("waits for run ")
    assert f"kill {holder.pid}" in impatient.said

    impatient.kill(signal.SIGTERM)
    _, seconds = impatient.end()
    assert seconds < 10
    assert "holds its slot\n" not in impatient.said

    waiting = commands.start(code=STEP.format(home=str(tmp_path), seconds=0))
    waiting.waits_for("waits for run ")
    holder.kill()
    assert waiting.end()[0] == 0
    assert "over" in waiting.said
    assert statuses(tmp_path) == ["FAILURE", "FAILURE", "SUCCESS"]


def test_a_process_is_gone_only_if_its_lock_is_free(tmp_path):
    """Not one that lives or whose lock is unknown here; its number proves nothing."""
    with instance_at(tmp_path) as instance:
        living = Process.current(instance)
        assert not living.is_gone(instance)
        elsewhere = Process("another", living.pid, "another", living.since)
        assert not elsewhere.is_gone(instance)
        dead = tmp_path / "processes" / "dead"
        dead.touch()
        # The number of a process that lives: this one's.
        assert Process("dead", living.pid, living.host, living.since).is_gone(instance)
        end_dead_runs(instance)
        assert not dead.exists()
        assert (tmp_path / "processes" / living.lock).exists()


def test_the_daemon_sees_whose_process_is_gone(tmp_path):
    """Its launcher says so of a run whose lock is free, and of no other; a foreign tag is none."""
    with instance_at(tmp_path) as instance:
        assert isinstance(instance.run_launcher, Launcher)
        living = Process.current(instance)
        (tmp_path / "processes" / "dead").touch()
        dead = Process("dead", living.pid, living.host, living.since)
        for tags, status in (
            (living.tags(), WorkerStatus.RUNNING),
            (dead.tags(), WorkerStatus.FAILED),
            # Another try of a run whose tags Dagster has copied.
            (dead.tags("the run before"), WorkerStatus.RUNNING),
            ({PROCESS_TAG: "somebody's own"}, WorkerStatus.RUNNING),
            ({}, WorkerStatus.RUNNING),
        ):
            run = dg.DagsterRun(job_name="job", tags=tags)
            assert instance.run_launcher.check_run_worker_health(run).status is status


def test_homes_are_made_by_one_at_a_time(commands, tmp_path):
    """Of many first commands at once, each finds a whole home."""
    code = (
        f"from pathlib import Path; from pipelines.dagster_defs.in_process import instance_at\n"
        f"with instance_at(Path({str(tmp_path / 'home')!r})) as one: one.get_runs()"
    )
    started = [commands.start(code=code) for _ in range(4)]

    assert [one.end()[0] for one in started] == [0] * 4, [one.said for one in started]
    assert versions(tmp_path / "home") == [1, 1, 1]


def versions(home):
    """How many versions each database of Dagster bears."""
    found = []
    for name in ("history/runs.db", "history/runs/index.db", "schedules/schedules.db"):
        with closing(sqlite3.connect(home / name)) as connection:
            (count,) = connection.execute("select count(*) from alembic_version").fetchone()
            found.append(count)
    return found


def test_a_home_whose_first_command_was_killed_heals(commands, tmp_path):
    """Whenever that was; and one that was stamped twice, or half, is put aside and made anew."""
    drawn = random.Random(20261130)
    code = (
        "from pathlib import Path; from pipelines.dagster_defs.in_process import prepare_home\n"
        f"prepare_home(Path({str(tmp_path / 'home')!r}))"
    )
    for _ in range(6):
        killed = commands.start(code=code)
        time.sleep(drawn.uniform(0.0, 0.8))
        killed.kill()
        killed.end()

    prepare_home(tmp_path / "home")
    assert versions(tmp_path / "home") == [1, 1, 1]
    for spoil in ("insert into alembic_version values ('older')", "delete from alembic_version"):
        with closing(sqlite3.connect(tmp_path / "home" / "history" / "runs.db")) as connection:
            connection.execute(spoil)
            connection.commit()
        prepare_home(tmp_path / "home")
        assert versions(tmp_path / "home") == [1, 1, 1]
    assert len(list((tmp_path / "home").glob("history.damaged-*"))) == 2
    with instance_at(tmp_path / "home") as instance:
        assert instance.get_runs() == []


def test_a_home_that_is_being_made_for_ever_is_told(tmp_path, monkeypatch):
    """A wait for another command has an end and a remedy."""
    monkeypatch.setattr(run, "_CREATION_SECONDS", 0.1)
    with (
        run.FileLock(tmp_path / "creation.lock"),
        pytest.raises(run.UnavailableError, match="another process has been making"),
    ):
        prepare_home(tmp_path)


ENDED = [
    pytest.param(("sync",), signal.SIGTERM, marks=pytest.mark.slow),
    (("doctor",), signal.SIGINT),
    (("doctor",), signal.SIGTERM),
    (("sandbox", "--port", "0"), signal.SIGTERM),
    (("sandbox", "--port", "0"), signal.SIGINT),
    (("webhooks",), signal.SIGTERM),
    (("webhooks",), signal.SIGINT),
]


@pytest.mark.parametrize(
    ("arguments", "number"), ENDED, ids=lambda one: one[0] if isinstance(one, tuple) else one.name
)
def test_a_signal_ends_a_command(commands, lean, tmp_path, arguments, number):
    """Within ten seconds, whatever it waits for, and with the exit code that shells expect."""
    sandbox, _ = lean
    sandbox.faults.add("/customers" if arguments == ("sync",) else "/banks", "slow:60", None)
    try:
        began = {"sandbox": "Offline Lean at", "webhooks": "Webhooks of"}.get(arguments[0])
        started = commands.start(
            *arguments,
            LEANHOUSE_HOME=str(tmp_path),
            DAGSTER_HOME=str(tmp_path / "dagster"),
            LEAN_WEBHOOK_SECRET="made-up",
            LEAN_WEBHOOK_PORT="0",
        )
        if began is not None:
            started.waits_for(began)
        else:
            before = sandbox.requests.copy()
            until(lambda: sandbox.requests["/oauth2/token"] > before["/oauth2/token"])
            time.sleep(0.5)
        started.kill(number)
        code, seconds = started.end()
    finally:
        sandbox.faults.clear()

    assert code == 128 + number, started.said
    assert seconds < 10
    assert "Traceback" not in started.said
    if arguments == ("sync",):
        assert "what was committed is kept" in started.said
        assert statuses(tmp_path / "dagster") == ["FAILURE"]
        with instance_at(tmp_path / "dagster") as instance:
            assert not instance.event_log_storage.get_concurrency_run_ids()


def until(holds, seconds=60):
    """Wait until something holds."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


STUCK = """
import signal, time
from pipelines.cli.signals import end_on_signals
end_on_signals()
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda *_: None)
print("stuck", flush=True)
while True:
    time.sleep(1)
"""


def test_a_command_that_does_not_listen_ends_all_the_same(commands):
    """After ten seconds, or at once by a second signal."""
    patient, hasty = (commands.start(code=STUCK) for _ in range(2))
    for one in (patient, hasty):
        one.waits_for("stuck")
        one.kill(signal.SIGTERM)
    time.sleep(0.2)
    hasty.kill(signal.SIGINT)

    code, seconds = hasty.end()
    assert (code, seconds < 1) == (128 + signal.SIGINT, True)
    code, seconds = patient.end()
    assert (code, seconds < 10) == (128 + signal.SIGTERM, True)
    assert "ended by SIGTERM; what was committed is kept" in patient.said
