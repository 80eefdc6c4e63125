"""Pages to measure with: the answers of the offline Lean to a sync, rendered to files once."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import shutil
import tempfile
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
from pydantic import SecretStr
from served import key_of

from lean_resources import LeanClient, LeanSettings
from lean_resources.sandbox import Sandbox
from lean_resources.sandbox.banks import BANKS
from lean_resources.streams import STREAMS
from pipelines.lake.lake import Lake
from pipelines.sync.engine import sync
from pipelines.sync.policy import Policy
from pipelines.sync.tasks import Selection

__all__ = ["POLICY", "Pages", "Recorder", "pages", "settings_of"]

POLICY = Policy(longest_read_months=120)
"""Each account's history in one paged read, so that no day is asked for twice."""

_ROOT = Path(__file__).resolve().parent.parent
_MONTHS = 24
_SEED = 7
_TODAY = "2026-03-15"
_ROWS_PER_CUSTOMER = 250  # a customer of this world has some 700, half of them on full pages
# What the pages and the requests for them depend on.
_SOURCES = (
    "lean_resources/sandbox/*.py",
    "lean_resources/streams/*.py",
    "lean_resources/client.py",
    "lean_resources/paging.py",
    "pipelines/sync/planner.py",
    "pipelines/sync/read_targets.py",
    "benchmarks/pages.py",
)


@dataclass(frozen=True, slots=True)
class Pages:
    """Rendered answers and what lies in them.

    Args:
        folder: Where they lie: `answers/`, `index.json` with the request of each, and `reads.json`
            with what is asked for each account's transactions, but the page.
        rows: Transactions, each once.
        amount: Sum of their amounts, whatever the currency; good for a comparison only.
        pages: Pages of transactions.
        bytes: Bytes of these pages.
        account_ids: Accounts that they are of.
        is_older: Whether they are of the older generation of answers, told in full.
    """

    folder: Path
    rows: int
    amount: Decimal
    pages: int
    bytes: int
    account_ids: list[str]
    is_older: bool = False


def settings_of(
    url: str, *, is_older: bool = False, concurrency: int = 16, processes: int = 1
) -> LeanSettings:
    """Settings of a client that nothing holds back but its requests at once."""
    return LeanSettings(
        api_url=url,
        token_url=f"{url}/oauth2/token",
        client_id="made-up",
        client_secret="made-up",
        max_concurrency=concurrency,
        requests_per_second=10_000,
        processes=processes,
        verbose="always" if is_older else "auto",
    )


def pages(rows: int, cache: Path, *, is_older: bool = False) -> Pages:
    """Pages that hold about so many transactions, rendered now unless they lie in the cache."""
    name = f"pages-{'older-' if is_older else ''}{rows}"
    key = hashlib.sha256(f"{name} {_MONTHS} {_SEED} {_TODAY}".encode())
    for pattern in _SOURCES:
        for file in sorted(_ROOT.glob(pattern)):
            key.update(file.read_bytes())
    folder = cache / f"{name}-{key.hexdigest()[:12]}"
    if not (folder / "told.json").exists():
        for outdated in cache.glob(f"{name}-*"):
            shutil.rmtree(outdated)
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as beside:
            made = Path(beside) / "pages"
            asyncio.run(_render(rows, made, is_older=is_older))
            made.replace(folder)
    told = json.loads((folder / "told.json").read_text())
    return Pages(folder=folder, **{**told, "amount": Decimal(told["amount"])})


class Recorder(httpx.AsyncBaseTransport):
    """Passes requests on to the offline Lean and keeps its answers."""

    def __init__(self, sandbox: Sandbox, folder: Path) -> None:
        self._root = folder
        self._inner = httpx.ASGITransport(sandbox.app)
        self._folder = folder / "answers"
        self._folder.mkdir(parents=True)
        self.answers: dict[str, str] = {}
        self.date = ""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """The offline Lean's answer, kept if it answers a GET."""
        response = await self._inner.handle_async_request(request)
        body = await response.aread()
        if request.method == "GET":
            name = f"answers/{len(self.answers):06}.json"
            (self._folder.parent / name).write_bytes(body)
            self.answers[key_of(request.url.raw_path.decode())] = name
            self.date = response.headers["date"]
        return httpx.Response(response.status_code, headers=response.headers, content=body)

    def write(self) -> None:
        """Tell which answer belongs to which request."""
        _write(self._root / "index.json", {"date": self.date, "answers": self.answers})


async def _render(rows: int, folder: Path, *, is_older: bool) -> None:
    """Sync the offline Lean once, and keep what it answers for enough accounts."""
    sandbox = Sandbox(
        customers=max(4, rows // _ROWS_PER_CUSTOMER),
        months=_MONTHS,
        seed=_SEED,
        today=_TODAY,
        gzip=False,
    )
    recorder = Recorder(sandbox, folder)
    settings = settings_of("http://127.0.0.1", is_older=is_older).model_copy(
        update={"client_id": sandbox.client_id, "client_secret": SecretStr(sandbox.client_secret)}
    )
    logging.getLogger("httpx").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory() as root:
        lake = Lake(Path(root), "sandbox")
        async with LeanClient(settings, transport=recorder) as client:
            for name in ("banks", "entities", "accounts"):
                await sync(STREAMS[name], client, lake, policy=POLICY, selection=Selection())
            report = await sync(
                STREAMS["transactions"],
                client,
                lake,
                policy=POLICY,
                selection=Selection(entity_ids=_entities(lake, is_older=is_older)),
            )
        if report.quarantined:
            raise RuntimeError("the offline Lean did not answer as the benchmark needs it")
        accounts, count, amount = _chosen(lake, rows)
    answers, targets = {}, []
    for key, name in recorder.answers.items():
        parts = httpx.URL(key).path.split("/")
        is_page = parts[-1] == "transactions"
        if is_page and parts[-2] in accounts:
            targets.append(key)
        if not is_page or parts[-2] in accounts:
            answers[key] = name
        else:
            (folder / name).unlink()
    reads = {str(httpx.URL(key).copy_remove_param("page")) for key in targets}
    listed = [{"path": (url := httpx.URL(s)).path, "params": dict(url.params)} for s in reads]
    _write(folder / "index.json", {"date": recorder.date, "answers": answers})
    _write(folder / "reads.json", sorted(listed, key=str))
    told = {
        "rows": count,
        "amount": str(amount),
        "pages": len(targets),
        "bytes": sum((folder / answers[key]).stat().st_size for key in targets),
        "account_ids": sorted(accounts),
        "is_older": is_older,
    }
    _write(folder / "told.json", told)


def _entities(lake: Lake, *, is_older: bool) -> list[str]:
    """Entities of banks that answer in one of the two generations."""
    banks = {bank.identifier for bank in BANKS.values() if bank.older == is_older}
    with lake.connect() as connection:
        found = connection.execute("select entity_id, bank_identifier from entities").fetchall()
    return [entity_id for entity_id, bank in found if bank in banks]


def _chosen(lake: Lake, rows: int) -> tuple[set[str], int, Decimal]:
    """Accounts with enough transactions, those with the fullest pages first; count and sum."""
    with lake.connect() as connection:
        found = connection.execute(
            "select account_id, count(*), sum(amount) from transactions group by account_id"
            " order by count(*) / ceil(count(*) / 100) desc, account_id"
        ).fetchall()
    accounts: set[str] = set()
    count, amount = 0, Decimal(0)
    for account_id, its_count, its_amount in found:
        if count >= rows:
            break
        accounts.add(account_id)
        count, amount = count + its_count, amount + its_amount
    return accounts, count, amount


def _write(file: Path, value: Any) -> None:
    file.write_text(json.dumps(value))
