"""Runs that overlap, in one process or in two, end in the lake that one of them would have made."""

import asyncio
import itertools
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from conftest import TODAY, Slept, client_of, settings_of
from laws import INSIGHTS, broken_keys, uncounted, wrong_rows
from test_kill import ZYGOTE, Forks
from worlds import CHAIN, new_sandbox, next_day, pull_with

from lean_resources.sandbox import Sandbox, serve
from lean_resources.streams import STREAMS
from pipelines.lake.batch import Batch
from pipelines.lake.digests import DamageError


def offenders(lake, sandbox, names):
    """What breaks a law."""
    broken = broken_keys(lake, names) + uncounted(lake, names)
    return broken or wrong_rows(lake, sandbox, names, but=INSIGHTS)


def late_writer(lake, monkeypatch):
    """A run commits what it read yesterday after another has committed today; what broke a law."""
    sandbox = new_sandbox(months=1)
    commit, number = Batch.commit, itertools.count()
    held, free = threading.Event(), threading.Event()

    def waiting(batch, pulls):
        if next(number) == 0:
            held.set()
            assert free.wait(60)
        commit(batch, pulls)

    def run(names):
        async def work():
            async with client_of(sandbox, Slept(sandbox)) as lean:
                await pull_with(lean, lake, names)

        asyncio.run(work())

    run(CHAIN)
    next_day(sandbox)
    monkeypatch.setattr(Batch, "commit", waiting)
    with ThreadPoolExecutor(1) as pool:
        yesterday = pool.submit(run, ("transactions",))
        assert held.wait(60)
        next_day(sandbox)
        run(CHAIN)
        free.set()
        yesterday.result()
    return offenders(lake, sandbox, CHAIN)


def test_a_late_writer_hides_nothing_newer(lake, monkeypatch):
    """Whoever writes last, the lake shows what the bank said last."""
    assert late_writer(lake, monkeypatch) == []


def side_by_side(lake):
    """Three syncs of everything at once, with one client each; what broke a law."""
    sandbox = new_sandbox(months=1)

    async def one():
        async with client_of(sandbox, Slept(sandbox), page_size=30) as lean:
            await pull_with(lean, lake, CHAIN)

    async def all_of_them():
        await asyncio.gather(one(), one(), one())

    for _ in range(2):
        asyncio.run(all_of_them())
        next_day(sandbox)
        asyncio.run(all_of_them())
    return offenders(lake, sandbox, CHAIN)


@pytest.mark.conformance
def test_syncs_side_by_side_are_as_one(lake):
    """Over days, syncs of the same entities at the same time lose and double nothing."""
    assert side_by_side(lake) == []


def test_files_that_share_a_name_break_a_law(lake, monkeypatch):
    """Batches that write to the same file overwrite each other, and that is seen."""
    begin = Batch.__init__

    def as_another(batch, *given):
        begin(batch, *given)
        batch.id = "batch"

    monkeypatch.setattr(Batch, "__init__", as_another)

    try:
        found = side_by_side(lake)
    except* (OSError, AssertionError, DamageError) as error:
        found = error.exceptions

    assert found


@contextmanager
def process(settings):
    """Syncs in a process of their own."""
    given = settings.model_dump(exclude_unset=True, exclude_none=True)
    given["client_secret"] = settings.client_secret.get_secret_value()
    with subprocess.Popen(
        [sys.executable, ZYGOTE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        yield Forks(child, given)
        child.stdin.close()
        child.wait(timeout=30)


@pytest.mark.slow
def test_processes_side_by_side_are_as_one(lake):
    """Two processes that sync the same lake at the same time lose and double nothing."""
    sandbox = Sandbox(customers=6, months=1, seed=7, today=TODAY)
    with serve(sandbox, port=0, mtls=False) as server:
        settings = settings_of(sandbox, server.url)
        with process(settings) as one, process(settings) as other, ThreadPoolExecutor(2) as pool:
            for _ in range(2):
                list(pool.map(lambda forks: forks.sync(lake.folder.parent), (one, other)))
                assert offenders(lake, sandbox, tuple(STREAMS)) == []
                next_day(sandbox)
