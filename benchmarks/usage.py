"""What a piece of work cost its process: seconds, CPU, memory, files."""

from __future__ import annotations

import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Usage", "own_peak_bytes", "size_of"]

_MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024


@dataclass(frozen=True, slots=True)
class Usage:
    """What was used between `start` and `since`.

    Args:
        seconds: By the clock on the wall.
        cpu_seconds: User and system time of the process and of the children it has ended.
        peak_bytes: Largest resident size of the process over its whole life, or of one of the
            children that it has ended, whichever is larger.
    """

    seconds: float
    cpu_seconds: float
    peak_bytes: int

    @classmethod
    def start(cls) -> Usage:
        """The counters now."""
        kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        found = [resource.getrusage(kind) for kind in kinds]
        return cls(
            time.perf_counter(),
            sum(one.ru_utime + one.ru_stime for one in found),
            max(own_peak_bytes(), found[1].ru_maxrss * _MAXRSS_UNIT),
        )

    @classmethod
    def since(cls, start: Usage) -> Usage:
        """What was used since the counters were read."""
        now = cls.start()
        return cls(now.seconds - start.seconds, now.cpu_seconds - start.cpu_seconds, now.peak_bytes)


def own_peak_bytes() -> int:
    """Largest resident size of this process so far.

    Linux hands the figure of `getrusage` on from the process that started this one.
    """
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _MAXRSS_UNIT
    [line] = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


def size_of(folder: Path) -> int:
    """Bytes of the files under a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
