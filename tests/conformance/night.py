"""A process whose forks each make one nightly sync, refreshes first, over the offline clock.

Everything is imported once, before any thread runs; a fork then costs milliseconds. Reads one JSON
object per line: the lake's folder, the settings, the run, the steps that are done, after how many
seconds to die, or null, and whether to read every stream. Answers with one line per fork: how it
ended, the pulls of the night by outcome, and the steps that it ended. A run that died is taken up
where it ended, as the daemon does with `run_retries`; see dagster.yaml.
"""

import asyncio
import json
import os
import signal
import sys
import threading
import traceback
from collections import Counter
from pathlib import Path

import httpx

from lean_resources import LeanClient, LeanSettings
from lean_resources.streams import STREAMS
from pipelines.lake.lake import Lake
from pipelines.sync.engine import sync
from pipelines.sync.policy import Policy
from pipelines.sync.refresh import refresh
from pipelines.sync.tasks import Selection

PATIENCE_SECONDS = 4.0
"""How long an answer of the offline Lean may take: less than its slow ones."""


class OfflineSleep:
    """A sleep that moves the offline clock instead of waiting; sleeps that overlap move it once.

    Args:
        url: The offline Lean.
    """

    def __init__(self, url):
        self._url = f"{url}/_sandbox/clock"
        self._http = httpx.AsyncClient(trust_env=False, timeout=60)
        self._moved = 0.0
        self._lock = asyncio.Lock()

    async def __call__(self, seconds):
        """Let so many seconds be over."""
        until = self._moved + seconds
        async with self._lock:
            if until > self._moved:
                step = {"advance_seconds": until - self._moved}
                (await self._http.post(self._url, json=step)).raise_for_status()
                self._moved = until


STEPS = [name for name, stream in STREAMS.items() if stream.exploded_from is None]
STEPS.insert(STEPS.index("entities") + 1, "refresh")


async def night(asked, tell):
    """Listings, refreshes, then everything else; each step tells its pulls by outcome."""
    lake = Lake(Path(asked["lake"]), "sandbox")
    policy = Policy(reread_hours={}, nightly_days=1000) if asked["eager"] else Policy()
    settings = LeanSettings(**asked["settings"])
    sleep = OfflineSleep(settings.api_url)
    async with LeanClient(settings, sleep=sleep) as client:
        client._timeout = httpx.Timeout(PATIENCE_SECONDS).as_dict()
        for step in STEPS:
            if step in asked["done"]:
                continue
            if step == "refresh":
                spent = await refresh(client, lake, policy=policy, sleep=sleep)
                tell(step, {f"refresh {name}": n for name, n in spent.outcomes.items()})
                continue
            report = await sync(
                STREAMS[step],
                client,
                lake,
                policy=policy,
                selection=Selection(insights=False),
                run_id=asked["run_id"],
                resumes={asked["run_id"]},
            )
            tell(step, report.outcomes)


def work(asked, writing):
    """One night in this fork; a line per step goes to a file descriptor."""

    def tell(step, pulls):
        os.write(writing, f"{json.dumps([step, pulls])}\n".encode())

    if asked["seconds"] is not None:
        threading.Timer(asked["seconds"], lambda: os.kill(os.getpid(), signal.SIGKILL)).start()
    asyncio.run(night(asked, tell))


def main():
    """Serve forks until standard input ends."""
    for line in sys.stdin:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            status = 1
            try:
                work(json.loads(line), writing)
                status = 0
            except Exception:  # noqa: BLE001 - whatever it was, it is told
                traceback.print_exc()
            finally:
                os._exit(status)
        os.close(writing)
        with os.fdopen(reading) as told:
            steps = [json.loads(one) for one in told]
        _, status = os.waitpid(child, 0)
        is_killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        ended = "killed" if is_killed else "failed" if os.WEXITSTATUS(status) else "ended"
        pulls = sum((Counter(found) for _, found in steps), Counter())
        print(json.dumps([ended, pulls, [step for step, _ in steps]]), flush=True)


if __name__ == "__main__":
    main()
