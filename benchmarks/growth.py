"""Whether a pull stays as fast and as small when there is more to pull, in a process for each core.

The same pages are pulled for ever more accounts, whose ids the server writes into its answers. The
last line of the output is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Iterator
from decimal import Decimal

from harness import CACHE, Figures, machine, run, server, write
from pages import pages

_SIXTEEN = "16"  # requests at once


def main() -> None:
    """Measure and tell."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--rows",
        type=int,
        nargs="*",
        default=[10_000, 100_000, 1_000_000, 10_000_000],
        help="about so many",
    )
    parser.add_argument("--rounds", type=int, default=1, help="how often each is pulled")
    parser.add_argument("--keep-page", action="store_true", help="do not write docs/performance.md")
    asked = parser.parse_args()
    found: dict[int, list[Figures]] = {}
    for _ in range(asked.rounds):
        for rows in asked.rows:
            rendered = pages(min(rows, 100_000), CACHE)
            copies = max(1, rows // 100_000)
            with server(rendered.folder) as url:
                command = (sys.executable, "pull_leanhouse.py", url, rendered.folder)
                figures = run(*command, str(copies), _SIXTEEN, str(os.cpu_count() or 1))
            is_all = figures["rows"] == rendered.rows * copies
            if not is_all or Decimal(figures["amount"]) != rendered.amount * copies:
                raise RuntimeError(f"{figures['rows']} rows came of {rendered.rows * copies}")
            found.setdefault(figures["rows"], []).append(figures)
            print(
                f"{figures['rows']:10,} rows: {figures['rows'] / figures['seconds']:8,.0f} rows/s"
            )
    told = {
        "rounds": asked.rounds,
        "machine": machine(),
        "rows": {rows: _of(rows, some) for rows, some in found.items()},
    }
    table = list(_table(told))
    print("\n".join(["", *table, ""]))
    if not asked.keep_page:
        write("growth", table)
    print(json.dumps(told))


def _of(rows: int, found: list[Figures]) -> Figures:
    def median(key: str) -> float:
        return statistics.median(one[key] for one in found)

    return {
        "rows_per_second": round(rows / median("seconds")),
        "cpu_seconds_per_million": round(median("cpu_seconds") / rows * 1e6, 1),
        "peak_bytes": round(median("peak_bytes")),
        "typed_bytes_per_row": round(median("typed_bytes") / rows, 1),
        "raw_bytes_per_row": round(median("raw_bytes") / rows, 1),
        "requests": found[0]["requests"],
    }


def _table(told: Figures) -> Iterator[str]:
    yield f"Median of {told['rounds']}; {told['machine']}."
    yield ""
    yield (
        "| rows | requests | rows/s | CPU s per million rows | peak memory"
        " | typed bytes per row | bytes of answers per row |"
    )
    yield "|---:|---:|---:|---:|---:|---:|---:|"
    for rows, one in told["rows"].items():
        yield (
            f"| {rows:,} | {one['requests']:,} | {one['rows_per_second']:,}"
            f" | {one['cpu_seconds_per_million']:,} | {one['peak_bytes'] / 2**20:,.0f} MiB"
            f" | {one['typed_bytes_per_row']:,.0f} | {one['raw_bytes_per_row']:,.0f} |"
        )


if __name__ == "__main__":
    main()
