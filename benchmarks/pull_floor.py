"""The floor of a pull: the same pages only fetched, then only decoded, and nothing kept."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import aiohttp
import duckdb
import pyarrow as pa
from usage import Usage, share, together

_AT_ONCE = 16
_PAGES_AT_ONCE = 64


async def _fetch(url: str, targets: list[str]) -> Usage:
    """Get every page with sixteen requests at once, and forget it."""
    todo = iter(targets)

    async def work(session: aiohttp.ClientSession) -> None:
        for target in todo:
            async with session.get(url + target) as response:
                response.raise_for_status()
                await response.read()

    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=_AT_ONCE), trust_env=False
    ) as session:
        start = Usage.start()
        await asyncio.gather(*(work(session) for _ in range(_AT_ONCE)))
        return Usage.since(start)


def _decode(files: list[Path]) -> tuple[Usage, int]:
    """Let DuckDB spread the records of every page over typed columns, and forget them."""
    connection = duckdb.connect()
    bodies = [file.read_text() for file in files]
    connection.register("pages", pa.table({"body": pa.array(bodies)}))
    [(structure,)] = connection.execute(
        "select json_group_structure(json(body)) from pages"
    ).fetchall()
    connection.unregister("pages")
    query = (
        "select unnest(r, recursive := true) from (select unnest("
        f"json_transform(body, '{structure}').data.transactions) as r from batch)"
    )
    rows = 0
    start = Usage.start()
    for first in range(0, len(bodies), _PAGES_AT_ONCE):
        batch = pa.table({"body": pa.array(bodies[first : first + _PAGES_AT_ONCE])})
        connection.register("batch", batch)
        rows += connection.sql(query).to_arrow_table().num_rows
        connection.unregister("batch")
    return Usage.since(start), rows


def main(url: str, folder: Path) -> None:
    """Fetch, then decode, and print what each cost."""
    answers = json.loads((folder / "index.json").read_text())["answers"]
    targets = share([t for t in answers if t.partition("?")[0].endswith("/transactions")])
    together()
    fetched = asyncio.run(_fetch(url, targets))
    decoded, rows = _decode([folder / answers[target] for target in targets])
    print(
        json.dumps(
            {
                "rows": rows,
                "seconds": fetched.seconds + decoded.seconds,
                "cpu_seconds": fetched.cpu_seconds + decoded.cpu_seconds,
                "fetch_seconds": fetched.seconds,
                "fetch_cpu_seconds": fetched.cpu_seconds,
                "decode_seconds": decoded.seconds,
                "decode_cpu_seconds": decoded.cpu_seconds,
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
