"""How fast transactions are pulled, beside dlt doing the same and beside what cannot be saved.

Answers of the offline Lean are rendered to files once and served from memory by a process of its
own. Then, round after round, each contender pulls them in a fresh process:

* leanhouse: from the first request to committed files, pages as received and ledger included;
* dlt: from the first request to loaded Parquet files, with sixteen workers and its defaults, and
  once more with all that helps it;
* a tap of the Singer SDK piped into a target that writes Parquet;
* the floor: the pages only fetched, then only decoded, and nothing kept.

Each is measured in one process and in as many as there are cores: leanhouse deals the reads out by
itself; each process of another contender has its share of the reads, and all begin at once when
they have imported what they need. The server needs CPU of the same cores.

Figures are medians of the rounds, ratios medians of the ratios within a round. The last line of the
output is JSON.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from decimal import Decimal

from harness import CACHE, HERE, ROOT, Figures, machine, run, run_many, server, write
from pages import Pages, pages

_NAMES = {
    "leanhouse": "leanhouse",
    "leanhouse single": "leanhouse, one process",
    "leanhouse gzip": "leanhouse, answers compressed",
    "dlt": "dlt, 16 workers",
    "dlt many": "dlt, 16 workers, a process for each core",
    "dlt tuned": "dlt, tuned",
    "dlt tuned many": "dlt, tuned, a process for each core",
    "singer": "Singer tap and target",
    "singer many": "Singer tap and target, a pair for each core",
    "floor": "the floor",
    "floor many": "the floor, a process for each core",
}
_CORES = os.cpu_count() or 1
_ONE_COPY, _SIXTEEN = "1", "16"


def main() -> None:
    """Measure, check that everybody ended with the same, and tell."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=100_000, help="transactions, about")
    parser.add_argument("--rounds", type=int, default=3, help="how often each pulls")
    parser.add_argument("--older", action="store_true", help="the older generation, in full")
    parser.add_argument("--alone", action="store_true", help="leave other tools out")
    parser.add_argument("--keep-page", action="store_true", help="do not write docs/performance.md")
    parser.add_argument("--profile", action="store_true", help="only tell where the time goes")
    asked = parser.parse_args()
    rendered = pages(asked.rows, CACHE, is_older=asked.older)
    print(
        f"{rendered.rows:,} transactions of {len(rendered.account_ids):,} accounts on"
        f" {rendered.pages:,} pages of {rendered.bytes / rendered.pages / 1000:.0f} kB"
    )
    if asked.profile:
        with server(rendered.folder) as url, tempfile.TemporaryDirectory(dir=CACHE) as work:
            command = [sys.executable, HERE / "sampled.py", url, rendered.folder, work]
            subprocess.run(command, check=True)
        return
    own = (sys.executable, "pull_leanhouse.py", _ONE_COPY, _SIXTEEN)
    contenders: dict[str, tuple[str, ...]] = {
        "leanhouse": (*own, str(_CORES)),
        "leanhouse single": (*own, "1"),
        "leanhouse gzip": (*own, str(_CORES)),
        **({} if asked.alone or asked.older else _others()),
        "floor": (sys.executable, "pull_floor.py"),
        "floor many": (sys.executable, "pull_floor.py"),
    }
    rounds = []
    for number in range(asked.rounds):
        found = {}
        for name, (python, script, *more) in contenders.items():
            # A server for each, so that nobody profits from what another left behind.
            with server(rendered.folder, is_gzip=name.endswith("gzip")) as url:
                command = (python, script, url, rendered.folder, *more)
                is_many = name.endswith("many")
                found[name] = run_many(*command, processes=_CORES) if is_many else run(*command)
            _agree(name, found[name], rendered)
            print(
                f"round {number + 1}: {name:16} {_rate(found[name]):8,.0f} rows/s"
                f" {found[name]['cpu_seconds']:6.2f} s of CPU",
                flush=True,
            )
        rounds.append(found)
    told = _told(rounds, rendered)
    table = "\n".join(_table(told))
    print(f"\n{table}\n")
    if not asked.keep_page:
        write("pull-older" if asked.older else "pull", [table])
    print(json.dumps(told))


def _others() -> dict[str, tuple[str, ...]]:
    """Other tools; `.venv-bench` is made anew when its requirements change."""
    requirements = HERE / "requirements.txt"
    venv = ROOT / ".venv-bench"
    ready = venv / ".ready"
    python = venv / "bin" / "python"
    wanted = hashlib.sha256(requirements.read_bytes()).hexdigest()
    if not ready.exists() or ready.read_text() != wanted:
        print("preparing .venv-bench", flush=True)
        shutil.rmtree(venv, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([python, *install, "-r", requirements], check=True)
        ready.write_text(wanted)
    return {
        "dlt": (str(python), "pull_dlt.py"),
        "dlt many": (str(python), "pull_dlt.py"),
        "dlt tuned": (str(python), "pull_dlt.py", "tuned"),
        "dlt tuned many": (str(python), "pull_dlt.py", "tuned"),
        "singer": (str(python), "pull_singer.py"),
        "singer many": (str(python), "pull_singer.py"),
    }


def _agree(name: str, found: Figures, rendered: Pages) -> None:
    """Hold a contender to the rows and, where it kept them, the money that were served."""
    if found["rows"] != rendered.rows:
        raise RuntimeError(f"{name} ended with {found['rows']} rows of {rendered.rows}")
    if "amount" in found and Decimal(found["amount"]) != rendered.amount:
        raise RuntimeError(f"{name} ended with amounts of {found['amount']}, {rendered.amount=}")


def _rate(found: Figures) -> float:
    return float(found["rows"] / found["seconds"])


def _told(rounds: list[dict[str, Figures]], rendered: Pages) -> Figures:
    """Medians of each contender and of the ratios within a round."""
    told: Figures = {
        "rows": rendered.rows,
        "pages": rendered.pages,
        "page_bytes": round(rendered.bytes / rendered.pages),
        "rounds": len(rounds),
        "machine": machine(),
    }
    for name in rounds[0]:
        found = [one[name] for one in rounds]
        told[name] = {
            "rows_per_second": round(statistics.median(map(_rate, found))),
            "requests_per_second": round(
                statistics.median(rendered.pages / one["seconds"] for one in found)
            ),
            "cpu_seconds_per_million": round(
                statistics.median(one["cpu_seconds"] / one["rows"] * 1e6 for one in found), 1
            ),
        }
        for key in ("peak_bytes", "disk_bytes"):
            if key in found[0]:
                told[name][key] = round(statistics.median(one[key] for one in found))
    told["ratios"] = {
        f"leanhouse/{other}": {
            "rows_per_second": round(
                statistics.median(_rate(one["leanhouse"]) / _rate(one[other]) for one in rounds), 2
            ),
            "cpu_seconds": round(
                statistics.median(
                    one["leanhouse"]["cpu_seconds"] / one[other]["cpu_seconds"] for one in rounds
                ),
                2,
            ),
        }
        for other in rounds[0]
        if other != "leanhouse"
    }
    return told


def _table(told: Figures) -> Iterator[str]:
    size = f"{told['page_bytes'] / 1000:.0f} kB"
    yield (
        f"{told['rows']:,} transactions on {told['pages']:,} pages of {size}, median of"
        f" {told['rounds']} rounds; {told['machine']}."
    )
    yield ""
    yield "| | rows/s | requests/s | CPU s per million rows | peak memory | on disk |"
    yield "|---|---:|---:|---:|---:|---:|"
    for key, name in _NAMES.items():
        if key in told:
            one = told[key]
            sizes = [
                f"{one[size] / 2**20:,.0f} MiB" if size in one else "-"
                for size in ("peak_bytes", "disk_bytes")
            ]
            yield (
                f"| {name} | {one['rows_per_second']:,} | {one['requests_per_second']:,}"
                f" | {one['cpu_seconds_per_million']:,} | {' | '.join(sizes)} |"
            )
    yield ""
    for pair, ratio in told["ratios"].items():
        yield (
            f"leanhouse / {_NAMES[pair.partition('/')[2]]}:"
            f" {ratio['rows_per_second']:.2f} times the rows per second,"
            f" {ratio['cpu_seconds']:.2f} times the CPU.  "
        )


if __name__ == "__main__":
    main()
