"""The pull by leanhouse: from the first request to committed files, in a process of its own."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

# isort: off
import pipelines  # noqa: F401 - first, as in every command: it chooses Arrow's allocator

# isort: on
import uvloop
from pages import POLICY, settings_of
from served import copy_of
from usage import Usage, size_of

from lean_resources import LeanClient
from lean_resources.streams import STREAMS, Stream
from pipelines.lake.lake import Lake
from pipelines.sync import engine as sync_module
from pipelines.sync.engine import sync
from pipelines.sync.read_targets import ReadTarget
from pipelines.sync.tasks import Selection, Task, tasks_of


async def pull(
    url: str, told: dict[str, Any], lake: Lake, copies: int, concurrency: int, processes: int
) -> Usage:
    """Sync the transactions of some accounts; what has to be there before is not measured.

    Args:
        url: Where the answers are served.
        told: What was rendered.
        lake: Where to write.
        copies: How often each account is pulled, as an account of its own.
        concurrency: Requests at once.
        processes: How many read; those that are started have read accounts before the clock starts.
    """
    settings = settings_of(
        url, is_older=told["is_older"], concurrency=concurrency, processes=processes
    )
    sync_module.LEAST_PULLS = 1
    if copies > 1:
        sync_module.tasks_of = _copied(copies)
    async with LeanClient(settings) as client:
        for name in ("banks", "entities", "accounts"):
            await sync(STREAMS[name], client, lake, policy=POLICY, selection=Selection())
        start = Usage.start()
        report = await sync(
            STREAMS["transactions"],
            client,
            lake,
            policy=POLICY,
            selection=Selection(account_ids=told["account_ids"]),
        )
        used = Usage.since(start)
    if report.codes or report.quarantined:
        raise RuntimeError(f"not everything was pulled: {dict(report.codes)}")
    return used


def _copied(copies: int) -> Callable[..., Iterator[Task | ReadTarget | None]]:
    """What to read, several times over, each time for accounts of other ids."""

    def copied(stream: Stream, *rest: Any) -> Iterator[Task | ReadTarget | None]:
        for number, one in product(range(copies), list(tasks_of(stream, *rest))):
            if number == 0:
                yield one
            elif stream.name == "transactions" and isinstance(one, Task):
                account_id = copy_of(one.target.target_id, number)
                target = replace(one.target, target_id=account_id)
                request = one.request | {"account_id": account_id}
                yield replace(one, target=target, request=request)

    return copied


def main(
    url: str,
    folder: Path,
    work: Path,
    copies: int = 1,
    concurrency: int = 16,
    processes: int = 1,
) -> None:
    """Pull once and print what it cost and what came of it."""
    told = json.loads((folder / "told.json").read_text())
    lake = Lake(work, "sandbox")
    used = uvloop.run(pull(url, told, lake, copies, concurrency, processes))
    with lake.connect() as connection:
        [(rows, amount)] = connection.execute(
            "select count(*), sum(amount)::varchar from transactions"
        ).fetchall()
        [(requests,)] = connection.execute(
            "select sum(requests) from pulls where stream = 'transactions'"
        ).fetchall()
    transactions = STREAMS["transactions"]
    typed, raw = (
        size_of(lake.folder / transactions.name),
        size_of(lake.folder / "raw" / transactions.name),
    )
    print(
        json.dumps(
            {
                "rows": rows,
                "amount": amount,
                "requests": int(requests),
                "seconds": used.seconds,
                "cpu_seconds": used.cpu_seconds,
                "peak_bytes": used.peak_bytes,
                "disk_bytes": typed + raw + size_of(lake.folder / "pulls"),
                "typed_bytes": typed,
                "raw_bytes": raw,
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), *map(int, sys.argv[4:]))
