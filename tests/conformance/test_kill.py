"""Kill-anywhere: a sync that dies at any instant, and is run again, ends where it would have.

`make test` tries some of the write boundaries and a random instant; `make conformance` tries
all of them and two hundred instants.
"""

import asyncio
import datetime as dt
import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import settings_of, showing

from lean_resources import LeanClient
from lean_resources.sandbox import Sandbox, serve
from lean_resources.streams import STREAMS
from pipelines.lake.lake import Lake
from pipelines.operate.vacuum import vacuum

ZYGOTE = Path(__file__).with_name("zygote.py")
SEED = 20261124
PARTS = 8
# One of each way to write: a listing with another inside, a snapshot, months.
WAYS = ["entities", "accounts", "transactions"]


class Forks:
    """Syncs in processes of their own, against an offline Lean."""

    def __init__(self, process, settings):
        self._process = process
        self._settings = settings

    def sync(self, folder, **how):
        """Sync a lake; "killed", or the number of write boundaries that were passed."""
        asked = {"lake": str(folder), "settings": self._settings, **how}
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        told = self._process.stdout.readline().strip()
        assert told != "failed", "the sync failed instead of being killed"
        return told if told == "killed" else int(told)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """An offline Lean on its second day, a lake of the first, and what the second has to show."""
    sandbox = Sandbox(customers=2, months=2, seed=7, today="2026-03-15")
    folder = tmp_path_factory.mktemp("kill")
    with serve(sandbox, port=0, mtls=False) as server:
        settings = settings_of(sandbox, server.url).model_dump(exclude_unset=True)
        settings["client_secret"] = sandbox.client_secret
        with subprocess.Popen(
            [sys.executable, ZYGOTE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            forks = Forks(process, {k: v for k, v in settings.items() if v is not None})
            first = folder / "first"
            forks.sync(first)
            sandbox.clock.advance(dt.timedelta(days=1))
            refresh_all(sandbox, server.url)
            undisturbed = folder / "undisturbed"
            shutil.copytree(first, undisturbed)
            boundaries = forks.sync(undisturbed, streams=WAYS)
            forks.sync(undisturbed)
            yield forks, first, shown(undisturbed), boundaries
            process.stdin.close()
            process.wait(timeout=30)


def refresh_all(sandbox, url):
    """Let every bank be asked again."""

    async def work():
        async with LeanClient(settings_of(sandbox, url)) as client:
            for one in {one["parent"]["entity_id"] for one in sandbox.truth("accounts")}:
                await client.refresh(one)

    asyncio.run(work())
    sandbox.clock.advance(dt.timedelta(minutes=1))


def shown(folder, names=tuple(STREAMS)):
    """The resolved rows of streams, in one order, without where they came from."""
    found = {}
    with showing(Lake(folder, "sandbox"), names) as connection:
        for name in names:
            columns = ", ".join(f'"{column}"' for column in STREAMS[name].schema.names)
            found[name] = connection.sql(
                f"select {columns} from {name} order by all"
            ).to_arrow_table()
    return found


def survives(world, tmp_path, **how):
    """Whether a lake ends as if nothing had happened, after a sync was killed and run again.

    With streams named, the others are left as they were.
    """
    forks, first, expected, _ = world
    folder = tmp_path / "lake"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(first, folder)
    forks.sync(folder, **how)
    vacuum(Lake(folder, "sandbox"), older_than_seconds=0)
    streams = how.get("streams", list(STREAMS))
    forks.sync(folder, streams=streams)
    found = shown(folder, streams)
    return all(found[name].equals(expected[name]) for name in streams)


def test_a_second_day_differs_from_the_first(world):
    """Otherwise nothing below could fail."""
    _, first, expected, boundaries = world

    assert any(not shown(first)[name].equals(expected[name]) for name in STREAMS)
    assert boundaries > 50


@pytest.mark.parametrize("part", range(4))
def test_killed_at_some_write_boundaries(world, tmp_path, part):
    """Before and after some write, sync and rename: the next sync heals everything."""
    boundaries = world[3]
    boundary = 1 + part * (boundaries - 1) // 3

    assert survives(world, tmp_path, boundary=boundary, streams=WAYS)


def test_killed_at_some_instant(world, tmp_path):
    """At an instant that nobody chose: the next sync heals everything."""
    seconds = random.Random(SEED).uniform(0.01, 1.0)

    assert survives(world, tmp_path, seconds=seconds)


@pytest.mark.conformance
@pytest.mark.parametrize("part", range(PARTS))
def test_killed_at_every_write_boundary(world, tmp_path, part):
    """At each boundary in turn, over streams that are written in each way there is."""
    boundaries = range(1 + part, world[3] + 1, PARTS)

    lost = [n for n in boundaries if not survives(world, tmp_path, boundary=n, streams=WAYS)]

    assert lost == []


@pytest.mark.conformance
@pytest.mark.parametrize("part", range(PARTS))
def test_killed_at_two_hundred_instants(world, tmp_path, part):
    """At instants drawn from the whole length of a sync."""
    drawn = random.Random(SEED * PARTS + part)
    instants = [drawn.uniform(0.0, 1.5) for _ in range(200 // PARTS)]

    assert [t for t in instants if not survives(world, tmp_path, seconds=t)] == []


@pytest.mark.conformance
def test_a_commit_before_the_files_is_caught(world, tmp_path):
    """The mutant that writes the ledger first loses rows at some boundary, and it is seen."""
    forks, first, _, boundaries = world
    folder = tmp_path / "mutant"
    shutil.copytree(first, folder)
    total = forks.sync(folder, mutant=True, streams=WAYS)
    assert total >= boundaries

    caught = any(
        not survives(world, tmp_path, boundary=boundary, mutant=True, streams=WAYS)
        for boundary in range(total // 2, total, 3)
    )

    assert caught
