"""How many webhooks a second are stored durably, how fast, and what a SIGKILL costs.

    python benchmarks/webhooks.py [--seconds 60] [--rate 2000] [--kills 5] [--on sqlite postgresql]

A process of its own sends signed events over loopback at a steady rate, each when it is due whether
or not earlier ones were answered. The receiver, `leanhouse webhooks`, is killed meanwhile and
started again. What was not answered with 200 is sent again, as Lean does, a little later and beside
the steady rate. At the end the inbox is compared with what was acknowledged. An event's time runs
from when it was due, or due again, to its 200; the last line is one of JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import json
import os
import secrets
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import uvloop

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import harness  # noqa: E402 - the path is set first
from cluster import running  # noqa: E402 - lies beside the tests that need it

from lean_resources.webhooks import sign  # noqa: E402 - as above
from pipelines.webhooks.inbox import Inbox  # noqa: E402 - the path is set first
from pipelines.webhooks.receiver import PATH  # noqa: E402 - as above

SECRET = "whsec_made_up_for_a_benchmark"
CONNECTIONS = 64
RETRY_AFTER = 1.0
RETRIES_PER_SECOND = 500
ANSWER_SECONDS = 10.0
PATIENCE_SECONDS = 300.0
"""For what has to be sent again after the last event was due."""


def request(event_id: str) -> bytes:
    """A signed webhook of usual size, as it goes over the wire."""
    body = json.dumps(
        {
            "type": "entity.data.refresh.updated",
            "payload": {
                "entity_id": event_id,
                "refresh_id": event_id[::-1],
                "customer_id": "5b0f2c1e-2b7b-4f62-8a3b-7a6d1e0c9f88",
                "status": "FINISHED",
                "data_status": {
                    "accounts": "OK",
                    "identity": "OK",
                    "account_data": [
                        {"account_id": event_id, "balance": "OK", "transactions": "OK"},
                        {"account_id": event_id, "balance": "OK", "transactions": "FAILED"},
                    ],
                },
            },
            "message": "An entity data refresh state has been updated.",
            "timestamp": "2026-03-15T07:15:00.000007Z",
            "event_id": event_id,
        }
    ).encode()
    head = (
        f"POST {PATH} HTTP/1.1\r\nhost: receiver\r\ncontent-type: application/json\r\n"
        f"lean-signature: {sign(body, SECRET)}\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Wire(asyncio.Protocol):
    """One connection; it carries one webhook at a time."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.answered: asyncio.Future[int] | None = None
        self._held = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way to the receiver."""
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """Tell whoever waits what the receiver answered."""
        self._held += data
        if b"\r\n\r\n" in self._held and self.answered is not None and not self.answered.done():
            self.answered.set_result(int(self._held[9:12]))
            self._held = b""

    def connection_lost(self, _: Exception | None) -> None:
        """Tell whoever waits that there is no answer."""
        self.transport = None
        if self.answered is not None and not self.answered.done():
            self.answered.set_result(0)


class Load:
    """Sends events at a steady rate and remembers how each ended."""

    def __init__(self, port: int, rate: int, seconds: float) -> None:
        self._port = port
        self._rate = rate
        self._count = int(rate * seconds)
        self._events = collections.deque[tuple[float, str, bytes]]()
        self._has_come = asyncio.Semaphore(0)
        self._is_over = asyncio.Event()
        self._again_at = 0.0
        self.latencies: list[float] = []
        self.refused = 0
        self.acknowledged: list[str] = []

    async def run(self) -> None:
        """Send everything, and send again what was not acknowledged."""
        run_id = secrets.token_hex(4)
        ids = [f"{run_id}-{number:08}" for number in range(self._count)]
        wires = [asyncio.create_task(self._carry()) for _ in range(CONNECTIONS)]
        requests = [request(one) for one in ids]
        print("ready", flush=True)
        began = time.perf_counter()
        for number, (event_id, sent) in enumerate(zip(ids, requests, strict=True)):
            due = began + number / self._rate
            if (left := due - time.perf_counter()) > 0.001:
                await asyncio.sleep(left)
            self._put(due, event_id, sent)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_SECONDS):
                await self._is_over.wait()
        for wire in wires:
            wire.cancel()

    def _put(self, due: float, event_id: str, sent: bytes) -> None:
        self._events.append((due, event_id, sent))
        self._has_come.release()

    async def _carry(self) -> None:
        wire = None
        loop = asyncio.get_running_loop()
        while True:
            await self._has_come.acquire()
            due, event_id, sent = self._events.popleft()
            code = 0
            try:
                if wire is None or wire.transport is None:
                    _, wire = await loop.create_connection(Wire, "127.0.0.1", self._port)
                wire.answered = loop.create_future()
                wire.transport.write(sent)
                async with asyncio.timeout(ANSWER_SECONDS):
                    code = await wire.answered
            except (OSError, TimeoutError):
                wire = None
            if code == 200:
                self.latencies.append(time.perf_counter() - due)
                self.acknowledged.append(event_id)
                if len(self.acknowledged) == self._count:
                    self._is_over.set()
            else:
                self.refused += 1
                self._again(loop, event_id, sent)

    def _again(self, loop: asyncio.AbstractEventLoop, event_id: str, sent: bytes) -> None:
        """Send once more, not before a second, and beside the others at a rate of its own."""
        earliest = loop.time() + RETRY_AFTER
        self._again_at = max(self._again_at + 1 / RETRIES_PER_SECOND, earliest)

        def send() -> None:
            self._put(time.perf_counter(), event_id, sent)

        loop.call_at(self._again_at, send)


def load(port: int, rate: int, seconds: float, told: Path) -> None:
    """The sending process; what it saw is written to a file."""
    work = Load(port, rate, seconds)
    uvloop.run(work.run())
    told.write_text(
        json.dumps(
            {
                "acknowledged": work.acknowledged,
                "latencies": work.latencies,
                "refused": work.refused,
            }
        )
    )


class Receiver:
    """The command under test, killed and started again."""

    def __init__(self, home: Path, inbox_url: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._environment = {
            **os.environ,
            "LEANHOUSE_HOME": str(home),
            "LEAN_WEBHOOK_SECRET": SECRET,
            "LEAN_WEBHOOK_PORT": str(self.port),
            "LEAN_WEBHOOK_INBOX": inbox_url,
        }
        self.outages: list[float] = []
        self.start()

    def start(self) -> None:
        """Start it, and wait until it is ready."""
        began = time.perf_counter()
        self.process = subprocess.Popen(
            [Path(sys.executable).parent / "leanhouse", "webhooks"],
            env=self._environment,
            stdout=subprocess.DEVNULL,
        )
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=5):
                    break
            except OSError:
                if self.process.poll() is not None:
                    raise RuntimeError("the receiver did not start") from None
                time.sleep(0.02)
        self.outages.append(time.perf_counter() - began)

    def kill(self) -> None:
        """End it without notice."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def cpu_seconds(self) -> float:
        """What the process that runs now has used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(database: str, inbox_url: str, args: argparse.Namespace) -> dict[str, Any]:
    """One run against one database."""
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        home = Path(folder)
        url = inbox_url or f"sqlite:///{home / 'inbox.db'}"
        receiver = Receiver(home, url)
        told = home / "told.json"
        sender = subprocess.Popen(
            [
                sys.executable, __file__, "--send", str(receiver.port), "--rate", str(args.rate),
                "--seconds", str(args.seconds), "--told", str(told),
            ],
            stdout=subprocess.PIPE,
        )  # fmt: skip
        assert sender.stdout is not None
        sender.stdout.readline()
        began = time.perf_counter()
        for kill in range(args.kills):
            at = args.seconds * (kill + 1) / (args.kills + 1)
            time.sleep(max(0.0, began + at - time.perf_counter()))
            receiver.kill()
            receiver.start()
        sender.wait()
        seconds = time.perf_counter() - began
        cpu = receiver.cpu_seconds()
        receiver.kill()
        seen = json.loads(told.read_text())
        inbox = Inbox(url, "sandbox")
        stored = [row["event_id"] for row in inbox.rows()]
        inbox.close()
    latencies = sorted(seen["latencies"])
    cuts = statistics.quantiles(latencies, n=1000)
    sent = int(args.rate * args.seconds)
    return {
        "database": database,
        "sent": sent,
        "seconds": round(seconds, 1),
        "acknowledged": len(seen["acknowledged"]),
        "attempts_refused": seen["refused"],
        "stored": len(stored),
        "acknowledged_but_missing": len(set(seen["acknowledged"]) - set(stored)),
        "stored_twice": len(stored) - len(set(stored)),
        "kills": args.kills,
        "restart_seconds": round(statistics.median(receiver.outages), 2),
        "p50_ms": round(cuts[499] * 1000, 2),
        "p99_ms": round(cuts[989] * 1000, 2),
        "p999_ms": round(cuts[998] * 1000, 2),
        "max_ms": round(latencies[-1] * 1000, 2),
        "receiver_cpu_seconds_since_last_start": round(cpu, 1),
        "load_average": round(os.getloadavg()[0], 1),
    }


def table(found: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The figures as the page of performance shows them."""
    yield (
        "| database | events | kills | restart | acknowledged but missing | stored twice | p50"
        " | p99 | p99.9 |"
    )
    yield "|---|---:|---:|---:|---:|---:|---:|---:|---:|"
    for one in found:
        cells = (
            one["database"],
            f"{one['sent']:,}",
            one["kills"],
            f"{one['restart_seconds']:.1f} s",
            one["acknowledged_but_missing"],
            one["stored_twice"],
            *(f"{one[name]:,.0f} ms" for name in ("p50_ms", "p99_ms", "p999_ms")),
        )
        yield f"| {' | '.join(map(str, cells))} |"
    yield ""
    yield f"Load average at the end {found[-1]['load_average']}; {harness.machine()}."


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rate", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--on", nargs="+", default=["sqlite", "postgresql"])
    parser.add_argument("--folder", default=None, help="where inboxes lie; a disk, not memory")
    parser.add_argument("--keep-page", action="store_true", help="do not write docs/performance.md")
    parser.add_argument("--send", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--told", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.send:
        load(args.send, args.rate, args.seconds, args.told)
        return
    found = []
    for database in args.on:
        if database == "sqlite":
            found.append(measure(database, "", args))
        else:
            with running(is_durable=True) as url:
                found.append(measure(database, url, args))
        for name, value in found[-1].items():
            print(f"{name:<40} {value}")
        print()
    if not args.keep_page:
        harness.write("webhooks", table(found))
    is_kept = all(
        one["acknowledged_but_missing"] == 0
        and one["stored_twice"] == 0
        and one["stored"] == one["acknowledged"] == one["sent"]
        for one in found
    )
    print(json.dumps({"benchmark": "webhooks", "is_kept": is_kept, "runs": found}))
    sys.exit(0 if is_kept else 1)


if __name__ == "__main__":
    main()
