"""The pull by leanhouse: from the first request to committed files, in a process of its own."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from pages import POLICY, settings_of
from usage import Usage, size_of

from lean_resources import LeanClient
from lean_resources.streams import STREAMS
from pipelines.lake import Lake
from pipelines.sync import Selection, sync


async def _pull(url: str, account_ids: list[str], lake: Lake) -> Usage:
    """Sync the transactions of some accounts; what has to be there before is not measured."""
    async with LeanClient(settings_of(url)) as client:
        for name in ("banks", "entities", "accounts"):
            await sync(STREAMS[name], client, lake, policy=POLICY, selection=Selection())
        start = Usage.start()
        report = await sync(
            STREAMS["transactions"],
            client,
            lake,
            policy=POLICY,
            selection=Selection(account_ids=account_ids),
        )
        used = Usage.since(start)
    if report.codes or report.quarantined:
        raise RuntimeError(f"not everything was pulled: {dict(report.codes)}")
    return used


def main(url: str, folder: Path, work: Path) -> None:
    """Pull once and print what it cost and what came of it."""
    told = json.loads((folder / "told.json").read_text())
    lake = Lake(work, "sandbox")
    used = asyncio.run(_pull(url, told["account_ids"], lake))
    with lake.connect() as connection:
        [(rows, amount)] = connection.execute(
            "select count(*), sum(amount)::varchar from transactions"
        ).fetchall()
    transactions = STREAMS["transactions"]
    typed, raw = size_of(lake.place(transactions)), size_of(lake.raw(transactions))
    print(
        json.dumps(
            {
                "rows": rows,
                "amount": amount,
                "seconds": used.seconds,
                "cpu_seconds": used.cpu_seconds,
                "peak_bytes": used.peak_bytes,
                "disk_bytes": typed + raw + size_of(lake.pulls),
                "typed_bytes": typed,
                "raw_bytes": raw,
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
