"""A nightly sync in four shards of Dagster, each a process, of which one is killed."""

import contextlib
import os
import signal
import subprocess
import sys

import dagster as dg
import pytest
import test_sync_processes
from conftest import TODAY, settings_of
from test_sync_processes import Log, shown, until

from lean_resources.sandbox import Sandbox, serve
from lean_resources.shared_limits import LEASE_SECONDS
from pipelines.dagster_defs.in_process import instance_at
from pipelines.environment import child_of
from pipelines.lake.lake import Lake

WORLD = {"customers": 24, "months": 3, "seed": 7, "today": TODAY}
COUNT = 4
RATE = 60
NIGHTLY = ["-m", "dagster", "job", "execute", "-m", "pipelines.definitions", "-j", "nightly_sync"]


@contextlib.contextmanager
def night(home, log, server, **settings):
    """A process that executes the nightly sync, with Dagster's instance."""
    given = settings_of(log.sandbox, server.url).model_dump(exclude_unset=True)
    given |= {"client_secret": log.sandbox.client_secret, "environment": "sandbox"}
    given["requests_per_second"] = RATE
    values = child_of({name: str(value) for name, value in given.items()}, home) | settings
    with instance_at(home / "dagster") as instance:
        with (home / "log").open("wb") as out:
            process = subprocess.Popen([sys.executable, *NIGHTLY], env=values, stderr=out)
        try:
            yield process, instance
        finally:
            process.kill()
            process.wait()


def worker(instance, step):
    """The process of a step; None before it has begun."""
    for run in instance.get_runs(limit=1):
        kind = dg.DagsterEventType.STEP_WORKER_STARTED
        for entry in instance.all_logs(run.run_id, of_type=kind):
            if entry.step_key == step:
                return int(entry.dagster_event.event_specific_data.metadata["pid"].value)
    return None


@pytest.mark.conformance
@pytest.mark.timeout(1200)
def test_a_killed_shard_is_tried_again_and_the_night_ends_as_if_undisturbed(
    tmp_path, postgres, monkeypatch
):
    """Rows and outcomes are those of one process; the rate is that of one, too."""
    monkeypatch.setattr(test_sync_processes, "PATIENCE_SECONDS", 300)
    found = []
    for count in (1, COUNT):
        sandbox = Sandbox(**WORLD)
        log = Log(sandbox)
        log.sandbox = sandbox
        home = tmp_path / str(count)
        home.mkdir()
        settings = {"LEANHOUSE_SHARDS": str(count), "LEANHOUSE_EXECUTOR": "multiprocess"}
        if count > 1:
            settings["LEAN_SHARED_LIMITS"] = postgres
        with serve(sandbox) as server, night(home, log, server, **settings) as (process, instance):
            if count > 1:
                pid = until(lambda: worker(instance, "pull_shard_2"), "the second shard")
                goal = len(log.instants) + 40
                until(lambda log=log, goal=goal: len(log.instants) > goal, "requests")
                os.kill(pid, signal.SIGKILL)
            assert process.wait(600) == 0, (home / "log").read_text()[-4000:]
            [run] = instance.get_runs(limit=1)
            kind = dg.DagsterEventType.STEP_UP_FOR_RETRY
            retried = {one.step_key for one in instance.all_logs(run.run_id, of_type=kind)}
            assert retried == ({"pull_shard_2"} if count > 1 else set())
        found.append(shown(Lake(home / "lake", "sandbox")))
        block = max(1, int(RATE * LEASE_SECONDS / (COUNT + 1)))
        if count > 1:
            assert log.most_within(1.0) <= RATE * (1 + LEASE_SECONDS) + block + 5

    one, several = found
    assert one == several
