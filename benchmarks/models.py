"""How long the models take: from cold, and after one new day.

A lake is made first, then models are built in a process of their own, twice; the second time every
account has been read again for its open months and has a day more. The last line of the output is
JSON.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import model_lake
from harness import CACHE, Figures, machine, write
from usage import Usage, size_of

from pipelines.lake.lake import Lake
from pipelines.models.build import build
from pipelines.models.loader import load

_GOAL_ROWS = 10_000_000
_COLD_SECONDS = 120.0
_DAY_SECONDS = 15.0
_ROWS_PER_ACCOUNT = 100


def main() -> None:
    """Measure and tell."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=10_000_000, help="about so many transactions")
    parser.add_argument("--keep-page", action="store_true", help="do not write docs/performance.md")
    parser.add_argument("--build", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.build is not None:
        print(json.dumps(_build(asked.build)))
        return
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="models-") as folder:
        lines, figures = _measure(Path(folder), asked.rows)
    print("\n".join(lines))
    if not asked.keep_page:
        write("models", lines)
    print(json.dumps(figures))


def _measure(folder: Path, wanted: int) -> tuple[list[str], Figures]:
    lake = Lake(folder / "lake", "sandbox")
    accounts = max(4, wanted // _ROWS_PER_ACCOUNT // 4 * 4)
    started = time.perf_counter()
    rows = model_lake.make(lake, accounts)
    made = time.perf_counter() - started
    cold = _in_process(folder)
    again = model_lake.add_day(lake, accounts)
    day = _in_process(folder)
    lines = [
        _told(rows, accounts, made, again),
        "",
        "| model | rows | cold, s | one day more, s |",
        "|---|---:|---:|---:|",
    ]
    by_name = {one["name"]: one for one in day["models"]}
    lines += [
        f"| {one['name']} | {one['rows']:,} | {one['seconds']:.1f}"
        f" | {by_name[one['name']]['seconds']:.1f} |"
        for one in cold["models"]
        if one["rows"]
    ]
    lines += [
        f"| **all** | | **{cold['seconds']:.1f}** | **{day['seconds']:.1f}** |",
        "",
        (
            f"Peak memory {cold['peak_bytes'] / 2**30:.1f} GiB from cold,"
            f" {day['peak_bytes'] / 2**30:.1f} GiB after a day;"
            f" {cold['disk_bytes'] / 2**20:,.0f} MiB of models."
            f" CPU {cold['cpu_seconds']:.0f} s from cold,"
            f" {day['cpu_seconds']:.0f} s after a day."
            " The balances of this lake add up, and neither build found a gap."
        ),
        "",
        _goals(accounts, cold["seconds"], day["seconds"]),
    ]
    figures = {
        "rows": rows,
        "accounts": accounts,
        "rows_of_a_day": again,
        "make_seconds": made,
        "cold": cold,
        "day": day,
    }
    for one in (cold, day):
        one["models"] = {
            model["name"]: round(model["seconds"], 2) for model in one["models"] if model["rows"]
        }
    return lines, figures


def _told(rows: int, accounts: int, made: float, again: int) -> str:
    return (
        f"{rows:,} transactions of {accounts:,} accounts over twelve months, made in {made:.0f} s;"
        f" then {again:,} read again for one day more; {machine()}."
    )


def _goals(accounts: int, cold: float, day: float) -> str:
    if accounts * _ROWS_PER_ACCOUNT < _GOAL_ROWS:
        return f"The goals are those of {_GOAL_ROWS:,} transactions, which this was not."
    return (
        f"{cold / _COLD_SECONDS:.1f} times the {_COLD_SECONDS:.0f} s wanted from cold,"
        f" {day / _DAY_SECONDS:.1f} times the {_DAY_SECONDS:.0f} s wanted after a day."
    )


def _in_process(folder: Path) -> Figures:
    """Build in a process of its own, so that its peak memory is that of the build."""
    ended = subprocess.run(
        [sys.executable, __file__, "--build", folder],
        stdout=subprocess.PIPE,
        text=True,
        timeout=3600,
        check=True,
    )
    found: Figures = json.loads(ended.stdout.splitlines()[-1])
    return found


def _build(folder: Path) -> Figures:
    lake = Lake(folder / "lake", "sandbox")
    models = load()
    start = Usage.start()
    built = build(lake, models, hash_key="made-up-key-of-the-benchmark")
    used = Usage.since(start)
    if broken := [one.problem for one in built if one.problem]:
        raise RuntimeError("; ".join(broken))
    if gaps := sum(one.rows for one in built if one.model.name == "int_balance_gaps"):
        raise RuntimeError(f"{gaps} gaps in a lake whose balances add up")
    return {
        "seconds": used.seconds,
        "cpu_seconds": used.cpu_seconds,
        "peak_bytes": used.peak_bytes,
        "disk_bytes": size_of(lake.folder / "marts"),
        "models": [
            {
                "name": one.model.name,
                "rows": one.rows,
                "seconds": one.seconds,
                "written": one.written,
                "parts": one.parts,
            }
            for one in built
        ],
    }


if __name__ == "__main__":
    main()
