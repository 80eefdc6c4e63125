"""Syncs in three processes, of which one is killed at any instant, or the one that leads them."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import test_sync_processes as short
from conftest import settings_of
from test_sync_processes import ALONE, LISTED, READ, are_gone, children, run, shown, until

from lean_resources.sandbox import Sandbox, serve
from pipelines.lake.lake import Lake
from pipelines.operate.vacuum import vacuum

SEED = 20261130
KILLS = 24
_small = short._small


@pytest.mark.conformance
@pytest.mark.timeout(1200)
def test_whoever_is_killed_the_next_sync_heals_everything(tmp_path):
    """Nothing outlives the sync by more than seconds, and the lake ends as if undisturbed."""
    drawn = random.Random(SEED)
    sandbox = Sandbox(customers=6, months=3, seed=7, today="2026-03-15")
    lake, undisturbed = Lake(tmp_path / "lake", "sandbox"), Lake(tmp_path / "other", "sandbox")
    killed = dict.fromkeys(("leader", "helper", "by a signal"), 0)
    with serve(sandbox) as server:
        run(sandbox, server.url, undisturbed, (*LISTED, *READ))
        settings = settings_of(sandbox, server.url, processes=3).model_dump(exclude_unset=True)
        settings["client_secret"] = sandbox.client_secret
        given = [str(Path(short.__file__).parent), json.dumps(settings), str(lake.folder.parent)]
        for number in range(KILLS):
            with subprocess.Popen(
                [sys.executable, "-c", ALONE, *given], stderr=subprocess.DEVNULL
            ) as process:
                helpers = until(
                    lambda pid=process.pid: len(found := children(pid)) == 2 and found, "processes"
                )
                time.sleep(drawn.uniform(0.0, 3.0))
                whom = list(killed)[number % 3]
                victim = helpers[number % 2] if whom == "helper" else process.pid
                with contextlib.suppress(ProcessLookupError):
                    os.kill(victim, signal.SIGTERM if whom == "by a signal" else signal.SIGKILL)
                    killed[whom] += 1
                process.wait(60)
            until(lambda pids=helpers: are_gone(pids), "the end of the processes")
        vacuum(lake, older_than_seconds=0)
        run(sandbox, server.url, lake, (*LISTED, *READ), processes=3)

    rows, expected = shown(lake), shown(undisturbed)
    assert all(rows[name] == expected[name] for name in (*LISTED, *READ))
    assert min(killed.values()) > 0
