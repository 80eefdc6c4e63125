"""Signals that end a command: in order within ten seconds, or at once at a second signal.

A thread of its own receives signals, whatever the main thread does: Python runs handlers only
between its own steps, DuckDB looks for signals twice a minute, and libraries replace handlers.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
import time
from typing import Any, NoReturn

_NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_ORDERLY_SECONDS = 9.0
"""Time that a command has to end in order."""

_received: list[int] = []


def received() -> int | None:
    """Number of the signal that ends this process, or None."""
    return _received[0] if _received else None


def end_on_signals() -> None:
    """Let SIGINT, SIGTERM and SIGHUP end this process: in order, by SystemExit, or at once.

    The exit code is 128 plus the signal's number. Call it in the main thread.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reading,), name="signals", daemon=True).start()
    for number in _NUMBERS:
        # A signal that is ignored, as SIGHUP is under nohup, stays ignored.
        if signal.getsignal(number) in {signal.SIG_DFL, signal.default_int_handler}:
            signal.signal(number, _end)


def _end(number: int, _frame: Any) -> NoReturn:
    # The command may end before the thread has received the signal.
    _received.append(number)
    raise SystemExit(128 + number)


def _watch(reading: int) -> None:
    """Wait for a signal, then for another signal or the deadline, and end the process at once."""
    _received.append(_next(reading, None) or 0)
    another = _next(reading, time.monotonic() + _ORDERLY_SECONDS)
    number = another or _received[0]
    show_cursor = "\x1b[?25h" if sys.stderr.isatty() else ""  # a progress bar hides it
    name = signal.Signals(number).name
    with contextlib.suppress(OSError):
        os.write(2, f"{show_cursor}ended by {name}; what was committed is kept\n".encode())
    os._exit(128 + number)


def _next(reading: int, deadline: float | None) -> int | None:
    """The number of the next signal that ends this process, or None at the deadline."""
    while True:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        if not select.select([reading], [], [], left)[0]:
            return None
        number = os.read(reading, 1)[0]
        if number in _NUMBERS:
            return number
