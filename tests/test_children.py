"""Commands that start processes leave none, however they end: real ones are killed here."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks processes up in /proc")

PARENT = """
import os, signal, sys
from pathlib import Path
from pipelines.cli.children import child
from pipelines.cli.signals import end_on_signals
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored where the tests run under nohup
end_on_signals()
with child([sys.executable, "-c", sys.argv[1]], cwd=Path.cwd(), env=os.environ) as process:
    sys.exit(process.wait())
"""
FAMILY = """
import signal, subprocess, sys, time
if {is_stubborn}:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
subprocess.Popen([sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"])
{then}
"""
WAITS = "time.sleep(600)"


def started(command, **changes):
    """A process whose output is read."""
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **changes
    )


def family(is_stubborn=False, then=WAITS):
    """A parent, with a command that has a child of its own, all of them running."""
    code = FAMILY.format(is_stubborn=is_stubborn, then=then)
    parent = started([sys.executable, "-c", PARENT, code])
    assert parent.stdout.readline() == "up\n"
    return parent


def processes():
    """Each running process with its parent and its session."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                state, parent, _, session = (
                    (folder / "stat").read_text().rpartition(")")[2].split()[:4]
                )
            except OSError:
                continue
            if state != "Z":
                found[int(folder.name)] = (int(parent), int(session))
    return found


def keeper_of(parent):
    """The process between a parent and its command."""
    (keeper,) = [pid for pid, (above, _) in processes().items() if above == parent.pid]
    return keeper


def session_of(keeper):
    """What runs in the session that a keeper leads."""
    return [pid for pid, (_, session) in processes().items() if session == keeper]


def assert_gone(keeper, seconds):
    """Nothing of a keeper's session is left after so many seconds."""
    deadline = time.monotonic() + seconds
    while left := session_of(keeper):
        if time.monotonic() > deadline:
            for pid in left:
                os.kill(pid, signal.SIGKILL)
            pytest.fail(f"{len(left)} processes are left")
        time.sleep(0.05)


@pytest.mark.parametrize("how", ["SIGTERM", "SIGINT", "SIGHUP", "SIGKILL"])
def test_children_end_with_their_parent(how):
    """Whatever ends it, grandchildren included; and the parent says what it was."""
    parent = family()
    keeper = keeper_of(parent)
    assert len(session_of(keeper)) == 3

    parent.send_signal(signal.Signals[how])
    parent.wait(40)
    parent.stdout.close()

    assert_gone(keeper, 30)
    if how != "SIGKILL":
        assert parent.returncode == 128 + signal.Signals[how]


def test_children_that_ignore_signals_end_too():
    """They are asked, told, and killed at last."""
    parent = family(is_stubborn=True)
    keeper = keeper_of(parent)

    parent.kill()

    parent.wait(10)
    parent.stdout.close()
    assert_gone(keeper, 60)


def test_a_killed_keeper_leaves_nothing():
    """The parent ends what the keeper would have ended."""
    parent = family()
    keeper = keeper_of(parent)

    os.kill(keeper, signal.SIGKILL)

    parent.wait(30)
    parent.stdout.close()
    assert_gone(keeper, 10)


@pytest.mark.parametrize(("then", "code"), [("sys.exit(3)", 3), ("raise ValueError", 1)])
def test_what_a_command_leaves_when_it_ends_by_itself_is_ended(then, code):
    """Its exit code is passed on, and orphans do not outlive it."""
    parent = family(then=f"time.sleep(0.5)\n{then}")
    keeper = keeper_of(parent)

    assert parent.wait(30) == code
    parent.stdout.close()
    assert_gone(keeper, 10)


def free_port():
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def listens(port):
    """Whether somebody listens on a port."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.timeout(300)
def test_no_dagster_outlives_dev():
    """Daemon, webserver and code server end with the command, and the port is free."""
    port = free_port()
    code = "from pipelines.cli.main import main; main()"
    options = ["--port", str(port), "--customers", "1", "--months", "1"]
    parent = started([sys.executable, "-c", code, "dev", *options])
    try:
        deadline = time.monotonic() + 180
        while not listens(port):
            assert parent.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.2)
        keeper = keeper_of(parent)
        assert len(session_of(keeper)) >= 5
    finally:
        parent.terminate()
        parent.communicate(timeout=60)

    assert_gone(keeper, 60)
    assert not listens(port)
