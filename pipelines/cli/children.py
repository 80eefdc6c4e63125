"""Processes that end with the one that started them, however that ends.

Between both stands a *keeper*. It leads a process group of its own, and everything that the command
starts is in it. A pipe tells the keeper when its parent is gone, even by SIGKILL; it then ends the
group. Should the keeper be killed itself, the parent ends the group.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

__all__ = ["child"]

_ASKED_SECONDS = 5.0
"""How long a command has to end after an interrupt, as after Ctrl-C; Dagster then ends its own."""
_TOLD_SECONDS = 1.5
"""How long what is left has to end after SIGTERM."""
_SUBREAPER = 36
"""PR_SET_CHILD_SUBREAPER of Linux."""


@contextlib.contextmanager
def child(
    command: Sequence[str], *, cwd: Path, env: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command while the block runs, and no longer.

    Args:
        command: Program and arguments.
        cwd: Where it runs.
        env: Its environment.

    Yields:
        The process to wait for; it ends with the command's exit code.
    """
    process = subprocess.Popen(  # noqa: S603 - ours
        # This file on its own: nothing of the package has to be imported.
        [sys.executable, "-I", __file__, *command],
        cwd=cwd,
        env=env,
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdin is not None  # noqa: S101 - it was asked for
    try:
        yield process
    finally:
        process.stdin.close()
        try:
            process.wait(_ASKED_SECONDS + 2 * _TOLD_SECONDS)
        finally:
            # A keeper that ended in order has left nothing; one that was killed may have.
            if process.returncode is None or process.returncode < 0:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)


def _keep(command: Sequence[str]) -> int:
    """Run a command until it ends, or until standard input or a signal does; its exit code."""
    if sys.platform == "linux":
        # What loses its parent becomes a child of this one, rather than nobody's.
        ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())
    threading.Thread(target=_watch, args=(stop,), daemon=True).start()
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)  # noqa: S603 - ours
    while process.poll() is None and not stop.wait(0.2):
        pass
    if process.returncode is None:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_ASKED_SECONDS)
    os.killpg(0, signal.SIGTERM)
    if not _are_gone(process, _TOLD_SECONDS):
        os.killpg(0, signal.SIGKILL)
    return process.returncode


def _watch(stop: threading.Event) -> None:
    """Wait for the parent's end of the pipe to close, which it does however the parent ends."""
    with contextlib.suppress(OSError):
        while os.read(0, 1):
            pass
    stop.set()


def _are_gone(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Whether a process and all that it left to this one end within so many seconds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            try:
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            except ChildProcessError:
                return True
        time.sleep(0.05)
    return False


if __name__ == "__main__":
    sys.exit(_keep(sys.argv[1:]))
