"""Routes of bank data: the bank data copy, answered at once or as a later result."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from lean_resources.sandbox import listings
from lean_resources.sandbox.clock import SECOND, stamp
from lean_resources.sandbox.faults import Fault
from lean_resources.sandbox.ids import mix
from lean_resources.sandbox.replies import Refusal, Reply, page_of
from lean_resources.sandbox.routes import Call, Handler, Path, Routes, timestamp
from lean_resources.sandbox.store import Entity, Shared, Store
from lean_resources.sandbox.view import View
from lean_resources.streams import ACCOUNT_STREAMS, PERMISSION_OF, STREAMS

_PADDING = 2
_READY_SECONDS = 20
"""How long a later result takes if webhooks are set up, by the sandbox's clock."""
_SHIFTS = {"repeat": -1, "skip": 1}
_KEYS = {"identity": "identities"}
_STAMP_DIGITS = {"accounts": 3, "balances": 6, "transactions": 3, "identity": 9}


@dataclass(slots=True)
class _Awaited:
    """An answer that becomes available as a result."""

    call: Call
    stream: str
    entity_id: str
    left: int
    since: int
    announced: bool = False


class DataRoutes(Routes):
    """Data of entities and accounts, and later results.

    Args:
        numbers: Numbers that make the ids of results unique.
    """

    def __init__(self, store: Store, numbers: Iterator[int]) -> None:
        super().__init__(store)
        self._numbers = numbers
        self.awaited: OrderedDict[str, _Awaited] = OrderedDict()

    def table(self) -> list[Path]:
        """The endpoints."""
        return [
            *(("GET", STREAMS[name].path, self._data(name)) for name in PERMISSION_OF),
            ("GET", "/data/v2/results/{results_id}", self._get_results),
        ]

    def _data(self, stream: str) -> Handler:
        return lambda call: self._read(call, stream, self._known(call.uuid("entity_id")))

    def _read(self, call: Call, stream: str, entity: Entity) -> Reply:
        number, size = call.number("page", 0, 0, None), call.number("size", 50, 1, 100)
        call.flag("force_refresh")  # accepted, and without effect
        is_async, verbose, insights = map(call.flag, ("async", "verbose", "insights"))
        meta = call.meta()
        shared = self._permitted(call, stream, entity)
        days = self._days_asked(call, entity) if stream == "transactions" else None
        self._must_be_stored(call, stream, entity)
        if is_async:
            self._await(call, stream, entity, 0, 202)
        instant, landed = entity.marks[stream]
        view = View(self.store, entity, instant, shared, verbose=verbose, insights=insights)
        found = listings.listing(view, stream, days)
        start, total = number * size, found.total
        drift = call.fault.kind if call.fault is not None else ""
        start += _SHIFTS.get(drift, 0)
        total += drift == "total-drift"
        landed += 61 * SECOND if drift == "refresh-drift" else 0
        key = _KEYS.get(stream, stream)
        kind = key.replace("_", "-")
        shown = found.between(start, start + size)
        data: dict[str, Any] = {"type": kind, key: shown}
        if stream == "identities":
            data["account_id"] = None
        data["page"] = page_of(number, size, total)
        envelope: dict[str, Any] = {
            "status": "OK",
            "results_id": call.results_id,
            "message": "Data successfully retrieved",
            "meta": meta,
            "timestamp": timestamp(self.clock, call),
            "status_detail": None,
            "data": data,
        }
        if stream not in entity.bank.omits:
            envelope["type"] = kind
            envelope["refreshed_at"] = stamp(landed, _STAMP_DIGITS.get(stream, 3))
        return Reply.json(envelope)

    def _permitted(self, call: Call, stream: str, entity: Entity) -> Shared | None:
        """The requested account; refused if the consent does not cover it."""
        if not entity.is_open(self.clock.nanos):
            raise _consent_expired(entity)
        shared = self._account_asked(call, entity) if stream in ACCOUNT_STREAMS else None
        if PERMISSION_OF[stream] not in entity.consent.permissions:
            raise Refusal(403, "USER_PERMISSIONS_NOT_GRANTED")
        return shared

    def _must_be_stored(self, call: Call, stream: str, entity: Entity) -> None:
        """Refuse data that the store does not hold, because of the bank, Lean or a fault."""
        if entity.bank.identifier in self.store.inactive:
            raise Refusal(200, "DISABLED_BY_LEAN", envelope=True)
        if stream in entity.bank.lacks:
            raise Refusal(200, "UNSUPPORTED_BY_BANK", envelope=True)
        if call.fault is not None:
            self._envelope_fault(call, stream, entity, call.fault)
        if stream not in entity.marks:
            if entity.pending() is not None:
                self._await(call, stream, entity, 0, 200)
            raise Refusal(200, "BANK_ISSUE", envelope=True)

    def _account_asked(self, call: Call, entity: Entity) -> Shared:
        wanted = call.uuid("account_id", path=True)
        for shared in self.store.shared(entity):
            if shared.account_id == wanted:
                return shared
        raise Refusal(404, "UNKNOWN_ACCOUNT")

    def _days_asked(self, call: Call, entity: Entity) -> tuple[int, int] | None:
        today = self.clock.today
        first, last = call.day("start_date", today), call.day("end_date", today)
        if first is None and last is None:
            return None
        granted_from, granted_to = listings.window(entity)
        first = granted_from if first is None else first
        last = min(today, granted_to) if last is None else last
        if first > last:
            raise Refusal.bad_value("end_date", call.query.get("end_date"))
        if first < granted_from - _PADDING or last > granted_to + _PADDING:
            raise Refusal(403, "USER_TRANSACTION_RANGE_NOT_GRANTED")
        return first, last

    def _envelope_fault(self, call: Call, stream: str, entity: Entity, fault: Fault) -> None:
        match fault.kind:
            case "failed":
                raise Refusal(200, fault.value.upper() or "BANK_ISSUE", envelope=True)
            case "consent_expired":
                raise _consent_expired(entity)
            case "reconnect_required":
                raise Refusal(200, "RECONNECT_REQUIRED", envelope=True)
            case "pending" | "pending-202" as kind:
                status = 200 if kind == "pending" else 202
                self._await(call, stream, entity, int(fault.value or 2), status)

    def _await(self, call: Call, stream: str, entity: Entity, polls: int, status: int) -> None:
        """Announce the answer as a later result.

        Raises:
            Refusal: Always; the PENDING envelope is the present answer.
        """
        call.mark = mix(call.mark, next(self._numbers))
        call.query.pop("async", None)
        call.fault = None
        self.awaited[call.results_id] = _Awaited(call, stream, entity.id, polls, self.clock.nanos)
        if len(self.awaited) > 10_000:
            self.awaited.popitem(last=False)
        raise Refusal(
            status, "PENDING", "Please wait for a webhook or try again later.", envelope=True
        )

    def _get_results(self, call: Call) -> Reply:
        awaited = self.awaited.get(call.uuid("results_id", path=True))
        if awaited is None:
            raise Refusal(404, "UNKNOWN_RESULTS_ID")
        entity = self.store.find_entity(awaited.entity_id)
        if entity is None or self._is_gone(entity):
            raise Refusal(404, "UNKNOWN_RESULTS_ID")
        self.store.poll(entity)
        if awaited.left > 0 or awaited.stream not in entity.marks:
            awaited.left -= 1
            raise Refusal(404, "UNKNOWN_RESULTS_ID")
        self._announce(awaited)
        paging = {name: call.query[name] for name in ("page", "size") if name in call.query}
        again = replace(awaited.call, query=awaited.call.query | paging, body=b"", fault=None)
        return self._read(again, awaited.stream, entity)

    def settle(self) -> None:
        """Make results available when they are due, even without a request for them."""
        for awaited in list(self.awaited.values()):
            entity = self.store.find_entity(awaited.entity_id)
            is_due = self.clock.nanos >= awaited.since + _READY_SECONDS * SECOND
            if is_due and entity is not None and awaited.stream in entity.marks:
                awaited.left = 0
                self._announce(awaited)

    def _announce(self, awaited: _Awaited) -> None:
        if not awaited.announced:
            awaited.announced = True
            payload = {"id": awaited.call.results_id}
            self.store.announce("results.ready", payload, "Your results are ready.")


def _consent_expired(entity: Entity) -> Refusal:
    status = entity.bank.expired_status
    return Refusal(status, "CONSENT_EXPIRED", envelope=status == 200)
