"""What a piece of work cost its process: seconds, CPU, memory, files."""

from __future__ import annotations

import os
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Usage", "children", "own_peak_bytes", "share", "size_of", "together"]

_MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024


@dataclass(frozen=True, slots=True)
class Usage:
    """What was used between `start` and `since`.

    Args:
        seconds: By the clock on the wall.
        cpu_seconds: User and system time of the process and of its children, running and ended.
        peak_bytes: Largest resident size of the process over its whole life, with that of each
            child that runs but for its files, which are the libraries that they share; or of one of
            the children that it has ended, whichever is larger.
    """

    seconds: float
    cpu_seconds: float
    peak_bytes: int

    @classmethod
    def start(cls) -> Usage:
        """The counters now."""
        kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        found = [resource.getrusage(kind) for kind in kinds]
        running = children()
        return cls(
            time.perf_counter(),
            sum(one.ru_utime + one.ru_stime for one in found) + sum(map(_cpu_seconds, running)),
            max(
                own_peak_bytes() + sum(own_peak_bytes(one) - _in_files(one) for one in running),
                found[1].ru_maxrss * _MAXRSS_UNIT,
            ),
        )

    @classmethod
    def since(cls, start: Usage) -> Usage:
        """What was used since the counters were read."""
        now = cls.start()
        return cls(now.seconds - start.seconds, now.cpu_seconds - start.cpu_seconds, now.peak_bytes)


def share(items: list[Any]) -> list[Any]:
    """What is for this process of a contender, of which several may run."""
    place, count = map(int, os.environ.get("BENCH_SHARE", "0 1").split())
    return items[place::count]


def together() -> None:
    """Wait until the other processes of a contender have imported what they need, too."""
    if "BENCH_SHARE" in os.environ:
        print("ready", flush=True)
        sys.stdin.readline()


def children(of: int | None = None) -> list[int]:
    """Processes that run now and were started by this one, or by one of them."""
    of = of or os.getpid()
    listed = Path("/proc").glob(f"{of}/task/*/children")
    found = [int(pid) for file in listed for pid in file.read_text().split()]
    return [one for pid in found for one in (pid, *children(pid))]


def _cpu_seconds(process: int) -> float:
    """User and system time of a process, to a hundredth of a second."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def own_peak_bytes(process: int | str = "self") -> int:
    """Largest resident size of this process, or of another one, so far.

    Linux hands the figure of `getrusage` on from the process that started this one.
    """
    if not Path("/proc/self/status").exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _MAXRSS_UNIT
    return _status(process, "VmHWM")


def _in_files(process: int) -> int:
    """Resident bytes of files that a process has mapped."""
    return _status(process, "RssFile")


def _status(process: int | str, name: str) -> int:
    status = Path(f"/proc/{process}/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith(name)]
    return int(line.split()[1]) * 1024


def size_of(folder: Path) -> int:
    """Bytes of the files under a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
