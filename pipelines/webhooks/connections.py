"""Limits of the receiver's connections: how many, how long, and how many bytes they may send.

uvicorn with its fast parser has no such limits: a head may be endless, a silent connection stays,
and at its limit of connections uvicorn refuses all new ones. Here a new connection is accepted, and
the connection that waited longest without a request is closed. The choice begins with connections
from the same address, then goes to the unlisted address that has the most connections.
"""

from __future__ import annotations

import asyncio
import logging
import resource
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_BYTES = 32 * 1024
"""Request line and headers; Lean's take less than one kilobyte."""
_MOST = 2048
_MOST_PER_ADDRESS = 256
"""Our own proxy has no such limit, because all requests come through it."""
_KEPT_DESCRIPTORS = 512
"""Kept for the inbox, the log, and new connections that are accepted before a cut."""
_ANSWER_SECONDS = 40.0
"""From the end of a head to the end of its answer; the steps between have shorter limits."""
_QUIET = logging.getLogger(f"{__name__}.http")
# Bad requests are counted. A log line for each would fill the disk.
_QUIET.setLevel(logging.ERROR)


class Connections:
    """All open connections.

    Args:
        head_seconds: Longest time for a head to arrive, from the connection or its first byte.
        body_bytes: The largest body; together with chunk headers it may be twice as long.
        is_allowed: Says if an address is on the allow-list; room is kept for these. None if there
            is no list.
        is_proxied: Whether all addresses are those of our own proxies.
        count: Called with the status code and a one-word reason for each connection that is cut.
    """

    def __init__(
        self,
        head_seconds: float,
        body_bytes: int,
        *,
        is_allowed: Callable[[str], bool] | None,
        is_proxied: bool,
        count: Callable[[int, str], None],
    ) -> None:
        self.head_seconds = head_seconds
        self.body_bytes = body_bytes
        self.count = count
        self._is_allowed = is_allowed or (lambda _: False)
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        free = _MOST if soft == resource.RLIM_INFINITY else soft - _KEPT_DESCRIPTORS
        self._most = max(64, min(_MOST, free))
        self._most_per_address = (
            self._most if is_proxied else min(_MOST_PER_ADDRESS, self._most // 4)
        )
        # Addresses that are not on the allow-list never take all connections.
        self._most_of_strangers = self._most if is_allowed is None else self._most * 3 // 4
        self._total = 0
        self._counts: dict[str, int] = {}
        self._waiting: dict[str, dict[Connection, None]] = {}

    def enter(self, connection: Connection) -> bool:
        """Accept a connection, if necessary by cutting an older connection; False if full."""
        address = connection.address
        if self._counts.get(address, 0) >= self._most_per_address and not self._cut_of(address):
            return False
        most = self._most if self._is_allowed(address) else self._most_of_strangers
        if self._total >= most and not self._cut_any(address):
            return False
        self._counts[address] = self._counts.get(address, 0) + 1
        self._total += 1
        return True

    def leave(self, connection: Connection) -> None:
        """Forget an accepted connection."""
        self.works(connection)
        self._total -= 1
        left = self._counts[connection.address] - 1
        if left:
            self._counts[connection.address] = left
        else:
            del self._counts[connection.address]

    def waits(self, connection: Connection) -> None:
        """Note that a connection has no complete head."""
        self._waiting.setdefault(connection.address, {})[connection] = None

    def works(self, connection: Connection) -> None:
        """Note that a request of a connection is being answered."""
        waiting = self._waiting.get(connection.address, {})
        waiting.pop(connection, None)
        if not waiting:
            self._waiting.pop(connection.address, None)

    def _cut_of(self, address: str) -> bool:
        """Cut the connection of an address that waited longest; False if none waits."""
        waiting = self._waiting.get(address)
        if not waiting:
            return False
        oldest = next(iter(waiting))
        oldest.cut(503, "crowded")
        return True

    def _cut_any(self, newcomer: str) -> bool:
        """Cut a waiting unlisted connection; to admit a listed address, any waiting connection."""
        strangers = [address for address in self._waiting if not self._is_allowed(address)]
        if not strangers and self._is_allowed(newcomer):
            strangers = list(self._waiting)
        if not strangers:
            return False
        return self._cut_of(max(strangers, key=lambda address: len(self._waiting[address])))


class Connection(HttpToolsProtocol):
    """A connection that keeps the limits of all connections."""

    def __init__(self, connections: Connections, **given: Any) -> None:
        super().__init__(**given)
        self.logger = _QUIET
        self.address = ""
        self._all = connections
        self._is_in = False
        self._timer: asyncio.TimerHandle | None = None
        self._is_head = True
        self._begun = 0
        self._head_bytes = 0
        self._body_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept the connection, and start the time limit for its head."""
        super().connection_made(transport)
        self.address = self.client[0] if self.client else ""
        self._is_in = self._all.enter(self)
        if not self._is_in:
            self.cut(503, "crowded")
            return
        self._all.waits(self)
        self._within(self._all.head_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._within(None)
        if self._is_in:
            self._is_in = False
            self._all.leave(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse bytes, and count the bytes that the parser keeps."""
        if self.transport.is_closing():
            return
        is_between, self._begun = self._is_head, 0
        if self._timer is None:
            self._within(self._all.head_seconds)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if not self._is_head:
            self._body_bytes += len(data)
            if self._body_bytes > 2 * self._all.body_bytes + HEAD_BYTES:
                self.cut(413, "size")
        elif is_between and self._begun <= 1:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES:
                self.cut(431, "head")

    def on_message_begin(self) -> None:
        """A head begins."""
        super().on_message_begin()
        self._begun += 1
        self._is_head = True
        self._head_bytes = self._body_bytes = 0

    def on_headers_complete(self) -> None:
        """A head is complete: answer it unless it is too long."""
        self._is_head = False
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > HEAD_BYTES:
            self.cut(431, "head")
        if self.transport.is_closing():
            return
        self._all.works(self)
        self._within(_ANSWER_SECONDS)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Pass on a piece of a body, unless the connection was cut."""
        if not self.transport.is_closing():
            super().on_body(body)

    def on_message_complete(self) -> None:
        """A request ended; the next bytes begin a new head."""
        self._is_head = True
        if not self.transport.is_closing():
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """An answer is written; its connection waits for a new head, within uvicorn's idle time."""
        super().on_response_complete()
        if self.cycle.response_complete and self._is_in:
            self._within(None)
            self._all.waits(self)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's signature
        """Refuse bytes that are not HTTP."""
        self.cut(400, "http")

    def cut(self, status_code: int, reason: str) -> None:
        """Send the status code and close, without waiting until the client reads it."""
        if self.transport.is_closing():
            return
        self._all.count(status_code, reason)
        is_answering = self.cycle is not None and not self.cycle.response_complete
        if not is_answering:
            line = (
                f"HTTP/1.1 {status_code} Refused\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
            )
            self.transport.write(line.encode())
        if self._is_in:
            self._is_in = False
            self._all.leave(self)
        self.transport.close()
        # Ends the connection even if the client never reads the answer.
        self._within(1.0)

    def _within(self, seconds: float | None) -> None:
        """Cut the connection after this many seconds; None removes the limit."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        if seconds is not None:
            self._timer = self.loop.call_later(seconds, self._end)

    def _end(self) -> None:
        self._timer = None
        if self.transport.is_closing():
            self.transport.abort()
        else:
            self.cut(408, "slow_head" if self._is_head else "slow")
