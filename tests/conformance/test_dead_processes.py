"""Fifty processes killed at random instants, commands and daemons: the next one works at once."""

import contextlib
import functools
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import dagster as dg
import pytest
from commands import ROOT, Commands
from conftest import rows_of
from test_dagster import _ask, _free_port, _launch, _until, values_of
from test_processes import STEP

from lean_resources.sandbox import Sandbox, serve
from lean_resources.webhooks import Event
from pipelines.dagster_defs.in_process import instance_at
from pipelines.dagster_defs.processes import Process
from pipelines.environment import child_of
from pipelines.lake.lake import Lake
from pipelines.webhooks.inbox import Inbox

SEED = 20261130
KILLS = {"sync": 16, "build": 9, "replay": 9, "compact": 10}
WHOLE = 5
"""Every so many kills, the next command is left to its end; the others are killed in their turn."""
LONGEST = {"sync": 20.0, "build": 8.0, "replay": 8.0, "compact": 1.5}
"""Seconds from the start of a command to the last instant at which it is killed."""
DAEMONS = {"__ASSET_JOB": 3, "doorbell": 3}
MONTHS = ["2026-02", "2026-03"]


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """An offline Lean, a home, and commands over it."""
    sandbox = Sandbox(customers=1, months=2, seed=7, today="2026-03-15")
    home = tmp_path_factory.mktemp("home")
    with serve(sandbox, port=0, mtls=False) as server:
        environment = child_of(
            values_of(sandbox, server) | {"webhook_secret": sandbox.webhook_secret}, home
        )
        with Commands(environment, tmp_path_factory.mktemp("output")) as commands:
            code, _, said = commands.run("sync")
            assert code == 0, said
            yield sandbox, home, environment, commands


def figures(kind, instants, held, seconds):
    """Say what was seen; `pytest -s` shows it."""
    sys.stdout.write(
        f"{kind}: {instants} kills, {held} of them held a slot,"
        f" the next run has its slot within {max(seconds):.1f} s\n"
    )


def works(commands, *arguments):
    """Run a command to its end, which is good, and without a wait for anybody."""
    code, _, said = commands.run(*arguments)
    assert code == 0, said
    assert "waits for" not in said


def slot_is_free(commands, home):
    """Run a step that needs a slot; the seconds from the start of the process to its end."""
    code, seconds, said = commands.run(code=STEP.format(home=str(home / "dagster"), seconds=0))
    assert (code, "over" in said, "waits for" in said) == (0, True, False), said
    assert unfinished(home) == ([], set())
    return seconds


def unfinished(home):
    """Runs that a process executes, as Dagster has them, and who holds slots."""
    with dg.DagsterInstance.from_config(str(home / "dagster")) as instance:
        runs = [one for one in instance.get_runs() if not one.is_finished]
        return (
            [one.run_id for one in runs if Process.of(one) is not None],
            instance.event_log_storage.get_concurrency_run_ids(),
        )


def is_true(sandbox, home):
    """The lake shows each transaction of the bank once."""
    shown = rows_of(Lake(home / "lake", "sandbox"), "select transaction_id from transactions")
    true = [one["record"]["transaction_id"] for one in sandbox.truth("transactions")]
    return sorted(row[0] for row in shown) == sorted(true)


@pytest.mark.conformance
@pytest.mark.parametrize("kind", KILLS)
def test_a_killed_command_stops_no_later_one(house, kind):
    """Whenever it is killed, the next one ends well and waits for nobody."""
    sandbox, home, _, commands = house
    drawn = random.Random(f"{SEED} {kind}")
    seconds, held = [], 0
    for number in range(KILLS[kind]):
        if kind == "build":
            for name in ("marts", "manifests"):
                shutil.rmtree(home / "lake" / "sandbox" / name, ignore_errors=True)
        started = commands.start(kind)
        if kind == "sync" and number % 2:
            _until(lambda: unfinished(home)[1], 120, "a step that holds a slot")
        time.sleep(drawn.uniform(0.0, LONGEST[kind]))
        with contextlib.suppress(ProcessLookupError):
            started.kill()
        started.end()
        assert "waits for" not in started.said
        held += bool(unfinished(home)[1])
        # The next of its kind finds what was left, or a run of anybody does.
        if number % 2:
            seconds.append(slot_is_free(commands, home))
        if number % WHOLE == WHOLE - 1:
            works(commands, kind)
    works(commands, kind)

    figures(kind, KILLS[kind], held, seconds)
    assert unfinished(home) == ([], set())
    assert is_true(sandbox, home)


SIGNALLED = {
    "sync": ((), 15.0),
    "build": ((), 8.0),
    "replay": ((), 8.0),
    "compact": ((), 1.0),
    "vacuum": ((), 0.5),
    "status": ((), 0.5),
    "query": (("select count(*) from range(100000) a, range(10000000) b",), 3.0),
    "demo": (("--customers", "1", "--months", "1", "--home", "{home}/demo"), 15.0),
    "dev": (("--customers", "1", "--months", "1", "--port", "{port}"), 20.0),
}
"""What is given to a command that a signal ends, and the last instant at which it comes."""


@pytest.mark.conformance
@pytest.mark.parametrize("kind", SIGNALLED)
def test_a_signal_ends_every_command_at_any_instant(house, kind):
    """Within ten seconds, by either signal; what it left stops nobody, and the lake is true."""
    sandbox, home, _, commands = house
    drawn = random.Random(f"{SEED} signal {kind}")
    given, longest = SIGNALLED[kind]
    ended, slowest = 0, 0.0
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM, signal.SIGINT):
        if kind == "build":
            for name in ("marts", "manifests"):
                shutil.rmtree(home / "lake" / "sandbox" / name, ignore_errors=True)
        filled = [one.format(home=home.parent, port=_free_port()) for one in given]
        started = commands.start(kind, *filled)
        time.sleep(0.3 + drawn.uniform(0.0, longest))
        with contextlib.suppress(ProcessLookupError):
            started.kill(number)
        code, seconds = started.end()
        assert code in {0, 128 + number}, (code, started.said)
        assert seconds < 10
        assert "Traceback" not in started.said, started.said
        ended, slowest = ended + bool(code), max(slowest, seconds)
    works(commands, "build")

    sys.stdout.write(f"{kind}: {ended} of 4 ended by a signal, within {slowest:.1f} s\n")
    slot_is_free(commands, home)
    assert is_true(sandbox, home)


def family(pid):
    """A process and all that it started."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, check=True).stdout
    parents = [tuple(map(int, line.split())) for line in listed.splitlines()]
    found = [pid]
    for parent in found:
        found += [child for child, of in parents if of == parent]
    return found


@contextlib.contextmanager
def daemon(environment, log):
    """`dagster dev` and its address; killed with all that it started when the block ends."""
    port = _free_port()
    with log.open("ab") as output:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "dagster", "dev", "-w", str(ROOT / "workspace.yaml")),
                *("-h", "127.0.0.1", "-p", str(port)),
            ],
            cwd=log.parent,
            env=environment,
            stdout=output,
            stderr=output,
        )
        url = f"http://127.0.0.1:{port}/graphql"
        try:
            _until(lambda: _ask(url, "{ version }"), 120, "the webserver's first answer")
            yield url
        finally:
            for one in family(process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(one, signal.SIGKILL)
            process.wait()


def begun(home, job):
    """Whether a run of a job is under way."""
    with dg.DagsterInstance.from_config(str(home / "dagster")) as instance:
        running = dg.RunsFilter(job_name=job, statuses=[dg.DagsterRunStatus.STARTED])
        return bool(instance.get_runs(running, limit=1))


@pytest.mark.conformance
@pytest.mark.timeout(2400)
def test_a_killed_daemon_stops_no_command_and_no_later_daemon(house):
    """Its backfills and webhooks' runs are ended by the next sync, and read by the next daemon."""
    sandbox, home, environment, commands = house
    drawn = random.Random(SEED)
    inbox = Inbox(f"sqlite:///{home / 'inbox' / 'sandbox.db'}", "sandbox")
    inbox.create()
    entity = next(iter(sandbox.truth("accounts")))["parent"]["entity_id"]
    log = home / "daemon.log"
    for job, count in DAEMONS.items():
        seconds, held = [], 0
        for number in range(count):
            sandbox.fail("/data/v2", "slow:0.5", None)
            with daemon(environment, log) as url:
                if job == "doorbell":
                    name = f"event-{number}"
                    inbox.add(
                        [
                            Event(
                                event_id=name,
                                type="entity.data.refresh.updated",
                                entity_id=entity,
                                status="FINISHED",
                            )
                        ]
                    )
                else:
                    _launch(url, MONTHS)
                _until(functools.partial(begun, home, job), 120, "the run")
                time.sleep(drawn.uniform(0.0, 4.0))
            sandbox.heal()
            held += bool(unfinished(home)[1])
            seconds.append(slot_is_free(commands, home))
        figures(f"daemon, {job}", count, held, seconds)

    with daemon(environment, log):
        _until(lambda: not inbox.has_work() and not inbox.leases(), 300, "reading the events")
    inbox.close()
    works(commands, "sync")
    with instance_at(Path(home / "dagster")) as instance:
        read = dg.RunsFilter(job_name="doorbell", statuses=[dg.DagsterRunStatus.SUCCESS])
        assert instance.get_runs(read)
    assert is_true(sandbox, home)
