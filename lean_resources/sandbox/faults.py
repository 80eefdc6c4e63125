"""Faults, injected into the next requests or at a rate.

A fault is written as its kind and, after a colon, its value:

    401                     the token is refused
    429  429:5              too many requests, with a Retry-After of 1 or 5 seconds
    429-bare                too many requests, without Retry-After
    500                     Lean's own error
    502  503  504           the edge's HTML page
    FAILED:BANK_ISSUE       HTTP 200 that failed, with any granular code
    CONSENT_EXPIRED  CONSENT_EXPIRED:2      the consent ended; from this page on
    RECONNECT_REQUIRED      the customer must connect the bank again
    PENDING  PENDING:3      the answer comes as a result, after 2 or 3 requests for it
    PENDING-202             the same with HTTP 202
    slow:2.5                the answer takes 2.5 seconds of real time
    drip:1                  the answer comes byte by byte, with this many real seconds between
    cut                     the connection ends in the middle of the body
    html                    HTTP 200 with an HTML body
    total-drift             `total_elements` differs on a later page
    refresh-drift           `refreshed_at` differs on a later page
    repeat  skip            a later page repeats a row, or leaves one out
    refresh-failed:transactions,balances    the new refresh fails in these parts
    refresh-stuck           the new refresh never ends
    webhook-lost            an event is never sent, although it is listed
    webhook-twice           an event is sent twice
    webhook-late:10800      an event is first sent this many seconds later, by the sandbox's clock
    webhook-swapped         an event is sent after the next event
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

from lean_resources.sandbox.ids import mix, text_hash

_KINDS = frozenset(
    {
        "401", "429", "429-bare", "500", "502", "503", "504", "failed", "consent_expired",
        "reconnect_required", "pending", "pending-202", "slow", "drip", "cut", "html",
        "total-drift", "refresh-drift", "repeat", "skip", "refresh-failed", "refresh-stuck",
        "webhook-lost", "webhook-twice", "webhook-late", "webhook-swapped",
    }
)  # fmt: skip
_ENVELOPE = frozenset({"failed", "consent_expired", "pending", "pending-202"})
_COUNTED = frozenset({"429", "consent_expired", "pending", "pending-202"})
_LATER = frozenset({"total-drift", "refresh-drift", "repeat", "skip"})
_REFRESH = frozenset({"refresh-failed", "refresh-stuck"})
_ROOM = 65_536


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault."""

    kind: str
    value: str = ""

    @classmethod
    def parse(cls, text: str | Fault) -> Fault:
        """Read a fault from its written form; a `ValueError` for any other text."""
        if isinstance(text, Fault):
            return text
        kind, _, value = text.partition(":")
        kind, value = kind.strip().lower(), value.strip()
        if kind not in _KINDS:
            raise ValueError(f"unknown fault {kind!r}; known are {', '.join(sorted(_KINDS))}")
        if kind in _COUNTED and value and not (value.isascii() and value.isdigit()):
            raise ValueError(f"the value of {kind} must be a whole number, not {value!r}")
        if kind in {"slow", "drip", "webhook-late"}:
            float(value or "1")
        return cls(kind, value)

    def fits(self, label: str, *, page: int) -> bool:
        """Whether it applies to requests or webhooks."""
        of_webhook = label.startswith("WEBHOOK "), self.kind.startswith("webhook-")
        if any(of_webhook):
            return all(of_webhook)
        if self.kind in _REFRESH or (self.kind == "reconnect_required" and "POST" in label):
            return label == "POST /data/v2/refreshes"
        if self.kind in _LATER and page == 0:
            return False
        if self.kind in _ENVELOPE | _LATER | {"reconnect_required"}:
            if "/data/v2/" not in label or "/refreshes" in label or "/results" in label:
                return False
            if self.kind == "consent_expired" and self.value:
                return page >= int(self.value)
        return True


@dataclass(slots=True)
class _Queued:
    match: str
    fault: Fault
    left: int | None
    entity_id: str | None
    account_id: str | None


class Faults:
    """The faults to inject; the seed decides which requests a rate affects."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._queue: list[_Queued] = []
        self._rates: dict[Fault, float] = {}
        self._seen: OrderedDict[int, int] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def rates(self) -> dict[str, float]:
        """Share of requests that each fault affects."""
        return {
            f"{fault.kind}:{fault.value}" if fault.value else fault.kind: share
            for fault, share in self._rates.items()
        }

    @rates.setter
    def rates(self, rates: Mapping[str, float]) -> None:
        self._rates = {Fault.parse(text): float(share) for text, share in rates.items()}

    def add(
        self,
        match: str,
        fault: str | Fault,
        times: int | None = 1,
        *,
        entity_id: str | None = None,
        account_id: str | None = None,
    ) -> None:
        """Inject a fault into the next matching requests, as `Sandbox.fail` says."""
        with self._lock:
            self._queue.append(_Queued(match, Fault.parse(fault), times, entity_id, account_id))

    def clear(self) -> None:
        """Remove all faults."""
        with self._lock:
            self._queue.clear()
            self._rates = {}

    def take(
        self,
        label: str,
        target: str,
        *,
        entity_id: str | None,
        account_id: str | None,
        page: int,
    ) -> Fault | None:
        """The fault for a request, or None.

        `label` is the method and path template, `target` the path and query. With a rate, the
        count of the same earlier requests decides whether a request fails.
        """
        if not self._queue and not self._rates:
            return None
        with self._lock:
            for place, queued in enumerate(self._queue):
                if (
                    queued.match in label
                    and queued.entity_id in (None, entity_id)
                    and queued.account_id in (None, account_id)
                    and queued.fault.fits(label, page=page)
                ):
                    if queued.left is not None:
                        queued.left -= 1
                        if queued.left <= 0:
                            del self._queue[place]
                    return queued.fault
            return self._by_rate(label, target, page=page) if self._rates else None

    def _by_rate(self, label: str, target: str, *, page: int) -> Fault | None:
        key = text_hash(f"{label} {target}")
        count = self._seen.pop(key, 0)
        self._seen[key] = count + 1
        if len(self._seen) > _ROOM:
            self._seen.popitem(last=False)
        draw = mix(self._seed, 91, key, count) / 2**64
        for fault, share in self._rates.items():
            if draw < share:
                return fault if fault.fits(label, page=page) else None
            draw -= share
        return None
