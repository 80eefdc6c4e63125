"""Webhooks of the offline Lean: signed, delivered, and retried by the sandbox's clock.

A message is delivered if it is answered with 200 within ten seconds. Otherwise it is sent again
1, 2, 5, 10, 60 and 180 minutes after the first attempt, and then no more.
"""

from __future__ import annotations

import heapq
import threading
import time
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import httpx

from lean_resources.sandbox.clock import MINUTE, SECOND, Clock
from lean_resources.sandbox.faults import Faults
from lean_resources.sandbox.money import dump
from lean_resources.webhooks import sign

ATTEMPT_MINUTES = (0, 1, 2, 5, 10, 60, 180)
"""When a message is sent, in minutes after the first attempt."""

_ANSWER_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Attempt:
    """An attempt to deliver a message.

    Its number counts from 0, its time is by the sandbox's clock, in nanoseconds since 1970, and its
    status code is 0 without an answer.
    """

    event_id: str
    type: str
    number: int
    at: int
    status_code: int


@dataclass(slots=True)
class _Message:
    event_id: str
    type: str
    body: bytes
    first_at: int
    number: int = 0


class Webhooks:
    """Delivers events to an address, in a separate thread, as `Sandbox.deliver` says."""

    def __init__(
        self,
        clock: Clock,
        faults: Faults,
        *,
        url: str,
        secret: str,
        app_token: str,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.attempts: list[Attempt] = []
        self._clock = clock
        self._faults = faults
        self._url = url
        self._secret = secret
        self._app_token = app_token
        self._http = httpx.Client(transport=transport, timeout=_ANSWER_SECONDS, trust_env=False)
        self._due: list[tuple[int, int, _Message]] = []
        self._held: list[_Message] = []
        self._numbers = count()
        self._changed = threading.Condition()
        self._is_closed = False
        self._is_sending = False
        self._thread = threading.Thread(target=self._deliver, name="webhooks", daemon=True)
        self._thread.start()

    def announce(self, event: dict[str, Any]) -> None:
        """Send an event now; a fault may send it later, twice, after the next event, or never."""
        message = _Message(event["event_id"], event["type"], dump(event), self._clock.nanos)
        label = f"WEBHOOK {message.type}"
        fault = self._faults.take(label, label, entity_id=None, account_id=None, page=0)
        kind, value = (fault.kind, fault.value) if fault is not None else ("", "")
        with self._changed:
            if kind == "webhook-lost":
                return
            if kind == "webhook-late":
                message.first_at += int(float(value or "60") * SECOND)
            if kind == "webhook-swapped":
                self._held.append(message)
                return
            self._put(message)
            if kind == "webhook-twice":
                self._put(replace(message))
            self._release()

    def wake(self) -> None:
        """Send due messages after the clock has moved."""
        with self._changed:
            self._release()

    def flush(self, seconds: float = 30.0) -> None:
        """Wait until no message is due.

        Raises:
            TimeoutError: A message was still due.
        """
        deadline = time.monotonic() + seconds
        with self._changed:
            while self._is_sending or self._is_due():
                if not self._changed.wait(max(0.0, deadline - time.monotonic())):
                    raise TimeoutError("webhooks are still being sent")

    def close(self) -> None:
        """Stop sending."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._thread.join(_ANSWER_SECONDS + 5)
        self._http.close()

    def _put(self, message: _Message) -> None:
        due = message.first_at + ATTEMPT_MINUTES[message.number] * MINUTE
        heapq.heappush(self._due, (due, next(self._numbers), message))
        self._changed.notify_all()

    def _release(self) -> None:
        """Send the event that waited for the next event."""
        for message in self._held:
            self._put(message)
        self._held.clear()
        self._changed.notify_all()

    def _is_due(self) -> bool:
        return bool(self._due) and self._due[0][0] <= self._clock.nanos

    def _deliver(self) -> None:
        while True:
            with self._changed:
                self._is_sending = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._is_closed or self._is_due())
                if self._is_closed:
                    return
                _, _, message = heapq.heappop(self._due)
                self._is_sending = True
            status_code = self._send(message)
            with self._changed:
                self.attempts.append(
                    Attempt(
                        message.event_id,
                        message.type,
                        message.number,
                        self._clock.nanos,
                        status_code,
                    )
                )
                message.number += 1
                if status_code != 200 and message.number < len(ATTEMPT_MINUTES):
                    self._put(message)

    def _send(self, message: _Message) -> int:
        headers = {
            "content-type": "application/json",
            "lean-signature": sign(message.body, self._secret),
            "lean-app-token": self._app_token,
        }
        try:
            return self._http.post(self._url, content=message.body, headers=headers).status_code
        except httpx.HTTPError:
            return 0
