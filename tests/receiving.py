"""A receiver of webhooks on a loopback port, in a thread."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

from lean_resources.inbox import Inbox
from lean_resources.settings import WebhookSettings
from pipelines.receiver import PATH, server

__all__ = ["SECRET", "Receiving", "receiving"]

SECRET = "whsec_made_up_0001"


@dataclass(frozen=True, slots=True)
class Receiving:
    """A receiver that is being served.

    Args:
        port: On loopback.
        inbox: What it writes to, by connections of its own.
    """

    port: int
    inbox: Inbox

    @property
    def url(self) -> str:
        """Where Lean sends webhooks."""
        return f"http://127.0.0.1:{self.port}{PATH}"


@contextlib.contextmanager
def receiving(
    inbox_url: str, environment: str = "sandbox", **settings: object
) -> Iterator[Receiving]:
    """Serve a receiver while the block runs."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    given = {"secret": SECRET, "port": port} | settings
    inner = server(WebhookSettings(**given), Inbox(inbox_url, environment))
    thread = threading.Thread(target=inner.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 30
    while not inner.started:
        assert thread.is_alive(), "the receiver did not start"
        assert time.monotonic() < deadline, "the receiver did not start in time"
        time.sleep(0.005)
    inbox = Inbox(inbox_url, environment)
    try:
        yield Receiving(port, inbox)
    finally:
        inbox.close()
        inner.should_exit = True
        thread.join(30)
