"""What the benchmarks share: a server and contenders as processes, and tables on the page."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["CACHE", "HERE", "ROOT", "Figures", "machine", "run", "server", "write"]

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
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="work-") as work:
        ended = subprocess.run(
            [python, HERE / script, url, folder, work, *more],
            stdout=subprocess.PIPE,
            text=True,
            timeout=_LONGEST_SECONDS,
            check=True,
        )
    return json.loads(ended.stdout.splitlines()[-1])


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
