"""Lakes with a known truth, and the tables that were built from them.

A world is an offline Lean of which everything was pulled on two days; between them one entity
connects again, and purchases move from pending to booked. What was true on each day is kept in
plain Python for oracles to work from: typed, but neither chosen nor computed with.
"""

import asyncio
import datetime as dt
import hashlib
import hmac
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

from conftest import TODAY, client_of, sync_everything
from oracle import true_rows

from lean_resources.sandbox import Sandbox
from lean_resources.streams import STREAMS
from pipelines.lake.lake import Lake
from pipelines.models.build import build
from pipelines.models.loader import load
from pipelines.publish.warehouse import connect, publish

KEY = "made-up-key-of-tests"
DAY = dt.timedelta(days=1)


@dataclass
class Known:
    """A world.

    Args:
        sandbox: The offline Lean, as it was when the last sync ended.
        lake: What was pulled.
        days: What was true when each sync ended: typed rows by stream, each by the stream's key.
        built: What the build said of each model, by name.
        old_account_ids: Ids of the accounts of the entity that connected again, before it did.
    """

    sandbox: Sandbox
    lake: Lake
    days: list
    built: dict
    old_account_ids: list

    @cached_property
    def connection(self):
        """The warehouse, as analysts open it."""
        publish(self.lake, models())
        return connect(self.lake)

    def rows(self, query):
        """What the tables answer, one dict per row."""
        result = self.connection.execute(query)
        names = [column[0] for column in result.description]
        return [dict(zip(names, row, strict=True)) for row in result.fetchall()]

    def table(self, model, *key):
        """A model's rows by its key."""
        return {
            tuple(row[name] for name in key): row
            for row in self.rows(f"from {models()[model].place}")
        }


@cache
def models():
    """The models as they are, read once."""
    return load()


def closure(*names):
    """Tables with all that they read, sorted by name: what to build where only these are asked."""
    found, waiting = set(), list(names)
    while waiting:
        name = waiting.pop()
        if name in models() and name not in found:
            found.add(name)
            waiting += models()[name].reads
    return sorted(found)


@cache
def known(seed):
    """The world of a seed, made once per process."""
    folder = TemporaryDirectory(prefix="known-")
    sandbox = Sandbox(customers=20, months=6, seed=seed, today=TODAY)
    lake = Lake(Path(folder.name) / "lake", "sandbox")
    days = []
    asyncio.run(sync_everything(client_of(sandbox), lake))
    days.append(_truth(sandbox))
    again = sandbox.example("older_generation")
    old = list(again["account_ids"])
    sandbox.clock.advance(DAY)
    sandbox.reconsent(again["entity_id"])
    _refresh(sandbox)
    asyncio.run(sync_everything(client_of(sandbox), lake))
    days.append(_truth(sandbox))
    built = {one.model.name: one for one in build(lake, models(), hash_key=KEY)}
    world = Known(sandbox, lake, days, built, old)
    world.folder = folder
    return world


def keyed_hash(text):
    """HMAC-SHA256 under the worlds' key, 128 bits in hexadecimal."""
    return hmac.new(KEY.encode(), text.encode(), hashlib.sha256).hexdigest()[:32]


def riyadh_date(instant):
    """The day in Riyadh, three hours ahead of UTC."""
    return None if instant is None else (instant + dt.timedelta(hours=3)).date()


def _truth(sandbox):
    return {name: true_rows(stream, sandbox) for name, stream in STREAMS.items()}


def _refresh(sandbox):
    """Let every bank that may be asked be asked again."""
    wanted = sorted({one["parent"]["entity_id"] for one in sandbox.truth("accounts")})

    async def work():
        async with client_of(sandbox) as lean:
            for entity_id in wanted:
                await lean.refresh(entity_id)

    asyncio.run(work())
    sandbox.clock.advance(dt.timedelta(minutes=5))
