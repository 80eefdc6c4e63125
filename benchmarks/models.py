"""How long the models take: from cold, after one new day, and after some accounts changed.

A lake is made first, then models are built in processes of their own: from cold; after every
account has been read again for its open months and has a day more; after one account, and after a
thousand, were read again a day later. In the end a whole build has to give the rows that those of
some accounts gave. The last line of the output is JSON.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import model_lake
from harness import CACHE, Figures, machine, write
from usage import Usage, size_of

from pipelines.lake.lake import Lake
from pipelines.lake.storage import Key
from pipelines.models.build import build, build_bucket, plan_build
from pipelines.models.deltas import build_changed
from pipelines.models.loader import load
from pipelines.models.manifest import Manifest, current_manifest
from pipelines.models.model import Models
from pipelines.models.plans import Plan, end_plans
from pipelines.models.session import stored_rows

_GOAL_ROWS = 10_000_000
_COLD_SECONDS = 120.0
_DAY_SECONDS = 15.0
_ROWS_PER_ACCOUNT = 100
_CHANGED = {1: 2, 1000: 6}
"""CPU seconds wanted, by the number of accounts that changed."""
_KEY = "made-up-key-of-the-benchmark"
_OTHER_KEY = "another-key-of-the-benchmark"
"""With another key everything is built anew."""


def main() -> None:
    """Measure and tell."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=10_000_000, help="about so many transactions")
    parser.add_argument("--keep-page", action="store_true", help="do not write docs/performance.md")
    parser.add_argument("--buckets", type=int, help="build so many; as many as are needed if unset")
    parser.add_argument("--build", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--changed", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.build is not None:
        print(json.dumps(_build(asked.build, asked.buckets, is_changed=asked.changed)))
        return
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="models-") as folder:
        lines, figures = _measure(Path(folder), asked.rows, asked.buckets)
    print("\n".join(lines))
    if not asked.keep_page:
        write("models", lines)
    print(json.dumps(figures))


def _measure(folder: Path, wanted: int, buckets: int | None) -> tuple[list[str], Figures]:
    lake = Lake(folder / "lake", "sandbox")
    accounts = max(4, wanted // _ROWS_PER_ACCOUNT // 4 * 4)
    started = time.perf_counter()
    rows = model_lake.make(lake, accounts)
    made = time.perf_counter() - started
    more = [] if buckets is None else [f"--buckets={buckets}"]
    cold = _in_process(folder, *more)
    again = model_lake.add_day(lake, accounts)
    day = _in_process(folder, *more)
    some = {}
    for version, count in enumerate(_CHANGED, 3):
        model_lake.add_some(lake, accounts, range(4 * version, 4 * version + count), version)
        some[count] = _in_process(folder, "--changed")
    _compare(lake, buckets)
    pace = 0.0 if buckets is None else _pace(lake, buckets)
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
        "",
        "| accounts read again | rows | CPU s | s |",
        "|---:|---:|---:|---:|",
        *(
            f"| {count:,} | {sum(model['rows'] for model in one['models']):,}"
            f" | {one['cpu_seconds']:.1f} | {one['seconds']:.1f} |"
            for count, one in some.items()
        ),
        "",
        (
            f"Wanted are {_CHANGED[1]} CPU s for one account and {_CHANGED[1000]} for a thousand."
            " A whole build after them gave the same rows."
        ),
    ]
    if pace:
        lines += [
            "",
            f"Two of {buckets} buckets at once, on a core each, take {pace:.2f} of linear.",
        ]
    figures = {
        "rows": rows,
        "accounts": accounts,
        "rows_of_a_day": again,
        "make_seconds": made,
        "buckets": buckets,
        "pace_of_two": round(pace, 2),
        "cold": cold,
        "day": day,
    }
    figures |= {f"changed_{count}": one for count, one in some.items()}
    for one in (cold, day, *some.values()):
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


def _pace(lake: Lake, count: int) -> float:
    """How much of twice the speed of one core two cores have that build a bucket each."""
    seconds = []
    for processes in (1, 2):
        name = f"pace-{processes}"
        plan = plan_build(lake, load(), hash_key=_OTHER_KEY, name=name, buckets=count)
        with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
            started = time.perf_counter()
            list(pool.map(_bucket, [lake.folder.parent] * 2, [plan] * 2, range(2)))
            seconds.append(time.perf_counter() - started)
        end_plans(lake, name, set())
    return seconds[0] / seconds[1] / 2


def _bucket(folder: Path, plan: Plan, number: int) -> None:
    """Build a bucket from nothing on one core."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[number % len(cores)]})
    build_bucket(Lake(folder, "sandbox"), load(), plan, number, hash_key=_OTHER_KEY)
    os.sched_setaffinity(0, cores)


def _compare(lake: Lake, buckets: int | None) -> None:
    """Compare rows of some accounts with those of a whole build, which is not one of buckets."""
    models = load()
    since = current_manifest(lake)
    assert len(since.deltas) == len(_CHANGED)
    before = _sums(lake, models, since, since)
    build(lake, models, hash_key=_KEY, buckets=None if buckets is None else 1)
    after = _sums(lake, models, current_manifest(lake), since)
    if other := [name for name in before if before[name] != after[name]]:
        raise RuntimeError(f"rows are others after a whole build: {', '.join(other)}")


def _sums(lake: Lake, models: Models, manifest: Manifest, since: Manifest) -> dict[str, object]:
    """Number of rows and sum of their hashes of each table that comes apart.

    Where a table knows the clock, which moves on for all with a whole build, those of the accounts
    that changed last.
    """
    found: dict[str, object] = {}
    with_clock: set[str] = {"clock", "account_windows"}
    with lake.connect(()) as connection:
        for model in models:
            if with_clock & {*model.reads}:
                with_clock.add(model.name)
            if model.apart is None:
                continue
            select = stored_rows(lake, model, manifest)
            if model.name in with_clock:
                ids = lake.listed([Key(since.deltas[-1].ids.file)])
                select = (
                    f"select * from ({select}) where {model.apart.column} in"
                    f" (from read_parquet({ids}))"
                )
            found[model.name] = connection.execute(
                f"select count(*), sum(hash(it)::hugeint) from ({select}) as it"
            ).fetchone()
    return found


def _in_process(folder: Path, *more: str) -> Figures:
    """Build in a process of its own, so that its peak memory is that of the build."""
    ended = subprocess.run(
        [sys.executable, __file__, "--build", folder, *more],
        stdout=subprocess.PIPE,
        text=True,
        timeout=3600,
        check=True,
    )
    found: Figures = json.loads(ended.stdout.splitlines()[-1])
    return found


def _build(folder: Path, buckets: int | None, *, is_changed: bool) -> Figures:
    lake = Lake(folder / "lake", "sandbox")
    models = load()
    start = Usage.start()
    if is_changed:
        built = build_changed(lake, models, hash_key=_KEY)
    else:
        built = build(lake, models, hash_key=_KEY, buckets=buckets)
    used = Usage.since(start)
    if broken := [one.problem for one in built if one.problem]:
        raise RuntimeError("; ".join(broken))
    gaps = sum(one.rows for one in built if one.model.name == "int_balance_gaps")
    if gaps and not is_changed:
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
