"""What the processes of a run share: a few numbers and a text, in memory of this machine.

Each number has a place and a meaning, and is changed under one lock. So a row of a database, which
several machines share, can stand in for it.
"""

from __future__ import annotations

import fcntl
import math
import mmap
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

FREE_AT, PAUSED_UNTIL, LIMITED_AT, CLOSED_UNTIL = range(4)
"""Places of the numbers: seconds of a monotonic clock, minus infinity where there is none."""
_TEXT_BYTES = 4
LEFT, ENDS_AT, INTERVAL = range(5, 8)
"""Places of turns that were taken ahead: how many are left, until when they can be used, and the
seconds between two of them."""
_TEXT_AT = 64
_BYTES = 1 << 18


class Shared:
    """Numbers and a text; of one process until it shares them.

    A lock is released by the system when its process ends, however it ends. Whoever holds it
    neither waits nor calls anything that does.

    Args:
        file: Descriptor of the file in which another process shares them; None for new ones.
    """

    def __init__(self, file: int | None = None) -> None:
        self._made: IO[bytes] | None = None
        self._file = file
        self._map(mmap.mmap(-1 if file is None else file, _BYTES))
        if file is None:
            for place in range(_TEXT_BYTES):
                self.numbers[place] = -math.inf

    def share(self) -> int:
        """Put them into a file without a name; its descriptor, for other processes."""
        if self._file is None:
            self._made = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `keep`
            self._made.write(self._memory)
            self._made.flush()
            self._file = self._made.fileno()
            self._map(mmap.mmap(self._file, _BYTES))
        return self._file

    def keep(self) -> None:
        """Share them no longer."""
        if self._made is not None:
            self._made.close()
            self._made = self._file = None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes out while the block runs."""
        if self._file is None:
            yield
            return
        fcntl.lockf(self._file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN)

    @property
    def text(self) -> bytes:
        """The text; empty at first. Whether it is empty may be asked without the lock."""
        size = int(self.numbers[_TEXT_BYTES])
        return self._memory[_TEXT_AT : _TEXT_AT + size] if size else b""

    @text.setter
    def text(self, text: bytes) -> None:
        self._memory[_TEXT_AT : _TEXT_AT + len(text)] = text
        self.numbers[_TEXT_BYTES] = len(text)

    def _map(self, memory: mmap.mmap) -> None:
        self._memory = memory
        self.numbers = memoryview(memory).cast("d")
