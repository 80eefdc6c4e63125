"""How fast transactions are pulled, beside dlt doing the same and beside what cannot be saved.

Answers of the offline Lean are rendered to files once and served from memory by a process of its
own. Then, round after round, each contender pulls them in a fresh process:

* leanhouse: from the first request to committed files, pages as received and ledger included;
* dlt: from the first request to loaded Parquet files, with sixteen workers and its defaults, and
  once more with all that helps it;
* the floor: the pages only fetched, then only decoded, and nothing kept.

Figures are medians of the rounds, ratios medians of the ratios within a round. The last line of the
output is JSON.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

from pages import Pages, pages

_HERE = Path(__file__).resolve().parent
_ROOT = _HERE.parent
_CACHE = _ROOT / "var" / "bench"
_PAGE = _ROOT / "docs" / "performance.md"
_FROM, _TO = "<!-- pull -->", "<!-- /pull -->"
_LONGEST_SECONDS = 3600.0

Figures = dict[str, Any]


def main() -> None:
    """Measure, check that everybody ended with the same, and tell."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=100_000, help="transactions, about")
    parser.add_argument("--rounds", type=int, default=3, help="how often each pulls")
    parser.add_argument("--without-dlt", action="store_true", help="leave dlt out")
    parser.add_argument("--keep-page", action="store_true", help="do not write docs/performance.md")
    parser.add_argument("--profile", action="store_true", help="only tell where the time goes")
    asked = parser.parse_args()
    rendered = pages(asked.rows, _CACHE)
    print(
        f"{rendered.rows:,} transactions of {len(rendered.account_ids):,} accounts on"
        f" {rendered.pages:,} pages of {rendered.bytes / rendered.pages / 1000:.0f} kB"
    )
    if asked.profile:
        with _server(rendered.folder) as url:
            _run(sys.executable, "sampled.py", url, rendered.folder, "", is_quiet=False)
        return
    contenders = {
        "leanhouse": (sys.executable, "pull_leanhouse.py", ""),
        **({} if asked.without_dlt else _dlt()),
        "floor": (sys.executable, "pull_floor.py", ""),
    }
    rounds = []
    for number in range(asked.rounds):
        found = {}
        for name, (python, script, how) in contenders.items():
            # A server for each, so that nobody profits from what another left behind.
            with _server(rendered.folder) as url:
                found[name] = _run(python, script, url, rendered.folder, how)
            _agree(name, found[name], rendered)
            print(
                f"round {number + 1}: {name:10} {_rate(found[name]):8,.0f} rows/s"
                f" {found[name]['cpu_seconds']:6.2f} s of CPU",
                flush=True,
            )
        rounds.append(found)
    told = _told(rounds, rendered)
    table = "\n".join(_table(told))
    print(f"\n{table}\n")
    if "dlt" in contenders and not asked.keep_page:
        _write(table, _PAGE)
    print(json.dumps(told))


@contextmanager
def _server(folder: Path) -> Iterator[str]:
    """Serve the pages on a free port of this machine; ended by its own handle, or by its time."""
    command = [sys.executable, _HERE / "served.py", folder, str(_LONGEST_SECONDS)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        if not port:
            raise RuntimeError("the server did not start")
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def _run(
    python: str, script: str, url: str, folder: Path, how: str, *, is_quiet: bool = True
) -> Figures:
    """One pull in a process of its own; what it tells in its last line."""
    with tempfile.TemporaryDirectory(dir=_CACHE, prefix="work-") as work:
        ended = subprocess.run(
            [python, _HERE / script, url, folder, work, *filter(None, [how])],
            stdout=subprocess.PIPE if is_quiet else None,
            text=True,
            timeout=_LONGEST_SECONDS,
            check=True,
        )
    return json.loads(ended.stdout.splitlines()[-1]) if is_quiet else {}


def _dlt() -> dict[str, tuple[str, str, str]]:
    """As it comes and tuned; `.venv-bench` is made anew when its requirements change."""
    requirements = _HERE / "requirements.txt"
    venv = _ROOT / ".venv-bench"
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
        "dlt": (str(python), "pull_dlt.py", ""),
        "dlt tuned": (str(python), "pull_dlt.py", "tuned"),
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
        "machine": _machine(),
    }
    for name in rounds[0]:
        found = [one[name] for one in rounds]
        told[name] = {
            "rows_per_second": round(statistics.median(map(_rate, found))),
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


def _machine() -> str:
    """What it was measured on, without a name."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{os.cpu_count()} cores, {memory:.0f} GiB of memory, {platform.system()}"
        f" {platform.machine()}, Python {platform.python_version()}"
    )


def _table(told: Figures) -> Iterator[str]:
    names = {
        "leanhouse": "leanhouse",
        "dlt": "dlt, 16 workers",
        "dlt tuned": "dlt, tuned",
        "floor": "the floor",
    }
    size = f"{told['page_bytes'] / 1000:.0f} kB"
    yield (
        f"{told['rows']:,} transactions on {told['pages']:,} pages of {size}, median of"
        f" {told['rounds']} rounds; {told['machine']}."
    )
    yield ""
    yield "| | rows/s | CPU s per million rows | peak memory | on disk |"
    yield "|---|---:|---:|---:|---:|"
    for key, name in names.items():
        if key in told:
            one = told[key]
            sizes = [
                f"{one[size] / 2**20:,.0f} MiB" if size in one else "-"
                for size in ("peak_bytes", "disk_bytes")
            ]
            yield (
                f"| {name} | {one['rows_per_second']:,} | {one['cpu_seconds_per_million']:,}"
                f" | {' | '.join(sizes)} |"
            )
    yield ""
    for pair, ratio in told["ratios"].items():
        yield (
            f"leanhouse / {names[pair.partition('/')[2]]}:"
            f" {ratio['rows_per_second']:.2f} times the rows per second,"
            f" {ratio['cpu_seconds']:.2f} times the CPU.  "
        )


def _write(table: str, file: Path) -> None:
    """Put the table between the page's markers."""
    head, _, rest = file.read_text().partition(_FROM)
    _, found, tail = rest.partition(_TO)
    if not found:
        raise RuntimeError(f"docs/{file.name} has no {_FROM} … {_TO}")
    file.write_text(f"{head}{_FROM}\n{table.rstrip()}\n{_TO}{tail}")


if __name__ == "__main__":
    main()
