"""Routes of refreshes, and of the events that they cause."""

from __future__ import annotations

import datetime as dt
from functools import partial
from typing import Any

from lean_resources.sandbox import records
from lean_resources.sandbox.clock import nanos_of
from lean_resources.sandbox.replies import MESSAGES, Refusal, Reply
from lean_resources.sandbox.routes import UUID, Call, Path, Routes, timestamp
from lean_resources.sandbox.store import Store
from lean_resources.streams import PERMISSION_OF, PERMISSIONS


class RefreshRoutes(Routes):
    """Refreshes, and events where they are listed."""

    def __init__(self, store: Store, *, has_events: bool) -> None:
        super().__init__(store)
        self._has_events = has_events

    def table(self) -> list[Path]:
        """The endpoints."""
        return [
            ("POST", "/data/v2/refreshes", self._start_refresh),
            ("GET", "/data/v2/refreshes", self._list_refreshes),
            ("GET", "/data/v2/refreshes/{refresh_id}", self._get_refresh),
            ("GET", "/events/v1", self._list_events),
        ]

    def _start_refresh(self, call: Call) -> Reply:
        body = call.json()
        entity_id = body.get("entity_id")
        if not isinstance(entity_id, str) or UUID.fullmatch(entity_id) is None:
            raise Refusal.bad_value("entity_id", entity_id)
        wanted = body.get("data_types")
        if wanted is not None and (
            not isinstance(wanted, list) or not set(map(str, wanted)) <= set(PERMISSIONS)
        ):
            raise Refusal.bad_value("data_types", wanted)
        entity = self._known(entity_id)
        if not entity.is_open(self.clock.nanos):
            raise Refusal(403, "CONSENT_EXPIRED", has_results_id=False)
        fault = call.fault
        if fault is not None and fault.kind == "reconnect_required":
            return Reply.json(
                {
                    "reconnect_id": call.results_id,
                    "refresh_id": call.results_id,
                    "status": "RECONNECT_REQUIRED",
                    "message": MESSAGES["RECONNECT_REQUIRED"],
                    "timestamp": timestamp(self.clock, call),
                    "metadata": None,
                }
            )
        failed, kept = frozenset[str](), set(PERMISSIONS if wanted is None else wanted)
        if fault is not None and fault.kind == "refresh-failed":
            failed = frozenset(fault.value.replace(" ", "").split(","))
        left_out = frozenset(name for name, by in PERMISSION_OF.items() if by not in kept)
        is_stuck = fault is not None and fault.kind == "refresh-stuck"
        refresh = self.store.start_refresh(entity, failed, left_out, is_stuck=is_stuck)
        if refresh is None:
            raise Refusal(429, "DUPLICATED_REQUEST", has_results_id=False)
        return Reply.json(
            {
                "refresh_id": self.store.refresh_id(entity, refresh),
                "status": "OK",
                "message": "Data refresh triggered successfully",
                "timestamp": timestamp(self.clock, call),
            }
        )

    def _list_refreshes(self, call: Call) -> Reply:
        entity = self._known(call.uuid("entity_id"))
        self.store.poll(entity)
        write = partial(records.refresh_record, self.store, entity, detail=False)
        return self._listed(call, entity.refreshes[::-1], write, key="content", size=50)

    def _get_refresh(self, call: Call) -> Reply:
        found = self.store.find_refresh(call.uuid("refresh_id", path=True))
        if found is None or self._is_gone(found[0]):
            raise Refusal(404, "UNKNOWN_REFRESH")
        entity, refresh = found
        if refresh.finished is None:
            self.store.poll(entity)
        return Reply.json(records.refresh_record(self.store, entity, refresh, detail=True))

    def _list_events(self, call: Call) -> Reply:
        if not self._has_events:
            raise Refusal(404, "INVALID_URL")
        since, until = call.instant("from"), call.instant("to")
        kind = call.query.get("type")
        found = [
            event
            for event in list(self.store.events)
            if (kind is None or event["type"] == kind)
            and (since is None or _event_instant(event) >= since)
            and (until is None or _event_instant(event) <= until)
        ]
        return self._listed(call, found, dict)


def _event_instant(event: dict[str, Any]) -> int:
    return nanos_of(dt.datetime.fromisoformat(event["timestamp"]))
