"""Make a small lake of today's format: `python tests/lakes/make.py format-N.tar.gz`.

Run it before the first change of a file's form and keep the archive beside this file. Later code
opens, syncs, builds and queries each archive and finds the values in its `held.json`.

Two customers of the offline Lean are synced on four days. The months are merged after the third
day, so that merged, superseded and single files lie side by side. On the second day one amount of
each account has too many decimals, so that quarantine is not empty.
"""

import asyncio
import datetime as dt
import json
import sys
import tarfile
import tempfile
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TESTS), str(TESTS / "conformance"), str(TESTS / "marts"), str(TESTS.parent)]

from conftest import TODAY, Slept, client_of
from known import KEY, models
from worlds import DAY, EAGER, PULLED, Wire, next_day, pull, wired

from lean_resources.sandbox import Sandbox
from lean_resources.streams import STREAMS
from pipelines.lake.compaction import compact
from pipelines.lake.lake import Lake
from pipelines.models.build import build
from pipelines.sync.refresh import refresh

CUSTOMERS, MONTHS, SEED, NIGHTS = 2, 2, 7, 4
MERGED_AFTER = 2
_AMOUNT = b'"amount":{"amount":'


def _spoilt(request, body):
    """An answer whose first record has an amount of too many decimals."""
    if not request.url.path.endswith("/transactions"):
        return body
    start, found, rest = body.partition(_AMOUNT)
    return start + found + b"0.0000000000" + rest if found else body


def world():
    """The offline Lean of the first night."""
    return Sandbox(customers=CUSTOMERS, months=MONTHS, seed=SEED, today=TODAY)


def held(lake):
    """What the lake says: rows and money of each stream and of its history, and of each table."""
    found = {}
    with lake.connect() as connection:
        for name, stream in STREAMS.items():
            money = next((c.name for c in stream.columns if c.kind == "money"), None)
            total = f"sum({money})::varchar" if money else "null"
            for one in (name, f"{name}_history"):
                found[one] = connection.execute(f"select count(*), {total} from {one}").fetchone()
        for query in (
            "select stream, outcome, count(*) from pulls group by all order by all",
            "select 'refreshes', outcome, count(*) from refresh_attempts group by all order by all",
            "select 'reserved', count(*) from refresh_spends",
            "select status, count(*) from account_days group by all order by all",
        ):
            rows = connection.execute(query).fetchall()
            found |= {" ".join(map(str, row[:-1])): row[-1] for row in rows}
    return json.loads(json.dumps(found))


async def _refreshed(sandbox, lake):
    async with client_of(sandbox) as lean:
        await refresh(lean, lake, policy=EAGER, sleep=Slept(sandbox))


def main(archive):
    """Make the lake and pack it."""
    with tempfile.TemporaryDirectory() as folder:
        sandbox = world()
        lake = Lake(Path(folder), "sandbox")
        for night in range(NIGHTS):
            if night:
                next_day(sandbox)
            wire = Wire(sandbox, _spoilt if night == 1 else lambda _request, body: body)
            pull(sandbox, lake, PULLED, client=wired(sandbox, wire, page_size=30))
            if night == MERGED_AFTER:
                compact(lake, today=dt.date.fromisoformat(TODAY))
        sandbox.clock.advance(2 * DAY)
        asyncio.run(_refreshed(sandbox, lake))
        problems = [one.problem for one in build(lake, models(), hash_key=KEY)]
        assert not any(problems), problems
        values = json.dumps(held(lake), indent=1, sort_keys=True)
        (lake.folder / "held.json").write_text(values + "\n")
        with tarfile.open(archive, "w:gz", compresslevel=9) as packed:
            packed.add(lake.folder, "sandbox")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
