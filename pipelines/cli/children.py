"""Child processes that end when their parent ends, even if it is killed.

Between parent and command runs a *keeper*. It leads a process group of its own, which everything
belongs to that the command starts. A pipe closes when the parent is gone, even by SIGKILL, and the
keeper then ends the group. If the keeper itself is killed, the parent ends the group.
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

_ASKED_SECONDS = 5.0
"""Time that a command has to end after an interrupt, as by Ctrl-C; Dagster ends its own then."""
_TERM_SECONDS = 1.5
"""Time that the rest of the group has to end after SIGTERM."""
_SUBREAPER = 36
"""PR_SET_CHILD_SUBREAPER of Linux."""


@contextlib.contextmanager
def child(
    command: Sequence[str], *, cwd: Path, env: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command while the block runs, and no longer.

    Args:
        command: Program and arguments.

    Yields:
        The keeper, which ends with the command's exit code.
    """
    process = subprocess.Popen(  # noqa: S603 - ours
        # This file alone, so that nothing of the package is imported.
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
            process.wait(_ASKED_SECONDS + 2 * _TERM_SECONDS)
        finally:
            # A keeper that was killed may have left processes.
            if process.returncode is None or process.returncode < 0:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)


def _keep(command: Sequence[str]) -> int:
    """Run a command until it ends, standard input closes or a signal arrives; its exit code."""
    if sys.platform == "linux":
        # A process that loses its parent becomes a child of the keeper.
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
    if not _are_gone(process, _TERM_SECONDS):
        os.killpg(0, signal.SIGKILL)
    return process.returncode


def _watch(stop: threading.Event) -> None:
    """Set `stop` when the parent has closed its end of the pipe, or is gone."""
    with contextlib.suppress(OSError):
        while os.read(0, 1):
            pass
    stop.set()


def _are_gone(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Whether a process, and the children that it leaves, end within so many seconds."""
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
