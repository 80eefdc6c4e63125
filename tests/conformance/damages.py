"""Lakes that are damaged on purpose: what to damage, how, and what has to come of it."""

import asyncio
import datetime as dt
import random
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "marts"), str(HERE.parent / "lakes")]

from conftest import TODAY, Slept, client_of
from known import KEY, closure, models
from make import _spoilt
from worlds import PULLED, Wire, next_day, pull, pull_with, wired

from lean_resources.errors import LeanError
from lean_resources.sandbox import Sandbox
from lean_resources.streams import STREAMS
from pipelines.cli.console import plain_console
from pipelines.cli.query import Form, QueryError, ask
from pipelines.lake.compaction import compact
from pipelines.lake.digests import damage_error
from pipelines.lake.lake import Lake
from pipelines.models.build import build
from pipelines.operate.vacuum import vacuum
from pipelines.publish.warehouse import connect, publish
from pipelines.sync.replay import replay

TRANSACTIONS = STREAMS["transactions"]
TABLES = ("fct_transactions", "int_account_coverage")
"""Tables that a round builds, with all that they read: a few, because each case builds anew."""
HOWS = ("delete", "empty", "halve", "flip")


class Base:
    """A lake of some nights with a file of every kind, and what it shows after one more.

    Args:
        folder: Where to make it.
        tables: Tables to build, with all that they read; none leaves the models out.
        nights: How many nights; the months and the ledger are merged before the last one.
        names: The streams that are pulled.
    """

    def __init__(self, folder, tables=TABLES, nights=4, names=PULLED):
        self.names = names
        self.sandbox = Sandbox(customers=2, months=2, seed=7, today=TODAY)
        self.tables = closure(*tables)
        self._kept = folder / "kept"
        self.lake = Lake(folder / "lake", "sandbox")
        for night in range(nights):
            if night:
                next_day(self.sandbox)
            if night == nights - 1:
                compact(self.lake, today=dt.date.fromisoformat(TODAY))
                self.lake.ledger.merge(dt.date(2100, 1, 1))
                vacuum(self.lake, older_than_seconds=-1)
            self._night(self.lake, is_spoilt=night == 1)
        if tables:
            self.problems(self.lake)
        next_day(self.sandbox)
        shutil.copytree(self.lake.folder, self._kept)
        self.heal(self.lake)
        self.truth = shown(self.lake, self.tables)

    def _night(self, lake, *, is_spoilt):
        wire = Wire(self.sandbox, _spoilt if is_spoilt else lambda _request, body: body)
        pull(self.sandbox, lake, self.names, client=wired(self.sandbox, wire, page_size=30))

    def fresh(self):
        """The lake as it was after the last night, at its place, to be spoilt."""
        shutil.rmtree(self.lake.folder)
        shutil.copytree(self._kept, self.lake.folder)
        return self.lake

    def problems(self, lake):
        """Bring the tables up to date and publish them.

        Raises:
            LeanError: A table stays as it was; what is said is a sentence.
        """
        built = build(lake, models(), hash_key=KEY, only=self.tables)
        publish(lake, models())
        told = sorted({one.problem for one in built if one.problem})
        assert not [one for one in told if "of DuckDB" in one], told
        if told:
            raise LeanError("; ".join(told))

    def sync(self, lake):
        """Read what is due, and no bank is asked again."""

        async def work():
            async with client_of(self.sandbox, Slept(self.sandbox), page_size=30) as lean:
                await pull_with(lean, lake, self.names)

        asyncio.run(work())

    def heal(self, lake):
        """The next night: a sync, and a build without a problem."""
        self.sync(lake)
        if self.tables:
            self.problems(lake)


def shown(lake, tables=()):
    """Rows of each stream and its history, and of tables, without what names their pulls.

    Earlier versions that stood in for a record that did not fit are left out of the past: typed
    again, such a record does not fit either.
    """
    found = {}
    pulls_own = "(pull_id|_number|generation|asked_at|finished_at)$"
    plain = f"columns(lambda one: not regexp_matches(one, '{pulls_own}'))"
    with lake.connect() as connection:
        for name in STREAMS:
            found[name] = connection.execute(f"select {plain} from {name} order by all").fetchall()
            found[f"{name}_history"] = connection.execute(
                f"select distinct {plain.replace('asked_at', 'known_at|asked_at')}"
                f" from {name}_history where last_good_at is null order by all"
            ).fetchall()
    if tables:
        with connect(lake) as connection:
            for name in tables:
                if models()[name].layer in {"intermediate", "marts"}:
                    found[name] = connection.execute(
                        f"select {plain} from {models()[name].place} order by all"
                    ).fetchall()
    return found


def _first(files, *, last=False):
    files = sorted(files)
    assert files, "the lake has no file of that kind"
    return files[-1] if last else files[0]


def _batches(lake, query):
    with lake.connect() as connection:
        return [row[0] for row in connection.execute(query).fetchall()]


def merged_batches(lake):
    """Batches of merged rows that count."""
    return _batches(
        lake,
        "select distinct batch_id from pulls where covers is not null and outcome = 'COMMITTED'",
    )


def _single(lake):
    """The typed file of the last night's transactions of the last month."""
    merged = set(merged_batches(lake))
    files = (
        f for f in (lake.folder / TRANSACTIONS.name).glob("*/*.parquet") if f.stem not in merged
    )
    return _first(files, last=True)


def _merged(lake, folder):
    merged = set(merged_batches(lake))
    return _first((f for f in folder.glob("*/*.parquet") if f.stem in merged), last=True)


KINDS = {
    "typed rows": _single,
    "typed listing": lambda lake: _first(
        (lake.folder / STREAMS["accounts"].name).glob("*/*.parquet")
    ),
    "merged rows": lambda lake: _merged(lake, lake.folder / TRANSACTIONS.name),
    "superseded rows": lambda lake: _merged(lake, lake.folder / "superseded" / TRANSACTIONS.name),
    "answers": lambda lake: _first(
        (lake.folder / "raw" / TRANSACTIONS.name).glob("*/*.parquet"), last=True
    ),
    "quarantine": lambda lake: _first(
        (lake.folder / "quarantine" / TRANSACTIONS.name).glob("*/*.parquet")
    ),
    "ledger": lambda lake: _first(
        (f for f in map(lake.storage.local, lake.ledger.files()) if f.name != "merged.parquet"),
        last=True,
    ),
    "merged ledger": lambda lake: _first((lake.folder / "pulls").glob("*/merged.parquet")),
    "checkpoint": lambda lake: _first((lake.folder / "checkpoints").glob("pulled_on=*")),
    "copy of a commit": lambda lake: _first(
        (lake.folder / "checkpoints").glob("[0-9a-f]*.parquet")
    ),
    "model part": lambda lake: _first((lake.folder / "marts").glob("fct_transactions/*/*.parquet")),
    "manifest": lambda lake: _first((lake.folder / "manifests").glob("*.json"), last=True),
    "warehouse": lambda lake: lake.warehouse,
}
"""A file of each kind that a lake consists of."""


def damage(file, how, seed=7):
    """Damage a file."""
    size = file.stat().st_size
    if how == "delete":
        file.unlink()
    elif how == "empty":
        file.write_bytes(b"")
    elif how == "halve":
        with file.open("r+b") as opened:
            opened.truncate(size // 2)
    else:
        data = bytearray(file.read_bytes())
        place = random.Random(f"{seed} {file.name}").randrange(len(data) * 8)
        data[place // 8] ^= 1 << place % 8
        file.write_bytes(data)


def sentence(work):
    """What a command says: None where it does its work, else one sentence and a remedy.

    Anything else than an error that names its remedy is raised, as it would be shown raw.
    """
    try:
        work()
    except QueryError as error:
        text = str(error)
        assert "leanhouse" in text, text
        return text
    except LeanError as error:
        return f"{error.message}. {error.remedy}"
    except Exception as error:
        found = damage_error(error)
        if found is None:
            raise
        return f"{found.message}. {found.remedy}"
    return None


def commands(base, lake):
    """What every command says of a lake."""
    return {
        "status": sentence(lambda: lake.connect().execute("from account_days").fetchall()),
        "build": sentence(lambda: base.problems(lake)),
        "query": sentence(
            lambda: ask(lake, "select count(*) from fct_transactions", plain_console(), Form.TABLE)
        ),
        "replay": sentence(lambda: replay(STREAMS["balances"], lake)),
        "compact": sentence(lambda: compact(lake)),
        "sync": sentence(lambda: base.sync(lake)),
    }
