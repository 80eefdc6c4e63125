"""What a piece of work cost its process: seconds, CPU, memory, files."""

from __future__ import annotations

import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Usage", "size_of"]

_MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024


@dataclass(frozen=True, slots=True)
class Usage:
    """What was used between `start` and `since`.

    Args:
        seconds: By the clock on the wall.
        cpu_seconds: User and system time of the process and of the children it has ended.
        peak_bytes: Largest resident size of the process or of one of its children, whichever is
            larger; over the whole life of the process, because it is never told for less.
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
            max(one.ru_maxrss for one in found) * _MAXRSS_UNIT,
        )

    @classmethod
    def since(cls, start: Usage) -> Usage:
        """What was used since the counters were read."""
        now = cls.start()
        return cls(now.seconds - start.seconds, now.cpu_seconds - start.cpu_seconds, now.peak_bytes)


def size_of(folder: Path) -> int:
    """Bytes of the files under a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
