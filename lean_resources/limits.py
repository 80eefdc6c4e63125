"""Limits: concurrent requests, requests per second, and pauses for failing banks."""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import ClassVar, Literal, Self

import msgspec

from lean_resources.errors import BankPausedError, UnavailableError
from lean_resources.shared import (
    CLOSED_UNTIL,
    ENDS_AT,
    FREE_AT,
    INTERVAL,
    LEFT,
    LIMITED_AT,
    PAUSED_UNTIL,
    Shared,
)

_LONGEST_PAUSE_SECONDS = 60.0
BankState = Literal["closed", "open", "half_open", "paused"]


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, from the `Retry-After` header of an answer.

    Args:
        headers: The answer's headers, by lower-case name. A date is measured from the answer's
            own `Date`, so that a wrong clock of this machine has no effect.

    Returns:
        The seconds, never below zero; None if the header is absent or not readable.
    """
    value = headers.get("retry-after", "").strip()
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", value):
        seconds = float(value)
        return seconds if math.isfinite(seconds) else None
    until = _http_date(value)
    if until is None:
        return None
    answered_at = _http_date(headers.get("date", "")) or datetime.now(UTC)
    return max(0.0, (until - answered_at).total_seconds())


def _http_date(value: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


class Limits:
    """Limits all requests of an event loop: `async with limits: …`.

    In any `t` seconds at most `burst + t * requests_per_second` requests begin. The burst is
    `requests_per_second` rounded down, but at least 1. The rate and pauses are those of all
    processes that share them.

    Args:
        max_concurrency: Maximum number of requests of this process at the same time.
        clock: Monotonic seconds, of the machine where processes share them.
        shared: What processes share; None for a process alone.
        lease: Takes turns from those that other machines share, for so many requests that wait, or
            shares a pause; then the bound is theirs. None where this machine is alone.
    """

    def __init__(
        self,
        max_concurrency: int,
        requests_per_second: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        shared: Shared | None = None,
        lease: Callable[[int], Awaitable[object]] | None = None,
    ) -> None:
        self._slots = asyncio.Semaphore(max_concurrency)
        self._interval_seconds = 1 / requests_per_second
        burst = max(1, math.floor(requests_per_second))
        self._burst_seconds = (burst - 1) * self._interval_seconds
        self._clock = clock
        self._sleep = sleep
        self._shared = shared or Shared()
        self._lease = lease
        self._waiting = 0
        self._telling: asyncio.Future[object] | None = None

    def limited(self, seconds: float, patience: float) -> None:
        """Record that the server limits requests: later requests wait, or fail for a while.

        Args:
            seconds: The wait that the server demands; zero if it does not say.
            patience: Seconds since the first limit after which requests fail instead of waiting.
        """
        numbers = self._shared.numbers
        with self._shared.locked():
            now = self._clock()
            if numbers[LIMITED_AT] == -math.inf:
                numbers[LIMITED_AT] = now
            if now - numbers[LIMITED_AT] + seconds > patience:
                numbers[CLOSED_UNTIL] = now + (seconds or _LONGEST_PAUSE_SECONDS)
            else:
                self._pause(now + min(seconds, _LONGEST_PAUSE_SECONDS))
        if self._lease is not None and (self._telling is None or self._telling.done()):
            self._telling = asyncio.ensure_future(self._lease(0))

    def answered(self) -> None:
        """Record an answer that is not a limit."""
        if self._shared.numbers[LIMITED_AT] != -math.inf:
            with self._shared.locked():
                self._shared.numbers[LIMITED_AT] = -math.inf

    def check(self, stream: str | None) -> None:
        """Check, after waiting for a turn, that a request may still be sent.

        Raises:
            UnavailableError: The server demands a wait that is too long.
        """
        left = self._shared.numbers[CLOSED_UNTIL] - self._clock()
        if left > 0:
            until = datetime.now(UTC) + timedelta(seconds=left)
            raise UnavailableError(
                f"Lean limits this application's requests until {until:%H:%M:%S} UTC",
                code="RATE_LIMIT_EXCEEDED",
                retry_after=left,
                stream=stream,
            )

    @property
    def paused_seconds(self) -> float:
        """Seconds until the pause ends; zero without a pause."""
        return max(0.0, self._paused_until - self._clock())

    async def __aenter__(self) -> Self:
        await self._slots.acquire()
        try:
            await self._wait_for_turn()
        except BaseException:
            self._slots.release()
            raise
        return self

    async def __aexit__(self, *_error: object) -> None:
        self._slots.release()

    @property
    def _paused_until(self) -> float:
        return self._shared.numbers[PAUSED_UNTIL]

    def _pause(self, until: float) -> None:
        self._shared.numbers[PAUSED_UNTIL] = max(self._paused_until, until)

    async def _wait_for_turn(self) -> None:
        waited_until = -math.inf
        while True:
            # A pause is over after one wait, even if the clock does not move.
            while self.paused_seconds and self._paused_until > waited_until:
                waited_until = self._paused_until
                await self._sleep(self.paused_seconds)
            wait = await self._next_turn() - self._clock()
            if wait > 0:
                await asyncio.sleep(wait)
            if not self.paused_seconds or self._paused_until <= waited_until:
                return

    async def _next_turn(self) -> float:
        """When the next request may begin; the turn is taken, also if it is not used."""
        if self._lease is None:
            with self._shared.locked():
                numbers = self._shared.numbers
                turn = max(numbers[FREE_AT], self._clock() - self._burst_seconds)
                numbers[FREE_AT] = turn + self._interval_seconds
            return turn
        self._waiting += 1
        try:
            while (leased := self._leased_turn()) is None:
                await self._lease(self._waiting)
        finally:
            self._waiting -= 1
        return leased

    def _leased_turn(self) -> float | None:
        """The next of the turns that were taken ahead; None if there is none."""
        numbers = self._shared.numbers
        with self._shared.locked():
            turn = leased_turn(self._shared, self._clock())
            if turn is not None:
                numbers[LEFT] -= 1
                numbers[FREE_AT] = turn + numbers[INTERVAL]
        return turn


def leased_turn(shared: Shared, now: float) -> float | None:
    """When the next of the turns that were taken ahead may be used; None if there is none."""
    turn = max(shared.numbers[FREE_AT], now)
    return turn if shared.numbers[LEFT] >= 1 and turn <= shared.numbers[ENDS_AT] else None


class CircuitOpenError(BankPausedError):
    """A bank failed several times in a row and is paused."""

    remedy = "Wait: after the pause requests resume, and the next sync pulls what is missing."
    default_code: ClassVar[str] = "CIRCUIT_OPEN"


class Circuit(msgspec.Struct):
    """State of a bank.

    `retry_at` is the instant of the next probe; None while the circuit is closed.
    """

    failures: int = 0
    retry_at: float | None = None
    is_probing: bool = False
    is_paused: bool = False


CIRCUITS = msgspec.json.Decoder(dict[str, Circuit])


class CircuitBreaker:
    """Stops requests to a bank that keeps failing, and later tests it with a single request.

    A circuit is closed until `failures` in a row open it. It is open for `cooldown_seconds`, then
    half open: a single request is the probe. If the probe succeeds, the circuit closes; if it
    fails, the circuit opens again. A probe without a result after `cooldown_seconds` is lost, and
    the next request is the probe.

    Args:
        shared: What processes share, and so these circuits; None for a process alone.
    """

    def __init__(
        self,
        failures: int = 5,
        cooldown_seconds: float = 900,
        clock: Callable[[], float] = time.monotonic,
        shared: Shared | None = None,
    ) -> None:
        self._failures = failures
        self._cooldown_seconds = cooldown_seconds
        self._clock = clock
        self._shared = shared or Shared()

    def check(self, bank: str) -> None:
        """Check that a request to the bank may begin; it is the probe if the circuit is half open.

        Raises:
            CircuitOpenError: The circuit is open; `retry_after` is the remaining seconds.
            BankPausedError: The bank was paused with `pause`.
        """
        if not self._shared.text:
            return
        with self._changed() as circuits:
            circuit = circuits.get(bank)
            if circuit is None:
                return
            if circuit.is_paused:
                raise BankPausedError(f"bank {bank} is paused until it is announced active")
            if circuit.retry_at is None:
                return
            now = self._clock()
            if now < circuit.retry_at:
                wait = circuit.retry_at - now
                raise CircuitOpenError(
                    f"bank {bank} failed {circuit.failures} times in a row and is paused for "
                    f"{math.ceil(wait)} s",
                    retry_after=wait,
                )
            circuit.is_probing = True
            circuit.retry_at = now + self._cooldown_seconds

    def succeeded(self, bank: str) -> None:
        """Record an answer; any answer counts that is not a failure of the bank itself.

        It closes a half-open circuit. It does not change an open circuit, because it then belongs
        to a request that began earlier.
        """
        if not self._shared.text:
            return
        with self._changed() as circuits:
            circuit = circuits.get(bank)
            if circuit is None or circuit.is_paused:
                return
            if circuit.retry_at is None or self._state(circuit) == "half_open":
                del circuits[bank]

    def failed(self, bank: str) -> None:
        """Record a failure of the bank: an error of the bank, a timeout or maintenance."""
        with self._changed() as circuits:
            circuit = circuits.setdefault(bank, Circuit())
            if circuit.is_paused or self._state(circuit) == "open":
                return
            circuit.failures += 1
            if circuit.retry_at is not None or circuit.failures >= self._failures:
                circuit.retry_at = self._clock() + self._cooldown_seconds
                circuit.is_probing = False

    def renew(self) -> None:
        """Let every bank that is not paused be asked again; its next failure opens the circuit.

        A bank may fail for one stream and answer for the next.
        """
        with self._changed() as circuits:
            for circuit in circuits.values():
                if circuit.retry_at is not None and not circuit.is_paused:
                    circuit.retry_at, circuit.is_probing = None, False
                    circuit.failures = self._failures - 1

    def pause(self, bank: str) -> None:
        """Stop requests to the bank for the life of this breaker, because Lean disabled it."""
        with self._changed() as circuits:
            circuits.setdefault(bank, Circuit()).is_paused = True

    def state(self, bank: str) -> BankState:
        """State of the bank's circuit."""
        with self._changed() as circuits:
            return self._state(circuits.get(bank))

    def _state(self, circuit: Circuit | None) -> BankState:
        if circuit is None:
            return "closed"
        if circuit.is_paused:
            return "paused"
        if circuit.retry_at is None:
            return "closed"
        if circuit.is_probing or self._clock() >= circuit.retry_at:
            return "half_open"
        return "open"

    @contextmanager
    def _changed(self) -> Iterator[dict[str, Circuit]]:
        """The circuits by bank; what the block changes counts for all processes."""
        with self._shared.locked():
            text = self._shared.text
            circuits = CIRCUITS.decode(text) if text else {}
            try:
                yield circuits
            finally:
                self._shared.text = msgspec.json.encode(circuits) if circuits else b""
