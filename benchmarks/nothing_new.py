"""What a night costs in which nothing has changed: one request for each account, and little CPU.

An offline Lean is synced once into a lake, which is kept; its answers to a second sync are
rendered to files. What is measured is that second sync, in one process and in one for each core;
those that are started have read accounts before the clock starts. The last line of the output is
JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import logging
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import httpx
import uvloop
from harness import CACHE, Figures, alike, machine, server, write
from pages import Recorder, settings_of
from pydantic import SecretStr
from usage import Usage

from lean_resources import LeanClient
from lean_resources.sandbox import Sandbox
from lean_resources.streams import STREAMS
from pipelines.lake.lake import Lake
from pipelines.sync.engine import sync
from pipelines.sync.policy import Policy
from pipelines.sync.report import Report
from pipelines.sync.tasks import Selection

_TODAY = "2026-03-15"
_ACCOUNTS_PER_CUSTOMER = 2.4  # of this world, about


async def _sync(client: LeanClient, lake: Lake, *names: str) -> Report:
    report = Report()
    for name in names:
        report = await sync(STREAMS[name], client, lake, policy=Policy(), selection=Selection())
    return report


async def _render(accounts: int, folder: Path) -> None:
    """Sync the offline Lean once, and keep what it answers when asked again."""
    sandbox = Sandbox(
        customers=round(accounts / _ACCOUNTS_PER_CUSTOMER),
        months=1,
        seed=7,
        today=_TODAY,
        gzip=False,
    )
    settings = settings_of("http://127.0.0.1").model_copy(
        update={"client_id": sandbox.client_id, "client_secret": SecretStr(sandbox.client_secret)}
    )
    logging.getLogger("httpx").setLevel(logging.WARNING)
    lake = Lake(folder / "lake", "sandbox")
    async with LeanClient(settings, transport=httpx.ASGITransport(sandbox.app)) as client:
        await _sync(client, lake, "banks", "entities", "accounts", "transactions")
    recorder = Recorder(sandbox, folder)
    with tempfile.TemporaryDirectory() as copied:
        shutil.copytree(folder / "lake", Path(copied) / "lake")
        async with LeanClient(settings, transport=recorder) as client:
            await _sync(client, Lake(Path(copied) / "lake", "sandbox"), "accounts", "transactions")
    recorder.write()


def rendered(accounts: int) -> Path:
    """A lake and the answers to a second sync, made now unless they lie in the cache."""
    root = Path(__file__).resolve().parent.parent
    key = hashlib.sha256(f"{accounts} {_TODAY}".encode())
    for pattern in ("lean_resources/**/*.py", "pipelines/*.py", "sql/lake/*.sql"):
        for file in sorted(root.glob(pattern)):
            key.update(file.read_bytes())
    folder = CACHE / f"nothing-{accounts}-{key.hexdigest()[:12]}"
    if not (folder / "index.json").exists():
        for outdated in CACHE.glob(f"nothing-{accounts}-*"):
            shutil.rmtree(outdated)
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as beside:
            made = Path(beside) / "pages"
            made.mkdir()
            asyncio.run(_render(accounts, made))
            made.replace(folder)
    return folder


async def _again(url: str, lake: Lake, processes: int) -> tuple[Report, Usage]:
    async with LeanClient(settings_of(url, processes=processes)) as client:
        await _sync(client, lake, "accounts")
        start = Usage.start()
        report = await _sync(client, lake, "transactions")
        return report, Usage.since(start)


def _measured(url: str, lake: Path, processes: int) -> None:
    """The second sync, and what it cost."""
    report, used = uvloop.run(_again(url, Lake(lake, "sandbox"), processes))
    print(
        json.dumps(
            {
                "requests": report.requests,
                "outcomes": dict(report.outcomes),
                "seconds": used.seconds,
                "cpu_seconds": used.cpu_seconds,
                "peak_bytes": used.peak_bytes,
            }
        )
    )


def main() -> None:
    """Measure and tell."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--accounts", type=int, default=10_000, help="about so many")
    parser.add_argument("--rounds", type=int, default=3, help="how often they are asked")
    parser.add_argument("--keep-page", action="store_true", help="do not write docs/performance.md")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.measure:
        url, lake, processes = asked.measure
        _measured(url, Path(lake), int(processes))
        return
    folder = rendered(asked.accounts)
    found: dict[int, list[Figures]] = {1: [], os.cpu_count() or 1: []}
    for _, (processes, some) in product(range(asked.rounds), found.items()):
        with server(folder) as url, tempfile.TemporaryDirectory(dir=CACHE) as work:
            lake = Path(work) / "lake"
            shutil.copytree(folder / "lake", lake)
            command = [sys.executable, __file__, "--measure", url, str(lake), str(processes)]
            ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        some.append(json.loads(ended.stdout.splitlines()[-1]))
        print(
            f"{some[-1]['requests']:,} requests, {some[-1]['cpu_seconds']:.2f} s of CPU,"
            f" {processes} processes"
        )
    first = alike(one for some in found.values() for one in some)
    figures = {
        "rounds": asked.rounds,
        "machine": machine(),
        "requests": first["requests"],
        "outcomes": first["outcomes"],
        "processes": {
            processes: {
                key: round(statistics.median(one[key] for one in some), 2)
                for key in ("seconds", "cpu_seconds", "peak_bytes")
            }
            for processes, some in found.items()
        },
    }
    table = list(_table(figures))
    print("\n".join(["", *table, ""]))
    if not asked.keep_page:
        write("nothing-new", table)
    print(json.dumps(figures))


def _table(figures: Figures) -> Iterator[str]:
    requests = figures["requests"]
    outcomes = ", ".join(f"{count:,} {name}" for name, count in sorted(figures["outcomes"].items()))
    yield f"{requests:,} requests, {outcomes}; median of {figures['rounds']}; {figures['machine']}."
    yield ""
    yield "| processes | seconds | CPU s | CPU s per 10,000 requests | peak memory |"
    yield "|---:|---:|---:|---:|---:|"
    for processes, one in figures["processes"].items():
        yield (
            f"| {processes} | {one['seconds']:,} | {one['cpu_seconds']:,}"
            f" | {one['cpu_seconds'] / requests * 10_000:,.1f}"
            f" | {one['peak_bytes'] / 2**20:,.0f} MiB |"
        )


if __name__ == "__main__":
    main()
