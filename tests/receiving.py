"""A receiver of webhooks on a loopback port, in a thread."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from lean_resources.settings import WebhookSettings
from pipelines.webhooks import receiver
from pipelines.webhooks.inbox import Inbox

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
        return f"http://127.0.0.1:{self.port}{receiver.PATH}"


@contextlib.contextmanager
def receiving(
    inbox_url: str, environment: str = "sandbox", **settings: object
) -> Iterator[Receiving]:
    """Serve a receiver while the block runs."""
    given = WebhookSettings(**({"secret": SECRET, "port": 0} | settings))
    inbox = Inbox(inbox_url, environment)
    try:
        with receiver.receiving(given, Inbox(inbox_url, environment)) as port:
            yield Receiving(port, inbox)
    finally:
        inbox.close()
