"""A home after everything that leanhouse can do: every byte in a known place, for its owner alone.

Real commands, Dagster's daemon and webserver, a receiver, and processes that are killed, under a
umask that lets everybody read.
"""

import contextlib
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import TODAY
from test_dagster import _ask, _backfill, _free_port, _until, values_of

from lean_resources.sandbox import Sandbox, serve
from pipelines.environment import child_of
from pipelines.lake.folder import Folder
from pipelines.lake.places import walk

ROOT = Path(__file__).resolve().parents[2]
LEANHOUSE = [sys.executable, "-m", "pipelines.cli"]


def ended(process):
    """End a process and its children by the id it was started with."""
    os.killpg(process.pid, signal.SIGINT)
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


def readable(home):
    """Files and folders of a home that are not for the owner alone."""
    return [path for path in (home, *home.rglob("*")) if stat.S_IMODE(path.stat().st_mode) & 0o77]


@pytest.mark.conformance
@pytest.mark.timeout(1800)
def test_a_home_after_all_that_there_is(tmp_path):
    """Sync, build, compact, vacuum, replay, webhooks, a backfill by Dagster; then kills."""
    home = tmp_path / "home"
    home.mkdir(mode=0o755)
    home.chmod(0o755)
    sandbox = Sandbox(customers=2, months=2, seed=7, today=TODAY)
    with serve(sandbox, port=0, mtls=False) as server:
        values = values_of(sandbox, server) | {"webhook_secret": sandbox.webhook_secret}
        environment = child_of(values, home) | {"LEAN_WEBHOOK_PORT": str(_free_port())}

        def started(command):
            return subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment,
                umask=0o022,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )

        def leanhouse(*more):
            process = started([*LEANHOUSE, *more])
            assert process.wait(600) == 0, more

        for command in (["sync"], ["replay", "accounts"], ["build"], ["compact"], ["vacuum"]):
            leanhouse(*command)
        receiver = started([*LEANHOUSE, "webhooks"])
        _until((home / "inbox" / "sandbox.db").exists, 60, "the inbox")
        ended(receiver)
        assert readable(home) == []

        port = _free_port()
        dagster = started(
            [
                *(sys.executable, "-m", "dagster", "dev", "-w", "workspace.yaml"),
                *("-h", "127.0.0.1", "-p", str(port)),
            ]
        )
        url = f"http://127.0.0.1:{port}/graphql"
        try:
            _until(lambda: _ask(url, "{ version }"), 120, "the webserver's first answer")
            assert _backfill(url, ["2026-02"]) == "COMPLETED_SUCCESS"
        finally:
            ended(dagster)
        # What Dagster's own processes write is out of reach, and the next command restricts it.
        assert stat.S_IMODE(home.stat().st_mode) == 0o700
        assert not [path for path in readable(home) if path.is_relative_to(home / "lake")]
        leanhouse("vacuum")
        assert readable(home) == []
        found = list(walk(Folder(home)))
        assert [one.key for one in found if one.place is None or one.is_leftover] == []

        for command in (["sync"], ["build"], ["replay", "transactions"], ["compact"]):
            for share in (1, 2, 3):
                begun = time.monotonic()
                process = started([*LEANHOUSE, *command])
                while process.poll() is None and time.monotonic() - begun < 4 * share:
                    time.sleep(0.05)
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait(10)
        leanhouse("vacuum")
        assert readable(home) == []
        found = list(walk(Folder(home)))
        assert [one.key for one in found if one.place is None or one.is_leftover] == []
        assert not [one.key for one in found if one.place.name == "writers"]
