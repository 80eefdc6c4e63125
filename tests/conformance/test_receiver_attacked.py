"""The receiver's command under attack by strangers: who is honest is served."""

import contextlib
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from receiving import SECRET
from test_receiver import body_of, head

from lean_resources.webhooks import sign
from pipelines.environment import child_of
from pipelines.webhooks.inbox import Inbox

pytestmark = pytest.mark.conformance

SECONDS = 6.0
PIECE = b"a" * 65_536
LARGE = head("content-length: 1048576")


def mebibytes(process):
    """What the process holds, and the most that it ever held."""
    told = Path(f"/proc/{process.pid}/status").read_text()
    return [int(told.split(f"{name}:")[1].split()[0]) // 1024 for name in ("VmRSS", "VmHWM")]


@contextlib.contextmanager
def running(home, descriptors):
    """The command, with so many descriptors."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    values = {"environment": "sandbox", "webhook_secret": SECRET, "webhook_port": str(port)}
    limited = f'ulimit -n {descriptors}; exec "$0" webhooks'
    with subprocess.Popen(
        ["sh", "-c", limited, Path(sys.executable).parent / "leanhouse"],
        env=child_of(values, home),
        stderr=subprocess.PIPE,
    ) as process:
        try:
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:
                with contextlib.suppress(OSError):
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                    break
                time.sleep(0.05)
            yield process, port
        finally:
            process.terminate()
            process.wait(30)


def hold(port, is_over, address, first):
    """Open connections as fast as they go, say the beginning of a request, and hold them."""
    held = []
    while not is_over.is_set():
        with contextlib.suppress(OSError):
            wire = socket.create_connection(
                ("127.0.0.1", port), timeout=5, source_address=(address, 0)
            )
            held.append(wire)
            wire.sendall(first)
        if len(held) > 1_000:
            held.pop(0).close()
    for wire in held:
        wire.close()


def pour(port, is_over, address, first):
    """Send the beginning of a request and then bytes without end, again whenever it is cut."""
    while not is_over.is_set():
        with (
            contextlib.suppress(OSError),
            socket.create_connection(
                ("127.0.0.1", port), timeout=5, source_address=(address, 0)
            ) as wire,
        ):
            wire.sendall(first)
            while not is_over.is_set():
                wire.sendall(PIECE)


ATTACKS = {
    "idle": (hold, [b""]),
    "half requests": (hold, [b"POST /webhooks/lean HT", head("a: b")[:-2]]),
    "heads": (pour, [head("a: b")[:-2] + b"x: "]),
    "URLs": (pour, [b"POST /"]),
    "bodies": (hold, [LARGE + PIECE * 15]),
    "trailers": (pour, [head("transfer-encoding: chunked") + b"0\r\nx: "]),
    "nonsense": (hold, [b"\x16\x03\x01\r\n\r\n"]),
}


@pytest.mark.parametrize(
    ("name", "descriptors"), [*((name, 1024) for name in ATTACKS), ("half requests", 8192)]
)
def test_who_is_honest_is_served_while_strangers_attack(tmp_path, name, descriptors):
    """From one address and from five; within 100 MiB more, and whatever got 200 is stored."""
    attack, beginnings = ATTACKS[name]
    codes, slowest = [], 0.0
    with running(tmp_path, descriptors) as (process, port):
        before, _ = mebibytes(process)
        is_over = threading.Event()
        threads = [
            threading.Thread(target=attack, args=(port, is_over, f"127.0.1.{number}", first))
            for number in range(1, 6)
            for first in beginnings
        ]
        for thread in threads:
            thread.start()
        ends = time.monotonic() + SECONDS
        while time.monotonic() < ends:
            body = body_of(len(codes))
            request = head(f"lean-signature: {sign(body, SECRET)}", f"content-length: {len(body)}")
            began = time.monotonic()
            code = None
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", port), timeout=10) as wire,
            ):
                wire.sendall(request + body)
                code = wire.recv(4096)[9:12]
            codes.append(code)
            slowest = max(slowest, time.monotonic() - began)
            time.sleep(0.05)
        _, most = mebibytes(process)
        is_over.set()
        for thread in threads:
            thread.join()
        process.terminate()
        lines = process.stderr.read().count(b"\n")

    inbox = Inbox(f"sqlite:///{tmp_path / 'inbox' / 'sandbox.db'}", "sandbox")
    kept = {row["event_id"] for row in inbox.rows()}
    inbox.close()
    served = {f"event-{number}" for number, code in enumerate(codes) if code == b"200"}
    print(  # noqa: T201 - the figures of docs/guarantees.md
        f"\n{name}, {descriptors} descriptors: {len(served)} of {len(codes)} served, slowest"
        f" {slowest:.2f} s, {before} MiB before, {most} at most, {lines} lines of log"
    )
    assert served <= kept
    assert len(served) >= 0.99 * len(codes)
    assert len(codes) > 10
    assert most - before < 100
    assert lines < 20
