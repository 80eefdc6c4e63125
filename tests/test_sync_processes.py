"""A sync in several processes: the rows and outcomes of one, under one rate; none outlives it."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from conftest import settings_of

from lean_resources import LeanClient
from lean_resources.errors import MachineError
from lean_resources.sandbox import Sandbox, serve
from lean_resources.streams import STREAMS
from pipelines.lake.lake import Lake
from pipelines.sync import engine
from pipelines.sync.policy import Policy
from pipelines.sync.tasks import Selection

LISTED = ("banks", "customers", "entities", "accounts")
READ = ("balances", "transactions", "identity")
SLOW = "slow:0.3"
PATIENCE_SECONDS = 30.0


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """Small worlds are worth several processes."""
    monkeypatch.setattr(engine, "LEAST_PULLS", 1)


class Log:
    """An offline Lean that remembers when each request of data came."""

    def __init__(self, sandbox):
        self.instants = []
        self._app = sandbox.app
        sandbox.app = self

    async def __call__(self, scope, receive, send):
        if scope["path"].startswith("/data/"):
            self.instants.append(time.monotonic())
        await self._app(scope, receive, send)

    def most_within(self, seconds):
        """The most requests in any span of so many seconds."""
        ends = sorted(self.instants)
        return max(sum(at <= one < at + seconds for one in ends) for at in ends)


async def sync(client, lake, names):
    """Sync streams; outcomes by stream."""
    found = {}
    for name in names:
        report = await engine.sync(
            STREAMS[name], client, lake, policy=Policy(), selection=Selection()
        )
        found[name] = (dict(report.outcomes), report.codes, report.rows, report.banks)
    return found


def run(sandbox, url, lake, names, **settings):
    """Sync streams with a client of their own."""

    async def work():
        async with LeanClient(settings_of(sandbox, url, **settings)) as client:
            return await sync(client, lake, names)

    return asyncio.run(work())


def shown(lake):
    """The rows of streams and what the ledger says of their pulls, in one order."""
    found = {}
    with lake.connect() as connection:
        for name in (*LISTED, *READ):
            columns = ", ".join(f'"{column}"' for column in STREAMS[name].schema.names)
            found[name] = connection.execute(
                f"select {columns} from {name} order by all"
            ).fetchall()
        ledger = "stream, parent_id, month, outcome, code, claimed_from, claimed_to, rows, requests"
        found["pulls"] = connection.execute(f"select {ledger} from pulls order by all").fetchall()
    return found


def children(of="self"):
    """Processes that read for a process; it may have started others."""
    found = []
    for file in Path(f"/proc/{of}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += [pid for pid in file.read_text().split() if reads(pid)]
    return [int(pid) for pid in found]


def reads(pid):
    """Whether a process is one that reads for another."""
    with contextlib.suppress(OSError):
        return "pipelines.sync.helper" in Path(f"/proc/{pid}/cmdline").read_text()
    return False


def until(is_so, what):
    """Wait until something is so."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (found := is_so()):
        assert time.monotonic() < deadline, what
        time.sleep(0.02)
    return found


def are_gone(pids):
    """Whether none of these processes runs, except as a name that its parent has not read."""
    return not any(
        Path(f"/proc/{pid}").exists() and " Z " not in Path(f"/proc/{pid}/stat").read_text()
        for pid in pids
    )


def test_three_processes_read_what_one_reads_under_one_rate(tmp_path):
    """Rows, outcomes, requests and the ledger are equal; a token, a look at the clock, one rate."""
    worlds, calls, found = [], [], []
    rate = 10
    for number in (1, 3):
        sandbox = Sandbox(customers=8, months=2, seed=7, today="2026-03-15")
        log = Log(sandbox)
        broken = next(iter(sandbox.truth("accounts")))["parent"]["entity_id"]
        lake = Lake(tmp_path / str(number), "sandbox")
        with serve(sandbox) as server:
            run(sandbox, server.url, lake, LISTED)
            before = sandbox.calls.copy()
            sandbox.fail("balances", "failed:BANK_ISSUE", times=10_000, entity_id=broken)
            log.instants.clear()
            settings = {"processes": number, "requests_per_second": rate}
            found.append(run(sandbox, server.url, lake, READ, **settings))
        calls.append(sandbox.calls - before)
        worlds.append((lake, log))

    (one, _), (three, log) = worlds
    assert found[0] == found[1]
    assert found[0]["balances"][1]["BANK_ISSUE"] > 0
    assert shown(one) == shown(three)
    assert calls[0] == calls[1]
    assert calls[1]["POST /oauth2/token"] == 1
    assert log.most_within(1.0) <= 2 * rate + 3  # on the way, some may catch up
    assert len(log.instants) > 2 * rate
    with one.connect() as single, three.connect() as several:
        batches = "select count(distinct batch_id) from pulls where stream = 'transactions'"
        assert single.execute(batches).fetchall() == [(1,)]
        assert several.execute(batches).fetchall() == [(3,)]
    assert children() == []


def test_a_killed_process_loses_its_entities_and_the_next_sync_reads_them(tmp_path):
    """The others go on, the run says what is missing, and what follows ends as if undisturbed."""
    sandbox = Sandbox(customers=4, months=1, seed=7, today="2026-03-15")
    lake, undisturbed = Lake(tmp_path / "lake", "sandbox"), Lake(tmp_path / "other", "sandbox")
    with serve(sandbox) as server:
        run(sandbox, server.url, undisturbed, (*LISTED, *READ))
        run(sandbox, server.url, lake, LISTED)
        sandbox.fail("balances", SLOW, times=None)

        def kill():
            victim, _ = until(lambda: len(found := children()) == 2 and found, "two processes")
            count = sandbox.requests.total()
            until(lambda: sandbox.requests.total() > count + 2, "requests")
            os.kill(victim, signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        with pytest.raises(MachineError, match="ended with signal SIGKILL") as caught:
            run(sandbox, server.url, lake, ("balances",), processes=3)
        killer.join()
        assert caught.value.code == "PROCESS_ENDED"
        assert children() == []
        with lake.connect() as connection:
            [(kept,)] = connection.execute(
                "select count(*) from pulls where stream = 'balances' and outcome = 'COMMITTED'"
            ).fetchall()
        assert kept > 0
        sandbox.fail("balances", SLOW, times=0)
        run(sandbox, server.url, lake, READ, processes=3)

    rows, expected = shown(lake), shown(undisturbed)
    assert all(rows[name] == expected[name] for name in (*LISTED, *READ))


@pytest.mark.conformance
def test_a_cancelled_sync_ends_its_processes(tmp_path):
    """Within seconds, and nothing that they had not committed counts."""
    sandbox = Sandbox(customers=4, months=1, seed=7, today="2026-03-15")
    lake = Lake(tmp_path, "sandbox")

    async def work():
        async with LeanClient(settings_of(sandbox, server.url, processes=3)) as client:
            await sync(client, lake, LISTED)
            sandbox.fail("balances", "slow:5", times=None)
            reading = asyncio.create_task(sync(client, lake, ("balances",)))
            count = sandbox.requests.total()
            while len(children()) < 2 or sandbox.requests.total() < count + 6:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            started = time.monotonic()
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
            return time.monotonic() - started

    with serve(sandbox) as server:
        assert asyncio.run(work()) < 8
    assert children() == []
    with lake.connect() as connection:
        query = "select count(*) from pulls where stream = 'balances'"
        assert connection.execute(query).fetchall() == [(0,)]


ALONE = """
import asyncio, json, sys
sys.path.insert(0, sys.argv[1])
import test_sync_processes as own
own.engine.LEAST_PULLS = 1
from lean_resources import LeanClient, LeanSettings
async def work():
    settings = LeanSettings(**json.loads(sys.argv[2]))
    async with LeanClient(settings) as client:
        await own.sync(client, own.Lake(own.Path(sys.argv[3]), "sandbox"), own.LISTED + own.READ)
asyncio.run(work())
"""


def test_a_killed_sync_takes_its_processes_along(tmp_path):
    """They notice it by themselves, because it cannot tell them."""
    sandbox = Sandbox(customers=4, months=1, seed=7, today="2026-03-15")
    with serve(sandbox) as server:
        settings = settings_of(sandbox, server.url, processes=3).model_dump(exclude_unset=True)
        settings["client_secret"] = sandbox.client_secret
        sandbox.fail("balances", SLOW, times=None)
        given = [str(Path(__file__).parent), json.dumps(settings), str(tmp_path)]
        with subprocess.Popen([sys.executable, "-c", ALONE, *given]) as process:
            found = until(lambda: len(pids := children(process.pid)) == 2 and pids, "processes")
            asked = Path(f"/proc/{found[0]}/cmdline").read_text()
            process.kill()
        assert sandbox.client_secret not in asked
        until(lambda: are_gone(found), "the end of its processes")
