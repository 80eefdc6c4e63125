"""What the benchmarks share: a server and contenders as processes, and tables on the page."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

__all__ = ["CACHE", "HERE", "ROOT", "Figures", "machine", "run", "run_many", "server", "write"]

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
CACHE = ROOT / "var" / "bench"
_PAGES = ROOT / "docs"
_LONGEST_SECONDS = 3600.0

Figures = dict[str, Any]


@contextmanager
def server(folder: Path, *, is_gzip: bool = False, delay_seconds: float = 0.0) -> Iterator[str]:
    """Serve pages on a free port of this machine; ended by its own handle, or by its time."""
    command = [sys.executable, HERE / "served.py", folder, str(_LONGEST_SECONDS)]
    command += ["--delay", str(delay_seconds), *(["--gzip"] if is_gzip else [])]
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


def run(python: str, script: str, url: str, folder: Path, *more: str) -> Figures:
    """One pull in a process of its own; what it tells in its last line."""
    [found] = _started(python, script, url, folder, more, 1)
    return found


def run_many(
    python: str, script: str, url: str, folder: Path, *more: str, processes: int
) -> Figures:
    """One pull in several processes, which begin at once and have a share of the reads each.

    Seconds are those of the slowest; whatever else can be added is.
    """
    found = _started(python, script, url, folder, more, processes)
    told: Figures = {
        key: sum(one[key] for one in found)
        for key in found[0]
        if not isinstance(found[0][key], str)
    }
    told["seconds"] = max(one["seconds"] for one in found)
    if "amount" in found[0]:
        told["amount"] = str(sum(Decimal(one["amount"]) for one in found))
    return told


def _started(
    python: str, script: str, url: str, folder: Path, more: Sequence[str], count: int
) -> list[Figures]:
    with contextlib.ExitStack() as stack:
        processes = []
        for place in range(count):
            work = tempfile.TemporaryDirectory(dir=CACHE, prefix="work-")
            environment = {**os.environ, "BENCH_SHARE": f"{place} {count}"}
            processes.append(
                stack.enter_context(
                    subprocess.Popen(
                        [python, HERE / script, url, folder, stack.enter_context(work), *more],
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                        text=True,
                        env=environment if count > 1 else None,
                    )
                )
            )
        for process in processes if count > 1 else ():
            assert process.stdout is not None
            while process.stdout.readline().strip() != "ready":
                if process.poll() is not None:
                    raise RuntimeError(f"{script} ended early")
        for process in processes if count > 1 else ():
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        ended = [process.communicate(timeout=_LONGEST_SECONDS)[0] for process in processes]
        if any(process.returncode for process in processes):
            raise RuntimeError(f"{script} failed")
    return [json.loads(output.splitlines()[-1]) for output in ended]


def alike(rounds: Iterable[Figures]) -> Figures:
    """The first of some rounds, all of which asked and found the same.

    Raises:
        RuntimeError: They did not.
    """
    first, *others = rounds
    if any(one[key] != first[key] for one in others for key in ("requests", "outcomes")):
        raise RuntimeError("not all asked and found the same")
    return first


def machine() -> str:
    """What it was measured on, without a name."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{os.cpu_count()} cores, {memory:.0f} GiB of memory, {platform.system()}"
        f" {platform.machine()}, Python {platform.python_version()}"
    )


def write(name: str, lines: Iterable[str], page: str = "performance.md") -> None:
    """Put a table between its markers on a page of docs."""
    file = _PAGES / page
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    head, _, rest = file.read_text().partition(start)
    _, found, tail = rest.partition(end)
    if not found:
        raise RuntimeError(f"{page} has no {start} … {end}")
    table = "\n".join(lines).rstrip()
    file.write_text(f"{head}{start}\n{table}\n{end}{tail}")
