"""Limits of the receiver's connections: their number, their time, and the bytes that they send.

With its fast parser uvicorn has none of these limits: a head may be endless, a silent connection
stays, and at its limit of connections it refuses everybody. Here a new connection is let in, and
the connection that waited longest without a request is cut. It is chosen among those of the same
address first, then among those of the stranger who has most of them.
"""

from __future__ import annotations

import asyncio
import logging
import resource
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

__all__ = ["Connection", "Connections"]

HEAD_BYTES = 32 * 1024
"""Request line and headers; Lean's take less than one kilobyte."""
_MOST = 2048
_MOST_OF_ONE = 256
"""Of an address. A proxy of ours is not limited, because everybody comes through it."""
_KEPT_DESCRIPTORS = 512
"""Left for the inbox, the log, and connections that are accepted before others are cut."""
_ANSWER_SECONDS = 40.0
"""From the end of a head to the end of its answer; the steps between have shorter limits."""
_QUIET = logging.getLogger(f"{__name__}.http")
# Bad requests of strangers are counted. A line for each would fill the disk.
_QUIET.setLevel(logging.ERROR)


class Connections:
    """All open connections.

    Args:
        head_seconds: Longest time for a head to arrive, from its first byte or the connection on.
        body_bytes: The largest body; with its chunk headers twice as much may come.
        is_allowed: Whether an address is on the allow-list, for which room is kept; None without a
            list.
        is_proxied: Whether addresses are those of proxies of ours.
        count: Called with the status code and one word for each connection that is cut.
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
        self._most_of_one = self._most if is_proxied else min(_MOST_OF_ONE, self._most // 4)
        # Strangers never take all the room.
        self._most_of_strangers = self._most if is_allowed is None else self._most * 3 // 4
        self._total = 0
        self._counts: dict[str, int] = {}
        self._waiting: dict[str, dict[Connection, None]] = {}

    def enter(self, connection: Connection) -> bool:
        """Let a connection in, if need be by cutting another; whether there is room for it."""
        address = connection.address
        if self._counts.get(address, 0) >= self._most_of_one and not self._cut_of(address):
            return False
        most = self._most if self._is_allowed(address) else self._most_of_strangers
        if self._total >= most and not self._cut_any(address):
            return False
        self._counts[address] = self._counts.get(address, 0) + 1
        self._total += 1
        return True

    def leave(self, connection: Connection) -> None:
        """Forget a connection that was let in."""
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
        """Cut the connection of an address that waited longest; whether there was any."""
        waiting = self._waiting.get(address)
        if not waiting:
            return False
        oldest = next(iter(waiting))
        oldest.cut(503, "crowded")
        return True

    def _cut_any(self, newcomer: str) -> bool:
        """Cut a waiting stranger; for an address on the allow-list, any waiting connection."""
        strangers = [one for one in self._waiting if not self._is_allowed(one)]
        if not strangers and self._is_allowed(newcomer):
            strangers = list(self._waiting)
        if not strangers:
            return False
        return self._cut_of(max(strangers, key=lambda one: len(self._waiting[one])))


class Connection(HttpToolsProtocol):
    """A connection, within the limits of all.

    Args:
        connections: All open connections.
        given: The arguments that uvicorn gives its protocol.
    """

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
        """Let it in, and begin the time for a head."""
        super().connection_made(transport)
        self.address = self.client[0] if self.client else ""
        self._is_in = self._all.enter(self)
        if not self._is_in:
            self.cut(503, "crowded")
            return
        self._all.waits(self)
        self._within(self._all.head_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._within(None)
        if self._is_in:
            self._is_in = False
            self._all.leave(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse bytes, and count those that the parser keeps."""
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
        """A head is complete: it is answered unless it is too long."""
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
        """A piece of a body, unless the connection was cut."""
        if not self.transport.is_closing():
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The end of a request; the next bytes are the head of another request."""
        self._is_head = True
        if not self.transport.is_closing():
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """An answer is written; its connection waits again, as long as it may be idle."""
        super().on_response_complete()
        if self.cycle.response_complete and self._is_in:
            self._within(None)
            self._all.waits(self)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's signature
        """Refuse what is not HTTP."""
        self.cut(400, "http")

    def cut(self, status_code: int, reason: str) -> None:
        """Answer with the reason and close, without waiting until the answer is read."""
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
        # A client that does not read the answer does not keep the connection either.
        self._within(1.0)

    def _within(self, seconds: float | None) -> None:
        """Cut the connection after so many seconds; None for no limit."""
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
