"""A process that syncs in forks of itself, so that one can be killed at any instant.

Everything is imported once, before any thread runs; a fork then costs milliseconds. Reads one JSON
object per line: the lake's folder, whether to merge its files instead of syncing, and where to die:
at which write boundary, after how many seconds, or nowhere. Answers with one line per fork: the
boundaries that were passed, or "killed".
"""

import asyncio
import datetime as dt
import json
import os
import signal
import sys
import threading
from pathlib import Path

import pyarrow.parquet as pq

from lean_resources import LeanClient, LeanSettings
from lean_resources.streams import STREAMS
from pipelines.lake.batch import Batch
from pipelines.lake.compaction import compact
from pipelines.lake.folders import LEDGER
from pipelines.lake.lake import Lake
from pipelines.lake.ledger import to_table
from pipelines.lake.objects import Objects
from pipelines.operate.vacuum import vacuum
from pipelines.sync.engine import sync
from pipelines.sync.policy import Policy
from pipelines.sync.tasks import Selection

EAGER = Policy(reread_hours={}, nightly_days=1000)
OF_FILES = (
    (pq, "write_table"),
    (pq.ParquetWriter, "write_table"),
    (pq.ParquetWriter, "close"),
    (os, "fsync"),
    (os, "link"),
    (Path, "replace"),
    (Path, "mkdir"),
    (Path, "unlink"),
)
"""What writes to a folder."""
OF_OBJECTS = ((Objects, "put"), (Objects, "delete"), (Objects, "copy"))
"""What writes to an object store."""


class Boundaries:
    """Counts what is done to files, before and after, and ends the process at a chosen count."""

    def __init__(self, fatal):
        self.passed = 0
        self._fatal = fatal
        self._lock = threading.Lock()

    def reached(self):
        """One more boundary."""
        with self._lock:
            self.passed += 1
            if self.passed == self._fatal:
                os.kill(os.getpid(), signal.SIGKILL)

    def watch(self, owner, name):
        """Count each call of a function twice: when it begins and when it has ended."""
        inner = getattr(owner, name)

        def counted(*args, **kwargs):
            self.reached()
            done = inner(*args, **kwargs)
            self.reached()
            return done

        setattr(owner, name, counted)


def ledger_first(batch, pulls):
    """A mutant of `Batch.commit`: the ledger vouches for files that are not there yet."""
    ledger = batch._storage.local(batch._key(LEDGER / batch._pulled_on))
    ledger.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(to_table(pulls, batch.id), f"{ledger}.first")
    Path(f"{ledger}.first").replace(ledger)
    commit(batch, pulls)


commit = Batch.commit


async def everything(asked):
    """Streams in the order of the catalogue, as a nightly sync pulls them."""
    lake = Lake(asked["lake"], "sandbox")
    settings = LeanSettings(**asked["settings"])
    async with LeanClient(settings) as client:
        for stream in STREAMS.values():
            if stream.exploded_from is None and stream.name in asked.get("streams", STREAMS):
                await sync(stream, client, lake, policy=EAGER, selection=Selection(insights=False))


def merge(lake):
    """Merge the files of every month and of the ledger, and delete those that nobody needs."""
    compact(lake, today=dt.datetime.now(dt.UTC).date() + dt.timedelta(days=2))
    vacuum(lake, older_than_seconds=-1)


def work(asked):
    """Sync or merge in this fork; how many boundaries were passed."""
    if asked.get("mutant"):
        Batch.commit = ledger_first
    boundaries = Boundaries(asked.get("boundary"))
    for owner, name in OF_OBJECTS if "://" in asked["lake"] else OF_FILES:
        boundaries.watch(owner, name)
    if seconds := asked.get("seconds"):
        threading.Timer(seconds, lambda: os.kill(os.getpid(), signal.SIGKILL)).start()
    if asked.get("merge"):
        merge(Lake(asked["lake"], "sandbox"))
    else:
        asyncio.run(everything(asked))
    return boundaries.passed


def main():
    """Serve forks until standard input ends."""
    for line in sys.stdin:
        asked = json.loads(line)
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            status = 1
            try:
                os.write(writing, str(work(asked)).encode())
                status = 0
            finally:
                os._exit(status)
        os.close(writing)
        with os.fdopen(reading) as told:
            passed = told.read()
        _, status = os.waitpid(child, 0)
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        failed = not killed and os.WEXITSTATUS(status) != 0
        print("failed" if failed else "killed" if killed else passed, flush=True)


if __name__ == "__main__":
    main()
