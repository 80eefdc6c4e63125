"""How a pull grows with the requests that are allowed at once, when each takes 300 ms.

Rendered answers are served with that delay, and pulled with ever more requests at once. Until
the CPU is the limit, rows per second should grow with them, and memory should not. The last line of
the output is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterator

from harness import CACHE, Figures, machine, run, server, write
from pages import pages

_DELAY_SECONDS = 0.3
_CONCURRENCIES = (4, 8, 16, 32, 64)
_COPIES = "1"


def main() -> None:
    """Measure and tell."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=100_000, help="transactions, about")
    parser.add_argument("--rounds", type=int, default=3, help="how often each pulls")
    parser.add_argument("--keep-page", action="store_true", help="do not write docs/performance.md")
    asked = parser.parse_args()
    rendered = pages(asked.rows, CACHE)
    found: dict[int, list[Figures]] = {number: [] for number in _CONCURRENCIES}
    for _ in range(asked.rounds):
        for number in _CONCURRENCIES:
            with server(rendered.folder, delay_seconds=_DELAY_SECONDS) as url:
                figures = run(
                    sys.executable,
                    "pull_leanhouse.py",
                    url,
                    rendered.folder,
                    _COPIES,
                    str(number),
                )
            if figures["rows"] != rendered.rows:
                raise RuntimeError(f"{figures['rows']} rows came of {rendered.rows}")
            found[number].append(figures)
            print(f"{number:3} at once: {figures['rows'] / figures['seconds']:8,.0f} rows/s")
    told = {
        "rows": rendered.rows,
        "pages": rendered.pages,
        "delay_seconds": _DELAY_SECONDS,
        "rounds": asked.rounds,
        "machine": machine(),
        "concurrency": {number: _of(some) for number, some in found.items()},
    }
    table = list(_table(told))
    print("\n".join(["", *table, ""]))
    if not asked.keep_page:
        write("latency", table)
    print(json.dumps(told))


def _of(found: list[Figures]) -> Figures:
    seconds = statistics.median(one["seconds"] for one in found)
    return {
        "rows_per_second": round(found[0]["rows"] / seconds),
        "requests_per_second": round(found[0]["requests"] / seconds, 1),
        "peak_bytes": round(statistics.median(one["peak_bytes"] for one in found)),
    }


def _table(told: Figures) -> Iterator[str]:
    yield (
        f"{told['rows']:,} transactions on {told['pages']:,} pages, each answered after"
        f" {told['delay_seconds'] * 1000:.0f} ms, median of {told['rounds']}; {told['machine']}."
    )
    yield ""
    yield "| LEAN_MAX_CONCURRENCY | rows/s | requests/s | of what the delay allows | peak memory |"
    yield "|---:|---:|---:|---:|---:|"
    for number, one in told["concurrency"].items():
        allowed = number / told["delay_seconds"]
        yield (
            f"| {number} | {one['rows_per_second']:,} | {one['requests_per_second']:,.0f}"
            f" | {one['requests_per_second'] / allowed:.0%}"
            f" | {one['peak_bytes'] / 2**20:,.0f} MiB |"
        )


if __name__ == "__main__":
    main()
