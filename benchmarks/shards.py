"""What shards under one rate take, where each answer takes 300 ms: requests in flight or the rate.

An offline Lean is synced once into a lake, as in `nothing_new.py`. Its accounts are asked again by
one process, and by shards of the entities, each a process, which share the rate in a PostgreSQL
of their own. What is shown is the time that the delay and the rate allow, divided by the time that
it took. All rounds must ask and find the same. The last line of the output is JSON.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import uvloop

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from cluster import running
from harness import CACHE, Figures, alike, machine, server, write
from nothing_new import rendered
from pages import settings_of
from pydantic import SecretStr
from usage import Usage

from lean_resources import LeanClient
from lean_resources.streams import STREAMS
from pipelines.lake.lake import Lake
from pipelines.shard import Shard
from pipelines.sync.engine import sync
from pipelines.sync.policy import Policy
from pipelines.sync.tasks import Selection

_DELAY_SECONDS = 0.3
_CONCURRENCY = 16
_RATE = 120
_COUNTS = (1, 2, 4)


async def _read(url: str, lake: Lake, postgres: str, shard: Shard) -> Figures:
    """Ask for a shard, once planning and the first connections are done for all."""
    settings = settings_of(url, concurrency=_CONCURRENCY).model_copy(
        update={"requests_per_second": _RATE, "shared_limits": SecretStr(postgres)}
    )
    async with LeanClient(settings, readers=shard.count) as client:
        await client.server_time()
        print("ready", flush=True)
        sys.stdin.readline()
        start = Usage.start()
        report = await sync(
            STREAMS["transactions"],
            client,
            lake,
            policy=Policy(),
            selection=Selection(shard=shard),
        )
        used = Usage.since(start)
    return {
        "requests": report.requests,
        "outcomes": dict(report.outcomes),
        "seconds": used.seconds,
        "cpu_seconds": used.cpu_seconds,
    }


def _measured(folder: Path, postgres: str, count: int) -> Figures:
    """One night in so many shards."""
    with (
        server(folder, delay_seconds=_DELAY_SECONDS) as url,
        tempfile.TemporaryDirectory(dir=CACHE) as work,
    ):
        shutil.copytree(folder / "lake", Path(work) / "lake")
        started = [
            subprocess.Popen(
                [
                    *(sys.executable, __file__, "--measure"),
                    *(url, f"{work}/lake", postgres, str(number), str(count)),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for number in range(count)
        ]
        for one in started:
            assert one.stdout is not None
            one.stdout.readline()
        for one in started:
            assert one.stdin is not None
            one.stdin.write("go\n")
            one.stdin.flush()
        found = [json.loads(one.communicate()[0].splitlines()[-1]) for one in started]
    outcomes = sum((Counter(one["outcomes"]) for one in found), Counter[str]())
    return {
        "requests": sum(one["requests"] for one in found),
        "outcomes": dict(outcomes),
        "seconds": max(one["seconds"] for one in found),
        "cpu_seconds": sum(one["cpu_seconds"] for one in found),
    }


def main() -> None:
    """Measure and tell."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--accounts", type=int, default=3_000, help="about so many")
    parser.add_argument("--rounds", type=int, default=3, help="how often they are asked")
    parser.add_argument("--keep-page", action="store_true", help="do not write docs/performance.md")
    parser.add_argument("--measure", nargs=5, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.measure:
        url, lake, postgres, number, count = asked.measure
        shard = Shard(int(number), int(count))
        print(json.dumps(uvloop.run(_read(url, Lake(Path(lake), "sandbox"), postgres, shard))))
        return
    folder = rendered(asked.accounts)
    found: dict[int, list[Figures]] = {count: [] for count in _COUNTS}
    with running() as postgres:
        for _, (count, some) in product(range(asked.rounds), found.items()):
            some.append(_measured(folder, postgres, count))
            print(f"{count} shards: {some[-1]['seconds']:.1f} s, {some[-1]['requests']:,} requests")
    first = alike(one for some in found.values() for one in some)
    figures = {
        "rounds": asked.rounds,
        "machine": machine(),
        "requests": first["requests"],
        "shards": {
            count: {
                key: statistics.median(one[key] for one in some)
                for key in ("seconds", "cpu_seconds")
            }
            for count, some in found.items()
        },
    }
    table = list(_table(figures))
    print("\n".join(["", *table, ""]))
    if not asked.keep_page:
        write("shards", table)
    print(json.dumps(figures))


def _table(figures: Figures) -> Iterator[str]:
    requests = figures["requests"]
    yield (
        f"{requests:,} requests that take {_DELAY_SECONDS * 1000:.0f} ms each, {_CONCURRENCY} at"
        f" once in each shard, {_RATE} a second in all; median of {figures['rounds']};"
        f" {figures['machine']}."
    )
    yield ""
    yield "| shards | seconds | of what delay and rate allow | CPU s |"
    yield "|---:|---:|---:|---:|"
    for count, one in figures["shards"].items():
        allowed = requests / min(_RATE, count * _CONCURRENCY / _DELAY_SECONDS)
        yield (
            f"| {count} | {one['seconds']:,.1f} | {allowed / one['seconds']:.0%}"
            f" | {one['cpu_seconds']:,.1f} |"
        )


if __name__ == "__main__":
    main()
